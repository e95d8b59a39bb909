"""Where importance weights prove nothing, however even they are: the guide leaves out what the posterior may have."""

import math

import torch
from torch import Tensor

from ppvae.batches import Batch
from ppvae.devices import gpus
from ppvae.pair import Pair
from ppvae.supports import has_discrete, left_out
from ppvae.tracing import trace_pair


def judged(khat: Tensor, pair: Pair, batch: Batch) -> Tensor:
    """k-hat, plus infinity where the guide's draws cannot tell of what they miss.

    That is where the guide gives probability zero to latents under which x has some (a one-hot guide, a bounded one
    for an unbounded latent); and where all weights are equal and a latent is discrete, as the same value may have been
    drawn each time.

    Args:
        khat: of the weights, `[B]`.
        pair: the model and guide.
        batch: B data points.
    """
    with torch.no_grad(), torch.random.fork_rng(gpus(pair)):
        joint = trace_pair(pair, batch, 1)
        missed = left_out(pair, batch, joint).to(khat.device)
    unproven = has_discrete(joint).to(khat.device) & (khat == -math.inf)
    return khat.masked_fill(unproven | missed, math.inf)
