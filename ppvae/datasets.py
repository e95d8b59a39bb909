"""Small standard data sets, their binarization and dequantization, and bits per dimension."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from ppvae.arguments import Levels, RealTensor, Seed, Size, checked
from ppvae.image_files import images as images
from ppvae.mnist_files import mnist_bytes
from ppvae.pendulum import PixelPendulum
from ppvae.rules import Whole
from ppvae.sprites import Sprites
from ppvae.stacks import stacked
from ppvae.textures import textured

__all__ = ["Dataset", "PixelPendulum", "Sprites", "bits_per_dim", "dequantize", "images", "load"]


@checked
@dataclass(frozen=True, eq=False)
class Dataset:
    """Three disjoint splits of one data set, in memory.

    Attributes:
        name: the name by which it was loaded.
        train, validation, test: float32, `[N, num_features]`, images flattened, row by row; or `[N, C, H, W]`.
        shape: the shape of one data point before flattening, such as `(28, 28)`; with `images=True`, `(C, H, W)`.
        labels: the classes, int64 `[N]`, for each of "train", "validation" and "test".
        transform: what training applies to every minibatch, with fresh draws from torch's own generator;
            None where there is nothing to draw.

    Example:
        >>> from ppvae.datasets import load
        >>> data = load("digits")
        >>> data.train.unflatten(1, data.shape).shape
        torch.Size([1197, 8, 8])
    """

    name: str
    train: Tensor = field(repr=False)
    validation: Tensor = field(repr=False)
    test: Tensor = field(repr=False)
    shape: tuple[Size, ...]
    labels: dict[str, Tensor] = field(repr=False)
    transform: Callable[[Tensor], Tensor] | None = None

    @property
    def num_features(self) -> int:
        """Numbers in one data point: the `num_features` of `bits_per_dim`."""
        return math.prod(self.shape)


@checked
def load(
    name: str,
    *,
    binarize: Literal["dynamic", "static"] | None = None,
    dequantize: bool = False,
    images: bool = False,
    seed: Seed = 0,
) -> Dataset:
    """Load a data set by name, split into train, validation and test.

    | name       | shape       | train / validation / test | values                                       |
    |------------|-------------|---------------------------|----------------------------------------------|
    | "digits"   | (8, 8)      | 1197 / 300 / 300          | 17 gray levels in [0, 1]; comes with sklearn |
    | "mnist"    | (28, 28)    | 50000 / 10000 / 10000     | 256 gray levels in [0, 1]                    |
    | "textures" | (5, 28, 28) | 10000 / 2000 / 2000       | MNIST in black and white, on five patterns   |
    | "stacked"  | (3, 28, 28) | 20000 / 5000 / 5000       | three MNIST digits, as the channels of one   |
    | "moons"    | (2,)        | 3000 / 1000 / 1000        | two half circles, noise 0.1                  |
    | "pinwheel" | (2,)        | 3000 / 1000 / 1000        | five bent arms within about [-4, 4]          |
    | "ring"     | (2,)        | 3000 / 1000 / 1000        | eight Gaussians on a circle of radius 2      |
    | "grid"     | (2,)        | 3000 / 1000 / 1000        | 25 Gaussians on {-4, -2, 0, 2, 4} squared    |

    Binarizing draws `b ~ Bernoulli(x)` for every gray value x. Validation and test are drawn once, and are
    the same for "dynamic" and "static". With "static" train is drawn once too; with "dynamic" it stays gray and
    `transform` draws each minibatch anew. `dequantize=True` works like "dynamic", with the function
    `dequantize` for the draw.

    MNIST is looked for in `$PPVAE_DATA/mnist` and `$PPVAE_DATA`, then in the user's cache
    (`$XDG_CACHE_HOME/ppvae/mnist` or `~/.cache/ppvae/mnist`), plain or with `.gz`; if it is in none of them it is
    downloaded to the cache. Its validation set is the last 10000 of the 60000 training images.

    When it is wrong: static binarization has the distribution, but not the draws, of the file that Larochelle
    and Murray (2011) published, so results on the two differ. Training on the gray `train` without its
    `transform` fits another distribution than that of validation and test.

    A data point of "textures" is five digits of one class, each on a pattern of its own: five views of one thing.

    A data point of "stacked" is three digits of classes that are all equally probable: 1000 modes. Its label reads them
    as one number, from 0 to 999. Each split is made of the same split of "mnist".

    The Gaussians of "ring" and "grid" have a standard deviation of 0.05; their labels say which one a point is of.

    References: Alpaydin and Kaynak 1998 (digits); LeCun et al. 1998 (MNIST); Johnson et al. 2016,
    arXiv:1603.06277 (pinwheel); Lin et al. 2018, arXiv:1712.04086 (ring and grid); Metz et al. 2017, arXiv:1611.02163
    (stacked); Salakhutdinov and Murray 2008 (static binarization); Burda et al. 2016, arXiv:1509.00519 (dynamic
    binarization).

    Args:
        name: a name from the table.
        binarize: "dynamic", "static", or None to keep the gray values.
        dequantize: whether to spread the gray levels over [0, 1).
        images: whether to keep images as such, `[N, C, H, W]`, rather than flatten them.
        seed: decides the random splits, the 2-D points and all draws made once; torch's and NumPy's own
            generators stay as they are. The MNIST splits do not depend on it.

    Raises:
        ValueError: an unknown name or option, an option that 2-D points do not have, or a damaged MNIST file.
        ConnectionError: MNIST is neither on this machine nor available from a mirror.

    Example:
        >>> from ppvae.datasets import load
        >>> load("digits", binarize="static").test.unique()
        tensor([0., 1.])
    """
    if name not in _SOURCES:
        raise ValueError(f"name: found {name!r}, expected one of {sorted(_SOURCES)}")
    if binarize not in (None, "dynamic", "static"):
        raise ValueError(f"binarize: found {binarize!r}, expected 'dynamic', 'static' or None")
    if binarize and dequantize:
        raise ValueError(
            f"found binarize={binarize!r} together with dequantize=True, expected at most one: "
            "binary values have no gray levels to spread; drop one of the two"
        )
    generator = torch.Generator().manual_seed(seed)
    x, y, shape, levels, held_out = _SOURCES[name](seed, generator)
    if levels is None and (binarize or dequantize):
        raise ValueError(
            f"{'binarize' if binarize else 'dequantize'}: found {name!r} with real values from {x.min():.2f} to "
            f"{x.max():.2f}, expected gray levels in [0, 1]; leave it out, or load 'digits' or 'mnist'"
        )
    if images:
        if len(shape) == 1:
            raise ValueError(f"images: found {name!r} of 2-D points, expected 'digits' or 'mnist'; leave it out")
        shape = shape if len(shape) == 3 else (1, *shape)
        x = x.unflatten(1, shape)
    sizes = [len(x) - 2 * held_out, held_out, held_out]
    train, validation, test = x.split(sizes)
    labels = dict(zip(("train", "validation", "test"), y.split(sizes), strict=True))
    transform: Callable[[Tensor], Tensor] | None = None
    if binarize:
        validation, test = (torch.bernoulli(part, generator=generator) for part in (validation, test))
        if binarize == "static":
            train = torch.bernoulli(train, generator=generator)
        else:
            transform = _binarize
    elif levels and dequantize:
        transform = partial(_dequantize, levels=levels)
        validation, test = (_dequantize(part, levels, generator) for part in (validation, test))
    return Dataset(name, train, validation, test, shape, labels, transform)


def _binarize(x: Tensor) -> Tensor:
    """What `torch.bernoulli` does, three times faster on a CPU."""
    return (torch.rand_like(x) < x).to(x.dtype)


@checked
def dequantize(x: RealTensor, levels: Levels, *, generator: torch.Generator | None = None) -> Tensor:
    """Spread gray levels over [0, 1) with uniform noise, so that a density can be fitted to them.

    `y = (x (levels - 1) + u) / levels` with `u ~ U(0, 1)` for each number; `floor(y levels)` is the level again.
    For a density p(y) over D numbers the probability of the gray image obeys

        log P(x) >= E_u[log p(y)] - D log(levels)

    (Jensen), and `bits_per_dim(..., levels=levels)` applies that change of volume.

    When it is wrong: values between two levels are rounded to the nearest. u keeps a few rounding errors away
    from 0 and 1, so y is never 0 or 1 either and its logit is finite.

    Reference: Theis, van den Oord and Bethge 2016, arXiv:1511.01844.

    Args:
        x: gray values in [0, 1], float32 or float64, any shape: level k is `k / (levels - 1)`.
        levels: number of gray levels, 2 or more; 256 for 8-bit images.
        generator: where u is drawn from; torch's own if None.

    Raises:
        ValueError: `levels` below 2, another dtype, or values outside [0, 1].

    Example:
        >>> import torch
        >>> from ppvae.datasets import dequantize
        >>> x = torch.tensor([0.0, 0.5, 1.0])
        >>> (dequantize(x, levels=3) * 3).floor()
        tensor([0., 1., 2.])
    """
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"x: found {x.dtype}, expected torch.float32 or torch.float64; pass x.float(), and integer levels "
            "as x / (levels - 1)"
        )
    outside = ((x >= 0) & (x <= 1)).logical_not().nonzero()  # catches NaN too
    if len(outside):
        index = tuple(outside[0].tolist())
        raise ValueError(
            f"x: found {x[index].item():g} at index {index}, expected gray values in [0, 1]; "
            "pass integer levels as x / (levels - 1)"
        )
    return _dequantize(x, levels, generator)


Nats = TypeVar("Nats", float, Tensor)
NumFeatures = Annotated[int, Whole(at_least=1, said="1 or more; pass data.num_features")]


@checked
def bits_per_dim(log_evidence: Nats, num_features: NumFeatures, levels: Levels | None = None) -> Nats:
    """Convert log evidence (nats per data point, higher is better) to bits per dimension (lower is better).

    `bits = -log_evidence / (D log 2)`, and for dequantized data
    `bits = (-log_evidence / D + log(levels)) / log 2`: for each number, the density over [0, 1) exceeds the
    probability of its gray level by the factor `levels`.

    When it is wrong: the density of gray values that were not dequantized can grow without bound, and then
    means nothing in bits. From a lower bound (ELBO, IWAE), or from dequantized data, the result is an upper
    bound, on average over its random draws.

    Reference: Theis, van den Oord and Bethge 2016, arXiv:1511.01844.

    Args:
        log_evidence: log p(x), or a lower bound on it, in nats per data point: a number, or a tensor of any
            shape.
        num_features: D, how many numbers a data point has.
        levels: the `levels` given to `dequantize`; None if log_evidence is the log of a probability already.

    Raises:
        ValueError: `num_features` below 1 or `levels` below 2.

    Example:
        >>> from ppvae.datasets import bits_per_dim
        >>> bits_per_dim(0.0, num_features=64, levels=256)  # all gray levels equally likely: 8 bits
        8.0
    """
    if levels is None:
        return -log_evidence / (num_features * math.log(2))
    return -log_evidence / (num_features * math.log(2)) + math.log2(levels)


def _dequantize(x: Tensor, levels: int, generator: torch.Generator | None = None) -> Tensor:
    # In float32, 255 + u rounds to 256 for u near 1, once in about 10^5 draws: the margin keeps levels exact.
    margin = levels * torch.finfo(x.dtype).eps
    u = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device).clamp(margin, 1 - margin)
    return ((x * (levels - 1)).round() + u) / levels


class _Source(NamedTuple):
    x: Tensor  # [N, D], in the order in which it is split
    y: Tensor  # [N]
    shape: tuple[int, ...]
    levels: int | None  # None: real values
    held_out: int  # the size of validation and of test


def _digits(seed: int, generator: torch.Generator) -> _Source:
    from sklearn.datasets import load_digits  # here, as it would add a second to `import ppvae`

    pixels, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(pixels), generator=generator)
    x = torch.as_tensor(pixels, dtype=torch.float32) / 16
    return _Source(x[order], torch.as_tensor(classes, dtype=torch.int64)[order], (8, 8), 17, 300)


def _moons(seed: int, generator: torch.Generator) -> _Source:
    from sklearn.datasets import make_moons

    points, classes = make_moons(5000, noise=0.1, random_state=seed)  # comes shuffled
    x = torch.as_tensor(points, dtype=torch.float32)
    return _Source(x, torch.as_tensor(classes, dtype=torch.int64), (2,), None, 1000)


def _pinwheel(seed: int, generator: torch.Generator) -> _Source:
    arm = torch.randperm(5000, generator=generator) % 5  # 1000 points each, shuffled
    noise = torch.randn(5000, 2, generator=generator)
    radius, across = 1 + 0.3 * noise[:, 0], 0.1 * noise[:, 1]
    angle = arm * (2 * math.pi / 5) + 0.25 * radius.exp()
    cos, sin = angle.cos(), angle.sin()
    x = 2 * torch.stack([radius * cos + across * sin, across * cos - radius * sin], dim=1)
    return _Source(x, arm, (2,), None, 1000)


def _ring(seed: int, generator: torch.Generator) -> _Source:
    angle = torch.arange(8) * (math.pi / 4)
    return _gaussians(2 * torch.stack([angle.cos(), angle.sin()], 1), generator)


def _grid(seed: int, generator: torch.Generator) -> _Source:
    return _gaussians(torch.cartesian_prod(*[torch.arange(-4.0, 5.0, 2.0)] * 2), generator)


def _gaussians(centers: Tensor, generator: torch.Generator) -> _Source:
    component = torch.randint(len(centers), (5000,), generator=generator)
    noise = torch.randn(5000, 2, generator=generator)
    return _Source(centers[component] + 0.05 * noise, component, (2,), None, 1000)


def _mnist(seed: int, generator: torch.Generator) -> _Source:
    # The checksum vouches for the headers, which end after 16 bytes (images) and 8 bytes (labels).
    pixels, classes = (
        torch.cat(
            [
                torch.frombuffer(bytearray(mnist_bytes(f"{part}-{kind}")), dtype=torch.uint8, offset=header)
                for part in ("train", "t10k")
            ]
        )
        for kind, header in (("images-idx3-ubyte", 16), ("labels-idx1-ubyte", 8))
    )
    x = pixels.reshape(-1, 28 * 28).float().div_(255)
    return _Source(x, classes.long(), (28, 28), 256, 10000)


def _textures(seed: int, generator: torch.Generator) -> _Source:
    return _of_mnist(seed, generator, textured, (10000, 2000, 2000), levels=2)


def _stacked(seed: int, generator: torch.Generator) -> _Source:
    return _of_mnist(seed, generator, stacked, (20000, 5000, 5000), levels=256)


def _of_mnist(
    seed: int,
    generator: torch.Generator,
    make: Callable[[Tensor, Tensor, int, torch.Generator], tuple[Tensor, Tensor]],
    sizes: tuple[int, int, int],
    levels: int,
) -> _Source:
    """Images of several digits, the splits made of those of MNIST."""
    digits = _mnist(seed, generator)
    of_mnist = [len(digits.x) - 2 * digits.held_out, digits.held_out, digits.held_out]
    splits = zip(digits.x.unflatten(1, digits.shape).split(of_mnist), digits.y.split(of_mnist), sizes, strict=True)
    parts = [make(x, y, num, generator) for x, y, num in splits]
    x, y = (torch.cat(part) for part in zip(*parts, strict=True))
    return _Source(x.flatten(1), y, tuple(x.shape[1:]), levels, sizes[-1])


_SOURCES: dict[str, Callable[[int, torch.Generator], _Source]] = {
    "digits": _digits,
    "mnist": _mnist,
    "moons": _moons,
    "pinwheel": _pinwheel,
    "ring": _ring,
    "grid": _grid,
    "textures": _textures,
    "stacked": _stacked,
}
