"""Training killed at random moments and resumed ends as an undisturbed run does, bit for bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")


def run(kills: int, folder: Path, compile: bool, seed: int, number: str) -> dict:
    script = Path(__file__).parents[2] / "support" / "kill_script.py"
    command = [sys.executable, str(script), str(kills), str(folder), str(compile), str(seed), number]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("kills", "compile", "seed", "number"),
    [
        (3, False, 0, "SIGKILL"),
        (3, False, 0, "SIGTERM"),
        *(pytest.param(25, False, seed, "SIGKILL", marks=pytest.mark.slow(80)) for seed in (1, 2)),
        pytest.param(10, False, 1, "SIGTERM", marks=pytest.mark.slow(40)),
        pytest.param(5, True, 0, "SIGKILL", marks=pytest.mark.slow(90)),
    ],
)
def test_resumed_runs_are_bit_exact(kills, compile, seed, number, tmp_path):
    report = run(kills, tmp_path, compile, seed, number)
    print(f"{report['exact']} bit-exact resumes of {report['kills']} kills in {report['seconds']} s: {report}")
    assert report["kills"] == kills
    assert report["exact"] == kills
    assert number == "SIGKILL" or report["killed_while_writing"] == 0
    assert sum(step > 0 for step in report["steps_at_kill"]) > kills / 2  # killed on the way, not before the start
