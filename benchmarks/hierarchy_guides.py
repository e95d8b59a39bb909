"""What it costs a hierarchy that its guide's layers are independent given x: two layers on MNIST, guides of equal size.

    PPVAE_DATA=... python benchmarks/hierarchy_guides.py [--small] [--seed 1]

784-200-200-64-200-200-32, batch normalization and SiLU, dynamic binarization, Adam 3e-3 decayed linearly to 3e-5, batch
128, equal epochs, the KL warming up over half of them. Widths of the guides are chosen so that all pairs have as many
parameters, to 1%.
Prints for each guide the ledger of its gap, how much of the ELBO's variance is left when the KL is taken in closed
form, before and after training, what each layer pays, and log p(x) on more digits, beside the independent guide's; then
what layers pay under other guides trained on the frozen *model* that was learned with the independent one: how much
of its gap a guide over dependent layers closes, and in which layer.
"""

import argparse
import time

import torch
from machine import machine

import ppvae
from ppvae.inference import Evidence
from ppvae.models import MarkovHVAE
from ppvae.models.hierarchies.hierarchical_posteriors import HIERARCHICAL_POSTERIORS, LayerNetworks

NUM_LATENTS, HIDDEN, GUIDES = [64, 32], [200, 200], ("independent", "bottom_up", "ladder", "residual")
LAYERS = {"activation": torch.nn.SiLU, "batch_norm": True}
LINES = ("log_evidence", "elbo", "gap", "approximation_gap", "amortization_gap")


def size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def posterior(guide: str) -> torch.nn.Module:
    """The guide of that name whose number of parameters is nearest to that of the independent one."""
    wanted = size(HIERARCHICAL_POSTERIORS["independent"].make(LayerNetworks(784, NUM_LATENTS, HIDDEN, **LAYERS)))

    def of_width(width: int) -> torch.nn.Module:
        return HIERARCHICAL_POSTERIORS[guide].make(LayerNetworks(784, NUM_LATENTS, [width, width], **LAYERS))

    with torch.random.fork_rng():
        width = min(range(100, 500), key=lambda width: abs(size(of_width(width)) - wanted))
    return of_width(width)


def trained(pair: MarkovHVAE, data: ppvae.datasets.Dataset, train: torch.Tensor, epochs: int, seed: int) -> MarkovHVAE:
    half = epochs * len(train) // 128 // 2
    ppvae.fit(
        pair,
        train,
        ppvae.ELBO(beta=ppvae.LinearWarmup(half), gradient="stl"),
        transform=data.transform,
        epochs=epochs,
        lr=3e-3,
        schedule=lambda done: 1 - 0.99 * done,
        seed=seed,
        progress=False,
    )
    return pair


def terms_of(pair: MarkovHVAE, held_out: torch.Tensor) -> dict[str, str]:
    terms = ppvae.elbo_terms(pair, held_out, 500, seed=0, progress=False)
    means = {"E log p(x given z)": terms.expected_log_likelihood.mean()}
    means |= {f"{name} pays": terms.latents[name].kl.mean() for name in ("z2", "z1")}
    return {name: f"{mean.estimate:.2f}" for name, mean in (means | {"ELBO": terms.elbo.mean()}).items()}


def noise_left(pair: MarkovHVAE, x: torch.Tensor) -> str:
    """The variance of one draw's ELBO with analytic KLs, relative to that by Monte Carlo, averaged over data points."""
    with torch.no_grad():
        many = x.repeat(500, 1)
        values = [ppvae.ELBO(kl=kl)(pair, many)[0].reshape(500, -1) for kl in ("auto", "monte_carlo")]
    analytic, monte_carlo = (value.var(0).mean().item() for value in values)
    return f"{analytic / monte_carlo:.2f}"


def beside(evidence: Evidence, other: Evidence) -> dict[str, str]:
    """The evidence, and what it has more than another one, with the standard error of the paired differences."""
    more = evidence.estimate - other.estimate
    gained = f"{more.mean():+.2f} +- {more.std() / len(more) ** 0.5:.2f}"
    return {f"log p(x) of {len(more)}": f"{evidence.mean().estimate:.2f}", "more than independent": gained}


def print_table(rows: dict[str, dict[str, str]]) -> None:
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    print(f"\n| guide | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(row.get(column, '') for column in columns)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=100, help="passes through the training data, for each guide")
    parser.add_argument("--held-out", type=int, default=100, help="data points to measure")
    parser.add_argument("--seed", type=int, default=0, help="of the start and of training")
    parser.add_argument("--small", action="store_true", help="10000 digits, 30 epochs, 20 to measure")
    args = parser.parse_args()
    data = ppvae.datasets.load("mnist", binarize="dynamic")
    train, epochs, num_points = data.train, args.epochs, args.held_out
    if args.small:
        train, epochs, num_points = train[:10000], 30, 20
    held_out, more = data.test[:num_points], data.test[: 10 * num_points]
    effort = ppvae.Effort(annealing=(ppvae.AIS(num_temperatures=200),), restarts=0, richer=False, refit_steps=0)
    print(f"{machine()}; {len(train)} digits, {epochs} epochs; nats per data point on {num_points} others")

    ledgers, paid, evidences, pairs = {}, {}, {}, {}
    for guide in GUIDES:
        start = time.perf_counter()
        torch.manual_seed(args.seed)
        pair = MarkovHVAE.mlp(784, NUM_LATENTS, HIDDEN, **LAYERS).init_from(train)
        pair.posterior = posterior(guide)
        noise = {"noise left, fresh": noise_left(pair, held_out[:20])}
        pairs[guide] = trained(pair, data, train, epochs, args.seed)
        noise["trained"] = noise_left(pair, held_out[:20])
        report = ppvae.gap(pair, held_out, effort, seed=0, progress=False)
        means = {name: report.lines()[name].mean() for name in LINES}
        ledgers[guide] = {"parameters": str(size(pair))}
        ledgers[guide] |= {name: f"{mean.estimate:.2f} +- {mean.monte_carlo_error:.2f}" for name, mean in means.items()}
        ledgers[guide] |= noise
        paid[guide] = terms_of(pair, held_out)
        evidences[guide] = ppvae.log_evidence(pair, more, "iwae", 5000, seed=0, progress=False)
        paid[guide] |= beside(evidences[guide], evidences["independent"])
        print(f"{guide}: {time.perf_counter() - start:.0f} s; {ledgers[guide]}; {paid[guide]}", flush=True)
    print_table(ledgers)
    print_table(paid)

    frozen = pairs["independent"]
    for part in (frozen.prior, frozen.transitions, frozen.likelihood):
        part.requires_grad_(False)
    others = {"independent": terms_of(frozen, held_out)}
    for guide in GUIDES[1:]:
        torch.manual_seed(args.seed + 1)
        pair = MarkovHVAE(frozen.prior, frozen.transitions, frozen.likelihood, posterior(guide))
        others[guide] = terms_of(trained(pair, data, train, epochs, args.seed), held_out)
    print("\nother guides of the model that was trained with the independent one:")
    print_table(others)


if __name__ == "__main__":
    main()
