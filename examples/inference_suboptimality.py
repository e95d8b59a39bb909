"""Inference suboptimality in variational autoencoders: is it the guide's family, or its amortization?

The question of Cremer, Li and Duvenaud 2018 (arXiv:1801.03558), asked on MNIST with ppvae's ledger: a VAE with a
diagonal Gaussian guide, the same with a larger encoder, and the same with a flow guide. Their findings, which the table
lets you check: most of the gap is often amortization rather than the family; the generator adapts to the family it was
trained with; what makes a family richer also helps to amortize. Every line is measured here, with standard errors, and
the evidence by annealed importance sampling.

MNIST is read from the folder that PPVAE_DATA names, or from a cache, or else downloaded.

It takes about nine minutes on one core.

On MNIST it takes about nine minutes on one core.
"""

import argparse
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import torch

import ppvae
from ppvae.inference.ledger.ascent import Ascent
from ppvae.models import VAE, Bernoulli, CouplingFlow, DiagonalNormal, StandardNormal
from ppvae.networks import mlp

NUM_LATENTS = 50
LINES = ["log_evidence", "elbo_refined", "elbo", "approximation_gap", "amortization_gap", "gap"]


def pairs(num_features: int) -> dict[str, VAE]:
    """The three guides, each with a decoder of its own."""

    def vae(posterior: torch.nn.Module) -> VAE:
        return VAE(StandardNormal(NUM_LATENTS), Bernoulli(mlp(NUM_LATENTS, [200, 200], num_features)), posterior)

    return {
        "diagonal": vae(DiagonalNormal(mlp(num_features, [200, 200], 2 * NUM_LATENTS))),
        "larger encoder": vae(DiagonalNormal(mlp(num_features, [500, 500], 2 * NUM_LATENTS))),
        "flow": vae(CouplingFlow(mlp(num_features, [200, 200], 2 * NUM_LATENTS), NUM_LATENTS, num_hidden=100)),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["mnist", "digits"], default="mnist", help="digits is for trying it out")
    parser.add_argument("--epochs", type=int, default=20, help="passes through the data")
    parser.add_argument("--held-out", type=int, default=100, help="data points to measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where to train and measure, such as cuda")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for figure and table")
    parser.add_argument("--smoke", action="store_true", help="the least of everything: does it run at all?")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    data = ppvae.datasets.load(args.data, binarize="dynamic")
    held_out = data.test[:5] if args.smoke else data.test[: args.held_out]
    effort = ppvae.Effort(restarts=0, richer=False)
    if args.smoke:
        effort = ppvae.Effort(
            "ais", annealing=(ppvae.AIS(2, 5),), num_samples=10, ascent=Ascent(max_steps=20), restarts=0
        )

    torch.manual_seed(args.seed)
    reports = {}
    for name, pair in pairs(data.num_features).items():
        start = time.perf_counter()
        pair.init_from(data.train)
        steps = {"steps": 5} if args.smoke else {"epochs": args.epochs}
        settings = {"lr": 2e-3, "schedule": decay, "seed": args.seed, "device": args.device, "progress": False}
        ppvae.fit(pair, data.train, transform=data.transform, **steps, **settings)
        seconds = time.perf_counter() - start
        reports[name] = ppvae.gap(pair, held_out, effort, seed=args.seed, progress=False)
        print(f"{name:<15} trained in {seconds:.0f} s, measured in {time.perf_counter() - start - seconds:.0f} s")

    args.out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({name: described(report) for name, report in reports.items()})
    (args.out / f"inference_suboptimality_{args.data}.txt").write_text(table.to_string() + "\n")
    print(f"\nnats per data point, +- standard error over {len(held_out)} held-out data points\n{table.to_string()}")
    with ppvae.plots.style():
        draw(reports, args.out / f"inference_suboptimality_{args.data}.png")
    print(f"\nwrote inference_suboptimality_{args.data}.txt and .png to {args.out}/")


def decay(done: float) -> float:
    """A factor on the learning rate: an encoder that still jitters costs a nat and a half of amortization."""
    return 1 - 0.95 * done


def described(report: ppvae.GapReport) -> pd.Series:
    means = {name: report.lines()[name].mean() for name in LINES}
    found = {name.replace("_", " "): f"{mean.estimate:.2f} +- {mean.std_error:.2f}" for name, mean in means.items()}
    gap, part = means["gap"], means["amortization_gap"]
    is_seen = gap.estimate > 2 * gap.monte_carlo_error  # a share of a gap of about zero says nothing
    return pd.Series(found | {"share of amortization": f"{part.estimate / gap.estimate:.0%}" if is_seen else "-"})


def draw(reports: dict[str, ppvae.GapReport], path: Path) -> None:
    """Both gaps of each guide, side by side, with standard errors over data points."""
    figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for offset, name in ((-0.18, "approximation_gap"), (0.18, "amortization_gap")):
        means = [report.lines()[name].mean() for report in reports.values()]
        rows = [row + offset for row in range(len(means))]
        ax.barh(rows, [m.estimate for m in means], 0.34, label=name.replace("_", " "))
        ax.errorbar([m.estimate for m in means], rows, xerr=[m.std_error for m in means], fmt="none", color="black")
    ax.set_yticks(range(len(reports)), list(reports))
    ax.invert_yaxis()
    ax.set(xlabel="nats per data point")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    figure.savefig(path)


if __name__ == "__main__":
    main()
