"""The first table of "Importance weighted autoencoders", one stochastic layer, dynamically binarized MNIST.

    PPVAE_DATA=... python benchmarks/iwae_table.py --device cuda --minutes 60 --folder runs        # not run yet
    PPVAE_DATA=... python benchmarks/iwae_table.py --only VAE --epochs 40 --points 200 --folder runs  # five CPU minutes

Source: Burda, Grosse & Salakhutdinov 2016 (arXiv:1509.00519). 784-200-200-50 with tanh, all 60,000 training digits,
binarized anew at each step, Adam with eps 1e-4. The rate is 1e-3 * 10^(-i/7) for 3^i epochs, i = 0 to 7: 3,280 in all,
or as many as `--epochs` says, in the same proportions. The paper's batches have 20 digits, these 100 unless told.

Each run is kept in a file of the folder. With `--minutes` it stops after so many, and goes on when the script is called
again. Printed is the mean -log p(x) of test digits by IWAE-5000, as published, and by AIS, which needs no good encoder.
"""

import argparse
import functools
import time
from pathlib import Path

import torch

import ppvae
from ppvae.models import VAE

PUBLISHED = {"VAE": (ppvae.ELBO(), 86.76), "IWAE-5": (ppvae.IWAE(5), 85.54), "IWAE-50": (ppvae.IWAE(50), 84.78)}
"""Objective and published negative log likelihood, in nats."""

STAGES = 8


def rate(done: float) -> float:
    """The factor on the first learning rate after this fraction of all epochs."""
    ends = [(3 ** (i + 1) - 1) / (3**STAGES - 1) for i in range(STAGES)]
    return 10 ** (-next(i for i, end in enumerate(ends) if done < end) / 7)


def trained(name: str, args: argparse.Namespace, digits: ppvae.datasets.Dataset) -> tuple[VAE, ppvae.Fit]:
    """The pair after as many of its epochs as there was time for."""
    data = torch.cat([digits.train, digits.validation])
    torch.manual_seed(0)
    pair = VAE.mlp(784, 50, hidden=[200, 200]).init_from(data)
    start = time.perf_counter()

    def stop(_: ppvae.Fit) -> None:
        if args.minutes and time.perf_counter() - start > 60 * args.minutes:
            raise StopIteration

    run = ppvae.fit(
        pair,
        data,
        PUBLISHED[name][0],
        epochs=args.epochs,
        batch_size=args.batch_size,
        optimizer=functools.partial(torch.optim.Adam, eps=1e-4, fused=True),
        lr=1e-3,
        schedule=rate,
        transform=digits.transform,
        device=args.device,
        compile=True,
        callbacks=[stop],
        checkpoint=args.folder / f"{name}.safetensors",
        resume=True,
    )
    return pair, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--only", nargs="+", choices=PUBLISHED, default=list(PUBLISHED), help="these runs only")
    parser.add_argument("--epochs", type=int, default=3280, help="of the whole schedule")
    parser.add_argument("--minutes", type=float, help="of each run's training in this call")
    parser.add_argument("--batch-size", type=int, default=100, help="digits in a step")
    parser.add_argument("--points", type=int, default=10_000, help="test digits that are measured")
    parser.add_argument("--temperatures", type=int, default=1000, help="of AIS, on the first hundred of them")
    parser.add_argument("--device", default="cpu", help="where to train and measure, such as cuda")
    args = parser.parse_args()

    args.folder.mkdir(parents=True, exist_ok=True)
    digits = ppvae.datasets.load("mnist", binarize="dynamic")
    print("| | epochs | hours | published | IWAE-5000 | its first 100 | AIS of these |\n|---|---|---|---|---|---|---|")
    for name in args.only:
        pair, run = trained(name, args, digits)
        test = digits.test[: args.points]
        weighed = -ppvae.log_evidence(pair, test, "iwae", num_particles=5000, seed=0).estimate
        annealing = ppvae.AIS(num_temperatures=args.temperatures)
        annealed = -ppvae.log_evidence(pair, test[:100], "ais", annealing=annealing, seed=0).estimate
        means = [weighed, weighed[:100], annealed]
        figures = [f"{mean.mean():.2f} +- {mean.std() / len(mean) ** 0.5:.2f}" for mean in means]
        of_all = f"{run.epochs} of {args.epochs}"
        print(f"| {name} | {of_all} | {run.seconds / 3600:.2f} | {PUBLISHED[name][1]} |", " | ".join(figures), "|")


if __name__ == "__main__":
    main()
