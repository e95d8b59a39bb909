"""Do more layers help, and does it matter how the guide draws them? Up to five layers, and four guides for each.

The model is `p(z_L) p(z_{L-1} | z_L) ... p(x | z_1)`. Its guides: each layer by itself given x; upwards, each layer
given the one below; downwards, a ladder on which messages from x meet the prior; and downwards, relative to the prior.
All are trained alike, with the KL warming up over the first half of the steps. Prints evidence and ELBO on held-out
digits, and what each layer pays; writes the table, and a figure.

MNIST (`--data mnist`) is read from the folder that PPVAE_DATA names, or from a cache, or else downloaded.

It takes about five minutes on one core.
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

import ppvae
from ppvae.inference import ElboTerms, Evidence, Measurement
from ppvae.models import MarkovHVAE

GUIDES = {"independent": "independent", "bottom_up": "bottom-up", "ladder": "ladder", "residual": "residual"}
LAYERS = (1, 2, 3, 5)
SIZES = {"digits": ((10, 8, 6, 4, 2), [64], 100, 5e-3), "mnist": ((32, 16, 8, 4, 2), [200, 200], 30, 3e-3)}
"""Sizes of z_1 ... z_5 and of hidden layers, epochs, and learning rate."""


@dataclass(frozen=True)
class Result:
    """A trained pair and its measurements."""

    pair: MarkovHVAE
    evidence: Evidence
    terms: ElboTerms


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=SIZES, default="digits")
    parser.add_argument("--epochs", type=int, help="passes through the data; by default what suits them")
    parser.add_argument("--held-out", type=int, default=100, help="data points to measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where to train and measure, such as cuda")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for figure and table")
    parser.add_argument("--smoke", action="store_true", help="the least of everything: does it run at all?")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    data = ppvae.datasets.load(args.data, binarize="dynamic")
    held_out = data.test[: 5 if args.smoke else args.held_out]
    epochs = 1 if args.smoke else args.epochs or SIZES[args.data][2]
    results = {}
    for num_layers in LAYERS[:2] if args.smoke else LAYERS:
        for guide in GUIDES if num_layers > 1 else ["independent"]:  # with one layer there is nothing to choose
            start = time.perf_counter()
            pair = trained(data, num_layers, guide, epochs, args.seed, args.device)
            seconds = time.perf_counter() - start
            results[num_layers, guide] = measured(pair, held_out, args.smoke, args.seed)
            rest = time.perf_counter() - start - seconds
            print(f"{num_layers}, {guide:<12} trained in {seconds:5.1f} s, measured in {rest:5.1f} s", flush=True)

    args.out.mkdir(parents=True, exist_ok=True)
    text = table(results).to_string(na_rep="")
    print(f"\nnats per data point, on {len(held_out)} held-out ones; z1 ... are what layers pay, * collapsed\n{text}")
    evidence = {f"{num_layers} {GUIDES[guide]}": result.evidence for (num_layers, guide), result in results.items()}
    columns = ["elpd", "elpd_diff", "dse", "monte_carlo_error"]
    print(f"\n{ppvae.compare(evidence)[columns].round(1).to_string()}")
    (args.out / f"hierarchy_{args.data}.txt").write_text(f"{text}\n")
    with ppvae.plots.style():
        draw(results, data, args.out / f"hierarchy_{args.data}.png")
    print(f"\nwrote hierarchy_{args.data}.txt and .png to {args.out}/")


def trained(
    data: ppvae.datasets.Dataset, num_layers: int, guide: str, epochs: int, seed: int, device: str
) -> MarkovHVAE:
    num_latents, hidden, _, lr = SIZES[data.name]
    torch.manual_seed(seed)
    pair = MarkovHVAE.mlp(
        data.num_features, num_latents[:num_layers], hidden, posterior=guide, activation=torch.nn.SiLU
    ).init_from(data.train)
    half = epochs * len(data.train) // 128 // 2
    ppvae.fit(
        pair,
        data.train,
        ppvae.ELBO(beta=ppvae.LinearWarmup(max(1, half))),
        transform=data.transform,
        epochs=epochs,
        lr=lr,
        schedule=lambda done: 1 - 0.99 * done,
        seed=seed,
        device=device,
        progress=False,
    )
    return pair


def measured(pair: MarkovHVAE, held_out: torch.Tensor, smoke: bool, seed: int) -> Result:
    method, particles = ("iwae", 50) if smoke else ("auto", 1000)
    chains = ppvae.AIS(num_temperatures=100)
    evidence = ppvae.log_evidence(pair, held_out, method, particles, annealing=chains, seed=seed, progress=False)
    return Result(pair, evidence, ppvae.elbo_terms(pair, held_out, 100, seed=seed, progress=False))


def table(results: dict[tuple[int, str], Result]) -> pd.DataFrame:
    rows = []
    for (num_layers, guide), result in results.items():
        evidence, elbo = result.evidence.mean(), result.terms.elbo.mean()
        row = {
            "layers": num_layers,
            "guide": GUIDES[guide],
            "log p(x)": f"{evidence.estimate:.2f} +- {evidence.std_error:.2f}",
            "ELBO": f"{elbo.estimate:.2f}",
            "gap": f"{evidence.estimate - elbo.estimate:.2f}",
            "E log p(x | z)": f"{result.terms.expected_log_likelihood.mean().estimate:.2f}",
        }
        for name, usage in sorted(result.terms.latents.items()):
            row[name] = f"{round(usage.kl.mean().estimate, 2) + 0.0:.2f}{'*' * usage.collapsed}"
        rows.append(row)
    return pd.DataFrame(rows).set_index(["layers", "guide"])


def draw(results: dict[tuple[int, str], Result], data: ppvae.datasets.Dataset, path: Path) -> None:
    """Evidence and ELBO by the number of layers, what each layer pays and holds, and samples."""
    figure = plt.figure(figsize=(12.5, 7.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.8, 1])
    left, right = above.subplots(1, 2)
    by_layers(left, results)
    by_site(right, results)
    kept, warmed = below.subplots(1, 2)
    num_layers, shown = max(n for n, _ in results if n <= 3), "ladder"
    pair = results[num_layers, shown].pair
    ppvae.pictures.resampled_layers(kept, pair, data.test, data.shape)
    kept.set_title("upper layers kept, the rest drawn anew")
    ppvae.pictures.temperatures(warmed, pair, data.shape)
    warmed.set_title("samples at temperatures t")
    below.suptitle(f"images of the pair with {num_layers} layers and guide {shown}")
    figure.savefig(path)


def by_layers(ax: Axes, results: dict[tuple[int, str], Result]) -> None:
    """Evidence (solid) and ELBO (dashed) of each guide; bars are of differences from one layer, on the same data."""
    one = results[1, "independent"]
    for number, (guide, label) in enumerate(GUIDES.items()):
        own = {n: result for (n, name), result in results.items() if name == guide or n == 1}
        at = np.arange(len(own)) + 0.06 * (number - 1.5)
        evidence = [result.evidence for result in own.values()]
        elbo = [result.terms.elbo for result in own.values()]
        looks = {"color": f"C{number}", "elinewidth": 1, "capsize": 2}
        ax.errorbar(at, means(evidence), errors(evidence, one.evidence), fmt="o-", label=label, **looks)
        ax.errorbar(at, means(elbo), errors(elbo, one.terms.elbo), fmt="o--", mfc="white", **looks)
    ax.plot([], [], "o-", color="gray", label="log p(x)")
    ax.plot([], [], "o--", color="gray", mfc="white", label="ELBO")
    ax.set_xticks(range(len(own)), [str(n) for n in own])
    ax.set(
        xlabel="layers",
        ylabel="nats per data point",
        title="evidence and ELBO, held out; bars: difference from one layer",
    )
    ax.set_ylim(ax.get_ylim()[0] - 0.25 * np.ptp(ax.get_ylim()))  # with room for the legend
    ax.legend(fontsize=9, ncols=3, loc="lower left")


def means(measured: list[Measurement]) -> list[float]:
    return [each.mean().estimate for each in measured]


def errors(measured: list[Measurement], other: Measurement) -> list[float]:
    """Standard errors, over data points, of the differences from another measurement."""
    apart = [each.estimate - other.estimate for each in measured]
    return [difference.std().item() / len(difference) ** 0.5 for difference in apart]


def by_site(ax: Axes, results: dict[tuple[int, str], Result]) -> None:
    """What each layer pays, stacked; terms below zero hang down."""
    labels = []
    columns = [number + 0.6 * LAYERS.index(num_layers) for number, (num_layers, _) in enumerate(results)]
    for column, ((num_layers, guide), result) in zip(columns, results.items(), strict=True):
        reached = {1: 0.0, -1: 0.0}
        for name, usage in sorted(result.terms.latents.items()):
            nats = usage.kl.mean().estimate
            side = 1 if nats >= 0 else -1
            color = plt.get_cmap("viridis")((int(name[1:]) - 1) / (max(LAYERS) - 1))
            ax.bar(column, nats, bottom=reached[side], color=color, width=0.8)
            reached[side] += nats
        labels.append(f"{num_layers} {GUIDES[guide]}")
    for layer in range(1, max(n for n, _ in results) + 1):
        ax.bar(0, 0, color=plt.get_cmap("viridis")((layer - 1) / (max(LAYERS) - 1)), label=f"z{layer}")
    ax.axhline(0, color="black", lw=0.8)
    ax.set_xticks(columns, labels, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    ax.set(ylabel="nats per data point", title="what each layer pays: E log q/p")
    ax.set_ylim(top=1.15 * ax.get_ylim()[1])  # with room for the legend
    ax.legend(fontsize=9, ncols=5, loc="upper left")


if __name__ == "__main__":
    main()
