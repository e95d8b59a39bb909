"""How long compiling a training step takes where nothing is cached, and where the same program was compiled before.

    python benchmarks/compile_time.py [--every 4]

For each pair of the zoo of the tests, twelve features at most and networks of a few units: the seconds that the
progress bar shows, in a new process with an empty cache, and in another one with the cache that the first has left.
Prints a Markdown table.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from machine import machine

import ppvae
from ppvae.batches import num_rows

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support.zoo import ZOO

LONG = 10
"""Seconds that small models should not exceed."""


def seconds_shown(name: str, cache: str, result: multiprocessing.SimpleQueue) -> None:
    """What the progress bar says, once the step is compiled; NaN if it is not."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    torch.manual_seed(0)
    pair, x = ZOO[name].make()
    objective = ppvae.ELBO(2 if ZOO[name].drawn else 1)  # the score function weighs particles against one another
    with tempfile.TemporaryFile("w+") as shown:
        with contextlib.redirect_stderr(shown):
            ppvae.fit(pair, x, objective, steps=3, batch_size=num_rows(x), compile=True)
        shown.seek(0)
        found = re.findall(r"compiled in ([\d.]+) s", shown.read())
    result.put(float(found[-1]) if found else float("nan"))


def in_fork(name: str, cache: str) -> float:
    """In a process that has imported ppvae, but not the compiler, which the seconds include."""
    context = multiprocessing.get_context("fork")
    result = context.SimpleQueue()
    process = context.Process(target=seconds_shown, args=(name, cache, result))
    process.start()
    process.join()
    return float("nan") if result.empty() else result.get()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="take each n-th pair only")
    parser.add_argument("--start", type=int, default=0, help="from which on")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    args = parser.parse_args()

    print(f"{machine()}; seconds of compiling a training step\n\n| pair | cold | again |\n|---|---|---|")
    found = {}
    for name in list(ZOO)[args.start :: args.every]:
        with tempfile.TemporaryDirectory() as cache:
            found[name] = [in_fork(name, cache) for _ in range(2)]
        print(f"| {name} | {found[name][0]:.1f} | {found[name][1]:.1f} |", flush=True)
    cold, again = ([times[i] for times in found.values() if times[i] == times[i]] for i in range(2))
    print(f"\n{len(cold)} of {len(found)} compiled, {sum(t > LONG for t in cold)} in more than {LONG} s")
    for kind, times in (("cold", cold), ("again", again)):
        print(f"{kind}: median {statistics.median(times):.1f} s, largest {max(times):.1f} s")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "seconds": found}, indent=2))


if __name__ == "__main__":
    main()
