"""Dequantization as a pair: gray levels are the rounded draws of a density."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions import Transform
from torch.distributions.transforms import ReshapeTransform, SigmoidTransform

from ppvae.arguments import Levels, Observed, checked
from ppvae.models.flows.flow import Flow
from ppvae.pair import Pair


class Dequantized(Pair):
    """`y = sigmoid(v)`, v from a flow; `x = floor(y levels)`, the gray level of the cell that holds y.

    The guide draws y in the cell of x. `P(x)`, the integral of p(y) over the cell, is a probability, and
    `log P(x) >= E_q[log p(y) - log q(y | x)]`. With the uniform q, fitting p to uniformly dequantized data
    (`ppvae.datasets.dequantize`) maximizes this bound, and the gap is what that noise costs, in nats. A learned q
    (variational dequantization) narrows it. ELBO, IWAE and gap are those of any pair; for bits, use
    `ppvae.datasets.bits_per_dim(log_evidence, num_features)` without `levels`.

    Source: Theis et al. 2016 (arXiv:1511.01844); variational: Ho et al. 2019 (arXiv:1902.00275).

    Args:
        flow: of v, over vectors or images `[C, H, W]`.
        levels: number of gray levels, 2 or more; level k is k / (levels - 1) in the data and [k, k + 1) / levels in y.
        posterior: forward(x), x flattened to `[*, D]`, returns a distribution over `[*, D]`; the logistic sigmoid of a
            draw is y's position in the cell: `CouplingFlow`, `DiagonalNormal` or another; None for uniform.

    Raises:
        ValueError: fewer than two levels. Data that are not gray levels are refused when the pair is checked.

    Example:
        >>> from ppvae.models import DiagonalNormal, RealNVP
        >>> pair = Dequantized(RealNVP(4, hidden=[8]), levels=17, posterior=DiagonalNormal(nn.Linear(4, 8)))
        >>> x = pair.sample(3)
        >>> bool(((x * 16).round() == x * 16).all())
        True
        >>> pair.log_weights(x, num_particles=5).log_w.shape
        torch.Size([5, 3])
    """

    @checked
    def __init__(self, flow: Flow, levels: Levels, posterior: nn.Module | None = None):
        super().__init__()
        self.flow = flow
        self.levels = levels
        self.posterior = posterior
        self.example = flow.example

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            y = pyro.sample("y", dist.TransformedDistribution(self.flow.distribution(), [SigmoidTransform()]))
            pyro.sample("x", dist.Delta(self._rounded(y, x), event_dim=x.dim() - 1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("y", self._q(x))

    @checked
    def init_from(self, x: Observed) -> "Dequantized":
        """Initializes the flow from the data, uniformly dequantized; returns self."""
        y = IntoCell(self._cell(x), 1 / self.levels)(torch.rand_like(x))
        self.flow.init_from(y.logit())
        return self

    def _q(self, x: Tensor) -> dist.TorchDistribution:
        event = x.shape[1:]
        into_cell = IntoCell(self._cell(x), 1 / self.levels)
        if self.posterior is None:
            uniform = dist.Uniform(torch.zeros_like(x), 1.0).to_event(len(event))
            return dist.TransformedDistribution(uniform, [into_cell])
        flat = ReshapeTransform(torch.Size([event.numel()]), event, cache_size=1)
        transforms: list[Transform] = [flat, SigmoidTransform(cache_size=1), into_cell]
        return dist.TransformedDistribution(self.posterior(x.flatten(1)), transforms)

    def _cell(self, x: Tensor) -> Tensor:
        """The lower end of each number's cell."""
        return (x * (self.levels - 1)).round() / self.levels

    def _rounded(self, y: Tensor, x: Tensor) -> Tensor:
        """The gray level of y: exactly x where x is one and, up to rounding errors, y lies in its cell."""
        distance = (y - self._cell(x) - 0.5 / self.levels).abs()
        in_cell = distance <= 0.5 / self.levels + 4 * torch.finfo(y.dtype).eps
        is_level = (x * (self.levels - 1)).frac().sub(0.5).abs() > 0.499
        level = (y * self.levels).floor().clamp(0, self.levels - 1) / (self.levels - 1)
        return torch.where(in_cell & is_level, x, level)


class IntoCell(Transform):
    """From [0, 1] to [low, low + width], each number to its own cell, a few rounding errors away from its ends."""

    domain = constraints.unit_interval
    bijective = True

    def __init__(self, low: Tensor, width: float):
        super().__init__(cache_size=1)
        self.low, self.width = low, width
        self.margin = torch.finfo(low.dtype).eps / width  # for y near 1, so that its logit is finite
        self.codomain = constraints.interval(low, low + width)

    def _call(self, u: Tensor) -> Tensor:
        return self.low + self.width * u.clamp(self.margin, 1 - self.margin)

    def _inverse(self, y: Tensor) -> Tensor:
        return ((y - self.low) / self.width).clamp(self.margin, 1 - self.margin)

    def log_abs_det_jacobian(self, u: Tensor, y: Tensor) -> Tensor:
        return torch.full_like(y, self.width).log()
