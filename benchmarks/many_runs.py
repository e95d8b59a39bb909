"""Eight runs of one model, trained one after another by `ppvae.fit` and together by `ppvae.fit_many`: seconds in all.

    python benchmarks/many_runs.py [--steps 2000] [--runs 8]

The loads are the ELBO ones of `loads.py`, as pairs of ours. Each way has a process of its own, with empty compiler
caches; the clock starts before the first call and stops after the last step. Printed are wall seconds, with processor
time in brackets, without and with `compile=True`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

from machine import machine

WAYS = ["one by one", "one by one, compiled", "together", "together, compiled"]
LOADS = {"2-32-32-2, batch 128": (2, [32, 32], 2, 128), "784-200-200-50, batch 100": (784, [200, 200], 50, 100)}


def measure(load: str, way: str, steps: int, runs: int) -> None:
    """One measurement, printed; in a process of its own."""
    import torch

    import ppvae
    from ppvae.models import VAE

    features, hidden, latents, batch = LOADS[load]
    data = torch.rand(10 * batch, features, generator=torch.Generator().manual_seed(0))

    def make() -> ppvae.Pair:
        return VAE.mlp(features, latents, hidden, "gaussian")

    settings = {"steps": steps, "batch_size": batch, "progress": False}
    compile = True if way.endswith("compiled") else "auto"
    start, used = time.perf_counter(), os.times()
    if way.startswith("together"):
        ppvae.fit_many(make, data, seeds=runs, compile=compile, **settings)
    else:
        for seed in range(runs):
            torch.manual_seed(seed)
            ppvae.fit(make(), data, compile=compile, **settings)
    now = os.times()
    processor = sum(now[:4]) - sum(used[:4])
    print(f"{time.perf_counter() - start:.1f} ({processor:.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return measure(*args.one, args.steps, args.runs)
    print(f"{machine()}; {args.runs} runs of {args.steps} steps, seconds, processor time in brackets\n")
    print("| load |", " | ".join(WAYS), "|\n|---|" + "---|" * len(WAYS))
    for load in LOADS:
        cells = []
        for way in WAYS:
            with tempfile.TemporaryDirectory() as cache:
                command = [sys.executable, __file__, "--one", load, way]
                command += ["--steps", str(args.steps), "--runs", str(args.runs)]
                caches = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
                done = subprocess.run(command, env=caches, capture_output=True, text=True, check=True)
                cells.append(done.stdout.splitlines()[-1])
        print(f"| {load} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
