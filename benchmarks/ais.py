"""Annealed importance sampling: seconds, and microseconds a gradient, ours against JAX and torch by hand.

    pip install jax && python benchmarks/ais.py [--points 50] [--chains 16] [--temperatures 500]

A VAE 784-200-200-50 with tanh and Bernoulli likelihood; all have the same weights and digits (random ones). By hand the
chains take a linear schedule and one step size, which are given; ours find theirs first, and the gradients of that
warm-up are counted with the others. In JAX all is one compiled program. "first" is the first call, compiling included.
A gradient is that of all chains of all digits, once.
"""

import argparse
import math
import time
from collections.abc import Callable

import torch
from evidence import in_jax_layers, jax_network, linears
from machine import machine
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

import ppvae
from ppvae.inference.evidence.annealed_importance import AIS
from ppvae.models import VAE

STEP = 0.1
"""Of the leapfrog steps by hand, in units of the guide's scale."""

Run = Callable[[], float]
"""Anneals, and returns the mean estimate."""


def by_ppvae(pair: VAE, x: Tensor, settings: AIS) -> Run:
    return lambda: ppvae.log_evidence(pair, x, "ais", annealing=settings, progress=False).estimate.mean().item()


def in_torch(pair: VAE, x: Tensor, settings: AIS) -> Run:
    """As one writes it: a loop over temperatures and leapfrog steps."""
    encoder, decoder = pair.posterior.network, pair.likelihood.network
    loc, scale = encoder(x).detach().chunk(2, -1)
    scale = softplus(scale)
    shape = (settings.num_chains, *loc.shape)

    def parts(z: Tensor) -> tuple[Tensor, Tensor]:
        start = -(((z - loc) / scale).square() / 2 + scale.log()).sum(-1)
        out = decoder(z)
        fit = -binary_cross_entropy_with_logits(out, x.expand(out.shape), reduction="none").sum(-1)
        return start, fit - z.square().sum(-1) / 2

    def density(z: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
        z = z.detach().requires_grad_()
        start, joint = parts(z)
        value = (1 - beta) * start + beta * joint
        (gradient,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), gradient, (joint - start).detach()

    def run() -> float:
        z = loc + scale * torch.randn(shape)
        log_w, before = torch.zeros(shape[:-1]), 0.0
        ratio = density(z, 0.0)[2]
        for t in range(1, settings.num_temperatures + 1):
            beta = t / settings.num_temperatures
            log_w += (beta - before) * ratio
            before = beta
            p = torch.randn(shape)
            value, gradient, ratio = density(z, beta)
            energy, moved, q = value - p.square().sum(-1) / 2, z, p
            for _ in range(settings.num_leapfrog):
                q = q + STEP / 2 * scale * gradient
                moved = moved + STEP * scale * q
                new, gradient, new_ratio = density(moved, beta)
                q = q + STEP / 2 * scale * gradient
            accepted = torch.rand(shape[:-1]).log() < new - q.square().sum(-1) / 2 - energy
            z = torch.where(accepted[..., None], moved, z)
            ratio = torch.where(accepted, new_ratio, ratio)
        return (log_w.logsumexp(0) - math.log(settings.num_chains)).mean().item()

    return run


def in_jax(pair: VAE, x: Tensor, settings: AIS) -> Run:
    """The same in JAX, all temperatures as one `lax.scan`."""
    import jax
    import jax.numpy as jnp

    encoder, decoder = in_jax_layers(linears(pair.posterior)), in_jax_layers(linears(pair.likelihood))
    data, T = jnp.asarray(x.numpy()), settings.num_temperatures

    def whole(parameters, key, data):
        encoder, decoder = parameters
        loc, scale = jnp.split(jax_network(encoder, data), 2, -1)
        scale = jax.nn.softplus(scale)
        shape = (settings.num_chains, *loc.shape)

        def tempered(z, beta):
            start = -(jnp.square((z - loc) / scale) / 2 + jnp.log(scale)).sum(-1)
            out = jax_network(decoder, z)
            joint = (data * out - jax.nn.softplus(out)).sum(-1) - jnp.square(z).sum(-1) / 2
            value = (1 - beta) * start + beta * joint
            return value.sum(), (value, joint - start)

        gradient_of = jax.value_and_grad(tempered, has_aux=True)

        def transition(state, t):
            z, ratio, log_w, key = state
            key, one, two = jax.random.split(key, 3)
            beta = t / T
            log_w = log_w + ratio / T
            p = jax.random.normal(one, shape)
            (_, (value, _)), gradient = gradient_of(z, beta)

            def leapfrog(_, moving):
                z, q, gradient, *_ = moving
                q = q + STEP / 2 * scale * gradient
                z = z + STEP * scale * q
                (_, (value, ratio)), gradient = gradient_of(z, beta)
                return z, q + STEP / 2 * scale * gradient, gradient, value, ratio

            start = (z, p, gradient, value, ratio)
            moved, q, _, new, new_ratio = jax.lax.fori_loop(0, settings.num_leapfrog, leapfrog, start)
            gain = new - jnp.square(q).sum(-1) / 2 - value + jnp.square(p).sum(-1) / 2
            accepted = jnp.log(jax.random.uniform(two, shape[:-1])) < gain
            z, ratio = jnp.where(accepted[..., None], moved, z), jnp.where(accepted, new_ratio, ratio)
            return (z, ratio, log_w, key), None

        key, own = jax.random.split(key)
        z = loc + scale * jax.random.normal(own, shape)
        ratio = tempered(z, 0.0)[1][1]
        state = (z, ratio, jnp.zeros(shape[:-1]), key)
        (_, _, log_w, _), _ = jax.lax.scan(transition, state, jnp.arange(1, T + 1))
        return (jax.nn.logsumexp(log_w, axis=0) - math.log(settings.num_chains)).mean()

    compiled = jax.jit(whole)
    return lambda: float(compiled((encoder, decoder), jax.random.PRNGKey(0), data))


def gradients(name: str, settings: AIS) -> int:
    """How many each chain takes."""
    if name == "ppvae":
        return settings.num_leapfrog * settings.num_transitions
    return (settings.num_leapfrog + 1) * settings.num_temperatures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50, help="digits")
    parser.add_argument("--chains", type=int, default=16, help="for each of them")
    parser.add_argument("--temperatures", type=int, default=500)
    parser.add_argument("--blocks", type=int, default=3, help="of each peer, in turns, after the first call")
    args = parser.parse_args()

    torch.manual_seed(0)
    pair, x = VAE.mlp(784, 50, [200, 200]).eval(), torch.bernoulli(torch.full((args.points, 784), 0.2))
    settings = AIS(num_chains=args.chains, num_temperatures=args.temperatures)
    runs = {
        name: make(pair, x, settings)
        for name, make in (("ppvae", by_ppvae), ("JAX, by hand", in_jax), ("torch, by hand", in_torch))
    }
    print(f"{machine()}\n\n| | nats | first, s | later, s | microseconds a gradient |\n|---|---|---|---|---|")
    taken: dict[str, list[float]] = {name: [] for name in runs}
    found = {}
    for _ in range(1 + args.blocks):
        for name, run in runs.items():
            start = time.perf_counter()
            found[name] = run()
            taken[name].append(time.perf_counter() - start)
    for name, (first, *later) in taken.items():
        seconds = sorted(later)[len(later) // 2]
        each = 1e6 * seconds / gradients(name, settings)
        print(f"| {name} | {found[name]:.2f} | {first:.1f} | {seconds:.1f} | {each:.0f} |")


if __name__ == "__main__":
    main()
