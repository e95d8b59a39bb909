"""Pictures show the numbers they were given."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import ppvae
from ppvae.models import GaussianMixture, LinearVAE
from ppvae.views import plots


@pytest.fixture
def ax():
    figure = plt.figure()
    yield figure.subplots()
    plt.close(figure)


@pytest.fixture
def gaps():
    x = torch.randn(40, 3)
    pairs = {"mixture": GaussianMixture(2, 3), "linear": LinearVAE(3, 2)}
    return {name: ppvae.gap(pair, x, "quick", seed=0, progress=False) for name, pair in pairs.items()}


def test_images_keep_every_pixel_in_its_place(ax):
    x = torch.rand(4, 6)
    plots.images(ax, x, (2, 3), columns=2)
    mosaic = 1 - ax.images[0].get_array()
    assert mosaic.shape == (2 * 4, 2 * 5)
    np.testing.assert_allclose(mosaic[5:7, 1:4], x[2].reshape(2, 3))  # the third image starts the second row


def test_density_integrates_to_one(ax):
    limits = (-8.0, 8.0, -6.0, 6.0)
    plots.density(ax, LinearVAE(2, 1).double(), limits)
    density = ax.images[0].get_array()
    cell = (limits[1] - limits[0]) * (limits[3] - limits[2]) / (density.shape[0] - 1) / (density.shape[1] - 1)
    assert density.sum() * cell == pytest.approx(1.0, abs=0.01)


def test_density_of_a_pair_that_holds_nothing(ax):
    """Its grid has no type and no device but its own."""

    class Plane(ppvae.Pair):
        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 2), 1.0).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x.sum(-1) / 3, 3**-0.5))

    plots.density(ax, Plane(), (-1.0, 1.0, -1.0, 1.0))
    cov = torch.eye(2) + 1
    corner = torch.distributions.MultivariateNormal(torch.zeros(2), cov).log_prob(torch.ones(2)).exp()
    assert ax.images[0].get_array()[-1, -1] == pytest.approx(corner.item(), rel=1e-4)


def test_bounds_show_evidence_and_elbo(ax, gaps):
    plots.bounds(ax, gaps)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["mixture", "linear"]
    shown = np.concatenate([line.get_xdata() for line in ax.lines]).astype(float)
    for gap in gaps.values():
        for mean in (gap.log_evidence.mean(), gap.elbo.mean()):
            assert np.isclose(shown, mean.estimate).any()


def test_gap_distribution_leaves_exact_guides_out(ax, gaps):
    plots.gap_distribution(ax, gaps)
    heights = [patch.get_xy()[:, 1].max() for patch in ax.patches]
    assert len(heights) == 2  # one filled and one outline, of the linear VAE alone
    assert ax.get_legend_handles_labels()[1] == ["linear"]


def test_bounds_on_held_out_data_are_dashed():
    pair = ppvae.models.LinearVAE(5, 2)
    x = torch.randn(40, 5)
    run = ppvae.fit(pair, x, epochs=4, held_out=x[:10], progress=False)
    figure = plots.training({"linear": run, "by hand": [-9.0, -8.0]})
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["linear", "linear, held out", "by hand"]
    shown, held_out, _ = ax.lines
    assert (shown.get_linestyle(), held_out.get_linestyle()) == ("-", "--")
    np.testing.assert_array_equal(held_out.get_ydata(), run.history["held_out"])
    assert ax.get_ylim()[0] < run.history["held_out"].min()


def test_training_curves_end_at_one(ax):
    plots.training(ax, {"a": np.arange(10.0), "b": np.arange(40.0)})
    assert [line.get_xdata()[-1] for line in ax.lines] == [1.0, 1.0]
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), np.arange(40.0))


def test_a_gap_keeps_its_sign_and_zero_has_none(ax, gaps):
    report = gaps["linear"]
    for above, said in ((0.2, "gap -0.20 "), (0.001, "gap 0.00 ")):  # of the ELBO above log p(x), as noise may have it
        elbo = replace(report.elbo, estimate=report.log_evidence.estimate + above)
        ax.clear()
        plots.bounds(ax, {"linear": replace(report, elbo=elbo)})
        (label,) = ax.texts
        assert label.get_text().startswith(said)


def test_tails_are_labelled_by_where_they_begin(ax, gaps):
    report = gaps["linear"]
    spread = torch.linspace(0.0, 1.0, 40) ** 8 * 0.044
    elbo = replace(report.elbo, estimate=report.log_evidence.estimate - spread)
    plots.gap_distribution(ax, {"linear": replace(report, elbo=elbo)})
    (label,) = ax.texts
    said, *_ = label.get_text().split()
    assert float(said) == pytest.approx(np.quantile(spread, 0.99), rel=0.01)
