"""The reference training: a 784-200-200-50 VAE on dynamically binarized MNIST, 100 epochs, and its evidence.

    PPVAE_DATA=... python benchmarks/mnist_vae.py

Adam 1e-3 decayed linearly to 1e-4, batch 100, tanh, output bias from the data mean, all 60,000 training digits. Prints
the negative log likelihood (IWAE-5000) and -ELBO on the first 1000 test digits, with standard errors, and the seconds
each part took.
"""

import argparse
import time

import torch

import ppvae
from ppvae.models import VAE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=100, help="times through the training data")
    parser.add_argument("--particles", type=int, default=5000, help="K of the evidence")
    parser.add_argument("--device", default="cpu", help="where to train, such as cuda")
    args = parser.parse_args()

    digits = ppvae.datasets.load("mnist", binarize="dynamic")
    data = torch.cat([digits.train, digits.validation])
    torch.manual_seed(0)
    pair = VAE.mlp(784, 50, hidden=[200, 200]).init_from(data)
    run = ppvae.fit(
        pair,
        data,
        epochs=args.epochs,
        batch_size=100,
        lr=1e-3,
        schedule=lambda done: 1 - 0.9 * done,
        transform=digits.transform,
        device=args.device,
    )
    print(run)
    start = time.perf_counter()
    gap = ppvae.gap(
        pair, digits.test[:1000], ppvae.Effort("iwae", args.particles, num_samples=1000, ascent=None), seed=0
    )
    evidence, elbo = gap.log_evidence.mean(), gap.elbo.mean()
    print(f"training       {run.seconds:8.1f} s, {1000 * run.seconds / run.steps:.3f} ms per step")
    print(f"measurement    {time.perf_counter() - start:8.1f} s, K = {args.particles}")
    for name, mean in (("NLL", evidence), ("-ELBO", elbo)):
        print(f"{name:<15}{-mean.estimate:8.3f} +- {mean.std_error:.3f} (Monte Carlo {mean.monte_carlo_error:.3f})")
    print(f"gap            {gap.mean().estimate:8.3f}; k-hat > 0.7 at {(gap.log_evidence.khat > 0.7).sum()} digits")


if __name__ == "__main__":
    main()
