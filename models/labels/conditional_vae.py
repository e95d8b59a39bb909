"""The conditional variational autoencoder: a VAE of data given labels or covariates."""

from collections.abc import Sequence

import pyro
import torch
from torch import Tensor, nn

from ppvae.arguments import Levels, Observed, Size, checked
from ppvae.mode import mode
from ppvae.models.named_likelihoods import LIKELIHOODS
from ppvae.models.parts.indices import label_vectors
from ppvae.models.parts.joining import joined
from ppvae.models.parts.likelihood import AnyLikelihood
from ppvae.models.parts.posteriors import POSTERIOR_FAMILIES
from ppvae.models.parts.priors import StandardNormal
from ppvae.networks import mlp
from ppvae.pair import Pair
from ppvae.recipes import remembered


class ConditionalVAE(Pair):
    """`p(z) p(x | z, c)` with the guide `q(z | x, c)`: a density of x given c, which has none of its own.

    Takes a tuple `(x, c)`: covariates c, `[B, C]`, or labels, whole numbers `[B]` from 0 to C - 1. The parts are given
    vectors side by side: z and c, or x and c, with a one at the label's place. `pair.sample((x, c))` draws data for
    chosen c, and does not look at x.

    Source: Sohn, Lee & Yan 2015.

    Args:
        prior: forward() returns p(z).
        likelihood: forward(zc), `[*, D + C]`, returns p(x | z, c).
        posterior: forward(xc), `[*, F + C]`, returns q(z | x, c).
        num_covariates: C.

    Example:
        >>> pair = ConditionalVAE.mlp(num_features=5, num_latents=2, num_covariates=3)
        >>> x, label = torch.zeros(4, 5), torch.tensor([0, 1, 2, 2])
        >>> pair.sample((x, label)).shape
        torch.Size([4, 5])
        >>> pair.log_weights((x, label), num_particles=10).log_w.shape
        torch.Size([10, 4])
    """

    @checked
    def __init__(self, prior: nn.Module, likelihood: AnyLikelihood, posterior: nn.Module, num_covariates: Size):
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior
        self.num_covariates = num_covariates
        with mode(self, training=False), torch.no_grad():
            z = prior().sample()
            c = torch.zeros(1, num_covariates, device=z.device)
            event_shape = likelihood(joined(z, c)).event_shape
        self.example = (torch.zeros(1, *event_shape), c)

    @classmethod
    @checked
    @remembered
    def mlp(
        cls,
        num_features: Size,
        num_latents: Size,
        num_covariates: Size,
        hidden: Sequence[Size] = (200, 200),
        likelihood: str = "bernoulli",
        posterior: str = "diagonal",
        levels: Levels = 256,
    ) -> "ConditionalVAE":
        """A conditional VAE of multilayer perceptrons on vectors.

        Args:
            num_features: F, size of x.
            num_latents: D, size of z.
            num_covariates: C: size of c, or the number of classes.
            hidden: sizes of the encoder's hidden layers; the decoder's are the same, reversed.
            likelihood: as in `VAE.mlp`.
            posterior: as in `VAE.mlp`.
            levels: as in `VAE.mlp`.

        Raises:
            ValueError: a likelihood or posterior that is not in its registry.
        """

        def encoder(num_outputs: int) -> nn.Module:
            return mlp(num_features + num_covariates, hidden, num_outputs)

        def decoder(num_outputs: int) -> nn.Module:
            return mlp(num_latents + num_covariates, hidden[::-1], num_outputs)

        return cls(
            StandardNormal(num_latents),
            LIKELIHOODS[likelihood].of(decoder, (num_features,), levels),
            POSTERIOR_FAMILIES[posterior].of(encoder, num_latents),
            num_covariates,
        )

    def model(self, x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(joined(z, self._vectors(c, z))), obs=x)

    def guide(self, x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", self.posterior(joined(x, self._vectors(c, x))))

    def _vectors(self, c: Tensor, like: Tensor) -> Tensor:
        """Covariates as they are, labels with a one each."""
        if c.dim() == 1 and c.is_floating_point():
            raise ValueError(
                f"c: found real numbers of shape [B], expected covariates [B, {self.num_covariates}], or labels [B], "
                "whole numbers; pass c.unsqueeze(1) for one covariate, c.long() for labels"
            )
        return label_vectors(c, self.num_covariates, like) if c.dim() == 1 else c

    @checked
    def init_from(self, x: Observed) -> "ConditionalVAE":
        """Initializes the likelihood from data; returns self."""
        self.likelihood.init_from(x)
        return self
