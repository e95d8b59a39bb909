"""Log evidence and ELBO per data point, in bounded memory for any number of particles.

Draws are streamed: only running sums are kept, and the largest weights for Pareto k-hat
(`ppvae.inference.evidence.streamed`).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ppvae.arguments import Count, Distributed, Positive, Seed, checked
from ppvae.batches import Batch
from ppvae.conversion import to_pair
from ppvae.files import check_target
from ppvae.inference.compiling.repeated import Repeated
from ppvae.inference.evidence import pace, streamed
from ppvae.inference.evidence.annealed_importance import AIS
from ppvae.inference.evidence.heavy_tails import elbo_record
from ppvae.inference.evidence.method import EvidenceMethod, Task
from ppvae.inference.evidence.registry import METHODS, method_named
from ppvae.inference.runtime.chunks import over_data
from ppvae.inference.runtime.distributed import processes
from ppvae.inference.runtime.measuring import finite, kind_of, measuring
from ppvae.inference.runtime.records import Evidence, Measurement
from ppvae.inference.runtime.sharing import measurement
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair


@checked
@measurement
def log_evidence(
    pair: Pair,
    data: Any,
    method: str = "auto",
    num_particles: Count = 1000,
    *,
    annealing: AIS | Sequence[AIS] | None = None,
    max_seconds: Positive | None = None,
    seed: Seed | None = None,
    progress: bool = True,
    distributed: Distributed = False,
) -> Evidence:
    """log p(x) per data point: exact where it is known, else a stochastic lower bound.

    `log (1/K) sum_k w_k`, where the w_k have the mean p(x): importance weights `p(x, z_k) / q(z_k | x)` ("iwae"), or
    the weights of annealed importance sampling ("ais", see `ppvae.AIS`). It is a stochastic *lower* bound: its mean
    falls short of log p(x) by about `std_error^2 / 2`, so models with a poor guide look worse than they are, never
    better. The standard error is the delta method's, `sqrt((K sum w^2 / (sum w)^2 - 1) / (K - 1))`; that of AIS, whose
    weights are few, is at least what normal logs of weights of typical variance imply. Neither is to be trusted
    where the record's `reliable` is false: k-hat above 0.7, or typically above 0.45 over the data, or an AIS standard
    error above 0.5 nats. Where it is true, plus and minus 1.96 standard errors cover log p(x) 19 times in 20
    (`benchmarks/coverage.py`). A mode that neither guide nor prior leads to leaves no trace.

    - "exact": `pair.log_prob`, where the pair knows it.
    - "iwae": importance weights of draws from the guide. Where k-hat differs between the data points it is of K draws,
      and the estimate of K others: draws that miss a large weight look good just because their estimate is too low.
    - "ais", "ais from prior": annealed importance sampling, by default from the guide and from the prior.
    - "auto": exact where possible; else IWAE, and AIS for the data points whose k-hat is bad, after a particle filter
      if the pair declares its steps. A guide narrower than the posterior deceives k-hat, so 64 of the other data points
      are annealed too, shortly; if IWAE falls short of that in the mean, AIS measures all. A guide may leave out a
      mode, so 64 are annealed from the prior as well; if that finds more, "best" measures all. The record's `methods`
      says which was taken for each, its `reason` why.
    - "best": exact where possible; else IWAE, AIS from the guide and from the prior, and a particle filter where it
      applies; and of them, for each data point, the most precise, or one that exceeds it by two joint standard errors.
      The largest of noisy bounds would be too large, so each is split in two halves. One half's estimate is taken from
      the method that the other half chooses, and the two are averaged (before the log): whichever is chosen, the
      average has the mean p(x). A method that falls short of another in the mean over the data is left out. The
      record's `candidates` holds all of them.
    - "bdmc": AIS; and, on as many data points simulated from the model, the sandwich of AIS and reverse AIS, in the
      record's `certificate`. It certifies the evaluator on the model's own data, not the estimate on yours.
    - "particle filter", "bootstrap filter": for sequences, such as `ppvae.models.DeepMarkov`; half of each step's
      particles come from the guide, or all from the prior. Their error grows with the square root of the sequence's
      length, that of importance weights exponentially.

    Source: Burda et al. 2016 (arXiv:1509.00519); k-hat: Vehtari et al. 2024 (arXiv:1507.02646); AIS: Neal 2001
    (arXiv:physics/9803008), Wu et al. 2017 (arXiv:1611.04273); BDMC: Grosse et al. 2015 (arXiv:1511.02543); particle
    filters: Gordon et al. 1993, Maddison et al. 2017 (arXiv:1705.09279).

    Args:
        pair: the model and guide; measured in eval mode, where its parameters are.
        data: N data points, a batch (tensor, tuple or dict); moved to the pair's device a chunk at a time.
        method: a name from the list above.
        num_particles: K, for IWAE and, in sixteen filters, for particle filters. Memory does not grow with it.
        annealing: settings of AIS; for "best" several may be given. By default `AIS()`, for "best" from both starts.
        max_seconds: for "auto" and "best", when AIS is to end; None for when all is measured. Importance weights of all
            data points come first, however long they take, and count. Then AIS takes data points in random order, in
            blocks; what is not done in time is given up. Data points that it did not reach keep the estimate of their
            importance weights, are not `reliable`, and are counted in `reason`. How many are reached depends on the
            machine, seed or no.
        seed: makes the result reproducible and leaves the caller's generators as they were; None draws from them.
        progress: show a bar when it takes more than a second, with a forecast for AIS. Without a bar, a forecast of
            more than half a minute is logged as a warning.
        distributed: share the work among the processes of torch's process group, which must all make the same call, and
            all get the result; "auto" where there is a group, or `torchrun` has started this script.

    Raises:
        EvidenceUndefined: the pair declares that it has no evidence.
        NotImplementedError: method="exact" for a pair with no closed form, a particle filter for one that has no
            `time_steps`.
        ppvae.ContractError: "ais" or "bdmc" for a pair whose guide has discrete sites, or no continuous latents; a
            particle filter for one whose `time_steps` are not the factors of its model.
        ValueError: K < 1, an unknown method, or data that are not finite or outside the likelihood's support (the row
            is named); `max_seconds` that is not positive and finite, or with another method, a checkpoint, a guide with
            parameters of its own rows, or several processes.

    Example:
        >>> import torch
        >>> from ppvae.models import LinearVAE
        >>> _ = torch.manual_seed(0)
        >>> pair = LinearVAE(num_features=5, num_latents=2).fit_guide()
        >>> x = torch.randn(100, 5)
        >>> exact, bound = log_evidence(pair, x), log_evidence(pair, x, "iwae", num_particles=1000, seed=0)
        >>> exact.method, bound.method
        ('exact', 'iwae')
        >>> error = (bound.estimate - exact.estimate) / bound.std_error
        >>> bool(error.abs().max() < 5)
        True
    """
    method_named(method)
    with measuring(pair, data, seed) as batch:
        return evidence_of(pair, batch, method, num_particles, annealing, progress, max_seconds)


@checked
@measurement
def elbo(
    pair: Pair,
    data: Any,
    num_samples: Count = 100,
    *,
    seed: Seed | None = None,
    progress: bool = True,
    distributed: Distributed = False,
) -> Measurement:
    """The evidence lower bound per data point, `E_q[log p(x, z) - log q(z | x)]`, from S draws of the guide.

    Discrete sites of the guide are not drawn but summed exactly, unless the model does not run with all their values at
    once; a pair with no other latents has standard error zero then.
    The square of the standard error, `sd^2 / S` of the draws, is unbiased, as the estimate is. Where the guide has
    heavier tails than the model, log w may have no finite variance, or no mean: the record's `warning` then says so, by
    Pareto k-hat of the lower tail of log w (more than 20 samples are needed for it).

    Source: Kingma & Welling 2014 (arXiv:1312.6114).

    Args:
        pair: the model and guide; measured in eval mode, where its parameters are.
        data: N data points, a batch (tensor, tuple or dict).
        num_samples: S. Memory does not grow with it.
        seed: as in `log_evidence`.
        progress: show a bar when it takes more than a second.
        distributed: as in `log_evidence`, share the work among the processes of torch's process group.

    Raises:
        EvidenceUndefined: the pair declares that it has no evidence.
        ValueError: S < 1, or data that are not finite or outside the likelihood's support (the row is named).

    Example:
        >>> import torch
        >>> from ppvae.models import LinearVAE
        >>> pair, x = LinearVAE(num_features=5, num_latents=2, guide="exact"), torch.randn(3, 5)
        >>> bool(torch.allclose(elbo(pair, x).estimate, pair.log_prob(x).double(), atol=1e-4))
        True
    """
    with measuring(pair, data, seed) as batch:
        return elbo_of(pair, batch, num_samples, progress)


def evidence_of(
    pair: Pair,
    batch: Batch,
    method: str,
    num_particles: int,
    annealing: AIS | Sequence[AIS] | None,
    progress: bool,
    max_seconds: float | None = None,
) -> Evidence:
    """`log_evidence` within `measuring`."""
    chosen = method_named(method)
    settings = (annealing,) if isinstance(annealing, AIS) else tuple(annealing or ())
    if len(settings) > 1 and not chosen.several_annealings:
        raise ValueError(f"annealing: found {annealing!r}, expected one AIS(...) for method={method!r}; use 'best'")
    for path in (each.kept_in for each in settings):
        if path is not None:
            check_target(path)
    if max_seconds is not None and (why := why_unbounded(pair, chosen, settings)):
        raise ValueError(f"max_seconds: found {max_seconds} {why}")
    deadline = None if max_seconds is None else pace.clock() + max_seconds
    found = chosen.run(Task(pair, batch, num_particles, settings, progress, deadline))
    return replace(found, kind=kind_of(pair, batch))


def why_unbounded(pair: Pair, method: EvidenceMethod, annealing: Sequence[AIS]) -> str:
    """Why `max_seconds` cannot be kept: what was found, expected, and a remedy; empty if it can."""
    if not method.bounded:
        bounded = tuple(name for name, each in METHODS.items() if each.bounded)
        return (
            f"for method={method.name!r}, expected None, or one of {bounded}, which have an estimate of what they do "
            "not anneal"
        )
    if (num := processes().size) > 1:
        return f"in {num} processes, expected None, as their clocks differ; measure in one process"
    if pair.own_rows is not None:
        return (
            "for a guide with parameters of its own rows, expected None, as such rows are annealed all at once; take "
            "fewer temperatures (`annealing=`), or an amortized guide"
        )
    if any(settings.checkpoint is not None for settings in annealing):
        return (
            "and a checkpoint, expected one of them: a run with a checkpoint may be stopped at any time, and goes on "
            "from there"
        )
    return ""


def elbo_of(pair: Pair, batch: Batch, num_samples: int, progress: bool) -> Measurement:
    """`elbo` within `measuring`."""
    terms = streamed.terms_of_the_elbo(pair, to_pair(rows_or_all(pair, batch, slice(2)), pair))
    measure = partial(streamed.mean_log_weight, Repeated(pair, terms))
    found = finite(over_data(pair, batch, num_samples, measure, "elbo" if progress else None))
    return elbo_record(found, num_samples, "elbo", kind_of(pair, batch))
