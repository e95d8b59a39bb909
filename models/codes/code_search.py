"""All codes, or the best of them: exact sums, and a coordinate search."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_CODES = 1_000_000
"""Above which the sum over all codes is not tried."""

ELEMENTS_AT_ONCE = 4_000_000

MOST_SWEEPS = 20


@dataclass(frozen=True)
class Joint:
    """`log p(x, c)` of data points x, as a function of codes.

    Attributes:
        log_joint: from indices `[S, 1 or B, P]` to `[S, B]`.
        num_codes: of each of the P positions.
        x: `[B, *event]`.
    """

    log_joint: Callable[[Tensor], Tensor]
    num_codes: Sequence[int]
    x: Tensor

    def __call__(self, index: Tensor) -> Tensor:
        return self.log_joint(index)


def log_evidence_by_enumeration(joint: Joint) -> Tensor:
    """`log sum_c p(x, c)` over all codes, some at a time, `[B]`.

    Raises:
        NotImplementedError: there are more than a million.
    """
    if (total := math.prod(joint.num_codes)) > MOST_CODES:
        powers = " ".join(f"{size}^{num}" for size, num in Counter(joint.num_codes).items())
        raise NotImplementedError(
            f"log_prob: found {powers} codes, expected {MOST_CODES:,} at most, to sum over "
            "all; use ppvae.log_evidence(pair, data, method='iwae'), which draws from pair.proposal()"
        )
    sizes = torch.tensor(joint.num_codes, device=joint.x.device)
    place = sizes.cumprod(0) // sizes
    parts = []
    for number in torch.arange(total, device=joint.x.device).split(max(1, ELEMENTS_AT_ONCE // joint.x.numel())):
        index = number.unsqueeze(-1) // place % sizes
        parts.append(joint(index.unsqueeze(1)).logsumexp(0))
    return torch.stack(parts).logsumexp(0)


@torch.no_grad()
def best_codes(joint: Joint, start: Tensor) -> Tensor:
    """Codes that no change of a single position improves, from others `[B, P]`.

    Each position in turn takes its best code given the others, until none changes (or for twenty sweeps).
    """
    index = start.clone()
    for _ in range(MOST_SWEEPS):
        before = index.clone()
        for p, num in enumerate(joint.num_codes):
            tried = index.repeat(num, 1, 1)
            tried[..., p] = torch.arange(num, device=index.device)[:, None]
            index[:, p] = joint(tried).argmax(0)
        if torch.equal(index, before):
            break
    return index
