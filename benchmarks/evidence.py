"""Particles per second of log p(x) by IWAE-5000: ours against hand-written torch, JAX and the matrix products alone.

    pip install jax && python benchmarks/evidence.py

A VAE 784-200-200-50 with tanh and Bernoulli likelihood; all peers have the same weights and digits (random ones: the
time does not depend on them), and take blocks in turn with the others. "Products" are those of the decoder alone, with
nothing done to their results: what no program of these layers can be faster than. Compiling is not counted. Memory is
that of a process that measures so many data points with so many particles.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import in_new_process, machine
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from ppvae.inference.compiling.repeated import COMPILE_AFTER, Repeated
from ppvae.inference.evidence import streamed
from ppvae.inference.runtime.chunks import evaluating, over_data
from ppvae.models import VAE

NUM_PARTICLES = 5000


def linears(network: torch.nn.Module) -> list[torch.nn.Linear]:
    return [m for m in network.modules() if isinstance(m, torch.nn.Linear)]


@torch.no_grad()
def by_hand(pair: VAE, x: Tensor, K: int) -> list[float]:
    """As one writes it in torch: a data point at a time."""
    encoder, decoder, found = pair.posterior.network, pair.likelihood.network, []
    for point in x:
        loc, scale = encoder(point).chunk(2, -1)
        scale = softplus(scale)
        eps = torch.randn(K, len(loc))
        z = loc + scale * eps
        out = decoder(z)
        log_lik = -binary_cross_entropy_with_logits(out, point.expand(out.shape), reduction="none").sum(-1)
        log_w = log_lik + (-z.square() / 2 + eps.square() / 2 + scale.log()).sum(-1)
        found.append(log_w.logsumexp(0).item() - math.log(K))
    return found


def in_jax_layers(layers: list[torch.nn.Linear]) -> list[tuple[Any, Any]]:
    """Their weights and biases as JAX's arrays."""
    import jax.numpy as jnp

    return [(jnp.asarray(m.weight.detach().numpy().T), jnp.asarray(m.bias.detach().numpy())) for m in layers]


def jax_network(weights: list[tuple[Any, Any]], h: Any) -> Any:
    """A network of tanh, of these layers."""
    import jax.numpy as jnp

    for W, b in weights[:-1]:
        h = jnp.tanh(h @ W + b)
    return h @ weights[-1][0] + weights[-1][1]


def in_jax(pair: VAE) -> Callable[[Tensor, int], list[float]]:
    """The same in JAX, compiled whole."""
    import jax
    import jax.numpy as jnp

    parameters = in_jax_layers(linears(pair.posterior)), in_jax_layers(linears(pair.likelihood))

    def evidence(parameters, key, x, K):
        encoder, decoder = parameters

        def of_point(key_and_point):
            key, point = key_and_point
            loc, scale = jnp.split(jax_network(encoder, point), 2, -1)
            scale = jax.nn.softplus(scale)
            eps = jax.random.normal(key, (K, len(loc)))
            z = loc + scale * eps
            out = jax_network(decoder, z)
            log_lik = (point * out - jax.nn.softplus(out)).sum(-1)
            log_w = log_lik + (-jnp.square(z) / 2 + jnp.square(eps) / 2 + jnp.log(scale)).sum(-1)
            return jax.nn.logsumexp(log_w) - math.log(K)

        return jax.lax.map(of_point, (jax.random.split(key, len(x)), x))

    compiled, key = jax.jit(evidence, static_argnums=3), jax.random.PRNGKey(0)
    return lambda x, K: compiled(parameters, key, jnp.asarray(x.numpy()), K).tolist()


@torch.no_grad()
def products(pair: VAE, x: Tensor, K: int) -> None:
    weights, z = [m.weight for m in linears(pair.likelihood)], torch.randn(K, 50)
    for _ in x:
        h = z
        for W in weights:
            h = h @ W.T


def by_ppvae(pair: VAE) -> Callable[[Tensor, int], list[float]]:
    """What `ppvae.log_evidence` runs, kept compiled from call to call."""
    measure = partial(streamed.log_mean_weight, Repeated(pair, streamed.log_weights))

    def run(x, K):
        with evaluating(pair, seed=None):
            return over_data(pair, x, K, measure, None)["estimate"].tolist()

    return run


def rates(pair: VAE, x: Tensor, blocks: int) -> dict[str, list[float]]:
    """Particles per second in each block."""
    runs = {
        "ppvae": by_ppvae(pair),
        "torch, by hand": partial(by_hand, pair),
        "JAX, jit": in_jax(pair),
        "products": partial(products, pair),
    }
    warm = x[:1].expand(COMPILE_AFTER + 10, -1)
    found = {name: run(warm if name == "ppvae" else x, NUM_PARTICLES)[-1:] for name, run in list(runs.items())[:3]}
    print("one estimate:", ", ".join(f"{name} {value:.2f}" for name, (value,) in found.items()), "nats\n")
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(blocks):
        for name, run in runs.items():
            start = time.perf_counter()
            run(x, NUM_PARTICLES)
            taken[name].append(len(x) * NUM_PARTICLES / (time.perf_counter() - start))
    return taken


def peak_memory(num_points: int, num_particles: int) -> float:
    """The largest resident set, in MB, of a process of its own that measures so much."""
    return in_new_process(
        "import torch, ppvae; from ppvae.models import VAE; torch.manual_seed(0); "
        f"x = torch.rand({num_points}, 784).round(); pair = VAE.mlp(784, 50, [200, 200]); "
        f"ppvae.log_evidence(pair, x, 'iwae', num_particles={num_particles}, progress=False)"
    )[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=7, help="of each peer")
    parser.add_argument("--points", type=int, default=100, help="data points in a block")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    args = parser.parse_args()

    torch.manual_seed(0)
    pair, x = VAE.mlp(784, 50, [200, 200]).eval(), torch.bernoulli(torch.full((args.points, 784), 0.2))
    print(machine())
    taken = rates(pair, x, args.blocks)
    medians = {name: statistics.median(found) for name, found in taken.items()}
    print("| | thousand particles per second | ppvae's rate over it |\n|---|---|---|")
    for name, rate in medians.items():
        print(f"| {name} | {rate / 1000:.0f} | {medians['ppvae'] / rate:.2f} |")
    memory = {f"N = {n}, K = {k}": peak_memory(n, k) for n, k in [(20, 5000), (200, 5000), (20, 50_000), (2, 500_000)]}
    print("\n| | largest resident set, MB |\n|---|---|")
    for name, megabytes in memory.items():
        print(f"| {name} | {megabytes:.0f} |")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "rates": taken, "megabytes": memory}, indent=2))


if __name__ == "__main__":
    main()
