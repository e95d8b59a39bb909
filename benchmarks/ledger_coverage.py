"""Whether the error bars of the ledger's lines hold, where every line has a closed form.

    python benchmarks/ledger_coverage.py [--num 50] [--seeds 20]

Linear VAEs with a diagonal guide of correlated posteriors, and an encoder that is off in location and scale; a pair and
data drawn from it for each seed. A row gives a line, the mean error in nats of its values for data points, the coverage
of their 68% and 95% intervals (estimate +- 0.994 and 1.96 standard errors), and the same of the line's means over the
data of each seed, by their Monte Carlo error. Optimized lines are lower bounds of what their rows are held against.
"""

import argparse
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pandas as pd
import torch
from torch import Tensor

import ppvae
from ppvae import Effort
from ppvae.models import LinearVAE

EFFORT = Effort("exact", num_samples=500, restarts=0, refit_steps=0)
FEATURES, LATENTS = 8, 3


def correlated() -> LinearVAE:
    """A linear VAE whose best diagonal guide leaves a gap, with an encoder that is off that guide."""
    pair = LinearVAE(FEATURES, LATENTS)
    basis = torch.linalg.qr(torch.randn(FEATURES, LATENTS))[0] * torch.linspace(4, 1, LATENTS)
    pair.weight.data = basis @ torch.linalg.qr(torch.randn(LATENTS, LATENTS))[0]
    pair.fit_guide()
    pair.encoder.bias.data += 0.2 * torch.randn(LATENTS)
    pair.posterior_scale.data += 0.2 * torch.randn(LATENTS)
    return pair


def closed_forms(pair: LinearVAE, x: Tensor) -> dict[str, Tensor]:
    """The lines' exact values, `[N]` each."""
    log_p, gap = pair.log_prob(x), pair.exact_gap(x)
    family = pair.factorized_gap().expand(len(x))
    return {
        "elbo": log_p - gap,
        "gap": gap,
        "approximation_gap": family,
        "correlation_gap": family,
        "amortization_gap": gap - family,
        "elbo_refined": log_p - family,
        "elbo_full_rank": log_p,
        "elbo_flow": log_p,
    }


def measure(num: int, seed: int) -> dict[str, dict[str, Tensor]]:
    """By line: the errors of its values and their standard errors, and of its mean."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    pair = correlated()
    x = pair.sample(num)
    with torch.no_grad():
        exact = closed_forms(pair, x)
    lines = ppvae.gap(pair, x, EFFORT, seed=seed, progress=False).lines()
    found = {}
    for name, truth in exact.items():
        line, mean = lines[name], lines[name].mean()
        found[name] = {
            "off": line.estimate - truth,
            "std_error": line.std_error,
            "mean off": torch.tensor([mean.estimate - truth.mean().item()]),
            "mean error": torch.tensor([mean.monte_carlo_error]),
        }
    return found


def covered(off: Tensor, std_error: Tensor, width: float) -> float:
    """The share of intervals of so many standard errors that hold the truth."""
    return (off.abs() <= width * std_error).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=50, help="data points of each seed")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()

    pieces: dict[str, list[dict[str, Tensor]]] = defaultdict(list)
    with ProcessPoolExecutor(args.processes) as pool:
        for found in pool.map(partial(measure, args.num), range(args.seeds)):
            for name, line in found.items():
                pieces[name].append(line)

    rows = {}
    for name, each in pieces.items():
        off, std_error, mean_off, mean_error = (torch.cat([found[key] for found in each]) for key in each[0])
        rows[name] = {
            "bias": off.mean().item(),
            "std error": std_error.mean().item(),
            "covered 68%": covered(off, std_error, 0.994),
            "covered 95%": covered(off, std_error, 1.96),
            "mean's error": mean_error.mean().item(),
            "means within 68%": covered(mean_off, mean_error, 0.994),
            "means within 95%": covered(mean_off, mean_error, 1.96),
        }
    print(pd.DataFrame(rows).T.rename_axis("line").round(4).to_string())


if __name__ == "__main__":
    main()
