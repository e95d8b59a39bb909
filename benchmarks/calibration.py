"""How often tests of a guide on the model's own data raise an alarm at 5%: where it is exact, and where it is wrong.

    PYTHONPATH=tests python benchmarks/calibration.py [--cases TEXT] [--seeds 100]

The model is a linear VAE with two latents; each test has 1000 simulations. "ranks" and "coverage" are alarms of
`ppvae.calibration` and of `ppvae.expected_coverage`, by the smallest p-value times the number of them; "any point"
those of `ppvae.local_classifier_test` at any of 20 data points, with adjusted p-values, and "a point" the share of the
data points with a p-value of at most 5%. The gap is the KL divergence from guide to posterior, in nats.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from itertools import product

import pandas as pd
import torch
from support.misguided import Correlated, Distorted, FromPrior

import ppvae

CASES = {
    "exact": lambda: Correlated(),
    "exact, correlation 0.8": lambda: Correlated(0.8),
    "scale 0.9": lambda: Distorted(scale=0.9),
    "scale 1.1": lambda: Distorted(scale=1.1),
    "shift 0.2": lambda: Distorted(shift=0.2),
    "mean-field, correlation 0.2": lambda: Correlated(0.2, "diagonal"),
    "mean-field, correlation 0.3": lambda: Correlated(0.3, "diagonal"),
    "mean-field, correlation 0.5": lambda: Correlated(0.5, "diagonal"),
    "the prior": lambda: FromPrior(),
    "scale 0.7 where x[0] > 0": lambda: Distorted(scale=0.7, local=True),
}
ALARM = 0.05


def alarms(case_seed: tuple[str, int]) -> dict[str, float]:
    """What each test says of one case."""
    name, seed = case_seed
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    pair = CASES[name]()
    data = pair.sample(20)
    settings = {"seed": seed, "progress": False}
    ranks, coverage = ppvae.calibration(pair, **settings).p_value, ppvae.expected_coverage(pair, **settings).p_value
    local = ppvae.local_classifier_test(pair, data, **settings)
    right = data[:, 0].numpy() < 0  # for the last case
    alarm = (local.p_value <= ALARM).astype(float)
    return {
        "gap": (pair.log_prob(data).mean() - pair.log_weights(data, 100).log_w.mean()).item(),
        "ranks": float(ranks.min() * len(ranks) <= ALARM),
        "coverage": float(coverage.min() * len(coverage) <= ALARM),
        "any point": float(local.adjusted_p_value.min() <= ALARM),
        "a point": float(alarm.mean()),
        "a point, x[0] < 0": float(alarm[right].mean()),
        "a point, x[0] > 0": float(alarm[~right].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="only those whose names contain this")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    cells = list(product([name for name in CASES if args.cases in name], range(args.seeds)))
    with ProcessPoolExecutor(args.processes) as pool:
        found = pd.DataFrame(pool.map(alarms, cells), index=[name for name, _ in cells])
    print(found.groupby(level=0, sort=False).mean().round(3).to_string())


if __name__ == "__main__":
    main()
