"""The normalizer of a restricted Boltzmann machine: by a sum over the smaller layer, or by annealing."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

MOST_UNITS = 20
"""Of the smaller layer, whose 2^n states are summed over."""

ANNEALED_CHAINS, ANNEALING_STEPS = 500, 1000


def all_states(num: int, like: Tensor) -> Tensor:
    """`[2^n, n]`."""
    place = torch.arange(num, device=like.device)
    return (torch.arange(2**num, device=like.device).unsqueeze(-1) >> place & 1).to(like)


def log_weights_of_smaller(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`[*, 2^n]`: of each state of the smaller layer, the other one summed out.

    Args:
        weight: `[n, m]`.
        left, right: biases `[*, n]` and `[*, m]`.
    """
    if left.shape[-1] > right.shape[-1]:
        weight, left, right = weight.T, right, left
    states = all_states(left.shape[-1], weight)
    return left @ states.T + softplus(states @ weight + right.unsqueeze(-2)).sum(-1)


def log_partition(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`log Z = log sum_u exp(a'u) prod_j (1 + exp(W'u + b)_j)`, `[*]`, over the smaller layer."""
    return log_weights_of_smaller(weight, left, right).logsumexp(-1)


def gibbs(weight: Tensor, left: Tensor, right: Tensor, u: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Bits `[*, n + m]` of both layers: the right one drawn given the left one u, then that given the right one."""
    v = torch.bernoulli((u @ weight + right).sigmoid(), generator=generator)
    return torch.cat([torch.bernoulli((v @ weight.T + left).sigmoid(), generator=generator), v], -1)


@torch.no_grad()
def annealed_log_partition(weight: Tensor, left: Tensor, right: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """log Z, and its standard error, by annealed importance sampling from independent bits: W grows from 0.

    Its exponential is unbiased, so that it is too low rather than too high. It is exact where W = 0. The generators of
    torch stay as they are.

    Source: Neal 2001; Salakhutdinov & Murray 2008.
    """
    generator = torch.Generator(weight.device).manual_seed(seed)
    u = torch.bernoulli(left.sigmoid().expand(ANNEALED_CHAINS, -1), generator=generator)
    log_w = torch.zeros_like(u[:, 0])
    before = softplus(right).sum(-1)
    for beta in torch.linspace(0, 1, ANNEALING_STEPS + 1)[1:].tolist():
        log_w += softplus(u @ (beta * weight) + right).sum(-1) - before
        u = gibbs(beta * weight, left, right, u, generator)[:, : len(left)]
        before = softplus(u @ (beta * weight) + right).sum(-1)
    w = (log_w - log_w.max()).exp()
    start = softplus(left).sum() + softplus(right).sum()
    return start + log_w.max() + w.mean().log(), w.std() / w.mean() / ANNEALED_CHAINS**0.5
