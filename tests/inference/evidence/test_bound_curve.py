"""IWAE(K) against K: held against a Gaussian guide of a Gaussian posterior, where its shortfall is known."""

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import pytest
import torch

import ppvae
from ppvae import Pair
from ppvae.models import LinearVAE
from ppvae.views import plots


class Conjugate(Pair):
    """z ~ N(0, 1), x | z ~ N(z, 1), so z | x ~ N(x / 2, 1/2); q(z | x) = N(x / 2, variance)."""

    def __init__(self, variance):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(variance**0.5))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, self.scale))

    def log_prob(self, x):
        return dist.Normal(0.0, 2**0.5).log_prob(x)


@pytest.mark.usefixtures("float64")
def test_bounds_and_limit_are_what_the_law_says():
    """Of a guide r times as wide as the posterior, in variance: 1 + chi^2 = r / sqrt(2 r - 1), for every x."""
    pair, x, r = Conjugate(0.8), torch.randn(300), 0.8 / 0.5
    chi_square = r / (2 * r - 1) ** 0.5 - 1
    curve = ppvae.bound_curve(pair, x, [100, 10, 1000], seed=0, progress=False)
    exact = pair.log_prob(x).mean().item()
    assert curve.num_particles == (10, 100, 1000)
    for k, bound in zip(curve.num_particles[1:], curve.bounds[1:], strict=True):
        mean = bound.mean()
        assert abs(mean.estimate - (exact - chi_square / (2 * k))) < 4 * mean.monte_carlo_error + (chi_square / k) ** 2
    limit = curve.limit.mean()
    assert abs(limit.estimate - exact) < 4 * limit.monte_carlo_error
    assert (curve.khat < 0.5).double().mean() > 0.9


@pytest.mark.usefixtures("float64")
def test_its_errors_are_what_repetitions_show():
    pair, x = Conjugate(0.8), torch.randn(20)
    curves = [ppvae.bound_curve(pair, x, [1, 20], seed=seed, progress=False) for seed in range(100)]
    for pick in (lambda curve: curve.bounds[0], lambda curve: curve.bounds[1], lambda curve: curve.limit):
        means = [pick(curve).mean() for curve in curves]
        seen = torch.tensor([mean.estimate for mean in means]).var().item()
        said = torch.tensor([mean.monte_carlo_error**2 for mean in means]).mean().item()
        assert said == pytest.approx(seen, rel=4 * (2 / 99) ** 0.5)


def test_a_guide_too_narrow_is_told_by_khat():
    """Of a quarter of the posterior's variance: k = 3/4, and no law in 1/K."""
    curve = ppvae.bound_curve(Conjugate(0.125), torch.randn(30), [100, 1000], seed=0, progress=False)
    assert (curve.khat > 0.5).double().mean() > 0.9


def test_the_limit_is_the_line_at_zero():
    pair, x = LinearVAE(5, 2), torch.randn(25, 5)
    curve = ppvae.bound_curve(pair, x, [1, 4], seed=0, progress=False)
    assert [len(bound.estimate) for bound in curve.bounds] == [25, 25]
    torch.testing.assert_close(curve.limit.estimate, (4 * curve.bounds[1].estimate - curve.bounds[0].estimate) / 3)


@pytest.mark.parametrize("few", [[], [10], [10, 10]])
def test_one_number_of_particles_is_no_curve(few):
    with pytest.raises(ValueError, match=r"num_particles: found .* expected two or more different ones"):
        ppvae.bound_curve(Conjugate(0.8), torch.randn(3), few)


def test_picture():
    pair, x = Conjugate(0.8), torch.randn(40)
    curve = ppvae.bound_curve(pair, x, [1, 10, 100], seed=0, progress=False)
    evidence = ppvae.log_evidence(pair, x, "exact")
    ax = plt.figure().subplots()
    plots.bound_curve(ax, curve, evidence)
    points = ax.containers[0].lines[0].get_xydata()
    assert points[:, 0].tolist() == [1, 10, 100]
    assert points[:, 1].tolist() == [bound.mean().estimate for bound in curve.bounds]
    dashed, limit, other = [line for line in ax.get_lines() if line not in ax.containers[0].get_children()]
    assert limit.get_ydata()[0] == curve.limit.mean().estimate
    assert other.get_ydata()[0] == evidence.mean().estimate
    at_10k, at_100 = dashed.get_ydata()[-1], dashed.get_ydata()[dashed.get_xdata().searchsorted(100)]
    assert at_100 < at_10k < limit.get_ydata()[0]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert any(label.endswith(", exact") for label in labels)
    assert any("k-hat > 1/2: " in label for label in labels)
    with pytest.raises(ValueError, match="evidence: found 3 data points, expected the 40 of the curve"):
        plots.bound_curve(ax, curve, ppvae.log_evidence(pair, x[:3], "exact"))
    plt.close("all")
