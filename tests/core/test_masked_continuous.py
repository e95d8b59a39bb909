"""A masked continuous latent is not there: held against rows without it, whoever asks."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import ppvae
from ppvae import AIS, Effort, Pair
from ppvae.inference.ledger.ascent import Ascent
from ppvae.latent_view import LatentView

pytestmark = pytest.mark.usefixtures("float64")
SIZE = 3


class Partly(Pair):
    """`z ~ N(0, I)`, `x ~ N(sum z, 1)` over the entries of z that are there: all of a row, or some.

    log p(x) = log N(x; 0, 1 + how many are there). The guide is the posterior's mean, too narrow.
    """

    def __init__(self, way):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.way = way

    def drawn(self, loc, scale, there):
        fn = dist.Normal(loc, scale * torch.ones(SIZE))
        if self.way == "handler":
            with poutine.mask(mask=there[..., 0]):
                return pyro.sample("z", fn.to_event(1))
        if self.way == "distribution":
            return pyro.sample("z", fn.to_event(1).mask(there[..., 0]))
        return pyro.sample("z", fn.mask(there).to_event(1))

    def model(self, x, there):
        with pyro.plate("data", len(x)):
            z = self.drawn(torch.zeros(SIZE), 1.0, there)
            pyro.sample("x", dist.Normal(torch.where(there, z, 0.0).sum(-1), 1.0), obs=x)

    def guide(self, x, there):
        with pyro.plate("data", len(x)):
            num = there.sum(-1, keepdim=True)
            self.drawn((x[:, None] / (1 + num)).expand(-1, SIZE), self.scale, there)

    def exact(self, x, there):
        return dist.Normal(0.0, (1.0 + there.sum(-1)).sqrt()).log_prob(x)


WAYS = ["handler", "distribution", "entries"]


@pytest.fixture(params=WAYS)
def case(request):
    """A pair and six rows: three with all latents, three without any; or with some, where entries count."""
    there = torch.tensor([[True] * SIZE] * 3 + [[False] * SIZE] * 3)
    if request.param == "entries":
        there = torch.rand(6, SIZE) < torch.tensor([1.0, 0.6, 0.4, 0.6, 0.4, 0.0])[:, None]
    return Partly(request.param), (torch.randn(6), there)


def test_weights_leave_it_out(case):
    pair, (x, there) = case
    weights = pair.log_weights((x, there), 5)
    z = torch.where(there, weights.latents["z"], 0.0)
    prior = torch.where(there, dist.Normal(0.0, 1.0).log_prob(z), 0.0).sum(-1)
    torch.testing.assert_close(weights.log_p, prior + dist.Normal(z.sum(-1), 1.0).log_prob(x))


def test_the_latent_view_gives_it_the_same_density_twice(case):
    """What is left of `log_joint - log_start` is the weight of the latents that are there."""
    pair, batch = case
    view = LatentView(pair, batch)
    u = view.draw(pair, batch, 7)
    log_start, log_joint = view.densities(pair, batch, u)
    z, there = view.latents(pair, batch, u)["z"], batch[1]
    for moved in (u, torch.where(there, u, u + 1)):
        start, joint = view.densities(pair, batch, moved)
        torch.testing.assert_close(joint - start, log_joint - log_start)
    by_hand = torch.where(there, dist.Normal(0.0, 1.0).log_prob(z), 0.0).sum(-1)
    by_hand = by_hand + dist.Normal(torch.where(there, z, 0.0).sum(-1), 1.0).log_prob(batch[0])
    noise = torch.where(there, 0.0, dist.Normal(0.0, 1.0).log_prob(u)).sum(-1)
    torch.testing.assert_close(log_joint - noise, by_hand)


@pytest.mark.parametrize("kl", ["auto", "analytic", "monte_carlo"])
def test_its_kl_is_none(case, kl):
    """In value and gradient, against the same written out."""
    pair, (x, there) = case
    value, surrogate = ppvae.ELBO(20_000, kl=kl)(pair, (x, there))
    num = there.sum(-1)
    mean, variance = x / (1 + num), pair.scale**2
    kl_each = (variance + mean**2 - 1 - variance.log()) / 2
    exact = dist.Normal(num * mean, 1.0).log_prob(x) - num * variance / 2 - num * kl_each
    assert ((value - exact).abs() < 0.05).all()
    found, expected = (torch.autograd.grad(total, pair.scale)[0] for total in (surrogate, exact.mean()))
    assert (found - expected).abs() < 0.1
    torch.testing.assert_close(value[~there.any(-1)], exact[~there.any(-1)])


def test_rows_without_it_leave_the_guide_alone(case):
    pair, (x, there) = case
    _, surrogate = ppvae.ELBO()(pair, (x, torch.zeros_like(there)))
    (gradient,) = torch.autograd.grad(surrogate, pair.scale, allow_unused=True, materialize_grads=True)
    assert gradient == 0


@pytest.mark.parametrize("start", ["guide", pytest.param("prior", marks=pytest.mark.slow(8))])
def test_evidence_by_chains(case, start):
    pair, batch = case
    exact = pair.exact(*batch).detach()
    settings = AIS(num_chains=16, num_temperatures=40, start=start, num_leapfrog=2)
    found = ppvae.log_evidence(pair, batch, "bdmc", annealing=settings, seed=0, progress=False)
    absent = ~batch[1].any(-1)
    torch.testing.assert_close(found.estimate[absent], exact[absent])
    assert ((found.estimate - exact).abs() < 5 * found.std_error + 1e-6).all()
    width = found.certificate.width
    assert (width.estimate > -5 * width.std_error - 1e-6).all()
    torch.testing.assert_close(width.estimate[absent], torch.zeros(int(absent.sum())), atol=1e-6, rtol=0)


@pytest.mark.slow(4)
def test_no_line_of_the_ledger_counts_it(case):
    pair, batch = case
    exact = pair.exact(*batch).detach()
    effort = Effort("iwae", 2000, num_samples=200, ascent=Ascent(max_steps=150), restarts=0, refit_steps=0)
    report = ppvae.gap(pair, batch, effort, seed=0, progress=False)
    absent = ~batch[1].any(-1)
    for name in ("log_evidence", "elbo", "elbo_refined", "elbo_full_rank", "elbo_flow"):
        line = getattr(report, name)
        assert (line.estimate < exact + 5 * line.std_error + 1e-3).all(), name
        torch.testing.assert_close(line.estimate[absent], exact[absent], atol=2e-3, rtol=0, msg=name)
    assert (report.elbo_full_rank.estimate > exact - 0.15).all()
