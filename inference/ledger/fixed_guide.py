"""Whether a pair's guide amortizes at all: one that learns nothing does not, and has no amortization gap."""

import torch

from ppvae.batches import Batch
from ppvae.inference.compiling.programs import Call
from ppvae.pair import Pair
from ppvae.particles import run
from ppvae.sites import log_prob_terms, sample_sites


def amortization_undefined(pair: Pair, batch: Batch) -> str:
    """Why a pair's guide does not amortize, in words: the pair says so, or no parameter reaches the guide.

    Empty if it does, or if the guide has no sites. Parameters count whether they are frozen or not.

    Args:
        pair: the model and guide.
        batch: some data points.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> amortization_undefined(LinearVAE(num_features=5, num_latents=2), torch.zeros(2, 5))
        ''
    """
    if pair.amortization_undefined:
        return pair.amortization_undefined
    call = Call(pair)
    learned = {name: p.detach().requires_grad_(p.is_floating_point()) for name, p in call.named_parameters()}
    with torch.enable_grad():
        trace = call.with_tensors(learned, lambda pair: run(pair, "guide", batch, 1))
        terms = log_prob_terms(trace)
    sites = sample_sites(trace)
    if not sites or any(terms[name].requires_grad or site["value"].requires_grad for name, site in sites.items()):
        return ""
    return "the guide is fixed: it has no parameters to learn"
