"""The dictionary of a VQ-VAE: learned by gradient, or by running averages of what is assigned to each code."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ppvae.arguments import Fraction, Observed, Size, checked
from ppvae.models.codes.code_vectors import NearestCodes, nearest
from ppvae.models.parts.indices import one_hot

LEAST_SIZE = 1e-6
"""Running size below which a code stays where it is."""

KMEANS_STEPS = 20


class Codebook(nn.Module):
    """K vectors of D numbers; forward gives the distribution of the nearest to each of the encoder's.

    Without `decay` the vectors are parameters: they learn by the gradient of what is maximized. With it, each is the
    running average of the vectors that are assigned to it in training, before they are drawn,

    `N <- decay N + (1 - decay) n`, `m <- decay m + (1 - decay) sum of h`, `e = m / N`,

    so that decay 0 is a step of k-means. N starts at 1 and m at the codes: with N of 0 an unrelated m would be divided
    by next to nothing. A code that is not used stays where it is.

    Source: van den Oord et al. 2017 (arXiv:1711.00937), with running averages in its appendix; cosine: Yu et al. 2022
    (arXiv:2110.04627).

    Args:
        num_codes: K.
        code_dim: D.
        num_codebooks: G: 1 for all positions to share the codes, or the size of the last dimension of positions, whose
            entries then each have their own.
        decay: of the running averages, 0 to 1; None for learning by gradient.
        cosine: whether the codes, and what is assigned to them, are scaled to length one.

    Example:
        >>> q = Codebook(num_codes=5, code_dim=2)(torch.randn(7, 3, 2))
        >>> q.batch_shape, q.event_shape
        (torch.Size([7]), torch.Size([3, 2]))
    """

    weight: Tensor
    sizes: Tensor
    sums: Tensor

    @checked
    def __init__(
        self,
        num_codes: Size,
        code_dim: Size,
        num_codebooks: Size = 1,
        decay: Fraction | None = None,
        cosine: bool = False,
    ):
        super().__init__()
        self.decay, self.cosine = decay, cosine
        start = torch.randn(num_codebooks, num_codes, code_dim)
        if decay is None:
            self.weight = nn.Parameter(start)
        else:
            self.register_buffer("weight", start)
            self.register_buffer("sizes", torch.ones(num_codebooks, num_codes))
            self.register_buffer("sums", start.clone())

    @property
    def codes(self) -> Tensor:
        """`[G, K, D]`."""
        return normalize(self.weight, dim=-1) if self.cosine else self.weight

    def scaled(self, h: Tensor) -> Tensor:
        """What an encoder gives, as it is held against the codes."""
        return normalize(h, dim=-1) if self.cosine else h

    def forward(self, h: Tensor, event_dim: int = 2) -> NearestCodes:
        h = self.scaled(h)
        if self.training and self.decay is not None:
            self.assign(h.detach(), self.decay)
        return NearestCodes(h, self.codes, event_dim)

    @torch.no_grad()
    def assign(self, h: Tensor, decay: float) -> None:
        """A step of the running averages by vectors `[*, n, D]`."""
        counts, sums = self._totals(h)
        self.sizes.lerp_(counts, 1 - decay)
        self.sums.lerp_(sums, 1 - decay)
        self._move(self.sizes, self.sums)

    def _totals(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """The number of vectors that are nearest to each code, `[G, K]`, and their sum, `[G, K, D]`."""
        G, K, D = self.weight.shape
        member = one_hot(nearest(h, self.codes).reshape(-1, G), K).to(h)
        return member.sum(0), torch.einsum("ngk,ngd->gkd", member, h.reshape(-1, G, D))

    def _move(self, sizes: Tensor, sums: Tensor) -> None:
        sizes = sizes.unsqueeze(-1)
        self.weight.copy_(torch.where(sizes > LEAST_SIZE, sums / sizes.clamp(min=LEAST_SIZE), self.weight))

    @torch.no_grad()
    def counts(self, h: Tensor) -> Tensor:
        """How many of the vectors `[*, n, D]` each code is nearest to, `[G, K]`."""
        return self._totals(self.scaled(h))[0]

    @checked
    @torch.no_grad()
    def init_from(self, h: Observed) -> None:
        """Sets the codes by k-means of vectors `[*, n, D]`, from as many of these, chosen at random.

        Raises:
            ValueError: vectors of another size, or positions that do not go with the number of codebooks.
        """
        G, _, D = self.weight.shape
        if h.dim() < 2 or h.shape[-1] != D or G not in (1, h.shape[-2]):
            positions = "any number of" if G == 1 else G
            raise ValueError(f"h: found shape {list(h.shape)}, expected [..., n, {D}], with {positions} positions n")
        h, everywhere = self.scaled(h.to(self.weight)), torch.ones_like(self.weight[..., 0], dtype=torch.bool)
        self.place(everywhere, h)
        for _ in range(KMEANS_STEPS):
            self._move(*self._totals(h))
        self._start_averages(everywhere)

    @torch.no_grad()
    def place(self, at: Tensor, h: Tensor) -> int:
        """Moves the codes of a mask `[G, K]`, each to one of the vectors `[N, n, D]` that no other code has.

        Returns:
            How many: some stay where they are if there are fewer such vectors.
        """
        vectors, total = self.scaled(h).reshape(-1, len(self.weight), self.weight.shape[-1]), 0
        for own, moved, others in zip(self.weight, at, vectors.unbind(1), strict=True):
            order = torch.randperm(len(others), device=h.device)
            new = _distinct(own[~moved], others[order])[: int(moved.sum())]
            own[moved.nonzero()[: len(new), 0]] = new
            total += len(new)
        self._start_averages(at)
        return total

    def _start_averages(self, at: Tensor) -> None:
        if self.decay is not None:
            self.sizes[at] = 1.0
            self.sums[at] = self.weight[at]


def _distinct(known: Tensor, rows: Tensor) -> Tensor:
    """The rows `[N, D]` in their order, without those that are known or came before."""
    every = torch.cat([known, rows])
    _, value = every.unique(dim=0, return_inverse=True)
    place = torch.arange(len(every), device=every.device)
    first = torch.full_like(place, len(every)).scatter_reduce(0, value, place, "amin")
    return every[(first[value] == place) & (place >= len(known))]
