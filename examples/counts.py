"""Counts of cells: how deeply each was sequenced is an offset, the batch it came from a covariate, and z has neither.

The truth is known, as the cells are simulated by a pair of the same form: x ~ NB(library * rho(z, batch), theta), with
log rho = log softmax(f(z) + shift of the batch). One pair is told the batch of each cell, another is not. Prints how
far each is below the truth, how well the batch can be told from z, and how near the learned shift comes to the true
one. Cells lie along a path, so that two latents leave room for the batch, where it is not told. With two latents log
p(x) is a sum over a grid, beside which the measured evidence stands. Writes the table, and a figure.

It takes about a minute and a quarter on one core.
"""

import argparse
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from matplotlib.axes import Axes
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from torch import Tensor, nn

import ppvae
from ppvae.inference.ledger.ascent import Ascent

GENES, BATCHES, DEPTH = 40, 2, 400.0
Cells = dict[str, Tensor]
"""x `[N, GENES]`, library `[N]` and batch `[N]`: of an AnnData object `adata.X`, `adata.obs["..."]`, and its codes."""


class CellVAE(ppvae.Pair):
    """p(z) p(x | z, library, batch): only what library and batch do not explain is left to z."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = ppvae.networks.mlp(2, [64], GENES)
        self.shift = nn.Parameter(torch.zeros(BATCHES, GENES))
        self.log_theta = nn.Parameter(torch.zeros(GENES))
        self.encoder = ppvae.networks.mlp(GENES + BATCHES, [64], 4)

    def likelihood(self, z: Tensor, library: Tensor, batch: Tensor) -> dist.TorchDistribution:
        log_rho = (self.decoder(z) + self.shift[batch]).log_softmax(-1)
        log_mean = library.log().unsqueeze(-1) + log_rho
        return dist.NegativeBinomial(self.log_theta.exp(), logits=log_mean - self.log_theta).to_event(1)

    def model(self, x: Tensor, library: Tensor, batch: Tensor) -> None:
        with pyro.plate("cells", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", self.likelihood(z, library, batch), obs=x)

    def guide(self, x: Tensor, library: Tensor, batch: Tensor) -> None:
        with pyro.plate("cells", len(x)):
            seen = (x * (DEPTH / library.unsqueeze(-1))).log1p()
            of_batch = nn.functional.one_hot(batch, BATCHES).to(seen)
            loc, log_scale = self.encoder(torch.cat([seen, of_batch], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=3000, help="to train on")
    parser.add_argument("--held-out", type=int, default=100, help="cells to measure")
    parser.add_argument("--epochs", type=int, default=60, help="passes through the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for figure and table")
    parser.add_argument("--smoke", action="store_true", help="the least of everything: does it run at all?")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.smoke:
        args.cells, args.held_out, args.epochs = 50, 10, 1
    torch.manual_seed(args.seed)
    truth = true_pair()
    train, held_out = drawn(truth, args.cells), drawn(truth, args.held_out)
    effort = ppvae.Effort("auto", 1000, (ppvae.AIS(8, 50),), 100, Ascent(max_steps=100), restarts=0, richer=False)
    if args.smoke:
        effort = ppvae.Effort("iwae", 20, num_samples=5, ascent=None)

    pairs, reports, rows = {}, {}, {}
    true_evidence = on_grid(truth, held_out)
    for name, told in {"told the batch": True, "not told": False}.items():
        own = seen(held_out, told)
        pairs[name] = trained(seen(train, told), args)
        reports[name] = ppvae.gap(pairs[name], own, effort, seed=args.seed, progress=False)
        rows[name] = described(pairs[name], reports[name], own, true_evidence, held_out["batch"])
        print(f"{name}: {reports[name].verdict()}\n", flush=True)
    text = (
        f"{args.held_out} held-out cells, nats per cell; by the truth log p(x) is {true_evidence.mean():.2f}\n"
        f"{pd.DataFrame(rows).to_string()}\n\n{recovered(pairs['told the batch'], truth)}"
    )
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "counts.txt").write_text(f"{text}\n")
    with ppvae.plots.style():
        draw(pairs, reports, truth, held_out, true_evidence.mean().item(), args.out / "counts.png")
    print(f"\nwrote counts.txt and .png to {args.out}/")


def true_pair() -> CellVAE:
    """Genes that vary along a path, the first latent alone, and a batch that shifts each by a factor of its own."""
    pair = CellVAE().requires_grad_(False)
    pair.decoder[0].weight[:, 1] = 0.0
    pair.decoder[-1].weight.mul_(6)
    pair.decoder[-1].bias.normal_()
    pair.shift[1] = torch.randn(GENES) / 2
    pair.log_theta.normal_(math.log(5.0), 0.5)
    return pair


def drawn(truth: CellVAE, num: int) -> Cells:
    """Cells of both batches, half and half, sequenced to unlike depths."""
    library = DEPTH * torch.exp(0.5 * torch.randn(num))
    batch = torch.arange(num) % BATCHES
    return {
        "x": truth.sample({"x": torch.zeros(num, GENES), "library": library, "batch": batch}),
        "library": library,
        "batch": batch,
    }


def seen(cells: Cells, told: bool) -> Cells:
    """The cells as they are, or all as if of batch 0."""
    return cells if told else cells | {"batch": torch.zeros_like(cells["batch"])}


def trained(cells: Cells, args: argparse.Namespace) -> CellVAE:
    torch.manual_seed(args.seed)
    pair = CellVAE()
    ppvae.fit(
        pair,
        cells,
        epochs=args.epochs,
        lr=1e-2,
        schedule=lambda done: 1 - 0.99 * done,
        seed=args.seed,
        progress=False,
    )
    return pair


@torch.no_grad()
def on_grid(pair: CellVAE, cells: Cells) -> Tensor:
    """log p(x) of each cell, exactly: the sum over a grid of z, finer than any posterior, `[N]`."""
    axis = torch.linspace(-6, 6, 193, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    log_prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + 2 * (axis[1] - axis[0]).log()
    pair, found = pair.double(), []
    for x, library, batch in zip(cells["x"].double(), cells["library"].double(), cells["batch"], strict=True):
        found.append((log_prior + pair.likelihood(z, library, batch).log_prob(x)).logsumexp(0))
    pair.float()
    return torch.stack(found)


def described(pair: CellVAE, report: ppvae.GapReport, cells: Cells, true_evidence: Tensor, batch: Tensor) -> pd.Series:
    """Evidence as measured and on the grid, how far it is below the truth's, and what z says of the batch."""
    exact = on_grid(pair, cells)
    off, error = (report.log_evidence.estimate - exact).mean(), report.log_evidence.mean().monte_carlo_error
    return pd.Series(
        {
            "log p(x), on the grid": f"{exact.mean():.2f}",
            "  below the truth's": with_error(true_evidence - exact),
            "  measured, less that on the grid": f"{off:.3f} +- {error:.3f}",
            "ELBO": f"{report.elbo.mean().estimate:.2f}",
            "gap": with_error(report.gap.estimate),
            "batch told from z": f"{told_from(pair.encode(cells).mean, batch):.0%}",
        }
    )


def with_error(each: Tensor) -> str:
    """The mean, with its standard error over cells."""
    return f"{each.mean():.2f} +- {each.std() / len(each) ** 0.5:.2f}"


def told_from(z: Tensor, batch: Tensor) -> float:
    """How often a logistic regression on z is right about the batch of cells that it has not seen."""
    return cross_val_score(LogisticRegression(), z.numpy(), batch.numpy(), cv=5).mean()


def effect(pair: CellVAE) -> Tensor:
    """Of batch 1 against batch 0, on the log of each gene's share; softmax leaves its mean open, and it is 0 here."""
    apart = (pair.shift[1] - pair.shift[0]).detach()
    return apart - apart.mean()


def recovered(pair: CellVAE, truth: CellVAE) -> str:
    found, true = effect(pair), effect(truth)
    return (
        f"effect of the batch on {GENES} genes: off by {(found - true).square().mean().sqrt():.3f} (root mean square), "
        f"of effects of {true.square().mean().sqrt():.3f}"
    )


def draw(
    pairs: dict[str, CellVAE],
    reports: dict[str, ppvae.GapReport],
    truth: CellVAE,
    cells: Cells,
    true_evidence: float,
    path: Path,
) -> None:
    """z of each pair by batch; the learned effect of the batch beside the true one; evidence and ELBO."""
    figure, axes = plt.subplots(2, 2, figsize=(9.5, 8), layout="constrained")
    for ax, (name, pair) in zip(axes[0], pairs.items(), strict=True):
        z = pair.encode(seen(cells, name == "told the batch")).mean
        for batch in range(BATCHES):
            ax.scatter(*z[cells["batch"] == batch].T, s=14, color=f"C{batch}", alpha=0.7, label=f"batch {batch}")
        ax.set(title=f"{name}: means of q(z | x)", xlabel="z, first", ylabel="z, second")
        ax.set_aspect("equal", adjustable="datalim")
    axes[0, 0].legend()
    of_genes(axes[1, 0], effect(truth), effect(pairs["told the batch"]))
    ppvae.plots.bounds(axes[1, 1], reports)
    axes[1, 1].axvline(true_evidence, color="black", ls=":", label="the truth's log p(x)")
    axes[1, 1].set_title("evidence (dot) and ELBO (bar)")
    axes[1, 1].legend(loc="lower left")
    figure.savefig(path)


def of_genes(ax: Axes, true: Tensor, found: Tensor) -> None:
    ax.axline((0, 0), slope=1, color="0.6", lw=1)
    ax.plot(true, found, "o", color="C2", ms=5)
    ax.set(title="effect of the batch on each gene", xlabel="true", ylabel="learned, told the batch")


if __name__ == "__main__":
    main()
