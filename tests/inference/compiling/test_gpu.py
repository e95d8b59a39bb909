"""What only a GPU can show: the same results there, from CUDA graphs and from data that stay on the host."""

import logging
import sys

import pytest
import torch
from support.small_pairs import Busy

import ppvae
from ppvae.inference.compiling import programs
from ppvae.inference.training import feeding
from ppvae.inference.training.steps import Steps
from ppvae.inference.training.trainer import Trainer
from ppvae.models import LinearVAE

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
X = torch.randn(210, 4, generator=torch.Generator().manual_seed(0))


def trained(**settings):
    """A pair with batch norms and dropout, after four epochs of ten batches of 20 and one of 10."""
    torch.manual_seed(1)
    pair = Busy()
    settings = {"epochs": 4, "batch_size": 20, "progress": False, "device": "cuda"} | settings
    return ppvae.fit(pair, X, ppvae.ELBO(beta=ppvae.LinearWarmup(8)), **settings)


def assert_same(one, other, **tolerance):
    for (name, t), same in zip(one.pair.state_dict().items(), other.pair.state_dict().values(), strict=True):
        torch.testing.assert_close(t, same, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def test_a_cuda_graph_takes_the_same_steps(caplog):
    with caplog.at_level(logging.WARNING):
        eager, compiled = (trained(compile=compile) for compile in (False, True))
    assert not caplog.records, caplog.text
    assert_same(eager, compiled, rtol=1e-3, atol=1e-4)


def test_a_program_that_cannot_be_recorded_is_run_all_the_same(caplog, monkeypatch):
    def refused(*args):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(programs, "captured", refused)
    with caplog.at_level(logging.WARNING):
        compiled = trained(compile=True)
    assert "not as a CUDA graph: operation not permitted" in caplog.text
    assert_same(trained(compile=False), compiled, rtol=1e-3, atol=1e-4)


def test_recorded_steps_are_the_eager_ones_in_a_cuda_graph(caplog, monkeypatch):
    monkeypatch.setattr(sys.modules["ppvae.inference.training.fitting"], "RECORD_AFTER", 3)
    with caplog.at_level(logging.WARNING):
        eager, recorded = (trained(compile=compile) for compile in (False, "auto"))
    assert not caplog.records, caplog.text
    assert_same(eager, recorded, rtol=1e-4, atol=1e-5)


def test_the_host_waits_for_no_step_of_a_stretch(monkeypatch):
    launch, launched = Trainer.launch_step, []

    def launch_step(self, *args):
        launched.append(self.steps)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return launch(self, *args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Trainer, "launch_step", launch_step)
    found = trained(compile=True)
    assert launched
    monkeypatch.setattr(Steps, "_room", lambda self, most: 0)
    assert_same(trained(compile=True), found, rtol=0, atol=0)


def test_a_step_that_is_not_finite_is_not_applied():
    def objective(pair, batch, step=None):
        value, surrogate = ppvae.ELBO()(pair, batch)
        return value, surrogate * torch.where(torch.as_tensor(step) == 26, torch.nan, 1.0).to(value.device)

    pairs = []
    for compile in (False, True):
        pairs.append(Busy())
        torch.manual_seed(1)
        with pytest.raises(ppvae.NonFiniteError) as caught:
            ppvae.fit(pairs[-1], X, objective, epochs=4, batch_size=20, progress=False, device="cuda", compile=compile)
        assert caught.value.fit.steps == 26
        assert all(p.isfinite().all() for p in pairs[-1].parameters())


@pytest.mark.parametrize("compile", [False, True])
def test_data_on_the_host_make_the_same_training_bit_for_bit(compile, monkeypatch):
    here = trained(compile=compile)
    monkeypatch.setattr(feeding, "ROOM", 0.0)
    assert_same(here, trained(compile=compile), rtol=0, atol=0)


def test_resuming_is_bit_for_bit(tmp_path):
    trained(epochs=2, checkpoint=tmp_path / "run", compile=True)
    resumed = trained(checkpoint=tmp_path / "run", resume=True, compile=True)
    assert_same(trained(compile=True), resumed, rtol=0, atol=0)


def test_measurements_are_those_of_closed_form():
    torch.manual_seed(0)
    pair, x = LinearVAE(num_features=4, num_latents=2).double(), X[:20].double()
    log_evidence, elbo = pair.marginal().log_prob(x).detach(), pair.exact_elbo(x).detach()
    pair.cuda()
    found = ppvae.log_evidence(pair, x, "iwae", num_particles=2000, progress=False)
    assert ((found.estimate - log_evidence).abs() < 5 * found.std_error).all()
    report = ppvae.gap(pair, x, progress=False)
    assert ((report.log_evidence.estimate - log_evidence).abs() < 5 * report.log_evidence.std_error + 1e-9).all()
    assert ((report.elbo.estimate - elbo).abs() < 5 * report.elbo.std_error).all()
