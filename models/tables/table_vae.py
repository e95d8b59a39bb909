"""A VAE of a table's rows, some of whose values are missing, and what it puts in their place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pyro
import torch
from torch import Tensor, nn

from ppvae.arguments import Count, Observed, Size, checked
from ppvae.models.parts.posteriors import POSTERIOR_FAMILIES
from ppvae.models.parts.priors import StandardNormal
from ppvae.models.tables.mixed_columns import Columns, MixedColumns
from ppvae.networks import mlp
from ppvae.pair import Pair
from ppvae.recipes import remembered
from ppvae.row_chunks import over_rows
from ppvae.rules import Number

Level = Annotated[float, Number(above=0, below=1, said="a probability between 0 and 1")]


@checked
@dataclass(frozen=True)
class Imputation:
    """What may stand in place of missing values, `[N, F]` each; values that are there stand for themselves.

    Attributes:
        median: of the draws of each value.
        lower, upper: an interval that holds the missing value with the probability that was asked for, or more where
            values are discrete.
    """

    median: Tensor
    lower: Tensor
    upper: Tensor


class TableVAE(Pair):
    """`p(z) prod_j p(x_j | z)` over the columns that are there, with the guide `q(z | x, present)`.

    Takes a tuple `(x, present)`: the table `[B, F]`, and which values are there, a mask `[B, F]`. What stands in place
    of a missing value does not matter, but must be possible there, as 0 always is. Evidence and bounds are those of
    the values that are there: of a row without a column, those of the pair without that column. That values are
    missing must not depend on what they are, given those that are there ("missing at random").

    Source: Nazábal et al. 2020 (arXiv:1807.03653); for imputation by importance weights, Mattei & Frellsen 2019
    (arXiv:1812.02633).

    Args:
        prior: forward() returns p(z).
        likelihood: forward(z) returns p(x | z).
        posterior: forward(h), `[*, 2 F]`, returns q(z | x, present): h has the values, scaled, zero where missing, and
            the mask.

    Example:
        >>> pair = TableVAE.mlp({"age": "real", "visits": "count", "smokes": "binary"}, num_latents=2)
        >>> x, present = torch.tensor([[52.0, 3.0, 1.0], [0.0, 0.0, 1.0]]), torch.ones(2, 3, dtype=torch.bool)
        >>> present[1, :2] = False
        >>> pair.log_weights((x, present), num_particles=10).log_w.shape
        torch.Size([10, 2])
        >>> pair.impute((x, present), num_samples=50).median[1, 2]
        tensor(1.)
    """

    @checked
    def __init__(self, prior: nn.Module, likelihood: MixedColumns, posterior: nn.Module):
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior
        x = torch.zeros(1, len(likelihood.names))
        self.example = (x, torch.ones_like(x, dtype=torch.bool))

    @classmethod
    @checked
    @remembered
    def mlp(
        cls, columns: Columns, num_latents: Size, hidden: Sequence[Size] = (100,), posterior: str = "diagonal"
    ) -> "TableVAE":
        """A table VAE of multilayer perceptrons.

        Args:
            columns: as in `MixedColumns`; `ppvae.models.table_columns` finds those of a DataFrame.
            num_latents: D, size of z.
            hidden: sizes of the encoder's hidden layers; the decoder's are the same, reversed.
            posterior: as in `VAE.mlp`.

        Raises:
            ValueError: a column of an unknown kind, or a posterior that is not in its registry.
        """

        def encoder(num_outputs: int) -> nn.Module:
            return mlp(2 * len(columns), hidden, num_outputs)

        return cls(
            StandardNormal(num_latents),
            MixedColumns(mlp(num_latents, hidden[::-1], len(columns)), columns),
            POSTERIOR_FAMILIES[posterior].of(encoder, num_latents),
        )

    def model(self, x: Tensor, present: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood.by_column(z).mask(present.bool()).to_event(1), obs=x)

    def guide(self, x: Tensor, present: Tensor) -> None:
        seen = torch.where(present.bool(), self.likelihood.scaled(x), 0.0)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", self.posterior(torch.cat([seen, present.to(seen)], -1)))

    @checked
    def impute(self, batch: Any, num_samples: Count = 1000, level: Level = 0.9) -> Imputation:
        """Medians and intervals of `p(x_missing | x_present)`, for missing values.

        Latents are drawn from the guide, and drawn again by their importance weights; then values given them. With a
        guide far from the posterior many more samples are needed: the weights' k-hat is that of `log_evidence`.

        Args:
            batch: `(x, present)`.
            num_samples: S, draws of each row.
            level: the probability that an interval holds.
        """
        ends = torch.tensor([0.5, (1 - level) / 2, (1 + level) / 2])
        found = over_rows(self, self.checked(batch), num_samples, lambda few: self._quantiles(few, num_samples, ends))
        return Imputation(found["median"], found["lower"], found["upper"])

    def _quantiles(self, batch: Any, num_samples: int, at: Tensor) -> dict[str, Tensor]:
        x, present = batch
        weights = self.log_weights(batch, num_samples)
        index = weights.log_w.softmax(0).T.multinomial(num_samples, replacement=True).T
        z = weights.latents["z"].gather(0, index.unsqueeze(-1).expand_as(weights.latents["z"]))
        draws = self.likelihood(z).sample()
        found = draws.quantile(at.to(draws), 0, interpolation="nearest")
        return dict(zip(("median", "lower", "upper"), torch.where(present.bool(), x, found), strict=True))

    @checked
    def init_from(self, x: Observed, present: Tensor | None = None) -> "TableVAE":
        """Initializes the likelihood from the values that are there; returns self."""
        self.likelihood.init_from(x, present)
        return self
