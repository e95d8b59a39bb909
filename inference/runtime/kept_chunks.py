"""The results so far of a long measurement, kept in a file so that it can resume."""

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from ppvae.batches import Batch, num_rows
from ppvae.devices import device_of
from ppvae.files import check_target
from ppvae.inference.runtime.checkpoint import (
    CheckpointError,
    check_layout,
    check_same,
    fingerprint,
    layout,
    prefixed,
    read,
    unprefixed,
    write,
)
from ppvae.inference.runtime.isolation import can_be_set, random_state, set_random_state
from ppvae.pair import Pair
from ppvae.state import state_of


class KeptChunks:
    """The results for the first data points, and the generators' states after them.

    Args:
        path: of the file; there is none before the first chunk is done.
        pair: the model and guide.
        batch: the data points that are measured.
        settings: everything else that the results depend on.

    Raises:
        ValueError, OSError: the file could not be written.
    """

    def __init__(self, path: str | Path, pair: Pair, batch: Batch, settings: dict[str, Any]):
        check_target(path)
        self._path, self._num_points = Path(path), num_rows(batch)
        self._device = device_of(pair)
        self._about = {"data": fingerprint(batch), "pair": fingerprint(state_of(pair)), "settings": settings}

    def load(self) -> dict[str, Tensor]:
        """The results so far, none at first; restores the generators' states after them.

        Raises:
            CheckpointError: the file is damaged, or of another measurement (what differs is named).
        """
        if not self._path.exists():
            return {}
        kept, about = read(self._path)
        results = about.pop("results", None)
        check_same(self._path, about, self._about)
        found, generators = unprefixed("found", kept), unprefixed("random", kept)
        check_layout(self._path, "results", found, results)
        if not (found and {len(t) for t in found.values()} <= {*range(1, self._num_points + 1)}):
            raise CheckpointError(
                f"{self._path}: found no results, expected those of 1 to {self._num_points} data points"
            )
        if not can_be_set(generators, self._device):
            raise CheckpointError(f"{self._path}: found no state of the generators, expected one for {self._device}")
        set_random_state(generators, self._device)
        return found

    def save(self, found: dict[str, Tensor]) -> None:
        """Writes the results so far over the earlier ones; where that fails, warns, and the measurement goes on."""
        about = self._about | {"results": layout(found)}
        try:
            write(self._path, prefixed("found", found) | prefixed("random", random_state(self._device)), about)
        except (OSError, ValueError) as error:
            warnings.warn(f"the finished data points are not kept, as they could not be written: {error}", stacklevel=2)
