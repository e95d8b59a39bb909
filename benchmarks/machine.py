"""What the figures of a benchmark were measured on, and what a process of its own takes."""

import os
import platform
import subprocess
import sys
import time

import torch


def machine() -> str:
    """Processor, threads and versions."""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def in_new_process(code: str) -> tuple[float, float]:
    """The seconds that some code takes with its imports, and the largest resident set in MB."""
    report = "; print(*[l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')])"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code + report], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, int(done.stdout.split()[-1]) / 1024
