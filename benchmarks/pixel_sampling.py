"""Drawing images pixel by pixel: a column of the network for each pixel, against a pass over the image for each.

    python benchmarks/pixel_sampling.py

The two give the same images, bit for bit, in double precision, which is checked. Prints the seconds of one core's time
that each takes, which depend less on what else runs than the clock's, and their ratio, for images of three sizes.
"""

import argparse
import time
from collections.abc import Callable

import torch
from machine import machine
from torch import Tensor

from ppvae.models import MADE, Autoregressive, DiagonalBiLSTM, GatedPixelCNN, MaskedNetwork, PixelCNN, RowLSTM


def networks(side: int) -> dict[type[MaskedNetwork], Callable[[type], MaskedNetwork]]:
    """Makers of a network, given its class."""
    return {
        PixelCNN: lambda cls: cls((1, side, side), 2, 32),
        GatedPixelCNN: lambda cls: cls((1, side, side), 2, 32),
        RowLSTM: lambda cls: cls((1, side, side), 2, 32),
        DiagonalBiLSTM: lambda cls: cls((1, side, side), 2, 32),
        MADE: lambda cls: cls(side * side, 2, [max(200, side * side)]),
    }


def seconds_and_images(make: Callable[[type], MaskedNetwork], cls: type, num: int) -> tuple[float, Tensor]:
    torch.manual_seed(0)
    p = Autoregressive(make(cls))
    p.sample((1,))  # warm
    torch.manual_seed(0)
    start = time.process_time()
    x = p.sample((num,))
    return time.process_time() - start, x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[8, 16, 28], help="heights, and widths, of the images")
    parser.add_argument("--num", type=int, default=16, help="images drawn at once")
    args = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    layers = "PixelCNNs of width 32 and five layers, PixelRNNs of three, a MADE of one"
    print(f"{machine()}\n{args.num} images of bits; {layers}; seconds of one core")
    print(f"{'':<15}{'pixels':>8}{'columns':>10}{'naive':>10}{'ratio':>8}")
    for side in args.sides:
        for cls, make in networks(side).items():
            naive = type(cls.__name__, (cls,), {"step": MaskedNetwork.step})
            fast, x = seconds_and_images(make, cls, args.num)
            slow, same = seconds_and_images(make, naive, args.num)
            if not torch.equal(x, same):
                raise SystemExit(f"{cls.__name__}: found images that differ, expected the same")
            print(f"{cls.__name__:<15}{side * side:>8}{fast:>10.3f}{slow:>10.3f}{slow / fast:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
