"""What pictures need from a pair: its latents, their posterior means, and the images that given latents decode to."""

import math
from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.nn.functional import one_hot

from ppvae import angles
from ppvae.arguments import Shape
from ppvae.batches import Batch, num_rows, rows
from ppvae.conversion import to_pair
from ppvae.encoding import moments, present_latents
from ppvae.inference.runtime.chunks import over_data, sizes
from ppvae.kinds import is_circular
from ppvae.pair import Pair
from ppvae.particles import run
from ppvae.refusals import ContractError, family
from ppvae.row_chunks import over_rows
from ppvae.sites import data_sites, is_term, sample_sites
from ppvae.tracing import Joint, draw_latents, trace_model
from ppvae.views.arviz_export import completed
from ppvae.weights import sum_terms

POSTERIOR_DRAWS = 100


def image_site(joint: Joint, shape: Shape, latents: Collection[str] = ()) -> str:
    """The name of the one observed site, which must hold images of that shape."""
    found = {
        name: list(site["fn"].event_shape) for name, site in data_sites(joint.model).items() if name not in latents
    }
    if [math.prod(event) for event in found.values()] != [math.prod(shape)]:
        raise ContractError(
            f"model: found observed sites with event shapes {found}, expected one of {math.prod(shape)} pixels, "
            f"for shape={shape}; of an image [C, H, W] that is all of them"
        )
    return next(iter(found))


def decoded(pair: Pair, batch: Batch, latents: Mapping[str, Tensor], shape: Shape) -> Tensor:
    """`E[x | z]`, `[B, C * H * W]`, at latents `[B, *event]`; other discrete latents are averaged out, given these."""
    joint = trace_model(pair, batch, {name: z.unsqueeze(0) for name, z in latents.items()})
    name = image_site(joint, shape, latents)
    return joint.expected(name, without={name})[0].reshape(-1, math.prod(shape))


def swept(pair: Pair, batch: Batch, site: str, entries: Tensor, means: Mapping[str, Tensor], shape: Shape) -> Tensor:
    """`E[x | z]` where row b sweeps one scalar of a site, the others at their posterior means; `[S, B, C * H * W]`.

    Args:
        pair: the model.
        batch: B rows.
        site: the latent to sweep.
        entries: which of its scalars each row sweeps, `[B]`.
        means: `[*event]` of all latents.
        shape: `(H, W)` or `(C, H, W)`.
    """
    with Sweep(site, entries, means):
        joint = trace_model(pair, batch, num_particles=len(Sweep.steps))
    name = image_site(joint, shape)
    return joint.expected(name, without={name}).flatten(2)


class Sweep(Messenger):
    """Sweeps a latent's scalars, one in each row, from -3 to 3 prior standard deviations along dim -2.

    Other latents stay at their posterior means; one whose distribution depends on the sweep takes its conditional mean.
    Angles are swept around their circle, by their circular standard deviation, half a turn each way at most.
    """

    steps = torch.linspace(-3, 3, 11)

    def __init__(self, site: str, entries: Tensor, means: Mapping[str, Tensor]):
        super().__init__()
        self.site, self.entries, self.means = site, entries, means

    def _pyro_sample(self, msg: Message) -> None:
        name, fn = str(msg["name"]), cast(TorchDistribution, msg["fn"])
        if name not in self.means:
            return
        if len(fn.batch_shape) > 2:
            raise ContractError(
                f"model site '{name}': found to depend on a discrete site that is summed out, expected a distribution "
                "with a mean and a standard deviation of its own; draw that site in the guide too, or sum it by hand"
            )
        mean = fn.mean
        value = self.means[name].to(mean).expand_as(mean)
        value = torch.where(value.isnan(), mean, value)  # what is not there
        if name == self.site:
            reach = fn.stddev
            if is_circular(fn):  # at most half a turn each way
                half = torch.full_like(mean, math.pi / 3)
                reach = half if angles.is_drawn(fn) else angles.spread(angles.resultant(fn)).minimum(half)
            own = one_hot(self.entries.to(mean.device), fn.event_shape.numel()).bool().reshape(mean.shape[1:])
            steps = self.steps.to(mean).reshape(-1, *(1,) * (mean.dim() - 1))
            at = angles.moved(mean, steps * reach) if is_circular(fn) else mean + steps * reach
            value = torch.where(own, at, value)
        elif (mean != mean[:1]).any():
            value = mean
        msg["value"] = value


class Tempered(Messenger):
    """Draws continuous latents with t times their standard deviations: `mean + t (z - mean)`; angles the short way."""

    def __init__(self, temperature: float):
        super().__init__()
        self.temperature = temperature

    def _pyro_sample(self, msg: Message) -> None:
        fn: Any = msg["fn"]
        if msg["is_observed"] or site_is_subsample(msg) or fn.support.is_discrete:
            return
        mean = fn.mean
        if not mean.isfinite().all():
            raise ContractError(
                f"model site '{msg['name']}': found {family(fn)}, which has no mean, expected one with a mean to draw "
                "closer to; look at ppvae.pictures.samples instead"
            )
        value = fn()
        if is_circular(fn):
            msg["value"] = angles.moved(mean, self.temperature * angles.moved(value, -mean))
        else:
            msg["value"] = mean + self.temperature * (value - mean)


def continuous_sites(pair: Pair, batch: Batch) -> dict[str, torch.Size]:
    """The event shapes of the guide's sites; refuses discrete ones."""
    shapes = {}
    for name, site in guide_sites(pair, batch).items():
        if site["fn"].support.is_discrete:
            raise ContractError(
                f"guide site '{name}': found {family(site['fn'])}, which is discrete, expected continuous latents; "
                "look at ppvae.pictures.samples and reconstructions instead"
            )
        shapes[name] = site["fn"].event_shape
    return shapes


def guide_sites(pair: Pair, batch: Batch) -> dict[str, dict]:
    """The guide's sites on a batch; refuses a guide that has none."""
    sites = sample_sites(run(pair, "guide", batch, 1))
    if not sites:
        raise ContractError(f"{type(pair).__name__}.guide: found no latent site, expected one to picture")
    return sites


def planar_site(pair: Pair, batch: Batch) -> str:
    """The guide's only site, of event shape [2]."""
    shapes = {name: list(shape) for name, shape in continuous_sites(pair, batch).items()}
    if list(shapes.values()) != [[2]]:
        raise ContractError(
            f"{type(pair).__name__}.guide: found latent sites with event shapes {shapes}, expected one of shape [2], "
            "to lay out in the plane; for others look at ppvae.pictures.traversals"
        )
    return next(iter(shapes))


def one_of(sites: Collection[str], site: str | None) -> str:
    """The site asked for, or the only one."""
    if site in sites or (site is None and len(sites) == 1):
        return site or next(iter(sites))
    raise ValueError(f"site: found {site!r}, expected one of the latents {list(sites)}")


def activity(means: Tensor) -> Tensor:
    """The variance of each scalar's posterior mean over the data points that have it, `[D]`, of means `[N, *event]`."""
    flat = means.reshape(len(means), -1)
    num = (~flat.isnan()).sum(0)
    return (flat - flat.nanmean(0)).square().nansum(0) / (num - 1).clamp(min=1)


def posterior_means(pair: Pair, batch: Batch) -> dict[str, Tensor]:
    """`E_q[z]` of the guide's sites, as `Pair.encode` has it, `[N, *event]`; NaN where a site is not there."""
    found = over_rows(pair, batch, POSTERIOR_DRAWS, lambda few: moments(pair, few, POSTERIOR_DRAWS), dim=1)
    return {name: mean for name, (mean, _) in found.items()}


def aggregated_draws(pair: Pair, batch: Batch, num_draws: int) -> dict[str, Tensor]:
    """Draws of the guide's sites, pooled over the data points: `[N * num_draws, *event]`, NaN where not there."""

    def measure(points: Batch, num_draws: int, at_once: int) -> dict[str, Tensor]:
        parts = [present_latents(pair, points, size) for size in sizes(num_draws, at_once)]
        return {name: torch.cat([part[name] for part in parts]).transpose(0, 1) for name in parts[0]}

    return {name: z.flatten(end_dim=1) for name, z in over_data(pair, batch, num_draws, measure, None).items()}


def log_prior(pair: Pair, batch: Batch, site: str, z: Tensor) -> Tensor:
    """`log p(z)` of a pair's only continuous latent at z `[N, *event]`: `[N]`, discrete ones above it summed out."""
    joint = trace_model(pair, pair.examples(len(z), batch), {site: z.unsqueeze(0)})
    observed = sample_sites(joint.model, observed=True).keys() - {site}
    return sum_terms(joint.log_p_terms(without=observed))[0]


def passed_through(pair: Pair, batch: Batch) -> dict[str, Tensor]:
    """All latents of the model at one posterior draw, `[B, *event]`: the guide's sites, and those that it lacks."""
    sites = sample_sites(completed(pair, batch, draw_latents(pair, batch, 1), 1))
    return {
        name: site["value"].expand(1, num_rows(batch), *site["fn"].event_shape)[0]
        for name, site in sites.items()
        if not is_term(site)
    }


def first_row(pair: Pair, batch: Batch) -> Batch:
    """The first data point, on the pair's device."""
    return to_pair(rows(batch, slice(1)), pair)
