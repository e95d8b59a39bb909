"""Likelihoods of counts: Poisson, negative binomial, and with more zeros than these expect."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.arguments import Natural, Observed, Sizes, checked
from ppvae.models.parts.likelihood import Likelihood
from ppvae.models.parts.likelihoods import mean_per_output, per_output
from ppvae.networks import inverse_softplus, output_bias

LEAST_MEAN, LEAST_DISPERSION = 1e-2, 1e-2
MOST_DISPERSION = 1e3


class CompressedCounts(nn.Module):
    """`asinh(x)`, by which an encoder sees counts: x where it is small, its logarithm where it is large."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.asinh(x)


class Poisson(Likelihood):
    """`p(x | z) = prod_i Poisson(x_i; exp(f_i(z)))`, for counts.

    Not where counts vary more than their means explain: see `NegativeBinomial`. In float32 log p is off by about
    `1e-7 x log x`: take `pair.double()` for counts above 100,000.

    Args:
        network: `[*, D] -> [*, *event]`, the log rates.
        event_dim: number of event dimensions of x; 3 for images `[C, H, W]`.

    Example:
        >>> Poisson(nn.Linear(2, 5))(torch.zeros(4, 2)).event_shape
        torch.Size([5])
    """

    @checked
    def __init__(self, network: nn.Module, event_dim: Natural = 1):
        super().__init__()
        self.network = network
        self.event_dim = event_dim

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(self.network(z).exp()).to_event(self.event_dim)

    @checked
    def init_from(self, x: Observed) -> None:
        """Sets the network's output bias to the log of the data mean, of 0.01 at least."""
        bias = output_bias(self.network)
        bias.data.copy_(mean_per_output(x, bias, self.event_dim).clamp(min=LEAST_MEAN).log())


class NegativeBinomial(Likelihood):
    """Counts with mean `mu(z)` and variance `mu + mu^2 / theta`, theta learned for each feature or channel.

    `p(x | z) = prod_i [gate_i delta_0(x_i) + (1 - gate_i) NB(x_i; mu_i(z), theta_i)]`; without a gate network, the gate
    is 0. As theta grows it becomes Poisson's. A gate is hard to tell from a small theta where counts are low. As to
    counts above 100,000, see `Poisson`.

    Source: Eraslan et al. 2019, Nature Communications 10:390 (the zero-inflated one, of single cells).

    Args:
        network: `[*, D] -> [*, *event]`, `log mu`.
        event_shape: of x: `(num_features,)` or `(C, H, W)`.
        gate: `[*, D] -> [*, *event]`, the logits of the extra zeros.

    Example:
        >>> NegativeBinomial(nn.Linear(2, 5), (5,), gate=nn.Linear(2, 5))(torch.zeros(4, 2)).event_shape
        torch.Size([5])
    """

    @checked
    def __init__(self, network: nn.Module, event_shape: Sizes, gate: nn.Module | None = None):
        super().__init__()
        self.network, self.gate = network, gate
        self.event_dim = len(event_shape)
        self.unconstrained_dispersion = nn.Parameter(torch.zeros(event_shape[0], *(1,) * (self.event_dim - 1)))

    def dispersion(self) -> Tensor:
        """theta, `[num_features]` or `[C, 1, 1]`."""
        return LEAST_DISPERSION + softplus(self.unconstrained_dispersion)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        theta = self.dispersion()
        logits = self.network(z) - theta.log()
        if self.gate is None:
            return dist.NegativeBinomial(theta, logits=logits).to_event(self.event_dim)
        gated = dist.ZeroInflatedNegativeBinomial(theta, logits=logits, gate_logits=self.gate(z))
        return gated.to_event(self.event_dim)

    @checked
    def init_from(self, x: Observed) -> None:
        """Sets mu to the data mean, and theta to what the data's variance says beyond a Poisson's."""
        bias = output_bias(self.network)
        values = per_output(x.to(bias), self.event_dim, len(bias))
        mean = values.mean(0).clamp(min=LEAST_MEAN)
        bias.data.copy_(mean.log())
        excess = (values.var(0, correction=0) - mean).clamp(min=mean.square() / MOST_DISPERSION)
        theta = (mean.square() / excess).clamp(2 * LEAST_DISPERSION, MOST_DISPERSION)
        raw = self.unconstrained_dispersion
        raw.data.copy_(inverse_softplus(theta - LEAST_DISPERSION).view_as(raw))
