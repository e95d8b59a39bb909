"""A continuous flow: a velocity field carries noise to data."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import vjp

from ppvae.arguments import Positive, Size, checked
from ppvae.models.flows.flow import Flow
from ppvae.models.flows.jacobians import jacobian, random_signs
from ppvae.models.flows.transforms import Bijection
from ppvae.models.parts.priors import StandardNormal
from ppvae.networks import mlp


class ContinuousFlow(Flow):
    """`x = z(1)` with `dz/dt = v(z, t)` and z(0) standard normal: FFJORD, with v a multilayer perceptron.

    `log p(x) = log p(z(0)) - int_0^1 tr(dv/dz) dt`, solved backwards from x by an adaptive Runge-Kutta method (Dormand
    & Prince 1980, in torchdiffeq). In eval mode, and in `log_prob`, the trace is exact, by D derivatives. In training
    mode it is Hutchinson's estimate `e' (dv/dz) e`, with one random sign e for each entry, drawn once per solution.
    That gives an unbiased estimate of log p(x), so train with a bound that is linear in it, such as `ELBO`. (An IWAE
    would favor particles whose estimates happen to be high.)

    The solver chooses its steps by the data, which cannot be compiled: `fit(compile=True)` warns, and trains
    uncompiled.

    Source: Grathwohl et al. 2019 (arXiv:1810.01367); Chen et al. 2018 (arXiv:1806.07366).

    Args:
        num_features: D.
        hidden: sizes of the hidden layers of v.
        tolerance: the error, relative and absolute, that the solver allows each data point in a step.

    Raises:
        ImportError: torchdiffeq is not installed.

    Example:
        >>> ContinuousFlow(num_features=2, hidden=[8]).sample(3).shape
        torch.Size([3, 2])
    """

    @checked
    def __init__(self, num_features: Size, hidden: Sequence[Size] = (64, 64), tolerance: Positive = 1e-6):
        velocity = mlp(num_features + 1, hidden, num_features)
        super().__init__(StandardNormal(num_features), [Integral(velocity, tolerance)])


class Integral(Bijection):
    """From z(0) to z(1) along a velocity field, `[*, D + 1] -> [*, D]`, of z and t."""

    def __init__(self, velocity: nn.Module, tolerance: float):
        super().__init__(event_dim=1)
        _odeint()
        self.velocity = velocity
        self.tolerance = tolerance

    def push(self, z: Tensor) -> Tensor:
        return self._solve(self._velocity, z, 0.0, 1.0)

    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        divergence = self._estimated_divergence(x) if self.training else self._exact_divergence

        def change(state: Tensor, t: Tensor) -> Tensor:
            velocity, trace = divergence(state[..., :-1], t)
            return torch.cat([velocity, trace.unsqueeze(-1)], -1)

        state = torch.cat([x, x.new_zeros(*x.shape[:-1], 1)], -1)
        state = self._solve(change, state, 1.0, 0.0)
        return state[..., :-1], state[..., -1]

    def _velocity(self, z: Tensor, t: Tensor) -> Tensor:
        return self.velocity(torch.cat([z, t.expand(*z.shape[:-1], 1)], -1))

    def _exact_divergence(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        velocity, pullback, *_ = vjp(lambda z: self._velocity(z, t), z)
        return velocity, jacobian(z, pullback).diagonal(dim1=-2, dim2=-1).sum(-1)

    def _estimated_divergence(self, x: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        signs = random_signs(x)

        def divergence(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            velocity, pullback, *_ = vjp(lambda z: self._velocity(z, t), z)
            return velocity, (pullback(signs)[0] * signs).sum(-1)

        return divergence

    def _solve(self, change: Callable[[Tensor, Tensor], Tensor], start: Tensor, t0: float, t1: float) -> Tensor:
        times = torch.tensor([t0, t1], dtype=start.dtype, device=start.device)
        options = {"norm": _largest}
        tolerance = self.tolerance
        states = _odeint()(lambda t, y: change(y, t), start, times, rtol=tolerance, atol=tolerance, options=options)
        return states[-1]


def _largest(scaled_error: Tensor) -> Tensor:
    """The largest error of a data point, so that none is solved less accurately because easier ones share its batch."""
    return scaled_error.square().mean(-1).max().sqrt()


def _odeint() -> Callable[..., Tensor]:
    try:
        from torchdiffeq import odeint  # here, as it is an optional dependency
    except ImportError as error:
        raise ImportError(
            "ContinuousFlow: found no module torchdiffeq, expected it installed, as it solves the flow's differential "
            "equation; run: pip install 'ppvae[ode]'"
        ) from error
    return odeint
