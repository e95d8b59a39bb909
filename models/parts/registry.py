"""Parts by name: the registries in which `VAE.mlp` and its like look names up, and which the docs' tables must match.

Each kind of part has one registry, at the end of the file that defines or imports all parts of the kind: `PRIORS` and
`POSTERIOR_FAMILIES` in this folder, `LIKELIHOODS` in `named_likelihoods` beside it, as it has some of other rooms,
`HIERARCHICAL_POSTERIORS` in `hierarchies`, `NOISE_SCHEDULES` and `DECODERS` in `diffusion`. So this file imports no
parts; their files import it.
"""

from dataclasses import dataclass
from typing import TypeVar

from torch import nn


@dataclass(frozen=True, kw_only=True)
class NamedPart:
    """What a registry knows about a part; each kind of part adds how to make one.

    Attributes:
        name: the name that `VAE.mlp` and its like take.
        module: its class.
        summary: what it is, in a few words, for the docs' tables.
        source: authors and year, if any.
    """

    name: str
    module: type[nn.Module]
    summary: str
    source: str = ""


Part = TypeVar("Part", bound=NamedPart)


class Registry(dict[str, Part]):
    """The parts of one kind by name. An unknown name raises an error that lists the known ones.

    Args:
        argument: the argument that takes the name, for the error message.
        remedy: what to do for a part that is not here, for the error message.
        parts: in the order in which they are listed.

    Example:
        >>> registry = Registry("prior", "pass a module")
        >>> registry.add(NamedPart(name="none", module=nn.Identity, summary="nothing"))
        >>> registry["nine"]
        Traceback (most recent call last):
        ValueError: prior: found 'nine', expected one of 'none'; pass a module
    """

    def __init__(self, argument: str, remedy: str, *parts: Part):
        super().__init__()
        self.argument = argument
        self.remedy = remedy
        for part in parts:
            self.add(part)

    def add(self, part: Part) -> None:
        """Registers a part under its name.

        Raises:
            ValueError: another part has that name.
        """
        if part.name in self:
            found = f"{self.argument}: found a second part of the name {part.name!r}"
            raise ValueError(f"{found}, expected each name once; choose another name")
        self[part.name] = part

    def __getitem__(self, name: str, /) -> Part:
        if not isinstance(name, str) or name not in self:
            names = ", ".join(map(repr, self))
            raise ValueError(f"{self.argument}: found {name!r}, expected one of {names}; {self.remedy}")
        return super().__getitem__(name)
