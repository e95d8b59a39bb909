"""All codes, or the best of them: exact sums, and a coordinate search."""

import math
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
        log_joint: from indices `[S, 1 or B, *positions]` to `[S, B]`.
        shape: of the positions, P in all.
        num_codes: K.
        x: `[B, *event]`.
    """

    log_joint: Callable[[Tensor], Tensor]
    shape: Sequence[int]
    num_codes: int
    x: Tensor

    def __call__(self, index: Tensor) -> Tensor:
        return self.log_joint(index)


def log_evidence_by_enumeration(joint: Joint) -> Tensor:
    """`log sum_c p(x, c)` over all K^P codes, some at a time, `[B]`.

    Raises:
        NotImplementedError: there are more than a million.
    """
    num_positions = math.prod(joint.shape)
    if (total := joint.num_codes**num_positions) > MOST_CODES:
        raise NotImplementedError(
            f"log_prob: found {joint.num_codes}^{num_positions} codes, expected {MOST_CODES:,} at most, to sum over "
            "all; use ppvae.log_evidence(pair, data, method='iwae'), which draws from pair.proposal()"
        )
    place = joint.num_codes ** torch.arange(num_positions, device=joint.x.device)
    parts = []
    for number in torch.arange(total, device=joint.x.device).split(max(1, ELEMENTS_AT_ONCE // joint.x.numel())):
        index = number.unsqueeze(-1) // place % joint.num_codes
        parts.append(joint(index.reshape(-1, 1, *joint.shape)).logsumexp(0))
    return torch.stack(parts).logsumexp(0)


@torch.no_grad()
def best_codes(joint: Joint, start: Tensor) -> Tensor:
    """Codes that no change of a single position improves, from others `[B, *positions]`.

    Each position in turn takes its best code given the others, until none changes (or for twenty sweeps).
    """
    index, values = start.flatten(1).clone(), torch.arange(joint.num_codes, device=start.device)
    for _ in range(MOST_SWEEPS):
        before = index.clone()
        for p in range(index.shape[1]):
            tried = index.repeat(joint.num_codes, 1, 1)
            tried[..., p] = values[:, None]
            index[:, p] = joint(tried.reshape(joint.num_codes, -1, *joint.shape)).argmax(0)
        if torch.equal(index, before):
            break
    return index.reshape(start.shape)
