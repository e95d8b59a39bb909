"""The ledger by pattern of what is there: a guide of several modalities, what it costs, whether it is overconfident."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from ppvae.arguments import Seed, checked
from ppvae.batches import Batch, map_batch, naming, num_rows, rows
from ppvae.conversion import data_for
from ppvae.inference.diagnostics.simulated_latents import Simulations
from ppvae.inference.diagnostics.simulation_based_calibration import LOG_JOINT, calibration
from ppvae.inference.ledger.decomposition import gap
from ppvae.inference.ledger.effort import Effort
from ppvae.inference.ledger.report import GapReport
from ppvae.pair import Pair
from ppvae.threads import exclusive
from ppvae.wording import figures

HAS = "has"
"""The entry of a batch that says which modalities each row has, `[B, M]`."""
VALUES = ("log_evidence", "elbo")
GAPS = ("gap", "approximation_gap", "amortization_gap", "training_gap", "capacity_gap")
"""Lines of the ledger in the table: those by value alone, and those with their error."""


@checked
@dataclass(frozen=True, repr=False)
class PatternReport:
    """A ledger for each pattern of what is there, and a test of the guide's draws.

    Attributes:
        pair: the name of the pair's class.
        reports: by pattern, such as "image + label".
        calibrations: by pattern, what `ppvae.calibration` found; empty if it was not asked for.
    """

    pair: str
    reports: Mapping[str, GapReport]
    calibrations: Mapping[str, xr.Dataset]

    def summary(self) -> pd.DataFrame:
        """A row for each pattern, in nats per data point, by the names of the ledger's lines.

        `<gap>_error` is the standard error over data points. `draws` says in which directions calibration found the
        guide's draws of single latents to be off, the most frequent first; "too narrow" is overconfident. `p_value` is
        the smallest of all quantities, times their number.
        """
        table = {name: self._row(report, self.calibrations.get(name)) for name, report in self.reports.items()}
        return pd.DataFrame.from_dict(table, orient="index").rename_axis(self.pair)

    def _row(self, report: GapReport, found: xr.Dataset | None) -> dict[str, Any]:
        means = {name: line.mean() for name, line in report.lines().items()}
        row: dict[str, Any] = {"data_points": len(report.elbo.estimate)}
        row |= {name: means[name].estimate for name in VALUES}
        for name in GAPS:
            if name in means:
                row |= {name: means[name].estimate, f"{name}_error": means[name].std_error}
        if found is not None:
            directions = pd.Series(found.direction.sel(quantity=found.quantity != LOG_JOINT).values)
            row["draws"] = ", ".join(directions[directions != ""].value_counts().index)
            row["p_value"] = min(1.0, found.p_value.min().item() * found.sizes["quantity"])
        return row

    def __str__(self) -> str:
        return figures(self.summary())

    def __repr__(self) -> str:
        gaps = ", ".join(f"{name} {report.gap.mean().estimate:z.3f}" for name, report in self.reports.items())
        return f"PatternReport({self.pair}: gap of {gaps} nats)"

    def _repr_html_(self) -> str:
        return self.summary().to_html(float_format="{:z.3f}".format)


@checked
@exclusive
def gap_by_pattern(
    pair: Pair,
    data: Any,
    effort: str | Effort = "default",
    *,
    patterns: Sequence[Sequence[str]] | None = None,
    train: Any = None,
    num_simulations: Simulations | None = 1000,
    seed: Seed | None = None,
    progress: bool = True,
) -> PatternReport:
    """The ledger of a pair with several modalities, for each pattern of what is there, and its calibration.

    For each pattern S, `ppvae.gap` measures `log p(x_S)`, the ELBO and what lies between, and `ppvae.calibration` holds
    the guide's draws against latents of the model's own data of that pattern. The evidence of different patterns is of
    different data: compare gaps, not evidence. With training data, "training" is what a guide of this pattern alone
    would gain: the price of one guide for all patterns, besides unfinished training.

    A mixture of experts can move each component of a data point, given all of it, to the posterior. So what its experts
    cannot know of one another is in its amortization gap, as capacity, and not in that of its family.

    Source: Wu & Goodman 2018 (arXiv:1802.05335) for the patterns; the ledger by pattern is this project's.

    Args:
        pair: with `modalities`, the names of the columns of `has`, as `MultimodalVAE`; left as it was.
        data: N data points, a dict of the modalities and, if any are missing, `has`, bool `[N, M]`.
        effort: as for `ppvae.gap`.
        patterns: of names of modalities: each is measured on the rows that have them, with all else hidden. None: the
            patterns of the rows as they are.
        train: training data, of which each pattern has the rows that it can; see `ppvae.gap`.
        num_simulations: for `ppvae.calibration`; None leaves it out.
        seed: makes the result reproducible and leaves the caller's generators as they were; None draws from them.
        progress: show bars.

    Raises:
        ValueError: a pair that names no modalities, a pattern of others, or one that no row has.

    Example:
        >>> from ppvae.models import LinearModalities
        >>> pair = LinearModalities({"a": 3, "b": 4}, num_latents=2).fit_guide()
        >>> report = gap_by_pattern(pair, pair.sample(20), "quick", patterns=[["a"], ["a", "b"]], seed=0)
        >>> report.summary()["data_points"].to_dict()
        {'a': 20, 'a + b': 20}
    """
    names = getattr(pair, "modalities", None)
    if names is None:
        raise ValueError(
            f"{type(pair).__name__}.modalities: found none, expected the names of the columns of `has`; set them"
        )
    batch = _with_mask(data_for(pair, data), len(names))
    own = None
    if train is not None:
        with naming("train"):
            own = _with_mask(data_for(pair, train), len(names))
    of_patterns = {}
    for pattern in _present_patterns(batch[HAS]) if patterns is None else _chosen(patterns, names):
        name = " + ".join(name for name, there in zip(names, pattern.tolist(), strict=True) if there) or "nothing"
        few, few_of_train = _rows_of(batch, pattern, name, hide=patterns is not None), None
        if own is not None:
            with naming("train"):
                few_of_train = _rows_of(own, pattern, name, hide=True)
        of_patterns[name] = few, few_of_train
    reports, calibrations = {}, {}
    for name, (few, few_of_train) in of_patterns.items():
        reports[name] = gap(pair, few, effort, train=few_of_train, seed=seed, progress=progress)
        if num_simulations is not None:
            with _example(pair, few):
                calibrations[name] = calibration(pair, num_simulations, seed=seed, progress=progress)
    return PatternReport(type(pair).__name__, reports, calibrations)


def _with_mask(batch: Any, num_modalities: int) -> dict[str, Any]:
    if not isinstance(batch, dict):
        raise TypeError(f"data: found {type(batch).__name__}, expected a dict of modalities, and `has`")
    return {HAS: torch.ones(num_rows(batch), num_modalities, dtype=torch.bool)} | batch


def _present_patterns(has: Tensor) -> Iterator[Tensor]:
    """Those of the rows, from the fullest on."""
    found = has.bool().unique(dim=0)
    yield from found[found.sum(-1).argsort(descending=True, stable=True)]


def _chosen(patterns: Sequence[Sequence[str]], names: Collection[str]) -> Iterator[Tensor]:
    if not patterns:
        raise ValueError("patterns: found none, expected one or more; None takes those of the rows")
    for pattern in patterns:
        if others := set(pattern) - set(names):
            raise ValueError(f"patterns: found {sorted(others)}, expected some of {list(names)}")
    for pattern in patterns:
        yield torch.tensor([name in pattern for name in names])


def _rows_of(batch: dict[str, Any], pattern: Tensor, name: str, hide: bool) -> dict[str, Any]:
    """The rows that have this pattern, or, with what they have besides hidden, at least this one."""
    has, pattern = batch[HAS].bool(), pattern.to(batch[HAS].device)
    at = (has | ~pattern).all(-1) if hide else (has == pattern).all(-1)
    if not at.any():
        raise ValueError(f"data: found no row with {name}, expected one or more; leave out that pattern")
    few: Any = rows(batch, at)
    return few | {HAS: pattern.expand(int(at.sum()), -1).clone()}


@contextmanager
def _example(pair: Pair, batch: Batch) -> Iterator[None]:
    """The pair with the batch's first row as its example, whose covariates are those of simulated data."""
    before = pair.example
    pair.example = map_batch(lambda t: t[:1], batch)
    try:
        yield
    finally:
        pair.example = before
