"""Digits with thirty labels: what is a missing label worth, and does the guide find it?

M2, `p(y) p(z) p(x | y, z)`, is trained on handwritten digits with three labels a class, by its bound alone and with the
term that teaches its classifier the labels that are known; so is M1+M2, an M2 of a VAE's latents, and M1, that VAE with
a classifier. For held-out digits the table has the share that the guide's classifier gets right, and the share that
Bayes' rule does, `p(y | x) = p(x, y) / p(x)`, from the evidence of each label; then log p(x), and the gap of rows
without and with a label. The picture also has digits that a conditional VAE draws for chosen labels, and analogies.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor

import ppvae
from ppvae.models import M1, M1M2, M2, VAE, Classifier, ConditionalVAE
from ppvae.views import plots

CLASSES, LATENTS, HIDDEN = 10, 10, [100]


@dataclass(frozen=True)
class Result:
    """What is measured of a pair on held-out digits; nats are per digit."""

    guide: float
    bayes: float
    log_px: Tensor
    gap_without: Tensor
    gap_with: Tensor


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=3, help="known labels of each class")
    parser.add_argument("--steps", type=int, default=1200, help="of training, for each pair")
    parser.add_argument("--particles", type=int, default=200, help="for the evidence of each label")
    parser.add_argument("--held-out", type=int, default=300, help="digits to measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for figure and table")
    parser.add_argument("--smoke", action="store_true", help="the least of everything: does it run at all?")
    args = parser.parse_args()
    if args.smoke:
        args.steps, args.particles, args.held_out = 2, 4, 10
    return args


def main() -> None:
    args = parse_arguments()
    data = ppvae.datasets.load("digits", binarize="dynamic", seed=args.seed)
    held_out = data.test[: args.held_out], data.labels["test"][: args.held_out]
    batch = partly_labeled(data, args)
    weight = 0.1 * len(data.train) / int(batch[2].sum())
    semi_supervised = ppvae.SemiSupervisedELBO(weight=weight)
    torch.manual_seed(args.seed)
    pairs: dict[str, M1 | M2 | M1M2] = {}
    for name, objective in (("M2, the bound alone", ppvae.EnumeratedELBO()), ("M2", semi_supervised)):
        pair = M2.mlp(data.num_features, LATENTS, CLASSES, HIDDEN).init_from(data.train)
        pairs[name] = trained(name, pair, batch, objective, data, args)
    vae = VAE.mlp(data.num_features, LATENTS, HIDDEN).init_from(data.train)
    trained("VAE", vae, data.train, ppvae.ELBO(), data, args).requires_grad_(False)
    m1 = M1(vae, Classifier(torch.nn.Linear(LATENTS, CLASSES)))
    pairs["M1"] = trained("M1", m1, batch, ppvae.ELBO(), data, args)
    m2 = M2.mlp(LATENTS, LATENTS, CLASSES, HIDDEN, "heteroscedastic")
    pairs["M1+M2"] = trained("M1+M2", M1M2(vae, m2), batch, semi_supervised, data, args)
    conditional = ConditionalVAE.mlp(data.num_features, LATENTS, CLASSES, HIDDEN).init_from(data.train)
    trained("conditional VAE", conditional, (data.train, data.labels["train"]), ppvae.ELBO(), data, args)

    start = time.perf_counter()
    results = {name: measured(pair, *held_out, args) for name, pair in pairs.items()}
    text = f"{len(held_out[0])} held-out digits; {int(batch[2].sum())} labels among {len(data.train)} digits\n"
    text += table(results).to_string()
    print(f"measured in {time.perf_counter() - start:.0f} s\n\n{text}")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "labels.txt").write_text(f"{text}\n")
    with ppvae.plots.style():
        draw(results, pairs["M2"], conditional, held_out, data.shape, args.out / "labels.png")
    print(f"\nwrote labels.txt and .png to {args.out}/")


def partly_labeled(data: ppvae.datasets.Dataset, args: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """The training digits, their labels, and which of these are known: the first few of each class."""
    y = data.labels["train"]
    known = torch.zeros(len(y), dtype=torch.bool)
    for label in range(CLASSES):
        known[(y == label).nonzero()[: args.labels, 0]] = True
    return data.train, y.where(known, 0), known


def trained(
    name: str,
    pair: ppvae.Pair,
    batch: Tensor | tuple[Tensor, ...],
    objective: ppvae.Objective,
    data: ppvae.datasets.Dataset,
    args: argparse.Namespace,
) -> ppvae.Pair:
    """The pair, trained on digits that are binarized anew in each batch."""

    def binarized(rows: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        return (data.transform(rows[0]), *rows[1:]) if isinstance(rows, tuple) else data.transform(rows)

    start = time.perf_counter()
    ppvae.fit(
        pair,
        batch,
        objective,
        transform=binarized,
        steps=args.steps,
        lr=3e-3,
        schedule=lambda done: 1 - 0.95 * done,
        seed=args.seed,
        progress=False,
    )
    print(f"{name} trained in {time.perf_counter() - start:.0f} s", flush=True)
    return pair


def measured(pair: M1 | M2 | M1M2, x: Tensor, y: Tensor, args: argparse.Namespace) -> Result:
    """The evidence of each label in turn sums to log p(x), whatever the classifier makes of x."""
    known = torch.ones(len(x), dtype=torch.bool)
    settings = {"seed": args.seed, "progress": False}
    evidence = [
        ppvae.log_evidence(pair, (x, torch.full_like(y, label), known), "iwae", args.particles, **settings).estimate
        for label in range(CLASSES)
    ]
    log_joint = torch.stack(evidence, -1)
    log_px, log_pxy = log_joint.logsumexp(-1), log_joint.gather(1, y[:, None])[:, 0]
    objective = ppvae.ELBO(20) if isinstance(pair, M1) else ppvae.EnumeratedELBO(20)
    torch.manual_seed(args.seed)
    with torch.no_grad():
        without, given = (objective(pair, (x, y, mask))[0] for mask in (~known, known))
    right = [(found.argmax(-1) == y).double().mean().item() for found in (pair.classify(x), log_joint)]
    return Result(*right, log_px, log_px - without, log_pxy - given)


def table(results: dict[str, Result]) -> pd.DataFrame:
    def shown(values: Tensor) -> str:
        return f"{values.mean():.2f} +- {values.std() / len(values) ** 0.5:.2f}"

    return pd.DataFrame(
        {
            name: {
                "right, guide": f"{result.guide:.1%}",
                "right, Bayes' rule": f"{result.bayes:.1%}",
                "log p(x)": shown(result.log_px),
                "gap, no label": shown(result.gap_without),
                "gap, label": shown(result.gap_with),
            }
            for name, result in results.items()
        }
    ).T


def draw(
    results: dict[str, Result],
    m2: M2,
    conditional: ConditionalVAE,
    held_out: tuple[Tensor, Tensor],
    shape: tuple[int, ...],
    path: Path,
) -> None:
    """What is right, what a missing label costs, digits for chosen labels, and analogies."""
    figure, axes = plt.subplots(2, 2, figsize=(12, 8), layout="constrained", height_ratios=[1, 1.3])
    bars(axes[0, 0], results, {"the guide's classifier": "guide", "Bayes' rule": "bayes"}, 100)
    axes[0, 0].axhline(100 / CLASSES, color="black", ls=":", label="chance")
    axes[0, 0].set(ylabel="% right", ylim=(0, 130), yticks=range(0, 101, 20), title="labels of held-out digits")
    axes[0, 0].legend(frameon=False, ncols=3, loc="upper left")
    bars(axes[0, 1], results, {"without a label": "gap_without", "with one": "gap_with"}, 1)
    axes[0, 1].set(ylabel="nats per digit", title="gap, log p - ELBO")
    axes[0, 1].legend(frameon=False)
    torch.manual_seed(0)
    label = torch.arange(CLASSES).repeat(8)
    z = conditional.prior().sample((8,)).repeat_interleave(CLASSES, 0)
    chosen = conditional.likelihood(torch.cat([z, torch.eye(CLASSES)[label]], -1)).mean
    plots.images(axes[1, 0], chosen.detach(), shape, columns=CLASSES)
    axes[1, 0].set_title("conditional VAE: a latent for each row, a label for each column")
    plots.images(axes[1, 1], analogies(m2, *(values[:8] for values in held_out)), shape, columns=CLASSES + 1)
    axes[1, 1].set_title("M2: a digit, and its style with each label")
    for ax in axes[1]:
        ax.set_anchor("N")  # so that the titles are level
    figure.savefig(path)


@torch.no_grad()
def analogies(pair: M2, x: Tensor, y: Tensor) -> Tensor:
    """Each digit, then what its latents give with each label."""
    z = pair.given_label(pair.posterior, x, y).mean
    others = [pair.given_label(pair.likelihood, z, torch.full_like(y, label)).mean for label in range(CLASSES)]
    return torch.stack([x, *others], 1).flatten(0, 1)


def with_error(result: Result, field: str) -> tuple[float, float]:
    """A share of the digits, or the mean of what each of them has, with its standard error over the digits."""
    value, num = getattr(result, field), len(result.log_px)
    if isinstance(value, float):
        return value, (value * (1 - value) / num) ** 0.5
    return value.mean().item(), value.std().item() / num**0.5


def bars(ax: Axes, results: dict[str, Result], columns: dict[str, str], factor: float) -> None:
    for number, (label, field) in enumerate(columns.items()):
        found = np.array([with_error(result, field) for result in results.values()]).T * factor
        place = np.arange(len(results)) + 0.4 * number - 0.2
        ax.bar(place, found[0], yerr=found[1], width=0.38, label=label)
    ax.set_xticks(range(len(results)), list(results))


if __name__ == "__main__":
    main()
