"""Pairs so small that the expectation of any function of K log weights, and its gradient, can be written out.

Each gives `nodes(x)`: log weights `[n, B]` at n points of the guide's sample space, and the points' probabilities, both
differentiable in all parameters; discrete states, or Gauss-Hermite nodes of the noise of a reparameterized draw.
"""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, Normal

from ppvae import Pair
from ppvae.models.parts.mixtures import Mixture


def expected_bound(objective, pair, x, num_draws):
    """`E[bound]`, `[B]`, over all tuples of draws: exact, and differentiable."""
    log_w, probability = pair.nodes(x)
    tuples = torch.cartesian_prod(*[torch.arange(len(log_w))] * num_draws).reshape(-1, num_draws).T
    return (probability[tuples].prod(0) * objective.bound(log_w[tuples])).sum(0)


def normal_noise(num_nodes=24):
    """Nodes and weights of an expectation over N(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    return torch.tensor(nodes), torch.tensor(weights / math.sqrt(2 * math.pi))


class Curved(Pair):
    """z ~ N(0, 1), x | z ~ N(weight sin(z) + shared z, sigma); q(z | x) = N(slope x + shared, scale)."""

    def __init__(self):
        super().__init__()
        self.weight, self.shared, self.log_sigma, self.slope, self.log_scale = (
            nn.Parameter(torch.tensor(value)) for value in (0.8, 0.4, -0.2, 0.3, -0.3)
        )

    def likelihood(self, z):
        return self.weight * z.sin() + self.shared * z, self.log_sigma.exp()

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(*self.likelihood(z)), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.slope * x + self.shared, self.log_scale.exp()))

    def nodes(self, x):
        noise, weights = normal_noise()
        q = Normal(self.slope * x + self.shared, self.log_scale.exp())
        z = q.loc + q.scale * noise.unsqueeze(-1)
        log_w = Normal(0.0, 1.0).log_prob(z) + Normal(*self.likelihood(z)).log_prob(x) - q.log_prob(z)
        return log_w, weights.unsqueeze(-1).expand_as(log_w)


class Discrete(Pair):
    """c -> b -> x with c in three values and b in two, b depending on c in the guide too."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.3, -0.2, 0.1]))
        self.odds = nn.Parameter(torch.tensor([0.5, -0.5, 0.0]))
        self.means = nn.Parameter(torch.tensor([-1.0, 0.2, 1.0]))
        self.slopes = nn.Parameter(torch.tensor([-0.5, 0.1, 0.4]))
        self.guide_odds = nn.Parameter(torch.tensor([0.2, -0.3, 0.6]))

    def model(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.logits))
            b = pyro.sample("b", dist.Bernoulli(logits=self.odds[c]))
            pyro.sample("x", dist.Normal(self.means[c] + b, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=x.unsqueeze(-1) * self.slopes))
            pyro.sample("b", dist.Bernoulli(logits=self.guide_odds[c]))

    def log_joints(self, x):
        """`log p(x, c, b)` and `log q(c, b | x)` at all six states, `[6, B]`."""
        c, b = (t.unsqueeze(-1) for t in torch.cartesian_prod(torch.arange(3), torch.arange(2)).T)
        b = b.to(x.dtype)
        log_p = Categorical(logits=self.logits).log_prob(c) + Bernoulli(logits=self.odds[c]).log_prob(b)
        log_q = Categorical(logits=x.unsqueeze(-1) * self.slopes).log_prob(c)
        log_q = log_q + Bernoulli(logits=self.guide_odds[c]).log_prob(b)
        return log_p + Normal(self.means[c] + b, 1.0).log_prob(x), log_q

    def nodes(self, x):
        log_p, log_q = self.log_joints(x)
        return log_p - log_q, log_q.exp()


class Mixed(Pair):
    """c -> z -> x with z depending on the discrete c in model and guide."""

    def __init__(self):
        super().__init__()
        self.means = nn.Parameter(torch.tensor([-1.0, 0.5]))
        self.log_sigma = nn.Parameter(torch.tensor(-0.2))
        self.logit = nn.Parameter(torch.tensor(0.4))
        self.shifts = nn.Parameter(torch.tensor([-0.3, 0.6]))
        self.log_scale = nn.Parameter(torch.tensor(-0.1))

    def model(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=torch.zeros(2)))
            z = pyro.sample("z", dist.Normal(self.means[c], 1.0))
            pyro.sample("x", dist.Normal(z, self.log_sigma.exp()), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.logit * torch.tensor([-1.0, 1.0])))
            pyro.sample("z", dist.Normal(x / 2 + self.shifts[c], self.log_scale.exp()))

    def nodes(self, x):
        noise, weights = normal_noise(12)
        log_q = (self.logit * torch.tensor([-1.0, 1.0])).log_softmax(0)
        log_w, probability = [], []
        for c in range(2):
            q = Normal(x / 2 + self.shifts[c], self.log_scale.exp())
            z = q.loc + q.scale * noise.unsqueeze(-1)
            log_p = math.log(0.5) + Normal(self.means[c], 1.0).log_prob(z)
            log_p = log_p + Normal(z, self.log_sigma.exp()).log_prob(x)
            log_w.append(log_p - q.log_prob(z) - log_q[c])
            probability.append((weights.unsqueeze(-1) * log_q[c].exp()).expand_as(z))
        return torch.cat(log_w), torch.cat(probability)


class TwoModed(Pair):
    """z -> x and z -> y -> x, z guided by a mixture of two Gaussians, whose draws are reparameterized in part."""

    def __init__(self):
        super().__init__()
        self.log_sigma, self.shared = nn.Parameter(torch.tensor(-0.2)), nn.Parameter(torch.tensor(0.4))
        self.logits = nn.Parameter(torch.tensor([0.3, -0.4]))
        self.means, self.log_scales = (nn.Parameter(torch.tensor(v)) for v in ([-1.0, 0.8], [-0.3, -0.6]))
        self.slope, self.log_scale = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(-0.2))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Normal(self.shared * z, 1.0))
            pyro.sample("x", dist.Normal(y + z.square() / 2, self.log_sigma.exp()), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            components = dist.Normal(self.means + x.unsqueeze(-1) / 4, self.log_scales.exp())
            z = pyro.sample("z", Mixture(dist.Categorical(logits=self.logits), components))
            pyro.sample("y", dist.Normal(self.slope * z + self.shared, self.log_scale.exp()))

    def nodes(self, x):
        noise, weights = normal_noise(12)
        first, second = (t.unsqueeze(-1) for t in torch.cartesian_prod(noise, noise).T)
        weights = torch.cartesian_prod(weights, weights).prod(-1).unsqueeze(-1)
        log_q, log_w, probability = self.logits.log_softmax(0), [], []
        for c in range(2):
            z = self.means[c] + x / 4 + self.log_scales[c].exp() * first
            y = self.slope * z + self.shared + self.log_scale.exp() * second
            log_p = Normal(0.0, 1.0).log_prob(z) + Normal(self.shared * z, 1.0).log_prob(y)
            log_p = log_p + Normal(y + z.square() / 2, self.log_sigma.exp()).log_prob(x)
            each = [log_q[m] + Normal(self.means[m] + x / 4, self.log_scales[m].exp()).log_prob(z) for m in range(2)]
            own = Normal(self.slope * z + self.shared, self.log_scale.exp()).log_prob(y)
            log_w.append(log_p - torch.logaddexp(*each) - own)
            probability.append((weights * log_q[c].exp()).expand_as(z))
        return torch.cat(log_w), torch.cat(probability)


class Bimodal(Pair):
    """`z ~ N(0, 1)`, `x ~ N(z^2, 0.3)`: two modes, of which the guide has one; log p(x) by summing over a fine grid."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z**2, 0.3), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.clamp(min=0.1).sqrt(), 0.2 / x.clamp(min=0.1).sqrt()))

    def on_grid(self, x):
        z = torch.linspace(-8, 8, 20_001)
        log_p = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z**2, 0.3).log_prob(x[:, None])
        return log_p.logsumexp(1) + math.log(16 / 20_000)


class Guided(Pair):
    """`x | z ~ N(sum z, 1)` under a guide that is given."""

    def __init__(self, guide, size=2):
        super().__init__()
        self.given, self.size = guide, size

    def model(self, *args):
        with pyro.plate("data", len(args[0])):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.size), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=args[0])

    def guide(self, *args):
        with pyro.plate("data", len(args[0])):
            pyro.sample("z", self.given(*args))
