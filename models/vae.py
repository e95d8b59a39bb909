"""The variational autoencoder: a prior, a likelihood and an amortized posterior."""

from collections.abc import Sequence

import pyro
import torch
from torch import Tensor, nn

from ppvae.arguments import ImageShape, Levels, Observed, Size, Sizes, checked
from ppvae.mode import mode
from ppvae.models.named_likelihoods import LIKELIHOODS
from ppvae.models.parts.likelihood import AnyLikelihood
from ppvae.models.parts.posteriors import POSTERIOR_FAMILIES
from ppvae.models.parts.priors import PRIORS
from ppvae.networks import convolutional_decoder, convolutional_encoder, mlp
from ppvae.pair import Pair
from ppvae.recipes import remembered


class VAE(Pair):
    """`p(z) p(x | z)` with the guide `q(z | x)`, from parts.

    A beta-VAE is this pair trained with `ppvae.ELBO(beta=...)`.

    Source: Kingma & Welling 2014 (arXiv:1312.6114).

    Args:
        prior: forward() returns p(z).
        likelihood: forward(z) returns p(x | z).
        posterior: forward(x) returns q(z | x).

    Example:
        >>> vae = VAE.mlp(num_features=64, num_latents=8, hidden=[100])
        >>> vae.log_weights(vae.sample(5), num_particles=10).log_w.shape
        torch.Size([10, 5])
    """

    @checked
    def __init__(self, prior: nn.Module, likelihood: AnyLikelihood, posterior: nn.Module):
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior
        # In evaluation mode: in training mode, batch norms would learn from the draw, or refuse a single one.
        with mode(self, training=False), torch.no_grad():
            self.example = torch.zeros(1, *likelihood(prior().sample((1,))).event_shape)

    @classmethod
    @checked
    @remembered
    def mlp(
        cls,
        num_features: Size,
        num_latents: Size,
        hidden: Sequence[Size] = (200, 200),
        likelihood: str = "bernoulli",
        posterior: str = "diagonal",
        activation: type[nn.Module] = nn.Tanh,
        levels: Levels = 256,
        prior: str = "normal",
    ) -> "VAE":
        """A VAE of multilayer perceptrons on vectors.

        Args:
            num_features: size of x.
            num_latents: size of z.
            hidden: sizes of the encoder's hidden layers; the decoder's are the same, reversed.
            likelihood: a name in `ppvae.models.named_likelihoods.LIKELIHOODS`: "bernoulli", "gaussian" (one learned
                sigma), "heteroscedastic" (sigma(z), a network), "poisson", or another.
            posterior: a name in `ppvae.models.parts.posteriors.POSTERIOR_FAMILIES`: "diagonal", "full", "flow" or
                another.
            activation: of the hidden layers.
            levels: number of gray levels, for "logistic_mixture" and "categorical"; data are `k / (levels - 1)`. Or of
                categories, for "ordinal"; data are k.
            prior: a name in `ppvae.models.parts.priors.PRIORS`: "normal", "mixture", "vamp" or another.

        Raises:
            ValueError: a likelihood, posterior or prior that is not in its registry.
        """

        def encoder(num_outputs: int) -> nn.Module:
            return LIKELIHOODS[likelihood].seen(mlp(num_features, hidden, num_outputs, activation))

        def decoder(num_outputs: int) -> nn.Module:
            return mlp(num_latents, hidden[::-1], num_outputs, activation)

        family = POSTERIOR_FAMILIES[posterior].of(encoder, num_latents)
        return cls(
            PRIORS[prior].make(num_latents, family, (num_features,)),
            LIKELIHOODS[likelihood].of(decoder, (num_features,), levels),
            family,
        )

    @classmethod
    @checked
    @remembered
    def convolutional(
        cls,
        shape: ImageShape,
        num_latents: Size,
        channels: Sizes = (16, 32),
        likelihood: str = "bernoulli",
        posterior: str = "diagonal",
        levels: Levels = 256,
        prior: str = "normal",
    ) -> "VAE":
        """A VAE on images `[C, H, W]`: strided convolutions in the encoder, bilinear upsampling in the decoder.

        Args:
            shape: `(C, H, W)`.
            num_latents: size of z.
            channels: of the encoder's convolutions; the decoder's are the same, reversed.
            likelihood: as in `mlp`.
            posterior: as in `mlp`.
            levels: as in `mlp`.
            prior: as in `mlp`.

        Raises:
            ValueError: a likelihood, posterior or prior that is not in its registry.
        """

        def encoder(num_outputs: int) -> nn.Module:
            return LIKELIHOODS[likelihood].seen(convolutional_encoder(shape, channels, num_outputs))

        def decoder(num_outputs: int) -> nn.Module:
            return convolutional_decoder(num_latents, channels[::-1], (num_outputs, *shape[1:]))

        family = POSTERIOR_FAMILIES[posterior].of(encoder, num_latents)
        return cls(
            PRIORS[prior].make(num_latents, family, shape), LIKELIHOODS[likelihood].of(decoder, shape, levels), family
        )

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", self.posterior(x))

    @checked
    def init_from(self, x: Observed) -> "VAE":
        """Initializes the likelihood from data (output bias at their mean, a learned sigma at their spread), and the
        prior if it supports this, as `VampPrior` does; returns self."""
        self.likelihood.init_from(x)
        start_prior = getattr(self.prior, "init_from", None)
        if start_prior is not None:
            start_prior(x)
        return self
