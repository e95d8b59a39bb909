"""Annealing: schedules from a start to the joint density, and AIS weights along one, in either direction."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ppvae.inference.evidence.hmc import State

Transition = Callable[[State, int], State]
"""`(state, t)`: a state drawn from a kernel that leaves the density at the schedule's `betas[t]` invariant."""


def linear(num_temperatures: int) -> Tensor:
    """`beta_t = t / T`, `[T + 1]`, from 0 to 1."""
    return torch.linspace(0, 1, num_temperatures + 1)


def sigmoid(num_temperatures: int) -> Tensor:
    """`beta_t`, `[T + 1]`, as the logistic function from -4 to 4, scaled to go from 0 to 1: slow at both ends.

    Source: Grosse et al. 2015 (arXiv:1511.02543), section 6.1.
    """
    raw = torch.linspace(-4, 4, num_temperatures + 1, dtype=torch.float64).sigmoid()
    return ((raw - raw[0]) / (raw[-1] - raw[0])).float()


def equal_steps(num_temperatures: int, betas: Tensor, spread: Tensor) -> Tensor:
    """`[T + 1, B]` such that all steps have the same length, `int sd_beta(log ratio) d beta`.

    To second order a step of that length l leaves, of K weights, an effective sample size of `K / (1 + l^2)`: the drop
    is constant along the path.

    Source: Zhou et al. 2016 (arXiv:1303.3123), section 3.3, for the criterion; here it is met by one integral, over
    the spread seen along an earlier path.

    Args:
        num_temperatures: T.
        betas: where the spread was seen, `[S + 1]`, from 0 to 1.
        spread: standard deviation over the chains of `log joint - log start`, `[S + 1, B]`.
    """
    spread = spread.double().clamp(min=1e-3 * spread.double().amax(0)) + 1e-12
    lengths = torch.cat([torch.zeros_like(spread[:1]), torch.cumulative_trapezoid(spread, betas.double(), dim=0)])
    wanted = np.linspace(0, 1, num_temperatures + 1)
    columns = [np.interp(wanted, (column / column[-1]).numpy(), betas.double().numpy()) for column in lengths.cpu().T]
    return torch.as_tensor(np.stack(columns, axis=1), dtype=betas.dtype)


Schedule = Callable[[int, Tensor, Tensor], Tensor]
"""`(T, where the spread was seen [S + 1], the spread there [S + 1, B])`: the betas, `[T + 1, B]`."""


def _for_all(betas: Callable[[int], Tensor]) -> Schedule:
    """One schedule for all data points, whatever the spread."""
    return lambda num_temperatures, seen_at, spread: betas(num_temperatures)[:, None].expand(-1, spread.shape[1])


SCHEDULES: dict[str, Schedule] = {
    "adaptive": equal_steps,
    "linear": _for_all(linear),
    "sigmoid": _for_all(sigmoid),
}
"""The schedules of `ppvae.AIS`, by name."""


def along(betas: Tensor, seen_at: Tensor, values: Tensor) -> Tensor:
    """`values` `[S + 1, B]`, seen at `seen_at` `[S + 1]`, interpolated at `betas` `[T + 1, B]`."""
    pairs = zip(betas.cpu().T.numpy(), values.cpu().T.numpy(), strict=True)
    columns = [np.interp(at, seen_at.cpu().numpy(), column) for at, column in pairs]
    return torch.as_tensor(np.stack(columns, axis=1), dtype=values.dtype, device=values.device)


def forward(state: State, betas: Tensor, transition: Transition) -> tuple[State, Tensor]:
    """From the start to the joint: the last state, and log weights `[K, B]` whose exponentials have the mean p(x).

    `log w = sum_t (beta_t - beta_{t-1}) log_ratio(z_{t-1})`; the log of their mean is a stochastic lower bound.

    Source: Neal 2001, Statistics and Computing 11(2) (arXiv:physics/9803008).

    Args:
        state: draws from the start.
        betas: `[T + 1, B]` or `[T + 1]`, from 0 to 1.
        transition: at each t from 1 to T.
    """
    log_weight = torch.zeros_like(state.log_joint, dtype=torch.float64)
    for t in range(1, len(betas)):
        log_weight = log_weight + (betas[t] - betas[t - 1]) * state.log_ratio().double()
        state = transition(state, t)
    return state, log_weight


def backward(state: State, betas: Tensor, transition: Transition) -> tuple[State, Tensor]:
    """From the posterior to the start: log weights `[K, B]` whose exponentials have the mean 1 / p(x).

    Minus the log of their mean is a stochastic *upper* bound on log p(x), if `state` is an exact draw from p(z | x), as
    it is where x and z were drawn together from the model.

    Source: Grosse et al. 2015 (arXiv:1511.02543): bidirectional Monte Carlo.

    Args:
        state: draws from the posterior; all K may be the same.
        betas: as for `forward`.
        transition: as for `forward`, each reversible.
    """
    log_weight = torch.zeros_like(state.log_joint, dtype=torch.float64)
    for t in range(len(betas) - 1, 0, -1):
        state = transition(state, t)
        log_weight = log_weight + (betas[t - 1] - betas[t]) * state.log_ratio().double()
    return state, log_weight
