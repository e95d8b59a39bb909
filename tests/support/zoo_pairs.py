"""The zoo's pairs that are not the library's: one for each way in which a user's own may differ."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import softplus

from ppvae import Pair
from ppvae.models import LinearVAE


def gaussian(mean, covariance):
    return dist.MultivariateNormal(mean, covariance)


class BottomUp(Pair):
    """z2 -> z1 -> x, guided the other way, x -> z1 -> z2: no KL of z1 given z2 in closed form."""

    def __init__(self):
        super().__init__()
        self.down, self.out = nn.Parameter(torch.randn(2, 2)), nn.Parameter(torch.randn(2, 3))
        self.to_z1, self.to_z2 = nn.Linear(3, 2), nn.Linear(2, 2)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2 @ self.down, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1 @ self.out, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(self.to_z1(x), 0.7).to_event(1))
            pyro.sample("z2", dist.Normal(self.to_z2(z1), 0.7).to_event(1))

    def log_prob(self, x):
        z1 = self.down.T @ self.down + torch.eye(2)
        return gaussian(torch.zeros(3), self.out.T @ z1 @ self.out + torch.eye(3)).log_prob(x)


class TiedWeights(Pair):
    """One matrix decodes and, transposed, encodes."""

    def __init__(self):
        super().__init__()
        self.weight, self.log_scale = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.zeros(()))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight, self.log_scale.exp()).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.weight.T / 2, self.log_scale.exp()).to_event(1))

    def log_prob(self, x):
        noise = (2 * self.log_scale).exp() * torch.eye(3)
        return gaussian(torch.zeros(3), self.weight.T @ self.weight + noise).log_prob(x)


class Labeled(LinearVAE):
    """A linear VAE whose data are shifted by a covariate: a dict batch."""

    def __init__(self):
        super().__init__(num_features=3, num_latents=2)
        self.shift = nn.Embedding(2, 3)

    def model(self, x, label):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T + self.shift(label), 1.0).to_event(1), obs=x)

    def guide(self, x, label):
        super().guide(x - self.shift(label))

    def log_prob(self, batch):
        marginal = gaussian(torch.zeros(3), self.weight @ self.weight.T + torch.eye(3))
        return marginal.log_prob(batch["x"] - self.shift(batch["label"]))


class Unsteady(LinearVAE):
    """A linear VAE whose encoder is normalized over the batch and drops inputs."""

    def __init__(self):
        super().__init__(num_features=3, num_latents=2)
        self.encoder = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.3), nn.Linear(3, 2))


class Positive(Pair):
    """`z ~ Gamma(2, rate)`, `x | z ~ Exponential(z)`, guided by a log-normal."""

    def __init__(self):
        super().__init__()
        self.log_rate, self.encoder = nn.Parameter(torch.zeros(())), nn.Linear(1, 1)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, self.log_rate.exp()))
            pyro.sample("x", dist.Exponential(z), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(self.encoder(x.unsqueeze(-1)).squeeze(-1), 0.6))

    def log_prob(self, x):
        rate = self.log_rate.exp()
        return (2 * rate**2).log() - 3 * (x + rate).log()


class Components(Pair):
    """`c`, three of them; `z | c ~ N(mean_c, 1)`; `x | z ~ N(z, 1)`, or, `tied`, `x | z, c ~ N(z + shift_c, 1)`.

    Without c in the guide it is summed out.
    """

    def __init__(self, *, guided=False, tied=False):
        super().__init__()
        self.guided = guided
        self.logits, self.means = nn.Parameter(torch.randn(3)), nn.Parameter(2 * torch.randn(3))
        self.register_buffer("shift", torch.randn(3) if tied else torch.zeros(3))
        self.tied = tied
        self.encoder = nn.Linear(1, 1)
        if guided:
            self.classifier, self.offsets = nn.Linear(1, 3), nn.Parameter(torch.randn(3))

    def model(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.logits))
            z = pyro.sample("z", dist.Normal(self.means[c], 1.0))
            pyro.sample("x", dist.Normal(z + self.shift[c] if self.tied else z, 1.0), obs=x)

    def guide(self, x):
        features = x.unsqueeze(-1)
        loc = self.encoder(features).squeeze(-1)
        with pyro.plate("data", len(x)):
            if self.guided:
                loc = loc + self.offsets[pyro.sample("c", dist.Categorical(logits=self.classifier(features)))]
            pyro.sample("z", dist.Normal(loc, 0.8))

    def log_prob(self, x):
        marginal = dist.Normal(self.means + self.shift, 2**0.5).log_prob(x.unsqueeze(-1))
        return (self.logits.log_softmax(0) + marginal).logsumexp(-1)


class Summed(Pair):
    """A mixture without a guide: its component is summed out."""

    def __init__(self):
        super().__init__()
        self.logits, self.means = nn.Parameter(torch.randn(3)), nn.Parameter(2 * torch.randn(3))

    def model(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.logits))
            pyro.sample("x", dist.Normal(self.means[c], 1.0), obs=x)

    def guide(self, x):
        pass


class Linearly(Pair):
    """Discrete latents that the model uses linearly: one-hot, or two bits, each its own site or one vector of both."""

    def __init__(self, kind):
        super().__init__()
        self.kind, size = kind, 3 if kind == "one-hot" else 2
        self.prior, self.weight = nn.Parameter(torch.randn(size)), nn.Parameter(torch.randn(size, 3))
        self.encoder = nn.Linear(3, size)

    def latents(self, logits):
        if self.kind == "one-hot":
            return pyro.sample("z", dist.OneHotCategorical(logits=logits))
        if self.kind == "vector":
            return pyro.sample("z", dist.Bernoulli(logits=logits).to_event(1))
        return torch.stack(
            torch.broadcast_tensors(*(pyro.sample(f"z{i}", dist.Bernoulli(logits=logits[..., i])) for i in range(2))),
            -1,
        )

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = self.latents(self.prior)
            pyro.sample("x", dist.Normal(z @ self.weight, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            self.latents(self.encoder(x))

    def log_prob(self, x):
        values = torch.eye(3) if self.kind == "one-hot" else torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 2)
        prior = dist.OneHotCategorical(logits=self.prior)
        if self.kind != "one-hot":
            prior = dist.Bernoulli(logits=self.prior).to_event(1)
        likelihood = dist.Normal(values @ self.weight, 1.0).to_event(1).log_prob(x.unsqueeze(1))
        return (prior.log_prob(values) + likelihood).logsumexp(-1)


class Counts(Pair):
    """A latent count, `z ~ Poisson(rate)`, `x | z ~ N(z, 1)`: discrete, and not finite."""

    def __init__(self):
        super().__init__()
        self.log_rate, self.encoder = nn.Parameter(torch.zeros(())), nn.Linear(1, 1)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Poisson(self.log_rate.exp()))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Poisson(softplus(self.encoder(x.unsqueeze(-1)).squeeze(-1)) + 0.5))

    def log_prob(self, x):
        z = torch.arange(60.0)  # what is left out is below e^-100
        joint = dist.Poisson(self.log_rate.exp()).log_prob(z) + dist.Normal(z, 1.0).log_prob(x.unsqueeze(-1))
        return joint.logsumexp(-1)
