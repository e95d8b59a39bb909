"""The results so far of a long measurement, kept in a file so that it can resume."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppvae.batches import Batch
from ppvae.inference.runtime.checkpoint import check_same, fingerprint, prefixed, read, unprefixed, write
from ppvae.inference.runtime.isolation import random_state, set_random_state
from ppvae.pair import Pair


class KeptChunks:
    """The results for the first data points, and the generators' states after them.

    Args:
        path: of the file; there is none before the first chunk is done.
        pair: the model and guide.
        batch: the data points that are measured.
        settings: everything else that the results depend on.
    """

    def __init__(self, path: str | Path, pair: Pair, batch: Batch, settings: dict[str, Any]):
        self._path = Path(path)
        self._device = next((p.device for p in pair.parameters()), torch.device("cpu"))
        self._about = {"data": fingerprint(batch), "pair": fingerprint(pair.state_dict()), "settings": settings}

    def load(self) -> dict[str, Tensor]:
        """The results so far, none at first; restores the generators' states after them.

        Raises:
            CheckpointError: the file is damaged, or of another measurement (what differs is named).
        """
        if not self._path.exists():
            return {}
        kept, about = read(self._path)
        check_same(self._path, about, self._about)
        set_random_state(unprefixed("random", kept), self._device)
        return unprefixed("found", kept)

    def save(self, found: dict[str, Tensor]) -> None:
        """Writes the results so far over the earlier ones."""
        write(self._path, prefixed("found", found) | prefixed("random", random_state(self._device)), self._about)
