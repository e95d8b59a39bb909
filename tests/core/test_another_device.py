"""User code and pairs on another device than the CPU give what they give on the CPU, and public calls run.

The device is an imitation that holds its tensors on the CPU and lets no tensors of two devices meet, as a GPU does.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.zoo import ZOO
from torch.utils import backend_registration

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices that are written in Python",
)
TESTS = Path(__file__).parents[1]
CELLS = ("deep Markov,", "recurrent state space", "mixture density RNN")
"""Pairs with recurrent cells, for which torch takes kernels that the CPU lacks."""
PAIRS = [name for name in ZOO if not name.startswith(CELLS)]
FAST = ["pyro functions", "labeled", "ladder", "no latents"]


CALLS = ["models.LinearVAE.log_prob", "models.LinearVAE.posterior", "inference.separable_sites", "Pair.encode", "gap"]


def run(kind, names):
    """What `support/runs_elsewhere.py` tells of these, in a process of its own: the device stays in the process."""
    done = subprocess.run(
        [sys.executable, "-m", "support.runs_elsewhere", kind, *names],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "names", [FAST, pytest.param([n for n in PAIRS if n not in FAST], marks=pytest.mark.slow(400))]
)
def test_pairs_there_give_what_they_give_on_the_cpu(names):
    assert run("pairs", names) == dict.fromkeys(names, "same")


@pytest.mark.parametrize("names", [CALLS, pytest.param([], marks=pytest.mark.slow(240))])
def test_public_calls_run_there_on_data_of_the_cpu(names):
    found = run("calls", names)
    assert found == dict.fromkeys(found, "runs")
    assert len(found) == len(names) or len(found) > 300


def test_training_and_users_code_give_there_what_they_give_on_the_cpu():
    found = run("cases", [])
    assert found == dict.fromkeys(found, "same")
    assert len(found) > 10


def test_tensors_of_two_devices_do_not_meet_there():
    """The imitation refuses what a GPU refuses."""
    told = run("mixed", [])
    assert set(told.values()) == {"refused"}
    assert len(told) == 3
