"""What the training step is timed on: models as one writes them in torch, in Pyro (ours is the same code) and NumPyro.

Each load has `x`, `pyro()` (model and guide with parameters of their own), `objective` and `pyro_elbo` to train them
by, `by_hand()` (a module whose forward is the loss) and `numpyro()` (model, guide and bound).
"""

import math
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

import ppvae

SIGMA = 0.1


def bits(batch: int) -> Tensor:
    return torch.bernoulli(torch.full((batch, 784), 0.2), generator=torch.Generator().manual_seed(0))


def mlps(*sizes: tuple[int, list[int], int]) -> list[nn.Sequential]:
    """Networks of tanh with the same weights at each call."""
    torch.manual_seed(0)
    return [ppvae.networks.mlp(num_in, hidden, num_out, nn.Tanh) for num_in, hidden, num_out in sizes]


def numpyro_network(name: str, torch_network: nn.Module, h: Any) -> Any:
    """The same network, its weights as parameters."""
    import jax.numpy as jnp
    import numpyro

    layers = [m for m in torch_network.modules() if isinstance(m, nn.Linear)]
    for i, layer in enumerate(layers):
        W = numpyro.param(f"{name}.{i}.W", jnp.asarray(layer.weight.detach().numpy().T))
        b = numpyro.param(f"{name}.{i}.b", jnp.asarray(layer.bias.detach().numpy()))
        h = h @ W + b
        h = jnp.tanh(h) if i < len(layers) - 1 else h
    return h


@dataclass(frozen=True)
class VAELoad:
    """Bernoulli likelihood on 784 features, Gaussian with sigma 0.1 on others; ELBO with analytic KL, or IWAE."""

    name: str
    features: int
    hidden: int
    latents: int
    batch: int
    particles: int

    @property
    def x(self) -> Tensor:
        if self.features == 784:
            return bits(self.batch)
        return torch.randn(self.batch, self.features, generator=torch.Generator().manual_seed(0))

    @property
    def objective(self) -> Any:
        return ppvae.ELBO() if self.particles == 1 else ppvae.IWAE(self.particles)

    @property
    def pyro_elbo(self) -> Any:
        return TraceMeanField_ELBO() if self.particles == 1 else RenyiELBO(0, self.particles, vectorize_particles=True)

    def networks(self) -> list[nn.Sequential]:
        """Encoder and decoder."""
        hidden = [self.hidden, self.hidden]
        return mlps((self.features, hidden, 2 * self.latents), (self.latents, hidden, self.features))

    def pyro(self):
        encoder, decoder = self.networks()

        def model(x):
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(self.latents), 1.0).to_event(1))
                out = decoder(z)
                likelihood = dist.Bernoulli(logits=out) if self.features == 784 else dist.Normal(out, SIGMA)
                pyro.sample("x", likelihood.to_event(1), obs=x)

        def guide(x):
            pyro.module("encoder", encoder)
            with pyro.plate("data", len(x)):
                loc, scale = encoder(x).chunk(2, -1)
                pyro.sample("z", dist.Normal(loc, softplus(scale)).to_event(1))

        return model, guide

    def by_hand(self) -> nn.Module:
        return HandWrittenVAE(self)

    def numpyro(self):
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as ndist
        from numpyro.infer import RenyiELBO, TraceMeanField_ELBO

        encoder, decoder = self.networks()

        def model(x):
            with numpyro.plate("data", len(x)):
                z = numpyro.sample("z", ndist.Normal(jnp.zeros(self.latents), 1.0).to_event(1))
                out = numpyro_network("decoder", decoder, z)
                likelihood = ndist.Bernoulli(logits=out) if self.features == 784 else ndist.Normal(out, SIGMA)
                numpyro.sample("x", likelihood.to_event(1), obs=x)

        def guide(x):
            loc, scale = jnp.split(numpyro_network("encoder", encoder, x), 2, -1)
            with numpyro.plate("data", len(x)):
                numpyro.sample("z", ndist.Normal(loc, jax.nn.softplus(scale)).to_event(1))

        return model, guide, TraceMeanField_ELBO() if self.particles == 1 else RenyiELBO(0, self.particles)


class HandWrittenVAE(nn.Module):
    def __init__(self, load: VAELoad):
        super().__init__()
        self.load = load
        self.encoder, self.decoder = load.networks()

    def forward(self, x):
        loc, scale = self.encoder(x).chunk(2, -1)
        scale, K = softplus(scale), self.load.particles
        eps = torch.randn(K, *loc.shape, device=loc.device)
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


@dataclass(frozen=True)
class MixtureLoad:
    """A mixture of diagonal Gaussians, none narrower than 0.1, its component summed out."""

    name: str = "mixture, 32 components, 16 features, batch 256"
    components: int = 32
    features: int = 16
    batch: int = 256
    objective: Any = ppvae.ELBO()  # noqa: RUF009

    @property
    def x(self) -> Tensor:
        return 3 * torch.randn(self.batch, self.features, generator=torch.Generator().manual_seed(0))

    @property
    def pyro_elbo(self) -> Any:
        return TraceEnum_ELBO(max_plate_nesting=1)

    def start(self) -> dict[str, Tensor]:
        loc = 3 * torch.randn(self.components, self.features, generator=torch.Generator().manual_seed(1))
        return {"logits": torch.zeros(self.components), "loc": loc, "log_scale": torch.zeros_like(loc)}

    def pyro(self):
        start = self.start()

        @pyro.infer.config_enumerate
        def model(x):
            logits, loc, log_scale = (pyro.param(name, value) for name, value in start.items())
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Categorical(logits=logits))
                pyro.sample("x", dist.Normal(loc[c], SIGMA + log_scale[c].exp()).to_event(1), obs=x)

        return model, lambda x: None

    def by_hand(self) -> nn.Module:
        return HandWrittenMixture(self)

    def numpyro(self):
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as ndist
        from numpyro.infer import Trace_ELBO

        def model(x):
            logits, loc, log_scale = (numpyro.param(name, jnp.asarray(t.numpy())) for name, t in self.start().items())
            with numpyro.plate("data", len(x)):
                components = ndist.Normal(loc, SIGMA + jnp.exp(log_scale)).to_event(1)
                mixture = ndist.MixtureSameFamily(ndist.Categorical(logits=logits), components)
                numpyro.sample("x", mixture, obs=x)

        return model, lambda x: None, Trace_ELBO()


class HandWrittenMixture(nn.Module):
    def __init__(self, load: MixtureLoad):
        super().__init__()
        for name, value in load.start().items():
            setattr(self, name, nn.Parameter(value))

    def forward(self, x):
        scale = SIGMA + self.log_scale.exp()
        standard = (x[:, None] - self.loc) / scale
        log_p = (-standard.square() / 2 - scale.log() - math.log(2 * math.pi) / 2).sum(-1)
        return -(log_p + self.logits.log_softmax(-1)).logsumexp(-1).mean()


@dataclass(frozen=True)
class HierarchyLoad:
    """x <- z1 <- z2 <- z3, all Gaussian given networks of the one above, and a guide that runs upwards."""

    name: str = "hierarchy 784-(200)-32-(100)-16-(100)-8, batch 100"
    latents: tuple[int, ...] = (32, 16, 8)
    batch: int = 100
    objective: Any = ppvae.ELBO(kl="monte_carlo")  # noqa: RUF009

    @property
    def x(self) -> Tensor:
        return bits(self.batch)

    @property
    def pyro_elbo(self) -> Any:
        return Trace_ELBO()

    def networks(self) -> tuple[list[nn.Sequential], list[nn.Sequential]]:
        """Upwards, of each latent given what is below; downwards, of each thing given the latent above."""
        below = [784, *self.latents[:-1]]
        up = [(n, [200 if n == 784 else 100], 2 * m) for n, m in zip(below, self.latents, strict=True)]
        down = [
            (m, [200 if n == 784 else 100], n if n == 784 else 2 * n) for n, m in zip(below, self.latents, strict=True)
        ]
        found = mlps(*up, *down)
        return found[: len(up)], found[len(up) :]

    def pyro(self):
        up, down = self.networks()
        top = len(self.latents)

        def normal(out):
            loc, scale = out.chunk(2, -1)
            return dist.Normal(loc, softplus(scale)).to_event(1)

        def model(x):
            for i, network in enumerate(down):
                pyro.module(f"down{i}", network)
            with pyro.plate("data", len(x)):
                z = pyro.sample(f"z{top}", dist.Normal(torch.zeros(self.latents[-1]), 1.0).to_event(1))
                for i in range(top - 1, 0, -1):
                    z = pyro.sample(f"z{i}", normal(down[i](z)))
                pyro.sample("x", dist.Bernoulli(logits=down[0](z)).to_event(1), obs=x)

        def guide(x):
            h = x
            for i, network in enumerate(up):
                pyro.module(f"up{i}", network)
            with pyro.plate("data", len(x)):
                for i, network in enumerate(up):
                    h = pyro.sample(f"z{i + 1}", normal(network(h)))

        return model, guide

    def by_hand(self) -> nn.Module:
        return HandWrittenHierarchy(self)

    def numpyro(self):
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as ndist
        from numpyro.infer import Trace_ELBO

        up, down = self.networks()
        top = len(self.latents)

        def normal(out):
            loc, scale = jnp.split(out, 2, -1)
            return ndist.Normal(loc, jax.nn.softplus(scale)).to_event(1)

        def model(x):
            with numpyro.plate("data", len(x)):
                z = numpyro.sample(f"z{top}", ndist.Normal(jnp.zeros(self.latents[-1]), 1.0).to_event(1))
                for i in range(top - 1, 0, -1):
                    z = numpyro.sample(f"z{i}", normal(numpyro_network(f"down{i}", down[i], z)))
                likelihood = ndist.Bernoulli(logits=numpyro_network("down0", down[0], z))
                numpyro.sample("x", likelihood.to_event(1), obs=x)

        def guide(x):
            h = x
            with numpyro.plate("data", len(x)):
                for i, network in enumerate(up):
                    h = numpyro.sample(f"z{i + 1}", normal(numpyro_network(f"up{i}", network, h)))

        return model, guide, Trace_ELBO()


class HandWrittenHierarchy(nn.Module):
    def __init__(self, load: HierarchyLoad):
        super().__init__()
        up, down = load.networks()
        self.up, self.down = nn.ModuleList(up), nn.ModuleList(down)

    def forward(self, x):
        h, latents, log_w = x, [], 0.0
        for network in self.up:
            loc, scale = network(h).chunk(2, -1)
            scale, eps = softplus(scale), torch.randn_like(loc)
            h = loc + scale * eps
            latents.append(h)
            log_w = log_w + (eps.square() / 2 + scale.log()).sum(-1)
        log_w = log_w - latents[-1].square().sum(-1) / 2
        for z, above, network in zip(latents[:-1], latents[1:], self.down[1:], strict=True):
            loc, scale = network(above).chunk(2, -1)
            scale = softplus(scale)
            log_w = log_w - (((z - loc) / scale).square() / 2 + scale.log()).sum(-1)
        out = self.down[0](latents[0])
        return -(log_w - binary_cross_entropy_with_logits(out, x, reduction="none").sum(-1)).mean()


LOADS: list[VAELoad | MixtureLoad | HierarchyLoad] = [
    VAELoad("784-200-200-50, batch 100, K = 1", 784, 200, 50, 100, 1),
    VAELoad("2-32-32-2, batch 64, K = 1", 2, 32, 2, 64, 1),
    VAELoad("784-200-200-50, batch 20, IWAE K = 50", 784, 200, 50, 20, 50),
    MixtureLoad(),
    HierarchyLoad(),
]
