"""The posterior families q(z | x) by name: Gaussian conditionals, mixtures of them, and flows."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ppvae.models.parts.conditionals import DiagonalNormal, FullNormal, LowRankNormal, NormalMixture
from ppvae.models.parts.flow_posteriors import CouplingFlow, InverseAutoregressiveFlow, SplineFlow
from ppvae.models.parts.registry import NamedPart, Registry


@dataclass(frozen=True, kw_only=True)
class NamedPosterior(NamedPart):
    """A posterior family by name.

    Attributes:
        num_outputs: the size of the encoder's output for D latents.
        make: makes the posterior from an encoder `[*, *event] -> [*, num_outputs(D)]`, and D.
        num_particles: the least that training by the ELBO takes.
    """

    num_outputs: Callable[[int], int]
    make: Callable[[nn.Module, int], nn.Module]
    num_particles: int = 1

    def of(self, encoder: Callable[[int], nn.Module], num_latents: int) -> nn.Module:
        """The posterior on a new encoder.

        Args:
            encoder: given the size of its output, a module `[*, *event] -> [*, size]`.
            num_latents: D.
        """
        return self.make(encoder(self.num_outputs(num_latents)), num_latents)


def location_and_scale(num_latents: int) -> int:
    """The outputs of an encoder that gives two numbers for each latent."""
    return 2 * num_latents


POSTERIOR_FAMILIES = Registry(
    "posterior",
    "for another, build the pair of modules",
    NamedPosterior(
        name="diagonal",
        module=DiagonalNormal,
        summary="a Gaussian with independent latents",
        source="Kingma & Welling 2014",
        num_outputs=location_and_scale,
        make=lambda encoder, num_latents: DiagonalNormal(encoder),
    ),
    NamedPosterior(
        name="low-rank",
        module=LowRankNormal,
        summary="a Gaussian whose covariance is diagonal plus rank two",
        source="Rezende et al. 2014",
        num_outputs=LowRankNormal.num_outputs,
        make=LowRankNormal,
    ),
    NamedPosterior(
        name="full",
        module=FullNormal,
        summary="a Gaussian with any covariance, by its Cholesky factor",
        num_outputs=FullNormal.num_outputs,
        make=FullNormal,
    ),
    NamedPosterior(
        name="mixture",
        module=NormalMixture,
        summary="four diagonal Gaussians; needs two particles or more",
        source="Morningstar et al. 2021",
        num_outputs=NormalMixture.num_outputs,
        make=NormalMixture,
        num_particles=2,
    ),
    NamedPosterior(
        name="flow",
        module=CouplingFlow,
        summary="affine couplings of a diagonal Gaussian",
        source="Rezende & Mohamed 2015",
        num_outputs=location_and_scale,
        make=CouplingFlow,
    ),
    NamedPosterior(
        name="spline",
        module=SplineFlow,
        summary="couplings of monotone splines, which may have several modes",
        source="Durkan et al. 2019",
        num_outputs=location_and_scale,
        make=SplineFlow,
    ),
    NamedPosterior(
        name="iaf",
        module=InverseAutoregressiveFlow,
        summary="masked networks in place of couplings; the density of any other z is sequential",
        source="Kingma et al. 2016",
        num_outputs=location_and_scale,
        make=InverseAutoregressiveFlow,
    ),
)
