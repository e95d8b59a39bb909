"""Every pair of the library is the same after a pickle or a deep copy, before it is trained and afterwards."""

import copy
import pickle

import pyro.distributions as dist
import pytest
import torch
from support.slow import some_slow
from support.zoo import ZOO
from torch import nn

import ppvae
from ppvae.models import (
    VAE,
    Autoencoder,
    ConvolutionalHVAE,
    DenoisingAutoencoder,
    DiffusionVAE,
    Flow,
    Gaussian,
    MarkovHVAE,
    MLPDenoiser,
    StandardNormal,
)
from ppvae.models.diffusion.noise_schedules import NOISE_SCHEDULES
from ppvae.models.hierarchies.hierarchical_posteriors import HIERARCHICAL_POSTERIORS
from ppvae.models.named_likelihoods import LIKELIHOODS
from ppvae.models.parts.posteriors import POSTERIOR_FAMILIES
from ppvae.models.parts.priors import PRIORS


def halved(x):
    return x / 2


def denoising():
    return DenoisingAutoencoder(nn.Linear(4, 2), Gaussian(nn.Linear(2, 4)), halved)


def spline_flow():
    return Flow(StandardNormal(4), [dist.transforms.spline_coupling(4)])


def autoregressive_flow():
    return Flow(StandardNormal(4), [dist.transforms.affine_autoregressive(4), dist.transforms.permute(4)])


PAIRS = {
    **{f"prior {name}": lambda name=name: VAE.mlp(4, 2, [5], prior=name) for name in PRIORS},
    **{f"likelihood {name}": lambda name=name: VAE.mlp(4, 2, [5], name, levels=2) for name in LIKELIHOODS},
    **{f"posterior {name}": lambda name=name: VAE.mlp(4, 2, [5], posterior=name) for name in POSTERIOR_FAMILIES},
    **{
        f"hierarchy {name}": lambda name=name: MarkovHVAE.mlp(4, [3, 2], [5], posterior=name, batch_norm=True)
        for name in HIERARCHICAL_POSTERIORS
    },
    **{
        f"schedule {name}": lambda name=name: DiffusionVAE(MLPDenoiser(4, [5]), [4], 3, schedule=name)
        for name in NOISE_SCHEDULES
    },
    "Vamp of a flow": lambda: VAE.convolutional((1, 4, 4), 2, [3], posterior="iaf", prior="vamp"),
    "spectral norms": lambda: ConvolutionalHVAE((1, 4, 4), [1], 1, 2, 1, spectral_weight=0.1, recompute=True),
    "autoencoder": lambda: Autoencoder(nn.Linear(4, 2), Gaussian(nn.Linear(2, 4))),
    "denoising autoencoder": denoising,
    "spline flow": spline_flow,
    "autoregressive flow": autoregressive_flow,
}
OF_THE_ZOO = {name for name, member in ZOO.items() if type(member.make()[0]).__module__.startswith("ppvae.models")}


def made(name):
    """A pair, and a batch for it."""
    if name not in PAIRS:
        return ZOO[name].make()
    pair = PAIRS[name]()
    shape = (4,) if pair.example is None else pair.example.shape[1:]
    return pair, torch.rand(8, *shape).round()


def log_weights(pair, x):
    torch.manual_seed(1)
    with torch.no_grad():
        return pair.eval().log_weights(x, num_particles=3).log_w


@pytest.mark.parametrize(
    "name", some_slow([*PAIRS, *sorted(OF_THE_ZOO)], 1.5, lambda name: name.startswith(("prior", "likelihood")))
)
def test_a_copy_has_the_same_log_weights_and_goes_its_own_way(name):
    torch.manual_seed(0)
    pair, x = made(name)
    for trained in (False, True):
        if trained:
            ppvae.fit(pair, x, ppvae.ELBO(num_particles=2), steps=1, lr=0.1, compile=False, progress=False)
        copies = [pickle.loads(pickle.dumps(pair)), copy.deepcopy(pair)]
        before = log_weights(pair, x)
        assert all(torch.equal(log_weights(own, x), before) for own in copies)
    for own in copies:
        for p in own.parameters():
            p.data.add_(0.1)
        assert not torch.equal(log_weights(own, x), before)
    assert torch.equal(log_weights(pair, x), before)
