"""Three claims of the lectures, measured on handwritten digits: EM, sampling from the prior, and re-encoding.

    python benchmarks/lectures.py

Prints a table for each, in nats per data point.
"""

import argparse
import math

import torch

import ppvae
from ppvae.models import VAE, GaussianMixture


def em(held_out: int) -> None:
    """Each E-step closes the gap, each M-step raises the bound, so the likelihood cannot fall."""
    digits = ppvae.datasets.load("digits", dequantize=True)
    torch.manual_seed(0)
    x, y = digits.transform(digits.train).double(), digits.test[:held_out].double()
    mixture = GaussianMixture(30, 64, covariance="diagonal").double()
    history = torch.tensor(ppvae.fit_em(mixture, x, seed=0).history)
    steps = history.diff()
    gap = ppvae.log_evidence(mixture, y).estimate - ppvae.elbo(mixture, y, progress=False).estimate
    print("EM, 30 Gaussians on gray digits")
    print(f"  log p(x) from {history[0]:.3f} to {history[-1]:.3f} in {len(steps)} iterations")
    print(f"  iterations that went down {int((steps < 0).sum())}, smallest step up {steps.min():.1e}")
    print(f"  largest gap of a held-out digit {gap.abs().max():.1e}\n")


def prior(held_out: int, epochs: int) -> None:
    """log p(x) by the mean likelihood of draws from the prior, against the guide's draws and annealing."""
    digits = ppvae.datasets.load("digits", dequantize=True)
    torch.manual_seed(0)
    pair = VAE.mlp(64, 10, [200], "gaussian").init_from(digits.train)
    ppvae.fit(pair, digits.train, transform=digits.transform, epochs=epochs, lr=2e-3, progress=False)
    x = digits.test[:held_out]
    terms = ppvae.elbo_terms(pair, x, seed=0, progress=False)
    found = ppvae.log_evidence(pair, x, "ais", seed=0, progress=False)
    print(f"Draws from the prior, a Gaussian VAE on gray digits; KL of z {terms.latents['z'].kl.mean().estimate:.2f}")
    print(f"  annealed importance sampling     log p(x) {found.mean().estimate:8.2f}")
    guide = ppvae.log_evidence(pair, x, "iwae", 1000, seed=0, progress=False)
    print(f"  1,000 draws from the guide       log p(x) {guide.mean().estimate:8.2f}")
    for K in (1000, 10_000, 100_000):
        print(f"  {K:7,} draws from the prior     log p(x) {log_mean_likelihood(pair, x, K).mean():8.2f}")
    print()


@torch.no_grad()
def log_mean_likelihood(pair: VAE, x: torch.Tensor, K: int) -> torch.Tensor:
    """log (1/K) sum_k p(x | z_k), z_k ~ p(z), `[N]`."""
    at_once = min(K, 10_000)
    sums = [
        pair.likelihood(pair.prior().sample((at_once, 1))).log_prob(x).double().logsumexp(0)
        for _ in range(K // at_once)
    ]
    return torch.stack(sums).logsumexp(0) - math.log(K)


@torch.no_grad()
def reencoding(epochs: int, num: int = 500) -> None:
    """Samples passed through encoder and decoder again and again."""
    digits = ppvae.datasets.load("digits", binarize="dynamic")
    torch.manual_seed(0)
    pair = VAE.mlp(64, 10, [200]).init_from(digits.train)
    ppvae.fit(pair, digits.train, transform=digits.transform, epochs=epochs, lr=2e-3, progress=False)
    torch.manual_seed(1)
    z = pair.prior().sample((num,))
    print("Samples re-encoded, a VAE on binarized digits: the entropy of p(x | z), and log p(x) of a draw of it")
    for rounds in range(6):
        likelihood = pair.likelihood(z)
        p = likelihood.mean
        x = torch.bernoulli(p)
        entropy = torch.distributions.Bernoulli(p).entropy().sum(-1)
        found = ppvae.log_evidence(pair, x, "iwae", seed=0, progress=False).mean()
        print(
            f"  {rounds} times: entropy {entropy.mean():6.2f} +- {entropy.std() / num**0.5:.2f}"
            f"   log p(x) {found.estimate:7.2f} +- {found.std_error:.2f}"
        )
        z = pair.posterior(x).sample()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--held-out", type=int, default=50, help="digits that are measured")
    parser.add_argument("--epochs", type=int, default=60, help="passes through the data for each VAE")
    args = parser.parse_args()
    em(args.held_out)
    prior(args.held_out, args.epochs)
    reencoding(args.epochs)


if __name__ == "__main__":
    main()
