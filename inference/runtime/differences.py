"""What one measurement exceeds another by, and what two of them make together."""

from dataclasses import replace

import torch

from ppvae.inference.runtime.records import Measurement


def difference(name: str, a: Measurement | None, b: Measurement | None) -> Measurement | None:
    """a - b, which were measured with independent draws; None where either is missing."""
    return less(name, a, b) if a is not None and b is not None else None


def less(name: str, a: Measurement, b: Measurement) -> Measurement:
    """a - b, which were measured with independent draws."""
    return Measurement(
        estimate=a.estimate - b.estimate,
        std_error=torch.hypot(a.std_error, b.std_error),
        num_particles=a.num_particles + b.num_particles,
        method=name,
        warning=a.warning or b.warning,
    )


def plus(name: str, a: Measurement, b: Measurement) -> Measurement:
    """a + b, which were measured with independent draws."""
    return replace(less(name, a, b), estimate=a.estimate + b.estimate)
