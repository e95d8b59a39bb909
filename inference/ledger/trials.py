"""Advice, tried: each remedy is trained briefly with the model frozen, from where more training of the guide ended.

What each data point's own best guide gains is an upper bound on what a network for all of them can. These lines say
what a network did gain, on data that it was not trained on.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from ppvae.batches import Batch, entries, is_rows, num_rows, rows, with_entries
from ppvae.conversion import data_for, to_pair
from ppvae.early_reads import NUM_ROWS, refuse_early_reads
from ppvae.explanations import failures_explained
from ppvae.inference.evidence.heavy_tails import elbo_record, mean_with_tail
from ppvae.inference.ledger.cause import SIGNIFICANT, is_significant
from ppvae.inference.ledger.experiments import ROUNDS, Bench, training_sample
from ppvae.inference.ledger.head import Head, elbo_of_head
from ppvae.inference.ledger.lines import LINES, Line
from ppvae.inference.ledger.measured import Measured
from ppvae.inference.ledger.refit import refitted
from ppvae.inference.ledger.second_encoder import SecondEncoder
from ppvae.inference.runtime.chunks import evaluating, over_data, sizes
from ppvae.inference.runtime.differences import difference
from ppvae.inference.runtime.measuring import measuring
from ppvae.inference.runtime.records import Measurement
from ppvae.inference.training.nonfinite import NonFiniteError
from ppvae.mode import mode
from ppvae.pair import Pair
from ppvae.refusals import ContractError
from ppvae.simulation import simulate_unlooked

SOME = 1000
"""Training data points by which the inputs of networks are standardized."""

CONTROLS = ("elbo_refitted", "elbo_control")
"""What a remedy must beat: the guide after more training, from which it starts, and that trained on as long."""

Trial = Callable[[Bench, int], Measurement]


def gain(found: Measured, name: str, beyond: tuple[str, ...] = CONTROLS) -> Measurement | None:
    """What a remedy gained over the guide after as much training without it; None if it was not tried.

    Or over the best of several: a head has a network of its own, and gains what a second encoder does as well.
    """
    others = [elbo for other in beyond if (elbo := found.measured.get(other)) is not None]
    best = max(others, key=lambda elbo: elbo.mean().estimate, default=None)
    return difference(name, found.measured.get(name), best)


def advice(found: Measured, name: str, what: str) -> dict[str, Any]:
    """To try something, with what it gained where it was tried: `remedy` and `forecast` of a cause."""
    remedy = f"Try {what}."
    if (line := gain(found, name, (*CONTROLS, "elbo_second_encoder"))) is None:
        return {"remedy": remedy if "elbo_refitted" in found.measured else f"{remedy} Pass train= to have it tried."}
    mean = line.mean()
    how = "one network for all data, trained with the model frozen"
    told = f"{mean.estimate:z.2f} +- {mean.error:.2f} nats"
    if mean.estimate > SIGNIFICANT * mean.error:
        said = f"{remedy} With {how}, that gained {told}."
    else:
        said = f"{what[0].upper()}{what[1:]} gained nothing ({told}) with {how}."
    return {"remedy": said, "forecast": mean}


def _tried(name: str, where: tuple[str, ...], trial: Trial) -> Callable[[Bench], Measurement | None]:
    """A trial, where any of the lines that it might close is significant."""

    def measure(bench: Bench) -> Measurement | None:
        if bench.refitted_guide is None:
            return None
        lines = [LINES[line].of(bench.found) for line in where]
        if not any(line is not None and is_significant(line) for line in lines):
            return None
        try:
            with bench.trained_from(bench.refitted_guide):
                return trial(bench, (bench.seed or 0) + ROUNDS)
        except (ContractError, ValueError, NonFiniteError) as error:
            bench.notes[name] = f"not tried: {error}"
            return None

    return measure


def _second_encoder(bench: Bench, seed: int) -> Measurement:
    with evaluating(bench.pair, seed):
        pair = SecondEncoder(bench.pair, _training_data(bench))
    return _trained(bench, pair, bench.transform, seed)


def _model_samples(bench: Bench, seed: int) -> Measurement:
    with evaluating(bench.pair, seed), failures_explained("model", NUM_ROWS):
        refuse_early_reads(bench.pair, _training_data(bench))

    def half_simulated(batch: Any) -> Batch:
        given = batch if bench.transform is None else bench.transform(batch)
        given = to_pair(data_for(bench.pair, given), bench.pair)
        half = slice((num_rows(given) + 1) // 2)
        with mode(bench.pair, training=False):
            simulated, _ = simulate_unlooked(bench.pair, rows(given, half))
        joined = [
            torch.cat([entries(simulated)[name], value[half.stop :]]) if is_rows(value) else value
            for name, value in entries(given).items()
        ]
        return with_entries(given, joined)

    return _trained(bench, bench.pair, half_simulated, seed)


def _trained(bench: Bench, pair: Pair, transform: Callable[[Any], Any] | None, seed: int) -> Measurement:
    with (
        refitted(pair, bench.train, bench.settings.refit_steps, transform, seed, bench.progress),
        measuring(pair, bench.batch, bench.seed) as batch,
    ):
        return bench.elbo(pair, batch)


def _head(family: str) -> Trial:
    def trial(bench: Bench, seed: int) -> Measurement:
        with evaluating(bench.pair, seed):
            head = Head(bench.pair, _training_data(bench), family)

        def measure(points: Batch, num_draws: int, at_once: int) -> dict[str, Tensor]:
            log_w = [head.log_weights_of_head(points, size) for size in sizes(num_draws, at_once)]
            return mean_with_tail(torch.cat(log_w))

        steps, num = bench.settings.refit_steps, bench.settings.num_samples
        with (
            refitted(head, bench.train, steps, bench.transform, seed, bench.progress, elbo_of_head, head.own()),
            measuring(head, bench.batch, bench.seed) as batch,
        ):
            found = over_data(head, batch, num, measure, f"{family} head" if bench.progress else None)
        return elbo_record(found, num, f"elbo, {family} head")

    return trial


def _training_data(bench: Bench) -> Batch:
    """Some of it, as the pair takes it."""
    some = training_sample(bench.pair, cast(Batch, bench.train), SOME, bench.transform, bench.seed)
    return to_pair(data_for(bench.pair, some), bench.pair)


def _line(name: str, label: str, about: str, where: tuple[str, ...], trial: Trial) -> Line:
    return Line(name, label, about, measure=_tried(name, where, trial), trains=True)


ELBO_SECOND_ENCODER = _line(
    "elbo_second_encoder",
    "ELBO, with a second encoder",
    "the guide with a second encoder that moves its distributions within their families, trained on from "
    "`elbo_refitted`",
    ("capacity_gap",),
    _second_encoder,
)
ELBO_MODEL_SAMPLES = _line(
    "elbo_model_samples",
    "ELBO, trained on model samples too",
    "the guide trained on from `elbo_refitted`, with half of each minibatch simulated from the model",
    ("capacity_gap",),
    _model_samples,
)
ELBO_FULL_RANK_HEAD = _line(
    "elbo_full_rank_head",
    "ELBO, with a full-rank head",
    "the guide with an affine map of its draws by a network of the data, trained on from `elbo_refitted`",
    ("correlation_gap",),
    _head("full_rank"),
)
ELBO_FLOW_HEAD = _line(
    "elbo_flow_head",
    "ELBO, with a flow head",
    "the guide with a flow of its draws, and an affine map by a network of the data, trained on from `elbo_refitted`",
    ("shape_gap", "remaining_gap"),
    _head("flow"),
)
