"""A deep convolutional hierarchy of latent images (NVAE, BIVA): top-down model, bottom-up encoder."""

from collections.abc import Callable, Sequence
from typing import cast

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.arguments import Few, Levels, Natural, NonNegative, Observed, Size, Sizes, checked
from ppvae.models.hierarchies.residual_cells import encoder_cell, generative_cell
from ppvae.models.hierarchies.spectral import SpectralNorms
from ppvae.models.named_likelihoods import LIKELIHOODS
from ppvae.models.parts.residual_normal import ResidualNormal
from ppvae.networks import Fold
from ppvae.pair import Pair
from ppvae.refusals import refuse_shape

MOST_GROUPS = 10_000


class ConvolutionalHVAE(Pair):
    """NVAE: `p(z_L) p(z_{L-1} | z_L) ... p(z_1 | z_2 ... z_L) p(x | z_1 ... z_L)`, each z_l an image; sites "z1" ...

    For each group l, from the top: `h <- cells_l(h)`, `z_l ~ N(mu_l(h), sigma_l(h)^2)`, `h <- h + W_l z_l`; at the end
    p(x | h). h starts as a learned image. The guide takes the same path with `z_l ~ N(mu_l + delta_mu_l, (sigma_l
    delta_sigma_l)^2)`; its deltas come from h and the encoder's features of x, so a group that is not used costs
    nothing. All KL terms are in closed form. The finest groups have half of x's height and width, each further scale
    half of the one before.

    With `num_bottom_up` each group but the top one has a second latent image b_l (BIVA), sites "b1" ... In the model
    `b_l ~ N(nu_l(h), tau_l(h)^2)`, independently of z_l given all that is above, and h gets `V_l b_l` too. The guide
    draws it on the way up, `q(b_l | x, b_1 ... b_{l-1})`, and its features pass it on: so upper latents know of lower
    ones, and the guide expresses dependence in both directions. The KL of b_l has no closed form.

    The guide runs the top-down path, and the model runs it again on the draws: a training step takes 1.4 to 1.6 times
    as long as with one run, more with more groups.

    Batch norm couples the data points of a batch while the pair is in training mode. In evaluation mode (`pair.eval()`,
    and in all of ppvae's measurements) it uses running statistics, and data points are independent. These statistics
    lag behind the parameters, so a bound in evaluation is somewhat lower than in training.

    Source: Vahdat & Kautz 2020 (arXiv:2007.03898); scales without cells of their own: Child 2021 (arXiv:2011.10650);
    latents that are drawn on the way up: Maaløe et al. 2019 (arXiv:1902.02102).

    Args:
        shape: `(C, H, W)` of the images; height and width are multiples of 2 to the number of scales.
        groups: number of latent groups at each scale, the finest first.
        num_latents: channels of each latent image.
        channels: of the feature maps.
        num_cells: residual cells before each group, and at full size, in either direction.
        likelihood: a name in `ppvae.models.named_likelihoods.LIKELIHOODS`: "bernoulli" for pixels 0 and 1, "gaussian"
            (one learned sigma), "logistic_mixture" for gray levels, or another.
        levels: number of gray levels, for "logistic_mixture" and "categorical"; data are `k / (levels - 1)`.
        spectral_weight: weight of the training penalty, the sum of the layers' largest singular values
            (`ppvae.models.SpectralNorms`); NVAE uses 0.01 to 0.1.
        recompute: gradient checkpointing: feature maps within the cells are recomputed in the backward pass.
        num_bottom_up: channels of each b_l; 0 for none.

    Raises:
        ValueError: a shape that the scales do not divide, or another setting out of range.

    Example:
        >>> pair = ConvolutionalHVAE((1, 8, 8), groups=[2, 1], num_latents=3, channels=4, num_cells=1).eval()
        >>> {name: tuple(z.shape) for name, z in pair.latents(pair.sample(5), num_particles=2).items()}
        {'z3': (2, 5, 3, 2, 2), 'z2': (2, 5, 3, 4, 4), 'z1': (2, 5, 3, 4, 4)}
    """

    @checked
    def __init__(
        self,
        shape: Sizes,
        groups: Sequence[Natural] = (10, 5),
        num_latents: Size = 20,
        channels: Size = 32,
        num_cells: Few = 2,
        likelihood: str = "bernoulli",
        levels: Levels = 256,
        spectral_weight: NonNegative = 0.0,
        recompute: bool = False,
        num_bottom_up: Natural = 0,
    ):
        super().__init__()
        _check(shape, groups)

        def cells(make: Callable[..., nn.Module]) -> list[nn.Module]:
            return [make(channels, recompute) for _ in range(num_cells)]

        first = [group == 0 for size in groups for group in range(size)]  # of its scale, seen from x
        self.stem = Fold(nn.Sequential(nn.Conv2d(shape[0], channels, 3, padding=1), *cells(encoder_cell)), 3)
        self.encoder = nn.ModuleList(
            Fold(nn.Sequential(*[nn.AvgPool2d(2)] * halved, *cells(encoder_cell)), 3) for halved in first
        )
        self.groups = nn.ModuleList(
            LatentGroup(channels, num_latents, nn.Sequential(*[_doubled()] * doubled, *cells(generative_cell)))
            for doubled in first[1:]
        )
        self.groups.append(LatentGroup(channels, num_latents, nn.Sequential()))  # nothing has been drawn above it
        self.upwards = nn.ModuleList(UpwardLatent(channels, num_bottom_up) for _ in first[1:] if num_bottom_up)
        self.start = nn.Parameter(torch.zeros(channels, *(side // 2 ** len(groups) for side in shape[1:])))

        def decoder(num_outputs: int) -> nn.Module:
            last = nn.Conv2d(channels, num_outputs, 3, padding=1)
            return Fold(nn.Sequential(_doubled(), *cells(generative_cell), nn.SiLU(), last), 3)

        self.likelihood = LIKELIHOODS[likelihood].of(decoder, shape, levels)
        self.spectral_weight = spectral_weight
        self.spectral_norms = SpectralNorms(self) if spectral_weight else None
        self.shape = tuple(shape)
        self.example = torch.zeros(1, *shape)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", self.likelihood(self._top_down()), obs=x)

    def guide(self, x: Tensor) -> None:
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"x: found {list(x.shape)}, expected images [batch, C, H, W] with (C, H, W) = {self.shape}; give flat "
                "data that shape with x.reshape(-1, C, H, W)"
            )
        with pyro.plate("data", x.shape[0], dim=-1):
            self._top_down(*self._bottom_up(x))

    def _bottom_up(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The guide's features for each group, and b_1 ..., which it draws on the way."""
        features, drawn, f = [], [], self.stem(x)
        for index, blocks in enumerate(self.encoder):
            f = blocks(f)
            features.append(f)
            if index < len(self.upwards):
                upward = cast(UpwardLatent, self.upwards[index])
                b = pyro.sample(f"b{index + 1}", upward.posterior(f))
                drawn.append(b)
                f = f + upward.merge_up(b)
        return features, drawn

    def _top_down(self, features: Sequence[Tensor] = (), drawn: Sequence[Tensor] = ()) -> Tensor:
        """Draws the latents, from the model's conditionals or, given x's features, the guide's; returns the last h."""
        h: Tensor = self.start
        for index in reversed(range(len(self.groups))):
            group = cast(LatentGroup, self.groups[index])
            h = group.cells(h)
            conditional = group.posterior(h, features[index]) if features else group.prior(h)
            added = group.merge(pyro.sample(f"z{index + 1}", conditional))
            if index < len(self.upwards):
                upward = cast(UpwardLatent, self.upwards[index])
                b = drawn[index] if features else pyro.sample(f"b{index + 1}", upward.prior(h))
                added = added + upward.merge(b)
            h = h + added
        return h

    def penalty(self) -> Tensor | float:
        """`spectral_weight * sum_i s_i`, in nats."""
        return self.spectral_weight * self.spectral_norms(self) if self.spectral_norms else 0.0

    @checked
    def init_from(self, x: Observed) -> "ConvolutionalHVAE":
        """Initializes the likelihood from data: its output biases, and a learned scale."""
        refuse_shape(x, self.shape)
        self.likelihood.init_from(x)
        return self


class LatentGroup(nn.Module):
    """The networks of one latent image z: its conditionals given h, and what it adds to h.

    Args:
        channels: of h and of the encoder's features.
        num_latents: channels of z.
        cells: `[N, C, H', W'] -> [N, C, H, W]`, applied to h before the group.
    """

    def __init__(self, channels: int, num_latents: int, cells: nn.Module):
        super().__init__()
        self.cells = Fold(cells, 3)
        self.prior_head = Fold(nn.Sequential(nn.SiLU(), nn.Conv2d(channels, 2 * num_latents, 1)), 3)
        self.query = Fold(nn.Conv2d(channels, channels, 1), 3)
        self.posterior_head = Fold(nn.Sequential(nn.SiLU(), nn.Conv2d(channels, 2 * num_latents, 3, padding=1)), 3)
        self.merge = Fold(nn.Conv2d(num_latents, channels, 1), 3)

    def prior(self, h: Tensor) -> dist.TorchDistribution:
        """`p(z_l | z_>l)`"""
        return dist.Normal(*_loc_and_scale(self.prior_head(h))).to_event(3)

    def posterior(self, h: Tensor, features: Tensor) -> dist.TorchDistribution:
        """`q(z_l | z_>l, x)`, relative to the prior."""
        deltas = _loc_and_scale(self.posterior_head(features + self.query(h)))
        return ResidualNormal(*deltas, self.prior(h).base_dist).to_event(3)


class UpwardLatent(nn.Module):
    """The networks of one latent image b that the guide draws on the way up.

    Args:
        channels: of h and of the encoder's features.
        num_latents: channels of b.
    """

    def __init__(self, channels: int, num_latents: int):
        super().__init__()
        self.prior_head = Fold(nn.Sequential(nn.SiLU(), nn.Conv2d(channels, 2 * num_latents, 1)), 3)
        self.posterior_head = Fold(nn.Sequential(nn.SiLU(), nn.Conv2d(channels, 2 * num_latents, 3, padding=1)), 3)
        self.merge = Fold(nn.Conv2d(num_latents, channels, 1), 3)
        self.merge_up = Fold(nn.Conv2d(num_latents, channels, 1), 3)

    def prior(self, h: Tensor) -> dist.TorchDistribution:
        """`p(b_l | z_>l, b_>l)`"""
        return dist.Normal(*_loc_and_scale(self.prior_head(h))).to_event(3)

    def posterior(self, features: Tensor) -> dist.TorchDistribution:
        """`q(b_l | x, b_<l)`"""
        return dist.Normal(*_loc_and_scale(self.posterior_head(features))).to_event(3)


def _loc_and_scale(out: Tensor) -> tuple[Tensor, Tensor]:
    """Both bounded, `|loc| < 5` and `e^-5 < scale < e^5`, so that a single bad step cannot ruin a deep hierarchy."""
    loc, log_scale = (5 * torch.tanh(out / 5)).chunk(2, -3)
    return loc, log_scale.exp()


def _doubled() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="nearest")


def _check(shape: Sequence[int], groups: Sequence[int]) -> None:
    if not groups or min(groups) < 1 or sum(groups) > MOST_GROUPS:
        raise ValueError(f"groups: found {list(groups)}, expected a number of latent groups, 1 or more, for each scale")
    factor = 2 ** len(groups)
    if len(shape) != 3 or any(side % factor for side in shape[1:]):
        raise ValueError(
            f"shape: found {tuple(shape)}, expected (C, H, W) with H and W multiples of {factor}, as each of the "
            f"{len(groups)} scales in `groups` halves them; pad or crop the images, or take fewer scales"
        )
