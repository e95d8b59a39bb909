"""Progress bars, which never end a run: where nothing can be written, there is none."""

import sys
from typing import Any

from tqdm.auto import tqdm


def progress_bar(**settings: Any) -> tqdm:
    """tqdm's bar with these settings, on a standard error that may be closed, or missing."""
    if sys.stderr is None:
        return tqdm(**settings | {"disable": True})
    return tqdm(**settings, file=_Lenient(sys.stderr))


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

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
