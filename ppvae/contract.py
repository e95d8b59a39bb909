"""The check that a pair keeps the contract: one plate at dim -1 over the batch, every site in it, shapes as declared.

Each refusal names the site, what was found, what was expected, and the usual remedies.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppvae.batches import Batch, call, num_rows, rows
from ppvae.tracing import PARTICLES, Joint, run, sample_sites, trace_pair

if TYPE_CHECKING:
    from ppvae.pair import Pair

MAX_ROWS = 7


class ContractError(ValueError):
    """A pair, or what it was given, breaks the contract."""


def at_least_one(name: str, value: int) -> None:
    """Refuses counts (of particles, samples, rows) below one."""
    if value < 1:
        raise ValueError(f"{name}: found {value}, expected at least 1")


@torch.no_grad()
def check(pair: "Pair", batch: Batch) -> None:
    """Runs a pair on a few rows of `batch` and raises `ContractError` at the first breach.

    Two batch sizes are tried, each with another number of particles, so that no event dimension can pass for the
    batch's by having its size.
    """
    size = min(num_rows(batch), MAX_ROWS)
    for n in {size, max(1, size - 1)}:
        _check_rows(pair, rows(batch, slice(n)), num_particles=n + 2)


def _check_rows(pair: "Pair", batch: Batch, num_particles: int) -> None:
    for role, function in (("guide", pair.guide), ("model", pair.model)):
        _check_plate(role, function, batch, num_particles)
    try:
        joint = trace_pair(pair, batch, num_particles)
    except ContractError:
        raise
    except Exception as error:
        raise ContractError(
            f"the model failed on the guide's latents ({type(error).__name__}: {error}); expected it to accept, for "
            f"each site, `[particles, batch, *event]` = [{num_particles}, {num_rows(batch)}, ...]; do model and guide "
            "agree on each site's event shape?"
        ) from error
    check_shapes(joint)
    _check_match(joint)
    _check_finite(joint)


def _check_plate(role: str, function: object, batch: Batch, num_particles: int) -> None:
    """Every site lies in one plate at dim -1 whose size is the batch's, and networks take leading dims."""
    try:
        trace = run(function, batch, num_particles)
    except Exception as error:
        raise _explain_failure(role, function, batch, num_particles, error) from error
    for name, site in sample_sites(trace).items():
        frames = [f for f in site["cond_indep_stack"] if f.vectorized and f.name != PARTICLES]
        where = f"{role} site '{name}'"
        if not any(f.dim == -1 for f in frames):
            raise ContractError(
                f"{where}: found outside any plate at dim -1, expected inside the data plate; "
                "write `with pyro.plate('data', len(x), dim=-1):` around it (a latent shared by all data points has no "
                "weight per data point: make it an nn.Parameter)"
            )
        if len(frames) > 1:
            raise ContractError(
                f"{where}: found in plates {[f.name for f in frames]}, expected only the data plate at dim -1; "
                "declare the other dimensions as part of the event with `.to_event(n)`"
            )
        if frames[0].size != num_rows(batch):
            raise ContractError(
                f"{where}: found plate '{frames[0].name}' of size {frames[0].size}, expected {num_rows(batch)}, the "
                "number of rows in the batch; size the plate (or its subsample) by the batch, as len(x) does"
            )


def _explain_failure(role: str, function: object, batch: Batch, num_particles: int, error: Exception) -> ContractError:
    """Why a model or a guide failed: its own fault, a missing `.to_event`, or a network that takes no particles."""
    text = f"{type(error).__name__}: {error}"
    try:
        call(function, batch)  # type: ignore[arg-type]
    except Exception:
        if "Shape mismatch inside plate" in str(error):
            return ContractError(
                f"the {role} has a site whose batch shape does not fit the plates ({text}); expected batch shape "
                f"[{num_rows(batch)}]; declare event dimensions with `.to_event(1)`"
            )
        return ContractError(f"the {role} fails on a batch of {num_rows(batch)} rows, even without particles ({text})")
    if "Shape mismatch inside plate" in str(error):
        return ContractError(
            f"the {role} has a site whose batch shape is not [particles, batch] = [{num_particles}, {num_rows(batch)}] "
            f"({text}); declare event dimensions with `.to_event(1)`, and let networks keep leading dimensions"
        )
    return ContractError(
        f"the {role} works on latents of shape [batch, *event] but fails on [particles, batch, *event] = "
        f"[{num_particles}, {num_rows(batch)}, ...] ({text}); a network in it cannot take leading dimensions: use "
        "`.flatten(-n)` rather than `.view(len(x), ...)`, and wrap convolutions in ppvae.networks.Fold"
    )


def check_shapes(joint: Joint) -> None:
    """Batch shapes are `[K, B]`, and model and guide agree on each latent's event shape."""
    for role, trace in (("guide", joint.guide), ("model", joint.model)):
        for name, site in sample_sites(trace).items():
            found = tuple(site["fn"].batch_shape)[-2:]
            replayed = role == "model" and name in joint.guide.nodes  # Pyro leaves these as declared, unexpanded
            if replayed:
                _check_event_shapes(name, joint)
            if found != joint.shape and not (replayed and _broadcasts(found, joint.shape)):
                raise ContractError(
                    f"{role} site '{name}': found batch shape {list(found)}, expected [particles, batch] = "
                    f"{list(joint.shape)}; put it in the data plate at dim -1 and declare event dimensions with "
                    "`.to_event(n)`"
                )


def _check_event_shapes(name: str, joint: Joint) -> None:
    guide, model = (list(trace.nodes[name]["fn"].event_shape) for trace in (joint.guide, joint.model))
    if guide != model:
        raise ContractError(
            f"site '{name}': found event shape {guide} in the guide and {model} in the model, expected the same; "
            "check `.to_event(n)` and the sizes in both"
        )


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    return all(size in (1, goal) for size, goal in zip(reversed(shape), reversed(target), strict=False))


def _check_match(joint: Joint) -> None:
    """An observation, no stray guide sites, and a guide for all that cannot be summed out."""
    guide, model = sample_sites(joint.guide, observed=False), sample_sites(joint.model)
    if not any(site["is_observed"] for site in model.values()):
        raise ContractError(
            f"model: found no observed site among {list(model)}, expected at least one; pass the data as `obs=x`"
        )
    for name in guide:
        if name not in model or model[name]["is_observed"]:
            kind = "observed" if name in model else "absent"
            raise ContractError(
                f"guide site '{name}': found {kind} in the model, expected a latent there; "
                f"the model's latents are {[n for n, s in model.items() if not s['is_observed']]}"
            )
    for name, site in model.items():
        if not site["is_observed"] and name not in guide and "_enumerate_dim" not in site["infer"]:
            raise ContractError(
                f"model site '{name}': found no site of that name in the guide and no finite support to sum over, "
                f"expected one or the other; add `pyro.sample('{name}', ...)` to the guide, which has {list(guide)}"
            )


def _check_finite(joint: Joint) -> None:
    for role, terms in (("guide", joint.log_q_terms()), ("model", joint.log_p_terms())):
        for name, term in terms.items():
            if (row := first_bad_row(term)) is not None:
                raise ContractError(
                    f"{role} site '{name}': found log probability {term[..., row].flatten()[0].item()} at row {row}, "
                    "expected a finite one; is the data inside the distribution's support, and its scale above zero?"
                )


def first_bad_row(term: Tensor) -> int | None:
    """The first data point with a non-finite entry in a `[..., B]` tensor, or None."""
    bad = (~torch.isfinite(term)).reshape(-1, term.shape[-1]).any(0)
    return int(bad.nonzero()[0]) if bad.any() else None
