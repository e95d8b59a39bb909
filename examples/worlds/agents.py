"""Agents: what they see of a world, or dream of it; linear controllers of that; and CMA-ES, which finds them."""

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppvae.models import VAE, MixtureDensityRNN, RecurrentStateSpace


class VisionAndMemory:
    """V encodes a frame, and M's state is what came before: the controller sees both, or V alone.

    The classes of this file have the same methods. `h` is a state of what came before, `z` the present.
    """

    def __init__(self, vision: VAE, memory: MixtureDensityRNN, with_memory: bool = True):
        self.vision, self.memory, self.with_memory = vision, memory, with_memory

    def start(self, num: int) -> Tensor:
        return self.memory.first.expand(num, -1)

    def look(self, h: Tensor, frames: Tensor) -> Tensor:
        """The present, as a frame shows it."""
        return self.vision.posterior(frames).mean

    def dream(self, h: Tensor, temperature: float) -> Tensor:
        """The present, as it may be after what came before."""
        return self.memory.forecast(h, temperature).sample()

    def features(self, h: Tensor, z: Tensor) -> Tensor:
        return torch.cat([h, z], -1) if self.with_memory else z

    def advance(self, h: Tensor, z: Tensor, action: Tensor) -> Tensor:
        return self.memory.advance(h, z, action)

    def picture(self, h: Tensor, z: Tensor) -> Tensor:
        return self.vision.likelihood(z).mean


class StateSpaceWorld:
    """The same by one recurrent state space model of the frames; its dreams are its prior's draws."""

    def __init__(self, pair: RecurrentStateSpace):
        self.pair = pair

    def start(self, num: int) -> Tensor:
        return self.pair.first.expand(num, -1)

    def look(self, h: Tensor, frames: Tensor) -> Tensor:
        return self.pair.posterior(torch.cat([h, frames], -1)).mean

    def dream(self, h: Tensor, temperature: float) -> Tensor:
        prior = self.pair.prior(h)
        return prior.mean + sqrt(temperature) * prior.stddev * torch.randn_like(prior.mean)

    def features(self, h: Tensor, z: Tensor) -> Tensor:
        return self.pair.state(h, z)

    def advance(self, h: Tensor, z: Tensor, action: Tensor) -> Tensor:
        return self.pair.advance(self.features(h, z), action)

    def picture(self, h: Tensor, z: Tensor) -> Tensor:
        return self.pair.likelihood(self.features(h, z)).mean


World = VisionAndMemory | StateSpaceWorld
Policy = Callable[[Tensor], Tensor]


@torch.no_grad()
def watched(world: World, frames: Tensor, actions: Tensor) -> Tensor:
    """The features of sequences of frames, `[B, T, F]`."""
    h, found = world.start(len(frames)), []
    for t in range(frames.shape[1]):
        z = world.look(h, frames[:, t])
        found.append(world.features(h, z))
        h = world.advance(h, z, actions[:, t])
    return torch.stack(found, 1)


def reward_of(features: Tensor, rewards: Tensor, num_steps: int) -> nn.Module:
    """A network that tells the reward from the features, by least squares; the reward is that of the step before."""
    inputs, targets = features[:, 1:].flatten(0, 1), rewards[:, :-1].flatten()
    network = nn.Sequential(nn.Linear(inputs.shape[-1], 64), nn.Tanh(), nn.Linear(64, 1), nn.Flatten(0))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(num_steps):
        rows = torch.randint(len(inputs), (256,))
        loss = (network(inputs[rows]) - targets[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.requires_grad_(False)


def linear(parameters: Tensor) -> Policy:
    """Of P controllers, `[P, A, F + 1]`: the actions `[P n, A]` for features `[P n, F]`."""

    def policy(features: Tensor) -> Tensor:
        each = features.unflatten(0, (len(parameters), -1))
        return (each @ parameters[..., :-1].mT + parameters[..., -1].unsqueeze(1)).tanh().flatten(0, 1)

    return policy


@torch.no_grad()
def acted(world: World, policy: Policy, env: Any, seed: int) -> Tensor:
    """Mean rewards of an episode in each of the environments, `[N]`."""
    frames, _ = env.reset(seed=seed)
    h, rewards, over = world.start(env.num_envs), [], False
    while not over:
        z = world.look(h, torch.as_tensor(frames))
        action = policy(world.features(h, z))
        frames, reward, terminated, truncated, _ = env.step(action.numpy())
        h, over = world.advance(h, z, action), bool((terminated | truncated).all())
        rewards.append(torch.as_tensor(reward))
    return torch.stack(rewards).mean(0)


@torch.no_grad()
def dreamed(world: World, policy: Policy, reward: nn.Module, num: int, num_steps: int, temperature: float) -> Tensor:
    """Mean rewards of an episode in each of `num` dreams, `[N]`, as the reward's network has them."""
    h, rewards = world.start(num), []
    z = world.dream(h, temperature)
    for _ in range(num_steps):
        h = world.advance(h, z, policy(world.features(h, z)))
        z = world.dream(h, temperature)
        rewards.append(reward(world.features(h, z)))
    return torch.stack(rewards).mean(0)


def best_controller(
    returns: Callable[[Tensor, int], Tensor], num_features: int, num_actions: int, generations: int, seed: int
) -> Tensor:
    """A linear controller by CMA-ES, `[1, A, F + 1]`.

    Args:
        returns: of P controllers `[P, A, F + 1]`, in a generation, `[P]`.
    """
    try:
        import cma
    except ImportError as error:
        raise ImportError("cma: found no package of this name; install it with pip install 'ppvae[world]'") from error
    shape = (num_actions, num_features + 1)
    search = cma.CMAEvolutionStrategy(
        np.zeros(shape).ravel(), 0.5, {"popsize": 16, "seed": seed + 1, "verbose": -9, "maxiter": generations}
    )
    for generation in range(generations):
        candidates = search.ask()
        controllers = torch.tensor(np.array(candidates), dtype=torch.float32).unflatten(-1, shape)
        search.tell(candidates, (-returns(controllers, generation)).tolist())
    return torch.tensor(search.result.xfavorite, dtype=torch.float32).reshape(1, *shape)
