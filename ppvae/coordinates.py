"""Unconstrained coordinates of a continuous latent: where it has a bijection from the reals, and where it is an angle.

No bijection from the line is continuous around a circle. So an angle, or a vector of length one, is the direction of a
vector u in space. The length of u is independent of all else, and has one density, that of a standard normal vector's
length, under guide and model alike: it cancels in their ratio, and moving u never meets an end of the circle.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from ppvae.kinds import Image, is_circular, is_discrete, is_given, is_sphere, support_of
from ppvae.refusals import ContractError, family
from ppvae.sites import wrapped


class Coordinates(Protocol):
    """From u on the reals to the latent z, as torch's transforms are called."""

    @property
    def inv(self) -> Callable[[Tensor], Tensor]:
        """u of z; of a direction with a length drawn at random."""
        ...

    def __call__(self, u: Tensor) -> Tensor:
        """z of u."""
        ...

    def log_abs_det_jacobian(self, u: Tensor, z: Tensor) -> Tensor:
        """What the log density of u has beyond that of z."""
        ...


class Sphere:
    """`z = u / |u|`, for z of length one, `[..., n]`.

    `p(u) = p(z) exp(-|u|^2 / 2) / (2^(n/2 - 1) Gamma(n/2))`, with p(z) a density over the surface. Source: Muller 1959,
    Communications of the ACM 2(4), for directions of normal vectors.
    """

    def __call__(self, u: Tensor) -> Tensor:
        return u / u.norm(dim=-1, keepdim=True)

    def inv(self, z: Tensor) -> Tensor:
        return z * torch.randn_like(z).norm(dim=-1, keepdim=True)

    def log_abs_det_jacobian(self, u: Tensor, z: Tensor) -> Tensor:
        n = u.shape[-1]
        return -u.square().sum(-1) / 2 - (n / 2 - 1) * math.log(2) - math.lgamma(n / 2)


class Circle:
    """`z = atan2(u_2, u_1)`, in (-pi, pi]: the sphere in the plane, by its angle; u is `[..., 2]` for z `[...]`."""

    def __init__(self) -> None:
        self._sphere = Sphere()

    def __call__(self, u: Tensor) -> Tensor:
        return torch.atan2(u[..., 1], u[..., 0])

    def inv(self, z: Tensor) -> Tensor:
        return self._sphere.inv(torch.stack([z.cos(), z.sin()], -1))

    def log_abs_det_jacobian(self, u: Tensor, z: Tensor) -> Tensor:
        return self._sphere.log_abs_det_jacobian(u, z)


class Standardized:
    """`z = loc + scale u`, for z of a family of location and scale, both of which may depend on the latents before it.

    Where z follows these closely, or its scale varies with theirs, u does not: the view is then non-centered. Source:
    Papaspiliopoulos, Roberts & Sköld 2007, Statistical Science 22(1) (arXiv:0708.3797).
    """

    def __init__(self, loc: Tensor, scale: Tensor):
        self._loc, self._scale = loc, scale

    def __call__(self, u: Tensor) -> Tensor:
        return self._loc + self._scale * u

    def inv(self, z: Tensor) -> Tensor:
        return (z - self._loc) / self._scale

    def log_abs_det_jacobian(self, u: Tensor, z: Tensor) -> Tensor:
        return self._scale.log().expand_as(u)


def location_and_scale(fn: Any) -> tuple[Tensor, Tensor] | None:
    """Those of a distribution over the reals; None where it has none, or one for several entries."""
    *_, inner = wrapped(fn)
    if {"loc", "scale"} <= inner.arg_constraints.keys() and inner.support is constraints.real:
        return inner.loc, inner.scale
    return None


def coordinates(name: str, fn: Any) -> Coordinates:
    """The coordinates of a latent site.

    Args:
        name: of the site, for what is said where it has none.
        fn: its distribution.

    Raises:
        ppvae.ContractError: it is discrete or given, or its support has no coordinates.

    Example:
        >>> import pyro.distributions as dist
        >>> angle = coordinates("z", dist.VonMises(0.0, 1.0))
        >>> angle(torch.tensor([0.0, 5.0]))
        tensor(1.5708)
    """
    if is_given(fn):
        raise ContractError(
            f"site '{name}': found {family(fn)}, whose value is given, expected a latent with a density of any value; "
            "name what model and guide compute alike by pyro.deterministic in the model alone, or use method='iwae'"
        )
    if is_discrete(fn):
        raise ContractError(
            f"site '{name}': found {family(fn)}, which is discrete, expected a continuous latent; leave it out of the "
            "guide to have it summed out of the model if it has finitely many values, or use what takes "
            "discrete latents: ppvae.log_evidence(method='iwae'), ppvae.to_arviz(posterior='resampled'), "
            "ppvae.calibration"
        )
    if is_sphere(fn):
        return Sphere()
    if is_circular(fn):
        return Circle()
    try:
        return biject_to(_plain(support_of(fn)))
    except NotImplementedError as error:
        raise ContractError(
            f"site '{name}': found {family(fn)}, whose support has no bijection from the reals ({error}), expected one "
            "of torch's constraints; give the distribution a `support`"
        ) from error


def _plain(support: Any) -> Any:
    """The support of a mixture's components, if it is one for all, as the mixture's own has no bijection."""
    if isinstance(support, constraints.MixtureSameFamilyConstraint):
        base = _plain(support.base_constraint)
        bounds = [value for value in vars(base).values() if isinstance(value, Tensor)]
        return support if isinstance(base, Image) or any(bound.dim() for bound in bounds) else base
    if isinstance(support, constraints.independent):
        return constraints.independent(_plain(support.base_constraint), support.reinterpreted_batch_ndims)
    return support
