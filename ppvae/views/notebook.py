"""How a notebook shows records: a title, a small table, and what a reader must know."""

from collections import Counter
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import numpy as np

from ppvae.inference.ledger.report import GapReport
from ppvae.inference.runtime.checkpoint import describe
from ppvae.inference.runtime.records import Evidence, Measurement
from ppvae.inference.training.result import Fit
from ppvae.views.elements import Content, curve, element, figure, table, written
from ppvae.weights import Weights
from ppvae.wording import counted

ERRORS = ("nats", "standard error", "Monte Carlo error")
"""The columns of a mean over the data points."""


@singledispatch
def notebook(record: Any) -> str:
    """A record as HTML, for a notebook; each kind has its function below."""
    raise TypeError(f"record: found {type(record).__name__}, expected one of {list(notebook.registry)}")


@notebook.register
def _(record: Measurement) -> str:
    return _shown(
        f"{type(record).__name__}, {counted(len(record.estimate), 'data point')}",
        ["method", "particles", *ERRORS],
        [[record.method, str(record.num_particles or "none needed"), *_nats(record)]],
        record.warning,
    )


@notebook.register
def _(record: Evidence) -> str:
    def row(name: str, one: Evidence, points: int) -> list[Content]:
        reliable = f"{int(one.reliable.sum())} of {len(one.reliable)}"
        khat = one.khat[~one.khat.isnan()]
        median = f"{khat.median().item():z.2f}" if len(khat) else "none"
        return [name, str(points), *_nats(one), reliable, median]

    num = len(record.estimate)
    rows = [row(record.method, record, num)]
    if record.candidates:
        taken = Counter(record.methods)
        rows += [row(f"candidate: {name}", one, taken[name]) for name, one in record.candidates.items()]
    head = ["method", "taken for", *ERRORS, "reliable", "median k-hat"]
    return _shown(f"Evidence, {counted(num, 'data point')}", head, rows, record.warning, record.reason)


@notebook.register
def _(record: Fit) -> str:
    told = {
        "objective": describe(record.objective),
        "ended": f"{record.stopped or 'running'}, after {record.epochs} epochs, {record.steps} steps",
        "seconds": f"{record.seconds:.1f}",
    }
    rows: list[list[Content]] = [[name, said] for name, said in told.items()]
    for key, name in (("bound", "bound"), ("held_out", "held-out bound")):
        values = np.asarray(record.history.get(key, ()))
        values = values[np.isfinite(values)]
        if len(values):
            rows.append([f"{name} of the last epoch", f"{values[-1]:z.3f} nats per data point"])
        if len(values) > 1:
            line = element("div", curve(values), style="width:16em;height:3em")
            rows.append([f"{name} over epochs", line])
    return _shown(f"Fit of {type(record.pair).__name__}", ["", ""], rows, record.warning)


@notebook.register
def _(record: Weights) -> str:
    num, size = record.log_p.shape
    terms = [("log p", record.log_p_sites), ("log q", record.log_q_sites)]
    rows = [[f"{sign}, {site}", f"{v.mean().item():z.3f}"] for sign, sites in terms for site, v in sites.items()]
    rows.append(["log w", f"{record.log_w.mean().item():z.3f}"])
    return _shown(f"Weights, {num} particles of {size} data points", ["", "mean [nats]"], rows)


@notebook.register
def _(record: GapReport) -> str:
    summary = record.summary()
    rows = [[label, *map(figure, each)] for label, each in zip(summary.index, summary.values, strict=True)]
    return _shown(summary.index.name, ["", *ERRORS], rows, *record.verdict().splitlines())


def _nats(record: Measurement) -> list[Content]:
    """The mean over data points, under `ERRORS`."""
    if not len(record.estimate):
        return ["no data points", "", ""]
    mean = record.mean()
    return [figure(each) for each in (mean.estimate, mean.std_error, mean.monte_carlo_error)]


def _shown(title: str, head: Sequence[str], rows: Sequence[Sequence[Content]], *remarks: str) -> str:
    """The one form of all of these."""
    content = [element("strong", title), table(head, rows)]
    content += [element("div", remark) for remark in remarks if remark]
    return written(element("div", *content))
