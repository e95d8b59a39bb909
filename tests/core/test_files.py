"""A file is written whole or not at all, where it was meant to go, beside other writers, and nothing is left behind."""

import errno
import os
import socket
import stat
import subprocess
import sys
import time

import pytest
from support.disks import fill

from ppvae import files
from ppvae.files import check_target, write_file

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links, devices and permissions are those of Unix")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_and_its_folder_are_made(tmp_path):
    write_file(tmp_path / "deep" / "er" / "file", b"content")
    assert (tmp_path / "deep" / "er" / "file").read_bytes() == b"content"
    assert names(tmp_path / "deep" / "er") == ["file"]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664])
def test_an_old_file_is_replaced_and_keeps_its_permissions(mode, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old and longer")
    path.chmod(mode)
    write_file(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    write_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


# --- links and what is no file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_links_are_followed_to_the_real_file(there, tmp_path):
    (tmp_path / "real").mkdir()
    real, near, far = tmp_path / "real" / "file", tmp_path / "near", tmp_path / "far"
    if there:
        real.write_bytes(b"old")
    near.symlink_to(real)
    far.symlink_to(near)
    check_target(far)
    write_file(far, b"new")
    assert near.is_symlink()
    assert far.is_symlink()
    assert not real.is_symlink()
    assert real.read_bytes() == b"new"
    assert names(tmp_path / "real") == ["file"]


def test_a_link_planted_in_place_of_the_temporary_file_is_not_followed(tmp_path, monkeypatch):
    """Under the name that the temporary file gets, and under those that it had."""
    (tmp_path / "victim").write_bytes(b"precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "known")
    for name in (".ppvae-known.tmp", "file.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError, match="file"):
        write_file(tmp_path / "file", b"new")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    monkeypatch.undo()
    write_file(tmp_path / "file", b"new")
    assert (tmp_path / "victim").read_bytes() == b"precious"


def a_folder(path):
    path.mkdir()


def a_pipe(path):
    os.mkfifo(path)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


def a_device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # as /dev/null
    except PermissionError:
        path.symlink_to("/dev/null")


@pytest.mark.parametrize(
    ("make", "named"),
    [(a_folder, "a directory"), (a_pipe, "a pipe"), (a_socket, "a socket"), (a_device, "a device")],
)
@pytest.mark.parametrize("write", [check_target, lambda path: write_file(path, b"new")])
def test_what_is_no_regular_file_is_refused_and_stays(make, named, write, tmp_path):
    path, link = tmp_path / "there", tmp_path / "link"
    make(path)
    link.symlink_to(path)
    before = path.lstat()
    for each in (path, link):
        with pytest.raises(ValueError, match=f"path: found {named} at {each}, expected a regular file"):
            write(each)
    assert path.lstat().st_mode == before.st_mode
    assert path.lstat().st_ino == before.st_ino
    assert names(tmp_path) == ["link", "there"]


@pytest.mark.parametrize("write", [check_target, lambda path: write_file(path, b"new")])
def test_what_the_system_refuses_names_the_path(write, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for path in (tmp_path / "file" / "below", tmp_path / "round", tmp_path / ("long" * 100)):
        with pytest.raises(OSError, match=str(path)):
            write(path)
    assert names(tmp_path) == ["file", "round"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_or_a_folder_that_may_not_be_written_to(tmp_path):
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "file").chmod(0o444)
    with pytest.raises(PermissionError, match="file"):
        write_file(tmp_path / "file", b"new")
    tmp_path.chmod(0o555)
    with pytest.raises(PermissionError, match="other"):
        check_target(tmp_path / "other")
    tmp_path.chmod(0o755)
    assert (tmp_path / "file").read_bytes() == b"kept"


# --- writes that fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt("now")])
def test_an_interrupted_write_leaves_nothing(at, error, tmp_path, monkeypatch):
    def fail(*args):
        raise error

    (tmp_path / "old").write_bytes(b"old")
    monkeypatch.setattr(os, at, fail)
    for name in ("old", "new"):
        with pytest.raises(type(error), match=str(error)):
            write_file(tmp_path / name, b"content")
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_a_full_disk(small_disk):
    write_file(small_disk / "file", b"old")
    fill(small_disk)
    with pytest.raises(OSError, match=str(small_disk / "file")) as caught:
        write_file(small_disk / "file", bytes(100_000))
    assert caught.value.errno == errno.ENOSPC
    assert names(small_disk) == ["file", "filler"]
    assert (small_disk / "file").read_bytes() == b"old"


def test_writers_do_not_disturb_each_other(tmp_path):
    """Three processes write one file; a reader sees a whole one at any time."""
    program = f"from ppvae.files import write_file\nfor _ in range(100): write_file({str(tmp_path / 'file')!r}, LETTER)"
    size = 50_000
    writers = [
        subprocess.Popen([sys.executable, "-c", program.replace("LETTER", f"b'{letter}' * {size}")]) for letter in "abc"
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "file").exists():
            seen.add((tmp_path / "file").read_bytes())
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert seen
    assert seen <= {letter * size for letter in (b"a", b"b", b"c")}
    assert names(tmp_path) == ["file"]


def test_what_killed_writers_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    for name in (".ppvae-old.tmp", ".ppvae-young.tmp", "other.tmp"):
        (tmp_path / name).touch()
    long_ago = time.time() - files.ABANDONED - 1
    for name in (".ppvae-old.tmp", "other.tmp"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    check_target(tmp_path / "file")
    assert names(tmp_path) == [".ppvae-young.tmp", "other.tmp"]
