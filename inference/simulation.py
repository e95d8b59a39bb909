"""Data and latents drawn from the model, and the batch in which those data stand where the real ones were."""

import torch
from pyro import poutine
from torch import Tensor

from ppvae.batches import Batch, call, map_batch, tensors
from ppvae.contract import ContractError
from ppvae.pair import Pair
from ppvae.tracing import sample_sites


@torch.no_grad()
def simulate(
    pair: Pair, batch: Batch, given: dict[str, Tensor] | None = None, instead: str = ""
) -> tuple[Batch, dict[str, Tensor]]:
    """`z ~ p(z)`, `x ~ p(x | z)`, for each row of a batch.

    Arguments of the model that it does not observe (lengths, labels, covariates) stay as they are.

    Args:
        pair: the model; its guide is not run.
        batch: B rows, in contiguous tensors.
        given: latents that are not drawn, by site.
        instead: what else one may do where it is refused.

    Returns:
        The batch with x in place of what the model observes, and the latents by site.

    Raises:
        ContractError: the model observes something that is none of its arguments as it is.
    """
    with poutine.trace() as tracer:
        call(poutine.condition(poutine.uncondition(pair.model), data=given or {}), batch)
    sites = sample_sites(tracer.trace)
    observed = {name: site for name, site in sites.items() if site["infer"].get("was_observed", False)}
    return _replaced(batch, observed, instead), {n: site["value"] for n, site in sites.items() if n not in observed}


def _replaced(batch: Batch, observed: dict[str, dict], instead: str) -> Batch:
    """The batch with the model's draws in place of what it observes."""
    drawn = {}
    for name, site in observed.items():
        places = [t for t in tensors(batch).values() if _same_memory(t, site["infer"]["obs"])]
        if not places:
            raise ContractError(
                f"model site '{name}': found an observation that is none of the arguments, expected one of them as it "
                f"is (`obs=x`), so that a draw can take its place in the guide; compute it before the model{instead}"
            )
        drawn[id(places[0])] = site["value"]
    return map_batch(lambda t: drawn[id(t)].reshape(t.shape) if id(t) in drawn else t, batch)


def _same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether the two hold the same numbers in the same order, if not the same shape."""
    return a.data_ptr() == b.data_ptr() and a.numel() == b.numel() and a.is_contiguous() and b.is_contiguous()
