"""How far is a model of sequences from the truth, and its guide from the posterior? Kalman knows, and filters measure.

The data are linear Gaussian sequences, so the true model's log p(x) is known. First, a guide that is independent in
time: its gap grows with each step, in closed form, and the picture has it measured by importance weights and by a
particle filter. Then a hidden Markov model and two deep Markov models learn from such sequences: one with a guide that
draws each latent given the one before, one whose guide is independent in time. The table has their log p(x) on held-out
sequences, exactly or by a particle filter, their ELBO and their gap; of some, log p(x) by annealed importance sampling.
"""

import argparse
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor

import ppvae
from ppvae.models import DeepMarkov, HiddenMarkov, LinearGaussianStateSpace

FEATURES, LATENTS = 3, 2
WITH_EXACT_EVIDENCE = (LinearGaussianStateSpace, HiddenMarkov)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="of each sequence to learn from")
    parser.add_argument("--epochs", type=int, default=50, help="passes of training through 500 sequences")
    parser.add_argument("--particles", type=int, default=800)
    parser.add_argument("--held-out", type=int, default=100, help="sequences to measure; a twentieth by AIS, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for figure and table")
    parser.add_argument("--smoke", action="store_true", help="the least of everything: does it run at all?")
    args = parser.parse_args()
    if args.smoke:
        args.steps, args.epochs, args.particles, args.held_out = 4, 1, 32, 20
    return args


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    truth = LinearGaussianStateSpace(FEATURES, LATENTS, "mean_field").requires_grad_(False)
    exact = LinearGaussianStateSpace(FEATURES, LATENTS, "exact").requires_grad_(False)
    exact.load_state_dict(truth.state_dict())
    by_length = gaps_by_length(truth, [2, 4] if args.smoke else [5, 10, 20, 40], args)
    text = f"gap of the guide that is independent in time, nats per sequence\n{by_length.round(2).to_string()}"
    print(text, flush=True)

    train, held_out = (truth.sample(torch.zeros(num, args.steps, FEATURES)) for num in (500, args.held_out))
    pairs: dict[str, ppvae.Pair] = {"true model, exact guide": exact, "true model, mean field": truth}
    pairs["hidden Markov, 8 states"] = fitted(HiddenMarkov(8, FEATURES).init_from(train), train, args)
    for posterior in ("combiner", "mean_field"):
        pair = DeepMarkov(FEATURES, LATENTS, [32], "gaussian", posterior)
        pairs[f"deep Markov, {posterior.replace('_', ' ')}"] = fitted(pair, train, args)
    table = pd.DataFrame.from_dict({name: measured(pair, held_out, args) for name, pair in pairs.items()}, "index")
    few = held_out[: len(held_out) // 20]
    rows = {name: by_each_method(pair, few, args) for name, pair in pairs.items() if isinstance(pair, DeepMarkov)}
    rows["true model, mean field"] = by_each_method(truth, few, args) | {"exact": f"{truth.log_prob(few).mean():.2f}"}
    methods = pd.DataFrame.from_dict(rows, "index")
    text += f"\n\n{len(held_out)} held-out sequences of {args.steps} steps, nats per sequence\n{table.round(2)}"
    text += f"\n\nlog p(x) of {len(few)} of these, +- Monte Carlo error\n{methods.to_string(na_rep='')}"
    print(text[text.index("\n\n") :])

    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "sequences.txt").write_text(f"{text}\n")
    with ppvae.plots.style():
        draw(by_length, table, pairs, held_out[:1], args.out / "sequences.png")
    print(f"\nwrote sequences.txt and .png to {args.out}/")


def gaps_by_length(truth: LinearGaussianStateSpace, lengths: list[int], args: argparse.Namespace) -> pd.DataFrame:
    """The gap in closed form, and as the methods measure it, on the first steps of the same sequences."""
    x = truth.sample(torch.zeros(args.held_out // 4, lengths[-1], FEATURES))
    rows = {}
    for num_steps in lengths:
        elbo = truth.exact_elbo(x[:, :num_steps])
        rows[num_steps] = {"closed form": truth.factorized_gap(num_steps).item()}
        for label, method in (("importance weights", "iwae"), ("particle filter", "bootstrap filter")):
            found = ppvae.log_evidence(truth, x[:, :num_steps], method, args.particles, seed=args.seed, progress=False)
            rows[num_steps][label] = (found.estimate - elbo).mean().item()
    return pd.DataFrame.from_dict(rows, "index").rename_axis("steps")


def fitted(pair: ppvae.Pair, train: Tensor, args: argparse.Namespace) -> ppvae.Pair:
    start = time.perf_counter()
    ppvae.fit(
        pair,
        train,
        epochs=args.epochs,
        batch_size=100,
        lr=0.01,
        schedule=lambda done: 1 - 0.99 * done,
        seed=args.seed,
        progress=False,
    )
    print(f"{type(pair).__name__} trained in {time.perf_counter() - start:.0f} s", flush=True)
    return pair


def measured(pair: ppvae.Pair, held_out: Tensor, args: argparse.Namespace) -> dict[str, float]:
    method = "exact" if isinstance(pair, WITH_EXACT_EVIDENCE) else "bootstrap filter"
    evidence = ppvae.log_evidence(pair, held_out, method, args.particles, seed=args.seed, progress=False).mean()
    bound = ppvae.elbo(pair, held_out, 20, seed=args.seed, progress=False).mean()
    return {
        "log p(x)": evidence.estimate,
        "+-": evidence.std_error,
        "Monte Carlo": evidence.monte_carlo_error,
        "ELBO": bound.estimate,
        "gap": evidence.estimate - bound.estimate,
    }


def by_each_method(pair: ppvae.Pair, x: Tensor, args: argparse.Namespace) -> dict[str, str]:
    chains = ppvae.AIS(num_temperatures=5 if args.smoke else 60)
    found = {}
    for label, method in (("AIS", "ais"), ("particle filter", "bootstrap filter")):
        record = ppvae.log_evidence(
            pair, x, method, args.particles, annealing=chains, seed=args.seed, progress=False
        ).mean()
        found[label] = f"{record.estimate:.2f} +- {record.monte_carlo_error:.2f}"
    return found


def draw(by_length: pd.DataFrame, table: pd.DataFrame, pairs: dict, row: Tensor, path: Path) -> None:
    """The gap by length, evidence and gap of each model, and a sequence with what two models make of it."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for label, style in (("closed form", "k-"), ("particle filter", "C0o"), ("importance weights", "C1s")):
        axes[0].plot(by_length.index, by_length[label], style, label=label)
    axes[0].set(xlabel="steps", ylabel="nats per sequence", title="gap of a guide that is independent in time")
    axes[0].legend(frameon=False)
    evidence_and_gap(axes[1], table)
    times = range(1, row.shape[1] + 1)
    axes[2].plot(times, row[0, :, 0], "k.", label="data")
    for label in ("true model, exact guide", "deep Markov, combiner"):
        axes[2].plot(times, pairs[label].reconstruct(row, 500)[0, :, 0], label=label)
    axes[2].set(xlabel="step", ylabel="first feature", title="a held-out sequence, and its mean given z")
    axes[2].legend(frameon=False)
    figure.savefig(path)


def evidence_and_gap(ax: Axes, table: pd.DataFrame) -> None:
    """The gap as a bar from the ELBO up to log p(x)."""
    at = range(len(table))
    ax.barh(at, table["gap"], left=table["ELBO"], color="C1", height=0.5, label="gap")
    ax.plot(table["log p(x)"], at, "k|", ms=18, label="log p(x)")
    ax.set_yticks(at, table.index)
    ax.invert_yaxis()
    ax.set_xlim(table["ELBO"].min() - 0.3, table["log p(x)"].max() + 0.3)
    ax.locator_params(axis="x", nbins=5)
    ax.set(xlabel="nats per sequence", title="from the ELBO up to log p(x), held out")
    ax.legend(frameon=False, loc="lower left")


if __name__ == "__main__":
    main()
