"""The Gaussians of diffusion: x_t given x, and x_s at less noise given x_t and x; levels are `gamma = -log SNR`.

`q(x_t | x) = N(alpha_t x, sigma_t^2 I)` with `alpha_t^2 = sigmoid(-gamma_t)` and `sigma_t^2 = sigmoid(gamma_t)`, so
that white data keep their variance. Levels are tensors that broadcast against x.
"""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor


def signal(gamma: Tensor) -> Tensor:
    """alpha."""
    return (-gamma).sigmoid().sqrt()


def noise(gamma: Tensor) -> Tensor:
    """sigma."""
    return gamma.sigmoid().sqrt()


def renewed(gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
    """`c = 1 - SNR_t / SNR_s`, the share of the noise in x_t that came after level s, in [0, 1]."""
    return -torch.expm1(gamma_s - gamma_t)


def noised(x: Tensor, gamma: Tensor) -> dist.Normal:
    """q(x_t | x)."""
    return dist.Normal(signal(gamma) * x, noise(gamma))


def less_noised(x_t: Tensor, x: Tensor, gamma_s: Tensor, gamma_t: Tensor) -> dist.Normal:
    """`q(x_s | x_t, x) = N(alpha_s ((1 - c) x_t / alpha_t + c x), c sigma_s^2)`, for a level s with less noise than t.

    Source: Ho et al. 2020 (arXiv:2006.11239), equation 7; in these terms Kingma et al. 2021 (arXiv:2107.00630).
    """
    c = renewed(gamma_s, gamma_t)
    mean = signal(gamma_s) * ((1 - c) * x_t / signal(gamma_t) + c * x)
    return dist.Normal(mean, c.sqrt() * noise(gamma_s))


def _from_x(output: Tensor, x_t: Tensor, gamma: Tensor) -> Tensor:
    return output


def _from_eps(output: Tensor, x_t: Tensor, gamma: Tensor) -> Tensor:
    """From an estimate of eps in `x_t = alpha x + sigma eps`."""
    return (x_t - noise(gamma) * output) / signal(gamma)


def _from_v(output: Tensor, x_t: Tensor, gamma: Tensor) -> Tensor:
    """From an estimate of `v = alpha eps - sigma x`."""
    return signal(gamma) * x_t - noise(gamma) * output


PARAMETERIZATIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "eps": _from_eps,
    "x": _from_x,
    "v": _from_v,
}
"""What a network may estimate, each with x as a function of the network's output, x_t and gamma.

Source: Ho et al. 2020 (arXiv:2006.11239); for v Salimans & Ho 2022 (arXiv:2202.00512).
"""
