"""Two more oracles: a linear-Gaussian chain, exact in closed form, and a curved 2-D latent, integrated on a grid."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

import ppvae
from ppvae import ELBO, IWAE, JVI, Pair
from ppvae.models import VAE

pytestmark = pytest.mark.usefixtures("float64")


class LinearGaussianChain(Pair):
    """z2 ~ N(0, I), z1 | z2 ~ N(A z2, I/2), x | z1 ~ N(C z1, I); guide q(z1 | x) = N(G x, L1 L1'), q(z2 | z1) alike.

    The posterior factorises as the guide does, so `exact_guide` can set it to the posterior.
    """

    def __init__(self):
        super().__init__()
        self.A, self.C, self.G, self.H = (
            nn.Parameter(torch.randn(*shape) / 2) for shape in ((2, 2), (3, 2), (2, 3), (2, 2))
        )
        self.L1, self.L2 = (nn.Parameter(torch.tensor([[0.9, 0.0], [0.2, 0.7]])) for _ in range(2))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2 @ self.A.T, 0.5**0.5).to_event(1))
            pyro.sample("x", dist.Normal(z1 @ self.C.T, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.MultivariateNormal(x @ self.G.T, scale_tril=self.L1.tril()))
            pyro.sample("z2", dist.MultivariateNormal(z1 @ self.H.T, scale_tril=self.L2.tril()))

    def joint(self):
        """The covariance of (z1, z2, x), all of mean zero."""
        S1 = self.A @ self.A.T + torch.eye(2) / 2
        rows = [
            [S1, self.A, S1 @ self.C.T],
            [self.A.T, torch.eye(2), self.A.T @ self.C.T],
            [self.C @ S1, self.C @ self.A, self.C @ S1 @ self.C.T + torch.eye(3)],
        ]
        return torch.cat([torch.cat(row, 1) for row in rows])

    def log_prob(self, x):
        return MultivariateNormal(torch.zeros(3), self.joint()[4:, 4:]).log_prob(x)

    def posterior(self, x):
        S = self.joint()
        gain = S[:4, 4:] @ S[4:, 4:].inverse()
        return MultivariateNormal(x @ gain.T, S[:4, :4] - gain @ S[4:, :4])

    def q(self, x):
        S1, S2 = self.L1.tril() @ self.L1.tril().T, self.L2.tril() @ self.L2.tril().T
        loc = x @ self.G.T
        top, cross = self.H @ S1 @ self.H.T + S2, S1 @ self.H.T
        return MultivariateNormal(
            torch.cat([loc, loc @ self.H.T], -1), torch.cat([torch.cat([S1, cross], 1), torch.cat([cross.T, top], 1)])
        )

    def elbo(self, x):
        return self.log_prob(x) - kl_divergence(self.q(x), self.posterior(x))

    @torch.no_grad()
    def exact_guide(self):
        posterior = self.posterior(torch.eye(3))
        S = posterior.covariance_matrix[0]
        self.G.copy_(posterior.loc[:, :2].T)
        self.H.copy_(S[2:, :2] @ S[:2, :2].inverse())
        self.L1.copy_(torch.linalg.cholesky(S[:2, :2]))
        self.L2.copy_(torch.linalg.cholesky(S[2:, 2:] - self.H @ S[:2, 2:]))
        return self


@pytest.fixture
def chain():
    return LinearGaussianChain()


def flat(scalar, pair):
    return torch.cat([g.flatten() for g in torch.autograd.grad(scalar, list(pair.parameters()))])


def test_an_exact_guide_over_dependent_sites_has_constant_weights(chain):
    x = torch.randn(4, 3)
    log_w = chain.exact_guide().log_weights(x, 10).log_w
    torch.testing.assert_close(log_w, chain.log_prob(x).expand(10, 4))
    torch.testing.assert_close(chain.elbo(x), chain.log_prob(x))
    for objective in (ELBO(gradient="stl"), IWAE(5, "dreg")):  # no noise, and no signal, in the guide
        guide = flat(objective(chain, x)[1], chain)[10:]
        torch.testing.assert_close(guide, torch.zeros_like(guide))


@pytest.mark.parametrize(
    "objective", [ELBO(), ELBO(gradient="stl"), ELBO(2, gradient="score"), IWAE(1, "dreg")], ids=str
)
def test_elbo_and_its_gradient_on_the_chain(objective, chain, assert_mean):
    x = torch.randn(3, 3)
    exact = chain.elbo(x)
    with torch.no_grad():
        values = objective(chain, x.repeat(3000, 1))[0].reshape(3000, 3)
    assert_mean(values, exact.detach(), k=5)
    found = torch.stack([flat(objective(chain, x)[1], chain) for _ in range(600)])
    z = (found.mean(0) - flat(exact.mean(), chain)) / (found.std(0) / 600**0.5)
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
