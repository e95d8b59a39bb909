"""A table of measured cells: each an estimate with its error, or undefined, and then it says why."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from ppvae.arguments import checked


@checked
@dataclass(frozen=True)
class Cell:
    """One figure.

    Attributes:
        estimate: NaN where it is undefined.
        std_error: its standard error; NaN where there is none.
        undefined: why there is no figure; empty where there is one.
    """

    estimate: float = math.nan
    std_error: float = math.nan
    undefined: str = ""

    def __str__(self) -> str:
        if self.undefined:
            return "undefined"
        digits = 3 if abs(self.estimate) < 100 else 0
        error = "" if math.isnan(self.std_error) else f" +- {self.std_error:.{digits}f}"
        return f"{self.estimate:z.{digits}f}{error}"


@checked
@dataclass(frozen=True, repr=False)
class Table:
    """Quantities of several models, each with its error, or undefined in words.

    Attributes:
        cells: by model and quantity.
        ideal: what the best possible model would have, by quantity, where that is known; None where it is not.
        title: what was measured, on how much.
    """

    cells: Mapping[str, Mapping[str, Cell]]
    ideal: Mapping[str, float | None]
    title: str = ""

    def __getitem__(self, model: str) -> Mapping[str, Cell]:
        return self.cells[model]

    def to_frame(self) -> pd.DataFrame:
        """All cells, a row for each model and quantity: `estimate`, `std_error`, `ideal` and `undefined`."""
        rows = {
            (model, name): (cell.estimate, cell.std_error, self.ideal[name], cell.undefined)
            for model, cells in self.cells.items()
            for name, cell in cells.items()
        }
        index = pd.MultiIndex.from_tuples(rows, names=["model", "quantity"])
        return pd.DataFrame(list(rows.values()), index, ["estimate", "std_error", "ideal", "undefined"])

    def __str__(self) -> str:
        shown = {
            "ideal": ["" if value is None else str(Cell(value)) for value in self.ideal.values()],
            **{model: [str(cells[name]) for name in self.ideal] for model, cells in self.cells.items()},
        }
        why: dict[str, list[str]] = {}
        for model, cells in self.cells.items():
            for name, cell in cells.items():
                if cell.undefined:
                    why.setdefault(f"{model}: {cell.undefined}", []).append(name)
        notes = [f"undefined for {said} ({', '.join(names)})" for said, names in why.items()]
        return "\n".join([self.title, pd.DataFrame(shown, list(self.ideal)).to_string(), *notes])

    __repr__ = __str__
