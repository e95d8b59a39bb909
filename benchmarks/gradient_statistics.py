"""What the microscope costs: 1000 gradients and their statistics against 1000 training steps without the optimiser.

    PPVAE_DATA=... python benchmarks/gradient_statistics.py

IWAE-50 of a 784-200-200-50 VAE on 20 MNIST digits; blocks in turns, medians. The gradients are those of training; the
microscope adds their running moments, the values' statistics and the batch's log evidence.
"""

import argparse
import statistics
import time

import pyro
import torch

import ppvae
from ppvae.inference.isolation import denormals_flushed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="gradients in a block")
    parser.add_argument("--blocks", type=int, default=3, help="of each")
    args = parser.parse_args()

    digits = ppvae.datasets.load("mnist", binarize="dynamic")
    torch.manual_seed(0)
    pair = ppvae.models.VAE.mlp(784, 50, hidden=[200, 200])
    x, objective = digits.transform(digits.train[:20]), ppvae.IWAE(50)
    seconds: dict[str, list[float]] = {"training steps, no optimiser": [], "gradient_statistics": []}
    for _ in range(args.blocks):
        start = time.perf_counter()
        with denormals_flushed(), pyro.validation_enabled(False):
            for _ in range(args.repeats):
                objective(pair, x)[1].neg().backward()
                pair.zero_grad()
        between = time.perf_counter()
        ppvae.gradient_statistics(pair, x, [objective], [50], repeats=args.repeats, progress=False)
        for taken, name in zip((between - start, time.perf_counter() - between), seconds, strict=True):
            seconds[name].append(taken)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    for name, taken in medians.items():
        print(f"{name:<30}{taken:8.2f} s for {args.repeats}, {1000 * taken / args.repeats:.2f} ms each")
    print(f"ratio {medians['gradient_statistics'] / medians['training steps, no optimiser']:.2f}")


if __name__ == "__main__":
    main()
