"""The VQ-VAE of two levels: a map of codes for what is global, and one below it, given it, for the detail."""

import copy

import pyro
import torch
from torch import Tensor, nn

from ppvae.arguments import Count, Fraction, Levels, Observed, Size, checked
from ppvae.mode import mode
from ppvae.models.autoregressive.autoregressive_prior import AutoregressivePrior
from ppvae.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from ppvae.models.codes.code_level import CodeLevel
from ppvae.models.codes.code_maps import decoder_of_maps, encoder_to_maps, over_maps
from ppvae.models.codes.code_priors import UniformCodes
from ppvae.models.codes.code_search import Joint
from ppvae.models.codes.code_vectors import looked_up, nearest
from ppvae.models.codes.codebook import Codebook
from ppvae.models.codes.coded_pair import CodedPair, Quantize
from ppvae.models.named_likelihoods import LIKELIHOODS
from ppvae.models.parts.likelihood import AnyLikelihood
from ppvae.recipes import remembered


class VQVAE2(CodedPair):
    """`p(top) p(bottom | top) p(x | top, bottom)`: two maps of codes, guided by the nearest, the top one first.

    The guide is `q(top | x) q(bottom | x, top)`, one value each. The sites "top" and "bottom" carry code vectors. All
    that `VQVAE` says holds here: the ELBO is `log p(x | codes) + log p(codes)`, its gap `-log p(codes | x)`; train the
    first stage by `ppvae.VectorQuantizedELBO()`.

    The second stage learns the priors alone, and climbs the same ELBO: from uniform priors, it rises by
    `P_top log K_top + P_bottom log K_bottom` minus the cross-entropy of the codes.

    Source: Razavi et al. 2019 (arXiv:1906.00446).

    Args:
        encoder: `[*, *event] -> [*, *bottom.shape, F]`, the features of x.
        top: from these features.
        bottom: from these features and the top's vectors, laid over the bottom's positions:
            `[*, *bottom.shape, D_top + F]`.
        likelihood: forward(z) returns p(x | top, bottom), z `[*, *bottom.shape, D_top + D_bottom]`.

    Example:
        >>> pair = VQVAE2.convolutional((1, 8, 8), num_codes=4, code_dim=2, channels=4)
        >>> x = pair.sample(5)
        >>> [codes.shape for codes in pair.codes(x)]
        [torch.Size([5, 1, 1]), torch.Size([5, 2, 2])]
    """

    @checked
    def __init__(self, encoder: nn.Module, top: CodeLevel, bottom: CodeLevel, likelihood: AnyLikelihood):
        super().__init__()
        self.encoder, self.top, self.bottom, self.likelihood = encoder, top, bottom, likelihood
        with mode(self, training=False), torch.no_grad():
            above = bottom.laid_under(top.vectors().sample((1,)))
            below = bottom.vectors(above).expand((1,)).sample()
            self.event_shape = likelihood(torch.cat([above, below], -1)).event_shape
        self.example = torch.zeros(1, *self.event_shape)

    @classmethod
    @checked
    @remembered
    def convolutional(
        cls,
        shape: tuple[Size, Size, Size],
        num_codes: Size,
        code_dim: Size,
        channels: Size = 32,
        num_halvings: Count = 2,
        likelihood: str = "bernoulli",
        decay: Fraction | None = None,
        levels: Levels = 256,
    ) -> "VQVAE2":
        """A VQ-VAE-2 on images `[C, H, W]`, of convolutions, with uniform priors.

        Args:
            shape: `(C, H, W)`.
            num_codes: K, of each level.
            code_dim: D, of each level.
            channels: of all hidden maps.
            num_halvings: how many times the bottom's map is halved from the image, rounded up; the top's once more.
            likelihood: a name in `ppvae.models.named_likelihoods.LIKELIHOODS`.
            decay: of the codebooks' running averages; None for learning by gradient.
            levels: number of gray levels, for "logistic_mixture" and "categorical".

        Raises:
            ValueError: a likelihood that is not in its registry.
        """
        below = tuple(-(-side // 2**num_halvings) for side in shape[1:])
        above = tuple(-(-side // 2) for side in below)

        def level(positions: tuple[int, ...], num_in: int, stride: int) -> CodeLevel:
            encoder = over_maps(nn.Conv2d(num_in, channels, 3, stride, 1), nn.ReLU(), nn.Conv2d(channels, code_dim, 1))
            codebook = Codebook(num_codes, code_dim, decay=decay)
            return CodeLevel(positions, encoder, codebook, UniformCodes(positions, num_codes))

        def decoder(num_outputs: int) -> nn.Module:
            return decoder_of_maps(2 * code_dim, channels, (num_outputs, *shape[1:]), num_halvings)

        return cls(
            encoder_to_maps(shape[0], channels, num_halvings),
            level(above, channels, stride=2),
            level(below, channels + code_dim, stride=1),
            LIKELIHOODS[likelihood].of(decoder, shape, levels),
        )

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            above = self.bottom.laid_under(pyro.sample("top", self.top.vectors()))
            below = pyro.sample("bottom", self.bottom.vectors(above))
            pyro.sample("x", self.likelihood(torch.cat([above, below], -1)), obs=x)

    def draw_codes(self, x: Tensor, quantize: Quantize) -> None:
        top, bottom, features = self.top, self.bottom, self.encoder(x)
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("top", quantize(top.codebook, top.encoder(features), top.event_dim, top.indices))
            above = bottom.laid_under(z)
            h = bottom.encoder(self._beside(above, features))
            pyro.sample("bottom", quantize(bottom.codebook, h, bottom.event_dim, lambda: bottom.indices(above)))

    @staticmethod
    def _beside(above: Tensor, features: Tensor) -> Tensor:
        """The top's vectors and features of x, which have no particles, at each of the bottom's positions."""
        return torch.cat([above, features.expand(*above.shape[:-1], -1)], -1)

    @checked
    @torch.no_grad()
    def codes(self, x: Observed) -> tuple[Tensor, Tensor]:
        """The indices of the codes of each data point, `[N, *top.shape]` and `[N, *bottom.shape]`."""
        to_top, to_bottom = self._held_against(x)
        return nearest(to_top, self.top.codebook.codes), nearest(to_bottom, self.bottom.codebook.codes)

    def _held_against(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the codes of each level are nearest to."""
        features = self._encoded(x)
        with mode(self, training=False):
            to_top = self.top.codebook.scaled(self.top.encoder(features))
            codes = self.top.codebook.codes
            above = self.bottom.laid_under(looked_up(codes, nearest(to_top, codes)))
            return to_top, self.bottom.codebook.scaled(self.bottom.encoder(self._beside(above, features)))

    def _nearest(self, x: Tensor) -> Tensor:
        return torch.cat([codes.flatten(1) for codes in self.codes(x)], -1)

    def _joint(self, x: Tensor) -> Joint:
        levels = (self.top, self.bottom)
        sizes = [torch.Size(level.shape).numel() for level in levels]

        def log_joint(index: Tensor) -> Tensor:
            at_top, at_bottom = (
                part.unflatten(-1, level.shape) for part, level in zip(index.split(sizes, -1), levels, strict=True)
            )
            above = self.bottom.laid_under(looked_up(self.top.codebook.codes, at_top))
            below = looked_up(self.bottom.codebook.codes, at_bottom)
            z = torch.cat([above, below], -1)
            log_prior = self.top.indices().log_prob(at_top) + self.bottom.indices(above).log_prob(at_bottom)
            return log_prior + self._log_likelihood(z, x)

        num_codes = [level.codebook.codes.shape[1] for level in levels for _ in range(torch.Size(level.shape).numel())]
        return Joint(log_joint, num_codes, x)

    @checked
    @torch.no_grad()
    def init_from(self, x: Observed) -> "VQVAE2":
        """Initializes the likelihood from data, and the codes, the top's first, by k-means; returns self."""
        to_top, _ = self._held_against(x)  # which refuses x of another shape before anything changes
        self.likelihood.init_from(x)
        self.top.codebook.init_from(to_top)
        self.bottom.codebook.init_from(self._held_against(x)[1])
        return self

    @checked
    @torch.no_grad()
    def usage(self, x: Observed) -> tuple[Tensor, Tensor]:
        """How many times data points x have each code of each level, over all of x, `[G, K]` each."""
        to_top, to_bottom = self._held_against(x)
        return self.top.codebook.counts(to_top), self.bottom.codebook.counts(to_bottom)

    @checked
    @torch.no_grad()
    def restart_dead_codes(self, x: Observed, least: Count = 1) -> int:
        """Moves codes that x has fewer than `least` times, as `VQVAE.restart_dead_codes` does; returns how many."""
        num = 0
        for number, level in enumerate((self.top, self.bottom)):
            h = self._held_against(x)[number]
            num += level.codebook.place(level.codebook.counts(h) < least, h)
        return num

    @checked
    def pixel_priors(self, width: Size = 32, num_layers: Count = 4) -> tuple[nn.Module, nn.Module]:
        """Priors for the second stage: a Gated PixelCNN of the top's codes, and one of the bottom's given the top's.

        Args:
            width: channels of the features of each stack; even.
            num_layers: of each stack.
        """
        of_top, of_bottom = (
            GatedPixelCNN(level.shape, level.codebook.codes.shape[1], width, num_layers, num_condition=condition)
            for level, condition in ((self.top, 0), (self.bottom, width))
        )
        code_dim = self.top.codebook.codes.shape[-1]
        told = over_maps(nn.Conv2d(code_dim, width, 3, padding=1), nn.ReLU(), vectors_last=False)
        return AutoregressivePrior(of_top), nn.Sequential(told, AutoregressivePrior(of_bottom))

    @checked
    def second_stage(self, top_prior: nn.Module, bottom_prior: nn.Module) -> "VQVAE2":
        """A copy with other priors, which alone learn: all else, the codes included, stays as it is."""
        after = copy.deepcopy(self).requires_grad_(False)
        after.top.codebook.decay = after.bottom.codebook.decay = None
        after.top.prior, after.bottom.prior = top_prior, bottom_prior
        return after
