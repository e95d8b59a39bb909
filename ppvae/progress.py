"""Progress bars on a terminal and in notebooks, silent elsewhere; they never end a run."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

from tqdm.auto import tqdm

from ppvae.arguments import checked

_switch = {"shown": True}


@checked
def set_progress(shown: bool) -> None:
    """Shows or hides all progress bars, whatever `progress=` the calls ask for.

    Bars are shown on a terminal and in notebooks only: a log gets none in any case.

    Args:
        shown: False to hide bars from now on; True to show them again, where a call has `progress=True`.

    Raises:
        TypeError: neither True nor False.

    Example:
        >>> set_progress(False)
        >>> set_progress(True)
    """
    _switch["shown"] = bool(shown)


class Bar(tqdm):
    """tqdm's bar, which appears after its delay even where nothing has been done by then."""

    _timer: Timer | None = None

    def __init__(self, *args: Any, delay: float = 0, **settings: Any):
        super().__init__(*args, delay=delay, **settings)
        if delay and not self.disable:
            self._timer = Timer(delay, self._appear)
            self._timer.daemon = True
            self._timer.start()

    def _appear(self) -> None:
        self.refresh()
        self.delay = 0  # so that tqdm knows it as shown, and wipes it

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().close()


def progress_bar(*, shown: bool, **settings: Any) -> Bar:
    """A bar with these settings of tqdm's, on a standard error that may be closed, or missing."""
    if sys.stderr is None or not (shown and _switch["shown"]):
        return Bar(**settings, disable=True)
    disable = False if _is_notebook(sys.stderr) else None  # None: where it is no terminal
    return Bar(**settings, disable=disable, file=_Lenient(sys.stderr))


def _is_notebook(stream: Any) -> bool:
    """Whether a stream is that of a notebook's kernel, which is no terminal and shows bars."""
    return type(stream).__module__.partition(".")[0] == "ipykernel"


@contextmanager
def waiting(title: str, shown: bool = True) -> Iterator[None]:
    """Says what is waited for, where it takes over a second and its end cannot be told."""
    with progress_bar(shown=shown, desc=title, bar_format="{desc} ...", delay=1, leave=False):
        yield


class _Lenient:
    """A stream that may be written to in vain."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes what can be written."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # closed, or a pipe that nobody reads
            return 0

    def flush(self) -> None:
        """Flushes what can be flushed."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return

    def isatty(self) -> bool:
        """Whether it is a terminal; a closed one is none."""
        try:
            return self._stream.isatty()
        except (AttributeError, ValueError):
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
