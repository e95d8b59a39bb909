"""The time of one training step: ours against hand-written torch, Pyro and NumPyro, in turns, in one run.

    pip install numpyro && python benchmarks/svi_step.py

The loads are those of `loads.py`; Adam at 1e-3, one fixed batch. Each peer takes blocks of steps in turn with the
others; printed are medians over blocks of the time per step, in microseconds, as a Markdown table. Denormals are
flushed for all torch peers. The losses of each peer's first and fiftieth step are printed, that they can be seen to do
the same (but Pyro's and NumPyro's IWAE, whose weights are joint over the data points).
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import torch
from loads import LOADS, HierarchyLoad, MixtureLoad, VAELoad
from machine import machine

import ppvae
from ppvae.inference.training.compiled_step import CompiledStep
from ppvae.inference.training.update import Update

Load = VAELoad | MixtureLoad | HierarchyLoad


def torch_step(load: Load, compile: bool) -> Callable[[], object]:
    loss = load.by_hand()
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3, fused=True)
    run, x = torch.compile(loss) if compile else loss, load.x

    def step():
        value = run(x)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value.item()

    return step


def ppvae_step(load: Load, compile: bool) -> Callable[[], object]:
    x, objective = load.x, load.objective
    pair = ppvae.Pair.of(*load.pyro(), example=x)
    optimizer = torch.optim.Adam(pair.parameters(), lr=1e-3, fused=True)

    def eager():
        value, surrogate = objective(pair, x)
        surrogate.neg().backward()
        optimizer.step()
        optimizer.zero_grad()
        return -value.mean().item()

    if not compile:
        return eager
    eager()
    compiled = CompiledStep(pair, objective, Update(optimizer, dict(pair.named_parameters())), x)
    return lambda: -compiled(x, None, 0, 1.0, [])


def pyro_step(load: Load) -> Callable[[], object]:
    pyro.clear_param_store()
    x = load.x
    svi = pyro.infer.SVI(*load.pyro(), pyro.optim.Adam({"lr": 1e-3}), load.pyro_elbo)
    return lambda: svi.step(x) / len(x)


def numpyro_step(load: Load) -> Callable[[], object]:
    import jax
    import jax.numpy as jnp
    import numpyro

    model, guide, elbo = load.numpyro()
    svi, x = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(1e-3), elbo), jnp.asarray(load.x.numpy())
    state = svi.init(jax.random.PRNGKey(0), x)
    update = jax.jit(svi.update, donate_argnums=0)

    def step():
        nonlocal state
        state, loss = update(state, x)
        return float(loss) / len(x)

    return step


PEERS: dict[str, Callable[[Load], Callable[[], object]]] = {
    "ppvae, compiled": lambda load: ppvae_step(load, True),
    "ppvae, eager": lambda load: ppvae_step(load, False),
    "torch, by hand": lambda load: torch_step(load, False),
    "torch.compile, by hand": lambda load: torch_step(load, True),
    "NumPyro, jit": numpyro_step,
    "Pyro": pyro_step,
}


def measure(load: Load, blocks: int, seconds: float) -> dict[str, float]:
    """Median microseconds per step of each peer; a block lasts about so many seconds."""
    steps = {name: make(load) for name, make in PEERS.items()}
    sizes, times = {}, {name: [] for name in steps}
    for name, step in steps.items():
        losses = [step() for _ in range(50)]
        print(f"{load.name}: {name}: loss {losses[0]:.2f}, then {losses[-1]:.2f}", file=sys.stderr)
        start = time.perf_counter()
        step()
        sizes[name] = max(3, int(seconds / (time.perf_counter() - start)))
    for _ in range(blocks):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(sizes[name]):
                step()
            times[name].append((time.perf_counter() - start) / sizes[name])
    return {name: 1e6 * statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=9, help="of each peer")
    parser.add_argument("--seconds", type=float, default=0.5, help="a block's length, about")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    args = parser.parse_args()

    torch.set_flush_denormal(True)
    pyro.enable_validation(False)
    print(f"{machine()}; medians of {args.blocks} blocks, microseconds per step\n")
    print("| load |", " | ".join(PEERS), "|\n|---|" + "---|" * len(PEERS))
    results = {}
    for load in LOADS:
        found = results[load.name] = measure(load, args.blocks, args.seconds)
        print(f"| {load.name} |", " | ".join(f"{found[name]:.0f}" for name in PEERS), "|", flush=True)
    print("\nours, compiled, as a fraction of the others:\n")
    for load, found in results.items():
        print(f"| {load} |", " | ".join(f"{found['ppvae, compiled'] / found[name]:.2f}" for name in PEERS), "|")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "microseconds": results}, indent=2))


if __name__ == "__main__":
    main()
