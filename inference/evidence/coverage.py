"""Where importance weights prove nothing, however even they are: the guide leaves out what the posterior may have."""

import math
from functools import partial

import torch
from torch import Tensor

from ppvae.batches import Batch, num_rows
from ppvae.inference.runtime.chunks import over_data
from ppvae.latent_view import LatentView
from ppvae.pair import Pair
from ppvae.supports import at_some_draws, has_discrete, left_out


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
    found = over_data(pair, batch, 1, partial(_doubts, pair), None)
    unproven = found["discrete"] & (khat == -math.inf)
    return khat.masked_fill(unproven | found["missed"], math.inf)


def _doubts(pair: Pair, batch: Batch, num_particles: int, at_once: int) -> dict[str, Tensor]:
    found = at_some_draws(pair, batch, lambda joint: (left_out(pair, batch, joint), has_discrete(joint)))
    missed, discrete = (torch.stack(masks).any(0) for masks in zip(*found, strict=True))
    return {"missed": missed, "discrete": discrete}


def refuse_unlike_rows(view: LatentView, pair: Pair, batch: Batch) -> None:
    """Refuses, by name, a guide that has not the model's support at some data point, where it is the start of chains.

    Raises:
        ppvae.ContractError: with the site.
    """

    def refuse(points: Batch, num_particles: int, at_once: int) -> dict[str, Tensor]:
        view.refuse_unlike_support(pair, points)
        return {"refused": torch.zeros(num_rows(points), dtype=torch.bool)}

    over_data(pair, batch, 1, refuse, None)
