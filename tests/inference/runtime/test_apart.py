"""Two processes of one job that do not do the same: each says so, and none goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[2] / "support"


@pytest.mark.slow(180)
def test_what_differs_between_processes_is_named_in_both():
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "apart.py"), "--json"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) > 70
    assert {name: each for name, each in found.items() if each["is"] not in ("named", "right")} == {}
