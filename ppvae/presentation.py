"""How records are shown: by views that are registered here, so that no record knows them."""

from collections.abc import Callable
from typing import Any

_VIEWS: dict[str, Callable[..., Any]] = {}


def register(name: str, view: Callable[..., Any]) -> None:
    """Makes `view` what `present(name, record, **options)` calls."""
    _VIEWS[name] = view


def present(name: str, record: Any, **options: Any) -> Any:
    """The view of that name, of a record."""
    return _VIEWS[name](record, **options)
