"""Windows of long sequences to train on, so that a step costs as much as a window, not a sequence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppvae.arguments import Size, checked
from ppvae.batches import entries, with_entries


@checked
@dataclass(frozen=True)
class Windows:
    """A random window of each sequence, at each step of training: truncated training.

    `ppvae.fit(pair, (x, lengths), transform=Windows(50))`. A window is a sequence of its own, from `p(z_1)` on. A model
    whose transition says all that matters learns it from windows as well as from whole sequences, but p(z_1) learns
    where windows start, which is anywhere; and what takes longer than a window is not learned. Train on whole sequences
    at the end, at a small learning rate, if their start matters.

    Source: truncated backpropagation, Williams & Peng 1990; of state space models, minibatches of subsequences: Aicher
    et al. 2019 (arXiv:1810.09098).

    Args:
        length: of a window; sequences that are no longer are whole.

    Example:
        >>> x, lengths = torch.arange(12.0).expand(2, 12).unsqueeze(-1), torch.tensor([12, 3])
        >>> windows, within = Windows(5)((x, lengths))
        >>> windows.shape, within
        (torch.Size([2, 5, 1]), tensor([5, 3]))
    """

    length: Size

    def __call__(self, batch: Any) -> Any:
        """Of a batch `x`, `[B, T, F]`; `(x, lengths)`; `(x, lengths, actions)`; or a dict of these.

        Whatever has a row for each step of each sequence, `[B, T, ...]`, is cut to the same windows. What else is
        `[B]` and second in a tuple is taken for lengths: labels belong into a dict.

        Raises:
            ValueError: lengths that are none of 1 to T; in a dict, where they are called so, 0 is one, too.
        """
        given = entries(batch)
        x: Tensor = given["x" if "x" in given else next(iter(given))]
        total, device = x.shape[1], x.device
        lengths = _lengths(given, len(x), total)
        num_steps = min(self.length, total)
        ends = x.new_full((len(x),), total, dtype=torch.long) if lengths is None else lengths
        starts = (torch.rand(len(x), device=device) * (ends - num_steps + 1).clamp(min=1)).long()
        steps = (starts[:, None] + torch.arange(num_steps, device=device)).clamp(max=total - 1)
        row = torch.arange(len(x), device=device)[:, None]

        def cut(value: Any) -> Any:
            if lengths is not None and value is lengths:
                return lengths.clamp(max=num_steps)
            by_step = isinstance(value, Tensor) and value.shape[:2] == x.shape[:2]
            return value[row, steps] if by_step else value

        return with_entries(batch, [cut(value) for value in given.values()])


def _lengths(given: Mapping[str, Any], num_rows: int, total: int) -> Tensor | None:
    """The lengths in a batch, if it has any: by name, or second in a tuple, where there are no steps."""
    name = "lengths" if "lengths" in given else "1"
    lengths = given.get(name)
    if lengths is None or (name == "1" and not (isinstance(lengths, Tensor) and lengths.shape == (num_rows,))):
        return None
    least = int(name == "1")  # a zero there is rather a label
    if ((lengths < least) | (lengths > total) | (lengths != lengths.long())).any():
        raise ValueError(
            f"data[{name}]: found values from {lengths.min()} to {lengths.max()}, expected the lengths of sequences, "
            f"whole numbers from {least} to {total}; if they are something else, pass a dict, such as "
            '{"x": x, "labels": labels}, whose names are the arguments of model and guide'
        )
    return lengths
