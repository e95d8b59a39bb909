"""The contract of masked networks: what they say of an entry depends on earlier entries alone."""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.arguments import Observed, checked
from ppvae.models.autoregressive.alphabets import Alphabet
from ppvae.refusals import refuse_shape

Memory = dict[Hashable, Any]
"""What a network keeps of the entries drawn so far, for the length of one draw."""


class MaskedNetwork(nn.Module):
    """The base class of networks for `ppvae.models.Autoregressive`: logits of each entry, given those before it.

    A network of your own needs `forward` and the attributes; `step` makes drawing from it faster.

    Attributes:
        event_shape: of the data.
        alphabet: what an entry may be.
        order: the index of each entry in the data, in the order in which they depend on one another.
        num_condition: size of the condition h; 0 for none.
    """

    event_shape: tuple[int, ...]
    alphabet: Alphabet
    order: Sequence[tuple[int, ...]]
    num_condition: int

    def forward(self, inputs: Tensor, h: Tensor | None = None) -> Tensor:
        """The logits of all entries in one pass, `[N, *event, L]`.

        Args:
            inputs: the entries, encoded: levels `[N, *event]`, codes one-hot `[N, K, *event]`.
            h: the condition, `[N, num_condition, ...]`; None without one.
        """
        raise NotImplementedError

    def step(self, inputs: Tensor, h: Tensor | None, entry: tuple[int, ...], memory: Memory) -> Tensor:
        """The logits of one entry, `[N, L]`, where those before it are known: here by a pass over all entries.

        Args:
            inputs: the entries, encoded; zero from this one on.
            h: the condition.
            entry: its index; the next one in `order` at each call.
            memory: empty at the first entry; what is kept in it is there at the next.
        """
        return self(inputs, h)[(slice(None), *entry)]

    @checked
    def init_from(self, x: Observed) -> None:
        """Sets the output bias to the log frequencies of the values in the data, with one added to each count."""
        refuse_shape(x, self.event_shape)
        self.alphabet.refuse_outside(x)
        index, size = self.alphabet.index(x).flatten(1), self.alphabet.size
        cell = index + size * torch.arange(index.shape[1], device=index.device)
        count = torch.bincount(cell.flatten(), minlength=index.shape[1] * size)
        self.start_at(count.view(*self.event_shape, size) + 1)

    def start_at(self, count: Tensor) -> None:
        """Sets the output bias by how often each entry has each value, `[*event, L]`; here there is none."""
