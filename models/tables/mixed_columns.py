"""The likelihood of a table's row: a distribution of its own kind for each column."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, cast

import pyro.distributions as dist
import torch
from torch import Size, Tensor, nn
from torch.distributions import constraints

from ppvae.arguments import Observed, checked
from ppvae.models.parts.likelihood import Likelihood
from ppvae.models.tables.columns import BinaryColumn, Column, CountColumn, OrdinalColumn, RealColumn
from ppvae.networks import output_bias
from ppvae.refusals import refuse_shape
from ppvae.rules import Entries, Instance, Problem, Rule

KINDS: dict[str, Callable[[], Column]] = {"real": RealColumn, "count": CountColumn, "binary": BinaryColumn}
"""Columns by the name of their kind; an ordinal one is named by its levels instead."""


def is_one_value(value: Any) -> bool:
    """Whether something may be an entry of a column: no list, no array, no table."""
    return isinstance(value, Hashable) and not isinstance(value, tuple) and getattr(value, "ndim", 0) == 0


def is_missing(value: Any) -> bool:
    """Whether an entry of a column is None, NaN or pandas' NA."""
    return value is None or type(value).__name__ == "NAType" or bool(value != value)  # NaN alone differs from itself


class ColumnKind(Rule):
    """What a column is: a kind by name, or two levels or more, each of them one value, and once."""

    expected = f"{', '.join(map(repr, KINDS))}, or the levels of an ordinal column, lowest first"

    def problem(self, value: Any) -> Problem | None:
        if isinstance(value, str):
            return None if value in KINDS else self.out_of_range(value)
        if not isinstance(value, list | tuple):
            return self.wrong_type(value)
        if not all(is_one_value(level) and not is_missing(level) for level in value):
            return self.wrong_type(value, "name each level by a number or a string; what is missing is none of them")
        if len(value) < 2 or any(level in value[:k] for k, level in enumerate(value)):
            return self.out_of_range(value, "name two levels or more, each of them once")
        return None


Columns = Annotated[Mapping[str, str | Sequence[Any]], Entries(Instance(str), ColumnKind(), at_least=1)]
"""What each column is: "real", "count", "binary", or the levels of an ordinal one, from the lowest to the highest."""


class MixedColumns(Likelihood):
    """`p(x | z) = prod_j p_j(x_j; f_j(z))`, with a distribution of its own kind for each column.

    Real columns are Gaussian, counts Poisson, binary ones Bernoulli, ordinal ones ordered logistic.

    Source: Nazábal et al. 2020 (arXiv:1807.03653).

    Args:
        network: `[*, D] -> [*, F]`, one output for each column.
        columns: by name, "real", "count", "binary", or the levels of an ordinal column, lowest first.

    Raises:
        ValueError: a column of another kind, or fewer than two levels.

    Example:
        >>> columns = {"age": "real", "visits": "count", "grade": ["low", "middle", "high"]}
        >>> MixedColumns(nn.Linear(2, 3), columns)(torch.zeros(4, 2)).event_shape
        torch.Size([3])
    """

    @checked
    def __init__(self, network: nn.Module, columns: Columns):
        super().__init__()
        self.network = network
        self.names = tuple(columns)
        self.columns = nn.ModuleList(
            KINDS[kind]() if isinstance(kind, str) else OrdinalColumn(len(kind)) for kind in columns.values()
        )

    def _with_columns(self, values: Tensor) -> list[tuple[Column, Tensor]]:
        """Each column with its own of values `[*, F]`."""
        return list(zip(cast(Iterable[Column], self.columns), values.unbind(-1), strict=True))

    def by_column(self, z: Tensor) -> "ColumnByColumn":
        """p(x_j | z) of each column, batch shape `[*, F]`, to be masked where values are missing."""
        return ColumnByColumn([column(output) for column, output in self._with_columns(self.network(z))])

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return self.by_column(z).to_event(1)

    def scaled(self, x: Tensor) -> Tensor:
        """Values as an encoder takes them, of the order of one, `[*, F]`."""
        return torch.stack([column.scaled(values) for column, values in self._with_columns(x)], -1)

    @checked
    @torch.no_grad()
    def init_from(self, x: Observed, present: Tensor | None = None) -> None:
        """Initializes each column and its output's bias from the values that are there.

        Args:
            x: `[N, F]`.
            present: which values are there, a mask `[N, F]`; None where all are.

        Raises:
            ValueError: another shape, or a column without a value, or with one that it cannot have; nothing is changed.
        """
        refuse_shape(x, (len(self.names),))
        bias = output_bias(self.network)
        present = torch.ones_like(x, dtype=torch.bool) if present is None else present.bool()
        own = [(column, values[present[:, j]]) for j, (column, values) in enumerate(self._with_columns(x.to(bias)))]
        for name, (column, values) in zip(self.names, own, strict=True):
            _refuse_impossible(name, column, values)
        for j, (column, values) in enumerate(own):
            bias[j] = column.start_at(values)


def _refuse_impossible(name: str, column: Column, values: Tensor) -> None:
    """Raises an error that names a column without values, or with one that it cannot have."""
    if len(values) == 0:
        raise ValueError(f"column '{name}': found no value that is there, expected one or more; leave it out")
    support = column(torch.zeros_like(values)).support
    if not (possible := support.check(values)).all():
        raise ValueError(
            f"column '{name}': found {values[~possible][0]:g}, expected values within {support}; number levels from 0 "
            "on, or choose another kind of column"
        )


class ColumnByColumn(dist.TorchDistribution):
    """Univariate distributions side by side, `[*]` each: batch shape `[*, F]`."""

    has_rsample = False
    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, columns: Sequence[Any], validate_args: bool | None = None):
        self.columns = list(columns)
        super().__init__(Size([*self.columns[0].batch_shape, len(self.columns)]), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        return _Supports([column.support for column in self.columns])

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return torch.stack([fn.log_prob(v) for fn, v in zip(self.columns, value.unbind(-1), strict=True)], -1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return torch.stack([fn.sample(Size(sample_shape)) for fn in self.columns], -1)

    @property
    def mean(self) -> Tensor:
        return torch.stack([fn.mean for fn in self.columns], -1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "ColumnByColumn":
        return ColumnByColumn([fn.expand(Size(batch_shape[:-1])) for fn in self.columns], self._validate_args)


class _Supports(constraints.Constraint):
    """Each column's own support."""

    def __init__(self, supports: Sequence[constraints.Constraint]):
        self._supports = supports

    def check(self, value: Tensor) -> Tensor:
        return torch.stack([s.check(v) for s, v in zip(self._supports, value.unbind(-1), strict=True)], -1)
