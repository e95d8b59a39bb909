"""The pendulum moves as its equation says, is drawn where it is, and has gymnasium's methods."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from ppvae.datasets import PixelPendulum


def test_it_moves_as_its_equation_says():
    """Against an integrator of high order: the error is that of a first-order step of a fortieth of a second."""
    env = PixelPendulum(3, 20)
    env.reset(seed=0)
    exact = np.stack([env.angle, env.speed])
    actions = np.random.default_rng(1).uniform(-1, 1, (20, 3, 1))
    for action in actions:
        env.step(action)

        def slope(_, state, torque=8 * action[:, 0]):
            angle, speed = state.reshape(2, 3)
            return np.concatenate([speed, 5 * np.sin(angle) - 0.1 * speed + torque])

        exact = solve_ivp(slope, (0, 0.1), exact.ravel(), rtol=1e-9, atol=1e-9).y[:, -1].reshape(2, 3)
    np.testing.assert_allclose(env.angle, exact[0], atol=0.2)


def test_frames_show_where_the_rod_is():
    """The center of brightness is half a rod from the middle, in its direction, up being the first rows."""
    env = PixelPendulum(50, width=64)
    frames, _ = env.reset(seed=0)
    axis = (np.arange(64) + 0.5) / 32 - 1
    images = frames.reshape(50, 64, 64)
    total = images.sum((1, 2))
    across, up = (images.sum(1) @ axis) / total, -(images.sum(2) @ axis) / total
    np.testing.assert_allclose(across, 0.4 * np.sin(env.angle), atol=0.01)
    np.testing.assert_allclose(up, 0.4 * np.cos(env.angle), atol=0.01)
    assert frames.min() >= 0
    assert 0.9 < frames.max() <= 1


def test_it_has_the_methods_of_gymnasiums_vector_environments():
    env = PixelPendulum(4, num_steps=3)
    first, info = env.reset(seed=5)
    assert (first.shape, first.dtype, info) == ((4, 256), np.float32, {})
    for t in range(3):
        frames, reward, terminated, truncated, info = env.step(np.zeros((4, 1)))
        assert (frames.shape, reward.shape, info) == ((4, 256), (4,), {})
        assert not terminated.any()
        assert truncated.all() == truncated.any() == (t == 2)
    np.testing.assert_allclose(reward, (1 + np.cos(env.angle)) / 2)
    np.testing.assert_array_equal(env.reset(seed=5)[0], first)
    assert not np.array_equal(env.reset()[0], first)


def test_speed_is_what_it_takes_to_stay_upright():
    """The same controller with and without the speed: the numbers that the docstring and the docs build on."""
    found = {}
    for damping in (0.0, 0.3):
        env = PixelPendulum(500)
        env.reset(seed=0)
        rewards = [env.step(-(1.5 * np.sin(env.angle) + damping * env.speed)[:, None])[1] for _ in range(40)]
        found[damping] = np.mean(rewards[20:])
    assert found[0.3] > 0.95
    assert found[0.0] < 0.7


def test_actions_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"actions: found shape \[4\], expected \[4, 1\], one for each pendulum"):
        PixelPendulum(4).step(np.zeros(4))
