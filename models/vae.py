"""The variational autoencoder: a prior, a likelihood and an amortised posterior."""

from collections.abc import Sequence

import pyro
import torch
from torch import Tensor, nn

from ppvae.models.conditionals import DiagonalNormal, FullNormal
from ppvae.models.flows import CouplingFlow
from ppvae.models.likelihoods import Likelihood, image_likelihood, mlp_likelihood
from ppvae.models.priors import StandardNormal
from ppvae.networks import convolutional_decoder, convolutional_encoder, mlp
from ppvae.pair import Pair


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

    def __init__(self, prior: nn.Module, likelihood: Likelihood, posterior: nn.Module):
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior
        with torch.no_grad():
            self.example = torch.zeros(1, *likelihood(prior().sample()).event_shape)

    @classmethod
    def mlp(
        cls,
        num_features: int,
        num_latents: int,
        hidden: Sequence[int] = (200, 200),
        likelihood: str = "bernoulli",
        posterior: str = "diagonal",
        activation: type[nn.Module] = nn.Tanh,
        levels: int = 256,
    ) -> "VAE":
        """A VAE of multilayer perceptrons on vectors.

        Args:
            num_features: size of x.
            num_latents: size of z.
            hidden: sizes of the encoder's hidden layers; the decoder's are the same, reversed.
            likelihood: "bernoulli", "gaussian" (one learnt sigma), "heteroscedastic" (sigma(z), a network), or, for
                gray levels, "logistic_mixture" or "categorical".
            posterior: "diagonal" or "full" covariance, or "flow".
            activation: of the hidden layers.
            levels: of gray, for the last two likelihoods; data are `k / (levels - 1)`.

        Raises:
            ValueError: a likelihood or posterior of another name.
        """
        encoder = mlp(num_features, hidden, num_posterior_outputs(posterior, num_latents), activation)
        return cls(
            StandardNormal(num_latents),
            mlp_likelihood(likelihood, num_latents, hidden[::-1], num_features, activation, levels),
            posterior_family(posterior, encoder, num_latents),
        )

    @classmethod
    def convolutional(
        cls,
        shape: tuple[int, int, int],
        num_latents: int,
        channels: Sequence[int] = (16, 32),
        likelihood: str = "bernoulli",
        posterior: str = "diagonal",
        levels: int = 256,
    ) -> "VAE":
        """A VAE on images `[C, H, W]`: strided convolutions in the encoder, bilinear upsampling in the decoder.

        Args:
            shape: `(C, H, W)`.
            num_latents: size of z.
            channels: of the encoder's convolutions; the decoder's are the same, reversed.
            likelihood: "bernoulli", "gaussian" (one learnt sigma), or, for gray levels, "logistic_mixture" or
                "categorical".
            posterior: "diagonal" or "full" covariance, or "flow".
            levels: of gray, for the last two likelihoods; data are `k / (levels - 1)`.

        Raises:
            ValueError: a likelihood or posterior of another name.
        """
        encoder = convolutional_encoder(shape, channels, num_posterior_outputs(posterior, num_latents))

        def decoder(num_outputs: int) -> nn.Module:
            return convolutional_decoder(num_latents, channels[::-1], (num_outputs, *shape[1:]))

        return cls(
            StandardNormal(num_latents),
            image_likelihood(likelihood, decoder, shape, levels),
            posterior_family(posterior, encoder, num_latents),
        )

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", self.posterior(x))

    def init_from(self, x: Tensor) -> "VAE":
        """Starts the likelihood at the data: output bias at the mean of x, a learnt sigma at its spread."""
        self.likelihood.init_from(x)
        return self


def num_posterior_outputs(posterior: str, num_latents: int) -> int:
    """The size of an encoder's output for a posterior family, "diagonal", "full" or "flow"."""
    return FullNormal.num_outputs(num_latents) if posterior == "full" else 2 * num_latents


def posterior_family(posterior: str, encoder: nn.Module, num_latents: int) -> nn.Module:
    """The posterior family of that name on an encoder."""
    if posterior == "diagonal":
        return DiagonalNormal(encoder)
    if posterior == "full":
        return FullNormal(encoder, num_latents)
    if posterior == "flow":
        return CouplingFlow(encoder, num_latents)
    raise ValueError(f"posterior: found {posterior!r}, expected 'diagonal', 'full' or 'flow'")
