"""What a sample site means: whether it counts, its log probability, its mask, its scale, its enumeration.

- A masked site is not there for that row: it adds nothing to log p or log q.
- A value that the model computes and then names (`pyro.deterministic`, and what `poutine.reparam` leaves) is no data.
- The values of an enumerated latent sum to one, masked or not, as in `pyro.infer.TraceEnum_ELBO`: one that is not there
  is summed out to nothing.
- The scale of a subsampled plate never enters: a pair's weights are per data point.
- The scale of a handler, `poutine.scale`, is for training, which asks for it (`handler_scales`); no density has it.
"""

import math
from collections.abc import Collection, Container, Iterator, Mapping
from functools import reduce
from typing import Any

import torch
from pyro.distributions import Delta, Unit
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent

from ppvae.internals import enumeration_dim, is_deterministic, mask_of, memory_of
from ppvae.invalid_values import invalid_values_told
from ppvae.refusals import ContractError, family

ROUNDING = 1e-6
"""What multiplying by a plate's scale and dividing by it may leave."""


def sample_sites(trace: Trace, *, observed: bool | None = None) -> dict[str, dict[str, Any]]:
    """The sample statements of a trace by name, without those of subsampling and of `pyro.deterministic`."""
    nodes: dict[str, Any] = trace.nodes
    return {
        name: site
        for name, site in nodes.items()
        if site["type"] == "sample"
        and not site_is_subsample(site)
        and not is_deterministic(site)
        and (observed is None or site["is_observed"] == observed)
    }


def refuse_other_latents(found: Collection[str], expected: Collection[str]) -> None:
    """Refuses a pair that has other latents for other data points, where all are to have the same."""
    if others := sorted(set(found) ^ set(expected)):
        raise ContractError(
            f"site '{others[0]}': found for some data points and not for others, as where a loop ends with the longest "
            "row of a batch, expected the same latents for each; take as many steps in any batch "
            "(`range(x.shape[1])`), and mask those that a row has not, in model and guide "
            "(`poutine.mask(mask=t < lengths)`)"
        )


def data_sites(trace: Trace) -> dict[str, dict[str, Any]]:
    """The observed sites of a trace that hold data: those of `pyro.factor`, and what the model states, do not."""
    return {name: site for name, site in sample_sites(trace, observed=True).items() if not is_term(site)}


def is_auxiliary(site: Mapping[str, Any]) -> bool:
    """Whether a guide's site is no latent of the model, but what some are made of; the model has none."""
    return bool((site["infer"] or {}).get("is_auxiliary", False)) and not has_own_term(site)


def is_term(site: Mapping[str, Any]) -> bool:
    """Whether the site is at most a term of the density, and holds no data: `pyro.factor`, or what the model states."""
    *_, inner = wrapped(site["fn"])
    return isinstance(inner, Unit) or is_stated(site)


def is_stated(site: Mapping[str, Any]) -> bool:
    """Whether the site names what the model computes: `pyro.deterministic`, or a Delta observed at its own point.

    Such a Delta is what `poutine.reparam` leaves of a site: its term is zero, or a density that was left over.
    """
    if is_deterministic(site):
        return True
    *_, inner = wrapped(site["fn"])
    observed = site["is_observed"] and site["value"] is not None
    return observed and isinstance(inner, Delta) and memory_of(site["value"]) == memory_of(inner.v)


def has_own_term(site: Mapping[str, Any]) -> bool:
    """Whether the site is a term of the density that is not zero and has no draws, as that of `pyro.factor`."""
    *wrappers, inner = wrapped(site["fn"])
    if any(isinstance(fn, MaskedDistribution) and mask_of(fn) is False for fn in wrappers):
        return False  # pyro.deterministic
    return isinstance(inner, Unit) or (is_stated(site) and bool(inner.log_density.any()))


def deterministic_values(trace: Trace, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
    """What the model states by name, `[*batch, *event]`: `pyro.deterministic`, and what `poutine.reparam` leaves.

    Where a statement does not say its `event_dim`, the dimensions that fit the batch's are taken for these.
    """
    nodes: dict[str, Any] = trace.nodes
    found = {}
    for name, site in nodes.items():
        if site["type"] == "sample" and not site_is_subsample(site) and is_stated(site):
            value, num = site["value"], len(batch_shape)
            leading = value.dim() - site["fn"].event_dim
            if leading == 0:  # as it is where it is not said
                fitting = (n for n in range(num, 0, -1) if _fits(value.shape[:n], batch_shape[num - n :]))
                leading = next(fitting, 0)
            aligned = value.reshape(*(1,) * (num - leading), *value.shape)
            found[name] = aligned.expand(*batch_shape, *value.shape[leading:])
    return found


def _fits(shape: torch.Size, batch_shape: tuple[int, ...]) -> bool:
    return len(shape) == len(batch_shape) and all(n in (1, full) for n, full in zip(shape, batch_shape, strict=True))


def log_prob_terms(trace: Trace, without: Container[str] = (), summed_out: Container[str] = ()) -> dict[str, Tensor]:
    """Log probability per site, but for those in `without`; masks applied, scales left out.

    Those enumerated latents that are `summed_out` have the log probabilities of their values, masked or not.
    """
    sites = {name: site for name, site in sample_sites(trace).items() if name not in without}
    scales = {name: site["scale"] for name, site in sites.items()}
    for site in sites.values():
        site["scale"] = 1.0

    def reached() -> str:
        return next(name for name, site in sites.items() if "log_prob" not in site)

    try:
        with invalid_values_told(lambda: f"site '{reached()}'"):
            trace.compute_log_prob(lambda name, site: name in sites)
    except (KeyError, NotImplementedError) as error:
        name = reached()
        raise ContractError(
            f"site '{name}': found {family(sites[name]['fn'])}, which knows no density of the values it was given "
            f"({error}), expected that of any value; Pyro's planar, radial and other flows without an inverse know "
            "their own last draw's alone: train with a plain gradient and measure with method='iwae', or take a flow "
            "with an inverse"
        ) from error
    finally:
        for name, site in sites.items():
            site["scale"] = scales[name]
    for name, site in sites.items():
        if name in summed_out and is_enumerated(site):
            site["log_prob"] = log_probability_of_values(site)
    return {name: site["log_prob"] for name, site in sites.items()}


def handler_scales(trace: Trace) -> dict[str, Any]:
    """The scales that handlers give sites (`poutine.scale`), numbers or tensors, by site; none where it is 1."""
    scales = {name: site["scale"] / plate_scale(site) for name, site in sample_sites(trace).items()}
    return {name: scale for name, scale in scales.items() if isinstance(scale, Tensor) or abs(scale - 1) > ROUNDING}


def plate_scale(site: Mapping[str, Any]) -> Any:
    """The scale that the data plate gives a site, where it is subsampled; that of a plate over features is no part."""
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized and frame.full_size is not None]
    return math.prod(frame.full_size / frame.size for frame in frames)


def is_enumerated(site: Mapping[str, Any]) -> bool:
    """Whether a site is a latent that has all its values at once."""
    return enumeration_dim(site) is not None and not site["is_observed"]


def log_probability_of_values(site: Mapping[str, Any]) -> Tensor:
    """The log probability of each value of an enumerated site, unmasked; `log_prob_terms` comes before it."""
    fn = unmasked(site["fn"])
    return site["unscaled_log_prob"] if fn is site["fn"] else fn.log_prob(site["value"])


def without_row_mask(site: Mapping[str, Any]) -> tuple[Any, list[Tensor]]:
    """A site's distribution, and the masks of whole rows over its batch shape: that of handlers, that of `.mask()`."""
    masks = [] if site["mask"] is None else [site["mask"]]
    for fn in wrapped(site["fn"]):
        if not isinstance(fn, MaskedDistribution):
            break
        masks.append(mask_of(fn))
    return fn, [torch.as_tensor(mask) for mask in masks]


def presence(site: Mapping[str, Any]) -> Tensor | None:
    """Where a site is there, a mask that broadcasts against its values, `[..., *event]`; None where it always is."""
    masks = [(mask_of(fn), fn.event_dim) for fn in wrapped(site["fn"]) if isinstance(fn, MaskedDistribution)]
    if site["mask"] is not None:
        masks.append((site["mask"], site["fn"].event_dim))
    shaped = [mask.reshape(mask.shape + (1,) * num) for mask, num in ((torch.as_tensor(m), n) for m, n in masks)]
    return reduce(torch.logical_and, shaped) if shaped else None


def where_there(site: Mapping[str, Any], value: Tensor, otherwise: float) -> Tensor:
    """A site's values `[..., *event]`, and another number where it is masked."""
    there = presence(site)
    return value if there is None else torch.where(there, value, otherwise)


def nan_where_masked(site: Mapping[str, Any], value: Tensor) -> Tensor:
    """A site's values `[..., *event]` to be shown: NaN where it is not there; whole numbers are floating then."""
    there = presence(site)
    if there is None or there.all():
        return value
    return torch.where(there.to(value.device), value if value.is_floating_point() else value.double(), torch.nan)


def wrapped(fn: Any) -> Iterator[Any]:
    """A distribution, and those inside it that it masks, expands, or declares dimensions of as the event's."""
    yield fn
    while isinstance(fn, MaskedDistribution | ExpandedDistribution | Independent):
        fn = fn.base_dist
        yield fn


def unmasked(fn: Any) -> Any:
    """The distribution without masks; itself, where it has none."""
    *wrappers, inner = wrapped(fn)
    if not any(isinstance(wrapper, MaskedDistribution) for wrapper in wrappers):
        return fn
    for wrapper in reversed(wrappers):
        if isinstance(wrapper, ExpandedDistribution):
            inner = inner.expand(wrapper.batch_shape)
        elif isinstance(wrapper, Independent):
            inner = inner.to_event(wrapper.reinterpreted_batch_ndims)
    return inner
