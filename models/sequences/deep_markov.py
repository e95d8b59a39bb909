"""The deep Markov model: a state space model whose transition, emission and guide are networks."""

from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.arguments import Levels, Size, checked
from ppvae.models.named_likelihoods import LIKELIHOODS
from ppvae.models.sequences.recurrent_posteriors import Combiner, CombinerFlow, MeanField
from ppvae.models.sequences.state_space import StateSpace
from ppvae.networks import mlp

POSTERIORS = {"combiner": Combiner, "iaf": CombinerFlow, "mean_field": MeanField}


class GatedTransition(nn.Module):
    """`p(z_t | z_{t-1}) = N((1 - g) (W z_{t-1} + b) + g m, sigma^2)`, with gates g, m and sigma functions of z_{t-1}.

    Each unit chooses between linear and nonlinear dynamics. W starts as the identity. sigma is a function of m.

    Source: Krishnan et al. 2017 (arXiv:1609.09869).

    Args:
        num_latents: D.
        hidden: sizes of the hidden layers of the networks of g and m.

    Example:
        >>> GatedTransition(2, [20])(torch.zeros(7, 5, 2)).event_shape
        torch.Size([2])
    """

    @checked
    def __init__(self, num_latents: Size, hidden: Sequence[Size]):
        super().__init__()
        self.gate = mlp(num_latents, hidden, num_latents, nn.ReLU)
        self.nonlinear = mlp(num_latents, hidden, num_latents, nn.ReLU)
        self.linear = nn.Linear(num_latents, num_latents)
        self.scale = nn.Linear(num_latents, num_latents)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        gate, proposed = self.gate(z).sigmoid(), self.nonlinear(z)
        loc = (1 - gate) * self.linear(z) + gate * proposed
        return dist.Normal(loc, softplus(self.scale(proposed.relu()))).to_event(1)


class LearnedNormal(nn.Module):
    """`p(z_1) = N(mu, diag sigma^2)`, both learned; it starts as N(0, I).

    Args:
        num_latents: D.

    Example:
        >>> LearnedNormal(3)().event_shape
        torch.Size([3])
    """

    @checked
    def __init__(self, num_latents: Size):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(num_latents))
        self.log_scale = nn.Parameter(torch.zeros(num_latents))

    def forward(self) -> dist.TorchDistribution:
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)


class DeepMarkov(StateSpace):
    """`p(z_1) p(x_1 | z_1) prod_t p(z_t | z_{t-1}) p(x_t | z_t)`, with networks for transition, emission and guide.

    Takes `x`, `[B, T, F]`, or `(x, lengths)`; see `StateSpace`. Importance weights of whole paths spread as time goes
    on, so log p(x) of long sequences is a matter for particle filters, `log_evidence(..., "bootstrap filter")`.

    Source: Krishnan et al. 2017 (arXiv:1609.09869).

    Args:
        num_features: F, size of x_t.
        num_latents: D, size of z_t.
        hidden: sizes of the hidden layers of emission and transition; the last is that of the guide's recurrent
            network.
        likelihood: "bernoulli", "gaussian" (one learned sigma), "heteroscedastic" (sigma(z), a network), or another
            name in `ppvae.models.named_likelihoods.LIKELIHOODS`.
        posterior: "combiner", a Gaussian `q(z_t | z_{t-1}, x_t ... x_T)`; "iaf", a flow in its place; or "mean_field",
            `q(z_t | x)`.
        levels: number of gray levels, or of ordered categories, as in `VAE.mlp`.

    Raises:
        ValueError: no hidden layers, or a likelihood or posterior of another name.

    Example:
        >>> dmm = DeepMarkov(num_features=3, num_latents=2, hidden=[20])
        >>> x, lengths = torch.zeros(4, 6, 3), torch.tensor([6, 2, 5, 6])
        >>> dmm.log_weights((x, lengths), num_particles=10).log_w.shape
        torch.Size([10, 4])
    """

    @checked
    def __init__(
        self,
        num_features: Size,
        num_latents: Size,
        hidden: Sequence[Size] = (64,),
        likelihood: str = "bernoulli",
        posterior: Literal["combiner", "iaf", "mean_field"] = "combiner",
        levels: Levels = 256,
    ):
        super().__init__()
        if not hidden:
            raise ValueError("hidden: found no layers, expected at least one, whose size the guide's network has too")

        def decoder(num_outputs: int) -> nn.Module:
            return mlp(num_latents, hidden, num_outputs, nn.ReLU)

        self.prior = LearnedNormal(num_latents)
        self.transition = GatedTransition(num_latents, hidden)
        self.likelihood = LIKELIHOODS[likelihood].of(decoder, (num_features,), levels)
        self.posterior = POSTERIORS[posterior](num_features, num_latents, hidden[-1])
        self.example = torch.zeros(1, 10, num_features)
