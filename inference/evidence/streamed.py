"""Running sums over log weights, by which a measurement of any number of particles takes bounded memory."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ppvae.batches import Batch, tensors
from ppvae.contract import check_shapes
from ppvae.enumerable import guide_runs_enumerated
from ppvae.inference.compiling.repeated import Repeated
from ppvae.inference.evidence.heavy_tails import lower_khat
from ppvae.inference.evidence.pareto import pareto_khat, tail_size
from ppvae.inference.runtime.chunks import sizes
from ppvae.pair import Pair
from ppvae.tracing import trace_pair
from ppvae.weights import draw_weights, expected_log_weight

CHUNKS_TOGETHER = 16


def log_weights(pair: Pair, batch: Batch, num_particles: int) -> Tensor:
    return draw_weights(pair, batch, num_particles).log_w


def log_mean_weight(draws: Repeated, batch: Batch, num_particles: int, at_once: int) -> dict[str, Tensor]:
    """Keeps the running `log sum w` and `log sum w^2`, and the largest weights."""
    log_sum = log_sum_squares = _row_vector(batch, -math.inf)
    largest = log_sum.expand(tail_size(num_particles) + 1, -1)
    for log_w in _pieces(draws, batch, num_particles, at_once):
        log_sum = torch.logaddexp(log_sum, log_w.logsumexp(0))
        log_sum_squares = torch.logaddexp(log_sum_squares, (2 * log_w).logsumexp(0))
        largest = torch.cat([largest, log_w]).topk(len(largest), dim=0).values
    ess = (2 * log_sum - log_sum_squares).exp()
    return {
        "estimate": log_sum - math.log(num_particles),
        "std_error": ((num_particles / ess - 1).clamp(min=0) / (num_particles - 1)).sqrt(),
        "ess": ess,
        "khat": pareto_khat(largest),
    }


def _pieces(draws: Repeated, batch: Batch, num_particles: int, at_once: int) -> Iterator[Tensor]:
    """All log weights, some chunks together: a weight takes far less memory than its computation."""
    chunks = list(sizes(num_particles, at_once))
    for start in range(0, len(chunks), CHUNKS_TOGETHER):
        yield torch.cat([draws(batch, size) for size in chunks[start : start + CHUNKS_TOGETHER]]).double()


def terms_of_the_elbo(pair: Pair, batch: Batch) -> Callable[[Pair, Batch, int], Tensor]:
    """What the ELBO is the mean of: `expected_log_weights`, or `log_weights` where discrete sites have to be drawn."""
    return expected_log_weights if guide_runs_enumerated(pair, batch) else log_weights


def expected_log_weights(pair: Pair, batch: Batch, num_particles: int) -> Tensor:
    joint = trace_pair(pair, batch, num_particles, enumerate_guide=True)
    check_shapes(joint)
    return expected_log_weight(joint)


def mean_log_weight(draws: Repeated, batch: Batch, num_particles: int, at_once: int) -> dict[str, Tensor]:
    """Keeps the running mean and sum of squared deviations (Chan et al. 1983), and the least log weights.

    k-hat here is of the lower tail of log w, not of w.
    """
    count, mean, squares = 0, _row_vector(batch, 0.0), _row_vector(batch, 0.0)
    least, greatest = _row_vector(batch, math.inf).expand(tail_size(num_particles) + 1, -1), mean - math.inf
    for log_w in _pieces(draws, batch, num_particles, at_once):
        least = torch.cat([least, log_w]).topk(len(least), dim=0, largest=False).values
        greatest = torch.maximum(greatest, log_w.amax(0))
        size = len(log_w)
        count += size
        shift = log_w.mean(0) - mean
        squares = squares + (log_w - log_w.mean(0)).square().sum(0) + shift.square() * size * (count - size) / count
        mean = mean + shift * size / count
    return {
        "estimate": mean,
        "std_error": (squares / (count - 1) / count).sqrt(),
        "khat": lower_khat(least, greatest),
    }


def _row_vector(batch: Batch, value: float) -> Tensor:
    first = next(iter(tensors(batch).values()))
    return torch.full((len(first),), value, dtype=torch.float64, device=first.device)
