"""A microscope for Monte Carlo noise: signal, variance, bias and cost of gradient estimators and of bounds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Annotated, Any

import numpy as np
import pyro
import torch
import xarray as xr
from torch import Tensor

from ppvae.arguments import Count, Distributed, Seed, checked
from ppvae.batches import Batch, num_rows
from ppvae.conversion import data_for, to_pair
from ppvae.inference.diagnostics.moments import BLOCKS
from ppvae.inference.diagnostics.repeated_gradients import Observed, RepeatedGradients
from ppvae.inference.evidence.estimates import log_evidence
from ppvae.inference.objectives.gradients import Draw
from ppvae.inference.objectives.protocol import as_objective
from ppvae.inference.runtime.isolation import denormals_flushed, own_randomness
from ppvae.inference.runtime.sharing import measurement
from ppvae.inference.training.optimizers import refuse_nothing_learned
from ppvae.mode import mode
from ppvae.pair import Pair
from ppvae.parameters import is_within
from ppvae.progress import progress_bar
from ppvae.rules import Elements, Entries, Instance, Whole

EVIDENCE_FACTOR = 10
GROUPS = Entries(Instance(str), Elements(Instance(str), at_least=1), at_least=1)
Repeats = Annotated[int, Whole(at_least=2 * BLOCKS, said=f"at least {2 * BLOCKS}, for the error bars")]


@checked
@measurement
def gradient_statistics(
    pair: Pair,
    data: Any,
    objectives: Sequence[Any] | Mapping[str, Any],
    num_particles: Sequence[Count] = (1, 10, 100, 1000),
    repeats: Repeats = 1000,
    groups: Annotated[Mapping[str, Sequence[str]], GROUPS] | None = None,
    *,
    seed: Seed = 0,
    compile: bool = False,
    progress: bool = True,
    distributed: Distributed = False,
) -> xr.Dataset:
    """How noisy and how biased each gradient estimator is, and at what cost; the same for the bounds' values.

    For each objective and K, it takes `repeats` gradients g of one minibatch's mean bound at one set of parameters,
    each with fresh noise that all objectives share. Per group of parameters, as vectors over the group:

    | variable | what it is |
    |---|---|
    | `mean_norm` | the signal: norm of E g (squared, and without bias: norm^2 of the mean - variance / repeats) |
    | `total_variance` | the noise, sum over parameters of Var g |
    | `snr` | `mean_norm / sqrt(total_variance)` |
    | `snr_noise_floor` | `1 / sqrt(repeats)`: a signal far below this cannot be seen |
    | `bias` | norm of E g - E reference; NaN for an objective that is its own reference, or has none |
    | `seconds` | median time of one gradient |
    | `variance_times_cost` | what counts at a fixed budget |
    | `value`, `value_variance` | the bound of the batch, in nats per data point: mean and variance over the repeats |
    | `value_seconds` | median time of the bound without gradients |
    | `value_bias` | against log p(x): exact where the pair has it, else by IWAE with ten times the largest K |

    `..._std_error` stands beside them: of the gradient's numbers by the jackknife over eight blocks of repeats, of the
    value's by its variance over the repeats. The reference is, for the ELBO,
    the exact gradient where the pair has one (`pair.exact_elbo`), else the unbiased gradient of the same bound with
    the same noise, so that shared noise cancels.

    An SNR says how well a step's *direction* is known. It does not say that the direction is worth taking: IWAE's bound
    with large K hardly depends on the guide.

    Memory does not grow with `repeats`, nor with K for functions of the log weights and ELBOs: those that would not fit
    are differentiated in chunks.

    Source: Rainforth et al. 2018 (arXiv:1802.04537).

    Args:
        pair: the model and guide, taken in eval mode, where its parameters are.
        data: a minibatch, B data points.
        objectives: what to compare, by name or not: dataclasses with a field `num_particles`, as all of ppvae's are.
            Those for evaluation only have values and no gradients.
        num_particles: the K to try.
        repeats: gradients for each objective and K; at least 16.
        groups: names of the groups, and the parameters in each: by their full names, or by the module or container that
            they are in ("decoder" has "decoder.weight", and "" all of them). By default "model", "guide" and "shared",
            by which of the two uses them.
        seed: of the noise; the caller's generators are left as they were.
        compile: run the gradients as compiled programs, which takes some seconds for each objective and K: worth it
            from some thousands of repeats. What cannot be compiled runs uncompiled, with a warning that says why.
        progress: show a bar.
        distributed: as in `log_evidence`, share the work among the processes of torch's process group.

    Returns:
        A dataset over `objective`, `num_particles` and `group`. Cells that an objective refuses (one particle for a
        score function) are NaN; `attrs["undefined"]` says why.

    Raises:
        ValueError: a count out of range, a pair that learns nothing, a group that names no parameter, an objective
            without `num_particles`, or data that are not finite.
        ContractError: the pair breaks the contract, or an objective refuses it at every K.

    Example:
        >>> from ppvae.inference import ELBO, IWAE
        >>> from ppvae.models import LinearVAE
        >>> pair, x = LinearVAE(num_features=5, num_latents=2), torch.randn(4, 5)
        >>> ds = gradient_statistics(pair, x, [ELBO(), IWAE(gradient="dreg")], [2, 4], repeats=16, progress=False)
        >>> dict(ds.sizes)
        {'objective': 2, 'num_particles': 2, 'group': 2}
        >>> ds.objective.values.tolist()
        ['ELBO', 'IWAE dreg']
    """
    if not len(num_particles):
        raise ValueError("num_particles: found none, expected at least one K")
    named = _named(objectives)
    refuse_nothing_learned(pair)
    batch = to_pair(data_for(pair, data), pair)
    cells: dict[tuple[str, int], dict[str, Any]] = {}
    refused: dict[tuple[str, int], ValueError] = {}
    with (
        denormals_flushed(),
        own_randomness((seed,), next(pair.parameters()).device),
        mode(pair, training=False),
        pyro.validation_enabled(False),
    ):
        pair.check_once(batch)
        evidence = _log_evidence(pair, batch, EVIDENCE_FACTOR * max(num_particles), seed, progress)
        run = RepeatedGradients(pair, batch, _members(pair, groups) if groups else _by_use(pair, batch), seed, compile)
        with progress_bar(total=len(num_particles) * repeats, shown=progress, unit="repeat") as bar:
            for K in num_particles:
                accepted = {}
                for name, objective in named.items():
                    try:
                        at_K = as_objective(replace(objective, num_particles=K))
                        run.once(at_K)
                        accepted[name] = at_K
                    except ValueError as error:
                        refused[name, K] = error
                observed = run.prepare(list(accepted.values()))
                run.repeat(observed, repeats, bar)
                for (name, objective), one in zip(accepted.items(), observed, strict=False):
                    cells[name, K] = _cell(one, evidence) | {"value_seconds": run.seconds_of_value(objective)}
    for name in named:
        if all((name, K) in refused for K in num_particles):
            raise refused[name, num_particles[0]]
    result = _dataset(list(named), list(num_particles), list(run.groups), cells)
    result["snr_noise_floor"] = 1 / math.sqrt(repeats)
    return result.assign_attrs(
        repeats=repeats,
        batch_size=num_rows(batch),
        undefined=[f"{name}, num_particles={K}: {error}" for (name, K), error in refused.items()],
    )


def _named(objectives: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """Objectives by name; without names, by class and by the settings that differ from its defaults."""
    if not isinstance(objectives, Mapping):
        names = [_name(objective) for objective in objectives]
        if len(set(names)) < len(names):
            raise ValueError(f"objectives: found {names}, expected different ones; give a dict of them by name")
        objectives = dict(zip(names, objectives, strict=True))
    if not objectives:
        raise ValueError("objectives: found none, expected one or more, such as IWAE()")
    for name, objective in objectives.items():
        has_settings = is_dataclass(objective) and not isinstance(objective, type)
        if not has_settings or "num_particles" not in [f.name for f in fields(objective)]:
            raise ValueError(
                f"objectives: found '{name}' without a field `num_particles`, expected a dataclass that has one, to be "
                "set to each K"
            )
    return dict(objectives)


def _name(objective: Any) -> str:
    own = [f for f in fields(objective) if f.repr and f.name != "num_particles"] if is_dataclass(objective) else []
    told = [(f.name, getattr(objective, f.name)) for f in own if getattr(objective, f.name) != f.default]
    return " ".join([type(objective).__name__, *(v if isinstance(v, str) else f"{name}={v}" for name, v in told)])


def _by_use(pair: Pair, batch: Batch) -> dict[str, list[Tensor]]:
    """The parameters that only the model uses, only the guide, and both; a group without any is left out."""
    draw = Draw(pair, batch, 1, fixed=True)
    learned = [p for p in pair.parameters() if p.requires_grad]
    used = {}
    for role, terms in (("model", draw.joint.log_p_terms()), ("guide", draw.joint.log_q_terms())):
        scalar = sum((term.sum() for term in terms.values()), torch.zeros((), requires_grad=True))
        found = torch.autograd.grad(scalar, learned, allow_unused=True, retain_graph=True)
        used[role] = {id(p) for p, g in zip(learned, found, strict=True) if g is not None}
    both = used["model"] & used["guide"]
    ids = {"model": used["model"] - both, "guide": used["guide"] - both, "shared": both}
    return {name: [p for p in learned if id(p) in chosen] for name, chosen in ids.items() if chosen}


def _members(pair: Pair, groups: Mapping[str, Sequence[str]]) -> dict[str, list[Tensor]]:
    parameters: dict[str, Tensor] = {name: p for name, p in pair.named_parameters() if p.requires_grad}
    result = {}
    for group, prefixes in groups.items():
        for prefix in prefixes:
            if not any(is_within(name, prefix) for name in parameters):
                raise ValueError(
                    f"groups: found '{prefix}' in '{group}', expected the name of a parameter or of a module that has "
                    f"some; there are {list(parameters)}"
                )
        result[group] = [p for name, p in parameters.items() if any(is_within(name, prefix) for prefix in prefixes)]
    return result


def _log_evidence(pair: Pair, batch: Batch, num_particles: int, seed: int, progress: bool) -> tuple[float, float]:
    """The batch's mean log p(x), and its Monte Carlo error; NaN for a pair that has none."""
    if pair.evidence_undefined:
        return math.nan, math.nan
    mean = log_evidence(pair, batch, num_particles=num_particles, seed=seed, progress=progress).mean()
    return mean.estimate, mean.monte_carlo_error


def _cell(observed: Observed, evidence: tuple[float, float]) -> dict[str, Any]:
    """All results for one objective at one K."""
    values = np.array(observed.values)
    value_error = values.std(ddof=1) / math.sqrt(len(values))
    found = {
        "value": values.mean(),
        "value_std_error": value_error,
        "value_variance": values.var(ddof=1),
        "value_bias": values.mean() - evidence[0],
        "value_bias_std_error": math.hypot(value_error, evidence[1]),
    }
    if observed.gradients.drawn:
        seconds = statistics.median(observed.seconds)
        moments = observed.gradients.statistics()
        unknown = torch.full_like(moments["norm"][0], math.nan)
        named = {
            "mean_norm": moments["norm"],
            "total_variance": moments["variance"],
            "snr": moments["snr"],
            "bias": observed.bias() or (unknown, unknown),
        }
        for name, (estimate, std_error) in named.items():
            found |= {name: estimate, f"{name}_std_error": std_error}
        found |= {"seconds": seconds, "variance_times_cost": seconds * moments["variance"][0]}
    return found


def _dataset(
    names: list[str], num_particles: list[int], groups: list[str], cells: dict[tuple[str, int], dict[str, Any]]
) -> xr.Dataset:
    """The cells as arrays; NaN where there is none."""
    dims = ("objective", "num_particles", "group")
    sizes = (len(names), len(num_particles), len(groups))
    result = xr.Dataset(coords={"objective": names, "num_particles": num_particles, "group": groups})
    for variable in dict.fromkeys(variable for cell in cells.values() for variable in cell):
        of_groups = any(isinstance(cell.get(variable), Tensor) for cell in cells.values())
        array = np.full(sizes if of_groups else sizes[:2], math.nan)
        for (name, K), cell in cells.items():
            array[names.index(name), num_particles.index(K)] = np.asarray(cell.get(variable, math.nan))
        result[variable] = (dims if of_groups else dims[:2], array)
    return result
