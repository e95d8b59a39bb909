"""What plain Pyro says of a program: log weights of draws from the guide, on a batch with each row repeated.

Nothing here is ppvae's. The guide is traced, then the model on the guide's draws; `log p - log q` is summed by rows.
"""

from collections.abc import Callable, Collection, Mapping
from itertools import product
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from support.corpus.entry import Program
from torch import Tensor


@torch.no_grad()
def log_weights(program: Program, num_particles: int) -> Tensor:
    """`log p(x, z_k) - log q(z_k | x)`, `[K, B]`, with the discrete latents that only the model has summed out.

    No scale enters, neither that of subsampling nor that of `poutine.scale`. Latents that the program conditions on
    have no term.
    """
    training = [module.training for module in program.modules]
    for module in program.modules:
        module.eval()
    with pyro.get_param_store().scope():
        if program.repeatable:
            log_w = _log_weight(program, repeated(program.data, num_particles)).reshape(num_particles, -1)
        else:
            log_w = torch.stack([_log_weight(program, program.data) for _ in range(num_particles)])
    for module, mode in zip(program.modules, training, strict=True):
        module.train(mode)
    return log_w


def elbo(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over particles and its standard error, `[B]` each."""
    return log_w.mean(0), log_w.std(0) / len(log_w) ** 0.5


def iwae(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """The log of the mean weight and its standard error by the delta method, `[B]` each."""
    weight = (log_w - log_w.max(0).values).exp()
    return weight.mean(0).log() + log_w.max(0).values, weight.std(0) / len(log_w) ** 0.5 / weight.mean(0)


def num_rows(data: Any) -> int:
    """B: the size at dim 0 of the first tensor that has one."""
    values = data.values() if isinstance(data, dict) else data if isinstance(data, tuple) else (data,)
    return next(len(value) for value in values if isinstance(value, Tensor) and value.dim())


def repeated(data: Any, times: int) -> Any:
    """A batch of `times * B` rows; what is no tensor of B rows stays as it is."""
    size = num_rows(data)

    def repeat(value: Any) -> Any:
        has_rows = isinstance(value, Tensor) and value.dim() and len(value) == size
        return value.repeat(times, *[1] * (value.dim() - 1)) if has_rows else value

    if isinstance(data, dict):
        return {name: repeat(value) for name, value in data.items()}
    return tuple(map(repeat, data)) if isinstance(data, tuple) else repeat(data)


def _log_weight(program: Program, data: Any) -> Tensor:
    """The log weight of one draw for each row, `[rows]`."""
    size, given = num_rows(data), program.condition
    without = {*given, *(f"{name}_unconstrained" for name in given)}  # of which AutoNormal makes its own
    guide = _trace(program.guide, data, given)
    drawn = {name: site["value"] for name, site in _latents(guide).items()}
    known = {**drawn, **given}
    discrete = {name: site["fn"] for name, site in _latents(_trace(program.model, data, known)).items()}
    terms = []
    for values in product(*[[value.expand(fn.shape()) for value in _values(fn)] for fn in discrete.values()]):
        assigned = dict(zip(discrete, values, strict=True))
        model = _trace(program.model, data, {**known, **assigned})
        terms.append(_log_prob(model, size, without=without, enumerated=assigned))
    return torch.stack(terms).logsumexp(0) - _log_prob(guide, size, without=without)


def _latents(trace: Trace) -> dict[str, Any]:
    """The sites that are neither observed nor given."""
    sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
    return {name: site for name, site in sites.items() if not site["is_observed"] and not site_is_subsample(site)}


def _trace(function: Callable, data: Any, given: Mapping) -> Trace:
    args, kwargs = ((), data) if isinstance(data, dict) else (data if isinstance(data, tuple) else (data,), {})
    return poutine.trace(poutine.condition(function, data=dict(given))).get_trace(*args, **kwargs)


def _values(fn: Any) -> Tensor:
    """All values of a distribution of finite support, `[values, *event]`."""
    return fn.enumerate_support(expand=False).reshape(-1, *fn.event_shape)


def _log_prob(trace: Trace, size: int, without: Collection, enumerated: Collection = ()) -> Tensor:
    """The sum of all sites' log probability, `[rows]`; masks act on all but the enumerated sites, scales on none."""
    total = torch.zeros(size)
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not site_is_subsample(site) and name not in without:
            if name in enumerated:
                log_prob = _unmasked(site["fn"]).log_prob(site["value"])
            else:
                log_prob = site["fn"].log_prob(site["value"])
                if site["mask"] is not None:
                    log_prob = torch.where(torch.as_tensor(site["mask"]), log_prob, 0.0)
            total = total + log_prob
    assert total.shape == (size,)
    return total


def _unmasked(fn: Any) -> Any:
    """The distribution without `.mask()`: the values of a latent that is not there still sum to one."""
    if isinstance(fn, MaskedDistribution):
        return _unmasked(fn.base_dist)
    if isinstance(fn, ExpandedDistribution):
        return _unmasked(fn.base_dist).expand(fn.batch_shape)
    return fn
