"""Stacked digits: images as the color channels of one, whose modes are all combinations of their classes."""

import torch
from torch import Tensor


def stacked(
    images: Tensor, labels: Tensor, num: int, generator: torch.Generator, channels: int = 3
) -> tuple[Tensor, Tensor]:
    """`num` images of `channels` random ones each, `[num, channels, H, W]`, and the mode of each, `[num]`.

    Each class is equally probable in each channel, whatever its share of the images, so that all modes are.

    Source: Metz et al. 2017 (arXiv:1611.02163), who draw digits as often as they come.

    Args:
        images: `[N, H, W]`.
        labels: their classes, `[N]`, from 0; none is without an image.
        num: images to make.
        generator: decides which meet; the same one may come many times.
        channels: images in one.
    """
    sizes = labels.bincount()
    classes = torch.randint(len(sizes), (num, channels), generator=generator)
    within = (torch.rand(num, channels, generator=generator, dtype=torch.float64) * sizes[classes]).long()
    index = labels.argsort(stable=True)[(sizes.cumsum(0) - sizes)[classes] + within]
    return images[index], mode_of(classes, len(sizes))


def mode_of(classes: Tensor, num_classes: int) -> Tensor:
    """Classes `[*, channels]` as the digits of one number, `[*]`: of 4, 1 and 7 among ten, 417."""
    places = num_classes ** torch.arange(classes.shape[-1] - 1, -1, -1, device=classes.device)
    return (classes * places).sum(-1)
