"""Log evidence, ELBO and the gap between them, per data point, in bounded memory for any number of particles.

Draws are streamed (`ppvae.inference.chunks`): what is kept of them are running sums, and the largest weights for Pareto
k-hat.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ppvae.batches import Batch, as_batch, num_rows, tensors
from ppvae.contract import at_least_one, check_shapes, first_bad_row
from ppvae.inference.chunks import evaluating, over_data, sizes
from ppvae.inference.log_weights import LogWeights
from ppvae.inference.pareto import pareto_khat, tail_size
from ppvae.inference.records import Evidence, EvidenceUndefined, Gap, Measurement
from ppvae.pair import Pair
from ppvae.tracing import sample_sites, trace_pair
from ppvae.weights import expected_log_weight

UNRELIABLE_KHAT = 0.7
CHUNKS_TOGETHER = 16


def log_evidence(
    pair: Pair,
    data: Any,
    method: str = "auto",
    num_particles: int = 1000,
    *,
    seed: int | None = None,
    progress: bool = True,
) -> Evidence:
    """log p(x) per data point: exact where that is known, else the importance-weighted bound.

    `log (1/K) sum_k w_k`, `w_k = p(x, z_k) / q(z_k | x)`. It is a stochastic *lower* bound: its mean falls short of
    log p(x) by about `std_error^2 / 2`, so models with a poor guide look worse than they are, never better. The
    standard error is the delta method's, `sqrt((K sum w^2 / (sum w)^2 - 1) / (K - 1))`; it and the estimate are not to
    be trusted where k-hat > 0.7, and nothing shows a mode that the guide never visits.

    Source: Burda et al. 2016 (arXiv:1509.00519); k-hat: Vehtari et al. 2024 (arXiv:1507.02646).

    Args:
        pair: the model and guide; measured in eval mode, where its parameters are.
        data: N data points, a batch (tensor, tuple or dict); moved to the pair's device a chunk at a time.
        method: "exact" (`pair.log_prob`), "iwae", or "auto": exact where the pair can, else IWAE.
        num_particles: K, for IWAE. Memory does not grow with it.
        seed: makes the result reproducible and leaves the caller's generators as they were; None draws from them.
        progress: show a bar when it takes more than a second.

    Raises:
        EvidenceUndefined: the pair declares that it has no evidence.
        NotImplementedError: method="exact" for a pair with no closed form.
        ValueError: K < 1, an unknown method, or data that are not finite or outside the likelihood's support (the row
            is named).

    Example:
        >>> from ppvae.models import LinearVAE
        >>> pair = LinearVAE(num_features=5, num_latents=2).fit_guide()
        >>> x = torch.randn(100, 5)
        >>> exact, bound = log_evidence(pair, x), log_evidence(pair, x, "iwae", num_particles=1000, seed=0)
        >>> exact.method, bound.method
        ('exact', 'iwae')
        >>> error = (bound.estimate - exact.estimate) / bound.std_error
        >>> bool(error.abs().max() < 5)
        True
    """
    at_least_one("num_particles", num_particles)
    with _setting(pair, data, seed) as batch:
        return _log_evidence(pair, batch, method, num_particles, progress)


def elbo(
    pair: Pair, data: Any, num_samples: int = 100, *, seed: int | None = None, progress: bool = True
) -> Measurement:
    """The evidence lower bound per data point, `E_q[log p(x, z) - log q(z | x)]`, by S draws from the guide.

    Discrete sites of the guide are not drawn but summed exactly; a pair with no other latents has standard error zero.
    The standard error is `sd / sqrt(S)` of the draws, and unbiased, as the estimate is.

    Source: Kingma & Welling 2014 (arXiv:1312.6114).

    Args:
        pair: the model and guide; measured in eval mode, where its parameters are.
        data: N data points, a batch (tensor, tuple or dict).
        num_samples: S. Memory does not grow with it.
        seed: as in `log_evidence`.
        progress: show a bar when it takes more than a second.

    Raises:
        EvidenceUndefined: the pair declares that it has no evidence.
        ValueError: S < 1, or data that are not finite or outside the likelihood's support (the row is named).

    Example:
        >>> from ppvae.models import LinearVAE
        >>> pair, x = LinearVAE(num_features=5, num_latents=2, guide="exact"), torch.randn(3, 5)
        >>> bool(torch.allclose(elbo(pair, x).estimate, pair.log_prob(x).double(), atol=1e-4))
        True
    """
    at_least_one("num_samples", num_samples)
    with _setting(pair, data, seed) as batch:
        return _elbo(pair, batch, num_samples, progress)


def gap(
    pair: Pair,
    data: Any,
    method: str = "auto",
    num_particles: int = 1000,
    num_samples: int = 100,
    *,
    seed: int | None = None,
    progress: bool = True,
) -> Gap:
    """`log p(x) - ELBO = KL(q(z | x) || p(z | x))` per data point, with its standard error.

    Both are measured with independent draws, so their standard errors add in squares. Where the evidence is the
    importance-weighted bound, the gap too is a lower bound; noise can take it below zero.

    Args:
        pair: the model and guide.
        data: N data points, a batch (tensor, tuple or dict).
        method: as in `log_evidence`.
        num_particles: K of the evidence.
        num_samples: S of the ELBO.
        seed: as in `log_evidence`.
        progress: show a bar when it takes more than a second.

    Raises:
        EvidenceUndefined, NotImplementedError, ValueError: as `log_evidence`.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> pair = LinearVAE(num_features=5, num_latents=2).fit_guide()
        >>> found = gap(pair, torch.randn(200, 5), seed=0).mean()
        >>> abs(found.estimate - pair.factorised_gap().item()) < 4 * found.monte_carlo_error
        True
    """
    at_least_one("num_particles", num_particles)
    at_least_one("num_samples", num_samples)
    with _setting(pair, data, seed) as batch:
        evidence = _log_evidence(pair, batch, method, num_particles, progress)
        bound = _elbo(pair, batch, num_samples, progress)
    difference = Measurement(
        estimate=evidence.estimate - bound.estimate,
        std_error=torch.hypot(evidence.std_error, bound.std_error),
        num_particles=evidence.num_particles + num_samples,
        method=f"{evidence.method} - elbo",
        warning=evidence.warning,
    )
    return Gap(evidence, bound, difference)


def _log_evidence(pair: Pair, batch: Batch, method: str, num_particles: int, progress: bool) -> Evidence:
    if method not in ("auto", "exact", "iwae"):
        raise ValueError(f"method: found {method!r}, expected 'auto', 'exact' or 'iwae'")
    if method != "iwae":
        try:
            found = _finite(over_data(pair, batch, 1, partial(_exact, pair), "log evidence" if progress else None))
            return Evidence(**found, num_particles=0, method="exact")
        except NotImplementedError:
            if method == "exact":
                raise
    measure = partial(_iwae, LogWeights(pair, _log_weights))
    found = _finite(over_data(pair, batch, num_particles, measure, "log evidence" if progress else None))
    num_bad = int((found["khat"] > UNRELIABLE_KHAT).sum())
    warning = (
        f"k-hat > {UNRELIABLE_KHAT} for {num_bad} of {num_rows(batch)} data points: their estimates are likely too low "
        "and their standard errors too small; take more particles or a better guide"
    )
    return Evidence(**found, num_particles=num_particles, method="iwae", warning=warning if num_bad else "")


def _elbo(pair: Pair, batch: Batch, num_samples: int, progress: bool) -> Measurement:
    measure = partial(_mean_log_weight, LogWeights(pair, _expected_log_weights))
    found = _finite(over_data(pair, batch, num_samples, measure, "elbo" if progress else None))
    return Measurement(**found, num_particles=num_samples, method="elbo")


@contextmanager
def _setting(pair: Pair, data: Any, seed: int | None) -> Iterator[Batch]:
    """Everything a measurement needs around it; yields the checked data."""
    if pair.evidence_undefined:
        raise EvidenceUndefined(f"{type(pair).__name__} has no evidence: {pair.evidence_undefined}")
    batch = as_batch(data)
    with evaluating(pair, seed):
        _refuse_outside_support(pair, batch)
        yield batch


def _refuse_outside_support(pair: Pair, batch: Batch) -> None:
    for site, inside in over_data(pair, batch, 1, partial(_inside_support, pair), None).items():
        if not inside.all():
            raise ValueError(
                f"data: found row {int(inside.int().argmin())} outside the support of the likelihood at site '{site}' "
                f"({int((~inside).sum())} such rows in all), expected values it can produce; rescale, clip or binarise "
                "the data, or choose another likelihood"
            )


def _inside_support(pair: Pair, batch: Batch, num_particles: int, at_once: int) -> dict[str, Tensor]:
    inside = {}
    for name, site in sample_sites(trace_pair(pair, batch, num_particles).model, observed=True).items():
        try:
            support = site["fn"].support
        except NotImplementedError:  # a distribution of the user's own need not have one
            continue
        found = support.check(site["value"])
        for _ in range(len(site["fn"].event_shape) - support.event_dim):  # pyro.factor's
            found = found.all(-1)
        inside[name] = found.expand(torch.broadcast_shapes(found.shape, (1, num_rows(batch)))).flatten(0, -2).all(0)
    return inside


def _exact(pair: Pair, batch: Batch, num_particles: int, at_once: int) -> dict[str, Tensor]:
    estimate = pair.log_prob(batch).double()
    unknown = torch.full_like(estimate, math.nan)
    return {"estimate": estimate, "std_error": torch.zeros_like(estimate), "ess": unknown, "khat": unknown}


def _log_weights(pair: Pair, batch: Batch, num_particles: int) -> Tensor:
    return pair.log_weights(batch, num_particles).log_w


def _iwae(draws: LogWeights, batch: Batch, num_particles: int, at_once: int) -> dict[str, Tensor]:
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


def _pieces(draws: LogWeights, batch: Batch, num_particles: int, at_once: int) -> Iterator[Tensor]:
    """All log weights, some chunks together: a weight takes far less room than what it is computed from."""
    chunks = list(sizes(num_particles, at_once))
    for start in range(0, len(chunks), CHUNKS_TOGETHER):
        yield torch.cat([draws(batch, size) for size in chunks[start : start + CHUNKS_TOGETHER]]).double()


def _expected_log_weights(pair: Pair, batch: Batch, num_particles: int) -> Tensor:
    joint = trace_pair(pair, batch, num_particles, enumerate_guide=True)
    check_shapes(joint)
    return expected_log_weight(joint)


def _mean_log_weight(draws: LogWeights, batch: Batch, num_particles: int, at_once: int) -> dict[str, Tensor]:
    """Keeps the running mean and sum of squared deviations (Chan et al. 1983)."""
    count, mean, squares = 0, _row_vector(batch, 0.0), _row_vector(batch, 0.0)
    for log_w in _pieces(draws, batch, num_particles, at_once):
        size = len(log_w)
        count += size
        shift = log_w.mean(0) - mean
        squares = squares + (log_w - log_w.mean(0)).square().sum(0) + shift.square() * size * (count - size) / count
        mean = mean + shift * size / count
    return {"estimate": mean, "std_error": (squares / (count - 1) / count).sqrt()}


def _finite(found: dict[str, Tensor]) -> dict[str, Any]:
    if (row := first_bad_row(found["estimate"])) is not None:
        raise ValueError(
            f"data: found an estimate of {found['estimate'][row].item()} nats at row {row}, expected a finite one; "
            "does the guide draw latents to which the model gives no density, or is a scale zero or infinite there?"
        )
    return found


def _row_vector(batch: Batch, value: float) -> Tensor:
    first = next(iter(tensors(batch).values()))
    return torch.full((len(first),), value, dtype=torch.float64, device=first.device)
