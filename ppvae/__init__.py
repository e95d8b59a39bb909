"""ppvae: model/guide pairs on Pyro, and the measure of their posterior gap in nats."""

from typing import Any

import lazy_loader

from ppvae import presentation as _presentation

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def _ledger_plot(report: Any) -> Any:
    from ppvae.views.ledger_plot import ledger  # here, as matplotlib takes a second that `import ppvae` need not wait

    return ledger(report)


def _ledger_to_arviz(report: Any) -> Any:
    from ppvae.views.arviz_export import ledger_to_arviz

    return ledger_to_arviz(report)


def _ledger_to_html(report: Any, **options: Any) -> None:
    from ppvae.views.html_report import write_html

    write_html(report, **options)


def _notebook(record: Any) -> str:
    from ppvae.views.notebook import notebook

    return notebook(record)


_presentation.register("ledger plot", _ledger_plot)
_presentation.register("ledger to ArviZ", _ledger_to_arviz)
_presentation.register("ledger to HTML", _ledger_to_html)
_presentation.register("notebook", _notebook)
