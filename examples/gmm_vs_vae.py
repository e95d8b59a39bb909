"""From infinitely many components back to K: mixtures and autoencoders on the same data, measured alike.

Trains a Gaussian mixture (by EM, and by SVI), a linear VAE, a Gaussian VAE and a two-layer Markov-prior VAE, and
prints for each the held-out log p(x), the ELBO and the gap between them, in nats, with standard errors. Writes a
figure, the table, and a netCDF file to open in ArviZ.

It takes about a minute and a half on two cores.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

import ppvae
from ppvae.models import VAE, GaussianMixture, LinearVAE, MarkovHVAE
from ppvae.views import plots

LEVELS = {"digits": 17, "mnist": 256}  # gray levels of the images, dequantized to densities on [0, 1]


@dataclass(frozen=True)
class Sizes:
    """The sizes that suit a data set: components of the mixture, latents, hidden units, passes through the data."""

    components: int
    covariance: str
    linear: int
    latents: tuple[int, int]
    hidden: list[int]
    epochs: int
    batch_size: int


SIZES = {
    "digits": Sizes(30, "diagonal", 20, (10, 5), [200], 200, 100),
    "moons": Sizes(10, "full", 1, (2, 1), [64, 64], 60, 100),
    "pinwheel": Sizes(10, "full", 1, (2, 1), [64, 64], 60, 100),
    "mnist": Sizes(50, "diagonal", 50, (32, 16), [200, 200], 10, 100),
}


@dataclass
class Result:
    """A trained pair, how long that took, its training curve and its gap on held-out data."""

    pair: ppvae.Pair
    seconds: float
    curve: np.ndarray
    gap: ppvae.GapReport


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=SIZES, default="digits", help="digits (8x8 images), moons, pinwheel or mnist")
    parser.add_argument(
        "--epochs", type=int, help="passes through the data for each network; the default suits the data"
    )
    parser.add_argument("--particles", type=int, default=1000, help="K of the importance-weighted evidence")
    parser.add_argument("--held-out", type=int, default=500, help="at most so many held-out points are measured")
    parser.add_argument("--device", default="cpu", help="where to train and measure, such as cuda")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice")
    parser.add_argument(
        "--out", type=Path, default=Path("results"), help="folder for the figure, table and netCDF file"
    )
    parser.add_argument("--smoke", action="store_true", help="the least of everything: does it run at all?")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    sizes = SIZES[args.data]
    data = ppvae.datasets.load(args.data, dequantize=args.data in LEVELS, seed=args.seed)
    epochs, held_out = args.epochs or sizes.epochs, data.test[: args.held_out]
    effort = ppvae.Effort("auto", args.particles, (ppvae.AIS(8, 100),), num_samples=100, ascent=None)
    if args.smoke:
        epochs, held_out, effort = 1, held_out[:50], ppvae.Effort("iwae", 50, num_samples=50, ascent=None)
        data = replace(data, train=data.train[:2000])

    torch.manual_seed(args.seed)
    trainer = Trainer(data, sizes, epochs, args.seed, args.device)
    results: dict[str, Result] = {}
    for name, train in trainer.pairs().items():
        start = time.perf_counter()
        pair, curve = train()
        seconds = time.perf_counter() - start
        gap = ppvae.gap(pair, held_out.to(dtype_of(pair)), effort, seed=args.seed, progress=False)
        results[name] = Result(pair, seconds, curve, gap)
        print(f"{name:<14} trained in {seconds:5.1f} s, measured in {time.perf_counter() - start - seconds:5.1f} s")

    args.out.mkdir(parents=True, exist_ok=True)
    table = "\n".join(report(results, held_out, data.num_features, LEVELS.get(args.data)))
    (args.out / f"{args.data}.txt").write_text(table + "\n")
    print(f"\n{table}\n")
    print(compared(results))
    ppvae.to_arviz(results["VAE"].pair, held_out[:100], num_samples=200).to_netcdf(args.out / f"{args.data}_vae.nc")
    with plots.style():
        draw(results, data, args.out / f"{args.data}.png")
    print(f"\nwrote {args.data}.txt, {args.data}.png and {args.data}_vae.nc (for ArviZ) to {args.out}/")


@dataclass(frozen=True)
class Trainer:
    """Trains each model of the comparison on one data set."""

    data: ppvae.datasets.Dataset
    sizes: Sizes
    epochs: int
    seed: int
    device: str

    def pairs(self) -> dict[str, Callable[[], tuple[ppvae.Pair, np.ndarray]]]:
        """By name, functions that train a pair and return it with its training curve."""
        return {
            "mixture, EM": self.mixture_by_em,
            "mixture, SVI": self.mixture_by_svi,
            "linear VAE": self.linear_vae,
            "VAE": self.vae,
            "Markov VAE": self.markov_vae,
        }

    @property
    def train(self) -> torch.Tensor:
        """Training data for densities: gray levels dequantized once, always with the same noise."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.data.transform(self.data.train) if self.data.transform else self.data.train

    def mixture(self) -> GaussianMixture:
        """In float64, so that the gap of its exact guide shows no rounding."""
        return (
            GaussianMixture(self.sizes.components, self.data.num_features, self.sizes.covariance)
            .double()
            .to(self.device)
        )

    def mixture_by_em(self) -> tuple[ppvae.Pair, np.ndarray]:
        pair = self.mixture()
        result = ppvae.fit_em(
            pair, self.train, restarts=3, covariance_floor=1e-3, max_iterations=self.epochs, seed=self.seed
        )
        return pair, np.array(result.history)

    def mixture_by_svi(self) -> tuple[ppvae.Pair, np.ndarray]:
        """With the component enumerated, from a start by one iteration of EM after k-means++."""
        pair = self.mixture()
        ppvae.fit_em(pair, self.train, covariance_floor=1e-3, max_iterations=1, seed=self.seed)
        return pair, self.by_svi(pair, ppvae.EnumeratedELBO(), lr=1e-2)

    def linear_vae(self) -> tuple[ppvae.Pair, np.ndarray]:
        pair = LinearVAE(self.data.num_features, self.sizes.linear)
        pair.mean.data.copy_(self.train.mean(0))
        return pair, self.by_svi(pair, ppvae.ELBO(), lr=1e-2)

    def vae(self) -> tuple[ppvae.Pair, np.ndarray]:
        pair = VAE.mlp(self.data.num_features, self.sizes.latents[0], self.sizes.hidden, "heteroscedastic")
        return pair, self.by_svi(pair.init_from(self.train), ppvae.ELBO(), lr=3e-3)

    def markov_vae(self) -> tuple[ppvae.Pair, np.ndarray]:
        pair = MarkovHVAE.mlp(self.data.num_features, self.sizes.latents, self.sizes.hidden, "heteroscedastic")
        return pair, self.by_svi(pair.init_from(self.train), ppvae.ELBO(), lr=3e-3)

    def by_svi(self, pair: ppvae.Pair, objective: ppvae.Objective, lr: float) -> np.ndarray:
        """Trains a pair on gray levels dequantized afresh in each minibatch, and keeps the best on validation data."""
        run = ppvae.fit(
            pair,
            self.data.train.to(dtype_of(pair)),
            objective,
            transform=self.data.transform,
            held_out=ppvae.HeldOut(self.data.validation.to(dtype_of(pair)), keep_best=True),
            epochs=self.epochs,
            batch_size=self.sizes.batch_size,
            lr=lr,
            schedule=lambda done: 0.03**done,
            seed=self.seed,
            device=self.device,
        )
        return run.history["bound"]


def dtype_of(pair: ppvae.Pair) -> torch.dtype:
    return next(pair.parameters()).dtype


def report(results: dict[str, Result], x: torch.Tensor, num_features: int, levels: int | None) -> list[str]:
    """The table: held-out evidence and ELBO; the gap, and in closed form where that is known."""
    lines = [
        f"{len(x)} held-out data points; nats per data point, higher is better; +- standard error over data points, "
        "for the gap of the measurement",
        f"{'':<14}{'log p(x)':>19}{'':>6}{'bits/dim':>10}{'ELBO':>10}{'gap':>18}{'closed form':>13}"
        f"{'by chains':>11}{'train s':>9}",
    ]
    for name, result in results.items():
        evidence, elbo, gap = result.gap.log_evidence.mean(), result.gap.elbo.mean(), result.gap.mean()
        bits = ppvae.datasets.bits_per_dim(evidence.estimate, num_features, levels)
        closed = f"{closed_form(result.pair, x):.4f}" if hasattr(result.pair, "exact_gap") else "-"
        methods = result.gap.log_evidence.methods
        by_chains = "-" if "exact" in methods else f"{methods.count('ais') / len(methods):.0%}"
        lines.append(
            f"{name:<14}{evidence.estimate:>10.2f} +- {evidence.std_error:<5.2f}{result.gap.log_evidence.method:>6}"
            f"{bits:>10.3f}{elbo.estimate:>10.2f}{round(gap.estimate, 4) + 0.0:>8.4f} +- {gap.monte_carlo_error:.4f}"
            f"{closed:>13}{by_chains:>11}{result.seconds:>9.1f}"
        )
    return lines


def compared(results: dict[str, Result]) -> str:
    """Each model's evidence, and its difference from the best on the same data points."""
    table = ppvae.compare({name: result.gap.log_evidence for name, result in results.items()})
    num = len(next(iter(results.values())).gap.elbo.estimate)
    lines = [
        "the same, best first; nats per data point; +- standard error of the difference",
        f"{'':<14}{'log p(x)':>10}{'behind the best':>20}",
    ]
    for name, row in table.iterrows():
        behind = f"{row['mean_diff']:.2f} +- {row['dse'] / num:.2f}" if row["rank"] else "-"
        lines.append(f"{name:<14}{row['mean']:>10.2f}{behind:>20}")
    return "\n".join(lines)


def closed_form(pair: ppvae.Pair, x: torch.Tensor) -> float:
    """The mean of the gap that the pair knows exactly."""
    with torch.no_grad():
        return pair.exact_gap(x.to(next(pair.parameters()))).mean().item()


def draw(results: dict[str, Result], data: ppvae.datasets.Dataset, path: Path) -> None:
    """The figure: data and what each model makes of it above; bounds, gaps and training below."""
    columns = 1 + len(results)
    figure = plt.figure(figsize=(2.4 * columns, 6.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.25])
    names = ["data", *results]
    for ax, name in zip(above.subplots(1, columns), names, strict=True):
        ax.set_title(name)
        if len(data.shape) == 2:
            x = data.test[:36] if name == "data" else results[name].pair.sample(36)
            plots.images(ax, x, data.shape)
            continue
        (left, bottom), (right, top) = data.train.amin(0) - 0.3, data.train.amax(0) + 0.3
        limits = (left.item(), right.item(), bottom.item(), top.item())
        if name == "data":
            plots.points(ax, data.train, limits)
        else:
            plots.density(ax, results[name].pair, limits)
    left, middle, right = below.subplots(1, 3)
    gaps = {name: result.gap for name, result in results.items()}
    plots.bounds(left, gaps)
    left.set_title("held-out log p(x), and the ELBO below it")
    plots.gap_distribution(middle, gaps)
    middle.set_title("what the guide costs")
    plots.training(right, {name: result.curve for name, result in results.items()})
    right.set_title("training")
    below.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=len(results))
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    main()
