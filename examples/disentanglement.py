"""Do axes of the latents stand for factors of the data? Five objectives, eight scores, and what picks the axes.

On sprites, whose factors are known, VAEs are trained by the ELBO, beta-VAE, beta-TCVAE, DIP-VAE and FactorVAE, each
from several seeds. Prints the scores with errors over seeds, beside those of the factors themselves and of noise, which
show each score's bias; which differences survive their errors; and what each objective does to the three parts of the
KL. Then Locatello et al.'s theorem, exactly: rotating a linear VAE's latents leaves log p(x) as it is, and costs a
guide with independent latents some nats. Writes the tables and a picture.
"""

import argparse
import math
from itertools import combinations
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

import ppvae
from ppvae import DIPVAE, ELBO, BetaTCVAE, FactorVAE, Pair
from ppvae.datasets import Sprites
from ppvae.inference import Cell, Table
from ppvae.models import VAE, LatentCritic, LinearVAE
from ppvae.views import pictures

LATENTS, TERMS = 6, ("KL", "mutual information", "total correlation", "KL of dimensions")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="of training of each model")
    parser.add_argument("--seeds", type=int, default=3, help="models of each objective")
    parser.add_argument("--points", type=int, default=500, help="images in each set that scores are taken of")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for tables and picture")
    parser.add_argument("--smoke", action="store_true", help="the least of everything: does it run at all?")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.smoke:
        args.steps, args.seeds, args.points = 3, 2, 100
    sprites = Sprites.small()
    _, x = sprites.sample(sprites.num_images, torch.Generator().manual_seed(0))
    objectives = {
        "ELBO": ELBO(),
        "beta-VAE": ELBO(beta=4.0),
        "beta-TCVAE": BetaTCVAE(beta=6.0, num_data=len(x)),
        "DIP-VAE": DIPVAE(),
        "FactorVAE": FactorVAE(gamma=20.0),
    }
    pairs = {
        f"{name} {seed}": trained(o, x, args.steps, seed)
        for name, o in objectives.items()
        for seed in range(args.seeds)
    }
    print(f"trained {len(pairs)} models", flush=True)
    scores = over_seeds(ppvae.compare_latents(pairs, sprites, args.points, 2, seed=0), list(objectives), args.seeds)
    lines = [str(scores), "", *survives(scores, list(objectives)), "", *split(pairs, x[:1000]), "", *theorem()]
    text = "\n".join(lines)
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "disentanglement.txt").write_text(text + "\n")
    with ppvae.plots.style():
        draw(pairs, list(objectives), scores, x, args.out / "disentanglement.png")
    print(f"\nwrote disentanglement.txt and disentanglement.png to {args.out}/")


def trained(objective: ppvae.Objective, x: torch.Tensor, steps: int, seed: int) -> Pair:
    torch.manual_seed(seed)
    pair: Pair = VAE.mlp(x.shape[1], LATENTS, [128]).init_from(x)
    settings: dict = {"schedule": lambda done: 0.1**done, "seed": seed, "progress": False}
    if isinstance(objective, FactorVAE):
        pair = LatentCritic(pair, ppvae.networks.mlp(LATENTS, [64, 64], 1, torch.nn.LeakyReLU))
        settings["optimizer"] = ppvae.ParameterGroups({"latent_critic": 3.0}, settings={"betas": (0.5, 0.9)})
    ppvae.fit(pair, x, objective, steps=steps, batch_size=200, lr=3e-3, **settings)
    return pair


def over_seeds(table: Table, names: list[str], num_seeds: int) -> Table:
    """The scores of each objective, their means and errors over seeds; the factors and noise as they are."""
    cells = {name: dict(of_model) for name, of_model in table.cells.items() if name.split()[0] not in names}
    for name in names:
        cells[name] = {}
        for score in table.ideal:
            values = torch.tensor([table[f"{name} {seed}"][score].estimate for seed in range(num_seeds)])
            cells[name][score] = Cell(values.mean().item(), values.std().item() / math.sqrt(num_seeds))
    ordered = {name: cells[name] for name in [*names, *(other for other in cells if other not in names)]}
    return Table(ordered, table.ideal, f"{table.title}; errors over {num_seeds} seeds of training")


def survives(scores: Table, names: list[str]) -> list[str]:
    """For each score, the objectives that it tells apart by more than twice their joint error."""
    lines = ["differences of more than twice their joint error:"]
    for score in scores.ideal:
        found = []
        for a, b in combinations(names, 2):
            one, other = scores[a][score], scores[b][score]
            if abs(one.estimate - other.estimate) > 2 * math.hypot(one.std_error, other.std_error):
                found.append(f"{a} {'>' if one.estimate > other.estimate else '<'} {b}")
        lines.append(f"  {score:<16} {len(found)} of {math.comb(len(names), 2)}: {', '.join(found) or 'none'}")
    return lines


def split(pairs: dict[str, Pair], x: torch.Tensor) -> list[str]:
    """The parts of the KL, over these data, and the ELBO, of one model of each objective, in nats."""
    lines = [f"{'nats per data point':<14}{'ELBO':>18}" + "".join(f"{term:>20}" for term in TERMS)]
    for name, pair in pairs.items():
        if name.endswith(" 0"):
            elbo = ppvae.elbo(pair, x, 10, seed=0, progress=False).mean()
            found = ppvae.kl_split(pair, x, "data", seed=0)
            terms = "".join(f"{found.nats[term]:>12.2f} +- {found.std_error[term]:.2f}" for term in TERMS)
            lines.append(f"{name[:-2]:<18}{elbo.estimate:>8.2f} +- {elbo.std_error:.2f}{terms}")
    return lines


def theorem() -> list[str]:
    """A linear VAE's latents rotated: the evidence, the correlation of axes and factors, and the price, in nats."""
    torch.manual_seed(0)
    pair = LinearVAE(6, 2).double()
    weight = torch.linalg.qr(torch.randn(6, 2).double())[0] * torch.tensor([2.0, 1.0])
    z = torch.randn(5000, 2).double()
    x = z @ weight.T + torch.randn(5000, 6).double()
    lines = [
        "latents rotated by  log p(x), exact  correlation of axes and factors  gap of the best factorized guide, nats"
    ]
    for degrees in (0, 15, 30, 45):
        angle = math.radians(degrees)
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
        pair.weight.data = weight @ turn
        means = pair.fit_guide().encode(x).mean
        axes = [torch.stack([means[:, j], z[:, j]]).corrcoef()[0, 1].abs().item() for j in range(2)]
        gap = abs(pair.factorized_gap().item())
        lines.append(f"{degrees:>15}     {pair.log_prob(x).mean():>15.6f}  {axes[0]:>24.3f} {axes[1]:.3f} {gap:>32.4f}")
    return lines


def draw(pairs: dict[str, Pair], names: list[str], scores: Table, x: torch.Tensor, path: Path) -> None:
    """Traversals of each latent, of one model of each objective; and the scores, with errors over seeds."""
    figure = plt.figure(figsize=(3 * len(names), 5.4), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[2, 3])
    for ax, name in zip(upper.subplots(1, len(names)), names, strict=True):
        pictures.traversals(ax, pairs[f"{name} 0"], x[:100], (16, 16))
        ax.set_title(name)
    ax, ticks = lower.subplots(), range(len(scores.ideal))
    for i, (name, cells) in enumerate(scores.cells.items()):
        places = [tick + 0.09 * (i - len(scores.cells) / 2) for tick in ticks]
        found = [cells[score] for score in scores.ideal]
        errors = [cell.std_error for cell in found]
        ax.errorbar(places, [cell.estimate for cell in found], errors, fmt="osD^vPX"[i % 7], label=name)
    ax.set_xticks(ticks, list(scores.ideal))
    ax.set(ylabel="score", ylim=(0, 1.05))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path)


if __name__ == "__main__":
    main()
