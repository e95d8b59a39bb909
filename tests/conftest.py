"""What the tests share: a fixed seed, and the one way in which an estimate is held against an exact value."""

import os
import shutil
import subprocess

import pyro
import pytest
import torch
from support.versions import other_versions
from torch import Tensor


def pytest_addoption(parser):
    parser.addoption("--slow-share", metavar="I/N", help="of the tests marked slow, those in share I of N (from 0)")


def pytest_collection_modifyitems(config, items):
    """Deals the slow tests out to N shares that take about as long; `slow(seconds)` says how long each takes."""
    if (share := config.getoption("--slow-share")) is None:
        return
    own, number = map(int, share.split("/"))
    if not 0 <= own < number:
        raise pytest.UsageError(f"--slow-share: found {share}, expected I/N with I from 0 to N - 1")
    marked = [(item, mark) for item in items if (mark := item.get_closest_marker("slow"))]
    loads, left_out = [0.0] * number, []
    for item, mark in sorted(marked, key=lambda pair: (-pair[1].args[0], pair[0].nodeid)):
        lightest = loads.index(min(loads))
        loads[lightest] += mark.args[0]
        if lightest != own:
            left_out.append(item)
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def pytest_report_header():
    return f"warnings are no errors: {'; '.join(found)}" if (found := other_versions()) else "warnings are errors"


def pytest_configure(config):
    """Warnings are errors under the pinned versions; other versions have warnings of their own.

    Each of several workers has one thread, as have the programs it starts: more would wait for each other.
    """
    if not other_versions():
        config.addinivalue_line("filterwarnings", "error")
    if hasattr(config, "workerinput"):
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seed():
    pyro.set_rng_seed(0)


@pytest.fixture
def float64():
    """Oracle tests run in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 256 KiB of its own, where the system allows to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def assert_mean():
    """`assert_mean(draws, exact, k=4)`: the mean of `draws` over dim 0 lies within k measured standard errors."""

    def check(draws: Tensor, exact: Tensor | float, k: float = 4.0) -> None:
        std_error = draws.std(0) / draws.shape[0] ** 0.5
        z = (draws.mean(0) - exact) / std_error
        assert z.abs().max() < k, f"mean {draws.mean(0)}, exact {exact}, standard error {std_error}, z {z}"

    return check
