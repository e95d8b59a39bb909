"""Forecasts of annealed importance sampling against what it took, and evidence in bounded time, on an MNIST VAE.

    PPVAE_DATA=... python benchmarks/evidence_in_time.py

Trains a 784-200-200-50 VAE briefly on dynamically binarized digits. Then AIS measures test digits with no bound, and
"auto" the same digits under several bounds; both with the default settings. Prints seconds, and for the bounded runs
how many digits AIS reached, how far their evidence is from the unbounded one's, in standard errors, and what their
importance weights fall short of it.
"""

import argparse
import logging
import time

import torch
from machine import machine

import ppvae
from ppvae.models import VAE


class Forecasts(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4, help="times through the training data")
    parser.add_argument("--points", type=int, default=40, help="digits to measure")
    parser.add_argument(
        "--bounds", type=float, nargs="*", default=[15, 30, 60, 120], help="of the bounded runs, seconds"
    )
    parser.add_argument("--device", default="cpu", help="where to train and measure, such as cuda")
    args = parser.parse_args()

    digits = ppvae.datasets.load("mnist", binarize="dynamic")
    torch.manual_seed(0)
    pair = VAE.mlp(784, 50, hidden=[200, 200]).init_from(digits.train)
    ppvae.fit(
        pair,
        digits.train,
        epochs=args.epochs,
        transform=digits.transform,
        device=args.device,
        seed=0,
        progress=False,
    )
    x = digits.test[: args.points]
    handler = Forecasts()
    logging.getLogger("ppvae").addHandler(handler)
    print(machine())

    start = time.perf_counter()
    whole = ppvae.log_evidence(pair, x, "ais", seed=0, progress=False)
    print(f"no bound: {time.perf_counter() - start:.0f} seconds; forecast: {'; '.join(handler.said) or 'none'}")
    print("\n| max_seconds | took | annealed | from the unbounded, RMS in standard errors | weights fall short, nats |")
    print("|---|---|---|---|---|")
    for bound in args.bounds:
        start = time.perf_counter()
        found = ppvae.log_evidence(pair, x, "auto", max_seconds=bound, seed=1, progress=False)
        took = time.perf_counter() - start
        reached = torch.tensor([name == "ais" for name in found.methods])
        z = ((found.estimate - whole.estimate) / torch.hypot(found.std_error, whole.std_error))[reached]
        short = (whole.estimate - found.estimate)[~reached].mean()
        print(f"| {bound:g} | {took:.1f} | {reached.sum()} | {z.square().mean().sqrt():.2f} | {short:.2f} |")


if __name__ == "__main__":
    main()
