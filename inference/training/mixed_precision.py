"""Mixed precision: a pair's networks in bfloat16, its log probabilities in float32."""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.batches import Batch
from ppvae.inference.runtime.isolation import own_randomness
from ppvae.internals import tree_leaves, tree_map
from ppvae.mode import mode
from ppvae.pair import Pair
from ppvae.weights import draw_weights

_MIXED = ContextVar("mixed", default=True)
"""Whether the networks of a `networks_in` run in its precision now."""


@contextlib.contextmanager
def networks_in(dtype: torch.dtype | None, found: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Runs networks under `torch.autocast`; what they return is float32 again. Without a dtype it does nothing.

    Distributions are made, sampled and scored outside, so a log probability loses digits only through its arguments.

    Args:
        dtype: of the networks' matrix products and convolutions.
        found: the networks, as `networks` finds them in a pair.
        device: where they are.
    """
    hooks = []
    for network in found if dtype else []:
        context = torch.autocast(device.type, dtype, cache_enabled=False)
        hooks.append(network.register_forward_pre_hook(partial(_enter, context)))
        hooks.append(network.register_forward_hook(partial(_leave, context), always_call=True))
    mixed = _MIXED.set(True)
    try:
        yield
    finally:
        _MIXED.reset(mixed)
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def networks_unchanged() -> Iterator[None]:
    """Within `networks_in`, around what is no part of training: networks run in the precision of their parameters."""
    mixed = _MIXED.set(False)
    try:
        yield
    finally:
        _MIXED.reset(mixed)


def _enter(context: torch.autocast, network: nn.Module, inputs: Any) -> None:
    if _MIXED.get():
        context.__enter__()


def _leave(context: torch.autocast, network: nn.Module, inputs: Any, output: Any) -> Any:
    if not _MIXED.get():
        return output
    context.__exit__(None, None, None)
    return tree_map(_to_float32, output)


def _to_float32(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype in (torch.bfloat16, torch.float16) else leaf


@torch.no_grad()
def networks(pair: Pair, batch: Batch) -> list[nn.Module]:
    """The outermost of a pair's modules that return tensors, not distributions, when it is run on a batch."""
    returning: set[nn.Module] = set()

    def watch(module: nn.Module, args: Any, output: Any) -> None:
        if all(isinstance(leaf, Tensor) for leaf in tree_leaves(output)):
            returning.add(module)

    hooks = [module.register_forward_hook(watch) for module in pair.modules()]
    try:
        with mode(pair, training=False), own_randomness((0,), next(pair.parameters()).device):
            draw_weights(pair, batch, num_particles=1)
    finally:
        for hook in hooks:
            hook.remove()

    def outermost(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if child in returning:
                yield child
            else:
                yield from outermost(child)

    return list(dict.fromkeys(outermost(pair)))
