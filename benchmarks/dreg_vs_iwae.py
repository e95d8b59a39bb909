"""Does a better gradient train a better model? IWAE-50 against its doubly reparameterized gradient, on MNIST.

    PPVAE_DATA=... python benchmarks/dreg_vs_iwae.py

784-200-200-50, tanh, dynamic binarization, K = 50, batch 20, Adam 1e-3 decayed linearly to 1e-4; the same start, digits
and noise for both gradients, at each of the seeds. Prints log p(x) by IWAE-5000 on the first 1000 test digits, and the
paired difference with its standard error, over digits and over seeds.
"""

import argparse
import math

import torch

import ppvae
from ppvae.models import VAE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15_000, help="of training")
    parser.add_argument("--seeds", type=int, default=3, help="how many pairs of runs")
    parser.add_argument("--particles", type=int, default=5000, help="K of the evidence")
    parser.add_argument("--device", default="cpu", help="where to train, such as cuda")
    args = parser.parse_args()

    digits = ppvae.datasets.load("mnist", binarize="dynamic")
    data, test = torch.cat([digits.train, digits.validation]), digits.test[:1000]
    differences = []
    for seed in range(args.seeds):
        found = {}
        for gradient in ("reparameterized", "dreg"):
            torch.manual_seed(seed)
            pair = VAE.mlp(784, 50, hidden=[200, 200]).init_from(data)
            run = ppvae.fit(
                pair,
                data,
                ppvae.IWAE(50, gradient),
                steps=args.steps,
                batch_size=20,
                lr=1e-3,
                schedule=lambda done: 1 - 0.9 * done,
                transform=digits.transform,
                seed=seed,
                device=args.device,
                progress=False,
            )
            gap = ppvae.gap(
                pair, test, ppvae.Effort("iwae", args.particles, num_samples=100, ascent=None), seed=0, progress=False
            )
            found[gradient] = gap.log_evidence
            print(
                f"seed {seed} {gradient:<16} log p(x) {found[gradient].mean()}, gap {gap.mean().estimate:.3f}, "
                f"{run.seconds:.0f} s",
                flush=True,
            )
        difference = found["dreg"].estimate - found["reparameterized"].estimate
        differences.append(difference.mean().item())
        print(
            f"seed {seed} dreg - reparameterized {differences[-1]:+.3f} +- {difference.std() / len(test) ** 0.5:.3f} "
            "nats (over digits)",
            flush=True,
        )
    spread = torch.tensor(differences).std().item() / math.sqrt(args.seeds)
    print(f"mean over seeds {sum(differences) / args.seeds:+.3f} +- {spread:.3f} nats (over seeds)")


if __name__ == "__main__":
    main()
