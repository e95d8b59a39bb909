"""Whether amortization can close its gap at all: what a guide looks at, and what the best one depends on.

Given the parameters, a pair's data points are independent, as in a simple hierarchical model: each data point's best
guide is a function of that data point. So there is an ideal network, if each factor of the guide looks at all that its
best depends on. Where one does not, no network in its place closes the gap, however wide it is.
"""

import torch
from torch import Tensor

from ppvae.batches import Batch, entries, is_rows, num_rows, rows, some_rows, tensors, with_entries
from ppvae.conversion import to_pair
from ppvae.inference.evidence.estimates import elbo_of
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.cause import LEAST, is_significant
from ppvae.inference.ledger.looks import Looks, exchanged, looks
from ppvae.inference.ledger.refinement import refine
from ppvae.inference.runtime.differences import less
from ppvae.inference.runtime.records import Mean, Measurement
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair

REFINED, MOST_GROUPS = 32, 3
"""Data points by which is found whether a best guide moves, and groups of arguments that are tried one by one."""

ALL_SEEN = (
    "Structure: each factor of the guide looks at all of a data point that the posterior depends on, so there is a "
    "network that closes the amortization gap."
)
RELAYED = (
    "Structure: factors of the guide that look at no latent before them look at all of a data point that the posterior "
    "depends on; others look at such latents in place of a part of it, and whether these say enough was not measured."
)
UNMOVED = (
    f"Structure: some factors of the guide do not look at all of a data point that the posterior depends on, but what "
    f"they do not look at moves their best by less than {LEAST} nats, as far as that was tried: it keeps no network "
    "from closing the amortization gap."
)


def structure_of(pair: Pair, batch: Batch, ascent: Ascent, num_samples: int) -> tuple[str, bool]:
    """What the verdict says of it, and whether a part of the amortization gap is out of every network's reach.

    Whether a best guide moves with what a factor does not look at is measured: at data points that differ only in that,
    each has its best guide refined, and then that factor is exchanged. Arguments that look at latents drawn before are
    left out, as these may tell them what they do not look at.

    It takes the best guide to be unique. It says nothing of a network's width or training, and what depends on what is
    found at a few data points.

    Source: Margossian & Blei 2024 (arXiv:2307.11018), on guides that are products over latents: there is an ideal
    network if the best factor of each latent is a function of what the network looks at.

    Args:
        pair: the model and guide (inside `measuring`).
        batch: data points.
        ascent: settings of the refinement.
        num_samples: draws for each ELBO.
    """
    found = looks(pair, batch)
    if not found.seen:
        return "", False
    unseen = {name: found.needed.reshape(-1, *(1,) * (s.dim() - 1)) & ~s for name, s in found.seen.items()}
    index = _whole(batch)[found.numbers] & ~found.needed
    if any(bool((each.any(0) & found.seen[name][index].any(0)).any()) for name, each in unseen.items()):
        return "", False  # they look up a data point by its number, which tells all of it
    blind = {name: each & ~found.follows[name] for name, each in unseen.items()}
    groups = _groups(blind)
    if not len(groups):
        relayed = any(bool(each.any()) for each in unseen.values())
        return (RELAYED if relayed else ALL_SEEN), False
    for group in groups[:MOST_GROUPS]:
        cost = _cost(pair, batch, found, blind, group, ascent, num_samples)
        if is_significant(cost):
            return _said(blind, group, found.needed, cost.mean()), True
    return UNMOVED, False


def _said(blind: dict[str, Tensor], group: Tensor, needed: Tensor, cost: Mean) -> str:
    """In words, what some arguments do not look at, and what that costs."""
    where = ", ".join(f"'{name}'" for name, each in blind.items() if _same(each, group).any())
    return (
        f"Structure: the guide's {where} look at {int((needed & ~group).sum())} of the {int(needed.sum())} "
        "numbers of a data point that the posterior depends on. Among data points that differ only in the others, "
        f"the best for one costs another {cost.estimate:.2f} +- {cost.monte_carlo_error:.2f} nats: no "
        "network of what they look at closes the amortization gap, however wide. Let them see the whole data point."
    )


def _whole(batch: Batch) -> Tensor:
    """Which numbers of a data point are integers or booleans."""
    return torch.cat([torch.full((t[0].numel(),), not t.is_floating_point()) for t in tensors(batch).values()])


def _groups(blind: dict[str, Tensor]) -> Tensor:
    """The sets of numbers at which some argument does not look, the largest first: masks `[G, D]`."""
    columns = torch.cat([each.reshape(len(each), -1) for each in blind.values()], 1).T.unique(dim=0)
    columns = columns[columns.any(1)]
    return columns[columns.sum(1).argsort(descending=True)]


def _same(blind: Tensor, group: Tensor) -> Tensor:
    """Which entries of an argument are of the group, `[*]`."""
    return (blind == group.reshape(-1, *(1,) * (blind.dim() - 1))).all(0)


def _cost(
    pair: Pair,
    batch: Batch,
    found: Looks,
    blind: dict[str, Tensor],
    group: Tensor,
    ascent: Ascent,
    num_samples: int,
) -> Measurement:
    """What a data point's best guide loses, if the arguments of a group are those of another that looks the same."""
    points = to_pair(rows_or_all(pair, batch, some_rows(num_rows(batch), REFINED)), pair)
    number = torch.arange(num_rows(points))
    partners = rows(points, number.roll(1))
    others = exchanged(points, partners, found.numbers[group].expand(len(number), -1))
    both = with_entries(
        points,
        [
            torch.cat([value, entries(others)[name]]) if is_rows(value) else value
            for name, value in entries(points).items()
        ],
    )
    refined = refine(pair, both, ascent, 0, progress=False)
    offsets, given = (
        refined.pair.offsets(rows(refined.batch, half)) for half in (slice(len(number)), slice(len(number), None))
    )
    theirs = {name: torch.where(_same(blind[name], group), offsets[name], t) for name, t in given.items()}
    best, held = (
        elbo_of(refined.pair, refined.pair.with_offsets(others, each), num_samples, progress=False)
        for each in (given, theirs)
    )
    return less("structure", best, held)
