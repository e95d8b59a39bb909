"""The experiments behind the ledger's lines: each runs once, and its lines read their values from it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ppvae.batches import Batch, as_batch, num_rows, rows, transformed
from ppvae.conversion import to_pair
from ppvae.inference.evidence.estimates import elbo_of
from ppvae.inference.ledger.cause import is_significant
from ppvae.inference.ledger.effort import Effort
from ppvae.inference.ledger.likelihood_scale import LikelihoodScale, likelihood_scale
from ppvae.inference.ledger.measured import Measured
from ppvae.inference.ledger.refinement import Refined, refine, unrefined
from ppvae.inference.ledger.refit import refitted
from ppvae.inference.ledger.richer_families import richer
from ppvae.inference.runtime.chunks import over_data
from ppvae.inference.runtime.differences import less
from ppvae.inference.runtime.measuring import measuring
from ppvae.inference.runtime.records import Measurement
from ppvae.inference.training.nonfinite import NonFiniteError
from ppvae.pair import Pair
from ppvae.refusals import ContractError
from ppvae.state import copied_state, set_state, state_of
from ppvae.wording import counted

SCALE_SAMPLES = 200

ROUNDS = 4
"""Of more training, at most."""


def training_sample(
    pair: Pair, train: Batch, num: int, transform: Callable[[Any], Any] | None, seed: int | None
) -> Batch:
    """As many data points as that, any of them, as data may be sorted; all where there are no more; transformed."""
    if num_rows(train) > num:
        order = torch.randperm(num_rows(train), generator=torch.Generator().manual_seed(seed or 0))
        train = rows(train, order[:num])
    return train if transform is None else as_batch(transformed(transform, to_pair(train, pair)))


@dataclass(frozen=True)
class OwnFamily:
    """What was found about the best guides of the pair's own family, one for each data point.

    Attributes:
        elbo: of these; None where there are none.
        likelihood: what rescaling each Gaussian observation would gain, under these.
        guides: the refined guides, from which richer families start; None where there are none.
    """

    elbo: Measurement | None = None
    likelihood: Mapping[str, LikelihoodScale] = field(default_factory=dict)
    guides: Refined | None = None


@dataclass(frozen=True)
class Refitted:
    """The guide after more training.

    Attributes:
        elbo: of it.
        state: the pair's, from which trials of other remedies start.
        control: the ELBO after one round more, which is what these trials must beat; None where nothing was left.
    """

    elbo: Measurement
    state: Mapping[str, Tensor]
    control: Measurement | None = None


@dataclass(frozen=True)
class Bench:
    """A pair and data, with the experiments that measure the lines.

    Attributes:
        pair: the model and guide, in eval mode (inside `measuring`) except for lines that train.
        batch: N data points.
        settings: how much work goes into each line.
        report: what was measured before.
        seed: of the measurement.
        progress: whether to show bars.
        train: training data, if there are any.
        transform: of minibatches of `train`.
        measured: the lines that were measured, those of the report too, by name.
        notes: by line, why it was not measured, or what went wrong; measuring adds to them.
    """

    pair: Pair
    batch: Batch
    settings: Effort
    report: Measured
    seed: int | None = None
    progress: bool = False
    train: Batch | None = None
    transform: Callable[[Any], Any] | None = None
    measured: dict[str, Measurement] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def found(self) -> Measured:
        """All that was measured so far."""
        return replace(self.report, measured=self.measured)

    def elbo(self, pair: Pair, batch: Batch) -> Measurement:
        """The ELBO of a pair, with as many draws as the settings say."""
        return elbo_of(pair, batch, self.settings.num_samples, self.progress)

    @cached_property
    def own_family(self) -> OwnFamily:
        """Each data point's best guide of the same family."""
        if self.settings.ascent is None:
            self.notes["elbo_refined"] = "not asked for"
            return OwnFamily(likelihood=likelihood_scale(self.pair, self.batch, SCALE_SAMPLES))
        if self.report.guide_is_fixed:
            scale = likelihood_scale(self.pair, self.batch, SCALE_SAMPLES)
            return OwnFamily(
                likelihood=scale, guides=unrefined(self.pair, self.batch) if self.settings.richer else None
            )
        if (searched := self._searched()) is not None:
            scale = likelihood_scale(self.pair, self.batch, SCALE_SAMPLES)
            return OwnFamily(searched, scale, unrefined(self.pair, self.batch) if self.settings.richer else None)
        refined = refine(self.pair, self.batch, self.settings.ascent, self.settings.restarts, self.progress)
        if not refined.pair.shapes:
            reason = "; ".join(f"site '{site}': {why}" for site, why in refined.fixed.items())
            self.notes["elbo_refined"] = f"undefined: {reason or 'the guide has no sites'}"
            return OwnFamily()
        elbo = self.elbo(refined.pair, refined.batch)
        said = [f"site '{site}' is not refined: {why}" for site, why in refined.fixed.items()]
        if refined.converged < 1:
            said.append(f"{_unsettled(refined.converged)}; give it more steps")
        self._note("elbo_refined", said)
        return OwnFamily(elbo, likelihood_scale(refined.pair, refined.batch, SCALE_SAMPLES), refined)

    def _searched(self) -> Measurement | None:
        """The ELBO of the best guides as the pair itself finds them; None where it does not."""

        def measure(batch: Batch, num_particles: int, at_once: int) -> dict[str, Tensor]:
            best = self.pair.best_elbo(batch).double()
            return {"estimate": best, "std_error": torch.zeros_like(best)}

        try:
            found = over_data(self.pair, self.batch, 1, measure, "searching" if self.progress else None)
        except NotImplementedError:
            return None
        return Measurement(found["estimate"], found["std_error"], 1, "elbo, by the pair's own search")

    @cached_property
    def richer_families(self) -> Mapping[str, Measurement]:
        """The ELBO of each data point's best full-rank guide and flow; empty where these do not apply."""
        guides, ascent = self.own_family.guides, self.settings.ascent
        if guides is None or ascent is None or not self.settings.richer:
            return {}
        try:
            families = richer(guides, ascent, self.settings.num_samples, self.progress)
        except (ContractError, ValueError) as error:
            self.notes["elbo_full_rank"] = f"undefined: {error}"
            return {}
        for name, family in families.items():
            said = [_unsettled(family.converged)] if family.converged < 1 else []
            if num_failed := int(family.failed.sum()):
                failed = counted(num_failed, "data point")
                said.append(f"the fit failed for {failed}, kept at the smaller family's guide")
            self._note(f"elbo_{name}", said)
        return {name: family.elbo for name, family in families.items()}

    @cached_property
    def refitted_guide(self) -> Refitted | None:
        """The guide after more training with the model frozen, in rounds: more of them while the last one gained.

        Further rounds are for telling what more training cannot close, so they run only where something is left.
        """
        if self.report.amortization_undefined:
            return None
        if not self.settings.refit_steps:
            self.notes["training_gap"] = "not asked for"
            return None
        if self.train is None:
            self.notes["training_gap"] = "pass train= to measure it"
            return None
        best, note = Refitted(self.report.elbo, state_of(self.pair)), ""
        for number in range(ROUNDS + 1):
            try:
                after, note = self._one_round(best, number)
            except NonFiniteError as error:
                after, note = best if number else None, f"training failed: {error}"
            if after is None:
                self._note("training_gap", [note])
                return None
            if number == ROUNDS or (number and not _gains(after.elbo, best.elbo)):
                best = replace(best, control=after.elbo)
                break
            best, refined = after, self.measured.get("elbo_refined")
            if refined is None or not _gains(refined, best.elbo):
                break
        self._note("training_gap", [note] if note else [])
        return best

    def _one_round(self, start: Refitted, number: int) -> tuple[Refitted | None, str]:
        with (
            self.trained_from(start),
            refitted(
                self.pair,
                self.train,
                self.settings.refit_steps,
                self.transform,
                (self.seed or 0) + number,
                self.progress,
            ) as note,
        ):
            if note.startswith("undefined"):
                return None, note
            state = copied_state(self.pair)
            with measuring(self.pair, self.batch, self.seed) as batch:
                return Refitted(self.elbo(self.pair, batch), state), note

    @contextmanager
    def trained_from(self, start: Refitted) -> Iterator[None]:
        """For the block, the pair with the guide's state after training."""
        before = copied_state(self.pair)
        try:
            set_state(self.pair, start.state)
            yield
        finally:
            set_state(self.pair, before)

    def _note(self, name: str, said: list[str]) -> None:
        if said:
            self.notes[name] = "; ".join(said)


def _gains(better: Measurement, than: Measurement) -> bool:
    """Whether one ELBO exceeds another by more than is small, or noise."""
    return is_significant(less("gain", better, than))


def _unsettled(converged: float) -> str:
    return f"the ascent had not settled for {1 - converged:.0%} of the data points"
