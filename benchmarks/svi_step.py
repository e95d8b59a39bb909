"""The time of one training step: ours against hand-written torch, Pyro and NumPyro, in turns, in one run.

    pip install numpyro && python benchmarks/svi_step.py

A VAE of tanh networks with Bernoulli (784 features) or Gaussian (2 features, sigma 0.1) likelihood, Adam at 1e-3, one
fixed batch; ELBO with analytic KL, or IWAE. Each peer takes blocks of steps in turn with the others; printed are
medians over blocks of the time per step, in microseconds, as a Markdown table. Denormals are flushed for all torch
peers.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from machine import machine
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

import ppvae
from ppvae.inference.compiled_step import CompiledStep
from ppvae.inference.update import Update


@dataclass(frozen=True)
class Load:
    name: str
    features: int
    hidden: int
    latents: int
    batch: int
    particles: int

    @property
    def x(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        if self.features == 2:
            return torch.randn(self.batch, 2, generator=generator)
        return torch.bernoulli(torch.full((self.batch, self.features), 0.2), generator=generator)


LOADS = [
    Load("784-200-200-50, batch 100, K = 1", 784, 200, 50, 100, 1),
    Load("2-32-32-2, batch 64, K = 1", 2, 32, 2, 64, 1),
    Load("784-200-200-50, batch 20, IWAE K = 50", 784, 200, 50, 20, 50),
]
SIGMA = 0.1


def networks(load: Load) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder."""
    torch.manual_seed(0)
    hidden = [load.hidden, load.hidden]
    encoder = ppvae.networks.mlp(load.features, hidden, 2 * load.latents, nn.Tanh)
    return encoder, ppvae.networks.mlp(load.latents, hidden, load.features, nn.Tanh)


def pyro_functions(load: Load, encoder: nn.Module, decoder: nn.Module) -> tuple[Callable, Callable]:
    """Model and guide, as one writes them."""

    def likelihood(out):
        return dist.Bernoulli(logits=out) if load.features == 784 else dist.Normal(out, SIGMA)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(load.latents), 1.0).to_event(1))
            pyro.sample("x", likelihood(decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, softplus(scale)).to_event(1))

    return model, guide


class HandWritten(nn.Module):
    """The loss, as one writes it in torch."""

    def __init__(self, load: Load):
        super().__init__()
        self.load = load
        self.encoder, self.decoder = networks(load)

    def forward(self, x):
        loc, scale = self.encoder(x).chunk(2, -1)
        scale, K = softplus(scale), self.load.particles
        eps = torch.randn(K, *loc.shape)
        z = loc + scale * eps
        out = self.decoder(z)
        if self.load.features == 784:
            log_lik = -binary_cross_entropy_with_logits(out, x.expand(out.shape), reduction="none").sum(-1)
        else:
            log_lik = (-((x - out) / SIGMA).square() / 2 - math.log(SIGMA) - math.log(2 * math.pi) / 2).sum(-1)
        if K == 1:
            kl = ((loc.square() + scale.square() - 1) / 2 - scale.log()).sum(-1)
            return (kl - log_lik[0]).mean()
        log_w = log_lik + (-z.square() / 2 + eps.square() / 2 + scale.log()).sum(-1)
        return (math.log(K) - log_w.logsumexp(0)).mean()


def torch_step(load: Load, compile: bool) -> Callable[[], object]:
    loss = HandWritten(load)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3, fused=True)
    run, x = torch.compile(loss) if compile else loss, load.x

    def step():
        value = run(x)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value.item()

    return step


def ppvae_step(load: Load, compile: bool) -> Callable[[], object]:
    model, guide = pyro_functions(load, *networks(load))
    x = load.x
    pair = ppvae.Pair.of(model, guide, example=x)
    objective = ppvae.ELBO() if load.particles == 1 else ppvae.IWAE(load.particles)
    optimizer = torch.optim.Adam(pair.parameters(), lr=1e-3, fused=True)

    def eager():
        value, surrogate = objective(pair, x)
        surrogate.neg().backward()
        optimizer.step()
        optimizer.zero_grad()
        return value.mean().item()

    if not compile:
        return eager
    eager()
    compiled = CompiledStep(pair, objective, Update(optimizer, dict(pair.named_parameters())), x)
    return lambda: compiled(x, 0, 1.0, [])


def pyro_step(load: Load) -> Callable[[], object]:
    from pyro.infer import SVI, RenyiELBO, TraceMeanField_ELBO

    pyro.clear_param_store()
    elbo = TraceMeanField_ELBO() if load.particles == 1 else RenyiELBO(0, load.particles, vectorize_particles=True)
    x = load.x
    svi = SVI(*pyro_functions(load, *networks(load)), pyro.optim.Adam({"lr": 1e-3}), elbo)
    return lambda: svi.step(x)


def numpyro_step(load: Load) -> Callable[[], object]:
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as ndist
    from numpyro.infer import SVI, RenyiELBO, TraceMeanField_ELBO

    encoder, decoder = networks(load)

    def network(name, torch_network, h):
        layers = [m for m in torch_network if isinstance(m, nn.Linear)]
        for i, layer in enumerate(layers):
            W = numpyro.param(f"{name}.{i}.W", jnp.asarray(layer.weight.detach().numpy().T))
            b = numpyro.param(f"{name}.{i}.b", jnp.asarray(layer.bias.detach().numpy()))
            h = h @ W + b
            h = jnp.tanh(h) if i < len(layers) - 1 else h
        return h

    def model(x):
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", ndist.Normal(jnp.zeros(load.latents), 1.0).to_event(1))
            out = network("decoder", decoder, z)
            likelihood = ndist.Bernoulli(logits=out) if load.features == 784 else ndist.Normal(out, SIGMA)
            numpyro.sample("x", likelihood.to_event(1), obs=x)

    def guide(x):
        loc, scale = jnp.split(network("encoder", encoder, x), 2, -1)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", ndist.Normal(loc, jax.nn.softplus(scale)).to_event(1))

    elbo = TraceMeanField_ELBO() if load.particles == 1 else RenyiELBO(0, load.particles)
    svi, x = SVI(model, guide, numpyro.optim.Adam(1e-3), elbo), jnp.asarray(load.x.numpy())
    state = svi.init(jax.random.PRNGKey(0), x)
    update = jax.jit(svi.update, donate_argnums=0)

    def step():
        nonlocal state
        state, loss = update(state, x)
        return float(loss)

    return step


PEERS: dict[str, Callable[[Load], Callable[[], object]]] = {
    "ppvae, compiled": lambda load: ppvae_step(load, True),
    "ppvae, eager": lambda load: ppvae_step(load, False),
    "torch, by hand": lambda load: torch_step(load, False),
    "torch.compile, by hand": lambda load: torch_step(load, True),
    "NumPyro, jit": numpyro_step,
    "Pyro": pyro_step,
}


def measure(load: Load, blocks: int, seconds: float) -> dict[str, float]:
    """Median microseconds per step of each peer; a block lasts about so many seconds."""
    steps = {name: make(load) for name, make in PEERS.items()}
    sizes, times = {}, {name: [] for name in steps}
    for name, step in steps.items():
        step(), step()
        start = time.perf_counter()
        step()
        sizes[name] = max(3, int(seconds / (time.perf_counter() - start)))
    for _ in range(blocks):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(sizes[name]):
                step()
            times[name].append((time.perf_counter() - start) / sizes[name])
    return {name: 1e6 * statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=9, help="of each peer")
    parser.add_argument("--seconds", type=float, default=0.5, help="a block's length, about")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    args = parser.parse_args()

    torch.set_flush_denormal(True)
    pyro.enable_validation(False)
    print(f"{machine()}; medians of {args.blocks} blocks, microseconds per step\n")
    print("| load |", " | ".join(PEERS), "|\n|---|" + "---|" * len(PEERS))
    results = {}
    for load in LOADS:
        found = results[load.name] = measure(load, args.blocks, args.seconds)
        print(f"| {load.name} |", " | ".join(f"{found[name]:.0f}" for name in PEERS), "|", flush=True)
    print("\nours, compiled, as a fraction of the others:\n")
    for load, found in results.items():
        print(f"| {load} |", " | ".join(f"{found['ppvae, compiled'] / found[name]:.2f}" for name in PEERS), "|")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "microseconds": results}, indent=2))


if __name__ == "__main__":
    main()
