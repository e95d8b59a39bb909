"""`encode`: the moments of q(z | x), the guide's own where it has them, within their error where they are drawn."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import i0, i1
from support.functions import Functions
from torch import nn
from torch.distributions.transforms import AffineTransform

from ppvae import Pair
from ppvae.models import VAE
from ppvae.row_chunks import AT_ONCE

pytestmark = pytest.mark.usefixtures("float64")

X = torch.linspace(-2.0, 2.0, 7, dtype=torch.float64)
NUM_SAMPLES = 4000


def in_plate(statements):
    def guide(x):
        with pyro.plate("data", len(x)):
            statements(x)

    return guide


def pair_of(latents):
    """A pair with these statements as its guide, and the same as its model's prior."""

    def model(x):
        with pyro.plate("data", len(x)):
            latents(torch.zeros_like(x))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    return Functions(model, in_plate(latents))


def test_the_guides_own_moments_whatever_is_drawn():
    pair = pair_of(lambda x: pyro.sample("z", dist.Gamma(x.exp(), 2.0)))
    found = [pair.encode(X) for _ in range(2)]
    for encoding in found:
        torch.testing.assert_close(encoding.mean, X.exp() / 2)
        torch.testing.assert_close(encoding.std, X.exp().sqrt() / 2)
        assert not encoding.mean.requires_grad


def test_dependent_latents_are_averaged_over():
    """z2 ~ N(3 z1, 2) with z1 ~ N(x, 0.5): mean 3 x, variance 4 + 9 / 4."""

    def latents(x):
        z = pyro.sample("z1", dist.Normal(x, 0.5))
        pyro.sample("z2", dist.Normal(3 * z, 2.0))

    torch.manual_seed(0)
    found = pair_of(latents).encode(X, NUM_SAMPLES)
    torch.testing.assert_close(found["z1"].mean, X)
    assert ((found["z2"].mean - 3 * X).abs() < 5 * 1.5 / NUM_SAMPLES**0.5).all()
    assert ((found["z2"].std.square() - 6.25).abs() < 5 * 2.25 * (2 / NUM_SAMPLES) ** 0.5).all()


@pytest.mark.parametrize("seed", range(8))
def test_latents_below_a_discrete_one_are_averaged_over_for_a_single_row(seed):
    """z ~ N(4 c - 2, 1) with c ~ Bernoulli(1/4): mean -1, variance 1 + 16 * 3 / 16, whatever the first draws of c."""

    def latents(x):
        c = pyro.sample("c", dist.Bernoulli(torch.full_like(x, 0.25)))
        pyro.sample("z", dist.Normal(4 * c - 2, 1.0))

    torch.manual_seed(seed)
    found = pair_of(latents).encode(X[:1], NUM_SAMPLES)
    assert found["c"].mean.tolist() == [0.25]
    assert (found["z"].mean + 1).abs() < 5 * (3 / NUM_SAMPLES) ** 0.5
    assert (found["z"].std.square() - 4).abs() < 5 * 16 * (0.1875 * 0.25 / NUM_SAMPLES) ** 0.5


def test_angles_have_circular_moments():
    """a ~ VonMises(b + x, 10) with b ~ N(0, 0.3), x near where angles wrap: R = exp(-0.09 / 2) I1(10) / I0(10)."""

    def latents(x):
        b = pyro.sample("b", dist.Normal(torch.zeros_like(x), 0.3))
        pyro.sample("a", dist.VonMises(b + x, torch.tensor(10.0)))

    x = torch.tensor([math.pi, -3.1, 3.1, 0.5])
    torch.manual_seed(0)
    pair = pair_of(latents)
    found = pair.encode(x, NUM_SAMPLES)["a"]
    ratio = (torch.special.i1e(torch.tensor(10.0)) / torch.special.i0e(torch.tensor(10.0))).item()
    assert (torch.remainder(found.mean - x + 1, 2 * math.pi) - 1).abs().max() < 5 * 0.3 / NUM_SAMPLES**0.5
    assert (found.std.square() - 0.09 + 2 * math.log(ratio)).abs().max() < 5 * 0.09 * (2 / NUM_SAMPLES) ** 0.5
    alone = pair_of(lambda x: pyro.sample("a", dist.VonMises(x, torch.tensor(10.0)).to_event(0))).encode(x)
    torch.testing.assert_close(alone.std, torch.full_like(x, (-2 * math.log(ratio)) ** 0.5))
    torch.testing.assert_close(alone.mean.cos(), x.cos())


def test_angles_are_reconstructed_where_they_wrap():
    """Of draws about pi, some beyond it, the mean is pi, not zero."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.VonMises(math.pi + 0.1 * z, torch.tensor(5.0)), obs=x)

    x = torch.full((3,), 3.0)
    torch.manual_seed(0)
    found = Functions(model, in_plate(lambda x: pyro.sample("z", dist.Normal(0 * x, 1.0)))).reconstruct(x, NUM_SAMPLES)
    assert (torch.remainder(found, 2 * math.pi) - math.pi).abs().max() < 5 * 0.1 / NUM_SAMPLES**0.5


def test_directions_are_reconstructed_by_their_mean():
    """Pyro's mean of a projected normal vector is of length one; that of its draws is shorter, the less is known."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.ProjectedNormal(torch.tensor([0.3, 0.4]).expand(len(x), 2)), obs=x)

    x = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    torch.manual_seed(0)
    found = Functions(model, in_plate(lambda x: pyro.sample("z", dist.Normal(x, 1.0).to_event(1)))).reconstruct(
        x, NUM_SAMPLES
    )
    r = 0.5**2 / 4
    length = (math.pi / 8) ** 0.5 * 0.5 * math.exp(-r) * (i0(r) + i1(r))
    assert ((found - length * torch.tensor([0.6, 0.8])).abs() < 4.5 * 0.5**0.5 / NUM_SAMPLES**0.5).all()


def test_independent_latents_have_the_guides_own_moments():
    def latents(x):
        pyro.sample("c", dist.Bernoulli(torch.full_like(x, 0.25)))
        pyro.sample("z", dist.Normal(x / 3, 0.1))

    found = pair_of(latents).encode(X)
    assert torch.equal(found["z"].mean, X / 3)
    assert found["z"].std.tolist() == pytest.approx([0.1] * 7, rel=1e-12)


def test_a_posterior_without_formulas_is_drawn_from():
    def latents(x):
        base = dist.Normal(x, 1.0)
        pyro.sample("z", dist.TransformedDistribution(base, [AffineTransform(1.0, 3.0)]))

    torch.manual_seed(0)
    found = pair_of(latents).encode(X, NUM_SAMPLES)
    assert ((found.mean - (1 + 3 * X)).abs() < 5 * 3 / NUM_SAMPLES**0.5).all()
    assert ((found.std - 3).abs() < 5 * 3 / (2 * NUM_SAMPLES) ** 0.5).all()


def test_names_have_probabilities():
    pair = pair_of(lambda x: pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.3, 0.5]))))
    found = pair.encode(X)
    torch.testing.assert_close(found.mean, torch.tensor([0.2, 0.3, 0.5]).expand(7, 3))
    torch.testing.assert_close(found.std, torch.tensor([0.16, 0.21, 0.25]).sqrt().expand(7, 3))


def test_a_guide_without_the_shape_of_the_rows_is_of_all_rows():
    found = pair_of(lambda x: pyro.sample("z", dist.Normal(torch.ones(3), 2.0).to_event(1))).encode(X)
    torch.testing.assert_close(found.mean, torch.ones(7, 3))
    torch.testing.assert_close(found.std, torch.full((7, 3), 2.0))


# Of all data: in chunks, in evaluation mode, changing nothing.


class Normed(Pair):
    """Batch norm and dropout in the guide; a covariate that shifts the data."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.seen = []

    def model(self, x, shift):
        self.seen.append(len(x))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal((z + shift[..., None]).expand(*z.shape[:-1], 2), 0.1).to_event(1), obs=x)

    def guide(self, x, shift):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.3).to_event(1))


@pytest.fixture(params=["leading", "rows"])
def normed(request):
    torch.manual_seed(0)
    pair = Normed()
    pair.particles = request.param
    pair.train()
    return pair


NUM = 2 * AT_ONCE + 5
DATA = torch.randn(NUM, 2, dtype=torch.float64), torch.arange(NUM, dtype=torch.float64)


def test_all_data_in_chunks(normed):
    state = {name: t.clone() for name, t in normed.state_dict().items()}
    encoding = normed.encode(DATA, 2)
    latents = normed.latents(DATA, 2)["z"]
    means = normed.reconstruct(DATA, 3)
    drawn = normed.sample(DATA)
    assert encoding.mean.shape == (NUM, 1)
    assert latents.shape == (2, NUM, 1)
    assert means.shape == drawn.shape == (NUM, 2)
    assert max(normed.seen) <= AT_ONCE
    assert all(module.training for module in normed.modules())
    assert not any(t.requires_grad for t in (encoding.mean, latents, means))
    for name, before in state.items():
        assert torch.equal(normed.state_dict()[name], before)
    with torch.no_grad():
        own = normed.eval().encoder(DATA[0])
    torch.testing.assert_close(encoding.mean, own)
    assert ((latents - own).abs() < 7 * 0.3).all()  # of 8000 draws
    assert ((means - (own + DATA[1][:, None])).abs() < 7 * 0.3 / 3**0.5).all()
    assert ((drawn - DATA[1][:, None]).abs() < 7 * 1.01**0.5).all()


def test_data_as_people_have_them(normed):
    few = tuple(t[:5] for t in DATA)
    expected = normed.encode(few).mean
    single = normed.encode(tuple(t.float().numpy() for t in few)).mean
    torch.testing.assert_close(single, expected, rtol=1e-5, atol=1e-5)
    backwards = normed.encode(tuple(np.ascontiguousarray(np.flip(t.numpy(), 0))[::-1] for t in few)).mean
    torch.testing.assert_close(backwards, expected)
    assert normed.latents(tuple(t.numpy() for t in few))["z"].shape == (1, 5, 1)
    assert normed.sample(tuple(t.numpy() for t in few)).shape == (5, 2)
    assert normed.log_weights(tuple(t.numpy() for t in few), 3).log_w.shape == (3, 5)


def test_weights_are_of_the_pairs_precision_also_where_its_own_kind_has_passed(normed):
    few = tuple(t[:5] for t in DATA)
    single = tuple(t.float() for t in few)
    normed.check(few)
    for batch in (few, single):
        assert normed.log_weights(batch, 3).log_w.dtype == torch.float64


def test_the_zoos_encoder():
    vae = VAE.mlp(6, 2, [5])
    encoding = vae.encode(torch.rand(4, 6).round())
    assert encoding.mean.shape == encoding.std.shape == (4, 2)
    with pytest.raises(ValueError, match="num_samples"):
        vae.encode(torch.rand(4, 6).round(), 0)


def masked_pair(latents):
    """As `pair_of`, with the mask of rows x <= 0 for both."""

    def model(x):
        with pyro.plate("data", len(x)):
            latents(torch.zeros_like(x), x <= 0)
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    return Functions(model, in_plate(lambda x: latents(x, x <= 0)))


WAYS = {
    "of the distribution": lambda name, fn, there: pyro.sample(name, fn.mask(there)),
    "of a handler": lambda name, fn, there: _under(there, name, fn),
}


def _under(there, name, fn):
    with pyro.poutine.mask(mask=there):
        return pyro.sample(name, fn)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("particles", ["leading", "rows"])
def test_what_is_masked_is_nan(way, particles):
    """Of rows with x > 0, against the same latents without a mask on the other rows alone."""

    def latents(sample):
        def statements(x, there):
            z = pyro.sample("z", dist.Normal(x, 0.5))
            sample("scale", dist.Gamma(x.exp(), 2.0), there)
            sample("angle", dist.VonMises(x, 3.0), there)
            sample("class", dist.Categorical(logits=torch.stack([x, -x], -1)), there)
            sample("below", dist.Normal(3 * z, 2.0), there)

        return statements

    pair = masked_pair(latents(WAYS[way]))
    plain = masked_pair(latents(lambda name, fn, there: pyro.sample(name, fn)))
    masked = X > 0
    pair.check(X)
    pair.particles = particles
    torch.manual_seed(0)
    found, draws = pair.encode(X, NUM_SAMPLES), pair.latents(X, 3)
    torch.manual_seed(0)
    expected, drawn = plain.encode(X, NUM_SAMPLES), plain.latents(X, 3)
    assert found["z"].mean.isfinite().all()
    for name in ("scale", "angle", "class", "below"):
        for each, without in (
            (found[name].mean, expected[name].mean),
            (found[name].std, expected[name].std),
            (draws[name][0], drawn[name][0]),
        ):
            assert each[masked].isnan().all()
            assert each[~masked].isfinite().all()
            assert each.dtype == torch.float64
            assert each.shape == without.shape
        torch.testing.assert_close(found[name].mean[~masked], expected[name].mean[~masked], atol=0.3, rtol=0)
    for name in ("scale", "angle", "class"):  # that need no draws
        torch.testing.assert_close(found[name].mean[~masked], expected[name].mean[~masked])
        torch.testing.assert_close(found[name].std[~masked], expected[name].std[~masked])
    assert not plain.latents(X)["class"].is_floating_point()


def test_a_latent_that_other_latents_mask_has_the_moments_of_the_draws_that_have_it():
    """z ~ N(x + c, 1) where c = 1, with c ~ Bernoulli(1/4)."""

    def latents(x):
        c = pyro.sample("c", dist.Bernoulli(torch.full_like(x, 0.25)))
        pyro.sample("z", dist.Normal(x + c, 1.0).mask(c == 1))

    torch.manual_seed(0)
    found = pair_of(latents).encode(X, 100)
    torch.testing.assert_close(found["z"].mean, X + 1)
    torch.testing.assert_close(found["z"].std, torch.ones(7))


def test_masked_entries_are_nan_for_themselves():
    def latents(x, there):
        there = torch.stack([there, torch.ones_like(there)], -1)
        pyro.sample("z", dist.Normal(x[:, None].expand(-1, 2), 0.5).mask(there).to_event(1))

    found = masked_pair(latents).encode(X)
    expected = torch.stack([torch.where(X <= 0, X, torch.nan), X], -1)
    torch.testing.assert_close(found.mean, expected, equal_nan=True)
    torch.testing.assert_close(found.std, torch.where(expected.isnan(), torch.nan, 0.5), equal_nan=True)
