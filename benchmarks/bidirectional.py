"""Guides of hierarchies that go both ways, beside those without: binarized 8x8 digits, trained alike.

    OMP_NUM_THREADS=1 python benchmarks/bidirectional.py

A Markov hierarchy of 10 and 8 latents with the residual guide, and with its flow (Kingma et al. 2016); a convolutional
hierarchy of three groups, and one whose lower two have latents that the guide draws on the way up (Maaløe et al.
2019). Prints parameters, seconds of training, and of held-out digits, binarized once, log p(x) by importance weights,
the share of digits for which these are reliable, the ELBO, and what each layer pays.
"""

import argparse
from collections.abc import Callable

import torch
from machine import machine

import ppvae
from ppvae.models import ConvolutionalHVAE, MarkovHVAE


def markov(posterior: str) -> MarkovHVAE:
    return MarkovHVAE.mlp(64, [10, 8], [64], posterior=posterior)


def convolutional(num_latents: int, num_bottom_up: int) -> ConvolutionalHVAE:
    return ConvolutionalHVAE((1, 8, 8), [2, 1], num_latents, channels=16, num_cells=1, num_bottom_up=num_bottom_up)


PAIRS: dict[str, Callable[[], ppvae.Pair]] = {
    "residual": lambda: markov("residual"),
    "iaf": lambda: markov("iaf"),
    "convolutional": lambda: convolutional(2, 0),
    "both ways": lambda: convolutional(1, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="of training, for each pair")
    parser.add_argument("--held-out", type=int, default=100, help="digits to measure")
    parser.add_argument("--particles", type=int, default=1000, help="K of the evidence")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"{machine()}\n{args.steps} steps; {args.held_out} held-out digits, nats per digit; +- Monte Carlo error")
    print(f"{'':<15}{'parameters':>10}{'train s':>9}{'log p(x)':>18}{'reliable':>10}{'ELBO':>18}  layers pay")
    for name, make in PAIRS.items():
        torch.manual_seed(args.seed)
        pair = make()
        flat = isinstance(pair, MarkovHVAE)
        digits = ppvae.datasets.load("digits", binarize="dynamic", images=not flat)
        run = ppvae.fit(
            pair.init_from(digits.train),
            digits.train,
            ppvae.ELBO(beta=ppvae.LinearWarmup(args.steps // 2)),
            transform=digits.transform,
            steps=args.steps,
            batch_size=100,
            lr=5e-3,
            schedule=lambda done: 1 - 0.99 * done,
            seed=args.seed,
            progress=False,
        )
        held_out = digits.test[: args.held_out]
        evidence = ppvae.log_evidence(pair, held_out, "iwae", args.particles, seed=0, progress=False)
        terms = ppvae.elbo_terms(pair, held_out, 200, seed=0, progress=False)
        paid = ", ".join(f"{site} {usage.kl.mean().estimate:.2f}" for site, usage in sorted(terms.latents.items()))
        size = sum(p.numel() for p in pair.parameters())
        log_p, elbo = (
            f"{mean.estimate:.2f} +- {mean.monte_carlo_error:.2f}" for mean in (evidence.mean(), terms.elbo.mean())
        )
        reliable = evidence.reliable.double().mean()
        print(f"{name:<15}{size:>10,}{run.seconds:>9.0f}{log_p:>18}{reliable:>10.0%}{elbo:>18}  {paid}", flush=True)


if __name__ == "__main__":
    main()
