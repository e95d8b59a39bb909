"""Why is my ELBO low? The ledger of one VAE's gap under three guides: diagonal, full covariance, and a flow.

Each pair is trained on handwritten digits, and measured on held-out ones: log p(x), the ELBO, and what lies between
them, by experiment - the guide's family, its amortization, its training. Prints the three ledgers side by side and
what follows from each; writes the figure, and the reports (`ppvae.GapReport.load` reads them).

It takes about ten minutes on one core.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import torch

import ppvae
from ppvae.inference.ledger.ascent import Ascent
from ppvae.models import VAE

GUIDES = {"diagonal": "diagonal", "full covariance": "full", "flow": "flow"}
SIZES = {"digits": (64, 10, [100], 300, 2e-3), "mnist": (784, 50, [200, 200], 30, 1e-3)}
STEPS = {
    "correlation_gap": "family: correlation",
    "shape_gap": "family: shape",
    "remaining_gap": "family: beyond a flow",
    "capacity_gap": "amortization: capacity",
    "training_gap": "amortization: training",
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=SIZES, default="digits")
    parser.add_argument("--epochs", type=int, help="passes through the data; by default what suits them")
    parser.add_argument("--held-out", type=int, default=50, help="data points to measure")
    parser.add_argument("--effort", choices=["default", "thorough"], default="default", help="how closely to measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where to train and measure, such as cuda")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for figure and reports")
    parser.add_argument("--smoke", action="store_true", help="the least of everything: does it run at all?")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    data = ppvae.datasets.load(args.data, binarize="dynamic")
    torch.manual_seed(args.seed)
    held_out, effort = data.test[: args.held_out], args.effort
    if args.smoke:
        chains = ppvae.AIS(num_chains=2, num_temperatures=5)
        effort = ppvae.Effort("best", 10, (chains,), 10, Ascent(max_steps=20), restarts=0, refit_steps=5)
        held_out = held_out[:5]
    args.out.mkdir(parents=True, exist_ok=True)

    reports = {}
    for name, posterior in GUIDES.items():
        pair = trained(data, args.data, posterior, 1 if args.smoke else args.epochs, args.seed, args.device)
        report = ppvae.gap(pair, held_out, effort, train=data.train, transform=data.transform, seed=args.seed)
        report.save(args.out / f"elbo_gap_{args.data}_{posterior}.safetensors")
        print(f"\n{name}: {report.verdict()}")
        reports[name] = report

    table = pd.DataFrame({name: described(report) for name, report in reports.items()})
    print(f"\nnats per data point, +- standard error over {len(held_out)} held-out data points\n{table.to_string()}")
    with ppvae.plots.style():
        draw(reports, args.out / f"elbo_gap_{args.data}.png")
    print(f"\nwrote elbo_gap_{args.data}.png and three reports to {args.out}/")


def trained(
    data: ppvae.datasets.Dataset, name: str, posterior: str, epochs: int | None, seed: int, device: str
) -> ppvae.Pair:
    num_features, num_latents, hidden, own_epochs, lr = SIZES[name]
    torch.manual_seed(seed)
    pair = VAE.mlp(num_features, num_latents, hidden, posterior=posterior).init_from(data.train)
    ppvae.fit(pair, data.train, transform=data.transform, epochs=epochs or own_epochs, lr=lr, seed=seed, device=device)
    return pair


def described(report: ppvae.GapReport) -> pd.Series:
    table = report.summary()
    own = table[~table.index.str.startswith("training data")]
    return own["nats"].map("{:.2f}".format) + " +- " + own["std_error"].map("{:.2f}".format)


def draw(reports: dict[str, ppvae.GapReport], path: Path) -> None:
    """What the gap of each guide is made of, and each guide's evidence and ELBO."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for row, report in enumerate(reports.values()):
        reached, lines = 0.0, report.lines()
        for number, (name, label) in enumerate(STEPS.items()):
            mean = lines[name].mean()
            color = plt.get_cmap("tab20c")(number if number < 3 else number + 1)
            left.barh(row, mean.estimate, left=reached, color=color, label=label if row == 0 else None, height=0.6)
            reached += mean.estimate
        gap = report.mean()
        left.errorbar(gap.estimate, row, xerr=gap.std_error, color="black")
    left.set_yticks(range(len(reports)), list(reports))
    left.invert_yaxis()
    left.set(xlabel="gap, log p(x) - ELBO [nats]", title="what the gap is made of")
    figure.legend(loc="outside lower center", ncols=len(STEPS), fontsize=9)
    ppvae.plots.bounds(right, reports)
    right.set_title("evidence (dot) and ELBO (bar)")
    figure.savefig(path)


if __name__ == "__main__":
    main()
