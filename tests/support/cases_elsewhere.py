"""Users' code, and ways of training, that are run on the CPU and on another device, with the same results."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.ops.indexing import Vindex
from support import another_device
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import ppvae
from ppvae.inference import IWAE
from ppvae.models import VAE, GaussianMixture

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
BITS = (X > 0).double()
QUIET = {"seed": 3, "progress": False}
CASES: dict[str, Callable[["Place"], Any]] = {}


@dataclass(frozen=True)
class Place:
    """The CPU, or the other device."""

    elsewhere: bool

    def moved(self, module: Any) -> Any:
        return another_device.moved(module) if self.elsewhere else module

    def vae(self) -> Any:
        torch.manual_seed(5)
        return self.moved(VAE.mlp(4, 2, [6]))


def case(function: Callable[[Place], Any]) -> Callable[[Place], Any]:
    CASES[function.__name__.replace("_", " ")] = function
    return function


def trained(pair: Any, data: Any, **settings: Any) -> list[Any]:
    run = ppvae.fit(pair, data, **({"epochs": 2, "batch_size": 8} | QUIET | settings))
    return [*run.pair.state_dict().values(), *run.history["bound_per_step"], *run.history.get("held_out", [])]


def measured(pair: Any, x: Any) -> list[Any]:
    """What is measured and learned, once the pair has been checked where it is."""
    pair.check(x)
    found = [pair.log_weights(x, 3).log_w, ppvae.log_evidence(pair, x, "iwae", 10, **QUIET).estimate, pair.sample(x)]
    return [*found, *trained(pair, x, objective=IWAE(2))]


# Ways of training.


@case
def averages_and_the_best_epoch(place: Place) -> Any:
    options = ppvae.StepOptions(ema=0.9, clip_norm=0.5)
    held_out = ppvae.HeldOut(BITS[:5], keep_best=True, patience=1)
    return trained(place.vae(), BITS, epochs=5, lr=0.3, held_out=held_out, options=options)


@case
def a_run_that_goes_on(place: Place) -> Any:
    settings: dict[str, Any] = {"checkpoint": "run", "options": ppvae.StepOptions(ema=0.9)}
    trained(place.vae(), BITS, **settings)
    later = trained(place.vae(), BITS, **settings, epochs=4, resume=True)
    return later, ppvae.load(place.vae(), "run").encode(BITS).mean


@case
def a_trainer_that_goes_on(place: Place) -> Any:
    first, second = (ppvae.Trainer(place.vae(), lr=0.01) for _ in range(2))
    bounds = [first.step(batch) for batch in BITS.split(10)]
    first.save("steps")
    second.load("steps")
    return bounds, [second.step(batch) for batch in BITS.split(10)]


@case
def a_stream(place: Place) -> Any:
    return trained(place.vae(), DataLoader(TensorDataset(BITS), batch_size=10, shuffle=True))


@case
def expectation_maximization(place: Place) -> Any:
    torch.manual_seed(3)
    mixture, streamed = (place.moved(GaussianMixture(3, 4)) for _ in range(2))
    ppvae.fit_streaming_em(streamed, X, epochs=2, batch_size=10, **QUIET)
    return list(ppvae.fit_em(mixture, X, **QUIET).history), list(streamed.state_dict().values())


# Users' code that names no device.


@case
def a_transform(place: Place) -> Any:
    def flipped(x: Tensor) -> Tensor:
        return torch.where(torch.rand(x.shape) < 0.1, 1 - x, x)

    return trained(place.vae(), BITS, weights=np.linspace(0.1, 1, 20), transform=flipped)


@case
def an_objective(place: Place) -> Any:
    def weighed(pair: Any, batch: Any, step: float = math.inf) -> tuple[Tensor, Tensor]:
        value = torch.rand(4).softmax(0) @ pair.log_weights(batch, 4).log_w
        return value, value.mean()

    return trained(place.vae(), BITS, objective=weighed, held_out=BITS[:4])


@case
def a_penalty(place: Place) -> Any:
    class Penalized(VAE):
        def penalty(self) -> Tensor:
            first = next(self.posterior.parameters()).flatten()
            return (first * torch.arange(len(first))).square().sum()

    torch.manual_seed(5)
    return trained(place.moved(Penalized.mlp(4, 2, [6])), BITS)


@case
def features_of_samples(place: Place) -> Any:
    asked = []

    def features(x: Tensor) -> Tensor:
        asked.append(x @ torch.arange(8.0).reshape(4, 2))
        return asked[-1]

    ppvae.compare_samples({"vae": place.vae()}, BITS, features=features, num_halves=4, seed=0)
    return asked


@case
def parameters_of_pyro(place: Place) -> Any:
    def model(x: Tensor) -> None:
        scale = pyro.param("scale", torch.ones(4), constraint=constraints.positive)
        shares = pyro.param("shares", torch.ones(2) / 2, constraint=constraints.simplex)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), torch.ones(4)).to_event(1))
            k = pyro.sample("k", dist.Categorical(shares), infer={"enumerate": "parallel"})
            loc = z @ torch.eye(4) + Vindex(torch.tensor([[0.0], [1.0]]))[k]
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        scale = pyro.param("width", torch.tensor(0.5), constraint=constraints.interval(0, 2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, scale).to_event(1))

    return measured(place.moved(ppvae.Pair.of(model, guide, X)), X)


@case
def latents_that_are_given(place: Place) -> Any:
    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z * w, torch.as_tensor(np.ones(4))).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x * pyro.param("slope", torch.tensor(0.5)), 1.0).to_event(1))

    return measured(place.moved(ppvae.Pair.of(model, guide, X, condition={"w": torch.arange(4.0)})), X)


class Fixed(ppvae.Pair):
    """Without parameters: what it holds is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.linspace(-1, 1, 16).reshape(4, 4))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.weight, 1.0).to_event(1))


@case
def a_pair_of_buffers(place: Place) -> Any:
    pair: Any = place.moved(Fixed())
    pair.check(X)
    estimate = ppvae.log_evidence(pair, X, "iwae", 10, **QUIET).estimate
    return estimate, pair.log_weights(X.float(), 3).log_w, pair.sample(3), pair.encode(X).mean, pair.reconstruct(X)
