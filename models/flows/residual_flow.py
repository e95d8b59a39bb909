"""A residual flow: blocks `x + g(x)` with g a contraction, and so invertible."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.func import vjp
from torch.nn.functional import linear, softplus

from ppvae.arguments import Few, Size, checked
from ppvae.models.flows.actnorm import ActNorm
from ppvae.models.flows.flow import Flow
from ppvae.models.flows.jacobians import jacobian, random_signs
from ppvae.models.flows.transforms import Bijection
from ppvae.models.parts.priors import StandardNormal
from ppvae.rules import Number

Contraction = Annotated[float, Number(above=0, below=1)]
"""For blocks to be invertible."""


class ResidualFlow(Flow):
    """Blocks `z = x + g(x)`, from data to standard normal noise, with g a network of Lipschitz constant below 1.

    Each block stretches by less than 2; between blocks are normalizations (`init_from` sets them from data).

    The inverse is the limit of `x <- z - g(x)`. `log |det dz/dx| = log det(I + J) = sum_k (-1)^(k+1) tr(J^k) / k`, J
    being the Jacobian of g. In eval mode, and in `log_prob`, it is exact, by the determinant, which takes D derivatives
    and suits small D. In training mode it is exact too if D is at most the average number of terms of the series, `D <=
    1 / (1 - c)`, c being the Lipschitz constant. For larger D it is an unbiased estimate (Russian roulette): N terms
    with `P(N >= k) = c^(k-1)`, the k-th divided by this probability, and `tr(J^k)` by Hutchinson's `e' J^k e`. As
    `|e' J^k e| <= D c^k`, its variance is finite whatever the weights. So train with a bound that is linear in
    log p(x), such as `ELBO`. (An IWAE would favor particles whose estimates happen to be high.)

    N is drawn anew in each step, which cannot be compiled: `fit(compile=True)` warns, and trains uncompiled.

    Source: Behrmann et al. 2019 (arXiv:1811.00995); Chen et al. 2019 (arXiv:1906.02735).

    Args:
        num_features: D.
        num_blocks: how many.
        hidden: sizes of the hidden layers of each g.
        lipschitz: c, an upper bound of the Lipschitz constant of each g, in (0, 1). Nearer to 1, blocks are more
            flexible and cost more: on average 1 / (1 - c) terms, and log(accuracy) / log(c) steps for the inverse.

    Raises:
        ValueError: a Lipschitz constant outside (0, 1).

    Example:
        >>> ResidualFlow(num_features=2, num_blocks=2, hidden=[8]).sample(3).shape
        torch.Size([3, 2])
    """

    @checked
    def __init__(
        self, num_features: Size, num_blocks: Few = 8, hidden: Sequence[Size] = (64, 64), lipschitz: Contraction = 0.9
    ):
        sizes = [num_features, *hidden, num_features]
        transforms: list[Bijection] = [ActNorm(num_features)]
        for _ in range(num_blocks):
            transforms += [ResidualBlock(_contraction(sizes, lipschitz), lipschitz), ActNorm(num_features)]
        super().__init__(StandardNormal(num_features), transforms)


class ResidualBlock(Bijection):
    """The x with `x + g(x) = z`, for a network g, `[*, D] -> [*, D]`, of Lipschitz constant at most c < 1."""

    def __init__(self, network: nn.Module, lipschitz: float):
        super().__init__(event_dim=1)
        self.network = network
        self.lipschitz = lipschitz

    def push(self, z: Tensor) -> Tensor:
        """By fixed-point iteration, to rounding: each step reduces the error at least by the factor c."""
        x = z
        for _ in range(math.ceil(math.log(torch.finfo(z.dtype).eps) / math.log(self.lipschitz))):
            x, before = z - self.network(x), x
            if torch.equal(x, before):
                break
        return x

    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        g, pullback, *_ = vjp(self.network, x)
        roulette = self.training and x.shape[-1] > 1 / (1 - self.lipschitz)
        return x + g, self._estimate(x, pullback) if roulette else _exact(x, pullback)

    def _estimate(self, x: Tensor, pullback: Callable[..., Any]) -> Tensor:
        """One N for the whole batch; each data point has its own signs e."""
        num_terms = 1 + int((1 - torch.rand(())).log() / math.log(self.lipschitz))
        signs = random_signs(x)
        power, total = signs, x.new_zeros(x.shape[:-1])
        for k in range(1, num_terms + 1):
            (power,) = pullback(power)
            weight = (-1) ** (k + 1) / (k * self.lipschitz ** (k - 1))
            total = total + weight * (power * signs).sum(-1)
        return total


def _exact(x: Tensor, pullback: Callable[..., Any]) -> Tensor:
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return torch.linalg.slogdet(identity + jacobian(x, pullback)).logabsdet


def _contraction(sizes: Sequence[int], lipschitz: float) -> nn.Sequential:
    """A multilayer perceptron of Lipschitz constant at most `lipschitz`, shared evenly among its layers."""
    each = lipschitz ** (1 / (len(sizes) - 1))
    layers: list[nn.Module] = []
    for n, m in pairwise(sizes):
        layers += [LipSwish(), ContractingLinear(n, m, each)]
    return nn.Sequential(*layers[1:])


class ContractingLinear(nn.Linear):
    """A linear layer whose weight is scaled down to a spectral norm of at most `lipschitz`.

    The norm, the largest singular value, is exact. The usual power iteration only gives a lower bound on it, with which
    a layer can exceed its constant.
    """

    def __init__(self, num_in: int, num_out: int, lipschitz: float):
        super().__init__(num_in, num_out)
        self.lipschitz = lipschitz

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.linalg.matrix_norm(self.weight, 2)
        return linear(x, self.weight * (self.lipschitz / norm).clamp(max=1), self.bias)


class LipSwish(nn.Module):
    """`x sigmoid(beta x) / 1.1`: of Lipschitz constant 1 at most, and smooth, as gradients of log-determinants need."""

    def __init__(self) -> None:
        super().__init__()
        self.unconstrained_beta = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(softplus(self.unconstrained_beta) * x) / 1.1
