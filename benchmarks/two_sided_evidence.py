"""Log evidence from both sides, on a 784-200-200-50 VAE of MNIST, and importance weights beside annealed chains.

    PPVAE_DATA=... python benchmarks/two_sided_evidence.py

Trains on dynamically binarized digits, then prints: for digits simulated from the model, the lower bound of annealed
importance sampling and the upper one of its reverse (BDMC); for test digits, the same AIS, IWAE-5000, "auto" and "best"
as they are by default, and what each finds less the first AIS. With standard errors over digits, Monte Carlo errors and
seconds.
"""

import argparse
import time

import torch
from torch import Tensor

import ppvae
from ppvae.inference.runtime.records import Measurement
from ppvae.models import VAE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40, help="times through the training data")
    parser.add_argument("--points", type=int, default=100, help="digits to measure")
    parser.add_argument("--temperatures", type=int, default=1000)
    parser.add_argument("--chains", type=int, default=16, help="for each digit")
    parser.add_argument("--starts", choices=["prior", "guide"], nargs="+", default=["guide", "prior"], help="of AIS")
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
    measured = {}
    for start_from in args.starts:
        annealing = ppvae.AIS(args.chains, args.temperatures, start_from)
        start = time.perf_counter()
        found = ppvae.log_evidence(pair, x, "bdmc", annealing=annealing, seed=0)
        print(f"\nsimulated digits, T = {args.temperatures}, from the {start_from}")
        for name in ("lower", "upper", "width"):
            show(name, getattr(found.certificate, name))
        print(f"{'of both, and AIS on test digits':<40}{time.perf_counter() - start:8.1f} s")
        measured[f"AIS from the {start_from}, T = {args.temperatures}"] = found

    print("\ntest digits")
    for name, method, num_particles in (("IWAE-5000", "iwae", 5000), ("auto", "auto", 1000), ("best", "best", 1000)):
        start = time.perf_counter()
        measured[name] = ppvae.log_evidence(pair, x, method, num_particles, seed=1)
        print(f"{name}: {time.perf_counter() - start:.1f} s, {measured[name].reason}")
    for name, evidence in measured.items():
        show(name, evidence)
        print(f"{'of which reliable':<40}{int(evidence.reliable.sum())}")
    (first, reference), *others = measured.items()
    for name, evidence in others:
        error = (evidence.std_error**2 + reference.std_error**2).sqrt()
        difference = Measurement(evidence.estimate - reference.estimate, error, 1, "difference")
        show(f"{name}, less {first}", difference)
        if (reliable := evidence.reliable & reference.reliable).any():
            show(f"the same, {int(reliable.sum())} digits where both are reliable", difference, reliable)


def show(name: str, measurement: Measurement, at: Tensor | slice = slice(None)) -> None:
    mean = Measurement(measurement.estimate[at], measurement.std_error[at], 1, "mean").mean()
    print(f"{name:<60}{mean.estimate:9.3f} +- {mean.std_error:.3f} (Monte Carlo {mean.monte_carlo_error:.3f})")


if __name__ == "__main__":
    main()
