"""Pyro's AutoNormal, each of its latents as one sample site."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pyro.distributions import TransformedDistribution
from pyro.infer.autoguide import AutoNormal
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import nn
from torch.distributions import biject_to
from torch.distributions.transforms import IndependentTransform, identity_transform

SUFFIX = "_unconstrained"


def supports(modules: Iterable[nn.Module], drawn: Trace) -> dict[str, Any]:
    """The supports of AutoNormal's latents, by site, where a guide draws such.

    Args:
        modules: those that the guide refers to. Another AutoNormal among them, for another model, may have latents of
            the same names.
        drawn: the guide's trace, which tells by its values whose latents they are.
    """
    guides = [part for module in modules for part in module.modules() if isinstance(part, AutoNormal)]
    nodes: dict[str, Any] = drawn.nodes
    return {
        name: site["fn"].support
        for guide in guides
        if guide.prototype_trace is not None
        for name, site in guide.prototype_trace.iter_stochastic_nodes()
        if {name, name + SUFFIX} <= nodes.keys()
        and torch.equal(biject_to(site["fn"].support)(nodes[name + SUFFIX]["value"]), nodes[name]["value"])
    }


class OneSite(Messenger):
    """Shows a latent z of AutoNormal as one site, `z = T(u)`, u normal, with its density.

    AutoNormal itself draws u at a site of its own, `z_unconstrained`, and has z follow as a Delta with the density of
    T(u): a point that cannot be moved, nor given.

    Args:
        supports: of its latents, by site.
    """

    def __init__(self, supports: Mapping[str, Any]):
        super().__init__()
        self._supports = supports
        self._normal: dict[str, Any] = {}

    def _pyro_sample(self, msg: Message) -> None:
        name = str(msg["name"])
        if name in self._normal:
            msg["fn"] = _constrained(self._normal.pop(name), self._supports[name])
        elif name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in self._supports:
            self._normal[name.removesuffix(SUFFIX)] = msg["fn"]
            msg["value"], msg["done"], msg["stop"] = msg["fn"].mean, True, True  # type: ignore[attr-defined]


def _constrained(fn: Any, support: Any) -> Any:
    """`T(u)` for u of this distribution, with T from the reals onto the support."""
    transform = biject_to(support)
    plain = transform.base_transform if isinstance(transform, IndependentTransform) else transform
    return fn if plain == identity_transform else TransformedDistribution(fn, [transform])
