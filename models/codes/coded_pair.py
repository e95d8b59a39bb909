"""What pairs of codes share: a guide at the nearest ones, its true gap, and a guide that leaves none out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.arguments import Observed, Positive, checked
from ppvae.batches import of_batch
from ppvae.mode import mode
from ppvae.models.codes.code_priors import UniformCodes
from ppvae.models.codes.code_search import Joint, best_codes, log_evidence_by_enumeration
from ppvae.models.codes.code_vectors import CodeVectors
from ppvae.models.codes.codebook import Codebook
from ppvae.models.codes.tempered import TEMPERATURES, Softened
from ppvae.models.parts.likelihood import AnyLikelihood
from ppvae.pair import Pair
from ppvae.refusals import ContractError, refuse_shape

Quantize = Callable[[Codebook, Tensor, int, Callable[[], Any]], CodeVectors]
"""The distribution of a guide's site, from the codebook, what the encoder gives, the number of event dimensions, and a
function that returns the prior over indices."""


def at_nearest(codebook: Codebook, h: Tensor, event_dim: int, prior: Callable[[], Any]) -> CodeVectors:
    """The nearest codes, with all probability."""
    return codebook(h, event_dim)


class CodedPair(Pair):
    """The base class of pairs whose latents are codes: `draw_codes` writes the guide, once for all distributions.

    Attributes:
        encoder: of x.
        likelihood: of x given the vectors of its codes.
        event_shape: of x.
    """

    encoder: nn.Module
    likelihood: AnyLikelihood
    event_shape: Sequence[int]

    def guide(self, x: Tensor) -> None:
        self.draw_codes(x, at_nearest)

    def draw_codes(self, x: Tensor, quantize: Quantize) -> None:
        """A guide whose sites have the distributions that `quantize` makes of what the encoders give."""
        raise NotImplementedError

    def _joint(self, x: Tensor) -> Joint:
        """`log p(x, c)` as a function of the indices of all positions in one dimension."""
        raise NotImplementedError

    def _log_likelihood(self, z: Tensor, x: Tensor) -> Tensor:
        """`log p(x | z)`, `[S, B]`, of x `[B, *event]` given vectors z `[S, 1 or B, ...]`."""
        decoded = self.likelihood(z.flatten(0, 1))
        if z.shape[1] == 1:
            return decoded.log_prob(x.unsqueeze(1)).T
        return decoded.log_prob(x.repeat(len(z), *(1,) * (x.dim() - 1))).unflatten(0, z.shape[:2])

    def _nearest(self, x: Tensor) -> Tensor:
        """The indices of the guide's codes, `[B, P]`."""
        raise NotImplementedError

    @of_batch
    @checked
    def log_prob(self, x: Observed) -> Tensor:
        """Exact `log p(x) = log sum_c p(x, c)`, `[B]`, in nats, over all codes.

        Raises:
            NotImplementedError: these are more than a million.
        """
        return log_evidence_by_enumeration(self._joint(x))

    @of_batch
    @checked
    def exact_elbo(self, x: Observed) -> Tensor:
        """`log p(x, c)` at the nearest codes, `[B]`, in nats."""
        return self._joint(x)(self._nearest(x)[None])[0]

    @of_batch
    @checked
    def best_elbo(self, x: Observed) -> Tensor:
        """`log p(x, c)` at the best codes that a coordinate search finds from the nearest ones, `[B]`, in nats."""
        joint = self._joint(x)
        return joint(best_codes(joint, self._nearest(x))[None])[0]

    def proposal(self) -> Pair:
        """`tempered()`, from which importance weights are drawn."""
        return self.tempered()

    @checked
    def tempered(self, temperatures: Sequence[Positive] = TEMPERATURES) -> "TemperedCodes":
        """The same model, with a guide that has probability everywhere; see `TemperedCodes`.

        Raises:
            ppvae.ContractError: codes that coincide, under a prior that is not uniform: their vector does not tell
                which of them has been drawn.
        """
        if not all(isinstance(each.prior, UniformCodes) for each in self.modules() if hasattr(each, "prior")):
            self._refuse_codes_that_coincide()
        return TemperedCodes(self, temperatures)

    def _refuse_codes_that_coincide(self) -> None:
        for name, each in self.named_modules():
            if isinstance(each, Codebook) and (twice := _coinciding(each.codes)) is not None:
                raise ContractError(
                    f"{name}: found codes {twice[0]} and {twice[1]} at the same place, expected codes that differ, as "
                    "the prior gives each a probability of its own; move one by restart_dead_codes(data), or take fewer"
                )

    def _encoded(self, x: Tensor) -> Tensor:
        """What the encoder gives of data, in evaluation mode."""
        refuse_shape(x, self.event_shape)
        with mode(self, training=False):
            return self.encoder(x.to(next(self.parameters())))


class TemperedCodes(Pair):
    """A VQ-VAE's model, with a guide that mixes softened nearest codes at several temperatures, and the prior.

    `q(c | x) = (sum_tau prod_p softmax_k(-|h_p - e_k|^2 / (tau s^2))[c_p] + p(c)) / (T + 1)`, for T temperatures and
    s^2 the variance of the codes, summed over their numbers. A small tau keeps near the nearest codes, a large one
    spreads. No weight exceeds (T + 1) p(x | c), as the prior takes part: codes far from the nearest ones are found,
    if they are as likely under the prior as they are in the posterior. Of two sites, each is such a mixture, given the
    one above, and no weight exceeds (T + 1)^2 p(x | c).

    Args:
        pair: whose model is taken.
        temperatures: tau, T of them.
    """

    def __init__(self, pair: CodedPair, temperatures: Sequence[float]):
        super().__init__()
        self.pair, self.softened = pair, Softened(tuple(temperatures))
        self.example, self.particles, self.guide_leads = pair.example, pair.particles, pair.guide_leads

    def model(self, x: Tensor) -> None:
        self.pair.model(x)

    def guide(self, x: Tensor) -> None:
        self.pair.draw_codes(x, self.softened)


@torch.no_grad()
def _coinciding(codes: Tensor) -> tuple[int, int] | None:
    """The first two codes of a codebook `[G, K, D]` that are equal, if any are."""
    for own in codes:
        _, value, count = own.unique(dim=0, return_inverse=True, return_counts=True)
        if (count > 1).any():
            first, second, *_ = (value == count.argmax()).nonzero().flatten().tolist()
            return first, second
    return None
