"""Non-finite steps: the error, and the search for the sample site where they begin."""

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppvae.contract import first_bad_row
from ppvae.sites import presence, unmasked

SHOWN = 3
"""Gradients that an error names, at most."""


class NonFiniteError(FloatingPointError):
    """A training step gave NaN or infinity. It was not applied: the pair is as the previous step left it.

    Attributes:
        fit: the training up to there; None where a `Trainer` took the step in a loop of your own.
    """

    fit: Any = None


def explain(rerun: Callable[[], Any], gradients: dict[str, Tensor | None], index: Tensor) -> str:
    """Where a step's NaN or infinity comes from, and what to do about it.

    Args:
        rerun: repeats the step's computation with the same random numbers.
        gradients: of the parameters, by name.
        index: which data points are in the batch, `[B]`.
    """
    bad = [name for name, g in gradients.items() if g is not None and not g.isfinite().all()]
    with _FirstNonFinite(len(index)) as first:
        rerun()
    where = f", first in the {first.what} of site '{first.site}'" if first.site else ", though every site is finite"
    site = where if first.seen else ""
    remedy = "Lower the learning rate, keep scales away from zero, or train in float64"
    if not first.site and first.masked:
        site += f" (where site '{first.masked}' is masked, its density is not, which spoils gradients)"
        remedy = "Put moderate numbers inside the support, such as zero, where a mask says that one is missing"
    point = f" for data point {int(index[first.row])}" if first.row is not None else ""
    some = ", ".join(bad[:SHOWN]) + f" and {len(bad) - SHOWN} more" * (len(bad) > SHOWN)
    return (
        f"found NaN or infinity{site}{point}, expected finite numbers (gradients not finite: {some or 'none'}); "
        f"the step was not applied. {remedy}"
    )


class _FirstNonFinite(Messenger):
    """Watches sample statements, beneath all other handlers, for the first non-finite value or log probability."""

    def __init__(self, num_rows: int):
        super().__init__()
        self.num_rows = num_rows
        self.seen = False
        self.site = ""
        self.what = ""
        self.row: int | None = None
        self.masked = ""

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.site or site_is_subsample(msg):
            return
        self.seen = True
        fn, value = msg["fn"], msg["value"]
        drawn = value.isfinite().reshape(*value.shape[: value.dim() - fn.event_dim], -1).all(-1)
        log_prob = scale_and_mask(fn.log_prob(value), mask=msg["mask"])
        for what, term in (("value", torch.where(drawn, 0.0, math.nan)), ("log probability", log_prob)):
            shape = torch.broadcast_shapes(term.shape, (self.num_rows,))
            if (row := first_bad_row(term.expand(shape))) is not None:
                self.site, self.what, self.row = msg["name"], what, row
                return
        if not self.masked and presence(msg) is not None and not unmasked(fn).log_prob(value).isfinite().all():
            self.masked = msg["name"]
