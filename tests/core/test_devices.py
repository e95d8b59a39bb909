"""Devices that are not here, or hold no numbers, are refused before anything changes."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae.batches import call, map_batch
from ppvae.models import VAE, GaussianMixture

X = torch.rand(20, 6).round()
quiet = {"progress": False}
TAKERS = {
    "fit": lambda pair, device: ppvae.fit(pair, X, steps=1, device=device, **quiet),
    "compiled_fit": lambda pair, device: ppvae.fit(pair, X, steps=1, device=device, compile=True, **quiet),
    "trainer": lambda pair, device: ppvae.Trainer(pair, device=device),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("device", ["meta", torch.device("meta"), "cuda:63", "nonsense", 7.5])
def test_a_device_that_cannot_be_trained_on(taker, device):
    pair = VAE.mlp(6, 2, [8])
    before = {name: (t, t.clone()) for name, t in pair.state_dict(keep_vars=True).items()}
    with pytest.raises(ValueError, match=r"device: found .*, expected one of \['cpu'"):
        TAKERS[taker](pair, device)
    for name, t in pair.state_dict(keep_vars=True).items():
        same, value = before[name]
        assert t is same
        assert torch.equal(t, value)


MEASURES = {
    "elbo": lambda pair: ppvae.elbo(pair, X, 3, **quiet),
    "log_evidence": lambda pair: ppvae.log_evidence(pair, X, **quiet),
    "gap": lambda pair: ppvae.gap(pair, X, "quick", **quiet),
    "elbo_terms": lambda pair: ppvae.elbo_terms(pair, X, 3, **quiet),
    "to_arviz": lambda pair: ppvae.to_arviz(pair, X, num_samples=2, **quiet),
    "gradients": lambda pair: ppvae.gradient_statistics(pair, X, [ppvae.ELBO()], [2], **quiet),
    "log_weights": lambda pair: pair.log_weights(X),
    "encode": lambda pair: pair.encode(X),
    "sample": lambda pair: pair.sample(X),
    "check": lambda pair: pair.check(X),
    "fit": lambda pair: ppvae.fit(pair, X, steps=1, **quiet),
    "fit_back_on_the_cpu": lambda pair: ppvae.fit(pair, X, steps=1, device="cpu", **quiet),
}


@pytest.mark.parametrize("measure", MEASURES)
def test_a_pair_without_numbers(measure):
    pair = VAE.mlp(6, 2, [8])
    pair.posterior.to("meta")
    with pytest.raises(ValueError, match=r"pair: found 'posterior\..*' on the device 'meta'"):
        MEASURES[measure](pair)


@pytest.mark.parametrize("taker", ["elbo", "gap", "fit"])
def test_a_lazy_pair_is_checked_first(taker):
    def lazy():
        pair = VAE.mlp(6, 2, [8])
        pair.posterior.network[0] = nn.LazyLinear(8)
        return pair

    with pytest.raises(
        ValueError, match=r"pair: found 'posterior\.network\.0\.weight' of a lazy module .*pair\.check\(data\)"
    ):
        MEASURES[taker](lazy())
    pair = lazy()
    pair.check(X)
    MEASURES[taker](pair)


def test_mixtures_without_numbers():
    for fit in (ppvae.fit_em, ppvae.fit_streaming_em):
        with pytest.raises(ValueError, match="on the device 'meta'"):
            fit(GaussianMixture(2, 6).to("meta"), X)


def test_a_buffer_without_numbers():
    pair = VAE.mlp(6, 2, [8])
    pair.register_buffer("constant", torch.zeros(3, device="meta"))
    with pytest.raises(ValueError, match="pair: found 'constant' on the device 'meta'"):
        ppvae.elbo(pair, X, 3, **quiet)


def test_data_without_numbers():
    with pytest.raises(ValueError, match=r"data\[0\]: found a tensor on the device 'meta'"):
        ppvae.elbo(VAE.mlp(6, 2, [8]), X.to("meta"), 3, **quiet)


class Plain(ppvae.Pair):
    """As the README writes a pair: `torch.zeros(8)`, whatever the device."""

    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(8, 6), nn.Linear(6, 8)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(8), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), torch.ones(8)).to_event(1))


def test_a_function_makes_its_tensors_where_its_batch_is():
    for batch in (X, (1.0, X), {"x": X}):
        placed = map_batch(lambda t: t.to("meta"), batch)
        assert call(lambda *args, **kwargs: torch.zeros(8), placed).is_meta
        assert not call(lambda *args, **kwargs: torch.zeros(8), batch).is_meta
    assert not torch.zeros(8).is_meta


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("layout", ["leading", "rows"])
def test_a_plain_pair_on_a_gpu(compile, layout):
    pair = Plain()
    pair.particles = layout
    ppvae.fit(pair, X, steps=3, device="cuda", compile=compile, **quiet)
    assert next(pair.parameters()).is_cuda
    found = ppvae.gap(pair, X, "quick", **quiet)
    on_cpu = ppvae.gap(pair.cpu(), X, "quick", **quiet)
    for name in ("elbo", "log_evidence"):
        one, other = found.lines()[name], on_cpu.lines()[name]
        joint = (one.std_error.square() + other.std_error.square()).sqrt()
        assert ((one.estimate - other.estimate).abs() < 6 * joint).all()
