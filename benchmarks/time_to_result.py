"""The time to a result: seconds from the call to the last step, compiling included, ours against its peers.

    pip install numpyro && python benchmarks/time_to_result.py [--steps 100 300 1000 3000 10000] [--only 2-32]

The loads are those of `loads.py`; Adam at 1e-3 on one fixed batch, a number of steps. Peers are `ppvae.fit` as called
without options, NumPyro with the whole run in one `lax.scan` and with one jitted call a step, and a step by hand under
`torch.compile`. Each cell is a process of its own: the clock starts where all imports are done, the compilers' own
excepted, as these belong to the first call. "cold": the compilers' caches on disk are empty; "warm": the same run again
with the caches that the first has left. Printed are Markdown tables of wall seconds, with the seconds of processor time
of the process and its children beside them: on a busy machine only these can be compared. NumPyro's IWAE weights are
joint over the data points: the same work, another bound.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from machine import machine

COLD, WARM = "cold", "warm"


def cpu_seconds() -> float:
    """Of this process and the children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def ours(load: Any) -> Callable[[int], Any]:
    import ppvae

    pair, x = ppvae.Pair.of(*load.pyro(), example=load.x), load.x
    return lambda steps: ppvae.fit(
        pair, x, load.objective, steps=steps, batch_size=len(x), lr=1e-3, progress=False
    ).history["bound_per_step"][-1]


def like_a_step(peer: str, load: Any) -> Callable[[int], Any]:
    """The peer of this name in `svi_step.py`, which is set up within the clock, as compiling is a part of it."""
    from svi_step import PEERS

    if peer.startswith("NumPyro"):
        import numpyro  # noqa: F401
    return lambda steps: PEERS[peer](load)(steps)


STEPS = ["NumPyro, scan", "NumPyro, jit", "torch.compile, by hand"]
WAYS = {"ppvae.fit": ours} | {peer: partial(like_a_step, peer) for peer in STEPS}


def cell(peer: str, load: int, steps: int) -> None:
    """One measurement, printed as JSON; in a process of its own."""
    import torch
    from loads import LOADS

    torch.set_flush_denormal(True)
    run = WAYS[peer](LOADS[load])
    start, used = time.perf_counter(), cpu_seconds()
    last = float(run(steps))
    print(json.dumps({"wall": time.perf_counter() - start, "cpu": cpu_seconds() - used, "last": last}))


def in_new_process(peer: str, load: int, steps: int, cache: str) -> dict[str, float]:
    """The cell, with the compilers' caches in this folder."""
    caches = {
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/torch",
        "JAX_COMPILATION_CACHE_DIR": f"{cache}/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, __file__, "--cell", peer, str(load), str(steps)]
    done = subprocess.run(command, env=os.environ | caches, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{peer}, load {load}, {steps} steps: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 1000, 3000])
    parser.add_argument("--only", default="2-32", help="loads whose name begins so; '' for all")
    parser.add_argument("--peers", nargs="+", choices=WAYS, default=list(WAYS), metavar="PEER")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        peer, load, steps = args.cell
        return cell(peer, int(load), int(steps))

    from loads import LOADS

    print(f"{machine()}; seconds to a result, processor time in brackets")
    results = []
    for i, load in enumerate(LOADS):
        if not load.name.startswith(args.only):
            continue
        print(f"\n{load.name}\n\n| steps | caches |", " | ".join(args.peers), "|\n|---|---|" + "---|" * len(args.peers))
        for steps in args.steps:
            found: dict[str, list[dict[str, float]]] = {COLD: [], WARM: []}
            for peer in args.peers:
                with tempfile.TemporaryDirectory() as cache:
                    for kind in found:
                        found[kind].append(in_new_process(peer, i, steps, cache))
                        results.append({"load": load.name, "steps": steps, "peer": peer, "caches": kind})
                        results[-1] |= found[kind][-1]
            for kind, cells in found.items():
                print(f"| {steps} | {kind} |", " | ".join(f"{c['wall']:.1f} ({c['cpu']:.1f})" for c in cells), "|")
                sys.stdout.flush()
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "cells": results}, indent=2))


if __name__ == "__main__":
    main()
