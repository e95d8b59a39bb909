"""A VQ-VAE on binarized digits: its dictionary, its true gap, and its second stage in nats.

Its guide is at the nearest codes, one value for each digit, so weights from it are all equal, and say nothing of the
gap. Here log p(x) is the sum over all 16^4 codes. Prints, on held-out digits, how near importance weights from softened
codes come to it; where the gap lies; and what priors that are learned over the codes gain, beside what they save in
cross-entropy. Writes the figures, and a picture.

It takes about a minute and a half on one core.
"""

import argparse
import math
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

import ppvae
from ppvae.models import VQVAE, AutoregressivePrior, FactorizedCodes, LinearCodes
from ppvae.models.codes.tempered import TEMPERATURES
from ppvae.views import plots


def linear(shape: list[int], num_codes: int) -> AutoregressivePrior:
    """Each code given those before it."""
    return AutoregressivePrior(LinearCodes(shape, num_codes))


PRIORS = {"table for each position": FactorizedCodes, "autoregressive": linear}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--positions", type=int, default=4)
    parser.add_argument("--codes", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3000, help="of training, and of each second stage")
    parser.add_argument("--held-out", type=int, default=300, help="data points to measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for figures and picture")
    parser.add_argument("--smoke", action="store_true", help="the least of everything: does it run at all?")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.smoke:
        args.positions, args.codes, args.steps, args.held_out = 2, 4, 5, 18
    data = ppvae.datasets.load(args.data, binarize="dynamic")
    held_out = data.test[: args.held_out]
    pair, seconds = trained(data, args)
    lines = [
        f"{args.codes}^{args.positions} codes, trained in {seconds:.0f} s; nats per data point, {len(held_out)} of them"
    ]

    start = time.perf_counter()
    report = ppvae.gap(pair, held_out, seed=args.seed, progress=False)
    lines += ["", report.summary().round(3).to_string(), f"(measured in {time.perf_counter() - start:.0f} s)"]
    lines += ["", *sweep(pair, held_out, report.log_evidence, args)]

    stages, train = {}, data.transform(data.train)
    lines += [
        "",
        f"{'second stage':<26}{'ELBO':>9}{'gain':>9}{'P log K - cross-entropy':>26}{'gain, training data':>22}",
    ]
    for name, prior in PRIORS.items():
        after = stages[name] = second_stage(pair, prior([args.positions], args.codes), data, args)
        before, now = (ppvae.elbo(each, held_out, 1, seed=0, progress=False).estimate for each in (pair, after))
        saved = args.positions * math.log(args.codes) + after.prior().log_prob(pair.codes(held_out)).mean()
        own = (after.exact_elbo(train) - pair.exact_elbo(train)).mean()
        lines.append(f"{name:<26}{now.mean():>9.3f}{(now - before).mean():>9.3f}{saved:>26.3f}{own:>22.3f}")

    text = "\n".join(lines)
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"vq_{args.data}.txt").write_text(f"{text}\n")
    with plots.style():
        draw(pair, stages, report, data, held_out, args.out / f"vq_{args.data}.png")
    print(f"\nwrote vq_{args.data}.txt and .png to {args.out}/")


def trained(data: ppvae.datasets.Dataset, args: argparse.Namespace) -> tuple[VQVAE, float]:
    torch.manual_seed(args.seed)
    start = time.perf_counter()
    pair = VQVAE.mlp(data.num_features, args.positions, args.codes, 8, [100], decay=0.99).init_from(data.train)
    ppvae.fit(
        pair,
        data.train,
        ppvae.VectorQuantizedELBO(),
        transform=data.transform,
        steps=args.steps,
        lr=3e-3,
        schedule=lambda done: 1 - 0.95 * done,
        callbacks=[lambda _: restart(pair, data.train)],
        seed=args.seed,
        progress=False,
    )
    return pair, time.perf_counter() - start


def restart(pair: VQVAE, x: Tensor) -> None:
    """Counts over the epoch's data, as few batches have all codes."""
    pair.restart_dead_codes(x)


def sweep(pair: VQVAE, held_out: Tensor, exact: ppvae.inference.Evidence, args: argparse.Namespace) -> list[str]:
    """Importance weights from guides softened at each temperature, and from all of them, beside the exact evidence."""
    particles = 20 if args.smoke else 2000
    lines = [f"{'weights from codes at tau':<26}{'log p(x)':>9}{'short by':>10}{'reliable':>10}"]
    for taus in (*((tau,) for tau in TEMPERATURES), TEMPERATURES):
        found = ppvae.log_evidence(
            pair.tempered(taus), held_out, "iwae", num_particles=particles, seed=args.seed, progress=False
        )
        estimate, short = found.estimate.mean(), (exact.estimate - found.estimate).mean()
        name = ", ".join(f"{tau:g}" for tau in taus)
        lines.append(f"{name:<26}{estimate:>9.3f}{short:>10.3f}{found.reliable.double().mean():>10.0%}")
    return lines


def second_stage(pair: VQVAE, prior: torch.nn.Module, data: ppvae.datasets.Dataset, args: argparse.Namespace) -> VQVAE:
    after = pair.second_stage(prior)
    ppvae.fit(
        after,
        data.train,
        transform=data.transform,
        steps=args.steps,
        lr=1e-2,
        schedule=lambda done: 1 - 0.95 * done,
        seed=args.seed,
        progress=False,
    )
    return after


def draw(
    pair: VQVAE,
    stages: dict[str, VQVAE],
    report: ppvae.GapReport,
    data: ppvae.datasets.Dataset,
    held_out: Tensor,
    path: Path,
) -> None:
    """Where the gap lies, the dictionary and its usage, reconstructions, and samples from each prior."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 7), layout="constrained")
    parts = {"family": report.approximation_gap, "amortization": report.amortization_gap}
    axes[0, 0].hist([part.estimate.numpy() for part in parts.values()], bins=15, label=list(parts))
    axes[0, 0].set(title="parts of the gap", xlabel="nats", ylabel="held-out digits")
    axes[0, 0].legend()
    of_codes(axes[0, 1], pair, data)
    both = torch.stack([held_out[:18], pair.reconstruct(held_out[:18])], 1).flatten(0, 1)
    plots.images(axes[0, 2], both, data.shape)
    axes[0, 2].set_title("digits and reconstructions")
    shown = {"uniform prior": pair, **stages}
    for ax, (name, each) in zip(axes[1], shown.items(), strict=True):
        torch.manual_seed(0)
        z = each.sample_joint(36, observed=False)["z"]
        plots.images(ax, each.likelihood(z).mean.detach(), data.shape)
        ax.set_title(f"samples, {name}")
    figure.savefig(path)


def of_codes(ax: Axes, pair: VQVAE, data: ppvae.datasets.Dataset) -> None:
    """How often the training data have each code at each position."""
    index = pair.codes(data.transform(data.train))
    num_codes = pair.codebook.codes.shape[1]
    share = torch.stack([(index == k).double().mean(0) for k in range(num_codes)], -1)
    image = ax.imshow(share, cmap="viridis", aspect="auto")
    plt.colorbar(image, ax=ax, label="share of training data")
    ax.set(title="usage of the dictionary", xlabel="code", ylabel="position")
    ax.set(xticks=range(0, num_codes, 5), yticks=range(index.shape[1]))


if __name__ == "__main__":
    main()
