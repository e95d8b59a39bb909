"""Windows of long sequences to train on, so that a step costs as much as a window, not a sequence."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.arguments import Size, checked


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

    def __call__(self, batch: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """Of `x`, `[B, T, F]`, or a tuple `(x, lengths)`."""
        x, *others = batch if isinstance(batch, tuple) else (batch,)
        num_steps = min(self.length, x.shape[1])
        lengths = others[0] if others else x.new_full((len(x),), x.shape[1], dtype=torch.long)
        starts = (torch.rand(len(x), device=x.device) * (lengths - num_steps + 1).clamp(min=1)).long()
        steps = starts[:, None] + torch.arange(num_steps, device=x.device)
        windows = x.gather(1, steps.clamp(max=x.shape[1] - 1)[..., None].expand(-1, -1, x.shape[2]))
        return (windows, lengths.clamp(max=num_steps)) if others else windows
