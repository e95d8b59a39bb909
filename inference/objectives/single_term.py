"""The ELBO from one of its terms per data point: for pairs with many layers, whose terms can be drawn separately."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ppvae.arguments import Count, checked
from ppvae.batches import Batch, call, map_batch, num_rows, tensors
from ppvae.inference.objectives.protocol import Objective
from ppvae.inference.objectives.weighting import mean_over_data
from ppvae.pair import Pair
from ppvae.refusals import ContractError


@runtime_checkable
class SumOfTerms(Protocol):
    """A pair that can draw any one term of its ELBO by itself."""

    @property
    def num_terms(self) -> int:
        """T."""
        ...

    elbo_term: Callable[..., Tensor]
    """`elbo_term(*batch, index)`: for an index per data point, `[B]` of 0 ... T - 1, a draw of that term, `[B]`."""


@checked
@dataclass(frozen=True)
class SingleTermELBO(Objective):
    """`T term_i(x)`, with i uniform on 0 ... T - 1, by K draws for each data point, where `ELBO = sum_i E term_i(x)`.

    An unbiased estimate of the ELBO and of its gradient, for a pair that is a `SumOfTerms`, such as
    `ppvae.models.DiffusionVAE`, which then runs its network once per data point instead of T times. Its noise comes
    from the differences between terms: more than that of `ELBO()`, and worth it where T is large. It is for training;
    `ppvae.elbo` measures with less noise.

    Stratified, the indices of a batch are spread evenly, `i_n = floor(T ((u + n / N) mod 1))` for its N = K B draws,
    with one uniform u. Each is still uniform and the estimate unbiased; the batch's mean has less noise, but its data
    points are not independent.

    Source: Ho et al. 2020 (arXiv:2006.11239); stratified: Kingma et al. 2021 (arXiv:2107.00630).

    Args:
        num_particles: K.
        stratified: whether to spread the indices over a batch.

    Raises:
        ValueError: K < 1.
        ContractError: when called: the pair does not offer its terms.

    Example:
        >>> from ppvae.models import DiffusionVAE, MLPDenoiser
        >>> pair = DiffusionVAE(MLPDenoiser(5), shape=[5], num_steps=1000)
        >>> value, surrogate = SingleTermELBO()(pair, torch.zeros(3, 5))
        >>> value.shape, surrogate.shape
        (torch.Size([3]), torch.Size([]))
    """

    num_particles: Count = 1
    stratified: bool = True

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        if not isinstance(pair, SumOfTerms):
            raise ContractError(
                f"{type(pair).__name__}: found no `num_terms` and `elbo_term`, expected a pair that draws single terms "
                "of its ELBO, such as DiffusionVAE; use ELBO()"
            )
        repeated = map_batch(lambda t: t.repeat(self.num_particles, *(1,) * (t.dim() - 1)), batch)
        num, device = num_rows(repeated), next(iter(tensors(batch).values())).device
        if self.stratified:
            u = (torch.rand((), device=device) + torch.arange(num, device=device) / num) % 1
        else:
            u = torch.rand(num, device=device)
        index = (u * pair.num_terms).long().clamp(max=pair.num_terms - 1)  # u may round to 1
        term = call(partial(pair.elbo_term, index=index), repeated)
        value = pair.num_terms * term.reshape(self.num_particles, -1).mean(0)
        return value, mean_over_data(value)

    def probe(self, pair: Pair, batch: Batch) -> Tensor:
        """One term: a thousand times cheaper than a log weight, where there are a thousand terms."""
        return self(pair, batch)[0]
