"""Every estimator against what is known exactly: claimed, measured, and the difference in standard errors.

    python benchmarks/oracles.py

Values: of weights drawn from Exp(1), for which E log mean w = digamma(K) - log K and log E w = 0. Gradients: the mean
over repeats, along the direction of the exact gradient of the expected bound, which is a quadrature over the noise of
one continuous latent, or a sum over the values of a discrete one; those known to be biased say so. Rates: slopes of the
logarithm of the signal-to-noise ratio on log K, on the Gaussian toy of Rainforth et al. 2018.
"""

import math
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

import ppvae
from ppvae import CIWAE, CUBO, ELBO, IWAE, JVI, MIWAE, PIWAE, RWS, SUMO, TVO, VIMCO, EnumeratedELBO, Renyi, VRMax
from ppvae.inference.diagnostics.chunked_gradient import flat_gradient

DRAWS, REPEATS = 50_000, 1500


def row(name: str, claim: str, exact: float, draws: Tensor, note: str = "") -> None:
    """A line of the table: the mean of `draws` against the claim."""
    mean, std_error = draws.mean().item(), draws.std().item() / math.sqrt(len(draws))
    z = "exact" if std_error < 1e-12 and abs(mean - exact) < 1e-9 else f"{(mean - exact) / std_error:+.1f}"
    print(f"| {name} | {claim} | {exact:.4f} | {mean:.4f} | {std_error:.4f} | {z} | {note} |", flush=True)


def values() -> None:
    """Bounds as functions of the log weights."""

    def log_w(num_draws: int, repeats: int = DRAWS) -> Tensor:
        return torch.empty(num_draws, repeats).exponential_().log()

    mean = {n: torch.digamma(torch.tensor(float(n))).item() - math.log(n) for n in (1, 9, 10, 100)}
    log_max = sum((-1) ** k * math.comb(10, k) * (np.euler_gamma + math.log(k)) for k in range(1, 11))
    sumo = SUMO()
    num_terms = sumo.num_terms(1 - torch.rand(DRAWS))
    for K in (1, 10, 100):
        row(f"IWAE({K})", "digamma(K) - log K", mean[K], IWAE(K).bound(log_w(K)))
    for grouped in (MIWAE(10, num_groups=5), PIWAE(10, num_groups=5)):
        row(f"{type(grouped).__name__}(10), 5 groups", "as IWAE(10)", mean[10], grouped.bound(log_w(50)))
    mixed = 0.3 * mean[1] + 0.7 * mean[10]
    row("CIWAE(10), beta 0.3", "0.3 IWAE(1) + 0.7 IWAE(10)", mixed, CIWAE(10, beta=0.3).bound(log_w(10)))
    row("Renyi(10), alpha 1", "as IWAE(1)", mean[1], Renyi(10, alpha=1.0).bound(log_w(10)))
    row("Renyi(10), alpha 0", "as IWAE(10)", mean[10], Renyi(10, alpha=0.0).bound(log_w(10)))
    row("VRMax(10)", "E log max w", log_max, VRMax(10).bound(log_w(10)))
    row("CUBO(30,000), n = 2", "log(E w^2) / 2, K infinite", math.log(2) / 2, CUBO(30_000).bound(log_w(30_000, 400)))
    row("TVO(10), one interval", "as IWAE(1)", mean[1], TVO(10, partition=(0, 1)).bound(log_w(10)))
    row("JVI(10), order 1", "10 IWAE(10) - 9 IWAE(9)", 10 * mean[10] - 9 * mean[9], JVI(10).bound(log_w(10)))
    row("SUMO", "log E w", 0.0, sumo.estimate(log_w(5 + int(num_terms.max())), num_terms))


class Continuous(ppvae.Pair):
    """z ~ N(0, 1), x | z ~ N(weight sin(z) + shared z, 1); q(z | x) = N(slope x + shared, scale)."""

    def __init__(self):
        super().__init__()
        values = {"weight": 0.8, "shared": 0.4, "slope": 0.3, "log_scale": -0.3}
        for name, value in values.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(value)))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.weight * z.sin() + self.shared * z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.slope * x + self.shared, self.log_scale.exp()))

    def nodes(self, x):
        """Log weights at Gauss-Hermite nodes of the guide's noise, `[n, B]`, and the nodes' probabilities."""
        noise, weights = (torch.tensor(t).unsqueeze(-1) for t in np.polynomial.hermite_e.hermegauss(24))
        q = Normal(self.slope * x + self.shared, self.log_scale.exp())
        z = q.loc + q.scale * noise
        likelihood = Normal(self.weight * z.sin() + self.shared * z, 1.0)
        log_w = Normal(0.0, 1.0).log_prob(z) + likelihood.log_prob(x) - q.log_prob(z)
        return log_w, (weights / math.sqrt(2 * math.pi)).expand_as(log_w)


class Discrete(ppvae.Pair):
    """c of three values, x | c ~ N(mean_c, 1); q(c | x) is the softmax of slope_c x."""

    def __init__(self):
        super().__init__()
        self.means = nn.Parameter(torch.tensor([-1.0, 0.2, 1.0]))
        self.slopes = nn.Parameter(torch.tensor([-0.5, 0.1, 0.4]))

    def model(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=torch.zeros(3)))
            pyro.sample("x", dist.Normal(self.means[c], 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(logits=x.unsqueeze(-1) * self.slopes))

    def nodes(self, x):
        """Log weights of the three values, `[3, B]`, and their probabilities under the guide."""
        log_q = Categorical(logits=x.unsqueeze(-1) * self.slopes).logits.T
        log_p = Normal(self.means.unsqueeze(-1), 1.0).log_prob(x) - math.log(3)
        return log_p - log_q, log_q.exp()


def gradients() -> None:
    """The mean gradient of each estimator, along the exact one."""
    x = torch.tensor([-0.7, 0.4, 1.9])

    def check(pair: ppvae.Pair, objective: ppvae.Objective, bound: Callable[[Tensor], Tensor], note: str = "") -> None:
        parameters = list(pair.parameters())
        log_w, probability = pair.nodes(x)
        tuples = torch.cartesian_prod(torch.arange(len(log_w)), torch.arange(len(log_w))).T
        exact = flat_gradient((probability[tuples].prod(0) * bound(log_w[tuples])).sum(0).mean(), parameters)
        found = torch.stack([flat_gradient(objective(pair, x)[1], parameters) for _ in range(REPEATS)])
        name = repr(objective).replace("num_particles=", "").replace("gradient=", "")
        name = name.replace(", kl='auto', beta=1.0, free_bits=0.0", "")
        row(name, f"{type(pair).__name__.lower()} latent", exact.norm().item(), found @ exact / exact.norm(), note)

    def elbo(log_w: Tensor) -> Tensor:
        return log_w.mean(0)

    for gradient in ("reparameterized", "stl", "score"):
        check(Continuous(), ELBO(2, gradient=gradient), elbo)
    for gradient in ("reparameterized", "dreg", "score"):
        check(Continuous(), IWAE(2, gradient), IWAE().bound)
    check(Continuous(), IWAE(2, "stl"), IWAE().bound, "biased for K > 1")
    for objective in (MIWAE(2, "dreg", num_groups=1), CIWAE(2, "dreg", beta=0.3), Renyi(2, alpha=0.5), VRMax(2)):
        check(Continuous(), objective, objective.bound)
    for objective, note in ((RWS(2), "its guide's is another"), (CUBO(2), "its guide's is another")):
        check(Continuous(), objective, IWAE().bound, note)
    check(Discrete(), EnumeratedELBO(), elbo)
    check(Discrete(), ELBO(2), elbo)
    for objective in (IWAE(2), VIMCO(2)):
        check(Discrete(), objective, IWAE().bound)
    check(Discrete(), TVO(2, partition=(0, 1)), elbo, "biased in the guide by 1/K")


class GaussianToy(ppvae.Pair):
    """z ~ N(mu, I), x | z ~ N(z, I), q(z | x) = N(A x + b, 2/3 I), 0.01 off the optimum A = I/2, b = mu/2."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Parameter(torch.randn(20))
        self.A = nn.Parameter(torch.eye(20) / 2 + 0.01 * torch.randn(20, 20))
        self.b = nn.Parameter(self.mu.detach() / 2 + 0.01 * torch.randn(20))
        self.example = torch.zeros(1, 20)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.mu, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.A.T + self.b, (2 / 3) ** 0.5).to_event(1))


def rates() -> None:
    """Slopes of log SNR on log K, by least squares; they are limits, which dreg's reaches late."""
    toy = GaussianToy()
    groups = {"mu (model)": ["mu"], "b (guide)": ["b"]}
    for gradient, K, points, repeats, claims in (
        ("reparameterized", [4, 16, 64, 256], 200, 800, {"mu (model)": 0.5, "b (guide)": -0.5}),
        ("dreg", [32, 64, 128, 256], 20, 300, {"b (guide)": 0.5}),
    ):
        ds = ppvae.gradient_statistics(
            toy, toy.sample(points), [IWAE(gradient=gradient)], K, repeats, groups, progress=False
        ).isel(objective=0)
        for group, claim in claims.items():
            snr, error = (ds[name].sel(group=group).values for name in ("snr", "snr_std_error"))
            centered = np.log(K) - np.log(K).mean()
            slope = (centered * np.log(snr)).sum() / (centered**2).sum()
            std_error = (centered**2 * (error / snr) ** 2).sum() ** 0.5 / (centered**2).sum()
            print(
                f"| IWAE {gradient}, {group} | {claim:+.1f} | {slope:+.3f} | {std_error:.3f} | K = {K[0]} to {K[-1]} |"
            )


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    pyro.enable_validation(False)
    header = "| {} | claim | exact | measured | standard error | z | |\n|---|---|---|---|---|---|---|"
    print(header.format("value"))
    values()
    print("\n" + header.format("gradient"))
    gradients()
    print("\n| slope of log SNR on log K | claimed | measured | standard error | |\n|---|---|---|---|---|")
    rates()


if __name__ == "__main__":
    main()
