"""The variational autoencoder: a prior, a likelihood and an amortized posterior."""

from collections.abc import Callable, Sequence

import pyro
import torch
from torch import Tensor, nn

from ppvae.mode import mode
from ppvae.models.parts.conditionals import DiagonalNormal, FullNormal, LowRankNormal, NormalMixture
from ppvae.models.parts.flow_posteriors import CouplingFlow, InverseAutoregressiveFlow, SplineFlow
from ppvae.models.parts.likelihoods import Likelihood, image_likelihood, mlp_likelihood
from ppvae.models.parts.priors import VampPrior, prior_of
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
        with mode(self, training=False), torch.no_grad():  # batch norms neither take one draw nor learn from it
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
        prior: str = "normal",
    ) -> "VAE":
        """A VAE of multilayer perceptrons on vectors.

        Args:
            num_features: size of x.
            num_latents: size of z.
            hidden: sizes of the encoder's hidden layers; the decoder's are the same, reversed.
            likelihood: "bernoulli", "gaussian" (one learned sigma), "heteroscedastic" (sigma(z), a network), or, for
                gray levels, "logistic_mixture" or "categorical".
            posterior: "diagonal", "low-rank" or "full" covariance, "mixture" (of Gaussians), "flow" (of affine
                couplings), "spline" (couplings of splines) or "iaf" (inverse autoregressive flow).
            activation: of the hidden layers.
            levels: of gray, for the last two likelihoods; data are `k / (levels - 1)`.
            prior: "normal", "mixture" (of ten Gaussians), "vamp" (of fifty pseudo-inputs) or "flow" (of couplings).

        Raises:
            ValueError: a likelihood, posterior or prior of another name.
        """
        encoder = mlp(num_features, hidden, num_posterior_outputs(posterior, num_latents), activation)
        family = posterior_family(posterior, encoder, num_latents)
        return cls(
            prior_of(prior, num_latents, family, (num_features,)),
            mlp_likelihood(likelihood, num_latents, hidden[::-1], num_features, activation, levels),
            family,
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
        prior: str = "normal",
    ) -> "VAE":
        """A VAE on images `[C, H, W]`: strided convolutions in the encoder, bilinear upsampling in the decoder.

        Args:
            shape: `(C, H, W)`.
            num_latents: size of z.
            channels: of the encoder's convolutions; the decoder's are the same, reversed.
            likelihood: "bernoulli", "gaussian" (one learned sigma), or, for gray levels, "logistic_mixture" or
                "categorical".
            posterior: "diagonal", "low-rank" or "full" covariance, "mixture" (of Gaussians), "flow" (of affine
                couplings), "spline" (couplings of splines) or "iaf" (inverse autoregressive flow).
            levels: of gray, for the last two likelihoods; data are `k / (levels - 1)`.
            prior: "normal", "mixture" (of ten Gaussians), "vamp" (of fifty pseudo-inputs) or "flow" (of couplings).

        Raises:
            ValueError: a likelihood, posterior or prior of another name.
        """
        encoder = convolutional_encoder(shape, channels, num_posterior_outputs(posterior, num_latents))

        def decoder(num_outputs: int) -> nn.Module:
            return convolutional_decoder(num_latents, channels[::-1], (num_outputs, *shape[1:]))

        family = posterior_family(posterior, encoder, num_latents)
        return cls(
            prior_of(prior, num_latents, family, shape), image_likelihood(likelihood, decoder, shape, levels), family
        )

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", self.posterior(x))

    def init_from(self, x: Tensor) -> "VAE":
        """Starts at the data: the likelihood's output bias at the mean of x, a learned sigma at its spread, and a
        VampPrior's pseudo-inputs at some of them."""
        self.likelihood.init_from(x)
        if isinstance(self.prior, VampPrior):
            self.prior.init_from(x)
        return self


SIZED: dict[str, type[FullNormal | LowRankNormal | NormalMixture]] = {
    "full": FullNormal,
    "low-rank": LowRankNormal,
    "mixture": NormalMixture,
}
FLOWS = {"flow": CouplingFlow, "spline": SplineFlow, "iaf": InverseAutoregressiveFlow}
"""Posterior families by name, on networks of a size of their own, and of 2 D outputs as the diagonal's."""


def num_posterior_outputs(posterior: str, num_latents: int) -> int:
    """The size of an encoder's output for the posterior family of that name."""
    return SIZED[posterior].num_outputs(num_latents) if posterior in SIZED else 2 * num_latents


def posterior_family(posterior: str, encoder: nn.Module, num_latents: int) -> nn.Module:
    """The posterior family of that name on an encoder."""
    if posterior == "diagonal":
        return DiagonalNormal(encoder)
    families: dict[str, Callable[[nn.Module, int], nn.Module]] = {**SIZED, **FLOWS}
    if posterior not in families:
        raise ValueError(f"posterior: found {posterior!r}, expected one of {['diagonal', *families]}")
    return families[posterior](encoder, num_latents)
