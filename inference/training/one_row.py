"""Batches of one data point, which batch norm cannot train on: it has no variance to normalize by."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ppvae.batches import Batch
from ppvae.inference.objectives.protocol import Maximized, as_objective
from ppvae.mode import buffers_kept, mode
from ppvae.pair import Pair

ONE_ROW = "Expected more than 1 value per channel when training"  # torch's words


@contextmanager
def one_row_explained() -> Iterator[None]:
    """Says what is to be done where batch norm meets a batch of one row in training."""
    try:
        yield
    except ValueError as error:
        if ONE_ROW not in str(error):
            raise
        raise ValueError(
            "batch_size: found a batch of one data point under batch norm, which has no variance to normalize by, "
            "expected two or more in training; choose a batch_size that does not leave one over, or leave an epoch's "
            "last batch out where it is smaller, with drop_last=True"
        ) from error


@torch.no_grad()
def refuse_one_row(pair: Pair, objective: Maximized, point: Batch) -> None:
    """Refuses a data point alone where it cannot be trained on; draws noise, and changes nothing.

    Raises:
        ValueError: the pair has batch norm that fails on one row.
    """
    with buffers_kept(pair), mode(pair, training=True), one_row_explained():
        as_objective(objective)(pair, point)
