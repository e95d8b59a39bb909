"""The refitted guide: what is trained, what is not, and that nothing of it is left afterwards."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.zoo import ZOO
from support.zoo_pairs import TiedWeights
from torch import nn

import ppvae
from ppvae import Pair
from ppvae.inference.ledger.refit import guide_parameters, is_rising, refitted
from ppvae.models import VAE, LinearVAE

UNDEFINED = "undefined: the guide has no parameters of its own"
OWN = {
    "mixture": (),
    "amortized mixture": ("encoder.",),
    "linear": ("encoder.", "posterior_scale"),
    "linear, full": ("encoder.", "posterior_scale", "posterior_tril"),
    "linear, exact": (),
    "bernoulli": ("posterior.",),
    "full posterior": ("posterior.",),
    "mixture posterior": ("posterior.",),
    "flow posterior, learned mixture prior": ("posterior.",),
    "autoregressive posterior, flow prior": ("posterior.",),
    "VampPrior": (),
    "convolutional": ("posterior.",),
    "hierarchy": ("posterior.",),
    "convolutional hierarchy": (
        *("stem.", "encoder."),
        *(f"groups.{i}.{network}." for i in (0, 1) for network in ("query", "posterior_head")),
    ),
    "bottom-up": ("to_z1.", "to_z2."),
    "tied weights": (),
    "labeled": ("encoder.", "posterior_scale"),
    "unsteady": ("encoder.", "posterior_scale"),
    "tied by summation": ("encoder.",),
    "discrete above continuous": ("classifier.", "encoder.", "offsets"),
    "one-hot": ("encoder.",),
    "counts": ("encoder.",),
    "pyro functions": ("slope",),
    "pyro tutorial": ("module0.encoder.",),
    "summed": (),
    "no latents": (),
}
"""How the names of the guide's own parameters begin, written by hand; the labels' shift is the model's too."""


class PartlyTied(TiedWeights):
    """Tied weights, and a shift of the guide's own."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.full((2,), 3.0))

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.weight.T / 2 + self.shift, self.log_scale.exp()).to_event(1))


def refit(pair, train, steps=300, seed=0):
    return refitted(pair, train, steps, None, seed, progress=False)


def everything(pair):
    """State, what is learned, gradients, and each submodule's mode."""
    return (
        {name: t.clone() for name, t in pair.state_dict().items()},
        {name: (p.requires_grad, p.grad is None) for name, p in pair.named_parameters()},
        {name: module.training for name, module in pair.named_modules()},
    )


def assert_same(found, expected):
    assert found[0].keys() == expected[0].keys()
    assert all(torch.equal(found[0][name], t) for name, t in expected[0].items())
    assert found[1:] == expected[1:]


def changed(pair, before):
    return {name for name, t in pair.state_dict().items() if not torch.equal(t, before[0][name])}


def offset_linear():
    """A linear VAE whose guide is off, and data from it."""
    pair = LinearVAE(4, 2).fit_guide()
    with torch.no_grad():
        pair.encoder.bias.add_(1.0)
    return pair, pair.sample(200)


@pytest.mark.parametrize("name", OWN)
def test_the_guides_own_parameters_are_found(name):
    pair, batch = ZOO[name].make()
    before = everything(pair)
    own = guide_parameters(pair, batch)
    expected = {each for each, _ in pair.named_parameters() if OWN[name] and each.startswith(OWN[name])}
    assert {each for each, p in pair.named_parameters() if any(p is q for q in own)} == expected
    assert_same(everything(pair), before)


def test_what_is_not_learned_is_not_found():
    pair, x = offset_linear()
    pair.encoder.bias.requires_grad_(False)
    assert {tuple(p.shape) for p in guide_parameters(pair, x)} == {(2, 4), (2,)}
    with refit(pair, x, steps=3):
        assert not pair.encoder.bias.requires_grad
    assert not pair.encoder.bias.requires_grad
    assert pair.weight.requires_grad


def test_inside_the_guide_is_better_and_the_model_as_it_was():
    pair, x = offset_linear()
    before, elbo, log_p = everything(pair), pair.exact_elbo(x).mean().item(), pair.log_prob(x).detach()
    with refit(pair, x, steps=600):
        assert changed(pair, before) == {"encoder.weight", "encoder.bias", "posterior_scale"}
        closed = (pair.exact_elbo(x).mean().item() - elbo) / (log_p.mean().item() - pair.factorized_gap().item() - elbo)
        assert 0.9 < closed < 1  # of what the best guide of the family gains
    assert_same(everything(pair), before)


@pytest.mark.parametrize("name", ["unsteady", "discrete above continuous", "pyro functions"])
def test_other_pairs_guides_are_refitted_too(name):
    """With buffers, with discrete sites, and of Pyro's functions."""
    pair, batch = ZOO[name].make()
    own = guide_parameters(pair, batch)
    before = everything(pair)
    start = ppvae.elbo(pair, batch, 500, seed=0, progress=False).mean()
    with refit(pair, batch, steps=300):
        end = ppvae.elbo(pair, batch, 500, seed=0, progress=False).mean()
        assert end.estimate - start.estimate > 4 * (end.monte_carlo_error**2 + start.monte_carlo_error**2) ** 0.5
        moved = changed(pair, before) - {each for each, _ in pair.named_buffers()}
        assert moved == {each for each, p in pair.named_parameters() if any(p is q for q in own)}
    assert_same(everything(pair), before)


def test_shared_parameters_stay():
    pair = PartlyTied()
    x = pair.sample_joint(64)["x"] if pair.example is not None else torch.randn(64, 3)
    before = everything(pair)
    with refit(pair, x, steps=50):
        assert changed(pair, before) == {"shift"}
        assert (pair.shift < 3).all()
    assert_same(everything(pair), before)


def test_a_decoders_running_statistics_are_the_models():
    """Batch normalization in the decoder moves with each batch in training: inside, too, the model is as it was."""
    pair = VAE.mlp(4, 2, [5], "gaussian")
    decoder = nn.Sequential(nn.Linear(2, 4), Leading(4), Leading(4, affine=False))
    pair.likelihood = Around(decoder)
    pair.example = torch.zeros(1, 4)
    pair.eval()
    z, x = torch.randn(3, 2), torch.randn(64, 4)
    mean = pair.likelihood(z).mean
    before = everything(pair)
    with refit(pair, x, steps=20):
        pair.eval()
        assert torch.equal(pair.likelihood(z).mean, mean)
        assert any(name.startswith("posterior.") for name in changed(pair, before))
    assert_same(everything(pair), before)


class Leading(nn.BatchNorm1d):
    """Batch normalization with any number of leading dimensions."""

    def forward(self, h):
        return super().forward(h.reshape(-1, h.shape[-1])).reshape(h.shape)


class Around(nn.Module):
    """A unit Gaussian about what a network says."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, z):
        return dist.Normal(self.network(z), 1.0).to_event(1)


@pytest.mark.parametrize("training", [True, False])
def test_an_exception_leaves_nothing(training):
    pair, x = ZOO["unsteady"].make()
    pair.train(training)
    pair.encoder[1].train()  # a mode of its own
    before = everything(pair)

    def fail():
        with refit(pair, x, steps=5):
            assert changed(pair, before)
            raise RuntimeError("by the caller")

    with pytest.raises(RuntimeError, match="by the caller"):
        fail()
    assert_same(everything(pair), before)


def test_data_that_cannot_be_trained_on_leave_nothing():
    pair, x = offset_linear()
    before = everything(pair)
    x[7, 2] = torch.nan
    with pytest.raises(ValueError, match="data"), refit(pair, x):
        pass
    assert_same(everything(pair), before)


@pytest.mark.parametrize("name", ["linear, exact", "tied weights", "mixture", "summed", "no latents"])
def test_a_guide_without_parameters_of_its_own_is_said_to_be(name):
    pair, batch = ZOO[name].make()
    before = everything(pair)
    with refit(pair, batch) as note:
        assert note == UNDEFINED
        assert_same(everything(pair), before)
    assert_same(everything(pair), before)


def test_it_says_whether_the_bound_was_still_rising():
    pair, x = offset_linear()
    with torch.no_grad():
        pair.encoder.bias.add_(5.0)
    with refit(pair, x, steps=400) as note:
        assert note == "still rising after 400 steps, so more training would gain more"
    best = LinearVAE(4, 2).fit_guide()
    for steps in (1, 3, 100):  # so few that there are no quarters to compare, too
        with refit(best, best.sample(200), steps=steps) as note:
            assert note == ""


def test_noise_is_not_called_rising():
    """Half of all flat runs end above where they were, and hardly one by three standard errors; a slope is seen."""
    flat = torch.randn(400, 80)
    assert sum(is_rising(bounds) for bounds in flat) <= 4
    slope = torch.linspace(0, 8, 80)  # a quarter's mean is 2 above the one before, and its standard error 0.3
    assert sum(is_rising(bounds + slope) for bounds in flat) >= 390
    assert not any(is_rising(bounds - slope) for bounds in flat)


def test_one_seed_gives_one_guide_and_leaves_the_callers_generators():
    pair, x = offset_linear()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(3)
        with refit(pair, x, steps=20, seed=seed):
            found.append(pair.encoder.weight.detach().clone())
        assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(3))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_minibatches_are_transformed():
    """Training data that are halved on the way: the guide is fitted to those."""
    pair, x = offset_linear()
    with refitted(pair, 2 * x, 20, lambda batch: batch / 2, 0, progress=False):
        halved = pair.encoder.weight.detach().clone()
    with refit(pair, x, steps=20):
        assert torch.equal(pair.encoder.weight, halved)


def test_a_pair_of_functions_may_be_given():
    """Their parameters are found by what they do, not by where they are."""
    scale = nn.ParameterList([torch.tensor(1.0)])
    shift = nn.ParameterList([torch.tensor(-2.0)])

    def model(x):
        pyro.module("scale", scale)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, scale[0].exp()))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        shift_now = pyro.module("shift", shift)[0]
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + shift_now, 0.7))

    x = torch.randn(50)
    pair = Pair.of(model, guide, example=x)
    before = everything(pair)
    with refit(pair, x, steps=100):
        (name,) = changed(pair, before)
        assert -2 < pair.state_dict()[name] < -1.5
    assert_same(everything(pair), before)


def test_training_that_diverges_is_said_to_and_loses_no_other_line():
    torch.manual_seed(0)
    pair, x = LinearVAE(4, 2), torch.randn(40, 4)
    calls = iter(range(1000))

    def huge_after_a_while(batch):
        return batch * (1e25 if next(calls) > 10 else 1.0)

    effort = ppvae.Effort("iwae", 50, num_samples=20, refit_steps=20)
    report = ppvae.gap(pair, x[:5], effort, train=x, transform=huge_after_a_while, seed=0, progress=False)
    assert report.training_gap is None
    assert report.notes["training_gap"].startswith("training failed: found NaN or infinity, first in the log")
    assert report.elbo_refined is not None


@pytest.mark.parametrize("refit_steps", [0, 20])
def test_training_data_outside_the_support_are_refused_before_anything_is_measured(monkeypatch, refit_steps):
    """All of them where the guide is trained on them, else those that are measured."""
    monkeypatch.setattr("ppvae.inference.ledger.decomposition.elbo_of", lambda *args: pytest.fail("measured"))
    pair, x = ppvae.models.VAE.mlp(num_features=4, num_latents=2), torch.bernoulli(torch.full((90, 4), 0.5))
    train = x if refit_steps else x[:20]
    train = torch.cat([train[:-1], torch.full((1, 4), 0.5)])
    effort = ppvae.Effort("iwae", 20, num_samples=10, ascent=None, refit_steps=refit_steps)
    with pytest.raises(ValueError, match=rf"^train: found row {len(train) - 1} outside the support"):
        ppvae.gap(pair, x[:20], effort, train=train, progress=False)


def test_what_the_pair_is_refused_for_is_not_blamed_on_training_data():
    pair, x = ppvae.models.GAN.mlp(num_features=4, num_latents=2), torch.randn(20, 4)
    with pytest.raises(ppvae.EvidenceUndefined, match=r"^GAN has no evidence"):
        ppvae.gap(pair, x, "quick", train=x, progress=False)
