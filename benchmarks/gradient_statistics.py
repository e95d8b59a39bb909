"""What the microscope costs: gradients and their statistics against as many training steps without the optimizer.

    PPVAE_DATA=... python benchmarks/gradient_statistics.py

IWAE-50 of a 784-200-200-50 VAE on 20 MNIST digits, eager against eager and compiled against compiled; blocks in turns,
medians. Compiling is counted on neither side.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import pyro
import torch
from tqdm import tqdm

import ppvae
from ppvae.inference.diagnostics.compiled_gradient import compiled_gradient
from ppvae.inference.diagnostics.repeated_gradients import RepeatedGradients
from ppvae.inference.runtime.isolation import denormals_flushed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="gradients in a block")
    parser.add_argument("--blocks", type=int, default=3, help="of each")
    args = parser.parse_args()

    digits = ppvae.datasets.load("mnist", binarize="dynamic")
    torch.manual_seed(0)
    pair = ppvae.models.VAE.mlp(784, 50, hidden=[200, 200])
    x, objective = digits.transform(digits.train[:20]), ppvae.IWAE(50)

    def eager_step() -> None:
        objective(pair, x)[1].neg().backward()
        pair.zero_grad()

    with pyro.validation_enabled(False):
        compiled_step = compiled_gradient(objective, pair, x, list(pair.parameters()))

    def steps(step: Callable[[], object]) -> float:
        start = time.perf_counter()
        with denormals_flushed(), pyro.validation_enabled(False):
            for _ in range(args.repeats):
                step()
        return time.perf_counter() - start

    groups = {"model": list(pair.likelihood.parameters()), "guide": list(pair.posterior.parameters())}
    with pyro.validation_enabled(False):
        benches = {compile: RepeatedGradients(pair, x, groups, 0, compile) for compile in (False, True)}
        observed = {compile: bench.prepare([objective]) for compile, bench in benches.items()}

    def microscope(compile: bool) -> float:
        start = time.perf_counter()
        with denormals_flushed(), pyro.validation_enabled(False), tqdm(disable=True) as bar:
            benches[compile].repeat(observed[compile], args.repeats, bar)
            observed[compile][0].gradients.statistics()
        return time.perf_counter() - start

    for name, step, compile in (("eager", eager_step, False), ("compiled", compiled_step, True)):
        pairs = [(steps(step), microscope(compile)) for _ in range(args.blocks)]
        without, with_statistics = (statistics.median(taken) for taken in zip(*pairs, strict=True))
        print(
            f"{name:<10}{args.repeats} steps without optimizer {without:6.2f} s, with statistics "
            f"{with_statistics:6.2f} s, ratio {with_statistics / without:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
