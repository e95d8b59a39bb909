"""Distributions rebuilt: the same family, with other arguments."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent, MixtureSameFamily

from ppvae.internals import mask_of

SAID_TWICE = {
    "probs": "logits",
    "gate": "gate_logits",
    "covariance_matrix": "scale_tril",
    "precision_matrix": "scale_tril",
}
"""Arguments that say the same as another, where a distribution has both."""


def arguments(fn: Any) -> list[str]:
    """The names of a distribution's arguments, each thing said once."""
    return [name for name in fn.arg_constraints if SAID_TWICE.get(name) not in fn.arg_constraints]


def further_arguments(fn: Any) -> dict[str, Any]:
    """What a distribution is made of besides, such as a temperature, or a distribution that it changes."""
    names = signature(type(fn)).parameters
    return {name: getattr(fn, name) for name in names if name not in fn.arg_constraints and hasattr(fn, name)}


def with_arguments(fn: Any, changed: Mapping[str, Tensor]) -> Any:
    """A distribution of the same family with some arguments changed, the others as they were; nothing is validated."""
    kept = {name: getattr(fn, name) for name in arguments(fn)} | further_arguments(fn)
    if "validate_args" in signature(type(fn)).parameters:
        kept["validate_args"] = False
    return type(fn)(**{**kept, **changed})


def with_parts(fn: Any, part: Callable[[Any], Any], mask: Callable[[Any], Any] = lambda mask: mask) -> Any:
    """A distribution whose innermost parts are changed: what is in `to_event`, masks and mixtures."""
    if isinstance(fn, Independent):
        return with_parts(fn.base_dist, part, mask).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, MaskedDistribution):
        return with_parts(fn.base_dist, part, mask).mask(mask(mask_of(fn)))
    if isinstance(fn, MixtureSameFamily):
        weights, components = (
            with_parts(each, part, mask) for each in (fn.mixture_distribution, fn.component_distribution)
        )
        return type(fn)(weights, components, validate_args=False)
    return part(fn)
