"""The time of one training step: ours against hand-written torch, Pyro and NumPyro, in turns, in one run.

    pip install numpyro && python benchmarks/svi_step.py                        # two CPU cores, ten minutes
    pip install "jax[cuda12]" numpyro && python benchmarks/svi_step.py --device cuda      # not run yet

The loads are those of `loads.py`; Adam at 1e-3. Each peer takes blocks of steps in turn with the others; printed are
medians over blocks of the time per step, in microseconds, as a Markdown table. Denormals are flushed for all torch
peers. The losses of each peer's first and fiftieth step are printed, that they can be seen to do the same (but Pyro's
and NumPyro's IWAE, whose weights are joint over the data points).

`ppvae.fit` is the whole of training, minibatches drawn from shuffled data included: its blocks are epochs, and the
others take theirs in its callback. All others take steps on one fixed batch, NumPyro's scan those of a block in one
call. On a GPU, "CUDA graph, by hand" records a whole step, compiled loss, gradients and update, and repeats it; JAX
uses the GPU if its own build does, and Pyro is left out, as the loads make its parameters on the CPU.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from loads import LOADS, HierarchyLoad, MixtureLoad, VAELoad
from machine import machine

import ppvae
from ppvae.inference.compiling.cuda_graph import recorded
from ppvae.inference.training.compiled_step import CompiledStep
from ppvae.inference.training.update import Update

Load = VAELoad | MixtureLoad | HierarchyLoad


DEVICE = torch.device("cpu")
"""That of all torch peers; `--device` sets it."""


def torch_step(load: Load, compile: bool) -> Callable[[], object]:
    loss = load.by_hand().to(DEVICE)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3, fused=True)
    run, x = torch.compile(loss) if compile else loss, load.x.to(DEVICE)

    def step():
        value = run(x)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value.item()

    return step


def whole_step_graph(load: Load) -> Callable[[int], object]:
    loss, x = load.by_hand().to(DEVICE), load.x.to(DEVICE)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3, fused=True, capturable=True)
    run = torch.compile(loss)

    def step() -> torch.Tensor:
        value = run(x)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        return value.detach()

    replay, (value,) = recorded(lambda: [step()], step, DEVICE)

    def steps(num: int) -> float:
        for _ in range(num):
            replay()
        return value.item()

    return steps


def ppvae_step(load: Load, compile: bool) -> Callable[[], object]:
    x, objective = load.x.to(DEVICE), load.objective
    pair = ppvae.Pair.of(*load.pyro(), example=load.x).to(DEVICE)
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


def numpyro_update(load: Load) -> tuple[Any, Any, Any]:
    """The function that takes a step, the state before the first, and the batch."""
    import jax
    import jax.numpy as jnp
    import numpyro

    model, guide, elbo = load.numpyro()
    svi, x = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(1e-3), elbo), jnp.asarray(load.x.numpy())
    return svi.update, svi.init(jax.random.PRNGKey(0), x), x


def numpyro_step(load: Load) -> Callable[[], object]:
    import jax

    update, state, x = numpyro_update(load)
    update = jax.jit(update, donate_argnums=0)

    def step():
        nonlocal state
        state, loss = update(state, x)
        return float(loss) / len(x)

    return step


def numpyro_scan(load: Load) -> Callable[[int], object]:
    import jax

    update, state, x = numpyro_update(load)
    run = jax.jit(
        lambda state, num: jax.lax.scan(lambda state, _: update(state, x), state, None, num),
        static_argnums=1,
        donate_argnums=0,
    )

    def steps(num: int) -> float:
        nonlocal state
        state, losses = run(state, num)
        return float(losses[-1]) / len(x)

    return steps


def repeated(step: Callable[[], object]) -> Callable[[int], object]:
    return lambda num: [step() for _ in range(num)][-1]


FIT = "ppvae.fit"
PEERS: dict[str, Callable[[Load], Callable[[int], object]]] = {
    "ppvae, compiled": lambda load: repeated(ppvae_step(load, True)),
    "ppvae, eager": lambda load: repeated(ppvae_step(load, False)),
    "torch, by hand": lambda load: repeated(torch_step(load, False)),
    "torch.compile, by hand": lambda load: repeated(torch_step(load, True)),
    "NumPyro, jit": lambda load: repeated(numpyro_step(load)),
    "NumPyro, scan": numpyro_scan,
}
ON_A_CPU = {"Pyro": lambda load: repeated(pyro_step(load))}
ON_A_GPU = {"CUDA graph, by hand": whole_step_graph}


def peers_here() -> dict[str, Callable[[Load], Callable[[int], object]]]:
    return PEERS | (ON_A_GPU if DEVICE.type == "cuda" else ON_A_CPU)


def timed(steps: Callable[[int], object], num: int) -> float:
    """Seconds a step, over so many."""
    start = time.perf_counter()
    steps(num)
    return (time.perf_counter() - start) / num


def measure(load: Load, blocks: int, seconds: float) -> dict[str, float]:
    """Median microseconds per step of each way to train; a block lasts about so many seconds."""
    peers, sizes = {name: make(load) for name, make in peers_here().items()}, {}
    for name, steps in peers.items():
        first, fiftieth = steps(1), [steps(1) for _ in range(49)][-1]
        print(f"{load.name}: {name}: loss {first:.2f}, then {fiftieth:.2f}", file=sys.stderr)
        sizes[name] = max(3, int(seconds / timed(steps, 10)))
        steps(sizes[name])  # a scan of another length is compiled anew
    times = {name: [] for name in [FIT, *peers]}
    start = math.nan

    def take_turns(_: ppvae.Fit) -> None:
        nonlocal start
        times[FIT].append((time.perf_counter() - start) / num)
        for name, steps in peers.items():
            times[name].append(timed(steps, sizes[name]))
        start = time.perf_counter()

    pair, num = ppvae.Pair.of(*load.pyro(), example=load.x), sizes["ppvae, compiled"]
    data = load.x.repeat(num, 1)
    settings = {"batch_size": len(load.x), "lr": 1e-3, "compile": True, "progress": False, "device": DEVICE}
    ppvae.fit(pair, data, load.objective, epochs=1 + blocks, callbacks=[take_turns], **settings)
    return {name: 1e6 * statistics.median(taken[1:]) for name, taken in times.items()}  # the first compiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=9, help="of each peer")
    parser.add_argument("--seconds", type=float, default=0.5, help="a block's length, about")
    parser.add_argument("--device", default="cpu", help="of the torch peers, such as cuda")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    args = parser.parse_args()

    global DEVICE
    DEVICE = torch.device(args.device)
    names = [FIT, *peers_here()]
    torch.set_flush_denormal(True)
    pyro.enable_validation(False)
    print(f"{machine()}; medians of {args.blocks} blocks, microseconds per step\n")
    print("| load |", " | ".join(names), "|\n|---|" + "---|" * len(names))
    results = {}
    for load in LOADS:
        found = results[load.name] = measure(load, args.blocks, args.seconds)
        print(f"| {load.name} |", " | ".join(f"{found[name]:.0f}" for name in names), "|", flush=True)
    print("\n`ppvae.fit` as a fraction of the others:\n")
    for load, found in results.items():
        print(f"| {load} |", " | ".join(f"{found[FIT] / found[name]:.2f}" for name in names), "|")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "microseconds": results}, indent=2))


if __name__ == "__main__":
    main()
