"""The one door of the core to private names: Pyro's of enumeration, and those of torch that have no public ones.

Compiled programs have a door of their own, `ppvae.inference.compiling`.
"""

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pyro.ops import packed
from pyro.ops.einsum import contract
from pyro.poutine import Trace
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn
from torch.distributions import ComposeTransform, Transform
from torch.distributions.kl import _dispatch_kl
from torch.distributions.transforms import _InverseTransform
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

__all__ = [
    "TorchDispatchMode",
    "contents_lent",
    "default_store",
    "eliminate",
    "enumeration_dim",
    "fresh_transform",
    "handlers_kept",
    "is_deterministic",
    "kl_formula",
    "mask_of",
    "memory_of",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_unflatten",
    "with_validation_of",
]


def enumeration_dim(site: Mapping[str, Any]) -> int | None:
    """The dim along which a site has all its values at once; None for one that is not enumerated."""
    return site["infer"].get("_enumerate_dim")


def is_deterministic(site: Mapping[str, Any]) -> bool:
    """Whether the site is a `pyro.deterministic` statement."""
    return bool((site["infer"] or {}).get("_deterministic", False))


def memory_of(t: Tensor) -> int:
    """A number that only views of one memory share, also while a program is traced; a sparse tensor has its own."""
    try:
        return t.untyped_storage()._cdata
    except RuntimeError:
        return id(t)


def mask_of(masked: Any) -> Any:
    """The mask of Pyro's `MaskedDistribution`."""
    return masked._mask


def with_validation_of(fn: Any, other: Any) -> Any:
    """The other distribution, which from now on refuses values outside its support if `fn` does."""
    other._validate_args = fn._validate_args
    return other


def kl_formula(q: type, p: type | None = None) -> Any:
    """The function by which torch has KL(q || p) of two kinds of distributions, or of two of one kind."""
    return _dispatch_kl(q, p or q)


def default_store() -> Any:
    """The store in which the processes of torch's process group leave each other words."""
    from torch.distributed.distributed_c10d import _get_default_store  # not all builds of torch have it

    return _get_default_store()


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Pyro's handlers are those of before after the block, also where one could not be left."""
    before = list(_PYRO_STACK)
    try:
        yield
    finally:
        if before != _PYRO_STACK:
            _PYRO_STACK[:] = before


@contextmanager
def contents_lent(own: nn.Module, other: nn.Module) -> Iterator[None]:
    """For the block, a module of the same structure has the parameters, buffers and mode of `own`."""
    pairs = list(zip(own.modules(), other.modules(), strict=True))
    before = [(b, b._parameters, b._buffers, b.training) for _, b in pairs]
    try:
        for a, b in pairs:
            b.__dict__.update(_parameters=a._parameters, _buffers=a._buffers, training=a.training)
        yield
    finally:
        for b, parameters, buffers, training in before:
            b.__dict__.update(_parameters=parameters, _buffers=buffers, training=training)


def fresh_transform(transform: Any, training: bool) -> Any:
    """A shallow copy of a transform of torch's or Pyro's: it shares parameters, but caches for itself."""
    if isinstance(transform, _InverseTransform):
        return fresh_transform(transform.inv, training).inv
    own = copy.copy(transform)
    own._inv = None  # else the copy's inverse would be the original's
    own.clear_cache()
    if isinstance(own, ComposeTransform):
        own.parts = [fresh_transform(part, training) for part in own.parts]
    if isinstance(own, nn.Module):
        own.training = training
        parts = own._modules.items()
        own._modules = {
            n: fresh_transform(part, training) if isinstance(part, Transform) else part for n, part in parts
        }
    return own


def eliminate(guide: Trace, model: Trace, names: list[str], keep: str | None, guide_sites: Collection[str]) -> Tensor:
    """The log of the summed product of the model's terms `names`, by variable elimination; the dims of `keep` stay.

    Args:
        guide: the guide's trace; dims that it enumerates stay too, to the left.
        model: the model's trace, its log probabilities computed.
        names: of the terms.
        keep: the term whose dims stay; None to sum out all that the guide does not enumerate.
        guide_sites: the guide's sample sites.
    """
    guide.symbolize_dims()
    model.pack_tensors(guide.plate_to_symbol)
    nodes: dict[str, Any] = model.nodes
    factors = [nodes[name]["packed"]["log_prob"] for name in names]
    dims = nodes[keep or names[0]]["infer"]["_dim_to_symbol"]
    kept = {symbol: dim for dim, symbol in dims.items() if dim in (-1, -2) or keep is not None}
    for name in guide_sites:
        site: Any = guide.nodes[name]
        if (dim := enumeration_dim(site)) is not None:
            kept[site["infer"]["_dim_to_symbol"][dim]] = dim
    output = "".join(s for s in kept if any(s in factor._pyro_dims for factor in factors))
    equation = ",".join(factor._pyro_dims for factor in factors) + "->" + output
    total: Any = contract(equation, *factors, backend="ppvae.log_einsum")
    total._pyro_dims = output
    return packed.unpack(total, kept)
