"""The ledger of the gap in one call: evidence, ELBO, and what stands between them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ppvae.batches import Batch, as_batch, num_rows, rows
from ppvae.inference.evidence.estimates import elbo_of, evidence_of
from ppvae.inference.ledger.effort import Effort, effort_of
from ppvae.inference.ledger.fixed_guide import amortization_undefined
from ppvae.inference.ledger.likelihood_scale import likelihood_scale
from ppvae.inference.ledger.refinement import Refined, refine, unrefined
from ppvae.inference.ledger.refit import refitted
from ppvae.inference.ledger.report import GapReport
from ppvae.inference.ledger.richer_families import richer
from ppvae.inference.ledger.terms import elbo_terms_of
from ppvae.inference.runtime.chunks import to_pair
from ppvae.inference.runtime.measuring import measuring
from ppvae.pair import Pair
from ppvae.refusals import ContractError

SCALE_SAMPLES = 20


def gap(
    pair: Pair,
    data: Any,
    effort: str | Effort = "default",
    *,
    train: Any = None,
    transform: Callable[[Any], Any] | None = None,
    seed: int | None = None,
    progress: bool = True,
) -> GapReport:
    """Where the nats between log p(x) and the ELBO go: the ledger of a pair's gap, per data point, with errors.

    `log p(x) - ELBO = KL(q(z | x) || p(z | x))`, the gap, is split by experiment. Each data point is given its own best
    guide of the same family: what that gains is the price of amortization, what is left that of the family. The best
    full-rank guide and a flow's say what a richer family would gain. With training data, the guide is trained further
    while the model stays: what that gains is unfinished training. For each latent site there is its KL, what it knows
    of the data, and how many of its dimensions are used; for each Gaussian observation whether it is as wide as what it
    leaves unexplained. `report.verdict()` says in words what follows.

    Of a guide that learns nothing (a diffusion's), amortization is undefined: the whole gap counts as that of its
    family, of which it is the only member.

    Where log p(x) is not known exactly it is a stochastic lower bound, and so are gap and approximation gap. Fits can
    fail: the refined ELBOs are lower bounds of what their families could reach, and the lines beyond them upper bounds.
    Nothing of this says how good the model is: compare its evidence with another's, by `ppvae.compare`.

    Source: Cremer et al. 2018 (arXiv:1801.03558).

    Args:
        pair: the model and guide; it ends as it was.
        data: N data points, a batch (tensor, tuple or dict), held out from training.
        effort: "quick" (evidence, ELBO and gap: seconds), "default" (100 digits of an MNIST VAE: some two minutes on
            two cores), "thorough" (an hour), or an `Effort`.
        train: training data, for the guide to be trained further on, and to measure the same lines on as many of them.
        transform: of minibatches of `train`, as for `ppvae.fit`.
        seed: makes the result reproducible and leaves the caller's generators as they were; None draws from them.
        progress: show bars.

    Raises:
        EvidenceUndefined: the pair declares that it has no evidence.
        ValueError: an effort of another name, or data that are not finite or outside the likelihood's support.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> pair = LinearVAE(num_features=5, num_latents=2).fit_guide()
        >>> report = gap(pair, pair.sample(50), "quick", seed=0)
        >>> abs(report.mean().estimate - pair.factorized_gap().item()) < 4 * report.mean().monte_carlo_error
        True
    """
    settings = effort_of(effort)
    report = _measured(pair, data, settings, seed, progress)
    if train is None:
        unmeasured = {} if report.amortization_undefined else {"training_gap": "pass train= to measure it"}
        return replace(report, notes=report.notes | unmeasured)
    own = as_batch(train)
    sample = rows(own, slice(num_rows(as_batch(data))))
    if transform is not None:
        sample = as_batch(transform(sample))
    on_train = _measured(pair, sample, settings, seed, progress)
    report = replace(report, train=on_train)
    if not settings.refit_steps or report.amortization_undefined:
        return report
    return _with_refit(report, pair, data, own, settings, transform, seed, progress)


def _measured(pair: Pair, data: Any, settings: Effort, seed: int | None, progress: bool) -> GapReport:
    """All lines but that of the guide's training."""
    annealing = settings.annealing if settings.evidence == "best" else settings.annealing[0]
    with measuring(pair, data, seed) as batch:
        report = GapReport(
            pair=type(pair).__name__,
            log_evidence=evidence_of(pair, batch, settings.evidence, settings.num_particles, annealing, progress),
            elbo=elbo_of(pair, batch, settings.num_samples, progress),
            latents=elbo_terms_of(pair, batch, settings.num_samples, progress).latents,
            amortization_undefined=amortization_undefined(pair, to_pair(rows(batch, slice(2)), pair)),
        )
        return _with_refined(report, pair, batch, settings, progress)


def _with_refined(report: GapReport, pair: Pair, batch: Batch, settings: Effort, progress: bool) -> GapReport:
    """The lines that need an optimum for each data point."""
    if settings.ascent is None:
        report = replace(report, likelihood=likelihood_scale(pair, batch, SCALE_SAMPLES))
        return replace(report, notes=report.notes | {"elbo_refined": "not asked for"})
    if report.amortization_undefined:
        report = replace(report, likelihood=likelihood_scale(pair, batch, SCALE_SAMPLES))
        return _with_richer(report, unrefined(pair, batch), settings, progress) if settings.richer else report
    refined = refine(pair, batch, settings.ascent, settings.restarts, progress)
    if not refined.pair.shapes:
        reason = "; ".join(f"site '{site}': {why}" for site, why in refined.fixed.items()) or "the guide has no sites"
        return replace(report, notes=report.notes | {"elbo_refined": f"undefined: {reason}"})
    elbo = elbo_of(refined.pair, refined.batch, settings.num_samples, progress)
    scale = likelihood_scale(refined.pair, refined.batch, SCALE_SAMPLES)
    report = replace(report, elbo_refined=elbo, likelihood=scale, notes=report.notes | _notes_on(refined))
    return _with_richer(report, refined, settings, progress) if settings.richer else report


def _notes_on(refined: Refined) -> dict[str, str]:
    found = [f"site '{site}' is not refined: {why}" for site, why in refined.fixed.items()]
    if refined.converged < 1:
        found.append(
            f"the ascent had not settled for {1 - refined.converged:.0%} of the data points; give it more steps"
        )
    return {"elbo_refined": "; ".join(found)} if found else {}


def _with_richer(report: GapReport, refined: Refined, settings: Effort, progress: bool) -> GapReport:
    assert settings.ascent is not None
    try:
        families = richer(refined, settings.ascent, settings.num_samples, progress)
    except (ContractError, ValueError) as error:
        return replace(report, notes=report.notes | {"elbo_full_rank": f"undefined: {error}"})
    notes = {}
    for name, family in families.items():
        said = []
        if family.converged < 1:
            said.append(f"the ascent had not settled for {1 - family.converged:.0%} of the data points")
        if num_failed := int(family.failed.sum()):
            said.append(f"the fit failed for {num_failed} data points, which keep the smaller family's guide")
        if said:
            notes[f"elbo_{name}"] = "; ".join(said)
    return replace(
        report,
        elbo_full_rank=families["full_rank"].elbo,
        elbo_flow=families["flow"].elbo,
        notes=report.notes | notes,
    )


def _with_refit(
    report: GapReport,
    pair: Pair,
    data: Any,
    train: Batch,
    settings: Effort,
    transform: Callable[[Any], Any] | None,
    seed: int | None,
    progress: bool,
) -> GapReport:
    with refitted(pair, train, settings.refit_steps, transform, seed or 0, progress) as note:
        if note:
            report = replace(report, notes=report.notes | {"training_gap": note})
        if note.startswith("undefined"):
            return report
        with measuring(pair, data, seed) as batch:
            return replace(report, elbo_refitted=elbo_of(pair, batch, settings.num_samples, progress))
