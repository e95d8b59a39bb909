"""Ascent on a noisy quadratic whose optimum is known, for many data points at once."""

import math

import pytest
import torch

from ppvae.inference.ledger.ascent import WINDOW, Ascent, ascend

NUM_POINTS, NUM_DIMS = 200, 2


@pytest.fixture(autouse=True)
def _float64(float64):
    """All of this file in double precision."""


class Quadratic:
    """`-|p - optimum|^2 / 2`, its value and its gradients with independent normal noise."""

    def __init__(self, noise):
        self.noise, self.calls = noise, 0
        self.optimum = {"a": 2 * torch.randn(NUM_POINTS, NUM_DIMS), "b": 2 * torch.randn(NUM_POINTS)}

    def start(self):
        return {name: torch.zeros_like(t) for name, t in self.optimum.items()}

    def __call__(self, parameters):
        self.calls += 1
        away = {name: parameters[name] - t for name, t in self.optimum.items()}
        value = -(away["a"].square().sum(-1) + away["b"].square()) / 2
        gradients = [self.noise * torch.randn_like(t) - t for t in away.values()]
        return value + self.noise * torch.randn_like(value), gradients


def test_without_noise_the_optimum_is_reached():
    quadratic = Quadratic(noise=0.0)
    found, settled = ascend(quadratic, quadratic.start(), Ascent(max_steps=5000, tolerance=1e-8))
    assert settled
    torch.testing.assert_close(found, quadratic.optimum, atol=1e-3, rtol=0)


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_with_noise_it_is_reached_within_what_noise_leaves(noise):
    """Adam's steps are `lr (noise - error) / sd(noise)`: the error's variance tends to `lr sd(noise) / 2`.

    The last window, of which the mean is taken, begins at that of a third of the rate, and is at a ninth.
    """
    quadratic = Quadratic(noise)
    settings = Ascent(max_steps=5000)
    found, settled = ascend(quadratic, quadratic.start(), settings)
    assert settled
    errors = torch.cat([(found[name] - t).flatten() for name, t in quadratic.optimum.items()])
    expected = math.sqrt(settings.lr / 3 * noise / 2)
    assert errors.square().mean().sqrt() < expected
    assert abs(errors.mean()) < 4 * errors.std() / len(errors) ** 0.5


def test_start_is_kept_and_a_name_belongs_to_its_gradient():
    quadratic = Quadratic(noise=0.1)
    start = {name: torch.randn_like(t) for name, t in quadratic.optimum.items()}
    before = {name: t.clone() for name, t in start.items()}
    ascend(quadratic, start, Ascent(max_steps=3))
    for name, t in start.items():
        assert torch.equal(t, before[name])
        assert not t.requires_grad


@pytest.mark.parametrize("max_steps", [1, WINDOW, WINDOW + 7, 3 * WINDOW])
def test_too_few_steps_do_not_settle(max_steps):
    """What is found by then is nearer than the start was."""
    quadratic = Quadratic(noise=0.1)
    found, settled = ascend(quadratic, quadratic.start(), Ascent(max_steps=max_steps, lr=0.01))
    assert not settled
    assert quadratic.calls == max_steps
    assert (found["a"] - quadratic.optimum["a"]).norm() < quadratic.optimum["a"].norm()


def test_it_settles_after_as_many_reductions_as_were_asked_for():
    """From the optimum no window rises: the first is compared with none, each other takes one reduction."""
    for reductions in (1, 4):
        quadratic = Quadratic(noise=0.0)
        _, settled = ascend(quadratic, quadratic.optimum, Ascent(reductions=reductions))
        assert settled
        assert quadratic.calls == (reductions + 1) * WINDOW


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_errors_do_not_lead_away_from_the_optimum(dtype):
    """Adam would take a step of its learning rate along each."""

    def gradient(parameters):
        value = -100 - parameters["a"].square().sum(-1)
        rounding = value.abs().unsqueeze(-1) * torch.finfo(dtype).eps * torch.randn_like(parameters["a"])
        return value, [rounding - 2 * parameters["a"]]

    optimum = {"a": torch.zeros(NUM_POINTS, NUM_DIMS, dtype=dtype)}
    found, settled = ascend(gradient, optimum, Ascent())
    assert settled
    assert torch.equal(found["a"], optimum["a"])


@pytest.mark.parametrize("name", ["num_particles", "max_steps", "reductions"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}: found {value}, expected at least 1"):
        Ascent(**{name: value})


def test_gradients_may_lie_in_memory_as_they_like():
    """Transposed ones, as of products with a transposed matrix, lead where others do."""
    target = torch.arange(6.0).reshape(1, 2, 3)

    def gradient(parameters):
        off = target - parameters["a"]
        return -off.square().sum((1, 2)), [2 * off.mT.contiguous().mT]

    found, _ = ascend(gradient, {"a": torch.zeros(1, 2, 3)}, Ascent(max_steps=400))
    torch.testing.assert_close(found["a"], target, rtol=0, atol=1e-3)
