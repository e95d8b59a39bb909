"""What the decoder sees of x, the latents need not say: a VAE whose decoder is a PixelCNN with a wider and wider view.

The likelihood of each pixel is given z and the earlier pixels within a radius: with radius 0 it is that of a plain VAE,
with the whole image in view it can model the data without z, and in the end it is a PixelCNN, without latents, whose
evidence is exact. All are trained alike, by the ELBO. Prints evidence, ELBO, gap and KL on held-out digits for each
radius, and writes the table, and a figure.

MNIST (`--data mnist`) is read from the folder that PPVAE_DATA names, or from a cache, or else downloaded.

It takes about two minutes on one core; on MNIST much longer.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

import ppvae
from ppvae.models import VAE, AutoregressiveLikelihood, AutoregressivePair, DiagonalNormal, PixelCNN, StandardNormal
from ppvae.networks import mlp

NUM_LATENTS, NUM_CONDITION = 10, 8
RADII = {"digits": (0, 1, 2, 3, 7), "mnist": (0, 1, 2, 4, 8)}
EPOCHS = {"digits": 100, "mnist": 3}
ALONE = "PixelCNN"
BLUE, ORANGE = "C0", "C1"
SHOWN, DRAWS = 5, 4


@dataclass(frozen=True)
class Result:
    """A trained pair, what was measured of it, and how long the training took.

    Attributes:
        kl: `E KL(q(z | x) || p(z))`, nats per data point.
        draws: data, and images drawn given latents that the guide infers from them, `[1 + DRAWS, SHOWN, H, W]`.
    """

    gap: ppvae.GapReport
    kl: float
    seconds: float
    draws: Tensor


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=RADII, default="digits")
    parser.add_argument("--epochs", type=int, help="passes through the data; by default what suits them")
    parser.add_argument("--held-out", type=int, default=100, help="data points to measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where to train and measure, such as cuda")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for figure and table")
    parser.add_argument("--smoke", action="store_true", help="the least of everything: does it run at all?")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    data = ppvae.datasets.load(args.data, binarize="dynamic", images=True)
    radii = RADII[args.data][::3] if args.smoke else RADII[args.data]
    epochs = 1 if args.smoke else args.epochs or EPOCHS[args.data]
    held_out, particles = (data.test[:5], 10) if args.smoke else (data.test[: args.held_out], 300)
    results = {}
    for radius in [*radii, None]:
        torch.manual_seed(args.seed)
        pair = made(tuple(data.train.shape[1:]), radii[-1], radius).init_from(data.transform(data.train))
        start = time.perf_counter()
        ppvae.fit(
            pair,
            data.train,
            transform=data.transform,
            epochs=epochs,
            lr=1e-2,
            schedule=lambda done: 1 - 0.99 * done,
            seed=args.seed,
            device=args.device,
            progress=False,
        )
        seconds = time.perf_counter() - start
        results[label(radius)] = measured(pair, held_out, particles, seconds, args.seed)
        print(f"{label(radius):<9} trained in {seconds:5.1f} s", flush=True)

    args.out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(table(results, radii, held_out))
    (args.out / f"pixels_{args.data}.txt").write_text(f"{text}\n")
    print(f"\n{text}")
    with ppvae.plots.style():
        draw(results, args.out / f"pixels_{args.data}.png")
    print(f"\nwrote pixels_{args.data}.txt and .png to {args.out}/")


def label(radius: int | None) -> str:
    return ALONE if radius is None else f"radius {radius}"


def seen(radius: int, height: int, width: int) -> int:
    """How many earlier pixels a pixel sees at most."""
    pixels = np.indices((height, width)).reshape(2, -1).T
    row, column = (pixels[:, None] - pixels).transpose(2, 0, 1)  # how far others lie above, and to the left
    above = (row > 0) & (row <= radius) & (abs(column) <= radius)
    beside = (row == 0) & (column > 0) & (column <= radius)
    return int((above | beside).sum(1).max())


def made(shape: tuple[int, ...], widest: int, radius: int | None) -> VAE | AutoregressivePair:
    """A VAE whose decoder tells a PixelCNN of a radius what z is; without a radius, the widest one alone."""
    _, height, width = shape

    def network(radius: int, num_condition: int) -> PixelCNN:
        return PixelCNN(shape, 2, 32, 2, radius, block_radius=0, num_condition=num_condition)

    if radius is None:
        return AutoregressivePair(network(widest, 0))
    size = height * width
    decoder = nn.Sequential(
        mlp(NUM_LATENTS, [100], NUM_CONDITION * size), nn.Unflatten(-1, (NUM_CONDITION, height, width))
    )
    encoder = nn.Sequential(nn.Flatten(-3), mlp(size, [100], 2 * NUM_LATENTS))
    likelihood = AutoregressiveLikelihood(decoder, network(radius, NUM_CONDITION))
    return VAE(StandardNormal(NUM_LATENTS), likelihood, DiagonalNormal(encoder))


def measured(pair: VAE | AutoregressivePair, held_out: Tensor, particles: int, seconds: float, seed: int) -> Result:
    has_latents = isinstance(pair, VAE)
    effort = ppvae.Effort("iwae" if has_latents else "exact", particles, num_samples=100, ascent=None)
    report = ppvae.gap(pair, held_out, effort, seed=seed, progress=False)
    kl = report.latents["z"].kl.mean().estimate if has_latents else 0.0
    x, shape = held_out[:SHOWN], held_out.shape[-2:]
    torch.manual_seed(seed)
    drawn = [pair.reconstruct(x) if has_latents else pair.sample(len(x)) for _ in range(DRAWS)]
    return Result(report, kl, seconds, torch.stack([x, *drawn]).reshape(1 + DRAWS, len(x), *shape))


def table(results: dict[str, Result], radii: tuple[int, ...], held_out: Tensor) -> list[str]:
    lines = [
        f"{len(held_out)} held-out data points; nats per data point; +- standard error over data points",
        f"{'':<10}{'seen':>6}{'log p(x)':>20}{'':>6}{'ELBO':>9}{'gap':>17}{'KL':>8}{'k-hat > 0.7':>13}{'train s':>9}",
    ]
    for (name, result), radius in zip(results.items(), [*radii, radii[-1]], strict=True):
        report = result.gap
        evidence, elbo, gap = report.log_evidence.mean(), report.elbo.mean(), report.mean()
        khat = report.log_evidence.khat
        unreliable = "-" if khat is None else f"{(khat > 0.7).float().mean():.0%}"
        lines.append(
            f"{name:<10}{seen(radius, *held_out.shape[-2:]):>6}{evidence.estimate:>12.2f} +- {evidence.std_error:.2f}"
            f"{report.log_evidence.method:>7}{elbo.estimate:>9.2f}{abs(gap.estimate):>9.3f} +- {gap.std_error:.3f}"
            f"{result.kl:>8.2f}{unreliable:>13}{result.seconds:>9.1f}"
        )
    return lines


def draw(results: dict[str, Result], path: Path) -> None:
    """Evidence and ELBO, and KL and gap, by what the decoder sees; images drawn given latents below."""
    figure = plt.figure(figsize=(11, 6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.7, 1])
    left, right = above.subplots(1, 2)
    bounds(left, results)
    costs(right, results)
    below.suptitle("above: held-out data; below: draws given latents that the guide infers from them", fontsize=10)
    for ax, (name, result) in zip(below.subplots(1, len(results)), results.items(), strict=True):
        tiles = nn.functional.pad(result.draws, (1, 1, 1, 1), value=0.4)
        ax.imshow(1 - tiles.permute(0, 2, 1, 3).flatten(2).flatten(0, 1), cmap="gray", vmin=0, vmax=1)
        ax.axhline(tiles.shape[2] - 0.5, color=ORANGE, lw=2)
        ax.set_title(name, fontsize=9)
        ax.set_axis_off()
    figure.savefig(path)


def bounds(ax: Axes, results: dict[str, Result]) -> None:
    """Evidence (filled) and ELBO (open), joined by the gap."""
    at = np.arange(len(results))
    evidence = [result.gap.log_evidence.mean().estimate for result in results.values()]
    elbo = [result.gap.elbo.mean().estimate for result in results.values()]
    ax.plot(at, evidence, "o-", color=BLUE, label="log p(x)")
    ax.plot(at, elbo, "s--", color=ORANGE, mfc="white", label="ELBO")
    ax.set(ylabel="nats per data point", title="evidence and ELBO, held out")
    _ticks(ax, results)
    ax.legend(loc="lower right")


def costs(ax: Axes, results: dict[str, Result]) -> None:
    """What the latents hold, and what inferring them costs."""
    at = np.arange(len(results))
    ax.plot(at, [result.kl for result in results.values()], "o-", color=BLUE, label="KL(q || p(z)), what z says of x")
    gaps = [max(result.gap.mean().estimate, 0.0) for result in results.values()]
    ax.plot(at, gaps, "s--", color=ORANGE, mfc="white", label="gap, log p(x) - ELBO")
    ax.set(ylabel="nats per data point", title="what the latents hold, and what they cost")
    _ticks(ax, results)
    ax.legend()


def _ticks(ax: Axes, results: dict[str, Result]) -> None:
    ax.set_xticks(range(len(results)), [name.removeprefix("radius ") for name in results])
    ax.set_xlabel("radius of the decoder's view of x; at the end, no latents")


if __name__ == "__main__":
    main()
