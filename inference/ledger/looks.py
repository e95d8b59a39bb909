"""At which numbers of a data point the factors of a guide look, and on which the posterior depends."""

from dataclasses import dataclass

import torch
from pyro.distributions import TransformedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from ppvae.batches import Batch, entries, is_rows, num_rows, rows, tensors, with_entries
from ppvae.conversion import to_pair
from ppvae.inference.ledger.local_guide import SEPARATOR, movable
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair
from ppvae.particles import run
from ppvae.sites import log_prob_terms, sample_sites, wrapped
from ppvae.tracing import draw_latents, trace_model
from ppvae.weights import sum_terms

FEW, DRAWS = 8, 4
"""Data points by which is found what depends on what, and latents."""

MOST_NUMBERS, AT_ONCE = 1024, 64
"""Of a data point: of more, so many are exchanged; and so many in one go."""

ROUNDING = 100.0
"""Below which nothing has changed, in units of the type's precision."""


@dataclass(frozen=True)
class Looks:
    """What depends on which numbers of a data point.

    Attributes:
        numbers: those that were exchanged, by their place among all, `[D]`.
        needed: on which of these the posterior depends, `[D]`.
        seen: by "site/argument", at which of these each entry of a guide's argument looks, `[D, *]`.
        follows: by "site/argument", which entries look at latents drawn before, `[*]`.
    """

    numbers: Tensor
    needed: Tensor
    seen: dict[str, Tensor]
    follows: dict[str, Tensor]


def looks(pair: Pair, batch: Batch) -> Looks:
    """Found by exchanging one number at a time with another data point's, at the same latents.

    The posterior depends on a number if log p(x, z) changes by more at some z than at others.
    """
    points = to_pair(rows_or_all(pair, batch, slice(FEW)), pair)
    size = sum(t[0].numel() for t in tensors(points).values())
    numbers = torch.randperm(size, generator=torch.Generator().manual_seed(0))[:MOST_NUMBERS].sort().values
    needed, seen, follows = [], [], []
    for row in range(num_rows(points)):
        one = rows(points, torch.tensor([row]))
        z, other = (draw_latents(pair, one, DRAWS) for _ in range(2))
        before, after = _arguments(pair, one, z), _arguments(pair, one, other)
        follows.append({name: _differ(after[name], a).any(0).any(0) for name, a in before.items()})
        log_joint, moves, looked = _log_joint(pair, one, z), [], []
        for block in numbers.split(AT_ONCE):
            copies, partners = (rows(points, torch.full((len(block),), r % num_rows(points))) for r in (row, row + 1))
            moved = exchanged(copies, partners, block[:, None])
            change = _log_joint(pair, moved, z) - log_joint
            moves.append(_differ(change.amax(0), change.amin(0), log_joint.abs().max()))
            looked.append({name: _differ(a, before[name]).any(0) for name, a in _arguments(pair, moved, z).items()})
        needed.append(torch.cat(moves))
        seen.append({name: torch.cat([each[name] for each in looked]) for name in before})
    return Looks(numbers, torch.stack(needed).any(0), _any(seen), _any(follows))


def exchanged(batch: Batch, partners: Batch, numbers: Tensor) -> Batch:
    """The batch with some numbers of each row, by their places `[B, n]`, from that row of another batch."""
    found, start = [], 0
    for name, value in entries(batch).items():
        if is_rows(value):
            flat, theirs = value.flatten(1) if value.dim() > 1 else value[:, None], entries(partners)[name]
            own = torch.zeros(flat.shape, dtype=torch.bool)
            at = (numbers >= start) & (numbers < start + flat.shape[1])
            own[at.nonzero()[:, 0], numbers[at] - start] = True
            start += flat.shape[1]
            value = torch.where(own.reshape(value.shape).to(value.device), theirs, value)
        found.append(value)
    return with_entries(batch, found)


def _any(found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([each[name] for each in found]).any(0) for name in found[0]}


def _differ(a: Tensor, b: Tensor, least: Tensor | float = 0.0) -> Tensor:
    """Where they do beyond rounding, or are no numbers; on the CPU."""
    size = torch.maximum(b.abs().amax(), torch.as_tensor(least).to(b))
    return (~((a - b).abs() <= ROUNDING * torch.finfo(b.dtype).eps * size)).cpu()


def _log_joint(pair: Pair, batch: Batch, z: dict[str, Tensor]) -> Tensor:
    """log p(x, z) at the same latents for each row, `[K, B]`."""
    return sum_terms(trace_model(pair, batch, _for_each(z, batch), DRAWS).log_p_terms())


def _arguments(pair: Pair, batch: Batch, z: dict[str, Tensor]) -> dict[str, Tensor]:
    """The arguments of the guide's distributions at given latents, by "site/argument", `[K, B, *]`.

    What else a flow looks at is in its transforms: all its arguments look at what its density looks at.
    """
    latents = _for_each(z, batch)
    with _Held(latents):
        trace = run(pair, "guide", batch, DRAWS)
    log_q, found = log_prob_terms(trace), {}
    for site, node in sample_sites(trace, observed=False).items():
        leading = (DRAWS, num_rows(batch))
        is_flow = any(type(part) is TransformedDistribution for part in wrapped(node["fn"]))
        for argument, value in movable(node["fn"]).items():
            shape = value.shape[len(node["fn"].batch_shape) :]
            if is_flow:
                value = log_q[site].reshape(*log_q[site].shape, *(1,) * len(shape))
            found[site + SEPARATOR + argument] = value.detach().expand(*leading, *shape)
    return found


def _for_each(z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    return {name: value.expand(-1, num_rows(batch), *value.shape[2:]) for name, value in z.items()}


class _Held(Messenger):
    """Gives a guide's latents their values."""

    def __init__(self, latents: dict[str, Tensor]):
        super().__init__()
        self._latents = latents

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self._latents and not msg["done"]:
            msg["value"], msg["done"] = self._latents[str(msg["name"])], True
