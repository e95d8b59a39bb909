"""Expected coverage: do a guide's credible regions hold the truth as often as they should?"""

from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy import stats
from torch import Tensor

from ppvae.arguments import Count, Distributed, Seed, checked
from ppvae.batches import Batch
from ppvae.inference.diagnostics.simulated_latents import (
    Simulations,
    continuous_view,
    refuse_not_numbers,
    refuse_undefined,
    simulated,
    spread,
)
from ppvae.inference.diagnostics.simulation_based_calibration import FALSE_WORDS, ROUNDING
from ppvae.inference.runtime.chunks import evaluating, over_data, sizes
from ppvae.inference.runtime.sharing import measurement
from ppvae.latent_view import LatentView
from ppvae.pair import Pair

LEVELS = np.linspace(0, 1, 21)


@checked
@measurement
def expected_coverage(
    pair: Pair,
    num_simulations: Simulations = 1000,
    num_samples: Count = 99,
    *,
    seed: Seed | None = None,
    progress: bool = True,
    distributed: Distributed = False,
) -> xr.Dataset:
    """Tests of accuracy with random points (TARP): how often balls about a reference point hold the true latents.

    For `(x, z) ~ p(x, z)`, draws `z_1 ... z_L ~ q(z | x)` and a reference r that is drawn without knowledge of z, the
    credibility of z is `#{l: |z_l - r| < |z - r|} / L`, the guide's probability of the ball that reaches from r to z.
    It is uniform if q is the exact posterior; the share of simulations with a credibility below a level is the
    coverage of the guide's regions at that level. All latents count together, so that wrong correlations show; each
    coordinate, unconstrained, is measured in the guide's standard deviations for that x.

    References depend on x, through other draws of the guide and their weights w = p(x, z) / q(z | x): they are

    - "mean": the weighted mean of the draws, an estimate of the posterior's.
    - "heaviest": the draw of the largest weight. It lies where the guide lacks most.

    `direction` says that the guide's draws are "too near" to the reference (its regions hold the truth less often than
    they claim: overconfident) or "too far" (more often: underconfident), as coverage is where it is furthest off. About
    the mean, "too near" is the mark of a guide too narrow, "too far" of one too wide; about the heaviest draw, "too
    far" may also be the mark of a misplaced guide.

    When it is wrong: as for `ppvae.calibration`, it is an average over the model's own data, which proves nothing about
    any single x (see `ppvae.local_classifier_test`). The shift of a guide hardly shows about the mean. The two tests
    share their data: of the two p-values, multiply the smaller by two. Covariates are those of `pair.example`.

    Source: Lemos et al. 2023 (arXiv:2302.03026); references from weights are our own.

    Args:
        pair: the model and guide, taken in eval mode, where its parameters are.
        num_simulations: pairs (x, z) drawn from the model; at least 10.
        num_samples: L, draws from the guide for each, and as many again for its reference.
        seed: makes the result reproducible and leaves the caller's generators as they were; None draws from them.
        progress: show a bar when it takes more than a second.
        distributed: as in `log_evidence`, share the work among the processes of torch's process group.

    Returns:
        A dataset over `reference`, `simulation` and `level`: `credibility`, in (0, 1), ties broken at random;
        `coverage` of each level; and for each reference `p_value`, of uniform credibilities (Kolmogorov-Smirnov), and
        `direction`, empty where not significant: with an exact guide, for both references, 99 times in 100.

    Raises:
        EvidenceUndefined: the pair declares that it has no density.
        ContractError: no `pair.example`; a guide without latents, with a discrete one, with one of another support than
            the model's, or without a density for any z (Delta, some flows); one with parameters for its own rows; or a
            model that observes something that is not one of its arguments.
        ValueError: a count too small, or a log p(x, z) that is not a number.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> pair = LinearVAE(num_features=3, num_latents=2, guide="exact")
        >>> ds = expected_coverage(pair, num_simulations=200, seed=0)
        >>> ds.reference.values.tolist(), bool((ds.p_value > 0.001).all())
        (['mean', 'heaviest'], True)
    """
    refuse_undefined(pair)
    with evaluating(pair, seed):
        measure = partial(_credibility, pair, continuous_view(pair, pair.examples(2)))
        examples = pair.examples(num_simulations)
        found = over_data(pair, examples, num_samples, measure, "expected coverage" if progress else None)
    credibility = np.stack([c.numpy() for c in found.values()])
    tests = [stats.kstest(c, "uniform") for c in credibility]
    return xr.Dataset(
        {
            "credibility": (("reference", "simulation"), credibility),
            "coverage": (("reference", "level"), (credibility[..., None] <= LEVELS).mean(1)),
            "p_value": ("reference", [test.pvalue for test in tests]),
            "direction": ("reference", [_direction(test, len(tests)) for test in tests]),
        },
        coords={"reference": list(found), "simulation": np.arange(num_simulations), "level": LEVELS},
        attrs={"num_samples": num_samples},
    )


def _credibility(pair: Pair, view: LatentView, batch: Batch, num_samples: int, at_once: int) -> dict[str, Tensor]:
    """For each reference and row, `[B]`, on new data drawn in place of the batch's."""
    x, truth = simulated(pair, view, batch)
    draws, log_w, rounding = _weighed(pair, view, x, num_samples, at_once)
    refuse_not_numbers(pair, "a log p(x, z)", log_w)
    scale = spread(draws)
    heaviest = (log_w >= log_w.amax(0) - rounding).int().argmax(0)  # the first of them: those of exact guides are alike
    weights = log_w.softmax(0).nan_to_num(1 / num_samples)  # all alike where the model gives none of them a density
    references = {
        "mean": (weights[..., None] * draws).sum(0),
        "heaviest": draws[heaviest, torch.arange(len(truth), device=draws.device)],
    }
    nearer = {name: torch.rand(len(truth)).to(truth) for name in references}
    for size in sizes(num_samples, at_once):
        u = view.draw(pair, x, size)
        for name, reference in references.items():
            reach = ((truth - reference) / scale).norm(dim=-1)
            nearer[name] += (((u - reference) / scale).norm(dim=-1) < reach).sum(0)
    return {name: number.double() / (num_samples + 1) for name, number in nearer.items()}


def _weighed(pair: Pair, view: LatentView, x: Batch, num_samples: int, at_once: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draws of the guide, `[L, B, D]`, `log p(x, z) - log q(z | x)` of each, `[L, B]`, and how exact these are."""
    draws, log_q, log_p = [], [], []
    for size in sizes(num_samples, at_once):
        draws.append(view.draw(pair, x, size))
        log_start, log_joint = view.densities(pair, x, draws[-1])
        log_q.append(log_start)
        log_p.append(log_joint)
    log_joint = torch.cat(log_p)
    rounding = ROUNDING * torch.finfo(log_joint.dtype).eps * (1 + log_joint.abs().nan_to_num(posinf=0.0))
    return torch.cat(draws), log_joint - torch.cat(log_q), rounding


def _direction(test: Any, num_tests: int) -> str:
    """What the level of the largest difference says; empty if it is not significant."""
    if test.pvalue > FALSE_WORDS / num_tests:
        return ""
    return "too near" if test.statistic_sign < 0 else "too far"
