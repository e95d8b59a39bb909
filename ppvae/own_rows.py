"""Guides that have parameters for the rows that they were made for, and take no others.

Such are Pyro's AutoNormal and AutoDelta, and functions with a `pyro.param` of one entry for each row. They run on all
of their rows at once, in order. A guide whose plate is told which rows it is given, by `subsample=`, takes any of them.
"""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from ppvae.batches import Batch, call, num_rows, repeated, rows, tensors
from ppvae.model_and_guide import ModelAndGuide
from ppvae.refusals import ContractError
from ppvae.sites import log_prob_terms, sample_sites

_DIVIDER = "$$$"  # in the names of the parameters of modules, which are for all rows


def has_own_rows(guide: Callable, batch: Batch) -> bool:
    """Whether a guide, which runs on a batch, has parameters for each of its rows by their position.

    Then it runs on no other number of rows, or gives a row that has moved the parameters of another.
    """
    num = num_rows(batch)
    if not _parameters(_trace(guide, batch), num):
        return False
    fewer = rows(batch, slice(num - 1)) if num > 1 else repeated(batch, 2)
    try:
        sites = sample_sites(_trace(guide, fewer))
    except Exception:  # of any kind: the author's code
        return True
    if any(site["fn"].batch_shape[-1:] == (num,) for site in sites.values()):
        return True
    moved = rows(batch, torch.arange(num).flip(0))
    return any(
        not torch.equal(a, b) for a, b in zip(_reached(guide, batch, -1), _reached(guide, moved, 0), strict=True)
    )


def _trace(guide: Callable, batch: Batch) -> Trace:
    with poutine.trace() as tracer:
        call(guide, batch)
    return tracer.trace


def _parameters(trace: Trace, num: int) -> list[Tensor]:
    """Those with `num` entries, none of a module's, which are for all rows."""
    sites: list[Any] = [(name, site["value"]) for name, site in trace.nodes.items() if site["type"] == "param"]
    return [p for name, p in sites if _DIVIDER not in name and p.dim() and len(p) == num]


def _reached(guide: Callable, batch: Batch, row: int) -> list[Tensor]:
    """For each of these parameters, the entries that a row's draws and log q depend on, `[num_rows]`."""
    with torch.enable_grad():
        trace = _trace(guide, batch)
        parameters = [p for p in _parameters(trace, num_rows(batch)) if p.requires_grad]
        of_row = moving(trace)[row]
        if not (parameters and of_row.requires_grad):
            return []
        gradients = torch.autograd.grad(of_row, parameters, allow_unused=True, materialize_grads=True)
    return [(g != 0).reshape(len(g), -1).any(1) for g in gradients]


def moving(trace: Trace) -> Tensor:
    """A sum for each particle and row that moves with all that a guide's draws and log q depend on, `[..., B]`."""
    terms = log_prob_terms(trace)
    moved = list(terms.values())
    for name, site in sample_sites(trace).items():
        if site["value"].is_floating_point():
            value = site["value"].expand(site["fn"].shape())
            moved.append(value.reshape(*terms[name].shape, -1).sum(-1))
    return sum(moved[1:], moved[0]) if moved else torch.zeros(1)


def rows_or_all(pair: ModelAndGuide, batch: Batch, index: Tensor | slice) -> Batch:
    """The data points at `index`; all, where the guide takes only all."""
    return rows(batch, index) if pair.own_rows is None else batch


def refuse_other_number(pair: ModelAndGuide, batch: Batch) -> None:
    """Refuses another number of rows than that of a guide's parameters."""
    if pair.own_rows is not None and num_rows(batch) != num_rows(pair.own_rows):
        raise ContractError(
            f"guide: found a batch of {num_rows(batch)} rows, expected the {num_rows(pair.own_rows)} rows that the "
            "guide has parameters for, all at once and in order; for any other rows, write an amortized guide, which "
            "computes its parameters from them, or pass which rows they are to the plate (`subsample=index`)"
        )


def refuse_other_rows(pair: ModelAndGuide, batch: Batch) -> None:
    """Refuses other rows than those that a guide's parameters are for, and these in another order.

    They are the rows of the example that `Pair.of` was given. Whether the guide was trained on these cannot be known.
    """
    if pair.own_rows is None:
        return
    refuse_other_number(pair, batch)
    found = tensors(batch)
    for name, own in tensors(pair.own_rows).items():
        if name not in found or found[name].shape != own.shape:
            continue  # the functions themselves will not take it
        given = found[name].to(own)
        same = torch.isclose(given, own) if own.is_floating_point() else given == own
        if not same.all():
            row = int((~same).reshape(len(own), -1).any(1).nonzero()[0])
            raise ContractError(
                f"data: found that row {row} is not that of the example, expected the rows for which the guide has "
                "parameters, in their order; measure it on Pair.of's example, or write an amortized guide"
            )


def refuse_parts(pair: ModelAndGuide, batch_size: int, num_processes: int) -> None:
    """Refuses to train a guide that takes its own rows only, all at once, on batches of fewer."""
    if pair.own_rows is None:
        return
    num = num_rows(pair.own_rows)
    if batch_size < num:
        raise ContractError(
            f"batch_size: found {batch_size}, expected {num} or more, as the guide has parameters for each of {num} "
            f"rows, and takes all at once; pass batch_size={num}, or pass which rows a batch has to the plate "
            "(`subsample=index`)"
        )
    if num_processes > 1:
        raise ContractError(
            f"distributed: found {num_processes} processes that share each batch, expected one, as the guide has "
            f"parameters for each of {num} rows, and takes all at once; pass StepOptions(distributed=False)"
        )


def refuse_simulated_rows(pair: ModelAndGuide) -> None:
    """Refuses to draw new data for a guide that knows nothing of them."""
    if pair.own_rows is not None:
        raise ContractError(
            f"guide: found parameters for each of {num_rows(pair.own_rows)} rows, expected a guide of any rows, as "
            "simulated data are new ones; write an amortized guide, which computes its parameters from the data"
        )
