"""Training the reference VAE on MNIST end to end: `ppvae.fit` against a loop written by hand around torch.compile.

    PPVAE_DATA=... python benchmarks/mnist_training.py

784-200-200-50, tanh, ELBO with analytic KL, dynamic binarization, batch 100, Adam 1e-3 decayed linearly to 1e-4, all
60,000 training digits. The same initial networks; compiling is counted. Prints the wall time of both, the negative log
likelihood (IWAE) of 1000 test digits after each, and where the time of `fit` goes.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import torch
import torch._inductor  # before the clock starts: whoever came first would pay for it
from loads import LOADS
from machine import machine
from svi_step import ppvae_step
from torch import Tensor

import ppvae
from ppvae.models import VAE
from ppvae.models.parts.conditionals import DiagonalNormal
from ppvae.models.parts.likelihoods import Bernoulli
from ppvae.models.parts.priors import StandardNormal

LOAD, LR, LAST_LR = LOADS[0], 1e-3, 1e-4


def new_pair(data: Tensor) -> VAE:
    encoder, decoder = LOAD.networks()
    return VAE(StandardNormal(LOAD.latents), Bernoulli(decoder), DiagonalNormal(encoder)).init_from(data)


def by_ppvae(data: Tensor, transform: Callable[[Tensor], Tensor], epochs: int) -> VAE:
    pair = new_pair(data)
    ppvae.fit(
        pair,
        data,
        epochs=epochs,
        batch_size=LOAD.batch,
        lr=LR,
        schedule=lambda done: 1 + (LAST_LR / LR - 1) * done,
        transform=transform,
        compile=True,
        progress=False,
    )
    return pair


def by_hand(data: Tensor, epochs: int) -> VAE:
    pair, loss = new_pair(data), LOAD.by_hand()
    loss.encoder, loss.decoder = pair.posterior.network, pair.likelihood.network
    run = torch.compile(loss)
    optimizer = torch.optim.Adam(loss.parameters(), lr=LR, fused=True)
    num_steps = epochs * len(data) // LOAD.batch
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, LAST_LR / LR, num_steps)
    torch.set_flush_denormal(True)
    for _ in range(epochs):
        for index in torch.randperm(len(data)).split(LOAD.batch):
            run(torch.bernoulli(data[index])).backward()
            optimizer.step()
            optimizer.zero_grad()
            decay.step()
    torch.set_flush_denormal(False)
    return pair


def parts_of_a_step(data: Tensor, transform: Callable[[Tensor], Tensor], total: float) -> dict[str, float]:
    """Milliseconds: of the program, of selecting and binarizing its batch, and the rest."""
    pyro.enable_validation(False)
    torch.set_flush_denormal(True)
    index = torch.randperm(len(data))[: LOAD.batch]
    batch = data[index]
    parts = {
        "selecting the batch": lambda: data.index_select(0, index),
        "binarizing it": lambda: transform(batch),
        "the compiled step": ppvae_step(LOAD, True),
    }
    found = {}
    for name, part in parts.items():
        for _ in range(50):
            part()
        start = time.perf_counter()
        for _ in range(500):
            part()
        found[name] = 2 * (time.perf_counter() - start)
    return found | {"the rest: history, generators, signals": total - sum(found.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=100, help="times through the training data")
    parser.add_argument("--particles", type=int, default=1000, help="K of the evidence")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    args = parser.parse_args()

    digits = ppvae.datasets.load("mnist", binarize="dynamic")
    data, seconds, nll = torch.cat([digits.train, digits.validation]), {}, {}
    print(f"{machine()}; {args.epochs} epochs\n")
    print("| | seconds | NLL, nats | standard error |\n|---|---|---|---|")
    for name, train in {
        "ppvae": lambda: by_ppvae(data, digits.transform, args.epochs),
        "by hand, torch.compile": lambda: by_hand(data, args.epochs),
    }.items():
        start = time.perf_counter()
        pair = train()
        seconds[name] = time.perf_counter() - start
        test = digits.test[:1000]
        mean = ppvae.log_evidence(pair, test, "iwae", args.particles, seed=0, progress=False).mean()
        nll[name] = -mean.estimate, mean.std_error
        print(f"| {name} | {seconds[name]:.1f} | {nll[name][0]:.2f} | {nll[name][1]:.2f} |", flush=True)
    ours, theirs = seconds.values()
    print(f"\nfaster {theirs / ours:.2f}x\n")
    num_steps = args.epochs * len(data) // LOAD.batch
    parts = parts_of_a_step(data, digits.transform, 1000 * ours / num_steps)
    print("| a step of fit | ms | |\n|---|---|---|")
    for name, ms in parts.items():
        print(f"| {name} | {ms:.3f} | {100 * ms * num_steps / 1000 / ours:.0f}% |")
    if args.json:
        figures = {"machine": machine(), "seconds": seconds, "nll": nll, "milliseconds": parts}
        args.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
