"""Steps of two players at once: interrupted runs go on bit for bit, and a compiled step is the eager one."""

import pytest
import torch
from torch import nn

import ppvae
from ppvae import AdversarialLoss, FactorVAE, FeatureELBO, ParameterGroups
from ppvae.models import GAN, VAE, VAEGAN, LatentCritic
from ppvae.networks import mlp

pytestmark = pytest.mark.usefixtures("float64")


def vae():
    return VAE.mlp(3, 2, [4], "gaussian")


PAIRS = {
    "GAN": (lambda: GAN.mlp(3, 2, [4], spectral=True), AdversarialLoss(kind="wasserstein", penalty=10.0), "critic"),
    "VAE/GAN": (
        lambda: VAEGAN(vae(), nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 1)),
        FeatureELBO(2),
        "critic",
    ),
    "FactorVAE": (lambda: LatentCritic(vae(), mlp(2, [4], 1)), FactorVAE(2), "latent_critic"),
}


def after(name, x, folder, *stops, compiled=False):
    """The parameters after a run that is interrupted at all these epochs but the last."""
    make, objective, critic = PAIRS[name]
    torch.manual_seed(0)
    pair = make()
    groups = ParameterGroups({critic: 3.0}, "adamw", {"weight_decay": 0.01})
    settings = dict(batch_size=20, optimizer=groups, lr=1e-3, progress=False, compile=compiled, resume=True)
    for epochs in stops:
        ppvae.fit(pair, x, objective, epochs=epochs, checkpoint=folder / f"{compiled}{stops}", **settings)
    return [p.clone() for p in pair.parameters()]


@pytest.mark.parametrize("name", PAIRS)
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, name):
    x = torch.randn(60, 3)
    whole, resumed = after(name, x, tmp_path, 4), after(name, x, tmp_path, 2, 4)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


@pytest.mark.slow(30)
@pytest.mark.parametrize("name", PAIRS)
def test_a_compiled_run_is_the_eager_one_and_goes_on_bit_for_bit(tmp_path, caplog, name):
    x = torch.randn(60, 3)
    eager = after(name, x, tmp_path, 4)
    whole, resumed = (after(name, x, tmp_path, *stops, compiled=True) for stops in ([4], [2, 4]))
    assert [record.getMessage() for record in caplog.records if record.name == "ppvae"] == []
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    for a, b in zip(eager, whole, strict=True):
        torch.testing.assert_close(a, b)
