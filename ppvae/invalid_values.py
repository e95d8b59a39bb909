"""Invalid parameters and values of distributions, as torch finds them: told by site, without printing the tensor."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution

from ppvae.refusals import ContractError, SupportError, family


@contextmanager
def invalid_values_told(where: Callable[[], str]) -> Iterator[None]:
    """Turns an error of torch's validation inside into a `ContractError` that says where, and what the first one is.

    Args:
        where: the site, or what comes before it; called where there is an error.
    """
    try:
        yield
    except ContractError:
        raise
    except ValueError as error:
        if (refusal := _refusal(error, where)) is None:
            raise
        raise refusal from None  # the error prints all values


def after_last_site(role: str, trace: Trace) -> str:
    """How far a run of a "model" or "guide" has got."""
    sites = [n for n, site in trace.nodes.items() if site["type"] == "sample" and not site_is_subsample(site)]
    return f"{role}, after site '{sites[-1]}'" if sites else f"{role}, before its first site"


def _refusal(error: ValueError, where: Callable[[], str]) -> ContractError | None:
    """What is told of an error of `torch.distributions.Distribution`; None of another one."""
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
    for names in reversed(frames):
        fn, value, valid = (names.get(name) for name in ("self", "value", "valid"))
        if isinstance(fn, Distribution) and isinstance(value, Tensor) and isinstance(valid, Tensor):
            break
    else:
        return None
    bad = (~valid).nonzero()
    first = value[tuple(bad[0])]
    shown = f"{first.item():.6g}" if first.numel() == 1 else f"an entry of shape {list(first.shape)}"
    place = (
        f"{shown} at index {bad[0].tolist()} of shape {list(valid.shape)} ({len(bad)} of {valid.numel()} are invalid)"
    )
    if "constraint" in names:
        return ContractError(
            f"{where()}: found {names['param']} {place} of {family(fn)}, expected {names['constraint']}; are data and "
            "parameters finite, and scales above zero?"
        )
    return SupportError(
        f"{where()}: found {place}, expected a value inside the support of {family(fn)}, {names['support']}; rescale "
        "or binarize data, put any value inside it where they are masked, let a guide draw latents inside it, or "
        "choose another distribution"
    )
