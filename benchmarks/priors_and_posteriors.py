"""What a prior, a posterior family and a likelihood are worth, in nats of held-out evidence and of gap.

    python benchmarks/priors_and_posteriors.py

Handwritten digits, 8 x 8: VAEs 64-100-10, tanh, ELBO of two particles, batch 100, Adam 2e-3 decayed linearly to zero
over 200 epochs. First binarized digits: each prior with a diagonal posterior, each posterior with a normal prior, and
one pair of both kinds. Then the 17 gray levels themselves under three likelihoods; the Gaussian's density is of
dequantized digits, and its bits are a bound. Differences are paired, over the same held-out digits.
"""

import argparse
import math

import torch

import ppvae
from ppvae.models import VAE

PAIRS = [
    ("normal", "diagonal"),
    *((prior, "diagonal") for prior in ("mixture", "vamp", "flow")),
    *(("normal", posterior) for posterior in ("low-rank", "full", "mixture", "flow", "iaf")),
    ("mixture", "flow"),
]
EFFORT = ppvae.Effort("auto", 2000, (ppvae.AIS(num_temperatures=100),), 500, ascent=None, richer=False, refit_steps=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200, help="of training")
    parser.add_argument("--digits", type=int, default=300, help="held out, to measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["pairs", "likelihoods"], help="one of the two tables")
    args = parser.parse_args()
    if args.only != "likelihoods":
        pairs(args)
    if args.only != "pairs":
        likelihoods(args)


def pairs(args: argparse.Namespace) -> None:
    print("| prior | posterior | log p(x) | - normal, diagonal | ELBO | gap | AIS |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    data, first = ppvae.datasets.load("digits", binarize="dynamic"), None
    for prior, posterior in PAIRS:
        report = measured(data, args, prior=prior, posterior=posterior)
        evidence = report.log_evidence
        first = evidence.estimate if first is None else first
        difference = evidence.estimate - first
        chains = sum(method == "ais" for method in evidence.methods) / len(difference)
        error = difference.std() / math.sqrt(len(difference))
        print(
            f"| {prior} | {posterior} | {evidence.mean().estimate:.2f} | {difference.mean():+.2f} +- {error:.2f} | "
            f"{report.elbo.mean().estimate:.2f} | {report.mean().estimate:.2f} +- {report.mean().std_error:.2f} | "
            f"{chains:.0%} |",
            flush=True,
        )


def likelihoods(args: argparse.Namespace) -> None:
    print("\n| likelihood | bits per dimension | ELBO's | gap, nats |\n|---|---|---|---|", flush=True)
    for likelihood in ("gaussian", "logistic_mixture", "categorical"):
        dequantize = likelihood == "gaussian"
        data = ppvae.datasets.load("digits", dequantize=dequantize)
        report = measured(data, args, likelihood=likelihood, levels=17)
        levels = 17 if dequantize else None
        evidence, elbo = (
            ppvae.datasets.bits_per_dim(line.mean().estimate, data.num_features, levels)
            for line in (report.log_evidence, report.elbo)
        )
        error = report.log_evidence.mean().std_error / (data.num_features * math.log(2))
        print(
            f"| {likelihood} | {evidence:.3f} +- {error:.3f} | {elbo:.3f} | {report.mean().estimate:.2f} +- "
            f"{report.mean().std_error:.2f} |",
            flush=True,
        )


def measured(data: ppvae.datasets.Dataset, args: argparse.Namespace, **parts: str | int) -> ppvae.GapReport:
    """The ledger of a trained pair on held-out digits."""
    torch.manual_seed(args.seed)
    pair = VAE.mlp(data.num_features, 10, [100], **parts)  # type: ignore[arg-type]
    pair.init_from(data.train if data.transform is None else data.transform(data.train))
    ppvae.fit(
        pair,
        data.train,
        ppvae.ELBO(num_particles=2),
        epochs=args.epochs,
        batch_size=100,
        lr=2e-3,
        schedule=lambda done: 1 - done,
        transform=data.transform,
        seed=args.seed,
        progress=False,
    )
    return ppvae.gap(pair, data.test[: args.digits], EFFORT, seed=0, progress=False)


if __name__ == "__main__":
    main()
