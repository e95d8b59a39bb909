"""PixelCNN on binarized MNIST, after some minutes of training, beside the published figures.

    PPVAE_DATA=... python benchmarks/pixelcnn_mnist.py --steps 2000
    PPVAE_DATA=... python benchmarks/pixelcnn_mnist.py --steps 40000 --device cuda --compile --width 64

Published are 81.30 nats for PixelCNN (van den Oord et al. 2016), and 80.10 for Gated PixelCNN (Gulrajani et al. 2017),
on the static binarization of Larochelle & Murray.
Here training digits are binarized anew each time that they are seen, and test digits once, by a fixed seed, so figures
of the two are of different data. The network is small. Prints the exact NLL, with its standard error over test digits.
"""

import argparse
import math
import time

import torch
from machine import machine

import ppvae
from ppvae.models import AutoregressivePair, GatedPixelCNN, PixelCNN

NETWORKS = {"pixelcnn": PixelCNN, "gated": GatedPixelCNN}
PUBLISHED = {"pixelcnn": 81.30, "gated": 80.10}
WARM_UP = 0.1


def rise_and_fall(done: float) -> float:
    """The learning rate's share: up over the first tenth, then down along a cosine."""
    return min(done / WARM_UP, 1.0) * (1 + math.cos(math.pi * done)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="pixelcnn")
    parser.add_argument("--width", type=int, default=32, help="channels of the features")
    parser.add_argument("--layers", type=int, default=5, help="residual blocks, or layers")
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-2, help="at its highest, after a tenth of the steps")
    parser.add_argument("--held-out", type=int, default=10_000, help="test digits to measure")
    parser.add_argument("--device", default="cpu", help="where to train and measure, such as cuda")
    parser.add_argument("--compile", action="store_true", help="the training step as one compiled program")
    args = parser.parse_args()

    digits = ppvae.datasets.load("mnist", binarize="dynamic", images=True)
    data, held_out = torch.cat([digits.train, digits.validation]), digits.test[: args.held_out]
    torch.manual_seed(0)
    pair = AutoregressivePair(NETWORKS[args.network]((1, 28, 28), 2, args.width, args.layers))
    pair.init_from(digits.transform(data[:5000]))
    run = ppvae.fit(
        pair,
        data,
        steps=args.steps,
        batch_size=args.batch_size,
        lr=args.lr,
        schedule=rise_and_fall,
        transform=digits.transform,
        device=args.device,
        compile=args.compile,
        seed=0,
        progress=False,
    )
    start = time.perf_counter()
    evidence = ppvae.log_evidence(pair, held_out, "exact", progress=False).mean()
    seconds, size = time.perf_counter() - start, sum(p.numel() for p in pair.parameters())
    epochs = run.steps * args.batch_size / len(data)
    print(f"{machine()}\n{args.network}, width {args.width}, {args.layers} layers: {size:,} parameters")
    print(f"training       {run.seconds:8.1f} s, {run.steps} steps of {args.batch_size}, {epochs:.2f} epochs")
    print(f"measurement    {seconds:8.1f} s, {len(held_out)} test digits")
    print(f"NLL            {-evidence.estimate:8.2f} +- {evidence.std_error:.2f} nats, exact, dynamic binarization")
    print(f"{'published':<15}{PUBLISHED[args.network]:8.2f} nats, static binarization")


if __name__ == "__main__":
    main()
