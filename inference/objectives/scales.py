"""What `poutine.scale` does in training: it weighs a site's terms in what is maximized, as Pyro has it.

The value of a bound stays the bound's. A scale has a meaning for a sum of terms, as the ELBO is; for no other bound.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ppvae.batches import Batch
from ppvae.devices import gpus
from ppvae.pair import Pair
from ppvae.refusals import ContractError
from ppvae.sites import handler_scales
from ppvae.tracing import Joint, trace_pair

Terms = dict[str, Tensor]


def is_scaled(joint: Joint) -> bool:
    """Whether a handler scales any site."""
    return bool(handler_scales(joint.guide) or handler_scales(joint.model))


def is_pair_scaled(pair: Pair, batch: Batch) -> bool:
    """The same of a pair, by a run that leaves no trace."""
    with torch.no_grad(), torch.random.fork_rng(gpus(pair)):
        return is_scaled(trace_pair(pair, batch, 1))


def scaled(joint: Joint, log_p: Terms, log_q: Terms) -> tuple[Terms, Terms]:
    """The terms of log p and log q, each times the scale that handlers give its sites.

    Raises:
        ppvae.ContractError: sites that an exact summation ties together have different scales.
    """
    in_model, in_guide = handler_scales(joint.model), handler_scales(joint.guide)
    log_p = {key: _of_all(key.split(","), in_model) * term for key, term in log_p.items()}
    return log_p, {name: in_guide.get(name, 1.0) * term for name, term in log_q.items()}


def _of_all(names: list[str], scales: Mapping[str, Any]) -> Any:
    """The one scale of sites that are one term."""
    first, *others = (scales.get(name, 1.0) for name in names)
    if any(not _same(first, other) for other in others):
        raise ContractError(
            f"model sites {names}: found different scales by poutine.scale, expected one for all, as an exact "
            "summation ties them together; put all of them under one poutine.scale"
        )
    return first


def _same(a: Any, b: Any) -> bool | Tensor:
    """A tensor where values tell."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and (a == b).all()
    return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)


def like_scales(joint: Joint) -> dict[str, bool | Tensor]:
    """Whether sites have the same scale in the model as in the guide; all that are not named have none.

    Where the values of tensors tell, it is a tensor: a program cannot decide by it, but select.
    """
    in_model, in_guide = handler_scales(joint.model), handler_scales(joint.guide)
    names = in_model.keys() | in_guide.keys()
    return {name: _same(in_model.get(name, 1.0), in_guide.get(name, 1.0)) for name in names}


def refuse_scales(joint: Joint, objective: Any) -> None:
    """Refuses a scaled site, by name, on behalf of a bound that is no sum of terms."""
    for role, trace in (("guide", joint.guide), ("model", joint.model)):
        for name in handler_scales(trace):
            raise ContractError(
                f"{role} site '{name}': found scaled by poutine.scale, expected no scale, as "
                f"{type(objective).__name__} is no sum of sites' terms, each of which could be weighed; train with "
                "ELBO, or leave out the scale"
            )
