"""The export to ArviZ: a pair's draws with named dimensions and coordinates, training runs as chains."""

import datetime
import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, cast

import numpy as np
import torch
import xarray as xr
from pyro import poutine
from pyro.infer import config_enumerate, infer_discrete
from pyro.poutine import Trace
from torch import Tensor

from ppvae._version import __version__
from ppvae.arguments import Count, Seed, checked
from ppvae.batches import Batch, call, num_rows, repeated, tensors
from ppvae.conversion import data_for, to_pair
from ppvae.devices import gpus, refuse_without_autograd
from ppvae.early_reads import refuse_early_reads
from ppvae.inference.evidence.annealed_importance import AIS
from ppvae.inference.ledger.posteriors import Draws, way_named
from ppvae.inference.ledger.registry import LINES
from ppvae.inference.ledger.report import GapReport
from ppvae.inference.runtime.chunks import evaluating, sizes
from ppvae.inference.runtime.measuring import measuring
from ppvae.internals import memory_of
from ppvae.pair import Pair
from ppvae.particles import run
from ppvae.precise_draws import PreciseDraws
from ppvae.refusals import ContractError
from ppvae.rules import Elements, Entries, Instance, OneOf
from ppvae.sites import data_sites, deterministic_values, is_term, log_prob_terms, nan_where_masked, sample_sites
from ppvae.supports import refuse_unlike
from ppvae.threads import undisturbed
from ppvae.tracing import FIRST_ENUMERATION_DIM, trace_model, trace_pair
from ppvae.unconditioned import draw_jointly
from ppvae.weights import sum_terms
from ppvae.wording import shown

logger = logging.getLogger("ppvae")

ROWS_AT_ONCE = 5000
GIVEN = ("observed_data", "constant_data")
"""The groups of what was passed, without chains and draws."""

COORDINATES = (str, int, float, np.integer, np.floating, np.datetime64, np.timedelta64, datetime.date)
Groups = dict[str, dict[str, np.ndarray]]


@checked
@undisturbed
def to_arviz(
    pair: Pair | Sequence[Pair],
    data: Any,
    *,
    posterior: str = "guide",
    num_samples: Count = 100,
    annealing: AIS | None = None,
    seed: Seed | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Annotated[Mapping[str, Any], Entries(Instance(str), Elements(None))] | None = None,
    progress: bool = True,
) -> Any:
    """The pair's draws and densities as ArviZ's container; write it with `.to_netcdf(path)`.

    Groups: `posterior` (draws of z, of discrete sites that only the model has given those, and what
    `pyro.deterministic` names), `sample_stats` (log_p, log_q, log_w), `log_likelihood` (per observed site, given the
    draws), `observed_data`, `constant_data` (what the model only reads: covariates, labels, lengths; by their keys or
    places in the batch), `posterior_predictive`, `prior`, `prior_predictive` (given the covariates of each data point).
    Dimensions: chain (one per pair), draw, the data plate's name, then the event's. What `pyro.factor` adds is in log_p
    alone. What a mask takes away, latents and data, is NaN in posterior, prior and observed_data, and adds nothing to
    log_likelihood and densities; the predictive groups have draws there, as for what is missing or yet to come.

    | posterior | draws of z | in `sample_stats`, per data point |
    |---|---|---|
    | "guide" | from q(z given x) | |
    | "resampled" | of 20 times as many from q, chosen by Pareto-smoothed weights | `khat`, `ess` |
    | "refined" | from each data point's best guide of the same family | |
    | "annealed" | last states of annealed chains, one for each draw, chosen by weight | `ess` |

    None is the exact posterior. "guide" has the guide's whole gap; "refined" leaves the family's share of it. Trust
    "resampled" where k-hat is below 0.7 and `ess` well above the number of draws (below that number, draws repeat),
    and "annealed" where `ess` is a good part of the number of draws. `log_q` is always the guide's, so `log_w` is a
    valid weight for draws of "guide" only; a guide without a density (Delta) has neither. The draws are not a
    sampler's sequence: convergence diagnostics across chains compare training runs, and latents of separate runs need
    not mean the same thing.

    Source: the InferenceData schema of Kumar et al. 2019, Journal of Open Source Software 4(33). The ways to draw:
    `ppvae.inference.ledger.posteriors`.

    A "/" in a name, as scopes of Pyro's autoname have it, becomes a dot, as no file of ArviZ's takes it.

    A model in which a site depends on data before the statement that observes them cannot be drawn from: a warning
    names the site, and the groups prior, prior_predictive and posterior_predictive are left out.

    Args:
        pair: a pair, or several trained runs of one model, which become chains.
        data: N data points, a batch (tensor, tuple or dict).
        posterior: how z is drawn, a name from the table.
        num_samples: draws per chain and data point, and from the prior.
        annealing: settings for "annealed", except the number of chains; `AIS()` if not given.
        seed: makes the draws reproducible and leaves the caller's generators as they were; None draws from them.
        dims: names of the event dimensions by site, also of what `pyro.deterministic` names, and by covariate;
            `{site}_dim_0` and so on otherwise.
        coords: coordinate values by dimension name.
        progress: show bars when it takes more than a second.

    Returns:
        `arviz.InferenceData` with ArviZ 0.x, `xarray.DataTree` with ArviZ 1.x.

    Raises:
        ValueError: no pair, num_samples < 1, runs whose sites or shapes differ, names that do not fit a site's event,
            names of no site or dimension, or of two things (a site "draw"), an unknown posterior, or `annealing` where
            nothing is annealed.
        EvidenceUndefined: the pair declares that it has no density, and `posterior` is not "guide".
        ppvae.ContractError: "annealed" for a guide with discrete sites, or "refined" where nothing can be refined.

    Example:
        >>> import torch
        >>> from ppvae.models import LinearVAE
        >>> pairs = [LinearVAE(num_features=5, num_latents=2) for run in range(3)]
        >>> found = to_arviz(pairs, torch.randn(10, 5), num_samples=4, dims={"x": ["pixel"]})
        >>> dict(found.posterior_predictive.sizes)
        {'chain': 3, 'draw': 4, 'data': 10, 'pixel': 5}
    """
    way = way_named(posterior, annealing)
    pairs = [pair] if isinstance(pair, Pair) else list(pair)
    if not pairs:
        raise ValueError("number of pairs: found 0, expected at least 1; pass a pair, or a list of them")
    for one in pairs:
        refuse_without_autograd(one)

    batch = data_for(pairs[0], data)
    chains = []
    for index, one in enumerate(pairs):
        one.checked(batch)
        own_seed = None if seed is None else seed + index
        with measuring(one, batch, own_seed) if way.needs_density else evaluating(one, own_seed):
            draws = way.draw(one, batch, num_samples, annealing, progress)
            chains.append(_groups(one, to_pair(batch, one), draws))
    common = [group for group in chains[0] if all(group in chain for chain in chains)]
    groups = {group: _stack(group, [chain[group] for chain in chains]) for group in common}
    with evaluating(pairs[0], seed):
        groups["observed_data"], constant, plate = _given(pairs[0], to_pair(batch, pairs[0]))
    if constant:
        groups["constant_data"] = constant
    return as_arviz(labeled(groups, plate, dims or {}, coords or {}))


def labeled(
    groups: Groups, plate: str, dims: Mapping[str, Sequence[str]], coords: Mapping[str, Any]
) -> dict[str, xr.Dataset]:
    """Arrays by group and name as datasets with named dimensions.

    Raises:
        ValueError: `dims` of no array, or `coords` of no dimension; or names or values that do not fit.
    """
    _refuse_unknown("dims", dims, [name for arrays in groups.values() for name in arrays])
    datasets = {}
    for group, arrays in groups.items():
        leading = [plate] if group in GIVEN else ["chain", "draw", plate]
        variables = {
            name: (leading + _event_dims(name, array.ndim - len(leading), dims), array)
            if array.ndim >= len(leading)
            else (["chain", plate], array)  # one value for all draws of a data point
            for name, array in arrays.items()
        }
        _refuse_shared(group, {name: own for name, (own, _) in variables.items()})
        dataset = xr.Dataset(variables, attrs={"inference_library": "ppvae", "inference_library_version": __version__})
        datasets[group] = dataset
    _refuse_unknown("coords", coords, [str(dim) for dataset in datasets.values() for dim in dataset.sizes])
    return {
        group: dataset.assign_coords(
            {str(dim): _coordinates(str(dim), size, coords) for dim, size in dataset.sizes.items()}
        )
        for group, dataset in datasets.items()
    }


def _refuse_shared(group: str, dims: Mapping[str, Sequence[str]]) -> None:
    """Refuses a group in which a name stands for two things: one would be lost."""
    named = {dim for own in dims.values() for dim in own}
    if shared := [name for name, own in dims.items() if name in named or len(set(own)) < len(own)]:
        raise ValueError(
            f"{group}: found dimensions {dims[shared[0]]} of '{shared[0]}', a name for two things, expected one of its "
            "own for each site, entry of the batch and dimension; rename the site, the entry, the data plate, or the "
            "dimension, by dims={site: [name]}"
        )


def _refuse_unknown(argument: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if (problem := OneOf(tuple(dict.fromkeys(known))).problem(name)) is not None:
            raise ValueError(f"{argument}: {problem}")


def _coordinates(dim: str, size: int, coords: Mapping[str, Any]) -> Any:
    found = list(coords.get(dim, range(size)))
    if len(found) != size:
        raise ValueError(f"coords[{dim!r}]: found {len(found)} values, expected {size}, one for each entry")
    if not all(isinstance(value, COORDINATES) for value in found):
        raise TypeError(f"coords[{dim!r}]: found {shown(found)}, expected numbers, strings or dates")
    return found


def as_arviz(datasets: dict[str, Any]) -> Any:
    """The container of the installed ArviZ version; where names have a "/", which no file takes, they have a dot."""
    arviz = import_arviz()
    datasets = {
        group: dataset.rename({name: str(name).replace("/", ".") for name in {*dataset.variables, *dataset.sizes}})
        for group, dataset in datasets.items()
    }
    return arviz.InferenceData(**datasets) if arviz.__version__.startswith("0.") else xr.DataTree.from_dict(datasets)


def ledger_to_arviz(report: GapReport) -> Any:
    """A ledger's lines and the candidates of its evidence, per data point; see `GapReport.to_arviz`."""
    return as_arviz({"ledger": _lines(report), "evidence": _candidates(report)})


def _lines(report: GapReport) -> xr.Dataset:
    variables = {}
    for name, line in report.lines().items():
        about = {"units": "nats", "long_name": LINES[name].label, "method": line.method, "warning": line.warning}
        variables[name] = ("data", line.estimate.numpy(), about | {"note": report.notes.get(name, "")})
        variables[f"{name}_std_error"] = ("data", line.std_error.numpy(), {"units": "nats"})
    about = {"pair": report.pair, "amortization_undefined": report.amortization_undefined}
    return xr.Dataset(variables, {"data": np.arange(len(report.elbo.estimate))}, about)


def _candidates(report: GapReport) -> xr.Dataset:
    taken = report.log_evidence
    records = {**taken.candidates, taken.method: taken}
    variables: dict[str, Any] = {
        name: (("candidate", "data"), np.stack([getattr(record, name).numpy() for record in records.values()]))
        for name in ("estimate", "std_error", "ess", "khat", "reliable")
    }
    variables["taken"] = ("data", np.array(taken.methods))
    coords = {"candidate": list(records), "data": np.arange(len(taken.estimate))}
    return xr.Dataset(variables, coords, {"pair": report.pair, "reason": taken.reason})


def import_arviz() -> Any:
    """ArviZ, imported without the warning about 1.0 that version 0.23 gives once a day."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="\nArviZ is undergoing a major refactor", category=FutureWarning)
        import arviz
    return arviz


def _event_dims(name: str, num: int, dims: Mapping[str, Sequence[str]]) -> list[str]:
    """Names of a site's event dimensions; none for its log likelihood, which has no event dimensions."""
    if num == 0:
        return []
    names = list(dims.get(name, [f"{name}_dim_{i}" for i in range(num)]))
    if len(names) != num:
        raise ValueError(f"dims[{name!r}]: found {names}, expected {num} names, one for each event dimension")
    return names


def _groups(pair: Pair, batch: Batch, draws: Draws) -> Groups:
    """All groups of one chain but what was passed; arrays are `[draw, data point, *event]`."""
    num_samples, at_once = len(draws.log_q), max(1, ROWS_AT_ONCE // num_rows(batch))
    drawn = _can_be_drawn(pair, batch)
    parts, start = [], 0
    for size in sizes(num_samples, at_once):
        parts.append(_posterior_groups(pair, batch, draws, slice(start, start + size), drawn))
        start += size
    groups = {
        group: {name: np.concatenate([part[group][name] for part in parts]) for name in parts[0][group]}
        for group in parts[0]
    }
    groups["sample_stats"] |= _arrays(draws.quality)
    return groups


def _can_be_drawn(pair: Pair, batch: Batch) -> bool:
    try:
        refuse_early_reads(pair, batch)
    except ContractError as error:
        logger.warning("to_arviz: without the groups prior, prior_predictive and posterior_predictive: %s", error)
        return False
    return True


def _posterior_groups(pair: Pair, batch: Batch, draws: Draws, at: slice, with_drawn: bool) -> Groups:
    """The groups of a slice of the draws; and of as many from the prior, and of data, if the model is drawn from."""
    log_q = draws.log_q[at]
    drawn = cast(dict[str, Tensor], to_pair({name: z[at] for name, z in draws.latents.items()}, pair))
    num, shape, flat = len(log_q), tuple(log_q.shape), (log_q.numel(),)
    log_p = sum_terms(trace_model(pair, batch, drawn, num).log_p_terms()).cpu()
    complete = completed(pair, batch, drawn, num)
    observed = data_sites(complete).keys() - drawn.keys()
    names = sample_sites(complete, observed=False).keys() | drawn.keys()
    latents = _values(complete, names, shape)
    densities = log_prob_terms(complete)
    weighed = {"log_q": log_q, "log_w": log_p - log_q} if _has_density(pair, batch) else {}
    groups = {
        "posterior": _arrays(_that_are_there(complete, names, shape) | deterministic_values(complete, shape)),
        "sample_stats": _arrays({"log_p": log_p} | weighed),
        "log_likelihood": _arrays({name: densities[name].expand(shape) for name in sorted(observed)}),
    }
    if not with_drawn:
        return groups
    replicate = _drawn(pair, batch, num, {name: z.flatten(end_dim=1) for name, z in latents.items()})
    prior = _drawn(pair, batch, num, {})
    unknown = {name for name, site in sample_sites(prior).items() if not is_term(site)} - observed
    return groups | {
        "posterior_predictive": _by_draw(_values(replicate, observed, flat), shape),
        "prior": _by_draw(_that_are_there(prior, unknown, flat) | deterministic_values(prior, flat), shape),
        "prior_predictive": _by_draw(_values(prior, observed, flat), shape),
    }


def _drawn(pair: Pair, batch: Batch, num: int, given: dict[str, Tensor]) -> Trace:
    """The model's draws for a batch repeated `num` times, one after another: each reads the data that it drew."""
    drawn = draw_jointly(pair, repeated(batch, num), given, renewed=True)
    for problem in drawn.stale():
        logger.warning("to_arviz: %s", problem)
    return drawn.trace


def _by_draw(values: Mapping[str, Tensor], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    return _arrays({name: t.unflatten(0, shape) for name, t in values.items()})


def _has_density(pair: Pair, batch: Batch) -> bool:
    """Whether the guide has a density of the model's kind; a Delta has none."""
    with torch.random.fork_rng(gpus(pair)):
        joint = trace_pair(pair, batch, 1)
    try:
        refuse_unlike(joint)
    except ContractError:
        return False
    return True


def completed(pair: Pair, batch: Batch, latents: dict[str, Tensor], num_particles: int) -> Trace:
    """The model's trace at the guide's draws; sites that the guide lacks are drawn from their posterior given these."""

    @config_enumerate
    @poutine.condition(data=latents)
    def given_latents() -> Trace:
        return run(pair, "model", batch, num_particles)

    return infer_discrete(given_latents, FIRST_ENUMERATION_DIM, strict_enumeration_warning=False)()


def _given(pair: Pair, batch: Batch) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], str]:
    """The observed data by site, what the model only reads by its place in the batch, and the data plate's name."""
    with PreciseDraws(pair), poutine.trace() as tracer:
        call(pair.model, batch)
    sites = data_sites(tracer.trace)
    plate = next(f.name for site in sites.values() for f in site["cond_indep_stack"] if f.dim == -1)
    held = [site["value"] for site in sites.values()]
    read = {name: t for name, t in tensors(batch).items() if not any(_is_same(t, value) for value in held)}
    return _arrays(_that_are_there(tracer.trace, sites, (num_rows(batch),))), _arrays(read), plate


def _is_same(t: Tensor, observed: Tensor) -> bool:
    """Whether an entry of the batch is what a site observes, in another type or shape, or in part."""
    if memory_of(t) == memory_of(observed):
        return True
    return t.numel() == observed.numel() and torch.equal(t.flatten().to(observed), observed.flatten())


def _values(trace: Trace, names: Iterable[str], batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
    sites = sample_sites(trace)
    return {name: sites[name]["value"].expand(*batch_shape, *sites[name]["fn"].event_shape) for name in sorted(names)}


def _that_are_there(trace: Trace, names: Iterable[str], batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
    """The same, NaN where a site is masked."""
    sites = sample_sites(trace)
    return {name: nan_where_masked(sites[name], value) for name, value in _values(trace, names, batch_shape).items()}


def _stack(group: str, chains: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    shapes = [{name: array.shape for name, array in chain.items()} for chain in chains]
    for index, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(
                f"pair {index}: found sites {shape} in group '{group}', expected {shapes[0]} as in pair 0; "
                "chains are runs of one model, so export different models separately"
            )
    return {name: np.stack([chain[name] for chain in chains]) for name in chains[0]}


def _arrays(values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: t.cpu().numpy() for name, t in values.items()}
