"""What the entries of an autoregressive distribution may be, and how they enter its network."""

import torch
from torch import Tensor
from torch.distributions import constraints

from ppvae.models.parts.gray_levels import GrayLevels
from ppvae.models.parts.indices import one_hot, refuse_outside


class Alphabet:
    """L values that an entry may have, numbered from 0.

    Attributes:
        size: L.
        is_ordered: whether its values are numbers, and have a mean.
        num_inputs: by how many numbers an entry enters the network.
        support: the values.
    """

    size: int
    is_ordered: bool
    num_inputs: int
    support: constraints.Constraint

    def index(self, value: Tensor) -> Tensor:
        """The numbers of values, `[*]`."""
        raise NotImplementedError

    def value(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The values of these numbers, `[*]`."""
        raise NotImplementedError

    def encode(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """What enters the network for entries `[N, *event]`, or for one entry, `[N]`."""
        raise NotImplementedError

    def refuse_outside(self, value: Tensor) -> None:
        """Raises an error that names the first value that is none of these, if any."""
        raise NotImplementedError


class Levels(Alphabet):
    """Gray levels `k / (L - 1)`, bits among them, which enter the network as they are.

    Args:
        size: L.
    """

    is_ordered = True
    num_inputs = 1

    def __init__(self, size: int):
        self.size = size
        self.support: GrayLevels = GrayLevels(size)

    def index(self, value: Tensor) -> Tensor:
        return (value * (self.size - 1)).round().long()

    def value(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        return index.to(dtype) / (self.size - 1)

    def encode(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        return self.value(index, dtype)

    def refuse_outside(self, value: Tensor) -> None:
        self.support.refuse_outside(value)


class Codes(Alphabet):
    """Codes 0 ... K - 1: names without an order, which enter the network one-hot, along dimension 1.

    Args:
        size: K.
    """

    is_ordered = False

    def __init__(self, size: int):
        self.size = self.num_inputs = size
        self.support = constraints.integer_interval(0, size - 1)

    def index(self, value: Tensor) -> Tensor:
        return value.long()

    def value(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        return index

    def encode(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        return one_hot(index, self.size).movedim(-1, 1).to(dtype)

    def refuse_outside(self, value: Tensor) -> None:
        expected = f"one of {self.size} codes, 0 to {self.size - 1}; set levels= to the number of codes"
        refuse_outside(self.support, value, expected)
