"""The ledger of the gap in one call: evidence, ELBO, and what stands between them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ppvae.arguments import Distributed, Seed, checked
from ppvae.batches import Batch, named_batch, naming, num_rows
from ppvae.conversion import data_for, to_pair
from ppvae.inference.evidence.estimates import elbo_of, evidence_of
from ppvae.inference.evidence.larger_bound import raised
from ppvae.inference.evidence.registry import method_named
from ppvae.inference.ledger.amortization import amortization_gap
from ppvae.inference.ledger.cause import is_significant
from ppvae.inference.ledger.effort import Effort, effort_of
from ppvae.inference.ledger.experiments import Bench, training_sample
from ppvae.inference.ledger.fixed_guide import amortization_undefined
from ppvae.inference.ledger.local_parameters import UNDEFINED, has_local_parameters
from ppvae.inference.ledger.registry import LINES
from ppvae.inference.ledger.report import GapReport
from ppvae.inference.ledger.structure import structure_of
from ppvae.inference.ledger.terms import elbo_terms_of
from ppvae.inference.runtime.descriptions import described, versions
from ppvae.inference.runtime.measuring import measuring
from ppvae.inference.runtime.records import Evidence
from ppvae.inference.runtime.sharing import measurement
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair
from ppvae.refusals import ContractError

FEW = 16
"""Data points that tell whether the guide amortizes."""


@checked
@measurement
def gap(
    pair: Pair,
    data: Any,
    effort: str | Effort = "default",
    *,
    train: Any = None,
    transform: Callable[[Any], Any] | None = None,
    seed: Seed | None = None,
    progress: bool = True,
    distributed: Distributed = False,
) -> GapReport:
    """Where the nats between log p(x) and the ELBO go: the ledger of a pair's gap, per data point, with errors.

    `log p(x) - ELBO = KL(q(z | x) || p(z | x))`, the gap, is split by experiment. Each data point is given its own best
    guide of the same family: what that gains is the price of amortization, what is left is that of the family. The best
    full-rank guide and the best flow say what a richer family would gain. With training data, the guide is trained
    further while the model is frozen: what that gains is unfinished training. Beside that, remedies of what is left are
    tried (a second encoder, samples of the model, a full-rank or flow head), each trained as long. For each latent site
    it gives the KL, what the site knows about the data, and how many of its dimensions are used; for each Gaussian
    observation, whether it is as wide as what it leaves unexplained. `report.verdict()` says in words what follows.

    If the guide learns nothing (a diffusion's), amortization is undefined: the whole gap counts as that of its family,
    of which it is the only member. It is undefined too if each data point has parameters of its own (an AutoNormal's):
    what these gain by refining is then unfinished training.

    Where log p(x) is not known exactly it is a stochastic lower bound, and so are gap and approximation gap; where it
    is not `reliable`, and an ELBO measured beside it is larger, that is taken. Fits can fail: the refined
    ELBOs are lower bounds of what their families could reach, and the lines beyond them upper bounds.
    None of this says how good the model is: compare its evidence with another's, by `ppvae.compare`.

    Source: Cremer et al. 2018 (arXiv:1801.03558).

    Args:
        pair: the model and guide; left as it was.
        data: N data points, a batch (tensor, tuple or dict), held out from training.
        effort: "quick" (evidence, ELBO and gap: seconds; AIS of each data set ends after a minute, and what it did not
            reach is not `reliable`), "default" (100 digits of an MNIST VAE: some two minutes on two cores), "thorough"
            (an hour), or an `Effort`.
        train: training data, to train the guide further, and to measure the same lines on as many of its data points,
            chosen at random.
        transform: of minibatches of `train`, as for `ppvae.fit`.
        seed: makes the result reproducible and leaves the caller's generators as they were; None draws from them.
        progress: show bars.
        distributed: as in `log_evidence`, share the work among the processes of torch's process group.

    Raises:
        EvidenceUndefined: the pair declares that it has no evidence.
        ValueError: an unknown effort, or data or `train` that are not finite or outside the likelihood's support.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> pair = LinearVAE(num_features=5, num_latents=2).fit_guide()
        >>> report = gap(pair, pair.sample(50), "quick", seed=0)
        >>> abs(report.mean().estimate - pair.factorized_gap().item()) < 4 * report.mean().monte_carlo_error
        True
    """
    settings = effort_of(effort, pair)
    batch = data_for(pair, data)
    own = None if train is None else named_batch("train", train)
    if own is not None:
        sample = training_sample(pair, own, num_rows(batch), transform, seed)
        whole = transform is None and settings.refit_steps > 0  # which is trained on
        with measuring(pair, batch, seed or 0):
            pass  # what the pair itself is refused for, which is no fault of `train`
        with naming("train"), measuring(pair, own if whole else sample, seed or 0):
            pass  # all that is refused, before minutes of measuring
    report = _at_rest(pair, batch, settings, seed, progress, structure=True)
    if own is not None:
        with naming("train"):
            report = replace(report, train=_at_rest(pair, sample, settings, seed, progress))
    bench = Bench(pair, batch, settings, report, seed, progress, own, transform, dict(report.measured))
    _measure(bench, trains=True)
    report = replace(report, log_evidence=_raised(bench))
    told = {"training data": "none" if own is None else f"{num_rows(own)} data points", "seed": repr(seed)}
    all_told = {**described("effort", settings), **told, **versions()}
    return replace(
        report,
        measured=bench.measured,
        notes={**report.notes, **bench.notes},
        settings={name: str(each) for name, each in all_told.items()},
    )


def _at_rest(
    pair: Pair, data: Batch, settings: Effort, seed: int | None, progress: bool, structure: bool = False
) -> GapReport:
    """All lines that need no training data, and, if asked for, what keeps amortization from closing its gap."""
    several = method_named(settings.evidence).several_annealings
    annealing = settings.annealing if several else settings.annealing[:1]
    with measuring(pair, data, seed) as batch:
        few = to_pair(rows_or_all(pair, batch, slice(FEW)), pair)
        undefined = amortization_undefined(pair, few)
        local = not undefined and has_local_parameters(pair, few)
        report = GapReport(
            pair=type(pair).__name__,
            log_evidence=evidence_of(
                pair, batch, settings.evidence, settings.num_particles, annealing, progress, settings.max_seconds
            ),
            elbo=elbo_of(pair, batch, settings.num_samples, progress),
            latents=elbo_terms_of(pair, batch, settings.num_samples, progress).latents,
            amortization_undefined=undefined or (UNDEFINED if local else ""),
            local_parameters=local,
        )
        bench = Bench(pair, batch, settings, report, seed, progress)
        _measure(bench, trains=False)
        report = replace(
            report,
            log_evidence=_raised(bench),
            measured=bench.measured,
            likelihood=bench.own_family.likelihood,
            notes=bench.notes,
        )
        return _with_structure(report, pair, batch, settings) if structure else report


def _with_structure(report: GapReport, pair: Pair, batch: Batch, settings: Effort) -> GapReport:
    """The report with what keeps amortization from closing its gap, if there is one."""
    line = amortization_gap(report)
    if settings.ascent is None or line is None or not is_significant(line):
        return report
    try:
        said, out_of_reach = structure_of(pair, batch, settings.ascent, settings.num_samples)
    except ContractError:  # data with one number exchanged are none that the model allows, or there is no density
        return report
    return replace(report, structure=said, out_of_reach=out_of_reach)


def _raised(bench: Bench) -> Evidence:
    """log p(x), at least as large as the ELBOs measured beside it where it is not to be trusted."""
    elbos = {name: line for name, line in bench.measured.items() if line.method.startswith("elbo")}
    return raised(bench.report.log_evidence, {"elbo": bench.report.elbo} | elbos)


def _measure(bench: Bench, trains: bool) -> None:
    """Fills the bench with the lines that need a measurement, in the order of the registry."""
    for line in LINES.values():
        if line.measure is not None and line.trains == trains and (found := line.measure(bench)) is not None:
            bench.measured[line.name] = found
