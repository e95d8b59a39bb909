"""Hamiltonian Monte Carlo along a path of densities, for all chains of all data points at once.

`step` takes one transition, `adapt` moves step sizes; that is all.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

TARGET_ACCEPTANCE = 0.65
"""The optimum in many dimensions: Beskos et al. 2013, Bernoulli 19(5A)."""

MAX_ENERGY_ERROR = 1000.0
"""Above which a trajectory counts as divergent, as in Stan."""


class State(NamedTuple):
    """The chains' positions, and the parts of the path's densities there.

    The density at `beta` is `log_start + beta (log_joint - log_start)`, from the start at 0 to the joint at 1.
    """

    position: Tensor
    """u, `[K, B, D]`."""
    log_start: Tensor
    """`[K, B]`, in nats, like the next."""
    log_joint: Tensor
    gradient_start: Tensor
    """`[K, B, D]`, like the next."""
    gradient_joint: Tensor

    def log_ratio(self) -> Tensor:
        """`log joint - log start`, `[K, B]`."""
        return self.log_joint - self.log_start


class Info(NamedTuple):
    """How a transition went."""

    acceptance: Tensor
    """The probability of accepting the proposal, `[K, B]`."""
    divergent: Tensor
    """Whether the trajectory's energy error was too large, `[K, B]`."""


Evaluate = Callable[[Tensor], State]


def step(
    state: State, beta: Tensor, evaluate: Evaluate, step_size: Tensor, scale: Tensor, num_leapfrog: int
) -> tuple[State, Info]:
    """One transition that leaves the density at `beta` invariant: leapfrog steps, then acceptance or rejection.

    Each chain's step size is varied by up to a fifth, so that trajectories do not come full circle.

    Source: Neal 2011 (arXiv:1206.1901), sections 3.2 and 5.4.

    Args:
        state: of the chains.
        beta: `[B]`, or a scalar.
        evaluate: gives the state at a position.
        step_size: `[K, B]` or `[B]`, in units of `scale`.
        scale: about the standard deviation of the density, `[B, D]` or `[D]`.
        num_leapfrog: steps of a trajectory.
    """
    spread = 0.8 + 0.4 * torch.rand_like(state.log_joint)
    size = (step_size * spread)[..., None] * scale
    noise = torch.randn_like(state.position)

    moved, momentum = state, noise + size / 2 * _gradient(state, beta)
    for i in range(num_leapfrog):
        moved = evaluate(moved.position + size * momentum)
        momentum = momentum + (size / 2 if i == num_leapfrog - 1 else size) * _gradient(moved, beta)

    energy_error = _energy(moved, momentum, beta) - _energy(state, noise, beta)
    energy_error = energy_error.nan_to_num(nan=torch.inf)
    acceptance = (-energy_error).clamp(max=0).exp()
    accepted = torch.rand_like(acceptance) < acceptance
    chosen = State(*[torch.where(_like(accepted, new), new, old) for new, old in zip(moved, state, strict=True)])
    return chosen, Info(acceptance, energy_error > MAX_ENERGY_ERROR)


def adapt(log_step_size: Tensor, acceptance: Tensor, rate: float) -> Tensor:
    """The log step size moved toward the target acceptance: `+ rate (acceptance - 0.65)`."""
    return log_step_size + rate * (acceptance - TARGET_ACCEPTANCE)


def _gradient(state: State, beta: Tensor) -> Tensor:
    return torch.lerp(state.gradient_start, state.gradient_joint, beta[..., None])


def _energy(state: State, momentum: Tensor, beta: Tensor) -> Tensor:
    return momentum.square().sum(-1) / 2 - torch.lerp(state.log_start, state.log_joint, beta)


def _like(mask: Tensor, value: Tensor) -> Tensor:
    return mask if value.dim() == mask.dim() else mask[..., None]
