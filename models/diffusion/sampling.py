"""Samples of a diffusion in fewer steps than it was trained with."""

from itertools import pairwise

import torch
from torch import Tensor

from ppvae.arguments import Count, Fraction, checked
from ppvae.mode import mode
from ppvae.models.diffusion.diffusion_vae import DiffusionVAE
from ppvae.models.diffusion.noising import noise, renewed, signal


@checked
@torch.no_grad()
def sample_ddim(pair: DiffusionVAE, num: Count, num_steps: Count | None = None, eta: Fraction = 0.0) -> Tensor:
    """Data from noise, in any number of steps, `[num, *shape]`: deterministic given x_T, or with fresh noise at each.

    From level t to s, `x_s = alpha_s x^ + sigma_s (sqrt(1 - eta^2 c) eps^ + eta sqrt(c) n)`, with x^ and eps^ the data
    and the noise that the network sees in x_t, n ~ N(0, I), and c the share of the noise in x_t that came after s.
    The last step gives the mean of p(x | x_1). With eta = 1 this is ancestral sampling with the posterior's variance.

    These are not draws from the pair's p(x): `pair.sample` gives those, in all T steps. With a perfect network both
    approach the data's distribution as the number of steps grows; in few steps, deterministic sampling is closer.

    Source: Song et al. 2021 (arXiv:2010.02502).

    Args:
        pair: the diffusion.
        num: how many data points.
        num_steps: evaluations of the network, 2 to T, at evenly spaced steps from T to 1; T if not given.
        eta: 0 for the deterministic process, 1 for ancestral sampling, or between.

    Raises:
        ValueError: a number of steps or an eta out of range.

    Example:
        >>> from ppvae.models import MLPDenoiser
        >>> pair = DiffusionVAE(MLPDenoiser(5), shape=[5], num_steps=1000)
        >>> sample_ddim(pair, 4, num_steps=10).shape
        torch.Size([4, 5])
    """
    num_steps = pair.num_steps if num_steps is None else num_steps
    if not min(2, pair.num_steps) <= num_steps <= pair.num_steps:
        raise ValueError(f"num_steps: found {num_steps}, expected 2 to {pair.num_steps}, the pair's own")
    steps = torch.linspace(pair.num_steps - 1, 0, num_steps).round().long()
    with mode(pair, training=False):
        levels = pair.levels()[steps]
        x_t = torch.randn(num, *pair.shape, dtype=levels.dtype, device=levels.device)
        for gamma_t, gamma_s in pairwise(levels):
            x_hat = pair.denoised(x_t, gamma_t)
            eps_hat = (x_t - signal(gamma_t) * x_hat) / noise(gamma_t)
            c = renewed(gamma_s, gamma_t)
            direction = (1 - eta**2 * c).sqrt() * eps_hat + eta * c.sqrt() * torch.randn_like(x_t)
            x_t = signal(gamma_s) * x_hat + noise(gamma_s) * direction
        return pair.decoded(pair.denoised(x_t, levels[-1])).mean
