"""Signal and noise of random vectors, from any number of draws, with standard errors by the jackknife."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ppvae.inference.runtime.distributed import processes

BLOCKS = 8
"""Blocks of draws; the jackknife's standard error is the spread of the estimates that leave out one block each."""


class Moments:
    """Running sums of random vectors g, `[P]`; from them `|E g - reference|` and `sum Var g`, over groups of entries.

    Sums are relative to the first draw, so that a variance far below the mean is not lost to rounding. Memory holds one
    sum per block, whatever the number of draws.

    Source: Efron & Stein 1981 for the jackknife.

    Args:
        groups: for each group the slices of the vector that belong to it.

    Example:
        >>> moments = Moments([[slice(0, 2)]])
        >>> for i in range(800):
        ...     moments.add(i % BLOCKS, torch.tensor([3.0, 4.0]) + (-1) ** (i // BLOCKS))
        >>> found = moments.statistics()
        >>> found["norm"][0], found["variance"][0]
        (tensor([4.9997], dtype=torch.float64), tensor([2.0025], dtype=torch.float64))
    """

    def __init__(self, groups: Sequence[Sequence[slice]]):
        self._groups = groups
        self._counts = torch.zeros(BLOCKS, dtype=torch.float64)
        self._first: Tensor | None = None

    def add(self, block: int, vector: Tensor) -> None:
        """Adds a draw, `[P]`; blocks should get about equally many."""
        if self._first is None:
            self._first = vector.clone()
            processes().copy_first([self._first])
            self._difference = torch.empty_like(vector)
            self._sums = vector.new_zeros(BLOCKS, len(vector))
            self._squares = vector.new_zeros(BLOCKS, len(self._groups), dtype=torch.float64)
        difference = torch.sub(vector, self._first, out=self._difference)
        self._counts[block] += 1
        self._sums[block] += difference
        for i, group in enumerate(self._groups):
            for part in group:
                self._squares[block, i] += difference[part].dot(difference[part])

    def merge(self) -> None:
        """Combines what several processes have added; all of them must have added draws, or none."""
        if self._first is not None:
            group = processes()
            device = self._first.device
            self._counts = group.sum(self._counts.to(device)).to(self._counts.device)
            self._sums, self._squares = group.sum(self._sums), group.sum(self._squares)

    @property
    def drawn(self) -> bool:
        """Whether there has been any draw."""
        return self._first is not None

    def statistics(self, reference: Tensor | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """Per group, estimate and standard error, `[G]`: "norm", "variance", and "snr" = norm / sqrt(variance).

        `norm^2` is estimated by `|mean|^2 - variance / n`, whose expectation is `|E g - reference|^2`; where noise
        takes it below zero, the norm is zero.
        """
        squared_norm, variance = self._estimate(range(BLOCKS), reference)
        without = [self._estimate([b for b in range(BLOCKS) if b != left_out], reference) for left_out in range(BLOCKS)]
        norms, variances = (torch.stack(parts) for parts in zip(*without, strict=True))
        return {
            "norm": _root(squared_norm, _jackknife(norms)),
            "variance": (variance, _jackknife(variances)),
            "snr": _root(squared_norm / variance, _jackknife(norms / variances)),
        }

    def _estimate(self, blocks: Sequence[int], reference: Tensor | None) -> tuple[Tensor, Tensor]:
        """`|E g - reference|^2` and the total variance per group, from some of the blocks."""
        assert self._first is not None
        index = list(blocks)
        n = self._counts[index].sum().item()
        shift = self._sums[index].double().sum(0) / n
        center = self._first.double() + shift - (0.0 if reference is None else reference.double())
        variance = (self._squares[index].sum(0) - n * self._by_group(shift)).clamp(min=0) / (n - 1)
        return (self._by_group(center) - variance / n).cpu(), variance.cpu()

    def _by_group(self, vector: Tensor) -> Tensor:
        return torch.stack(
            [sum((vector[part].square().sum() for part in group), torch.tensor(0.0)) for group in self._groups]
        )


def _jackknife(without: Tensor) -> Tensor:
    """The standard error, from the estimates without each of the blocks in turn, `[BLOCKS, G]`."""
    return ((len(without) - 1) * (without - without.mean(0)).square().mean(0)).sqrt()


def _root(square: Tensor, std_error: Tensor) -> tuple[Tensor, Tensor]:
    """A square's root and its standard error, for which a square below its own standard error counts as that error."""
    smallest = torch.finfo(square.dtype).tiny  # where there is no noise at all
    return square.clamp(min=0).sqrt(), std_error / (2 * torch.maximum(square, std_error).clamp(min=smallest).sqrt())
