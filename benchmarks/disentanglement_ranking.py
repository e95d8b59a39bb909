"""Twelve models of sprites by eight scores of disentanglement: does the ranking survive its errors?

    python benchmarks/disentanglement_ranking.py

Trains VAEs by five objectives, at twelve settings in all, each from several seeds, and scores each on several sets of
images. Prints the scores, and what they cost in nats, with errors over seeds. Then, for each score: its spread over
models, seeds and sets of images; how many pairs of models it tells apart, by Tukey's test, whose level of 5% holds for
all pairs together; how many it cannot tell from the best, itself among them; and how far two seeds agree on the
ranking, by Spearman's correlation. Last, how far the scores agree with each other.
"""

import argparse
import math
from itertools import combinations

import torch
from scipy import stats
from torch import Tensor

import ppvae
from ppvae import DIPVAE, ELBO, BetaTCVAE, FactorVAE, Objective, Pair
from ppvae.datasets import Sprites
from ppvae.models import VAE, LatentCritic

LATENTS, LEVEL = 6, 0.05
COSTS = ["ELBO", "mutual information", "total correlation"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="of training of each model")
    parser.add_argument("--seeds", type=int, default=3, help="models of each setting")
    parser.add_argument("--points", type=int, default=500, help="images in each set")
    parser.add_argument("--sets", type=int, default=3, help="sets of images")
    args = parser.parse_args()

    sprites = Sprites.small()
    _, x = sprites.sample(sprites.num_images, torch.Generator().manual_seed(0))
    settings = objectives(len(x))
    tables, costs = [], []
    for seed in range(args.seeds):
        pairs = {name: trained(objective, x, args.steps, seed) for name, objective in settings.items()}
        tables.append(ppvae.compare_latents(pairs, sprites, args.points, args.sets, seed=seed))
        costs.append([cost(pair, x[:1000]) for pair in pairs.values()])
        print(f"seed {seed}: trained and scored", flush=True)
    scores, names = list(tables[0].ideal), list(tables[0].cells)
    found = torch.tensor([[[table[name][score].estimate for score in scores] for table in tables] for name in names])
    title = f"{tables[0].title} for each model; means and errors over {args.seeds} seeds of training"
    print("\n".join(["", title, *over_seeds(found, names, scores), ""]))
    print("\n".join(["in nats", *over_seeds(torch.tensor(costs).transpose(0, 1), list(settings), COSTS), ""]))
    of_models = found[: len(settings)].double()
    over_sets = [[[table[name][score].std_error for score in scores] for table in tables] for name in settings]
    print("\n".join(ranking(of_models, torch.tensor(over_sets).double() * args.sets**0.5, scores)))
    means = of_models.mean(1)
    agreement = [stats.spearmanr(a, b).statistic for a, b in combinations(means.T, 2)]
    least, most, mean = min(agreement), max(agreement), sum(agreement) / len(agreement)
    print(f"\ncorrelation of two scores' rankings of the models: {least:.2f} to {most:.2f}, mean {mean:.2f}")


def objectives(num_data: int) -> dict[str, Objective]:
    found: dict[str, Objective] = {"ELBO": ELBO()}
    found |= {f"beta-VAE {beta:g}": ELBO(beta=beta) for beta in (2.0, 4.0, 8.0)}
    found |= {f"beta-TCVAE {beta:g}": BetaTCVAE(beta=beta, num_data=num_data) for beta in (3.0, 6.0, 12.0)}
    found |= {f"DIP-VAE {kind}": DIPVAE(kind=kind) for kind in ("I", "II")}
    return found | {f"FactorVAE {gamma:g}": FactorVAE(gamma=gamma) for gamma in (3.0, 10.0, 20.0)}


def trained(objective: Objective, x: Tensor, steps: int, seed: int) -> Pair:
    torch.manual_seed(seed)
    pair: Pair = VAE.mlp(x.shape[1], LATENTS, [128]).init_from(x)
    settings: dict = {"schedule": lambda done: 0.1**done, "seed": seed, "progress": False}
    if isinstance(objective, FactorVAE):
        pair = LatentCritic(pair, ppvae.networks.mlp(LATENTS, [64, 64], 1, torch.nn.LeakyReLU))
        settings["optimizer"] = ppvae.ParameterGroups({"latent_critic": 3.0}, settings={"betas": (0.5, 0.9)})
    ppvae.fit(pair, x, objective, steps=steps, batch_size=200, lr=3e-3, **settings)
    return pair


def cost(pair: Pair, x: Tensor) -> list[float]:
    """The ELBO, and the two parts of its KL that objectives trade for each other."""
    nats = ppvae.kl_split(pair, x, "data", seed=0).nats
    return [ppvae.elbo(pair, x, 10, seed=0, progress=False).mean().estimate, *(nats[name] for name in COSTS[1:])]


def over_seeds(found: Tensor, names: list[str], scores: list[str]) -> list[str]:
    """Means of `[models, seeds, scores]`, and their errors; the factors and noise have other images alone."""
    means, errors = found.mean(1), found.std(1) / math.sqrt(found.shape[1])
    lines = [" " * 23 + "".join(f"{score:>20}" for score in scores)]
    for name, mean, error in zip(names, means.tolist(), errors.tolist(), strict=True):
        cells = (f"{m:.3f} +- {e:.3f}" for m, e in zip(mean, error, strict=True))
        lines.append(f"{name:<23}" + "".join(f"{cell:>20}" for cell in cells))
    return lines


def ranking(found: Tensor, over_sets: Tensor, scores: list[str]) -> list[str]:
    """For each score of `[models, seeds, scores]`, what is left of its ranking."""
    models, seeds, _ = found.shape
    free, num_pairs = models * (seeds - 1), math.comb(models, 2)
    heads = ("over models", "over seeds", "over sets", f"of {num_pairs} apart", "with the best", "between seeds")
    lines = [f"{'standard deviations':<18}" + "".join(f"{head:>15}" for head in heads)]
    least = stats.studentized_range.ppf(1 - LEVEL, models, free)
    for j, score in enumerate(scores):
        means, spread = found[..., j].mean(1), found[..., j].var(1).mean().sqrt().item()
        significant = least * spread / math.sqrt(seeds)
        apart = sum(abs(a - b) > significant for a, b in combinations(means.tolist(), 2))
        with_best = int((means > means.max() - significant).sum())
        pairs = combinations(range(seeds), 2)
        alike = [stats.spearmanr(found[:, a, j], found[:, b, j]).statistic for a, b in pairs]
        sets = over_sets[..., j].square().mean().sqrt()
        cells = (f"{means.std():.3f}", f"{spread:.3f}", f"{sets:.3f}", f"{apart}", f"{with_best}")
        lines.append(f"{score:<18}" + "".join(f"{c:>15}" for c in (*cells, f"{sum(alike) / len(alike):.2f}")))
    return lines


if __name__ == "__main__":
    main()
