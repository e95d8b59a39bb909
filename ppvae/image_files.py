"""Images as people have them, as a tensor."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppvae.arguments import checked
from ppvae.sources import refuse_special
from ppvae.wording import shown

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


@checked
def images(source: Any) -> Tensor:
    """Images as a tensor `[N, C, H, W]` in [0, 1], float32.

    Bytes become `value / 255`, which likelihoods of gray levels take as they are. Images of more bits are refused, as
    their highest level is not known. Colors come before height and width, and a file's transparency is left out. For a
    multilayer perceptron, `.flatten(1)` the result.

    Args:
        source: a folder of image files, in the order of their names; a list of PIL images, or of arrays or tensors
            `[H, W]`, `[C, H, W]` or `[H, W, C]`; or an array or a tensor of all of them, `[N, ...]`.

    Raises:
        FileNotFoundError: no such folder, or no images in it.
        ValueError: images of several sizes, or numbers that are neither bytes nor in [0, 1].
        TypeError: something else.

    Example:
        >>> images(torch.randint(256, (10, 28, 28), dtype=torch.uint8)).shape
        torch.Size([10, 1, 28, 28])
    """
    arrays = [_channels_first(_array(entry)) for entry in _entries(source)]
    sizes = Counter(array.shape for array in arrays)
    if len(sizes) != 1:
        raise ValueError(
            f"source: found images of shapes {dict(sizes.most_common(5)) or 'none'}, expected all of one; resize them "
            "first, as with PIL's image.resize((width, height)), and make them all gray or all colored"
        )
    return torch.from_numpy(np.stack([_gray_levels(array) for array in arrays]))


def _entries(source: Any) -> Iterable[Any]:
    if isinstance(source, str | Path):
        files = sorted(file for file in Path(source).glob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise FileNotFoundError(
                f"source: found no images in {source}, expected a folder with {', '.join(SUFFIXES)}"
            )
        return files
    if isinstance(source, list | tuple):
        return source
    refuse_special("source", source)
    if isinstance(source, Tensor | np.ndarray) and source.ndim in (3, 4):
        return source
    raise TypeError(
        f"source: found {shown(source)}, expected a folder, a list of images, or a tensor or array [N, H, W], "
        "[N, C, H, W] or [N, H, W, C]"
    )


def _array(entry: Any) -> np.ndarray:
    """One image, of a file, of PIL's, or an array or tensor of any number type."""
    from PIL import Image

    if isinstance(entry, Path):
        with Image.open(entry) as image:
            return _array(image)
    if isinstance(entry, Image.Image):
        if entry.mode[0] in "IF":  # numbers of more than a byte, which PIL would clip at 255
            return np.asarray(entry)
        gray = entry.mode in ("1", "L", "LA")
        return np.asarray(entry.convert("L" if gray else "RGB"))
    if isinstance(entry, Tensor | np.ndarray):
        return np.asarray(entry.detach().cpu() if isinstance(entry, Tensor) else entry)
    raise TypeError(f"source: found {shown(entry)} in it, expected PIL images, arrays or tensors")


def _channels_first(array: np.ndarray) -> np.ndarray:
    """`[C, H, W]`: where both ends have one to four entries, the first is taken for the channels."""
    if array.dtype.kind not in "biuf":
        raise TypeError(f"source: found an image of dtype {array.dtype}, expected numbers")
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3 and array.shape[0] <= 4:
        return array
    if array.ndim == 3 and array.shape[-1] <= 4:
        return np.moveaxis(array, -1, 0)
    raise ValueError(f"source: found an image of shape {list(array.shape)}, expected [H, W], [C, H, W] or [H, W, C]")


def _gray_levels(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 255
    if array.dtype == bool:
        return array.astype(np.float32)
    if not (array.min() >= 0 and array.max() <= 1):
        remedy = "divide arrays of them by the highest level there is, as numpy.asarray(image) / 65535 for 16 bits"
        if array.max() <= 255:
            remedy = "divide them by their highest level, or convert them to uint8"
        raise ValueError(
            f"source: found {array.dtype} from {array.min():g} to {array.max():g}, expected bytes, or numbers in "
            f"[0, 1]; {remedy}"
        )
    return array.astype(np.float32)
