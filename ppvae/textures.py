"""Digits on patterns: five images of one class, each on a pattern of its own kind, as five views of one thing."""

from collections.abc import Callable

import torch
from torch import Tensor

PATTERNS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "stripes": lambda i, j: i // 2 % 2 == 1,
    "bars": lambda i, j: j // 2 % 2 == 1,
    "checks": lambda i, j: (i // 4 + j // 4) % 2 == 1,
    "dots": lambda i, j: (i % 4 < 2) & (j % 4 < 2),
    "rings": lambda i, j: (i.square() + j.square()).sqrt() // 2 % 2 == 1,
}
"""Where each is white, by the rows and the columns from where it starts."""


def textured(images: Tensor, labels: Tensor, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Five images of one class for each of `num` data points, each on its pattern, `[num, 5, H, H]`; and the classes.

    Black and white: a digit inverts the pattern that it lies on.

    Source: after PolyMNIST, Sutter et al. 2021 (arXiv:2105.02470), whose backgrounds are photographs.

    Args:
        images: in [0, 1], `[N, H, H]`; a digit is where they are above one half.
        labels: their classes, `[N]`.
        num: at most N. No image comes twice on one pattern.
        generator: decides which images meet, and where each pattern starts.
    """
    views = torch.stack([_of_the_same_class(labels, generator)[:num] for _ in PATTERNS], 1)
    return ((images[views] > 0.5) ^ patterns(num, images.shape[-1], generator)).float(), labels[:num]


def patterns(num: int, width: int, generator: torch.Generator) -> Tensor:
    """Each pattern from `num` random starts within the image: bool `[num, 5, width, width]`."""
    row, column = torch.meshgrid(torch.arange(width), torch.arange(width), indexing="ij")
    starts = torch.randint(width, (len(PATTERNS), 2, num, 1, 1), generator=generator)
    return torch.stack([of(row - i, column - j) for of, (i, j) in zip(PATTERNS.values(), starts, strict=True)], 1)


def _of_the_same_class(labels: Tensor, generator: torch.Generator) -> Tensor:
    """For each data point, the index of a random one of its class; all come once, `[N]`."""
    order = torch.randperm(len(labels), generator=generator)
    found = torch.empty_like(order)
    found[labels.argsort(stable=True)] = order[labels[order].argsort(stable=True)]
    return found
