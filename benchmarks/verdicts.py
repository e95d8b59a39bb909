"""Whether the verdict names what is wrong: for pairs that are broken on purpose, and healthy ones.

    PYTHONPATH=tests python benchmarks/verdicts.py [--cases TEXT] [--seeds 5] [--effort small|default]

A row gives a case, in how many seeds the verdict was right, and what was wrong with it otherwise. It is right if the
main cause that it names is the one that costs most (either, where two cost about as much), and if it names none that is
not there. The table after that counts main causes: a row for what is broken, a column for what was named.
"""

import argparse
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product

import pandas as pd
import torch
from support.broken.pairs import BROKEN

import ppvae
from ppvae import AIS, Effort
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.verdicts import causes

EFFORTS = {
    "small": Effort("auto", 500, (AIS(num_temperatures=50),), 100, Ascent(), 0, True, 1000),
    "default": "default",
}


@dataclass(frozen=True)
class Found:
    """The causes that a verdict named for a case and a seed, with costs and errors, and the time it took."""

    case: str
    seed: int
    causes: list[tuple[str, float, float]]
    seconds: float

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.causes]

    @property
    def wrong(self) -> str:
        return BROKEN[self.case].wrong(self.names)


def judge(effort: str, case_and_seed: tuple[str, int]) -> Found:
    """The ledger of one pair."""
    case, seed = case_and_seed
    torch.set_num_threads(1)
    pair, (train, test) = BROKEN[case].make_with(seed)
    started = time.perf_counter()
    report = ppvae.gap(pair, test, EFFORTS[effort], train=train, seed=seed, progress=False)
    found = [(cause.name, cause.nats, cause.monte_carlo_error) for cause in causes(report)]
    return Found(case, seed, found, time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="only those whose names contain this")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--effort", choices=list(EFFORTS), default="small")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()

    names = [name for name in BROKEN if args.cases in name]
    results: dict[str, list[Found]] = {name: [] for name in names}
    with ProcessPoolExecutor(args.processes) as pool:
        for found in pool.map(partial(judge, args.effort), product(names, range(args.seeds))):
            results[found.case].append(found)
            told = ", ".join(f"{name} {nats:.2f} +- {error:.2f}" for name, nats, error in found.causes) or "no cause"
            print(f"{found.case}, seed {found.seed}, {found.seconds:.0f} s: {told}", end="", flush=True)
            print(f"  <-- {found.wrong}" if found.wrong else "", flush=True)

    rows, confusion = {}, Counter()
    for name, each in results.items():
        rows[name] = {
            "broken": " or ".join(BROKEN[name].main) or "nothing",
            "right": f"{sum(not found.wrong for found in each)} of {len(each)}",
            "wrong": "; ".join(sorted({found.wrong for found in each} - {""})),
        }
        for found in each:
            named = found.names[0] if found.names else "nothing"
            main = BROKEN[name].main
            confusion[named if named in main else main[0] if main else "nothing", named] += 1
    print(pd.DataFrame(rows).T.to_string())
    print("\nmain cause: named (columns) where broken (rows)")
    print(pd.Series(confusion).unstack(fill_value=0).to_string())
    every = [found for each in results.values() for found in each]
    print(f"\nright: {sum(not found.wrong for found in every)} of {len(every)}")


if __name__ == "__main__":
    main()
