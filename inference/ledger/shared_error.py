"""An error that all data points share: a normalizer of the model is estimated once for all of them."""

import torch

from ppvae.batches import num_rows
from ppvae.inference.ledger.experiments import Bench
from ppvae.inference.runtime.records import Measurement


def shared_error(bench: Bench) -> Measurement | None:
    """The root of the sum of squares of `shared_std_error` over the pair's modules; None where none has it.

    It does not average out over data points, and is no part of their Monte Carlo errors.
    """
    errors = [getattr(module, "shared_std_error", 0.0) for module in bench.pair.modules()]
    total = sum(error**2 for error in errors) ** 0.5
    if not total:
        return None
    estimate = torch.full((num_rows(bench.batch),), total, dtype=torch.float64)
    return Measurement(estimate, torch.zeros_like(estimate), 1, "shared error")
