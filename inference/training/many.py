"""Many runs of one model at once: an ensemble of seeds as one batched program."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ppvae.arguments import Count, Seed, checked
from ppvae.inference.objectives.evidence_lower_bound import ELBO
from ppvae.inference.objectives.protocol import Maximized, as_objective
from ppvae.inference.training.ensembles import Ensemble, OfAll
from ppvae.inference.training.fitting import fit
from ppvae.inference.training.optimizers import AnyOptimizer, ParameterGroups, learned_by, optimizer_for
from ppvae.inference.training.result import Fit
from ppvae.pair import Pair
from ppvae.rules import Function
from ppvae.threads import undisturbed
from ppvae.wording import shown


class Runs(NamedTuple):
    """What `fit_many` returns.

    Attributes:
        pairs: the trained pairs, one for each seed; `ppvae.to_arviz` takes them as chains.
        fit: of all together: its bounds are means over the runs.
    """

    pairs: list[Pair]
    fit: Fit


@checked
@undisturbed
def fit_many(
    make_pair: Annotated[Callable[[], Pair], Function("a function that makes a pair")],
    data: Any,
    objective: Maximized | None = None,
    *,
    seeds: Count | Sequence[Seed] = 8,
    **settings: Any,
) -> Runs:
    """Trains several pairs of one structure on the same minibatches, all in one program.

    `theta_s <- theta_s + lr * direction(gradient of pair s's surrogate)`: each pair starts where its seed puts it, and
    draws noise of its own. All are compiled at once. The order of the data is that of `seed`, the same for all.

    It does not apply to objectives and pairs that cannot be traced (see `compile` of `ppvae.fit`), to weights, or where
    an optimizer, clipping or mixed precision would mix the runs' gradients; `ppvae.fit` in a loop takes all these.

    Source: runs as a further dimension of one program are vmap, as in Horace He & Richard Zou, functorch, 2021.

    Args:
        make_pair: makes an untrained pair; it is called after `torch.manual_seed(s)` for each seed s. The pairs may
            differ in the values of parameters and buffers alone; another setting that the objective depends on, such as
            a rate of dropout, is found out and refused.
        data: of N data points, as for `ppvae.fit`.
        objective: `ELBO()` if not given.
        seeds: the runs' seeds; a number S stands for 0 to S - 1.
        settings: all other arguments of `ppvae.fit`, but `weights`. Callbacks are given a `Fit` whose pair is all of
            them together: it draws and measures as the first one does.

    Raises:
        ppvae.ContractError: the pairs differ in more than their parameters, or cannot be run at once.
        ValueError: no seeds, a setting that would mix the runs, or an optimizer that does.
        NonFiniteError: a step gave NaN or infinity in one of the runs; none has taken it.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
        >>> runs = fit_many(lambda: LinearVAE(num_features=5, num_latents=2), x, seeds=3, epochs=3, progress=False)
        >>> len(runs.pairs), runs.fit.steps
        (3, 6)
    """
    _refuse_mixing(settings)
    numbers = seeds if isinstance(seeds, Sequence | np.ndarray) else range(seeds)
    if not len(numbers):
        raise ValueError("seeds: found none, expected at least one, for a pair each; seeds=8 stands for 0 to 7")
    pairs = []
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        for number in numbers:
            torch.manual_seed(number)
            pairs.append(make_pair())
    ensemble = Ensemble(pairs)
    _refuse_mixing_optimizer(settings.get("optimizer", "adam"), learned_by(ensemble))
    if isinstance(groups := settings.get("optimizer"), ParameterGroups):
        named = {f"run.{prefix}": factor for prefix, factor in groups.factors.items()}
        settings["optimizer"] = replace(groups, factors=named)
    run = fit(ensemble, data, OfAll(as_objective(objective or ELBO())), **settings)
    return Runs(ensemble.given_back(pairs), run)


def _refuse_mixing(settings: dict[str, Any]) -> None:
    """Refuses what has no meaning for each run by itself."""
    options = settings.get("options")
    mixing = {
        "weights": settings.get("weights"),
        "options.clip_norm": options and options.clip_norm,
        "options.autocast": options and options.autocast,
    }
    for name, value in mixing.items():
        if value is not None:
            raise ValueError(f"{name}: found one, expected none, as it would mix the runs; train them by ppvae.fit")


def _refuse_mixing_optimizer(given: AnyOptimizer, learned: Mapping[str, nn.Parameter]) -> None:
    """Refuses one that moves the first run otherwise where the others have other values and gradients."""
    if not callable(given):
        return
    if not torch.allclose(_first_moved(given, learned, 1.0), _first_moved(given, learned, 30.0)):
        raise ValueError(
            f"optimizer: found {shown(given)}, which moves a run by what the others have, expected one that moves each "
            "number by itself, such as 'adam'; train them by ppvae.fit"
        )


def _first_moved(given: AnyOptimizer, learned: Mapping[str, nn.Parameter], factor: float) -> Tensor:
    """The first run's parameters after a step, where those of the others, and their gradients, are so much larger."""
    copies = {name: nn.Parameter(p.detach().clone()) for name, p in learned.items()}
    for p in copies.values():
        p.data[1:] *= factor
        p.grad = torch.ones_like(p)
        p.grad[1:] *= factor
    optimizer_for(given, copies, lr=1e-3).step()
    return torch.cat([p.detach()[0].flatten() for p in copies.values()])
