"""An angle is an angle, whoever asks: held against integrals over a grid."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import ppvae
from ppvae import AIS, ContractError, Effort, Pair
from ppvae.coordinates import Circle, Sphere
from ppvae.inference.ledger.ascent import Ascent
from ppvae.latent_view import LatentView

pytestmark = pytest.mark.usefixtures("float64")
GRID = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)[:-1]
STEP = math.log(2 * math.pi / 4000)


class Angle(Pair):
    """`z ~ VonMises(2.5, 1.5)`, and x a noisy point in its direction: about the place where an angle starts anew."""

    def __init__(self):
        super().__init__()
        self.loc, self.concentration = nn.Parameter(torch.tensor(2.8)), nn.Parameter(torch.tensor(2.0))

    def prior(self):
        return dist.VonMises(torch.tensor(2.5), 1.5)

    def posterior(self, x):
        return dist.VonMises(self.loc.expand(len(x)), self.concentration)

    def likelihood(self, z):
        return dist.Normal(torch.stack([z.cos(), z.sin()], -1), 0.7).to_event(1)

    def model(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", self.likelihood(pyro.sample("z", self.prior())), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))

    def log_joint(self, x):
        """On the grid, `[4000, B]`."""
        return self.prior().log_prob(GRID)[:, None] + self.likelihood(GRID[:, None]).log_prob(x)

    def exact(self, x):
        return (self.log_joint(x).logsumexp(0) + STEP).detach()


class Direction(Angle):
    """The same, with z the direction itself."""

    def prior(self):
        return dist.ProjectedNormal(torch.tensor([-0.8, 0.6]))

    def posterior(self, x):
        loc = self.concentration * torch.stack([self.loc.cos(), self.loc.sin()]) / 2
        return dist.ProjectedNormal(loc.expand(len(x), 2))

    def likelihood(self, z):
        return dist.Normal(z, 0.7).to_event(1)

    def log_joint(self, x):
        z = torch.stack([GRID.cos(), GRID.sin()], -1)
        return self.prior().log_prob(z)[:, None] + self.likelihood(z[:, None]).log_prob(x)


@pytest.fixture
def x():
    return torch.tensor([[-1.0, 0.1], [-0.9, -0.5], [0.3, -0.8]])


KINDS = pytest.mark.parametrize("kind", [Angle, Direction])


@KINDS
@pytest.mark.parametrize(("method", "start"), [("iwae", "guide"), ("bdmc", "guide"), ("ais from prior", "prior")])
def test_evidence_is_the_integral_over_the_circle(kind, method, start, x):
    pair, settings = kind(), AIS(32, 40, start=start, num_leapfrog=2)
    found = ppvae.log_evidence(pair, x, method, 5000, annealing=settings, seed=0, progress=False)
    assert found.reliable.all()
    assert ((found.estimate - pair.exact(x)).abs() < 4 * found.std_error).all()
    if method == "bdmc":
        width = found.certificate.width
        assert (width.estimate.abs() < 4 * width.std_error).all()


@pytest.mark.slow(5)
@KINDS
def test_no_elbo_of_the_ledger_exceeds_it(kind, x):
    """And a refined angle comes near it."""
    pair = kind()
    effort = Effort("iwae", 2000, num_samples=500, ascent=Ascent(max_steps=150), restarts=0, refit_steps=0)
    report = ppvae.gap(pair, x, effort, seed=0, progress=False)
    for name in ("elbo", "elbo_refined", "elbo_full_rank", "elbo_flow"):
        line = getattr(report, name)
        assert (line.estimate < pair.exact(x) + 4 * line.std_error).all(), name
    assert (report.elbo_refined.estimate > pair.exact(x) - 0.1).all()


@KINDS
def test_the_latent_view_has_the_density_of_the_angle(kind, x):
    """Whatever the length: `log_joint - log_start` is the weight, and turning u by a full turn changes nothing."""
    pair = kind()
    view = LatentView(pair, x)
    u = view.draw(pair, x, 500)
    log_start, log_joint = view.densities(pair, x, u)
    z = view.latents(pair, x, u)["z"]
    log_w = pair.prior().log_prob(z) + pair.likelihood(z).log_prob(x) - pair.posterior(x).log_prob(z)
    torch.testing.assert_close(log_joint - log_start, log_w)
    longer = view.densities(pair, x, 2 * u)
    torch.testing.assert_close(longer.log_joint - longer.log_start, log_w)
    torch.testing.assert_close(
        view.unconstrain(pair, x, {"z": z}).square().sum(-1).mean(), torch.tensor(2.0), rtol=0.1, atol=0
    )


@pytest.mark.parametrize(("kind", "num"), [(Circle, 2), (Sphere, 2), (Sphere, 3), (Sphere, 5)])
def test_the_coordinates_of_a_uniform_direction_are_normal(kind, num):
    """With p(z) one over the circle's or the sphere's surface."""
    coordinates, u = kind(), torch.randn(7, num)
    log_surface = math.log(2) + num / 2 * math.log(math.pi) - math.lgamma(num / 2)
    z = coordinates(u)
    found = coordinates.log_abs_det_jacobian(u, z) - log_surface
    torch.testing.assert_close(found, dist.Normal(0.0, 1.0).log_prob(u).sum(-1))
    torch.testing.assert_close(coordinates(coordinates.inv(z)), z)


@pytest.mark.slow(3)
@KINDS
def test_exported_draws_have_the_posteriors_mean_direction(kind, x):
    pair = kind()
    pair.check(x)
    settings = AIS(num_temperatures=60)
    for way in ("annealed", "resampled"):
        found = ppvae.to_arviz(
            pair,
            x,
            posterior=way,
            num_samples=400,
            annealing=settings if way == "annealed" else None,
            seed=0,
            progress=False,
        )
        z = torch.tensor(found.posterior["z"].values[0])
        drawn = torch.stack([z.cos(), z.sin()], -1) if kind is Angle else z
        share = pair.log_joint(x).softmax(0)[..., None].detach()
        exact = (share * torch.stack([GRID.cos(), GRID.sin()], -1)[:, None]).sum(0)
        assert ((drawn.mean(0) - exact).abs() < 5 * drawn.std(0) / 400**0.5).all()


def test_calibration_knows_the_posterior_of_an_angle():
    """A guide that is the posterior passes; the same one turned by half a radian does not."""

    class Exact(Angle):
        """`x ~ VonMises(z, 2)` under a uniform angle: z given x is VonMises(x, 2)."""

        turn = 0.0

        def prior(self):
            return dist.VonMises(torch.tensor(0.0), 1e-6)

        def posterior(self, x):
            return dist.VonMises(x + self.turn, torch.tensor(2.0))

        def likelihood(self, z):
            return dist.VonMises(z, torch.tensor(2.0))

    pair = Exact()
    pair.example = torch.zeros(1)
    assert (ppvae.calibration(pair, 400, seed=0, progress=False).p_value > 0.001).all()
    pair.turn = 0.5
    assert (ppvae.calibration(pair, 400, seed=0, progress=False).p_value < 0.001).any()


@pytest.mark.slow(3)
@pytest.mark.parametrize("way", ["handler", "distribution"])
def test_a_masked_angle_is_not_there(way, x):
    there = torch.tensor([True, False, True])

    class Partly(Angle):
        def model(self, x, there):
            with pyro.plate("data", len(x)):
                z = self.masked(self.prior(), there)
                pyro.sample("x", self.likelihood(torch.where(there, z, 0.0)), obs=x)

        def guide(self, x, there):
            with pyro.plate("data", len(x)):
                self.masked(self.posterior(x), there)

        def masked(self, fn, there):
            if way == "distribution":
                return pyro.sample("z", fn.mask(there))
            with poutine.mask(mask=there):
                return pyro.sample("z", fn)

    pair = Partly()
    absent = pair.likelihood(torch.tensor(0.0)).log_prob(x)
    exact = torch.where(there, pair.exact(x), absent)
    found = ppvae.log_evidence(pair, (x, there), "ais", annealing=AIS(32, 40), seed=0, progress=False)
    assert ((found.estimate - exact).abs() < 4 * found.std_error + 1e-6).all()


ON_THE_LINE = {
    "Normal": lambda x: dist.Normal(x[:, 0], 0.7),
    "Uniform": lambda x: dist.Uniform(-4.0, torch.full((len(x),), 4.0)),
    "masked": lambda x: dist.Normal(x[:, 0], 0.7).mask(True),
}


@pytest.mark.parametrize("line", ON_THE_LINE.values(), ids=ON_THE_LINE)
def test_a_guide_on_the_line_is_refused(line, x):
    pair = Angle()
    pair.posterior = line
    with pytest.raises(
        ContractError, match=r"guide site 'z': found .*, which is on the line, for an angle .* VonMises"
    ):
        ppvae.log_evidence(pair, x, "iwae", progress=False)


def test_one_turn_of_the_line_is_a_circle(x):
    pair = Angle()
    pair.posterior = lambda x: dist.Uniform(-math.pi, torch.full((len(x),), math.pi))
    found = ppvae.log_evidence(pair, x, "iwae", 5000, seed=0, progress=False)
    assert found.reliable.all()
    assert ((found.estimate - pair.exact(x)).abs() < 4 * found.std_error).all()


def test_an_arc_leaves_latents_out(x):
    pair = Angle()
    pair.posterior = lambda x: dist.Uniform(-2.0, torch.full((len(x),), 2.0))
    found = ppvae.log_evidence(pair, x, "iwae", 5000, seed=0, progress=False)
    assert not found.reliable.any()
    assert (found.estimate < pair.exact(x)).all()
    best = ppvae.log_evidence(pair, x, annealing=AIS(32, 60), seed=0, progress=False)
    assert set(best.methods) == {"ais from prior"}
    assert ((best.estimate - pair.exact(x)).abs() < 4 * best.std_error).all()


def test_a_direction_against_a_vector_is_refused(x):
    pair = Direction()
    pair.posterior = lambda x: dist.Normal(x, 1.0).to_event(1)
    with pytest.raises(ContractError, match=r"guide site 'z': found Normal for ProjectedNormal .*ProjectedNormal"):
        ppvae.elbo(pair, x, progress=False)
