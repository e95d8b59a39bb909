"""Two more oracles: a linear-Gaussian chain, exact in closed form, and a curved 2-D latent, integrated on a grid."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.slow import some_slow
from torch import nn
from torch.distributions import MultivariateNormal

import ppvae
from ppvae import ELBO, IWAE, JVI
from ppvae.models import VAE, LinearGaussianChain

pytestmark = pytest.mark.usefixtures("float64")


class LearnedChain(LinearGaussianChain):
    """A chain of two layers, guided by q(z1 | x) = N(G x, L1 L1') and q(z2 | z1) = N(H z1, L2 L2'), all learned.

    The posterior factorizes as the guide does, so `exact_guide` can set it to the posterior.
    """

    def __init__(self):
        super().__init__(num_features=3, num_latents=[2, 2], guide="exact")
        self.G, self.H = (nn.Parameter(torch.randn(2, n) / 2) for n in (3, 2))
        self.L1, self.L2 = (nn.Parameter(torch.tensor([[0.9, 0.0], [0.2, 0.7]])) for _ in range(2))

    def guide(self, x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.MultivariateNormal(x @ self.G.T, scale_tril=self.L1.tril()))
            pyro.sample("z2", dist.MultivariateNormal(z1 @ self.H.T, scale_tril=self.L2.tril()))

    def _q(self, x):
        S1, S2 = self.L1.tril() @ self.L1.tril().T, self.L2.tril() @ self.L2.tril().T
        loc = x @ self.G.T
        top, cross = self.H @ S1 @ self.H.T + S2, S1 @ self.H.T
        return MultivariateNormal(
            torch.cat([loc, loc @ self.H.T], -1), torch.cat([torch.cat([S1, cross], 1), torch.cat([cross.T, top], 1)])
        )

    @torch.no_grad()
    def exact_guide(self):
        (G, L1), (H, L2) = self.upwards()
        for own, exact in ((self.G, G), (self.L1, L1), (self.H, H), (self.L2, L2)):
            own.copy_(exact)
        return self


@pytest.fixture
def chain():
    return LearnedChain()


def flat(scalar, parameters):
    return torch.cat([g.flatten() for g in torch.autograd.grad(scalar, list(parameters))])


def test_an_exact_guide_over_dependent_sites_has_constant_weights(chain):
    x = torch.randn(4, 3)
    log_w = chain.exact_guide().log_weights(x, 10).log_w
    torch.testing.assert_close(log_w, chain.log_prob(x).expand(10, 4))
    torch.testing.assert_close(chain.exact_elbo(x), chain.log_prob(x))
    for objective in (ELBO(gradient="stl"), IWAE(5, "dreg")):  # no noise, and no signal, in the guide
        guide = flat(objective(chain, x)[1], [chain.G, chain.H, chain.L1, chain.L2])
        torch.testing.assert_close(guide, torch.zeros_like(guide))


@pytest.mark.parametrize(
    "objective",
    some_slow(
        [ELBO(), ELBO(gradient="stl"), ELBO(2, gradient="score"), IWAE(1, "dreg")],
        12,
        lambda objective: objective.gradient in ("reparameterized", "dreg"),
    ),
    ids=str,
)
def test_elbo_and_its_gradient_on_the_chain(objective, chain, assert_mean):
    x = torch.randn(3, 3)
    exact = chain.exact_elbo(x)
    with torch.no_grad():
        values = objective(chain, x.repeat(3000, 1))[0].reshape(3000, 3)
    assert_mean(values, exact.detach(), k=5)
    five = x.repeat(5, 1)
    found = torch.stack([flat(objective(chain, five)[1], chain.parameters()) for _ in range(120)])
    z = (found.mean(0) - flat(exact.mean(), chain.parameters())) / (found.std(0) / 120**0.5)
    assert z[found.std(0) > 0].abs().max() < 5


def test_bounds_enclose_the_chains_evidence_from_below(chain):
    x = torch.randn(3, 3)
    chain.exact_guide()
    chain.G.data += 0.2
    with torch.no_grad():
        means, errors = [], []
        for objective in (ELBO(), IWAE(5), IWAE(50), JVI(50)):
            values = objective(chain, x.repeat(2000, 1))[0].reshape(2000, 3)
            means.append(values.mean(0))
            errors.append(values.std(0) / 2000**0.5)
        exact = chain.log_prob(x)
    assert (means[0] < means[1]).all()
    assert (means[1] < means[2]).all()
    assert (means[2] < exact + 4 * errors[2]).all()
    assert ((means[3] - exact).abs() < 5 * errors[3]).all()


@pytest.mark.slow(9)
def test_bounds_against_a_grid_over_two_latents():
    """log p(x) = log of the integral of N(z; 0, I) p(x | z) over a square, for a decoder that is a network."""
    vae = VAE.mlp(num_features=3, num_latents=2, hidden=[6], likelihood="gaussian")
    x = vae.sample(3)
    side = torch.linspace(-7, 7, 401)
    z = torch.cartesian_prod(side, side).unsqueeze(1)
    with torch.no_grad():
        log_joint = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x)
        exact = log_joint.logsumexp(0) + 2 * math.log(14 / 400)
        bounds = [objective(vae, x.repeat(4000, 1))[0].reshape(4000, 3) for objective in (ELBO(), IWAE(5), IWAE(50))]
    means = [bound.mean(0) for bound in bounds]
    assert (means[0] < means[1]).all()
    assert (means[1] < means[2]).all()
    assert (means[2] < exact + 4 * bounds[2].std(0) / 4000**0.5).all()
    evidence = ppvae.log_evidence(vae, x, num_particles=100_000, seed=0, progress=False)
    assert ((evidence.estimate - exact) / evidence.std_error).abs().max() < 4
