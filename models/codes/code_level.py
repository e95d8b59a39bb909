"""One map of codes of several that lie over one another: its encoder, dictionary and prior."""

from typing import Any

import torch
from torch import Tensor, nn

from ppvae.arguments import Sizes, checked
from ppvae.models.codes.code_vectors import CodeVectors
from ppvae.models.codes.codebook import Codebook


class CodeLevel(nn.Module):
    """A map of codes, as `VQVAE2` has two of.

    Args:
        shape: of the positions: `(P,)` or `(H, W)`.
        encoder: `[*, *positions, F] -> [*, *shape, D]`, from features to what is held against the codes.
        codebook: the codes.
        prior: a module that returns a distribution over the indices of all positions: of the top level forward(), of
            one below it forward(above), `above` being the code vectors of the level above, laid over these positions.

    Example:
        >>> from ppvae.models import UniformCodes
        >>> level = CodeLevel([2], nn.Linear(5, 3), Codebook(num_codes=4, code_dim=3), UniformCodes([2], 4))
        >>> level.vectors().event_shape
        torch.Size([2, 3])
    """

    @checked
    def __init__(self, shape: Sizes, encoder: nn.Module, codebook: Codebook, prior: nn.Module):
        super().__init__()
        self.shape, self.encoder, self.codebook, self.prior = tuple(shape), encoder, codebook, prior

    @property
    def event_dim(self) -> int:
        """Of the vectors of all positions."""
        return len(self.shape) + 1

    def vectors(self, above: Tensor | None = None) -> CodeVectors:
        """The prior over code vectors."""
        return CodeVectors(self.indices(above), self.codebook.codes)

    def indices(self, above: Tensor | None = None) -> Any:
        """The prior over their indices."""
        return self.prior() if above is None else self.prior(above)

    def laid_under(self, above: Tensor) -> Tensor:
        """The vectors of another level, `[*, *positions, D]`, repeated so that each of these positions has one."""
        first = above.dim() - self.event_dim
        for dim, size in enumerate(self.shape, start=first):
            place = torch.arange(size, device=above.device) * above.shape[dim] // size
            above = above.index_select(dim, place)
        return above
