"""Cases of a test, a few of them in its fast part and the others in the shares of the slow tests."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def some_slow(cases: Iterable[Any], seconds: float, fast: Callable[[Any], bool]) -> list[Any]:
    """The cases for `parametrize`; those that are not `fast` are marked slow, each taking about so many seconds."""
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)), marks=() if fast(case) else pytest.mark.slow(seconds)
        )
        for case in cases
    ]
