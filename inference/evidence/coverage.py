"""Where importance weights prove nothing, however even they are: the guide leaves out what the posterior may have."""

import math
from functools import partial

import torch
from torch import Tensor

from ppvae.batches import Batch
from ppvae.devices import gpus
from ppvae.inference.runtime.chunks import over_data
from ppvae.pair import Pair
from ppvae.supports import has_discrete, left_out
from ppvae.tracing import trace_pair


def judged(khat: Tensor, pair: Pair, batch: Batch) -> Tensor:
    """k-hat, plus infinity where the guide's draws cannot tell of what they miss.

    That is where the guide gives probability zero to latents under which x has some (a one-hot guide, a bounded one
    for an unbounded latent); and where all weights are equal and a latent is discrete, as the same value may have been
    drawn each time.

    Args:
        khat: of the weights of all data points, `[N]`.
        pair: the model and guide.
        batch: the N data points.
    """
    with torch.random.fork_rng(gpus(pair)):
        found = over_data(pair, batch, 1, partial(_doubts, pair), None)
    unproven = found["discrete"] & (khat == -math.inf)
    return khat.masked_fill(unproven | found["missed"], math.inf)


def _doubts(pair: Pair, batch: Batch, num_particles: int, at_once: int) -> dict[str, Tensor]:
    joint = trace_pair(pair, batch, 1)
    return {"missed": left_out(pair, batch, joint), "discrete": has_discrete(joint)}
