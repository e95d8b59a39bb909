"""Whether error bars hold: for pairs with known evidence, how often intervals cover it, method by method.

    PYTHONPATH=tests python benchmarks/coverage.py [--cases TEXT] [--methods auto best] [--num 100] [--seeds 2]

Data are drawn from each model, so all is known but the noise. A row gives the share of the data points that are called
reliable, and of these the mean error in nats, the coverage of 68% and 95% intervals (estimate +- 0.994 and 1.96
standard errors), and the share that is off by more than 0.1 nats and four standard errors. The last rows pool the data
points of all healthy cases, and of all. An ELBO counts as reliable where its record has no warning.
"""

import argparse
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product

import pandas as pd
import torch
from support.known_cases import CASES
from torch import Tensor

import ppvae
from ppvae import AIS

CHAINS, FROM_PRIOR = AIS(num_temperatures=100), AIS(num_temperatures=200, start="prior")
METHODS = {
    "iwae": {},
    "ais": {"annealing": CHAINS},
    "ais from prior": {"annealing": FROM_PRIOR},
    "auto": {"annealing": CHAINS},
    "best": {"annealing": (CHAINS, FROM_PRIOR)},
    "elbo": {"num_samples": 200},
}
Found = dict[str, Tensor]


def measure(num: int, case_method_seed: tuple[str, str, int]) -> tuple[str, str, Found | str]:
    """One case by one method: the errors, the standard errors, and what is called reliable."""
    name, method, seed = case_method_seed
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    case = CASES[name]
    batch, pair = case.data(num, seed), case.pair()
    exact = case.exact(batch)
    try:
        if method == "elbo":
            found = ppvae.elbo(pair, batch, **METHODS[method], seed=seed, progress=False)
            reliable, truth = torch.full((num,), not found.warning), exact["elbo"]
        else:
            found = ppvae.log_evidence(pair, batch, method, **METHODS[method], seed=seed, progress=False)
            reliable, truth = found.reliable, exact["log_evidence"]
    except ppvae.ContractError as error:
        return name, method, str(error)
    return name, method, {"off": found.estimate - truth, "std_error": found.std_error, "reliable": reliable}


def summary(found: Found) -> dict[str, float]:
    """What error bars are worth."""
    off, std_error = found["off"][found["reliable"]], found["std_error"][found["reliable"]]
    far = off.abs() > torch.clamp(4 * std_error, min=0.1)
    tiny = 1e-9  # of rounding, where an estimate is exact
    return {
        "points": len(found["off"]),
        "reliable": found["reliable"].double().mean().item(),
        "bias": off.mean().item(),
        "covered 68%": (off.abs() < 0.994 * std_error + tiny).double().mean().item(),
        "covered 95%": (off.abs() < 1.96 * std_error + tiny).double().mean().item(),
        "far off": far.double().mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="only those whose names contain this")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--num", type=int, default=100, help="data points of each case and seed")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()

    names = [name for name in CASES if args.cases in name]
    pieces: dict[tuple[str, str], list[Found]] = defaultdict(list)
    with ProcessPoolExecutor(args.processes) as pool:
        for name, method, found in pool.map(
            partial(measure, args.num), product(names, args.methods, range(args.seeds))
        ):
            if isinstance(found, str):
                print(f"{name}, {method}: {found}")
            else:
                pieces[name, method].append(found)

    def pooled(chosen: list[Found]) -> Found:
        return {key: torch.cat([each[key] for each in chosen]) for key in chosen[0]}

    rows = {key: summary(pooled(found)) for key, found in pieces.items()}
    for method in args.methods:
        for label, kept in (("ALL HEALTHY", [n for n in names if CASES[n].healthy]), ("ALL", names)):
            of_all = [each for (name, by), found in pieces.items() if by == method and name in kept for each in found]
            if of_all:
                rows[label, method] = summary(pooled(of_all))
    print(pd.DataFrame(rows).T.rename_axis(["case", "method"]).round(3).to_string())


if __name__ == "__main__":
    main()
