"""A diffusion is a hierarchical VAE whose guide is fixed: both on the same data, with the same report.

Trains a Markov-prior VAE and a denoising diffusion on points in the plane, and measures both on held-out ones: log
p(x), the ELBO, the gap between them and what it is made of, and what each layer, or step of noise, costs. Prints the
ledgers and what follows from them; writes the figure and the reports (`ppvae.GapReport.load` reads them).

It takes seven minutes on two cores, most of them for annealing.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes

import ppvae
from ppvae.inference.ledger.ascent import Ascent
from ppvae.models import DiffusionVAE, MarkovHVAE, MLPDenoiser, sample_ddim

ANNEALING = ppvae.AIS(num_chains=4, num_temperatures=50)
EFFORT = ppvae.Effort("auto", 1000, (ANNEALING,), 100, Ascent(max_steps=200), 0, False)
DDIM_STEPS = 8


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["moons", "pinwheel"], default="moons")
    parser.add_argument("--steps", type=int, default=16, help="T, of the diffusion; a power of two")
    parser.add_argument("--layers", type=int, default=2, help="L, of the hierarchical VAE")
    parser.add_argument("--epochs", type=int, default=1000, help="passes through the data")
    parser.add_argument("--held-out", type=int, default=60, help="data points to measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for figure and reports")
    parser.add_argument("--smoke", action="store_true", help="the least of everything: does it run at all?")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    data, effort = ppvae.datasets.load(args.data, seed=args.seed), EFFORT
    held_out = data.test[: args.held_out]
    if args.smoke:
        args.steps, args.epochs, held_out = 4, 1, held_out[:10]
        effort = ppvae.Effort("iwae", 50, num_samples=10, ascent=Ascent(max_steps=5), restarts=0, richer=False)
    args.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(args.seed)
    hvae = MarkovHVAE.mlp(2, [2] * args.layers, [128, 128], "heteroscedastic").init_from(data.train)
    diffusion = DiffusionVAE(MLPDenoiser(2, [128, 128, 128]), [2], args.steps).init_from(data.train)
    objectives = {"HVAE": ppvae.ELBO(), "diffusion": ppvae.SingleTermELBO()}
    pairs, reports = {"HVAE": hvae, "diffusion": diffusion}, {}
    for name, pair in pairs.items():
        ppvae.fit(
            pair,
            data.train,
            objectives[name],
            epochs=args.epochs,
            batch_size=250,
            lr=3e-3,
            schedule=lambda done: 0.03**done,
            options=ppvae.StepOptions(ema=0.999),
            seed=args.seed,
        )
        reports[name] = ppvae.gap(pair, held_out, effort, seed=args.seed)
        reports[name].save(args.out / f"diffusion_is_a_vae_{args.data}_{name}.safetensors")
        print(f"\n{name}: {reports[name].verdict()}")

    table = pd.DataFrame({name: described(report) for name, report in reports.items()})
    print(f"\nnats per data point, +- standard error over {len(held_out)} held-out data points")
    print(table.reindex(list(described(reports["HVAE"]).index)).fillna("").to_string())
    bounds = bound_by_steps(diffusion, data.train, held_out)
    print("\nELBO of the diffusion's network in T steps:", {T: round(bound, 2) for T, bound in bounds.items()})
    with ppvae.plots.style():
        draw(data.test, pairs, reports, bounds, args.out / f"diffusion_is_a_vae_{args.data}.png")
    print(f"\nwrote diffusion_is_a_vae_{args.data}.png and two reports to {args.out}/")


def described(report: ppvae.GapReport) -> pd.Series:
    """The ledger's lines, without those of steps and layers, which have their own picture."""
    table = report.summary()
    table = table[~table.index.str.startswith("KL of")]
    table.index = table.index.str.replace(r" \(undefined.*", "", regex=True)
    text = table["nats"].map("{:.2f}".format) + " +- " + table["std_error"].map("{:.2f}".format)
    return text.where(table["nats"].notna(), "undefined")


def bound_by_steps(pair: DiffusionVAE, train: torch.Tensor, held_out: torch.Tensor) -> dict[int, float]:
    """The ELBO of the same network in fewer steps: a new pair each time, without further training."""
    found, T = {}, 2
    while pair.num_steps >= T:
        fewer = DiffusionVAE(pair.denoiser, pair.shape, T).init_from(train)
        found[T] = ppvae.elbo(fewer, held_out, seed=0, progress=False).mean().estimate
        T *= 2
    return found


def draw(
    x: torch.Tensor,
    pairs: dict[str, ppvae.Pair],
    reports: dict[str, ppvae.GapReport],
    bounds: dict[int, float],
    path: Path,
) -> None:
    """Data and samples above; evidence, what each layer costs, and the bound in fewer steps below."""
    hvae, diffusion = pairs["HVAE"], pairs["diffusion"]
    assert isinstance(diffusion, DiffusionVAE)
    clouds = {
        "data": x,
        f"HVAE, {len(reports['HVAE'].latents)} layers": hvae.sample(len(x)),
        f"diffusion, {diffusion.num_steps} steps": diffusion.sample(len(x)),
        f"the same, DDIM in {min(DDIM_STEPS, diffusion.num_steps)}": sample_ddim(
            diffusion, len(x), min(DDIM_STEPS, diffusion.num_steps)
        ),
    }
    low, high = x.amin(0) - 0.3, x.amax(0) + 0.3
    limits = (low[0].item(), high[0].item(), low[1].item(), high[1].item())
    figure = plt.figure(figsize=(11, 6.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.1, 1])
    for ax, (title, cloud) in zip(above.subplots(1, len(clouds)), clouds.items(), strict=True):
        ppvae.plots.points(ax, cloud, limits)
        ax.set_title(title)
    left, middle, right = below.subplots(1, 3)
    ppvae.plots.bounds(left, reports)
    left.set_title("evidence (dot) and ELBO (bar)")
    left.margins(x=0.25)
    draw_layers(middle, reports)
    right.plot(list(bounds), list(bounds.values()), "o-", color="C1", label="one network in T steps")
    right.axhline(reports["HVAE"].elbo.mean().estimate, color="C0", label="HVAE")
    right.set(xlabel="T", ylabel="ELBO [nats per data point]", title="more layers, no more parameters")
    right.set_xscale("log", base=2)
    right.set_xticks(list(bounds), labels=[str(T) for T in bounds])
    right.legend(fontsize=9, loc="lower right")
    figure.savefig(path)


def draw_layers(ax: Axes, reports: dict[str, ppvae.GapReport]) -> None:
    """The KL of each latent site, the one next to the data first."""
    names, start = {}, 0
    for row, report in enumerate(reports.values()):
        sites = sorted(report.latents, key=lambda name: int(name[1:]))
        width = 1 if len(sites) > 5 else 3  # room for the names of a few
        at = range(start, start + width * len(sites), width)
        ax.bar(at, [report.latents[name].kl.mean().estimate for name in sites], 0.8 * width, color=f"C{row}")
        names |= {
            position: name for position, name in zip(at, sites, strict=True) if len(sites) < 6 or name in ends(sites)
        }
        start = at[-1] + 4
    ax.set_xticks(list(names), labels=list(names.values()))
    ax.set(ylabel="KL [nats]", title="what each layer costs, or step")


def ends(sites: list[str]) -> set[str]:
    """The first, the last, and some between."""
    return {sites[0], sites[-1], *sites[len(sites) // 4 - 1 :: len(sites) // 4]}


if __name__ == "__main__":
    main()
