"""log p(x) of a GAN with noise added, beside that of a VAE, at equal sigma.

    python benchmarks/noisy_gan.py

Trains both on handwritten digits, with decoders alike, and takes each for `z ~ N(0, I)`, `x ~ N(G(z), sigma^2 I)`.
Then prints log p(x) of training and of test digits, by annealed importance sampling from the prior, and for digits
drawn from the model itself the bounds on both sides (BDMC), whose distance says how accurate AIS is. Wu et al. 2017
have, on MNIST with 50 latents, 991 +- 6 nats for the VAE and 627 +- 9 for the GAN.
"""

import argparse
import time

import torch
from torch import Tensor, nn

import ppvae
from ppvae.models import GAN, VAE, DiagonalNormal, Gaussian, NoisyGenerator, StandardNormal

PIXELS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="of training of each")
    parser.add_argument("--latents", type=int, default=10)
    parser.add_argument("--sigma", type=float, default=0.1, help="in units of white")
    parser.add_argument("--points", type=int, default=10, help="digits to measure, of each kind")
    parser.add_argument("--temperatures", type=int, default=300)
    parser.add_argument("--chains", type=int, default=16, help="for each digit")
    args = parser.parse_args()

    digits = ppvae.datasets.load("digits")
    gan = GAN(decoder(args.latents), ppvae.networks.mlp(PIXELS, [128, 128], 1, nn.LeakyReLU), args.latents)
    encoder = DiagonalNormal(ppvae.networks.mlp(PIXELS, [128, 128], 2 * args.latents))
    vae = VAE(StandardNormal(args.latents), Gaussian(decoder(args.latents), args.sigma), encoder)
    options = {"steps": args.steps, "schedule": lambda done: 0.1**done, "seed": 0, "progress": False}
    groups = ppvae.ParameterGroups({"critic": 2.0}, settings={"betas": (0.5, 0.9)})
    ppvae.fit(gan, digits.train, ppvae.AdversarialLoss(), lr=1e-3, optimizer=groups, **options)
    ppvae.fit(vae, digits.train, lr=3e-3, **options)

    annealing = ppvae.AIS(args.chains, args.temperatures, "prior", num_leapfrog=10)
    print(
        f"sigma {args.sigma}, {args.temperatures} temperatures, {args.chains} chains, {args.points} digits of each kind"
    )
    heads = "".join(f"{head:>18}" for head in ("training", "test", "own, lower", "own, upper"))
    print(f"{'nats per digit':<14}{heads}{'width':>15}{'seconds':>9}")
    for name, generator in (("VAE", vae.likelihood.network), ("GAN", gan.generator)):
        start = time.perf_counter()
        torch.manual_seed(0)
        noisy = NoisyGenerator(GAN(generator, gan.critic, args.latents), args.sigma)
        cells = [log_p(noisy, x[: args.points], annealing) for x in (digits.train, digits.test)]
        own = noisy.sample(args.points)
        found = ppvae.log_evidence(noisy, own, "bdmc", annealing=annealing, seed=0, progress=False).certificate
        cells += [f"{m.estimate:.1f} +- {m.std_error:.1f}" for m in (found.lower.mean(), found.upper.mean())]
        width = found.width.mean()
        cells.append(f"{width.estimate:.2f} +- {width.std_error:.2f}")
        line = f"{name:<14}" + "".join(f"{cell:>18}" for cell in cells[:4]) + f"{cells[4]:>15}"
        print(f"{line}{time.perf_counter() - start:>9.0f}", flush=True)


def decoder(num_latents: int) -> nn.Module:
    """The same for both."""
    torch.manual_seed(0)
    return nn.Sequential(ppvae.networks.mlp(num_latents, [128, 128], PIXELS, nn.LeakyReLU), nn.Sigmoid())


def log_p(pair: ppvae.Pair, x: Tensor, annealing: ppvae.AIS) -> str:
    """By AIS, in nats, with its standard error over the data points."""
    found = ppvae.log_evidence(pair, x, "ais", annealing=annealing, seed=0, progress=False).mean()
    return f"{found.estimate:.1f} +- {found.std_error:.1f}"


if __name__ == "__main__":
    main()
