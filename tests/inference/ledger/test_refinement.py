"""Refined guides against the best of their family, where that is known in closed form."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.zoo import ZOO

from ppvae import Pair
from ppvae.batches import rows
from ppvae.inference.evidence.estimates import elbo_of
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.refinement import refine
from ppvae.inference.runtime.measuring import measuring
from ppvae.models import GaussianMixture, LinearVAE

NUM_POINTS, NUM_SAMPLES = 20, 400


@pytest.fixture(autouse=True)
def _float64(float64):
    """All of this file in double precision."""


def refined(pair, data, ascent=None, restarts=0, seed=0):
    """What was found, and its ELBO and the amortized one on fresh samples."""
    with measuring(pair, data, seed) as batch:
        found = refine(pair, batch, ascent or Ascent(), restarts, progress=False)
        return (
            found,
            elbo_of(found.pair, found.batch, NUM_SAMPLES, progress=False),
            elbo_of(pair, batch, NUM_SAMPLES, progress=False),
        )


def correlated(guide):
    """A linear VAE whose best guide of each family is known; a factorized one falls short by 0.17 nats."""
    pair = LinearVAE(3, 2, guide=guide)
    with torch.no_grad():
        pair.weight.copy_(torch.tensor([[1.5, 1.0], [0.5, 1.0], [1.0, 0.0]]))
    return pair.fit_guide()


def poor_linear(guide="diagonal"):
    """Its guide off by a constant, and too narrow; and data."""
    pair = correlated(guide)
    with torch.no_grad():
        pair.encoder.bias.add_(1.0)
        pair.posterior_scale.sub_(0.7)
    return pair, pair.sample(NUM_POINTS)


def assert_reaches(elbo, exact):
    """Within four standard errors for each data point, and 0.005 nats more for the mean: what the ascent leaves."""
    assert (elbo.estimate - exact < 4.5 * elbo.std_error + 1e-9).all()
    assert abs(elbo.mean().estimate - exact.mean().item()) < 4 * elbo.mean().monte_carlo_error + 0.005


def test_the_best_factorized_guide_is_reached():
    pair, x = poor_linear()
    best = (pair.log_prob(x) - pair.factorized_gap()).detach()
    found, elbo, _ = refined(pair, x)
    assert pair.factorized_gap() > 0.15
    assert pair.exact_gap(x).mean() > pair.factorized_gap() + 1
    assert_reaches(elbo, best)
    assert found.improved.all()
    assert found.converged == 1.0
    assert found.fixed == {}
    assert found.pair.shapes.keys() == {"z/loc", "z/scale"}


def test_each_data_point_has_the_closed_forms_guide():
    """Location `M^-1 W'(x - mean)`, scale `sigma / sqrt(M_jj)`; errors are what 0.005 nats allow."""
    pair, x = poor_linear()
    found, _, _ = refined(pair, x)
    torch.manual_seed(1)
    z = found.pair.latents(found.batch, 4000)["z"].detach()
    best = pair.fit_guide()._q(x).base_dist
    spread = pair.posterior(x).covariance_matrix[0].detach()
    for off in (z.mean(0) - best.loc).detach():
        assert off @ torch.linalg.solve(spread, off) / 2 < 0.02
    torch.testing.assert_close(z.std(0), best.scale.detach().expand(NUM_POINTS, 2), rtol=0.1, atol=0)


def test_a_full_guide_reaches_the_evidence():
    pair, x = poor_linear("full")
    _, elbo, _ = refined(pair, x)
    assert_reaches(elbo, pair.log_prob(x).detach())


def test_a_latent_known_to_a_millionth_is_refined_like_any_other():
    """`z ~ N(0, 1), x ~ N(z, s^2)`, s = 1e-6: the guide is twice as narrow as the posterior, and three s off."""
    s = torch.tensor(1e-6)

    class Known(Pair):
        def model(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), s), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x + 3 * s, s / 2))

    x = torch.randn(NUM_POINTS)
    log_p = dist.Normal(0.0, (1 + s**2).sqrt()).log_prob(x)
    _, elbo, amortized = refined(Known(), x)
    assert (log_p - amortized.estimate > 4).all()
    assert_reaches(elbo, log_p)


@pytest.mark.parametrize("guide", ["diagonal", "full", "exact"])
def test_what_is_best_is_no_worse_afterwards(guide):
    pair = correlated(guide)
    x = pair.sample(NUM_POINTS)
    _, elbo, amortized = refined(pair, x)
    difference = elbo.estimate - amortized.estimate
    error = torch.hypot(elbo.std_error, amortized.std_error)
    assert (difference > -4.5 * error - 1e-9).all()
    assert difference.mean() > -4 * error.square().sum().sqrt() / NUM_POINTS - 0.005
    assert_reaches(elbo, pair.exact_elbo(x).detach())


def test_an_ascent_that_leads_nowhere_keeps_the_amortized_guide():
    """Steps of a length that throws each guide far off."""
    pair, x = poor_linear()
    found, elbo, amortized = refined(pair, x, Ascent(max_steps=3, lr=100.0))
    assert not found.improved.any()
    assert found.converged == 0.0
    assert all((offset == 0).all() for offset in found.batch[1:])
    error = torch.hypot(elbo.std_error, amortized.std_error)
    assert ((elbo.estimate - amortized.estimate).abs() < 4.5 * error).all()


def test_restarts_find_what_one_start_does_not():
    """A posterior of two modes, the amortized guide at the smaller one: half a unit away the other draws."""

    class Modes(Pair):
        """`p(z) = 0.1 N(-1.2, 0.3) + 0.9 N(1.2, 0.3)`, whatever x."""

        def model(self, x):
            with pyro.plate("data", len(x)):
                component = dist.Normal(torch.tensor([-1.2, 1.2]), 0.3)
                prior = dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.1, 0.9])), component)
                pyro.sample("z", prior)
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.tensor(-0.7), 0.3).expand([len(x)]))

    pair, x = Modes(), torch.zeros(30)
    log_p = dist.Normal(0.0, 1.0).log_prob(x)
    gaps = [(log_p - refined(pair, x, Ascent(max_steps=100), restarts)[1].estimate).mean() for restarts in (0, 4)]
    smaller, larger = -torch.tensor([0.1, 0.9]).log()
    assert abs(gaps[0] - smaller) < 0.1  # the gap at a mode is minus the log of its share
    assert gaps[1] < (smaller + larger) / 2


class TwoCodes(Pair):
    """Two codes that explain x together, `x ~ N(W[a, b], 1)`, and a guide that is a product of the two."""

    def __init__(self, scale, num=3):
        super().__init__()
        self.num, self.table = num, scale * torch.randn(num, num, 4)
        self.encoder = torch.nn.Linear(4, 2 * num)

    def model(self, x):
        with pyro.plate("data", len(x)):
            a, b = (pyro.sample(name, dist.Categorical(logits=torch.zeros(self.num))) for name in "ab")
            pyro.sample("x", dist.Normal(self.table[a, b], 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            for name, logits in zip("ab", self.encoder(x).chunk(2, -1), strict=True):
                pyro.sample(name, dist.Categorical(logits=logits))

    def log_joint(self, x):
        """Of all values of both, `[N, num, num]`."""
        log_p = dist.Normal(self.table, 1.0).log_prob(x[:, None, None]).sum(-1)
        return log_p - 2 * torch.tensor(self.num).log()

    def best_product(self, x):
        """The ELBO of each data point's best product, by coordinate ascent from each of all pairs of values."""
        log_joint, found = self.log_joint(x), []
        for start in torch.eye(self.num):
            q_b = start.expand(len(x), -1)
            for _ in range(200):
                q_a = (log_joint @ q_b[..., None])[..., 0].softmax(-1)
                q_b = (q_a[:, None] @ log_joint)[:, 0].softmax(-1)
            entropy = -(torch.special.xlogy(q_a, q_a).sum(-1) + torch.special.xlogy(q_b, q_b).sum(-1))
            found.append(torch.einsum("ni,nij,nj->n", q_a, log_joint, q_b) + entropy)
        return torch.stack(found).amax(0)


@pytest.mark.parametrize("seed", [1, 3])
def test_codes_that_an_ascent_does_not_leave_are_left_by_restarts(seed):
    """From where the encoder is, a tenth of a nat or more is lost that is not the family's."""
    torch.manual_seed(seed)
    pair = TwoCodes(1.5)
    codes = torch.randint(3, (2, 30))
    x = pair.table[codes[0], codes[1]] + torch.randn(30, 4)
    best = pair.best_product(x)
    assert (pair.log_joint(x).flatten(1).logsumexp(1) - best).mean() < 0.3
    alone, several = ((best - refined(pair, x, restarts=num)[1].estimate).mean() for num in (0, 1))
    assert alone > 0.05
    assert -1e-9 < several < 0.01


@pytest.mark.slow(3)
def test_a_mixture_is_refined_to_its_posterior():
    """The component is summed exactly: without noise the ascent may go on for as long as anything is gained."""
    pair = GaussianMixture(3, 2, guide="amortized")
    x = torch.randn(NUM_POINTS, 2)
    assert pair.exact_gap(x).mean() > 0.05
    found, elbo, _ = refined(pair, x, Ascent(max_steps=900, tolerance=1e-6))
    gap = pair.log_prob(x).detach() - elbo.estimate
    assert (gap > -1e-12).all()
    assert gap.max() < 1e-3
    assert (elbo.std_error < 1e-12).all()
    assert found.improved.all()


@pytest.mark.slow(4)
def test_hierarchies_and_discrete_sites_are_refined():
    """Never above log p(x), where that is known; and better than before."""
    for name in ("bottom-up", "discrete above continuous", "positive"):
        pair, batch = ZOO[name].make()
        _, elbo, amortized = refined(pair, batch)
        log_p = pair.log_prob(batch).detach()
        assert (elbo.estimate - log_p < 4.5 * elbo.std_error).all(), name
        error = (elbo.mean().monte_carlo_error ** 2 + amortized.mean().monte_carlo_error ** 2) ** 0.5
        assert elbo.mean().estimate - amortized.mean().estimate > 4 * error, name


def test_dict_batches_are_refined_likewise():
    """Labels are data, and no offsets; rows of what comes back belong together."""
    pair, batch = ZOO["labeled"].make()
    found, elbo, _ = refined(pair, batch)
    assert list(found.batch) == ["x", "label", "z/loc", "z/scale"]
    assert torch.equal(found.batch["label"], batch["label"])
    weight, shifted = pair.weight.detach(), batch["x"] - pair.shift(batch["label"]).detach()
    M = weight.T @ weight + torch.eye(2)
    factorized_gap = (M.diagonal().log().sum() - torch.logdet(M)) / 2
    assert_reaches(elbo, pair.log_prob(batch).detach() - factorized_gap)
    back = rows(found.batch, torch.arange(8).flip(0))
    torch.manual_seed(1)
    again = found.pair.latents(back, 3000)["z"].mean(0).detach()
    expected = torch.linalg.solve(M, shifted @ weight, left=False).flip(0)
    torch.testing.assert_close(again, expected, atol=0.15, rtol=0)


def test_the_callers_pair_stays_as_it_is():
    pair, x = poor_linear()
    before = {name: t.clone() for name, t in pair.state_dict().items()}
    data, state = x.clone(), torch.get_rng_state()
    refined(pair, x, Ascent(max_steps=20))
    assert pair.state_dict().keys() == before.keys()
    assert all(torch.equal(t, before[name]) for name, t in pair.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in pair.parameters())
    assert pair.training
    assert torch.equal(x, data)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_moved_is_said():
    """A site that stays, beside one that is refined."""

    class Half(Pair):
        def model(self, x):
            with pyro.plate("data", len(x)):
                a = pyro.sample("a", dist.Uniform(-5 * torch.ones(()), 5.0))
                b = pyro.sample("b", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("a", dist.Uniform(-torch.ones(len(x)), 1.0))
                pyro.sample("b", dist.Normal(torch.zeros(len(x)), 0.1))

    found, elbo, amortized = refined(Half(), torch.full((5,), 2.0))
    assert found.fixed == {"a": "Uniform has no argument that can be moved"}
    assert found.pair.shapes.keys() == {"b/loc", "b/scale"}
    assert (elbo.estimate > amortized.estimate + 1).all()


def test_a_pair_without_anything_to_move_is_returned():
    pair, x = ZOO["no latents"].make()
    found, elbo, amortized = refined(pair, x)
    assert found.pair.shapes == {}
    assert not found.improved.any()
    assert torch.equal(elbo.estimate, amortized.estimate)
