"""How cost grows: time per training step, seconds of measuring, memory, and the time until anything happens.

    python benchmarks/growth.py --out results/growth

A VAE with a Bernoulli likelihood, trained by compiled steps. Each curve changes one of K (particles), N (batch), D
(features) and the number of hidden layers; its slope is that of log time on log size over the larger half. Prints
Markdown tables and draws the curves.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
from machine import in_new_process, machine

import ppvae
from ppvae.inference.training.compiled_step import CompiledStep
from ppvae.inference.training.update import Update
from ppvae.models import VAE

BASE = {"K": 8, "N": 64, "D": 256, "layers": 2}
CURVES = {"K": [1, 4, 16, 64, 256], "N": [16, 64, 256, 1024], "D": [64, 256, 1024, 4096], "layers": [1, 2, 4, 8]}


def milliseconds(K: int, N: int, D: int, layers: int) -> float:
    """The median time of a compiled step of IWAE(K)."""
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((N, D), 0.3))
    pair, objective = VAE.mlp(D, 20, [100] * layers), ppvae.IWAE(K)
    optimizer = torch.optim.Adam(pair.parameters(), lr=1e-3, fused=True)
    _, surrogate = objective(pair, x)
    surrogate.neg().backward()
    optimizer.step()
    optimizer.zero_grad()
    step = CompiledStep(pair, objective, Update(optimizer, dict(pair.named_parameters())), x)
    times = []
    for _ in range(60):
        start = time.perf_counter()
        step(x, None, 0, 1.0, [])
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[10:])


def slope(sizes: list[int], times: list[float]) -> float:
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(times[half:]), 1)[0])


def waits(blocks: int) -> dict[str, tuple[float, float]]:
    """Imports, and imports with a first step, in processes of their own, in turns; medians."""
    fit = (
        "import torch, ppvae; from ppvae.models import VAE; "
        "ppvae.fit(VAE.mlp(784, 50), torch.rand(500, 784).round(), batch_size=100, steps={}, compile={}, "
        "progress=False)"
    )
    codes = {
        "import pyro, arviz": "import pyro, arviz",
        "import ppvae": "import ppvae",
        "one eager step": fit.format(1, False),
        "ten compiled steps": fit.format(10, True),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in codes}
    for _ in range(blocks):
        for name, code in codes.items():
            found[name].append(in_new_process(code))
    return {
        name: (statistics.median(s for s, _ in pairs), statistics.median(m for _, m in pairs))
        for name, pairs in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=3, help="of processes that only import")
    parser.add_argument("--out", type=Path, default=Path("results/growth"), help="folder of the figure and the JSON")
    args = parser.parse_args()

    torch.set_flush_denormal(True)
    pyro.enable_validation(False)
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}; IWAE(K) on a VAE D-100-..-100-20; else {BASE}\n")
    print("| | sizes | ms per compiled step | slope |\n|---|---|---|---|")
    curves = {}
    for name, sizes in CURVES.items():
        times = curves[name] = [milliseconds(**BASE | {name: size}) for size in sizes]
        listed = ", ".join(f"{t:.2f}" for t in times)
        print(f"| {name} | {', '.join(map(str, sizes))} | {listed} | {slope(sizes, times):.2f} |", flush=True)
    found = waits(args.blocks)
    print("\n| a new process | seconds | largest resident set, MB |\n|---|---|---|")
    for name, (seconds, megabytes) in found.items():
        print(f"| {name} | {seconds:.2f} | {megabytes:.0f} |")
    imports = [found[name][0] for name in ("import ppvae", "import pyro, arviz")]
    print(f"\nimport ppvae takes {imports[0] / imports[1]:.2f} of importing pyro and arviz")
    figure, panels = plt.subplots(1, 4, figsize=(12, 3), sharey=True, layout="constrained")
    for axes, (name, times) in zip(panels, curves.items(), strict=True):
        axes.loglog(CURVES[name], times, "o-", color="black", base=2)
        axes.set_xlabel(name)
        axes.set_title(f"slope {slope(CURVES[name], times):.2f}")
    panels[0].set_ylabel("ms per step")
    figure.savefig(args.out / "growth.png", dpi=120)
    (args.out / "growth.json").write_text(
        json.dumps({"machine": machine(), "curves": curves, "waits": found}, indent=2)
    )


if __name__ == "__main__":
    main()
