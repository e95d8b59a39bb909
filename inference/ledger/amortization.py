"""The lines of amortization: what one network for all data points costs, and what more training would gain."""

import math

from ppvae.inference.ledger.cause import SIGNIFICANT, Cause, is_significant, significant
from ppvae.inference.ledger.lines import Bar, Line
from ppvae.inference.ledger.measured import Measured
from ppvae.inference.ledger.trials import CONTROLS, gain
from ppvae.inference.runtime.differences import difference, less
from ppvae.inference.runtime.records import Mean, Measurement

COLOR = "C1"


def amortization_gap(found: Measured) -> Measurement | None:
    """What the best guide of the family gains over the amortized one."""
    if found.amortization_undefined:
        return None
    return difference("amortization gap", found.measured.get("elbo_refined"), found.elbo)


def training_gap(found: Measured) -> Measurement | None:
    """What more training of the guide gains; where each data point has its own parameters, what refining them does."""
    trained = "elbo_refined" if found.local_parameters else "elbo_refitted"
    return difference("training gap", found.measured.get(trained), found.elbo)


def _undefined(found: Measured) -> str:
    if found.local_parameters:
        return "each data point has its own parameters"
    return "the guide is fixed" if found.amortization_undefined else ""


def _amortization(found: Measured, line: Measurement) -> list[Cause]:
    return significant(
        "amortization",
        line,
        lambda nats: (
            f"Each data point's own best guide of the same family gains {nats:.2f} nats over the amortized one."
        ),
        "Train the guide longer, or widen its networks; pass train= to tell which.",
    )


def _training(found: Measured, line: Measurement) -> list[Cause]:
    return significant(
        "training",
        line,
        lambda nats: f"More training of the guide, with the model frozen, gains {nats:.2f} nats.",
        "Train the guide longer, with the model frozen and a decaying learning rate.",
        line.mean(),
    )


TRIED = {
    "elbo_second_encoder": (
        "capacity",
        "With a second encoder the guide gains {:.2f} nats over the same training without: its networks are too small.",
        "Widen or deepen the encoder.",
    ),
    "elbo_model_samples": (
        "generalization",
        "Trained on samples of the model too, the guide gains {:.2f} nats over the same training on data alone: the "
        "encoder does not generalize.",
        "Train the guide on samples of the model too.",
    ),
}
"""Trials of what is left after training; the cause that a gain shows, what says so, and the remedy."""

UNSEEN = (
    "capacity",
    "With a second encoder, which looks at the whole data point, the guide gains {:.2f} nats over the same training "
    "without.",
    "Let all that the encoder gives depend on the whole data point.",
)
"""What a second encoder's gain shows where the guide does not look at all that it needs."""


def _beyond_training(found: Measured, line: Measurement) -> list[Cause]:
    """What remedies gained where they were tried, and what none of them did."""
    gains = {name: gained for name in TRIED if (gained := gain(found, name)) is not None}
    last = _last_round(found)
    if last and "elbo_second_encoder" in gains and _no_more_than(gains["elbo_second_encoder"], last):
        del gains["elbo_second_encoder"]
    else:
        last = None
    causes: list[Cause] = []
    for name, gained in gains.items():
        unseen = found.out_of_reach and name == "elbo_second_encoder"
        cause, says, remedy = UNSEEN if unseen else TRIED[name]
        causes += significant(cause, gained, says.format, remedy, gained.mean())
    elbos = [found.measured[name] for name in (*CONTROLS, *gains) if name in found.measured]
    best = max(elbos, key=lambda elbo: elbo.mean().estimate)
    named = any(cause.name == "generalization" for cause in causes)
    line = less("amortization left", found.measured["elbo_refined"], best)
    return [*causes, *(_untold(line, last) if last else _left(found, line, named))]


def _last_round(found: Measured) -> Measurement | None:
    """What the last round of training the guide gained, where it did: then training is not over."""
    line = difference("last round", found.measured.get("elbo_control"), found.measured.get("elbo_refitted"))
    return line if line and is_significant(line) else None


def _no_more_than(gained: Measurement, by_training: Measurement) -> bool:
    """Whether a remedy gained no more than the round of training before it: it may be but faster to train."""
    return gained.mean().estimate <= by_training.mean().estimate


def _untold(line: Measurement, last: Measurement) -> list[Cause]:
    """What is left where training is not over, and a second encoder gained no more than training does."""
    return significant(
        "amortization",
        line,
        lambda nats: (
            f"Each data point's own best guide gains {nats:.2f} nats more than the guide after that training, whose "
            f"last round still gained {last.mean().estimate:.2f}. A second encoder gained no more than that, so "
            "whether the networks are too small cannot be told yet."
        ),
        "Train the guide longer, and then look again.",
    )


def _left(found: Measured, line: Measurement, named: bool) -> list[Cause]:
    """What no network that was tried closes: generalization, where it is surely less than half on training data.

    Unless generalization is `named` already, for what it gained.
    """
    seen = amortization_gap(found.train) if found.train and not named else None
    if seen and _less_than_half(seen.mean(), line.mean()):
        on_train = seen.mean().estimate
        return significant(
            "generalization",
            line,
            lambda nats: (
                f"Each data point's own best guide gains {nats:.2f} nats on held-out data, and {on_train:.2f} on "
                "training data: the encoder does not generalize."
            ),
            "Regularize the encoder.",
        )
    return significant(
        "amortization",
        line,
        lambda nats: (
            f"Each data point's own best guide gains {nats:.2f} nats more than any one network that was tried: that is "
            "the most that a better encoder could gain."
        ),
        "Refine the encoder's output for each data point, or train it longer.",
    )


def _less_than_half(part: Mean, whole: Mean) -> bool:
    """Beyond the errors over data points, as the two were measured on different ones."""
    error = math.hypot(2 * part.std_error, whole.std_error)
    return whole.estimate - 2 * part.estimate > SIGNIFICANT * error


AMORTIZATION_GAP = Line(
    "amortization_gap",
    label="of it: amortization",
    about="`elbo_refined - elbo`: what it costs that one network must serve all data points",
    value=amortization_gap,
    part_of="gap",
    undefined=_undefined,
    causes=_amortization,
    bar=Bar("amortization", COLOR, place=5),
)
TRAINING_GAP = Line(
    "training_gap",
    label="more training of the guide closes",
    about="`elbo_refitted - elbo`: what more training of the guide gains, with the model frozen; `elbo_refined - elbo` "
    "where each data point has parameters of its own",
    value=training_gap,
    part_of="amortization_gap",
    causes=_training,
    bar=Bar("amortization: training", COLOR, place=7),
)
CAPACITY_GAP = Line(
    "capacity_gap",
    label="beyond that",
    about="`elbo_refined - elbo_refitted`: what the refitted guide still loses to the refined ones: the most that a "
    "better encoder could gain",
    value=lambda found: difference(
        "capacity gap", found.measured.get("elbo_refined"), found.measured.get("elbo_refitted")
    ),
    part_of="amortization_gap",
    causes=_beyond_training,
    bar=Bar("amortization: beyond", COLOR, place=6),
)
ELBO_REFITTED = Line(
    "elbo_refitted",
    label="ELBO, guide refitted",
    about="the guide as it is after more training on the training data, with the model frozen; in rounds, as long as "
    "the last one gained and something is left",
    measure=lambda bench: bench.refitted_guide.elbo if bench.refitted_guide else None,
    trains=True,
)
ELBO_CONTROL = Line(
    "elbo_control",
    label="ELBO, guide refitted once more",
    about="the guide as it is, trained on from `elbo_refitted`: what the remedies below must beat, which are trained "
    "on as long",
    measure=lambda bench: bench.refitted_guide.control if bench.refitted_guide else None,
    trains=True,
)
