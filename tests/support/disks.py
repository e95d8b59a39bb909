"""A disk without room."""

import errno
from pathlib import Path


def fill(folder: Path) -> None:
    """Takes all the room on the disk of a folder, by a file in it."""
    with open(folder / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
