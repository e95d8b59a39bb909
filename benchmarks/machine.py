"""What the figures of a benchmark were measured on, in one line."""

import os
import platform

import torch


def machine() -> str:
    """Processor, threads and versions."""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
