"""A deep convolutional hierarchy (NVAE) on dynamically binarized MNIST: training, and its evidence.

    PPVAE_DATA=... python benchmarks/nvae_mnist.py --device cuda      # as published: many GPU hours
    PPVAE_DATA=... python benchmarks/nvae_mnist.py --small            # two CPU cores, ten minutes

The settings are those of Vahdat & Kautz 2020 (arXiv:2007.03898) where both have them: 15 groups of 20 channels at two
scales, 400 epochs of all 60,000 training digits in batches of 200, Adamax at 0.01 with cosine decay, KL warm-up over
the first 30 % of steps with balancing, spectral regularization of 0.01. Here the scales are 14x14 and 7x7, there digits
are padded to 32x32 and the scales are 8x8 and 4x4. They report 78.01 nats. Prints parameters, time, memory, -ELBO and
NLL on held-out digits, binarized once.
"""

import argparse
import math
import resource
import time

import torch

import ppvae
from ppvae.models import ConvolutionalHVAE

SMALL = {"groups": [2, 2], "latents": 4, "channels": 12, "cells": 1, "epochs": 5, "digits": 6000, "particles": 100}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, nargs="+", default=[10, 5], help="latent groups per scale, finest first")
    parser.add_argument("--latents", type=int, default=20, help="channels of each latent image")
    parser.add_argument("--channels", type=int, default=32, help="channels of the feature maps")
    parser.add_argument("--cells", type=int, default=2, help="residual cells before each group")
    parser.add_argument("--epochs", type=int, default=400, help="times through the training digits")
    parser.add_argument("--digits", type=int, default=60_000, help="training digits, the first ones")
    parser.add_argument("--batch-size", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--spectral", type=float, default=1e-2, help="weight of the largest singular values")
    parser.add_argument("--particles", type=int, default=1000, help="K of the evidence")
    parser.add_argument("--held-out", type=int, default=1000, help="test digits to measure")
    parser.add_argument("--device", default="cpu", help="where to train and measure, such as cuda")
    parser.add_argument("--bfloat16", action="store_true", help="networks in bfloat16")
    parser.add_argument("--recompute", action="store_true", help="gradient checkpointing")
    parser.add_argument("--compile", action="store_true", help="the training step as one compiled program")
    parser.add_argument("--checkpoint", help="file to keep the training in, and to go on from")
    parser.add_argument("--small", action="store_true", help=f"other defaults: {SMALL}, 100 held-out digits")
    if parser.parse_known_args()[0].small:
        parser.set_defaults(**SMALL, held_out=100, batch_size=50)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    digits = ppvae.datasets.load("mnist", binarize="dynamic")
    data = torch.cat([digits.train, digits.validation])[: args.digits].reshape(-1, 1, 28, 28)
    held_out = digits.test[: args.held_out].reshape(-1, 1, 28, 28)
    torch.manual_seed(0)
    pair = ConvolutionalHVAE(
        (1, 28, 28),
        args.groups,
        args.latents,
        args.channels,
        args.cells,
        spectral_weight=args.spectral,
        recompute=args.recompute,
    ).init_from(data)
    print(f"parameters     {sum(p.numel() for p in pair.parameters()):10,d}")

    steps = args.epochs * math.ceil(len(data) / args.batch_size)
    run = ppvae.fit(
        pair,
        data,
        ppvae.ELBO(beta=ppvae.LinearWarmup(max(1, 3 * steps // 10)), balance=True),
        epochs=args.epochs,
        batch_size=args.batch_size,
        optimizer=torch.optim.Adamax,
        lr=args.lr,
        schedule=lambda done: 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2,
        transform=digits.transform,
        device=args.device,
        options=ppvae.StepOptions(autocast=torch.bfloat16 if args.bfloat16 else None),
        compile=args.compile,
        checkpoint=args.checkpoint,
        resume=args.checkpoint is not None,
    )
    print(f"training       {run.seconds:10.1f} s, {1000 * run.seconds / run.steps:.1f} ms per step")
    print(f"memory         {peak_memory(args.device) / 2**20:10.0f} MiB at most")

    start = time.perf_counter()
    measured = {
        "NLL": ppvae.log_evidence(pair, held_out, "iwae", num_particles=args.particles, seed=0),
        "-ELBO": ppvae.elbo(pair, held_out, seed=0),
    }
    print(f"measurement    {time.perf_counter() - start:10.1f} s, K = {args.particles}, {len(held_out)} digits")
    for name, record in measured.items():
        mean = record.mean()
        bits = ppvae.datasets.bits_per_dim(mean.estimate, digits.num_features)
        error = f"+- {mean.std_error:.2f} (Monte Carlo {mean.monte_carlo_error:.2f})"
        print(f"{name:<15}{-mean.estimate:10.2f} nats {error}, {bits:.4f} bits per dimension")


def peak_memory(device: str) -> int:
    """Bytes: what torch's allocator held on a GPU, what the process did on a CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
