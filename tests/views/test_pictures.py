"""Pictures show what the pair computes: every image in its place, held against the same by other means."""

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from support.image_pairs import SHAPE, Chain, labels, tiles
from support.zoo_pairs import Components, Labeled
from torch import nn

import ppvae
from ppvae import ContractError, Pair
from ppvae.models import VAE, Autoencoder, Gaussian, GaussianMixture, LinearVAE, MarkovHVAE
from ppvae.views import decoding, pictures


@pytest.fixture
def ax():
    figure = plt.figure()
    yield figure.subplots()
    plt.close(figure)


@pytest.fixture
def vae():
    return VAE.mlp(6, 2, [20])


class Steady(VAE):
    """A VAE whose guide hardly spreads: its draws are its means."""

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.posterior(x).mean, 1e-6).to_event(1))


def test_manifold_decodes_the_quantiles(ax, vae):
    pictures.manifold(ax, vae, SHAPE)
    found = tiles(ax, 15)
    z = stats.norm.ppf((np.arange(15) + 0.5) / 15)
    for row, column in [(0, 0), (0, 14), (3, 11), (14, 0), (7, 7)]:
        at = torch.tensor([z[column], z[14 - row]], dtype=torch.float32)  # z[1] grows upwards
        torch.testing.assert_close(found[row, column], vae.likelihood(at).mean, atol=1e-5, rtol=0)
    assert labels(ax.xaxis) == ["-1.8", "0.0", "1.8"]
    assert ax.get_xlabel() == "z[0]"
    bottom = dict(zip(ax.get_yticks(), labels(ax.yaxis), strict=True))
    assert bottom[max(bottom)] == "-1.8"


def test_manifold_refuses_other_latents(ax):
    for pair in (VAE.mlp(6, 3, [5]), MarkovHVAE.mlp(6, [2, 2], [5])):
        with pytest.raises(ContractError, match=r"expected one of shape \[2\].*ppvae.pictures.traversals"):
            pictures.manifold(ax, pair, SHAPE)
    with pytest.raises(ContractError, match="guide site 'component': found Categorical, which is discrete"):
        pictures.manifold(ax, GaussianMixture(2, 6), SHAPE)


def test_traversals_sweep_one_scalar_at_a_time(ax):
    pair = Steady.mlp(6, 4, [20])
    x = torch.rand(30, 6).round()
    pictures.traversals(ax, pair, x, SHAPE)
    means = pair.posterior(x).mean.detach()
    order = means.var(0).argsort(descending=True).tolist()
    assert labels(ax.yaxis) == [f"z[{entry}]" for entry in order]
    assert labels(ax.xaxis) == ["-3", "0", "3"]
    found = tiles(ax, 11)
    for row, entry in enumerate(order):
        for column, value in enumerate(torch.linspace(-3, 3, 11)):
            z = means[0].clone()
            z[entry] = value
            torch.testing.assert_close(found[row, column], pair.likelihood(z).mean, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("site", "at_ends"), [("a", (-5.5, -11.0, -0.7)), ("b", (1.0, 2 - 0.3, -0.7)), ("c", (1.0, 0.3, -3.0))]
)
def test_sites_below_follow_and_others_stay(ax, site, at_ends):
    """`a` sweeps 0.5 +- 6, `b` the 2 +- 0.3 that `a` at its posterior mean, 1, leaves it, and `c` 0 +- 3."""
    x = torch.tensor([[1.0] * 6, [0.0] * 6])
    pictures.traversals(ax, Chain(), x, SHAPE, site)
    expected = torch.tensor(at_ends).sigmoid().repeat_interleave(2)
    torch.testing.assert_close(tiles(ax, 11)[0, 0], expected, atol=1e-4, rtol=0)


def test_of_many_latents_the_ten_most_active_are_traversed(ax):
    pair, x = LinearVAE(20, 12), torch.randn(50, 20)
    pair.posterior_scale.data -= 20
    pictures.traversals(ax, pair, x, (4, 5))
    assert labels(ax.yaxis) == [f"z[{i}]" for i in pair.encoder(x).var(0).argsort(descending=True)[:10].tolist()]


class Ending(Chain):
    """The same, c there only where the last pixel is one; in the guide its mean is the first pixel then, else 50."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.5, 2.0 * self.scale).expand([1]).to_event(1))
            there = x[:, -1] > 0
            with pyro.poutine.mask(mask=there):
                c = pyro.sample("c", dist.Normal(0.0, 1.0))
            c = torch.where(there, c, 0.0).unsqueeze(-1)
            logits = torch.cat([a, a, a, a, c.expand_as(a), c.expand_as(a)], -1)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(x[:, :1], 1e-6).to_event(1))
            there = x[:, -1] > 0
            with pyro.poutine.mask(mask=there):
                pyro.sample("c", dist.Normal(torch.where(there, x[:, 0], 50.0), 1e-6))


def test_what_is_masked_enters_no_picture(ax):
    """The means, how active they are, and the histograms are of the data points that have the latent."""
    x = torch.tensor([[0.0] * 6, [0.0] * 5 + [1.0], [1.0] * 6, [1.0] * 5 + [0.0]])
    means = decoding.posterior_means(Ending(), x)
    expected = torch.tensor([torch.nan, 0.0, 1.0, torch.nan])
    torch.testing.assert_close(means["c"], expected, equal_nan=True, atol=1e-5, rtol=0)
    torch.testing.assert_close(decoding.activity(means["c"]), torch.tensor([0.5]), atol=1e-4, rtol=0)
    torch.testing.assert_close(decoding.activity(means["a"]), torch.tensor([1 / 3]), atol=1e-4, rtol=0)
    pictures.traversals(ax, Ending(), x, SHAPE, site="a")  # of the first, which has no c
    logit = 0.5 + 2.0 * torch.linspace(-3, 3, 11)
    found = tiles(ax, 11)[0]
    torch.testing.assert_close(found[:, :4], logit.sigmoid()[:, None].expand(-1, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 4:], torch.full((11, 2), 0.5), atol=1e-5, rtol=0)
    axes = plt.figure().subplots(1, 2)
    pictures.aggregated_posterior(axes, Ending(), x)
    assert all(each.get_xlim()[1] < 20 for each in axes)


def test_traversals_refuse(ax):
    pair, x = MarkovHVAE.mlp(6, [3, 2], [5]), torch.rand(4, 6).round()
    with pytest.raises(ValueError, match=r"site: found None, expected one of the latents \['z1', 'z2'\]"):
        pictures.traversals(ax, pair, x, SHAPE)
    with pytest.raises(ValueError, match=r"data: found 1 data point, expected at least 2"):
        pictures.traversals(ax, pair, x[:1], SHAPE, "z1")
    with pytest.raises(ContractError, match=r"event shapes \{'x': \[6\]\}, expected one of 16 pixels"):
        pictures.traversals(ax, pair, x, (4, 4), "z1")
    with pytest.raises(ContractError, match="model site 'z': found to depend on a discrete site that is summed out"):
        pictures.traversals(ax, Components(), torch.randn(4), (1, 1))


def test_reconstructions_lie_below_their_data(ax):
    pair, x = Steady.mlp(6, 3, [20]), torch.rand(13, 6).round()
    pictures.reconstructions(ax, pair, x, SHAPE)
    found = tiles(ax, 10)
    expected = pair.likelihood(pair.posterior(x).mean).mean.detach()
    for shown, row in ((x, 0), (expected, 1)):
        torch.testing.assert_close(found[row], shown[:10], atol=1e-4, rtol=0)
        torch.testing.assert_close(found[row + 2, :3], shown[10:], atol=1e-4, rtol=0)
        assert (found[row + 2, 3:] == 0).all()
    assert labels(ax.yaxis) == ["data", "reconstruction"] * 2


def test_reconstructions_take_covariates_and_channels(ax):
    pair = Labeled()
    batch = {"x": torch.rand(4, 3), "label": torch.arange(4) % 2}
    pair.posterior_scale.data -= 20
    pair.shift.weight.data[0], pair.shift.weight.data[1] = 0.0, 0.5
    pictures.reconstructions(ax, pair, batch, (1, 3))
    shift = pair.shift(batch["label"])
    expected = (pair.encoder(batch["x"] - shift) @ pair.weight.T + shift).clamp(0, 1).detach()
    mosaic = 1 - torch.tensor(np.asarray(ax.images[0].get_array())).reshape(2, 3, 4, 5)[:, 1, :, 1:-1]
    torch.testing.assert_close(mosaic[0], batch["x"])
    torch.testing.assert_close(mosaic[1], expected, atol=1e-5, rtol=0)
    images = VAE.convolutional((1, 4, 4), 2, [2])
    pictures.reconstructions(plt.figure().subplots(), images, torch.rand(3, 1, 4, 4).round(), (4, 4))
    plt.close()


class Contrary(Pair):
    """`x` is bright or dark with z, and the guide takes bright for dark; no chance is left but z's own sign."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.example = torch.zeros(1, 6)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, self.scale))
            logits = 50 * z.sign().unsqueeze(-1).expand(*z.shape, 6)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(1 - 2 * x[:, 0], 1e-3))


@pytest.mark.parametrize("rerun", [1, 2, 3])
def test_samples_pass_through_encoder_and_decoder(ax, rerun):
    pictures.samples(ax, Contrary(), SHAPE, rerun=rerun)
    found = tiles(ax, 13)
    left, gap, right = found[:, :6], found[:, 6], found[:, 7:]
    assert 8 < (left[..., 0] > 0.5).sum() < 28
    assert (gap == 0).all()
    torch.testing.assert_close(right, 1 - left if rerun % 2 else left)
    passes = f"after {rerun} pass{'es' if rerun > 1 else ''} through\nencoder and decoder"
    assert labels(ax.xaxis) == ["samples", passes]


def test_samples_are_those_of_their_seed(ax, vae):
    before = torch.get_rng_state()
    shown = []
    for seed in (0, 0, 1):
        pictures.samples(ax, vae, SHAPE, seed=seed)
        shown.append(np.asarray(ax.images[-1].get_array()))
    assert (shown[0] == shown[1]).all()
    assert (shown[0] != shown[2]).any()
    assert torch.equal(torch.get_rng_state(), before)


class Summed(Pair):
    """A mixture whose component the guide leaves out; its other latent does nothing."""

    def __init__(self):
        super().__init__()
        self.means = nn.Parameter(torch.tensor([[0.1] * 6, [0.9] * 6]))
        self.example = torch.zeros(1, 6)

    def model(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(2)))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.means[c] + 0 * z.unsqueeze(-1), 0.01).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))


def test_discrete_latents_are_met_again_in_the_guide_or_summed(ax):
    """The components lie far apart, so that their posterior given a sample is certain."""
    mixture = GaussianMixture(2, 6, "spherical")
    mixture.assign(means=Summed().means.detach(), covariances=torch.full((2,), 1e-4))
    for pair in (mixture, Summed()):
        ax.clear()
        pictures.samples(ax, pair, SHAPE, rerun=2)
        found = tiles(ax, 13)
        torch.testing.assert_close(found[:, :6], found[:, 7:])
        assert set(found[:, :6].flatten().mul(10).round().tolist()) == {1.0, 9.0}


def test_a_summed_site_is_averaged_given_the_latents(ax):
    """`c ~ Bernoulli(1/2)`, `z | c ~ N(+-1, 1)`, `E[x | z, c] = c`: `E[x | z] = p(c = 1 | z) = sigmoid(2 z_0)`."""

    class Tied(VAE):
        def model(self, x):
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)))
                loc = torch.stack([2 * c - 1, torch.zeros_like(c)], -1)
                pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
                pyro.sample("x", dist.Normal(c.unsqueeze(-1), 1.0).expand([*c.shape, 6]).to_event(1), obs=x)

    pictures.manifold(ax, Tied.mlp(6, 2, [5]), SHAPE)
    z = torch.tensor(stats.norm.ppf((np.arange(15) + 0.5) / 15), dtype=torch.float32)
    torch.testing.assert_close(tiles(ax, 15)[4, :, 2], (2 * z).sigmoid(), atol=1e-5, rtol=0)


def test_samples_refuse(ax, vae):
    with pytest.raises(ValueError, match="rerun: found 0, expected at least 1"):
        pictures.samples(ax, vae, SHAPE, rerun=0)
    autoencoder = Autoencoder(nn.Linear(6, 2), Gaussian(nn.Linear(2, 6), sigma=1.0))
    autoencoder.example = torch.zeros(1, 6)
    with pytest.raises(ContractError, match=r"Autoencoder.guide: found no latent site, expected one to picture"):
        pictures.samples(ax, autoencoder, SHAPE)


def test_histograms_are_of_prior_and_aggregated_posterior():
    """Of a linear VAE they are known: N(0, 1), and `A x` with the posterior's spread."""
    pair, x = LinearVAE(6, 3).fit_guide(), 2 * torch.randn(1000, 6)
    figure, axes = plt.subplots(1, 2)
    pictures.aggregated_posterior(axes, pair, x)
    means = pair.encoder(x).detach()
    order = means.var(0).argsort(descending=True)[:2].tolist()
    spread = nn.functional.softplus(pair.posterior_scale).detach()
    for ax, entry in zip(axes, order, strict=True):
        assert ax.get_title() == f"z[{entry}]"
        bars = ax.patches[:-1]
        edges = np.array([bar.get_x() for bar in bars] + [bars[-1].get_x() + bars[-1].get_width()])
        masses = np.array([bar.get_height() for bar in bars]) * np.diff(edges)
        np.testing.assert_allclose(masses, np.diff(stats.norm.cdf(edges)), atol=5 * (0.1 / 5000) ** 0.5)
        outline = ax.patches[-1].get_xy()[:, 1].max()
        drawn = dist.Normal(means[:, entry], spread[entry]).cdf(torch.tensor(edges, dtype=torch.float32).unsqueeze(1))
        expected = drawn.mean(1).diff().numpy() / np.diff(edges)
        assert outline == pytest.approx(expected.max(), rel=0.15)
    assert axes[0].get_legend_handles_labels()[1] == ["prior", "aggregated posterior"]
    with pytest.raises(ValueError, match="axes: found 4, expected at most 3, one for each of"):
        pictures.aggregated_posterior([axes[0]] * 4, pair, x)
    plt.close(figure)


def test_contours_hold_their_share_of_the_prior(ax, vae):
    x = torch.rand(100, 6).round()
    pictures.aggregated_posterior(ax, vae, x)
    points, contours = ax.collections
    assert len(points.get_offsets()) == 5000
    means = np.asarray(points.get_offsets()).reshape(100, 50, 2).mean(1)
    scale = vae.posterior(x).stddev.detach().numpy() / 50**0.5
    assert (np.abs(means - vae.posterior(x).mean.detach().numpy()) < 5 * scale).all()
    radii = [np.linalg.norm(path.vertices, axis=1).mean() for path in contours.get_paths()]
    np.testing.assert_allclose(radii, stats.chi.ppf([0.99, 0.9, 0.5], df=2), rtol=0.05)


def test_contours_are_of_one_2d_latent(ax):
    with pytest.raises(ContractError, match=r"expected one of shape \[2\]"):
        pictures.aggregated_posterior(ax, VAE.mlp(6, 3, [5]), torch.rand(9, 6).round())


def test_pictures_change_neither_pair_nor_generators(ax, vae):
    vae.train()
    x, state = torch.rand(12, 6).round(), {name: t.clone() for name, t in vae.state_dict().items()}
    before = torch.get_rng_state()
    pictures.manifold(ax, vae, SHAPE)
    pictures.traversals(ax, vae, x, SHAPE)
    pictures.reconstructions(ax, vae, x, SHAPE)
    pictures.aggregated_posterior(ax, vae, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert vae.training
    assert all(torch.equal(t, state[name]) for name, t in vae.state_dict().items())
    assert ppvae.pictures is pictures
