"""A likelihood of ordered categories: ratings, grades, stages."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad, softplus

from ppvae.arguments import Levels, Observed, Sizes, checked
from ppvae.models.parts.likelihood import Likelihood
from ppvae.models.parts.likelihoods import per_output
from ppvae.networks import inverse_softplus, output_bias

LEAST_WIDTH = 1e-2


class OrderedLogits(dist.Categorical):
    """`P(x <= k) = sigmoid(c_k - f)`: Pyro's OrderedLogistic, by logs of probabilities, which never vanish.

    With `F = sigmoid`, `F(b) - F(a) = F(b) F(-a) (1 - exp(a - b))`.

    Args:
        predictor: f, `[*]`.
        cutpoints: c, increasing, `[*, L - 1]`.

    Example:
        >>> OrderedLogits(torch.tensor(30.0), torch.tensor([0.0, 1.0])).log_prob(torch.tensor(0.0))
        tensor(-30.)
    """

    def __init__(self, predictor: Tensor, cutpoints: Tensor, validate_args: bool | None = None):
        reach = cutpoints - predictor.unsqueeze(-1)
        log_width = (-torch.expm1(-cutpoints.diff(dim=-1))).log()
        logits = pad(logsigmoid(reach), (0, 1)) + pad(logsigmoid(-reach), (1, 0)) + pad(log_width, (1, 1))
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return super().expand(batch_shape, self._get_checked_instance(OrderedLogits, _instance))


class Ordinal(Likelihood):
    """Ordered categories 0 ... L - 1 by cumulative logits: `P(x <= k | z) = sigmoid(c_k - f(z))`, `c_0 < c_1 < ...`

    Each feature, or channel of an image, has cutpoints of its own, which are learned. All categories move together with
    f: where the order is not meant, take `Categorical`.

    Source: McCullagh 1980, Journal of the Royal Statistical Society B 42.

    Args:
        network: `[*, D] -> [*, *event]`, f.
        event_shape: of x: `(num_features,)` or `(C, H, W)`.
        levels: L; data are whole numbers from 0 to L - 1.

    Example:
        >>> Ordinal(nn.Linear(2, 5), (5,), levels=4)(torch.zeros(4, 2)).event_shape
        torch.Size([5])
    """

    @checked
    def __init__(self, network: nn.Module, event_shape: Sizes, levels: Levels):
        super().__init__()
        self.network = network
        self.levels = levels
        self.event_dim = len(event_shape)
        outputs = (event_shape[0], *(1,) * (self.event_dim - 1))
        self.first_cutpoint = nn.Parameter(torch.full((*outputs, 1), -1.0))
        self.unconstrained_widths = nn.Parameter(torch.zeros(*outputs, levels - 2))

    def cutpoints(self) -> Tensor:
        """c, increasing along the last dimension, `[num_features, L - 1]` or `[C, 1, 1, L - 1]`."""
        widths = LEAST_WIDTH + softplus(self.unconstrained_widths)
        return torch.cat([self.first_cutpoint, self.first_cutpoint + widths.cumsum(-1)], -1)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return OrderedLogits(self.network(z), self.cutpoints()).to_event(self.event_dim)

    @checked
    def init_from(self, x: Observed) -> None:
        """Sets f's bias to 0, and the cutpoints to the frequencies in the data, with one added to each count."""
        bias = output_bias(self.network)
        values = per_output(x, self.event_dim, len(bias))
        if not ((values >= 0) & (values < self.levels) & (values == values.long())).all():
            lowest, highest = values.min().item(), values.max().item()
            shifted = lowest == round(lowest) and 0 < highest - lowest < self.levels
            raise ValueError(
                f"x: found values from {lowest:g} to {highest:g}, expected whole numbers from 0 to {self.levels - 1}; "
                + (f"pass x - {lowest:g}" if shifted else "set levels= to the number of categories")
            )
        bias.data.zero_()
        counts = torch.stack([(values == k).sum(0) + 1 for k in range(self.levels)], -1).to(bias)
        cutpoints = (counts.cumsum(-1) / counts.sum(-1, keepdim=True))[..., :-1].logit()
        self.first_cutpoint.data.copy_(cutpoints[..., :1].view_as(self.first_cutpoint))
        widths = (cutpoints.diff(dim=-1) - LEAST_WIDTH).clamp(min=LEAST_WIDTH)
        self.unconstrained_widths.data.copy_(inverse_softplus(widths).view_as(self.unconstrained_widths))
