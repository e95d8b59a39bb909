"""Flows beside a mixture and a VAE: exact densities, and what a latent variable's guide costs instead.

On 2-D points (the default, moons) NICE, RealNVP, a residual and a continuous flow are trained; on images (`--data
digits` or `mnist`) RealNVP on the pixels as a vector, and Glow, dequantized uniformly and by learned noise. Prints for
each pair the held-out log p(x), the ELBO and the gap between them, in nats, and writes the table and one figure.

It takes about two minutes on one core.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

import ppvae
from ppvae.datasets import bits_per_dim, load
from ppvae.models import (
    NICE,
    VAE,
    ContinuousFlow,
    CouplingFlow,
    Dequantized,
    GaussianMixture,
    Glow,
    RealNVP,
    ResidualFlow,
)
from ppvae.views import plots

LEVELS = {"digits": 17, "mnist": 256}


@dataclass
class Problem:
    """A pair, and its data in the form that it takes.

    Attributes:
        share: of the training steps, below 1 where these are slow.
        log_cell: log volume of a gray level's cell: added to a log density it gives the log probability, in nats.
    """

    pair: ppvae.Pair
    train: Tensor
    held_out: Tensor
    transform: Callable[[Tensor], Tensor] | None = None
    log_cell: float = 0.0
    share: float = 1.0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["moons", "pinwheel", *LEVELS], default="moons")
    parser.add_argument("--steps", type=int, default=1500, help="of training; half for a continuous flow")
    parser.add_argument("--held-out", type=int, default=1000, help="at most so many held-out points are measured")
    parser.add_argument("--device", default="cpu", help="where to train and measure, such as cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for figure and table")
    parser.add_argument("--smoke", action="store_true", help="the least of everything: does it run at all?")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    steps, held_out, particles = (3, 20, 20) if args.smoke else (args.steps, args.held_out, 1000)
    torch.manual_seed(args.seed)
    problems = of_images(args.data, held_out) if args.data in LEVELS else of_points(args.data, held_out)
    gaps, seconds = {}, {}
    chains = ppvae.AIS(num_chains=4, num_temperatures=5 if args.smoke else 100)
    for name, problem in problems.items():
        start = time.perf_counter()
        train(problem, steps, args.seed, args.device)
        seconds[name] = time.perf_counter() - start
        method = "iwae" if isinstance(problem.pair, Dequantized) else "auto"  # AIS through a flow takes long
        effort = ppvae.Effort(method, particles, (chains,), num_samples=particles // 10, ascent=None)
        gaps[name] = ppvae.gap(problem.pair, problem.held_out, effort, seed=args.seed, progress=False)
        print(f"{name:<18} trained in {seconds[name]:5.1f} s", flush=True)

    args.out.mkdir(parents=True, exist_ok=True)
    table = "\n".join(report(problems, gaps, seconds, args.data))
    (args.out / f"flows_{args.data}.txt").write_text(table + "\n")
    print(f"\n{table}")
    path = args.out / f"flows_{args.data}.png"
    with plots.style():
        draw_images(problems, path) if args.data in LEVELS else draw_points(problems, path)
    print(f"\nwrote flows_{args.data}.txt and flows_{args.data}.png to {args.out}/")


def of_points(name: str, num: int) -> dict[str, Problem]:
    data = load(name)
    pairs = {
        "mixture": GaussianMixture(10, 2).double(),
        "VAE": VAE.mlp(2, 2, [64, 64], "heteroscedastic").init_from(data.train),
        "NICE": NICE(2),
        "RealNVP": RealNVP(2),
        "residual flow": ResidualFlow(2, hidden=[64]).init_from(data.train),
        "continuous flow": ContinuousFlow(2, tolerance=1e-4),
    }
    return {
        name: Problem(pair, data.train, data.test[:num], share=0.5 if name == "continuous flow" else 1.0)
        for name, pair in pairs.items()
    }


def of_images(name: str, num: int) -> dict[str, Problem]:
    gray, flat, levels = load(name, images=True), load(name, dequantize=True), LEVELS[name]
    shape, D = gray.train.shape[1:], gray.num_features
    density = (flat.train, flat.test[:num], flat.transform, -D * math.log(levels))
    vectors = (gray.train.flatten(1), gray.test[:num].flatten(1))
    images = (gray.train, gray.test[:num])
    noise = CouplingFlow(ppvae.networks.mlp(D, [128], 2 * D), D, num_couplings=2)
    return {
        "mixture": Problem(GaussianMixture(30, D, "diagonal").double(), *density),
        "VAE": Problem(VAE.mlp(D, 16, [200], "heteroscedastic").init_from(flat.train), *density),
        "RealNVP": Problem(Dequantized(RealNVP(D, hidden=[128, 128]), levels), *vectors),
        "Glow": Problem(Dequantized(Glow(shape), levels).init_from(gray.train[:500]), *images),
        "Glow, learned noise": Problem(Dequantized(Glow(shape), levels, noise).init_from(gray.train[:500]), *images),
    }


def train(problem: Problem, steps: int, seed: int, device: str) -> None:
    pair = problem.pair
    if isinstance(pair, GaussianMixture):
        x = problem.train if problem.transform is None else problem.transform(problem.train)
        problem.held_out = problem.held_out.double()
        ppvae.fit_em(pair, x.double(), restarts=3, covariance_floor=1e-3, max_iterations=steps, seed=seed)
        return
    ppvae.fit(
        pair,
        problem.train,
        transform=problem.transform,
        steps=math.ceil(steps * problem.share),
        batch_size=200,
        lr=8e-3,
        schedule=lambda done: 0.03**done,
        options=ppvae.StepOptions(clip_norm=10.0),
        seed=seed,
        device=device,
        progress=False,
    )


def report(
    problems: dict[str, Problem], gaps: dict[str, ppvae.GapReport], seconds: dict[str, float], data: str
) -> list[str]:
    """The table: held-out evidence, ELBO and gap with standard errors over data points."""
    size = len(next(iter(problems.values())).held_out)
    lines = [
        f"{size} held-out data points; nats per data point, higher is better; +- standard error over data points",
        f"{'':<18}{'log p(x)':>19}{'':>6}{'bits/dim':>10}{'ELBO':>10}{'gap':>18}{'train s':>9}",
    ]
    for name, gap in gaps.items():
        problem = problems[name]
        evidence, elbo, own = gap.log_evidence.mean(), gap.elbo.mean(), gap.mean()
        log_p = evidence.estimate + problem.log_cell
        bits = bits_per_dim(log_p, problem.held_out[0].numel())
        lines.append(
            f"{name:<18}{log_p:>10.3f} +- {evidence.std_error:<5.3f}{gap.log_evidence.method:>6}{bits:>10.3f}"
            f"{elbo.estimate + problem.log_cell:>10.3f}{abs(own.estimate):>9.3f} +- {own.monte_carlo_error:.3f}"
            f"{seconds[name]:>9.1f}"
        )
    return lines


def draw_points(problems: dict[str, Problem], path: Path) -> None:
    """The data; beside them each pair's density above, and as many samples as there are data below."""
    x = next(iter(problems.values())).train
    (left, bottom), (right, top) = x.amin(0) - 0.3, x.amax(0) + 0.3
    limits = (left.item(), right.item(), bottom.item(), top.item())
    figure = plt.figure(figsize=(2 * (1 + len(problems)), 4.2), layout="constrained")
    beside, grid = figure.subfigures(1, 2, width_ratios=[1, len(problems)])
    data = beside.subplots()
    plots.points(data, x, limits)
    data.set_title("data")
    axes = grid.subplots(2, len(problems))
    for (name, problem), (above, below) in zip(problems.items(), axes.T, strict=True):
        above.set_title(name)
        plots.density(above, problem.pair, limits)
        plots.points(below, problem.pair.sample(len(x)), limits)
    axes[0, 0].set_ylabel("density")
    axes[1, 0].set_ylabel("samples")
    figure.savefig(path)


def draw_images(problems: dict[str, Problem], path: Path) -> None:
    """Data, and samples of each pair."""
    x = next(iter(problems.values())).train
    shape = problems["Glow"].train.shape[2:]
    figure, axes = plt.subplots(1, 1 + len(problems), figsize=(2.6 * (1 + len(problems)), 2.8), layout="constrained")
    samples = {"data": x[:36]} | {name: problem.pair.sample(36) for name, problem in problems.items()}
    for ax, (name, drawn) in zip(axes, samples.items(), strict=True):
        ax.set_title(name)
        plots.images(ax, drawn, tuple(shape))
    figure.savefig(path)


if __name__ == "__main__":
    main()
