"""The best guides of richer families for each data point: how much of the approximation gap each would close.

A family is the image of the refined guide under a family of maps of the latent view, fitted from the identity: affine
maps (for a Gaussian guide: the full-rank Gaussians), and a flow followed by an affine map. Where it leaves the guide's
family (exponential distributions) to move and scale each dimension by itself, that comes first: it is no correlation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from pyro.distributions import TransformedDistribution
from torch import Tensor

from ppvae.batches import Batch, num_rows, rows
from ppvae.conversion import to_pair
from ppvae.inference.compiling.repeated import Repeated
from ppvae.inference.evidence.coverage import refuse_unlike_rows
from ppvae.inference.evidence.heavy_tails import elbo_record, mean_with_tail
from ppvae.inference.ledger.ascent import Ascent, ascend, compile_after, like
from ppvae.inference.ledger.local_guide import movable
from ppvae.inference.ledger.refinement import SELECTION_SAMPLES, Refined
from ppvae.inference.ledger.transport import (
    Affine,
    Composition,
    Coupling,
    Diagonal,
    Parameters,
    SinhArcsinh,
    Transport,
)
from ppvae.inference.runtime.chunks import over_data, sizes
from ppvae.inference.runtime.records import Measurement
from ppvae.latent_view import LatentView
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair
from ppvae.particles import run
from ppvae.sites import sample_sites, wrapped

NUM_COUPLINGS = 4
SCALES = frozenset({"scale", "scale_tril"})
"""Arguments, one of which multiplies a distribution's distances from its location."""
NETWORK_RATE = 0.1
"""Learning rate of maps that have networks, relative to those that have none."""
MAX_DIMS = 300
"""Latent dimensions above which a full covariance for each data point takes too much memory."""


@dataclass(frozen=True)
class Richer:
    """The ELBO of a richer family's best guides.

    Attributes:
        elbo: per data point, on fresh samples; the smaller family's where no better map was found.
        failed: data points where the map found was clearly worse than its start: a failed optimization, `[N]`.
        converged: the share of the chunks of data whose ascent settled.
    """

    elbo: Measurement
    failed: Tensor
    converged: float


def richer(refined: Refined, settings: Ascent, num_samples: int, progress: bool) -> dict[str, Richer]:
    """`Richer` by family, each started from the best of the one before; the first from the refined guide.

    Raises:
        ppvae.ContractError: a latent is discrete.
        ValueError: more than 300 latent dimensions.
    """
    pair, batch = refined.pair, refined.batch
    view = LatentView(pair, to_pair(rows_or_all(pair, batch, slice(2)), pair))
    refuse_unlike_rows(view, pair, batch)
    families = families_of(view.num_dims)
    if refined.ascended and _has_locations_and_scales(pair, batch):
        del families["marginals"]
    slower = replace(settings, lr=settings.lr * NETWORK_RATE)
    fits = {name: _Fit(pair, view, family, slower if name == "flow" else settings) for name, family in families.items()}

    def one_step(index: Any, num_particles: int, at_once: int) -> dict[str, Tensor]:
        points = to_pair(rows(batch, index.cpu()), pair)
        standard = standard_of(view, pair, points)
        return {
            "value": fits["flow"].gradient(points, standard, settings.num_particles, fits["flow"].start(standard))[0]
        }

    def measure(index: Any, num_particles: int, at_once: int) -> dict[str, Tensor]:
        points = to_pair(rows(batch, index.cpu()), pair)
        standard = standard_of(view, pair, points)
        found: dict[str, Tensor] = {}
        best: Parameters = {}
        for name, fit in fits.items():
            best, diagnostics = fit(points, standard, fit.start(standard) | best)
            log_w = [fit.log_weights(points, standard, size, best) for size in sizes(num_samples, SELECTION_SAMPLES)]
            elbo = mean_with_tail(torch.cat(log_w))
            found |= {f"{name}/{key}": value.double() for key, value in (elbo | diagnostics).items()}
        return found

    index = torch.arange(num_rows(batch))
    found = over_data(pair, index, 1, measure, "richer families" if progress else None, probe=one_step)
    return {name: _richer(name, found, num_samples) for name in families}


def _richer(name: str, found: Mapping[str, Tensor], num_samples: int) -> Richer:
    own = {key.removeprefix(f"{name}/"): value for key, value in found.items() if key.startswith(f"{name}/")}
    elbo = elbo_record(own, num_samples, f"elbo, {name}")
    return Richer(elbo, own["failed"].bool(), own["converged"].mean().item())


def families_of(num_dims: int) -> dict[str, Transport]:
    """The maps of each family, for D latent dimensions.

    Raises:
        ValueError: more than 300.
    """
    if num_dims > MAX_DIMS:
        raise ValueError(
            f"found {num_dims} latent dimensions, expected at most {MAX_DIMS}, as each data point has D^2 parameters"
        )
    couplings = {f"coupling{number}": Coupling(num_dims) for number in range(NUM_COUPLINGS)}
    return {
        "marginals": Composition({"affine": Diagonal(num_dims)}),
        "full_rank": Composition({"affine": Affine(num_dims)}),
        "flow": Composition(couplings | {"marginals": SinhArcsinh(num_dims), "affine": Affine(num_dims)}),
    }


def _has_locations_and_scales(pair: Pair, batch: Batch) -> bool:
    """Whether all latents of a guide have a location and a scale among the arguments that are refined."""
    trace = run(pair, "guide", to_pair(rows_or_all(pair, batch, slice(2)), pair), 1)

    def has(fn: Any) -> bool:
        is_flow = any(type(part) is TransformedDistribution for part in wrapped(fn))  # its base's are no help
        return not is_flow and "loc" in movable(fn) and not SCALES.isdisjoint(movable(fn))

    return all(has(site["fn"]) for site in sample_sites(trace, observed=False).values())


class Standard(NamedTuple):
    """Location and scale of the refined guide's draws, `[B, D]`: maps are applied to the standardized draws."""

    loc: Tensor
    scale: Tensor


def standard_of(view: LatentView, pair: Pair, points: Batch) -> Standard:
    """From draws of its own."""
    u = view.draw(pair, points, SELECTION_SAMPLES)
    return Standard(u.mean(0), u.std(0))


class _Fit:
    """Fits a family's maps."""

    def __init__(self, pair: Pair, view: LatentView, family: Transport, settings: Ascent):
        self._family, self._settings = family, settings
        self.gradient = Repeated(pair, partial(_gradient, view, family), after=compile_after(pair))
        self.log_weights = Repeated(pair, partial(log_weights_of_images, view, family))

    def start(self, standard: Standard) -> Parameters:
        return self._family.start(standard.loc)

    def __call__(self, points: Batch, standard: Standard, start: Parameters) -> tuple[Parameters, dict[str, Tensor]]:
        """The best parameters found, as judged on separate samples, and diagnostics."""
        ascended = partial(self.gradient, points, standard, self._settings.num_particles)
        fitted, converged = ascend(ascended, start, self._settings)
        values = [self.log_weights(points, standard, SELECTION_SAMPLES, each).double() for each in (fitted, start)]
        gain = values[0] - values[1]
        std_error = gain.std(0) / SELECTION_SAMPLES**0.5
        best = {name: torch.where(like(gain.mean(0) > 0, t), fitted[name], t) for name, t in start.items()}
        failed = gain.mean(0) < -3 * std_error
        return best, {"failed": failed, "converged": torch.full_like(std_error, float(converged))}


def log_weights_of_images(
    view: LatentView,
    family: Transport,
    pair: Pair,
    points: Batch,
    standard: Standard,
    num_particles: int,
    parameters: Parameters,
) -> Tensor:
    """`log p(x, u) - log q(u)`, `[K, B]`; log q(u) is the log density of the draw that is mapped to u, less the log
    determinant."""
    u = view.draw(pair, points, num_particles)
    moved, log_det = family.forward(parameters, (u - standard.loc) / standard.scale)
    log_q = view.log_start(pair, points, u) - log_det
    return view.densities(pair, points, standard.loc + standard.scale * moved).log_joint - log_q


def _gradient(
    view: LatentView,
    family: Transport,
    pair: Pair,
    points: Batch,
    standard: Standard,
    num_particles: int,
    parameters: Parameters,
) -> tuple[Tensor, list[Tensor]]:
    """The mean of the log weights, and its gradients along the path alone (sticking the landing).

    For these the density of u is taken at its source, found by the inverse map with parameters held fixed.
    """
    with torch.enable_grad():
        parameters = {name: t.detach().requires_grad_() for name, t in parameters.items()}
        u = view.draw(pair, points, num_particles)
        moved, log_det = family.forward(parameters, (u - standard.loc) / standard.scale)
        source, log_det_back = family.inverse({name: t.detach() for name, t in parameters.items()}, moved)
        log_joint = view.densities(pair, points, standard.loc + standard.scale * moved).log_joint
        log_start = view.log_start(pair, points, standard.loc + standard.scale * source)
        along_path = (log_joint - log_start + log_det_back).mean(0).sum()
        gradients = torch.autograd.grad(
            along_path, list(parameters.values()), allow_unused=True, materialize_grads=True
        )
        value = (log_joint - log_start + log_det).mean(0)
    return value.detach(), list(gradients)
