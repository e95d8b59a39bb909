"""An entry of the corpus: a Pyro program as its author wrote it, and what ppvae should make of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import pyro
from torch import Tensor, nn


class Program(NamedTuple):
    """A model and a guide, Pyro functions, with their data.

    Attributes:
        model: p(x, z).
        guide: q(z | x).
        example: the batch that `Pair.of` is shown.
        data: the batch that is measured, as model and guide take it: a tensor, a tuple or a dict.
        log_evidence: data -> log p(x) in closed form, `[N]`.
        elbo: data -> the bound in closed form, `[N]`.
        condition: given values of latents that all rows share; these add no term to any bound.
        modules: those that behave differently in training mode.
        repeatable: whether rows may be repeated; false where a plate or a parameter has one entry per row.
    """

    model: Callable
    guide: Callable
    example: Any
    data: Any
    log_evidence: Callable[[Any], Tensor] | None = None
    elbo: Callable[[Any], Tensor] | None = None
    condition: Mapping[str, Tensor] = MappingProxyType({})
    modules: tuple[nn.Module, ...] = ()
    repeatable: bool = True


@dataclass(frozen=True)
class Entry:
    """A program, and what ppvae should make of it.

    Attributes:
        name: its name in the corpus.
        make: builds the program, with fresh modules.
        particles: the layout that its code allows, "leading" or "rows"; for a refused program, that of the remedy.
        expected: "runs", or a regular expression for the remedy that the refusal must name.
        follow: applies that remedy to the program.
    """

    name: str
    make: Callable[[], Program]
    particles: str
    expected: str = "runs"
    follow: Callable[[Program], Program] | None = None

    def program(self) -> Program:
        """The program as its author wrote it; the same on every call."""
        pyro.set_rng_seed(0)
        return self.make()

    def working_program(self) -> Program:
        """The program itself if it runs, else the program after the remedy."""
        program = self.program()
        return program if self.follow is None else self.follow(program)


CORPUS: dict[str, Entry] = {}
"""All entries by name."""


def runs(particles: str) -> Callable:
    """Adds the program that a function returns to the corpus, under the function's name: it must run unchanged."""

    def add(make: Callable[[], Program]) -> Callable[[], Program]:
        CORPUS[make.__name__] = Entry(make.__name__, make, particles)
        return make

    return add


def refused(remedy: str, follow: Callable[[Program], Program], particles: str) -> Callable:
    """Adds a program likewise: it must be refused, and `follow` applies the remedy that the refusal names."""

    def add(make: Callable[[], Program]) -> Callable[[], Program]:
        CORPUS[make.__name__] = Entry(make.__name__, make, particles, remedy, follow)
        return make

    return add
