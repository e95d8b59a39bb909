"""Log evidence from both sides, on a 784-200-200-50 VAE of MNIST, and importance weights beside annealed chains.

    PPVAE_DATA=... python benchmarks/two_sided_evidence.py

Trains on dynamically binarized digits, then prints: for digits simulated from the model, the lower bound of annealed
importance sampling and the upper one of its reverse (BDMC); for test digits, AIS from the encoder and from the prior
against IWAE-5000. With standard errors over digits, Monte Carlo errors and seconds.
"""

import argparse
import time

import torch

import ppvae
from ppvae.inference.runtime.records import Measurement
from ppvae.models import VAE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40, help="times through the training data")
    parser.add_argument("--points", type=int, default=100, help="digits to measure")
    parser.add_argument("--temperatures", type=int, default=1000)
    parser.add_argument("--chains", type=int, default=16, help="for each digit")
    parser.add_argument("--device", default="cpu", help="where to train and measure, such as cuda")
    args = parser.parse_args()

    digits = ppvae.datasets.load("mnist", binarize="dynamic")
    torch.manual_seed(0)
    pair = VAE.mlp(784, 50, hidden=[200, 200]).init_from(digits.train)
    ppvae.fit(
        pair,
        digits.train,
        epochs=args.epochs,
        schedule=lambda done: 1 - 0.9 * done,
        transform=digits.transform,
        device=args.device,
        seed=0,
    )
    x = digits.test[: args.points]
    prior, guide = (ppvae.AIS(args.chains, args.temperatures, start) for start in ("prior", "guide"))

    for annealing in (prior, guide):
        start = time.perf_counter()
        certificate = ppvae.log_evidence(pair, x, "bdmc", annealing=annealing, seed=0).certificate
        print(f"\nsimulated digits, T = {args.temperatures}, from the {annealing.start}")
        for name in ("lower", "upper", "width"):
            show(name, getattr(certificate, name))
        print(f"{'of both, and AIS on test digits':<40}{time.perf_counter() - start:8.1f} s")

    print("\ntest digits")
    measured = {}
    for name, method, annealing in (
        ("IWAE-5000", "iwae", None),
        (f"AIS from the encoder, T = {args.temperatures}", "ais", guide),
        (f"AIS from the prior, T = {args.temperatures}", "ais", prior),
    ):
        start = time.perf_counter()
        measured[name] = ppvae.log_evidence(pair, x, method, 5000, annealing=annealing, seed=1)
        show(name, measured[name], time.perf_counter() - start)
    iwae, *chains = measured.values()
    print(f"k-hat of IWAE above 0.7 for {(iwae.khat > 0.7).sum()} of {len(iwae.khat)} digits")
    for name, evidence in zip(list(measured)[1:], chains, strict=True):
        error = (evidence.std_error**2 + iwae.std_error**2).sqrt()
        show(f"{name}, minus IWAE", Measurement(evidence.estimate - iwae.estimate, error, 1, "difference"))


def show(name: str, measurement: Measurement, seconds: float | None = None) -> None:
    mean = measurement.mean()
    took = f"{seconds:8.1f} s" if seconds is not None else ""
    print(f"{name:<40}{mean.estimate:9.3f} +- {mean.std_error:.3f} (Monte Carlo {mean.monte_carlo_error:.3f}){took}")


if __name__ == "__main__":
    main()
