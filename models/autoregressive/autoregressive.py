"""The distribution: each entry given those before it."""

from typing import Any, ClassVar

import torch
from pyro.distributions import Categorical, TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from ppvae.arguments import RealTensor, checked
from ppvae.models.autoregressive.masked_network import MaskedNetwork, Memory


class Autoregressive(TorchDistribution):
    """`p(x | h) = prod_i p(x_i | x_1 ... x_{i-1}, h)`, each factor a categorical by a masked network.

    The log probability takes one pass of the network for all entries. A draw takes a step for each entry, in the
    network's order; what a step needs of earlier entries is kept, so that it costs one column and not the image.

    It has no mean in closed form. `pair.reconstruct` takes draws in its place, one for each draw of z: their mean over
    many is that of the distribution. (Means given the entries of x itself would say little about z.)

    Source: Germain et al. 2015 (arXiv:1502.03509); van den Oord et al. 2016 (arXiv:1601.06759).

    Args:
        network: says what x is: vectors, images of gray levels or bits, or maps of codes.
        h: the condition, with leading dimensions `[*]` as the batch shape: a vector `[*, H]` for `MADE`, a map
            `[*, H, height, width]`, or the same everywhere, `[*, H, 1, 1]`, for images. None for a network without one.

    Raises:
        ValueError: a condition where the network has none, or none where it has one, or of another size.

    Example:
        >>> from ppvae.models import PixelCNN
        >>> p = Autoregressive(PixelCNN((1, 4, 4), levels=2, width=8))
        >>> p.log_prob(p.sample((7,))).shape
        torch.Size([7])
    """

    arg_constraints: ClassVar = {}

    @checked
    def __init__(self, network: MaskedNetwork, h: RealTensor | None = None, validate_args: bool | None = None):
        _refuse_condition(network, h)
        self.network, self.h = network, h
        batch_shape = Size() if h is None else h.shape[: h.dim() - _condition_dim(network)]
        super().__init__(batch_shape, Size(network.event_shape), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return constraints.independent(self.network.alphabet.support, len(self.event_shape))

    @property
    def mean_is_drawn(self) -> bool:
        """Whether draws stand in for the mean, which has no closed form: codes have none at all."""
        return self.network.alphabet.is_ordered

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        alphabet, event_dim = self.network.alphabet, len(self.event_shape)
        if self._validate_args:
            alphabet.refuse_outside(value)
        leading = torch.broadcast_shapes(value.shape[: value.dim() - event_dim], self._own_shape)
        index = alphabet.index(value).expand(*leading, *self.event_shape).reshape(-1, *self.event_shape)
        logits = self.network(alphabet.encode(index, self._dtype), self._condition(leading))
        log_p = logits.log_softmax(-1).gather(-1, index.unsqueeze(-1)).flatten(1).sum(1).reshape(leading)
        return log_p.expand(torch.broadcast_shapes(leading, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape, alphabet = self._extended_shape(Size(sample_shape)), self.network.alphabet
        leading = shape[: len(shape) - len(self.event_shape)]
        index = torch.zeros(leading.numel(), *self.event_shape, dtype=torch.long, device=self._device)
        inputs, h = torch.zeros_like(alphabet.encode(index, self._dtype)), self._condition(leading)
        memory: Memory = {}
        for entry in self.network.order:
            drawn = Categorical(logits=self.network.step(inputs, h, entry, memory)).sample()
            place: Any = (..., *entry)
            index[place], inputs[place] = drawn, alphabet.encode(drawn, self._dtype)
        return alphabet.value(index, self._dtype).reshape(shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Autoregressive":
        """The condition stays as it is, so that the network runs no oftener than needed."""
        result = type(self).__new__(type(self))
        result.network, result.h = self.network, self.h
        TorchDistribution.__init__(result, Size(batch_shape), self.event_shape, validate_args=self._validate_args)
        return result

    @property
    def _own_shape(self) -> Size:
        """The batch shape of the condition."""
        return Size() if self.h is None else self.h.shape[: self.h.dim() - _condition_dim(self.network)]

    def _condition(self, leading: Size) -> Tensor | None:
        """h for each of the rows, all in one dimension."""
        if self.h is None:
            return None
        own = self.h.shape[len(self._own_shape) :]
        return self.h.expand(*leading, *own).reshape(-1, *own)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device


def _condition_dim(network: MaskedNetwork) -> int:
    """1 for vectors; 3 for maps."""
    return 1 if len(network.event_shape) == 1 else 3


def _refuse_condition(network: MaskedNetwork, h: Tensor | None) -> None:
    num, dim = network.num_condition, _condition_dim(network)
    if h is None and num == 0:
        return
    space = network.event_shape[-2:]
    expected = f"[*, {num}]" if dim == 1 else f"[*, {num}, {space[0]}, {space[1]}]"
    if num == 0:
        raise ValueError(
            f"h: found shape {list(h.shape) if h is not None else None}, expected None, as the network has no "
            "condition; make it with num_condition=H"
        )
    if h is None:
        raise ValueError(f"h: found None, expected a condition {expected}, as the network has one; pass it")
    shape = tuple(h.shape)
    fits = h.dim() >= dim and shape[-dim] == num and (dim == 1 or shape[-2:] in (tuple(space), (1, 1)))
    if not fits:
        raise ValueError(f"h: found shape {list(shape)}, expected {expected}, as the network's num_condition has it")
