"""The parts of the example of world models: controllers, their search, and what is dreamed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ppvae.datasets import PixelPendulum
from ppvae.models import VAE, MixtureDensityRNN, RecurrentStateSpace

NUM = 6


@pytest.fixture
def agents(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    from worlds import agents

    return agents


def worlds(agents):
    torch.manual_seed(0)
    vision, memory = VAE.mlp(256, 2, [8], "gaussian"), MixtureDensityRNN(2, 1, num_state=4)
    space = RecurrentStateSpace(256, 2, 1, num_state=4, hidden=[8])
    return [
        agents.VisionAndMemory(vision, memory, with_memory=False),
        agents.VisionAndMemory(vision, memory),
        agents.StateSpaceWorld(space),
    ]


def test_each_controller_acts_on_its_own_rows(agents):
    torch.manual_seed(0)
    parameters, features = torch.randn(3, 2, 5), torch.randn(3, NUM, 4)
    found = agents.linear(parameters)(features.flatten(0, 1)).unflatten(0, (3, NUM))
    for w, f, action in zip(parameters, features, found, strict=True):
        torch.testing.assert_close(action, torch.tanh(f @ w[:, :4].T + w[:, 4]))


def test_search_finds_the_best_controller(agents):
    goal = torch.tensor([[0.5, -1.0, 0.3]])
    best = agents.best_controller(lambda each, generation: -(each - goal).square().sum((1, 2)), 2, 1, 60, seed=0)
    torch.testing.assert_close(best, goal.unsqueeze(0), atol=1e-2, rtol=0)


def test_a_policy_that_is_blind_earns_what_the_environment_gives(agents):
    env = PixelPendulum(NUM, 5)
    env.reset(seed=3)
    rewards = np.mean([env.step(np.full((NUM, 1), 0.5))[1] for _ in range(5)], 0)
    for world in worlds(agents):
        found = agents.acted(world, lambda features: torch.full((len(features), 1), 0.5), PixelPendulum(NUM, 5), 3)
        np.testing.assert_allclose(found, rewards)


def test_what_is_watched_is_what_the_controller_sees(agents):
    """The features of an episode, seen afterwards, are those that were acted on."""
    for world in worlds(agents):
        acted_on = []

        def policy(features, acted_on=acted_on):
            acted_on.append(features)
            return torch.zeros(NUM, 1)

        agents.acted(world, policy, PixelPendulum(NUM, 5), 3)
        env = PixelPendulum(NUM, 5)
        frames = [env.reset(seed=3)[0], *(env.step(np.zeros((NUM, 1)))[0] for _ in range(4))]
        x = torch.tensor(np.stack(frames, 1))
        torch.testing.assert_close(agents.watched(world, x, torch.zeros(NUM, 5, 1)), torch.stack(acted_on, 1))


def test_dreams_of_the_state_space_are_its_samples(agents):
    """The mean reward of a dream, with the mean brightness for a reward, is that of `pair.sample`."""
    world = worlds(agents)[2]
    pair, num = world.pair, 3000

    def reward(features):
        return pair.likelihood(features).mean.mean(-1)

    found = agents.dreamed(world, lambda features: torch.zeros(len(features), 1), reward, num, 3, 1.0)
    batch = {"x": torch.zeros(num, 4, 256), "actions": torch.zeros(num, 4, 1)}
    expected = pair.sample(batch)[:, 1:].mean((1, 2))
    error = ((found.var() + expected.var()) / num).sqrt()
    assert (found.mean() - expected.mean()).abs() < 4 * error
