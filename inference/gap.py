"""The gap between log evidence and ELBO."""

from typing import Any

import torch

from ppvae.contract import at_least_one
from ppvae.inference.evidence import elbo_of, evidence_of
from ppvae.inference.measuring import measuring
from ppvae.inference.records import Gap, Measurement
from ppvae.pair import Pair


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
    with measuring(pair, data, seed) as batch:
        evidence = evidence_of(pair, batch, method, num_particles, None, progress)
        bound = elbo_of(pair, batch, num_samples, progress)
    difference = Measurement(
        estimate=evidence.estimate - bound.estimate,
        std_error=torch.hypot(evidence.std_error, bound.std_error),
        num_particles=evidence.num_particles + num_samples,
        method=f"{evidence.method} - elbo",
        warning=evidence.warning,
    )
    return Gap(evidence, bound, difference)
