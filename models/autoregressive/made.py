"""MADE: a multilayer perceptron whose weights are masked so that each output sees earlier inputs alone."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ppvae.arguments import Levels as NumLevels, Natural, Size, Sizes, checked
from ppvae.models.autoregressive.alphabets import Levels
from ppvae.models.autoregressive.masked_network import MaskedNetwork, Memory
from ppvae.rules import Elements, Whole

Order = Annotated[Sequence[int], Elements(Whole(at_least=0), at_least=1)]


class MADE(MaskedNetwork):
    """Logits of each entry of a vector given those before it in an order, by a masked multilayer perceptron.

    A hidden unit of degree d sees the first d entries of the order, and the entry at place p is computed from units of
    degrees up to p. All see the condition. A draw computes each unit once, when all that it sees is known, so that the
    whole draw has the multiplications of one pass.

    Source: Germain et al. 2015 (arXiv:1502.03509).

    Args:
        num_features: D.
        levels: L; data are `k / (L - 1)`.
        hidden: sizes of the hidden layers, at least D: with fewer units, an entry may miss those right before it.
        order: the entries in the order of drawing, a permutation of 0 ... D - 1; as they come if not given.
        num_condition: size of the condition h, `[*, num_condition]`; 0 for none.

    Raises:
        ValueError: an order that is no permutation.

    Example:
        >>> from ppvae.models import Autoregressive
        >>> p = Autoregressive(MADE(5, levels=2, hidden=[20], order=[4, 3, 2, 1, 0]))
        >>> p.sample((3,)).shape
        torch.Size([3, 5])
    """

    places: Tensor
    inverse: Tensor

    @checked
    def __init__(
        self,
        num_features: Size,
        levels: NumLevels = 256,
        hidden: Sizes = (200, 200),
        order: Order | None = None,
        num_condition: Natural = 0,
    ):
        super().__init__()
        entries = list(range(num_features)) if order is None else [int(entry) for entry in order]
        if sorted(entries) != list(range(num_features)):
            raise ValueError(f"order: found {entries}, expected each of 0 to {num_features - 1} once")
        self.event_shape, self.alphabet, self.num_condition = (num_features,), Levels(levels), num_condition
        self.order = [(entry,) for entry in entries]
        self.register_buffer("places", torch.tensor(entries), persistent=False)
        self.register_buffer("inverse", torch.tensor(entries).argsort(), persistent=False)
        seen, layers = torch.arange(num_features) + 1, []
        for size in hidden:
            degrees = torch.arange(size) * num_features // size
            layers.append(MaskedLinear(seen, degrees, num_condition))
            seen = degrees
        self.hidden = nn.ModuleList(layers)
        self.last = MaskedLinear(seen, torch.arange(num_features).repeat_interleave(levels), num_condition)

    def forward(self, inputs: Tensor, h: Tensor | None = None) -> Tensor:
        units = inputs[:, self.places]
        for layer in self.hidden:
            units = layer(units, h).relu()
        return self.last(units, h).unflatten(-1, (-1, self.alphabet.size))[:, self.inverse]

    def step(self, inputs: Tensor, h: Tensor | None, entry: tuple[int, ...], memory: Memory) -> Tensor:
        place = int(self.inverse[entry[0]])
        units = inputs[:, self.places[:place]]
        for layer in self.hidden:
            new = layer.of_degree(place, units, h).relu()  # type: ignore[operator]
            memory[layer] = units = torch.cat([memory[layer], new], 1) if place else new
        return self.last.of_degree(place, units, h)

    def start_at(self, count: Tensor) -> None:
        frequency = count / count.sum(-1, keepdim=True)
        self.last.bias.data.copy_(frequency[self.places].log().flatten())


class MaskedLinear(nn.Linear):
    """A linear layer whose units each see inputs up to a degree, and the condition.

    Args:
        seen: the degree of each input, ascending.
        degrees: the degree of each unit, ascending.
        num_condition: size of the condition; 0 for none.
    """

    mask: Tensor

    def __init__(self, seen: Tensor, degrees: Tensor, num_condition: int):
        super().__init__(len(seen), len(degrees))
        self.register_buffer("mask", (seen <= degrees.unsqueeze(1)).to(self.weight), persistent=False)
        self.condition = nn.Linear(num_condition, len(degrees), bias=False) if num_condition else None
        num = int(degrees.max()) + 1 if len(degrees) else 0
        ends = torch.searchsorted(degrees, torch.arange(-1, num), right=True).tolist()
        self.units = [slice(*ends[d : d + 2]) for d in range(num)]

    def forward(self, inputs: Tensor, h: Tensor | None = None) -> Tensor:
        units = linear(inputs, self.weight * self.mask, self.bias)
        return units if self.condition is None or h is None else units + self.condition(h)

    def of_degree(self, degree: int, inputs: Tensor, h: Tensor | None = None) -> Tensor:
        """The units of one degree, from the inputs that they see: `[N, num]`, none where no unit has that degree."""
        own = self.units[degree] if degree < len(self.units) else slice(0, 0)
        units = linear(inputs, self.weight[own, : inputs.shape[1]], self.bias[own])
        return units if self.condition is None or h is None else units + linear(h, self.condition.weight[own])
