"""How a file is written: whole or not at all, through a temporary file of its own in the same folder."""

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

ABANDONED = 3600.0
"""Seconds after which a temporary file that is not written to is taken for one of a killed process."""

KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def check_target(path: str | Path) -> None:
    """Refuses a path that `write_file` could not write to, before any work is done; makes its folder.

    What processes that were killed while they wrote have left in the folder is removed.

    Raises:
        ValueError: there is a directory, a device, or else something that is no regular file.
        OSError: the file or its folder cannot be written to; the error names the path.
    """
    target = target_of(path)
    with _named(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(target)
        temporary.touch(exist_ok=False)
        temporary.unlink()
    for left in target.parent.glob(_temporary(target, "*").name):
        with contextlib.suppress(OSError):  # another process may have removed it
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()


def write_file(path: str | Path, content: bytes) -> None:
    """Writes a file; an old one is replaced in one piece, and keeps its permissions. Links are followed.

    However it ends, nothing else is left in the folder; several writers do not disturb each other, and the last wins.

    Raises:
        ValueError, OSError: as `check_target`, or the disk is full; the old file is as it was.
    """
    target = target_of(path)
    with _named(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(target)
        try:
            with open(temporary, "xb") as file:  # only a new file: no link that lies there is followed
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def target_of(path: str | Path) -> Path:
    """The regular file that a path leads to, past all links; there may be none yet."""
    target = Path(os.path.realpath(path))
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        return target
    if kind != stat.S_IFREG:
        raise ValueError(
            f"path: found {KINDS.get(kind, 'no regular file')} at {path}, expected a regular file or nothing there; "
            "name another file"
        )
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "No permission to replace this file", os.fspath(path))
    return target


def _temporary(target: Path, token: str = "") -> Path:
    """A name in the same folder that no other writer has."""
    return target.with_name(f".ppvae-{token or secrets.token_hex(8)}.tmp")


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Makes errors of the operating system name the path that the caller gave."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from error
