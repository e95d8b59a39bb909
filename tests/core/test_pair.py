"""The primitives of a pair, against densities written out by hand and sums over all values."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from support.functions import Functions, normal
from torch import nn

from ppvae import ContractError, Pair, elbo
from ppvae.tracing import draw_latents

pytestmark = pytest.mark.usefixtures("float64")


def guide(x, y=None):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(x / 3, 0.8))


def model(x, y=None):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.5, 1.0))
        pyro.sample("x", dist.Normal(z, 2.0), obs=x)
        if y is not None:
            pyro.sample("y", dist.Normal(-z, 0.5), obs=y)


def exact_posterior(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal((0.5 + x / 4) / 1.25, 0.8**0.5))


# Weights.


def test_weights_are_the_densities_written_out():
    x = torch.randn(4)
    weights = Functions(model, guide).log_weights(x, num_particles=3)
    z = weights.latents["z"]
    assert z.shape == weights.log_w.shape == (3, 4)
    torch.testing.assert_close(weights.log_p_sites, {"z": normal(z, 0.5, 1.0), "x": normal(x, z, 2.0)})
    torch.testing.assert_close(weights.log_q_sites, {"z": normal(z, x / 3, 0.8)})
    torch.testing.assert_close(weights.log_w, normal(z, 0.5, 1.0) + normal(x, z, 2.0) - normal(z, x / 3, 0.8))
    torch.testing.assert_close(weights.log_w, weights.log_p - weights.log_q)


def test_weights_under_the_exact_posterior_are_the_evidence():
    x = torch.randn(4)
    log_w = Functions(model, exact_posterior).log_weights(x, num_particles=5).log_w
    torch.testing.assert_close(log_w, normal(x, 0.5, 5**0.5).expand(5, 4))


def test_weights_average_to_the_evidence(assert_mean):
    x = torch.randn(4)
    log_w = Functions(model, guide).log_weights(x, num_particles=20_000).log_w
    assert_mean((log_w - normal(x, 0.5, 5**0.5)).exp(), 1.0)


@pytest.mark.parametrize("kind", [tuple, dict])
def test_batches_of_several_tensors(kind):
    x, y = torch.randn(4), torch.randn(4)
    pair, batch = Functions(model, guide), (x, y) if kind is tuple else {"y": y, "x": x}
    pair.check(batch)
    weights = pair.log_weights(batch, num_particles=3)
    z = weights.latents["z"]
    expected = normal(z, 0.5, 1.0) + normal(x, z, 2.0) + normal(y, -z, 0.5) - normal(z, x / 3, 0.8)
    torch.testing.assert_close(weights.log_w, expected)
    assert {name: value.shape for name, value in pair.sample(6).items()} == {"x": (6,), "y": (6,)}
    assert pair.reconstruct(batch)["y"].shape == (4,)


def test_latents_are_the_guides_draws(assert_mean):
    def nested(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x[:, :1] * torch.ones(2), 1.0).to_event(1))
            pyro.sample("b", dist.Normal(a.sum(-1), 0.1))

    x = torch.randn(4, 1)
    latents = draw_latents(Functions(model, nested), x, num_particles=5000)
    assert {name: value.shape for name, value in latents.items()} == {"a": (5000, 4, 2), "b": (5000, 4)}
    assert_mean(latents["a"], x)
    assert_mean(latents["b"] - latents["a"].sum(-1), 0.0)


@pytest.mark.parametrize("how", ["subsample_size", "subsample"])
def test_a_plates_scale_never_enters(how):
    """A plate of any name, of which the batch is a part: Pyro multiplies by size / subsample size, weights do not."""

    def rows(x):
        part = {"subsample_size": len(x)} if how == "subsample_size" else {"subsample": torch.arange(len(x))}
        return pyro.plate("any name", 1000, **part)

    def subsampled_model(x):
        with rows(x):
            z = pyro.sample("z", dist.Normal(0.5, 1.0))
            pyro.sample("x", dist.Normal(z, 2.0), obs=x)

    def subsampled_guide(x):
        with rows(x):
            pyro.sample("z", dist.Normal((0.5 + x / 4) / 1.25, 0.8**0.5))

    x, pair = torch.randn(4), Functions(subsampled_model, subsampled_guide)
    pair.check(x)
    torch.testing.assert_close(pair.log_weights(x, num_particles=3).log_w, normal(x, 0.5, 5**0.5).expand(3, 4))
    assert pair.sample(7).shape == (7,)


def test_a_plate_told_that_the_batch_is_some_of_n_takes_all_rows_of_a_larger_one():
    """Pyro draws N of them: each row has its own number, as in a smaller batch."""

    def model(x):
        with pyro.plate("data", 24, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 24, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = torch.randn(60)
    for pair in (Pair.of(model, guide, x[:24]), Pair.of(model, guide, x)):
        exact = normal(x, 0.0, 2**0.5)
        torch.testing.assert_close(pair.log_weights(x, num_particles=3).log_w, exact.expand(3, 60))
        torch.testing.assert_close(elbo(pair, x, 3, progress=False).estimate, exact)
        assert pair.sample(100).shape == (100,)
        assert pair.sample(x).shape == pair.reconstruct(x).shape == (60,)
        assert len(pair.encode(x).mean) == 60
        assert pair.latents(x, num_particles=2)["z"].shape == (2, 60)


def test_scale_is_ignored_and_masks_are_not():
    """`poutine.mask` on sites of both, `.mask` on a distribution, one for each data point; an annealing scale."""

    def masked_model(x, mask):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=0.1), poutine.mask(mask=mask):
                z = pyro.sample("z", dist.Normal(0.5, 1.0))
            pyro.sample("x", dist.Normal(z, 2.0).mask(mask), obs=x)

    def masked_guide(x, mask):
        with pyro.plate("data", len(x)), poutine.scale(scale=0.1), poutine.mask(mask=mask):
            pyro.sample("z", dist.Normal((0.5 + x / 4) / 1.25, 0.8**0.5))

    x, mask = torch.randn(4), torch.tensor([True, False, True, False])
    pair = Functions(masked_model, masked_guide)
    pair.check((x, mask))
    log_w = pair.log_weights((x, mask), num_particles=3).log_w
    torch.testing.assert_close(log_w, torch.where(mask, normal(x, 0.5, 5**0.5), 0.0).expand(3, 4))


def test_deterministic_sites_weigh_nothing():
    def model_(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.5, 1.0))
            pyro.deterministic("twice", 2 * z)
            pyro.sample("x", dist.Normal(z, 2.0), obs=x)

    x, pair = torch.randn(4), Functions(model_, exact_posterior)
    pair.check(x)
    torch.testing.assert_close(pair.log_weights(x).log_w[0], normal(x, 0.5, 5**0.5))


# Sampling and reconstructing.


def test_samples_have_the_models_moments(assert_mean):
    pair = Functions(model, guide)
    pair.check(torch.randn(3))
    x = pair.sample(20_000)
    assert_mean(x, 0.5)
    assert_mean((x - 0.5) ** 2, 5.0)
    torch.manual_seed(1)
    joint = pair.sample_joint(20_000)
    assert_mean((joint["x"] - 0.5) * (joint["z"] - 0.5), 1.0)
    assert list(pair.sample_joint(2, observed=False)) == ["z"]


def test_samples_at_the_examples_covariates(assert_mean):
    def regression(x, covariate):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(covariate, 1.0), obs=x)

    pair = Functions(regression)
    pair.check({"x": torch.randn(5), "covariate": torch.full((5,), 7.0)})
    assert_mean(pair.sample(1000), 7.0)


def test_sample_without_an_example_names_the_remedy():
    with pytest.raises(ContractError, match=r"Functions.example: found None.*call pair.check\(data\)"):
        Functions(model, guide).sample(3)


def test_reconstruction_is_the_posterior_mean_of_x(assert_mean):
    x = torch.randn(3)
    many = Functions(model, exact_posterior).reconstruct(x.repeat(2000, 1).flatten(), num_particles=3)
    assert_mean(many.reshape(2000, 3), (0.5 + x / 4) / 1.25)


def test_reconstruction_of_a_likelihood_without_a_mean():
    def cauchy(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Cauchy(0.0, torch.ones(len(x))), obs=x)

    with pytest.raises(NotImplementedError, match=r"site 'x' has no mean, as Cauchy has none"):
        Functions(cauchy).reconstruct(torch.randn(2))


# Networks.


class Recorded(Pair):
    """A small VAE that keeps the shapes that its networks were given."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(5, 2), nn.Linear(2, 5)
        self.seen = {"encoder": [], "decoder": []}
        for name, shapes in self.seen.items():
            getattr(self, name).register_forward_hook(lambda m, args, out, s=shapes: s.append(tuple(args[0].shape)))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(self.encoder.bias), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))


def test_encoders_see_x_once_and_decoders_every_particle():
    pair = Recorded()
    pair.check(torch.randn(3, 5))
    for shapes in pair.seen.values():
        shapes.clear()
    pair.log_weights(torch.randn(3, 5), num_particles=7)
    assert pair.seen == {"encoder": [(3, 5)], "decoder": [(7, 3, 2)]}


def test_weights_carry_gradients_and_samples_do_not():
    pair, x = Recorded(), torch.randn(3, 5)
    pair.check(x)
    pair.log_weights(x, num_particles=7).log_w.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in pair.parameters())
    assert not pair.sample(2).requires_grad
    assert not pair.reconstruct(x).requires_grad


def test_precision_follows_the_parameters():
    torch.set_default_dtype(torch.float32)
    pair, x = Recorded(), torch.randn(3, 5)
    assert pair.log_weights(x).log_w.dtype == torch.float32
    assert pair.to(torch.float64).log_weights(x.double()).log_w.dtype == torch.float64


def test_samples_follow_the_parameters_too():
    torch.set_default_dtype(torch.float32)
    pair = Recorded()
    pair.check(torch.randn(3, 5))
    assert pair.sample(2).dtype == torch.float32
    assert pair.to(torch.float64).sample(2).dtype == torch.float64


def test_samples_are_drawn_where_the_parameters_are():
    """The meta device stands in for a GPU: no data there, but places and shapes."""
    pair = Recorded().to("meta")
    pair.example = torch.zeros(1, 5)
    with pyro.validation_enabled(False):  # it looks at values
        assert pair.sample(2).device.type == "meta"


@pytest.mark.parametrize("name", ["of", "encode", "sample", "check", "example", "evidence_undefined"])
@pytest.mark.parametrize("value", [nn.Linear(2, 2), nn.Parameter(torch.zeros(2))])
def test_a_module_that_a_method_would_hide_is_refused(name, value):
    """`self.encode = network` would keep the network where `self.encode(x)` never finds it."""
    with pytest.raises(ContractError, match=rf"^{name}: found a (module|parameter) of this name, .* self.own_{name}"):
        setattr(Pair(), name, value)
