"""Optimizers by name, of torch's fused kind where this is faster."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ppvae.arguments import NonNegative, checked
from ppvae.parameters import is_within
from ppvae.rules import Number
from ppvae.wording import shown

EXPECTED = "expected one that makes a torch optimizer, such as functools.partial(torch.optim.SGD, momentum=0.9)"
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


@checked
@dataclass(frozen=True)
class ParameterGroups:
    """An optimizer with learning rates of their own for groups of parameters; give it to `fit` as `optimizer`.

    A parameter learns at `lr` times the factor of the first prefix that names it or a module that it is in, or else at
    `lr`.

    Attributes:
        factors: of the learning rate, by prefix of the parameters' names, such as "critic".
        optimizer: "adam", "adamw" or "sgd".
        settings: of the optimizer, such as `{"betas": (0.5, 0.9)}`.

    Example:
        >>> from ppvae.models import GAN
        >>> gan = GAN.mlp(num_features=5, num_latents=2)
        >>> made = ParameterGroups({"critic": 4.0}).of(dict(gan.named_parameters()), lr=1e-3)
        >>> [(group["lr"], len(group["params"])) for group in made.param_groups]
        [(0.004, 6), (0.001, 6)]
    """

    factors: Mapping[str, NonNegative]
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @checked
    def of(self, named: Mapping[str, nn.Parameter], lr: NonNegative) -> Optimizer:
        """The optimizer of these parameters.

        Raises:
            ValueError: a prefix that no parameter's name starts with.
        """
        groups: dict[str, list[nn.Parameter]] = {prefix: [] for prefix in (*self.factors, "")}
        for name, p in named.items():
            groups[next(prefix for prefix in groups if is_within(name, prefix))].append(p)
        if idle := [prefix for prefix in self.factors if not groups[prefix]]:
            raise ValueError(
                f"factors: found the prefixes {idle}, with which no parameter's name starts, expected beginnings of "
                f"{list(named)}"
            )
        found = [
            {"params": parameters, "lr": lr * self.factors.get(prefix, 1.0)}
            for prefix, parameters in groups.items()
            if parameters
        ]
        return OPTIMIZERS[self.optimizer](found, lr=lr, fused=can_be_fused(list(named.values())), **self.settings)


def refuse_unknown(optimizer: "AnyOptimizer") -> None:
    """Refuses the name of no optimizer."""
    if isinstance(optimizer, str) and optimizer not in OPTIMIZERS:
        raise ValueError(
            f"optimizer: found '{optimizer}', expected one of {list(OPTIMIZERS)}, or a torch optimizer class"
        )


def refuse_nothing_learned(pair: nn.Module) -> None:
    """Refuses a pair without a parameter to learn."""
    if not any(p.requires_grad for p in pair.parameters()):
        raise ValueError(
            f"pair: found no parameter of {type(pair).__name__} with `requires_grad`, expected at least one; "
            "make modules and nn.Parameters attributes of the pair in __init__; functions that Pair.of is given name "
            "theirs by pyro.module and pyro.param"
        )


def learned_by(pair: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a pair that are learned, by name."""
    return {name: p for name, p in pair.named_parameters() if p.requires_grad}


def refuse_others(learned: Mapping[str, nn.Parameter], pair: nn.Module) -> None:
    """Refuses a pair that has other parameters to learn than the optimizer was made for.

    Raises:
        ValueError: the first of them is named.
    """
    now = learned_by(pair)
    for name in [*learned, *now]:
        if learned.get(name) is not now.get(name):
            found = "is not" if name not in now else "is" if name not in learned else "has been replaced, and is"
            raise ValueError(
                f"pair: found that parameter '{name}' {found} to be learned, unlike at the start of training, expected "
                "the same parameters all along, as the optimizer has a state for each; to freeze or add some, end "
                "training there, and call fit again or make another Trainer"
            )


AnyOptimizer = str | Callable[..., Optimizer] | ParameterGroups
"""A name, a function of parameters and `lr`, or groups of parameters with rates of their own."""


def optimizer_for(
    given: AnyOptimizer, named: dict[str, nn.Parameter], lr: float, *, scheduled: bool = False
) -> Optimizer:
    """The optimizer of these parameters: by name, by groups, or by a function called with the list and `lr=lr`.

    Args:
        scheduled: whether a schedule is to set its learning rates.

    Raises:
        TypeError: the function makes none.
        ValueError: it refuses these parameters, or a setting; or it would undo the schedule.
    """
    learned = list(named.values())
    if isinstance(given, ParameterGroups):
        return given.of(named, lr)
    if not isinstance(given, str):
        _refuse_pyros(given)
        try:
            found = given(learned, lr=lr)
        except TypeError as error:
            raise TypeError(
                f"optimizer: found {shown(given)}, which does not take parameters and lr ({error}), {EXPECTED}"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"optimizer: found {shown(given)}, which refuses the pair's parameters or its own settings ({error}), "
                "expected one that takes all of them; change its settings, or take 'adam'"
            ) from error
        if not isinstance(found, Optimizer):
            raise TypeError(f"optimizer: found {shown(given)}, which makes {shown(found)}, {EXPECTED}")
        if inspect.signature(type(found).step).parameters["closure"].default is inspect.Parameter.empty:
            raise TypeError(
                f"optimizer: found {type(found).__name__}, which evaluates the bound several times within a step, "
                "expected one that is given one gradient, as each evaluation would draw other noise; take 'adam'"
            )
        if isinstance(found, torch.optim.SparseAdam):
            raise TypeError(
                "optimizer: found SparseAdam, which takes sparse gradients alone, expected one that takes dense "
                "ones, as those of embeddings with sparse=True are made dense; take 'adam'"
            )
        if any("lr" not in group for group in found.param_groups):
            raise TypeError(
                f"optimizer: found {type(found).__name__}, whose groups of parameters have no rate 'lr', expected one "
                "with it, as schedules change it; take 'adam', or step yours in a loop of your own: "
                "value, surrogate = ppvae.ELBO()(pair, batch), then (-surrogate).backward()"
            )
        if scheduled:
            refuse_two_schedules(found)
        return found
    return OPTIMIZERS[given](learned, lr=lr, fused=can_be_fused(learned))


def refuse_two_schedules(optimizer: Optimizer) -> None:
    """Refuses a schedule beside an optimizer that lowers its learning rates itself, as one would undo the other.

    Raises:
        ValueError: its groups have a decay of their own.
    """
    if decays := [group["lrd"] for group in optimizer.param_groups if group.get("lrd", 1.0) != 1.0]:
        raise ValueError(
            f"schedule: found one beside {type(optimizer).__name__}, whose lrd={shown(decays[0])} multiplies the "
            "learning rate at each step, expected one of the two; leave out lrd, or the schedule"
        )


def _refuse_pyros(given: Any) -> None:
    """Refuses Pyro's wrappers of optimizers, which make one for each parameter that they meet."""
    of = given if hasattr(given, "__module__") else type(given)
    is_class = isinstance(given, type) and issubclass(given, Optimizer)
    if of.__module__.startswith("pyro.optim.") and not is_class:
        raise TypeError(
            f"optimizer: found {shown(given)}, which does not take parameters and lr, {EXPECTED}; it is Pyro's: in "
            "place of pyro.optim.ClippedAdam take the one inside it, "
            "functools.partial(pyro.optim.clipped_adam.ClippedAdam, clip_norm=10.0), of others torch's; for rates by "
            "parameter take ppvae.ParameterGroups"
        )


def can_be_fused(learned: list[nn.Parameter]) -> bool:
    """Whether one kernel may update all parameters: it takes a third of the time, but reads gradients in the order of
    their storages, and no complex ones."""
    fits = all(p.is_contiguous() and p.is_floating_point() for p in learned)
    return fits and learned[0].device.type in ("cpu", "cuda")


def is_plainly_fused(optimizer: Optimizer) -> bool:
    """Whether it is a fused one of torch's, without hooks: its step is the same at each call, and can be recorded."""
    own = type(optimizer).__module__.startswith("torch.optim.") and "step" not in vars(optimizer)
    hooks = [hooks for name, hooks in vars(optimizer).items() if name.startswith("_optimizer_step_")]
    return own and not any(hooks) and all(group.get("fused") for group in optimizer.param_groups)


def rate_factor(schedule: Callable[[int], float], step: int) -> float:
    """What the learning rate is multiplied with at a step.

    Raises:
        TypeError: the schedule does not take a number, as Pyro's take parameters.
        ValueError: it returns no number, or one that is below zero or not finite.
    """
    try:
        found = schedule(step)
    except (AttributeError, TypeError) as error:
        raise TypeError(
            f"schedule: found that it fails at step {step} ({type(error).__name__}: {error}), expected a function of a "
            "number, such as `lambda done: 0.1**done`; Pyro's schedulers take parameters instead: ppvae.fit takes "
            "torch's, such as functools.partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9)"
        ) from error
    factor = found.item() if isinstance(found, Tensor) and found.numel() == 1 else found
    if Number(at_least=0).problem(factor) is not None:
        raise ValueError(f"schedule: found {shown(factor)} at step {step}, expected a finite factor of 0 or more")
    return float(factor)
