"""What a pair makes of the data it is shown: the mean of each likelihood, at latents drawn from the guide."""

import warnings

from torch import Tensor
from torch.distributions import Categorical

from ppvae.angles import direction, resultant
from ppvae.kinds import is_circular
from ppvae.sites import data_sites, wrapped
from ppvae.tracing import Joint


def reconstructions(joint: Joint) -> dict[str, Tensor]:
    """`E[x' | z]`, averaged over the draws of z, of each observed site: `[B, *event]`.

    Of a Categorical, whose values are names and have no mean, the probabilities of its classes, `[B, *event, classes]`.
    Of an angle, the direction of `E[(cos x', sin x')]`, averaged likewise.
    Of an autoregressive distribution of levels, and of vectors of length one, the mean of draws, one for each of z.
    A site without either is left out, with a warning; where no other is left, that is an error.

    Raises:
        NotImplementedError: no observed site has a mean (the site is named).
    """
    found: dict[str, Tensor] = {}
    left_out: list[str] = []
    for name, site in data_sites(joint.model).items():
        *_, inner = wrapped(site["fn"])
        if is_circular(site["fn"]):
            found[name] = direction(joint.averaged(name, resultant(site["fn"])).mean(0))
            continue
        try:
            found[name] = joint.expected(name).mean(0)
        except NotImplementedError as error:
            if isinstance(inner, Categorical):
                found[name] = joint.averaged(name, inner.probs).mean(0)
            else:
                left_out.append(str(error))
    if left_out and not found:
        raise NotImplementedError("; ".join(left_out))
    if left_out:
        warnings.warn(f"reconstruct leaves out: {'; '.join(left_out)}", stacklevel=6)
    return found
