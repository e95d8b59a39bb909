"""Whether each data point has parameters of its own in a guide, which then does not amortize."""

import torch

from ppvae.batches import Batch, num_rows
from ppvae.inference.compiling.programs import Call
from ppvae.own_rows import moving
from ppvae.pair import Pair
from ppvae.particles import run

UNDEFINED = "each data point has parameters of its own, and none are computed from the data"


def has_local_parameters(pair: Pair, batch: Batch) -> bool:
    """Whether a guide has parameters, and none that serve two data points.

    Found by the gradient of `sum_n s_n f_n`, with f_n of data point n's draws and log q: where no entry serves two, the
    signs s change signs alone. Data points are few, so a table with a row for each of many labels may pass for such a
    guide.

    Args:
        pair: the model and guide.
        batch: some data points; one alone does not tell.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> has_local_parameters(LinearVAE(num_features=5, num_latents=2), torch.randn(4, 5))
        False
    """
    if pair.own_rows is not None:
        return True
    if num_rows(batch) < 2:
        return False
    call = Call(pair)
    learned = {name: p.detach().requires_grad_(p.is_floating_point()) for name, p in call.named_parameters()}
    leaves = [p for p in learned.values() if p.requires_grad]
    with torch.enable_grad():
        found = call.with_tensors(learned, lambda pair: moving(run(pair, "guide", batch, 1))).sum(0)
        if not found.requires_grad:
            return False
        signs = 1.0 - 2.0 * (torch.arange(len(found), device=found.device) % 2)
        plain, signed = (
            torch.autograd.grad((s * found).sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
            for s in (torch.ones_like(signs), signs)
        )
    return all(torch.allclose(a.abs(), b.abs()) for a, b in zip(plain, signed, strict=True))
