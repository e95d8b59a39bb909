"""Guides of sequences: recurrent networks read the data, and each step's latent is drawn from what they have read."""

from typing import Any

import torch
from torch import Tensor, nn

from ppvae.arguments import Few, Size, checked
from ppvae.models.parts.conditionals import DiagonalNormal
from ppvae.models.parts.flow_posteriors import InverseAutoregressiveFlow
from ppvae.steps import Conditional


class BackwardGRU(nn.Module):
    """A recurrent network from a sequence's last step to its first: h_t depends on `x_t ... x_T`.

    Args:
        num_features: F.
        num_hidden: H.

    Example:
        >>> BackwardGRU(3, 8)(torch.zeros(5, 10, 3)).shape
        torch.Size([5, 10, 8])
    """

    @checked
    def __init__(self, num_features: Size, num_hidden: Size):
        super().__init__()
        self.network = nn.GRU(num_features, num_hidden, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`[B, T, F] -> [B, T, H]`; it starts at each row's own last step."""
        if lengths is None:
            return self.network(x.flip(1))[0].flip(1)
        t = torch.arange(x.shape[1], device=x.device)
        from_end = lengths.long().unsqueeze(-1) - 1 - t
        turned = torch.where(from_end >= 0, from_end, t).unsqueeze(-1)
        hidden = self.network(x.gather(1, turned.expand_as(x)))[0]
        return hidden.gather(1, turned.expand_as(hidden))


class Combiner(nn.Module):
    """`q(z_t | z_{t-1}, x_t ... x_T)`: the form that the posterior of a state space model has.

    A Gaussian, with mean and scale linear in `(tanh(W z_{t-1} + b) + h_t) / 2`, where h_t is what a recurrent network
    has read backwards in time. In place of z_0 a vector is learned.

    Source: Krishnan et al. 2017 (arXiv:1609.09869), DKS with a linear combiner.

    Args:
        num_features: F, size of x_t.
        num_latents: D, size of z_t.
        num_hidden: H, of the recurrent network.

    Example:
        >>> q = Combiner(3, 2, 8)(torch.zeros(5, 10, 3))
        >>> q(1, torch.zeros(7, 5, 2)).batch_shape
        torch.Size([7, 5])
    """

    @checked
    def __init__(self, num_features: Size, num_latents: Size, num_hidden: Size):
        super().__init__()
        self.reader = BackwardGRU(num_features, num_hidden)
        self.from_latent = nn.Linear(num_latents, num_hidden)
        self.head: nn.Module = DiagonalNormal(nn.Linear(num_hidden, 2 * num_latents))
        self.before = nn.Parameter(torch.zeros(num_latents))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Conditional:
        hidden = self.reader(x, lengths)

        def q(t: int, z: Tensor | None) -> Any:
            before = self.before if z is None else z
            return self.head((self.from_latent(before).tanh() + hidden[:, t]) / 2)

        return q


class CombinerFlow(Combiner):
    """A `Combiner` whose `q(z_t | z_{t-1}, x_t ... x_T)` is an inverse autoregressive flow in place of a Gaussian.

    See `InverseAutoregressiveFlow`: the density of another guide's draws takes D passes in sequence, as the particle
    filter's half from the prior does.

    Source: Kingma et al. 2016 (arXiv:1606.04934).

    Args:
        num_features: F, size of x_t.
        num_latents: D, size of z_t, at least 2.
        num_hidden: H, of the recurrent network and of each map's, at least D.
        num_maps: n.

    Raises:
        ValueError: fewer than two latents, or fewer hidden units than latents.

    Example:
        >>> q = CombinerFlow(3, 2, 8)(torch.zeros(5, 10, 3))
        >>> q(1, torch.zeros(7, 5, 2)).batch_shape
        torch.Size([7, 5])
    """

    @checked
    def __init__(self, num_features: Size, num_latents: Size, num_hidden: Size, num_maps: Few = 2):
        super().__init__(num_features, num_latents, num_hidden)
        self.head = InverseAutoregressiveFlow(nn.Linear(num_hidden, 2 * num_latents), num_latents, num_maps, num_hidden)


class MeanField(nn.Module):
    """`q(z_t | x)`, independent in time: a Gaussian from networks that read the data in both directions.

    It cannot say that neighbors in time are correlated given x, and pays for it at each step.

    Source: Krishnan et al. 2017 (arXiv:1609.09869), MF-LR.

    Args:
        num_features: F, size of x_t.
        num_latents: D, size of z_t.
        num_hidden: H, of the recurrent network of each direction.

    Example:
        >>> MeanField(3, 2, 8)(torch.zeros(5, 10, 3))(1, None).batch_shape
        torch.Size([5])
    """

    @checked
    def __init__(self, num_features: Size, num_latents: Size, num_hidden: Size):
        super().__init__()
        self.forwards = nn.GRU(num_features, num_hidden, batch_first=True)
        self.backwards = BackwardGRU(num_features, num_hidden)
        self.head = DiagonalNormal(nn.Linear(2 * num_hidden, 2 * num_latents))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Conditional:
        hidden = torch.cat([self.forwards(x)[0], self.backwards(x, lengths)], -1)
        return lambda t, z: self.head(hidden[:, t])
