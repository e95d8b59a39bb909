"""The lines of the ledger: what a line is, and the registry of all of them."""

from collections.abc import Callable
from dataclasses import dataclass

from ppvae.inference.ledger.cause import Cause
from ppvae.inference.ledger.experiments import Bench
from ppvae.inference.ledger.measured import Measured
from ppvae.inference.runtime.records import Measurement


@dataclass(frozen=True)
class Bar:
    """A line's place in the plot of the way from log p(x) down to the ELBO.

    Attributes:
        label: its name there.
        color: of matplotlib's cycle: "C0" for the guide's family, "C1" for amortization.
        place: bars are drawn from the lowest to the highest.
    """

    label: str
    color: str
    place: int = 0


@dataclass(frozen=True)
class Line:
    """One line of the ledger: table, verdict, plot, ArviZ export and docs are made from these.

    A line either follows from what was measured (`value`) or needs a measurement of its own (`measure`). The parts of a
    line add up to it; once parts are measured, the plot shows them in its place, and their causes replace its own.

    Attributes:
        name: what reports, notes and ArviZ call it.
        label: what the table calls it.
        about: the experiment, for the docs.
        value: how it follows from what was measured; None where it does not exist.
        measure: measures it; where that cannot be done, it returns None and leaves a note on the bench.
        trains: whether `measure` needs training data: it then runs after all else, and restores what it changes.
        richer: whether it is the ELBO of a richer family than those before it in the registry. What remains beyond
            all families is counted from the last of them.
        part_of: the line of which this is a part.
        undefined: why it can have no value, for the table; empty if it can.
        causes: the causes that it stands for, if it is significant.
        bar: its place in the plot, for the gap and its parts.
    """

    name: str
    label: str
    about: str
    value: Callable[[Measured], Measurement | None] | None = None
    measure: Callable[[Bench], Measurement | None] | None = None
    trains: bool = False
    richer: bool = False
    part_of: str = ""
    undefined: Callable[[Measured], str] = lambda found: ""
    causes: Callable[[Measured, Measurement], list[Cause]] = lambda found, line: []
    bar: Bar | None = None

    def of(self, found: Measured) -> Measurement | None:
        """The line's value; None where it was not measured, or does not exist."""
        return self.value(found) if self.value else found.measured.get(self.name)


LINES: dict[str, Line] = {}
"""All lines by name; `ppvae.inference.ledger.registry` fills it."""


def register(*lines: Line) -> None:
    """Adds lines to the ledger."""
    LINES.update({line.name: line for line in lines})


def in_order() -> list[tuple[Line, int]]:
    """The lines in the order of the table, parts after their whole, with their depth."""

    def below(whole: str, depth: int) -> list[tuple[Line, int]]:
        parts = [line for line in LINES.values() if line.part_of == whole]
        return [each for line in parts for each in ((line, depth), *below(line.name, depth + 1))]

    return below("", 0)


def values(found: Measured) -> dict[str, Measurement]:
    """The lines that were measured, by name, in the order of the table."""
    all_lines = {line.name: line.of(found) for line, _ in in_order()}
    return {name: value for name, value in all_lines.items() if value is not None}


def finest(found: Measured) -> dict[str, Measurement]:
    """The measured lines of which no part was measured, by name."""
    measured = values(found)

    def is_split(name: str) -> bool:
        parts = [line.name for line in LINES.values() if line.part_of == name]
        return any(part in measured or is_split(part) for part in parts)

    return {name: value for name, value in measured.items() if not is_split(name)}


def richest(found: Measured) -> Measurement | None:
    """The ELBO of the richest family that was measured beyond the guide's own."""
    elbos = [line.of(found) for line in LINES.values() if line.richer]
    measured = [elbo for elbo in elbos if elbo is not None]
    return measured[-1] if measured else None
