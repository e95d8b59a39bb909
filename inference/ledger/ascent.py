"""Stochastic gradient ascent on each data point's own parameters, until all have settled."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.arguments import Count, NonNegative, Positive, checked
from ppvae.devices import device_of
from ppvae.inference.training.update import laid_out_as
from ppvae.pair import Pair

Gradient = Callable[[dict[str, Tensor]], tuple[Tensor, list[Tensor]]]
"""Parameters `[B, ...]` by name -> an unbiased estimate of the bound, `[B]`, and of its gradients."""

COMPILE_ASCENT_AFTER = {"cpu": 10_000, "cuda": 1000}
"""Gradients of one shape before compiling: a flow's take some 20 s to compile, and on a CPU, where they are recorded
before, that saves but 3 ms a step. Most ascents are over by then."""

WINDOW = 50
"""Steps whose mean bound is compared with that of the same number before."""


@checked
@dataclass(frozen=True)
class Ascent:
    """Settings of the ascent: Adam, whose learning rate falls to a third whenever the bound no longer rises.

    Attributes:
        num_particles: draws for each data point and step.
        max_steps: after which to stop, settled or not.
        lr: the first learning rate.
        reductions: of the learning rate, after which to stop.
        tolerance: nats per data point by which the bound must rise from window to window to count as rising; or two
            standard errors, if that is more.

    Raises:
        ValueError: a number below one.
    """

    num_particles: Count = 8
    max_steps: Count = 1000
    lr: Positive = 0.1
    reductions: Count = 3
    tolerance: NonNegative = 0.005


def ascend(gradient: Gradient, start: dict[str, Tensor], settings: Ascent) -> tuple[dict[str, Tensor], bool]:
    """The parameters that maximize the bound, averaged over the last window, and whether they have settled."""
    parameters = {name: t.clone() for name, t in start.items()}
    optimizer = torch.optim.Adam(list(parameters.values()), lr=settings.lr, maximize=True, fused=True)
    window: list[Tensor] = []
    before: Tensor | None = None
    reductions = 0
    for _ in range(settings.max_steps):
        if len(window) % WINDOW == 0:
            average = {name: torch.zeros_like(t) for name, t in parameters.items()}
        value, gradients = gradient(parameters)
        window.append(value.mean())
        rounding = 10 * torch.finfo(value.dtype).eps * value.abs().clamp(min=1)
        for p, g in zip(parameters.values(), gradients, strict=True):
            # Adam's steps have one size for gradients of any size: rounding errors would lead away from a maximum
            p.grad = laid_out_as(p, torch.where(g.abs() > like(rounding, g), g, 0))
        optimizer.step()
        for name, p in parameters.items():
            average[name] += p / WINDOW
        if len(window) < WINDOW:
            continue
        now = torch.stack(window)
        window = []
        if before is not None:
            noise = ((now.var() + before.var()) / WINDOW).sqrt()
            if now.mean() - before.mean() < max(settings.tolerance, 2 * noise.item()):
                reductions += 1
                if reductions == settings.reductions:
                    return average, True
                for group in optimizer.param_groups:
                    group["lr"] /= 3
        before = now
    return average if not window else parameters, False


def compile_after(pair: Pair) -> float:
    """`COMPILE_ASCENT_AFTER` for the pair's device."""
    return COMPILE_ASCENT_AFTER.get(device_of(pair).type, math.inf)


def like(points: Tensor, value: Tensor) -> Tensor:
    """Something of each data point, `[B]`, in a shape that broadcasts against a value `[B, ...]`."""
    return points.reshape(-1, *(1,) * (value.dim() - 1))
