"""A guide with parameters for each data point: the amortized guide's distributions, moved within their families.

The parameters travel with the data, as further entries of the batch. So the pair of a model and such a guide is a pair
like any other: the same code trains it, measures it and anneals from it.
"""

from contextlib import suppress
from typing import Any

import torch
from pyro.distributions import TransformedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import transform_to

from ppvae.batches import Batch, entries, num_rows, tensors
from ppvae.pair import Pair
from ppvae.particles import run
from ppvae.rebuilding import arguments, with_arguments, with_parts
from ppvae.refusals import family
from ppvae.sites import plate_scale

SEPARATOR = "/"
HELD = {
    "log_density": "v",  # Pyro's Delta: no part of its family
    "low": "high",  # Uniform's ends bound each other
    "high": "low",
}
"""Arguments that are not moved where there is another."""
LOCATIONS = ("loc", "delta_loc")
"""Arguments that are moved in units of the scale."""
LOCATION_SPREAD, SPREAD = 2.0, 0.5


class LocalGuide(Pair):
    """A pair whose guide's distributions are moved, for each data point, by offsets that are part of its batch.

    Argument a of a site's distribution becomes `T(T^-1(a) + offset)`, with T the bijection from the reals onto the
    values of a: scales are multiplied. Locations are shifted in units of the scale, so that a step means as much for a
    latent known to a thousandth as for one known to a third. Offsets of zero leave the guide as it was. In a
    transformed distribution (a flow) the base's arguments are moved, in a mixture its weights and its components'
    arguments. Where a site depends on others, so do its arguments, and the offset is the same at all their values.

    Args:
        pair: the model and guide; its parameters are shared.
        batch: data points like those to come.

    Attributes:
        shapes: of each offset by "site/argument", without the data dimension.
        fixed: the sites whose distributions cannot be moved, and why.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> pair, x = LinearVAE(num_features=5, num_latents=2), torch.randn(3, 5)
        >>> local = LocalGuide(pair, x)
        >>> local.shapes
        {'z/loc': torch.Size([2]), 'z/scale': torch.Size([2])}
        >>> offsets = local.zeros(x)
        >>> offsets["z/loc"][0] = torch.tensor([1.0, -1.0])
        >>> before, after = pair.guide, local.latents(local.with_offsets(x, offsets), num_particles=7)
        >>> after["z"].shape
        torch.Size([7, 3, 2])
    """

    def __init__(self, pair: Pair, batch: Batch):
        super().__init__()
        self.pair, self.own_rows = pair, pair.own_rows
        self.particles, self.guide_leads = pair.particles, pair.guide_leads
        finder = _Finder()
        with torch.no_grad(), finder:
            run(pair, "guide", batch, 1)
        self.shapes, self.fixed = finder.shapes, finder.fixed

    def zeros(self, batch: Batch) -> dict[str, Tensor]:
        """Offsets that leave the guide of a batch as it is."""
        parameter = next(self.pair.parameters(), next(iter(tensors(batch).values())))
        return {name: parameter.new_zeros(num_rows(batch), *shape) for name, shape in self.shapes.items()}

    def about(self, batch: Batch) -> dict[str, Tensor]:
        """Offsets drawn around zero: other places to start from. Those of discrete sites are drawn around what makes
        these uniform, as an ascent seldom leaves the values at which a factorized guide starts."""

        def spread(name: str) -> float:
            return LOCATION_SPREAD if name.rpartition(SEPARATOR)[2] in LOCATIONS else SPREAD

        flat = _Flattener()
        with torch.no_grad(), flat:
            run(self.pair, "guide", batch, 1)
        return {
            name: spread(name) * torch.randn_like(t)
            + (flat.offsets[name].reshape(t.shape) if name in flat.offsets else 0)
            for name, t in self.zeros(batch).items()
        }

    def with_offsets(self, batch: Batch, offsets: dict[str, Tensor]) -> Batch:
        """The batch with the offsets in it."""
        if isinstance(batch, dict):
            return batch | offsets
        return (*(batch if isinstance(batch, tuple) else (batch,)), *offsets.values())

    def offsets(self, batch: Batch) -> dict[str, Tensor]:
        """Those in a batch."""
        found = list(entries(batch).values())[-len(self.shapes) :]
        return dict(zip(self.shapes, found, strict=True))

    def model(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs, _ = self._parted(args, kwargs)
        with Unscaled():
            return self.pair.model(*args, **kwargs)

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs, offsets = self._parted(args, kwargs)
        with Unscaled(), _Mover(offsets):
            return self.pair.guide(*args, **kwargs)

    def _parted(self, args: tuple, kwargs: dict) -> tuple[tuple, dict, dict[str, Tensor]]:
        if kwargs:
            own = {name: value for name, value in kwargs.items() if name not in self.shapes}
            return args, own, {name: kwargs[name] for name in self.shapes}
        num = len(args) - len(self.shapes)
        return args[:num], {}, dict(zip(self.shapes, args[num:], strict=True))


class Unscaled(Messenger):
    """Leaves out `poutine.scale`: an ascent to a bound is no training."""

    def _pyro_sample(self, msg: Message) -> None:
        msg["scale"] = plate_scale(msg)


class _Sites(Messenger):
    """Visits each latent of a guide, once its plates have given it its shape."""

    def _pyro_sample(self, msg: Message) -> None:
        if not (msg["is_observed"] or site_is_subsample(msg)):
            self.visit(str(msg["name"]), msg)

    def visit(self, name: str, msg: Message) -> None:
        raise NotImplementedError


class _Mover(_Sites):
    """Moves the distributions by offsets."""

    def __init__(self, offsets: dict[str, Tensor]):
        super().__init__()
        self._offsets = offsets

    def visit(self, name: str, msg: Message) -> None:
        def moved(argument: str, value: Tensor, bijection: Any, unit: Tensor | float) -> Tensor:
            key = name + SEPARATOR + argument
            return bijection(bijection.inv(value) + unit * self._offsets[key]) if key in self._offsets else value

        msg["fn"] = _moved(msg["fn"], moved)


class _Finder(_Sites):
    """Finds what can be moved."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[str, torch.Size] = {}
        self.fixed: dict[str, str] = {}

    def visit(self, name: str, msg: Message) -> None:
        fn: Any = msg["fn"]
        leading = len(fn.batch_shape)
        found = movable(fn)
        self.shapes |= {name + SEPARATOR + argument: value.shape[leading:] for argument, value in found.items()}
        if not found:
            self.fixed[name] = f"{family(fn)} has no argument that can be moved"


class _Flattener(_Sites):
    """Finds the offsets by which discrete distributions are uniform; zero where a probability of zero stays so."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets: dict[str, Tensor] = {}

    def visit(self, name: str, msg: Message) -> None:
        fn: Any = msg["fn"]

        def note(argument: str, value: Tensor, bijection: Any, unit: Tensor | float) -> Tensor:
            offset = -bijection.inv(value)
            self.offsets[name + SEPARATOR + argument] = torch.where(offset.isfinite(), offset, 0.0)
            return value

        if fn.has_enumerate_support:
            _moved(fn, note)


def movable(fn: Any) -> dict[str, Tensor]:
    """The arguments of a distribution that can be moved within its family, by name."""
    found = {}

    def note(argument: str, value: Tensor, bijection: Any, unit: Tensor | float) -> Tensor:
        if value.dim() >= len(fn.batch_shape):
            found[argument] = value
        return value

    _moved(fn, note)
    return found


def _moved(fn: Any, change: Any) -> Any:
    """A distribution of the same family, with `change(name, argument, bijection, unit)` for each argument."""

    def part(fn: Any) -> Any:
        if type(fn) is TransformedDistribution:
            return TransformedDistribution(_moved(fn.base_dist, change), fn.transforms)
        moved = {}
        for name in arguments(fn):
            if HELD.get(name) not in fn.arg_constraints:
                with suppress(NotImplementedError):  # no bijection from the reals: a count, say
                    bijection = transform_to(fn.arg_constraints[name])
                    moved[name] = change(name, getattr(fn, name), bijection, _unit(fn, name))
        return with_arguments(fn, moved) if moved else fn

    return with_parts(fn, part)


def _unit(fn: Any, argument: str) -> Tensor | float:
    """The unit of an argument's offset: for a location the scale."""
    if argument not in LOCATIONS:
        return 1.0
    return fn.scale if hasattr(fn, "scale") else fn.variance.sqrt()
