"""Bounds that are functions of the log weights, `bound(log_w)`: `[K, B] -> [B]`, each with a choice of gradients."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, NamedTuple, cast

import torch
from torch import Tensor

from ppvae.arguments import Count, checked
from ppvae.batches import Batch
from ppvae.devices import gpus
from ppvae.inference.objectives.gradients import Draw
from ppvae.inference.objectives.protocol import Objective
from ppvae.inference.objectives.scales import refuse_scales
from ppvae.pair import Pair
from ppvae.rules import Number


class Weighting(NamedTuple):
    """How much each particle counts in a gradient, `[K, B]`; see `Draw.surrogate`."""

    model: Tensor
    path: Tensor | None = None
    score: Tensor | None = None

    def rows(self, start: int, end: int) -> "Weighting":
        """The weights of the particles from `start` to `end`."""
        model, path, score = (None if t is None else t[start:end] for t in self)
        return Weighting(cast(Tensor, model), model if self.path is self.model else path, score)


@checked
@dataclass(frozen=True)
class WeightObjective(Objective):
    """An objective that is a function of the log weights; a subclass defines `bound`, and has these gradients.

    With `a_k = d bound / d log w_k`, particle k counts as

    | gradient | log p at fixed z | path | log q at fixed z |
    |---|---|---|---|
    | "reparameterized" | a_k | a_k | -a_k |
    | "stl" | a_k | a_k | 0 |
    | "dreg" | a_k | a_k^2 (where the bound is the log of a mean) | 0 |
    | "score" | a_k | 0 | bound - bound without k - a_k |

    "Bound without k" has log w_k replaced by the mean of the others. All are unbiased for the gradient of `E[bound]`,
    except "stl" for bounds that are not linear; "stl" and "dreg" have no noise in the guide's gradient where the guide
    is exact. Guide sites without reparameterization always count as in the last row (except with "dreg", which refuses
    them); they need K > 1.

    Source: stl: Roeder et al. 2017 (arXiv:1703.09194); dreg: Tucker et al. 2019 (arXiv:1810.04152); score: Mnih &
    Rezende 2016 (arXiv:1602.06725).
    """

    gradients: ClassVar[tuple[str, ...]] = ("reparameterized", "stl", "dreg", "score")
    instead: ClassVar[str] = ""

    num_particles: Count = 50
    gradient: str = "reparameterized"

    def __post_init__(self) -> None:
        if self.gradient not in self.gradients:
            raise ValueError(
                f"gradient: found {self.gradient!r} in {self}, expected one of {self.gradients}{self.instead}"
            )

    @property
    def sticks(self) -> bool:
        """Whether the score of the sites that are followed is left out."""
        return self.gradient in ("stl", "dreg")

    @property
    def unbiased(self) -> Objective | None:
        return replace(self, gradient=self.gradients[0])

    @abstractmethod
    def bound(self, log_w: Tensor) -> Tensor:
        """The bound, in nats, of log weights `[K, *]` (over dim 0)."""

    def squared(self, weights: Tensor) -> Tensor:
        """The weights of the path in the doubly reparameterized gradient, given those of the plain one."""
        return weights.square()

    def weigh(self, log_w: Tensor, scored: bool) -> Weighting:
        """The weights of the gradient; `scored`: the guide has sites that no path leads through."""
        weights = slope(self.bound, log_w)
        if self.gradient == "score":
            return Weighting(weights, score=gain(self.bound, log_w) - weights)
        path = self.squared(weights) if self.gradient == "dreg" else weights
        return Weighting(weights, path, gain(self.bound, log_w) if scored else None)

    def draw(self, pair: Pair, batch: Batch, num_particles: int) -> Draw:
        """Draws some of the particles; in training, refuses sites that this gradient cannot handle."""
        draw = Draw(pair, batch, num_particles, fixed=self.gradient == "score", partial=self.sticks)
        refuse_scales(draw.joint, self)
        if torch.is_grad_enabled():
            draw.check_scored(self.gradient != "dreg", self.num_draws)
        return draw

    def surrogate(self, draw: Draw, weighting: Weighting) -> Tensor:
        """What is maximized, with the weights of these particles."""
        return draw.surrogate(*weighting, stuck=draw.followed if self.sticks else ())

    def besides(self, pair: Pair, batch: Batch) -> Tensor | None:
        """A further term to maximize, if there is one: a scalar that uses none of the particles."""
        return None

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        draw = self.draw(pair, batch, self.num_draws)
        log_w = draw.log_w.detach()
        value = self.bound(log_w)
        if not torch.is_grad_enabled():
            return value, value.mean()
        surrogate = self.surrogate(draw, self.weigh(log_w, bool(draw.scored)))
        more = self.besides(pair, batch)
        return value, surrogate if more is None else surrogate + more

    def parts(self, pair: Pair, batch: Batch, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Runs twice where not all draws may be held at once: for all the weights, then again with the same noise.

        A subclass that overrides `__call__` is called as a whole.
        """
        if len(sizes) == 1 or type(self).__call__ is not WeightObjective.__call__:
            yield self(pair, batch)
            return
        with torch.random.fork_rng(gpus(pair), enabled=torch.is_grad_enabled()), torch.no_grad():
            log_w = torch.cat([self.draw(pair, batch, size).log_w for size in sizes])
        value = self.bound(log_w)
        if not torch.is_grad_enabled():
            yield value, value.mean()
            return
        start = 0
        for size in sizes:
            draw = self.draw(pair, batch, size)
            weighting = self.weigh(log_w, bool(draw.scored)).rows(start, start + size)
            yield value if start == 0 else torch.zeros_like(value), self.surrogate(draw, weighting)
            start += size
        more = self.besides(pair, batch)
        if more is not None:
            yield torch.zeros_like(value), more


@checked
@dataclass(frozen=True)
class IWAE(WeightObjective):
    """The importance-weighted bound, `log (1/K) sum_k w_k`, `w_k = p(x, z_k) / q(z_k | x)`.

    Between the ELBO (K = 1) and log p(x), rising with K; falls short by about `chi^2(posterior || q) / 2K`. The plain
    gradient's signal-to-noise ratio for the guide falls as `K^-1/2` (Rainforth et al. 2018, arXiv:1802.04537), that of
    "dreg" rises as `K^1/2`. IWAE - ELBO is not the posterior gap.

    Source: Burda et al. 2016 (arXiv:1509.00519).

    Args:
        num_particles: K.
        gradient: "reparameterized", "stl", "dreg" or "score"; see `WeightObjective`.

    Raises:
        ValueError: K < 1, or another gradient.
        ContractError: when called, on a guide site without reparameterization, with K = 1 or gradient "dreg".

    Example:
        >>> from ppvae.models import LinearVAE
        >>> pair, x = LinearVAE(num_features=5, num_latents=2, guide="exact"), torch.zeros(3, 5)
        >>> torch.allclose(IWAE(num_particles=10)(pair, x)[0], pair.log_prob(x))
        True
    """

    def bound(self, log_w: Tensor) -> Tensor:
        return log_mean_exp(log_w)


@checked
@dataclass(frozen=True)
class VIMCO(IWAE):
    """IWAE(K) for discrete latents: every site's gradient is the score function's, with leave-one-out baselines.

    `sum_k (IWAE_K - IWAE_K without k) d log q(z_k) + w~_k d log w_k`, where "without k" has log w_k replaced by the
    mean of the others. Unbiased. For a guide with continuous sites too, `IWAE` reparameterizes those and does this for
    the rest.

    Source: Mnih & Rezende 2016 (arXiv:1602.06725).

    Args:
        num_particles: K, at least 2.

    Example:
        >>> from ppvae.models import GaussianMixture
        >>> mixture = GaussianMixture(num_components=3, num_features=2, guide="amortized")
        >>> value, surrogate = VIMCO(num_particles=5)(mixture, torch.randn(4, 2))
        >>> surrogate.backward()
    """

    gradients: ClassVar[tuple[str, ...]] = ("score",)
    instead: ClassVar[str] = "; for another, use IWAE"

    gradient: str = "score"

    @property
    def unbiased(self) -> Objective:
        return IWAE(self.num_particles)


@checked
@dataclass(frozen=True)
class MIWAE(WeightObjective):
    """The mean of M independent IWAE(K) bounds.

    The bound of IWAE(K), looser than that of IWAE(M K), with its noise averaged over M: for the guide's gradient often
    the better use of M K draws.

    Source: Rainforth et al. 2018 (arXiv:1802.04537).

    Args:
        num_particles: K.
        gradient: as in `IWAE`.
        num_groups: M; each data point takes M K draws.

    Example:
        >>> objective = MIWAE(num_particles=2, num_groups=3)
        >>> objective.bound(torch.zeros(6, 1))
        tensor([0.])
    """

    num_particles: Count = 8
    num_groups: Count = 8

    @property
    def num_draws(self) -> int:
        return self.num_groups * self.num_particles

    def bound(self, log_w: Tensor) -> Tensor:
        return log_mean_exp(log_w.unflatten(0, (self.num_particles, self.num_groups))).mean(0)

    def squared(self, weights: Tensor) -> Tensor:
        return self.num_groups * weights.square()


@checked
@dataclass(frozen=True)
class PIWAE(MIWAE):
    """The model's gradient from IWAE(M K), the guide's from MIWAE(M, K), on the same draws.

    The model wants the tightest bound, the guide a gradient that is not all noise. The value is MIWAE's. There is no
    single bound that this ascends.

    Source: Rainforth et al. 2018 (arXiv:1802.04537).

    Args:
        num_particles: K.
        gradient: of the guide, as in `IWAE`.
        num_groups: M; each data point takes M K draws.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> value, surrogate = PIWAE()(LinearVAE(num_features=5, num_latents=2), torch.zeros(3, 5))
        >>> value.shape
        torch.Size([3])
    """

    @property
    def unbiased(self) -> MIWAE:
        return MIWAE(self.num_particles, num_groups=self.num_groups)

    def weigh(self, log_w: Tensor, scored: bool) -> Weighting:
        return super().weigh(log_w, scored)._replace(model=slope(log_mean_exp, log_w))


@checked
@dataclass(frozen=True)
class CIWAE(WeightObjective):
    """`beta ELBO + (1 - beta) IWAE(K)`, both on the same draws.

    Source: Rainforth et al. 2018 (arXiv:1802.04537).

    Args:
        num_particles: K.
        gradient: as in `IWAE`; "dreg" is "stl" for the ELBO's part.
        beta: the share of the ELBO, in [0, 1].

    Example:
        >>> log_w = torch.tensor([[0.0], [-2.0]])
        >>> CIWAE(num_particles=2, beta=1.0).bound(log_w)
        tensor([-1.])
    """

    beta: Annotated[float, Number(at_least=0, at_most=1, said="the ELBO's share, from 0 to 1")] = 0.5

    def bound(self, log_w: Tensor) -> Tensor:
        return self.beta * log_w.mean(0) + (1 - self.beta) * log_mean_exp(log_w)

    def squared(self, weights: Tensor) -> Tensor:
        elbo = self.beta / self.num_particles
        return weights if self.beta == 1 else elbo + (weights - elbo).square() / (1 - self.beta)


def log_mean_exp(log_w: Tensor) -> Tensor:
    """`log (1/K) sum_k w_k`, over dim 0."""
    return log_w.logsumexp(0) - math.log(len(log_w))


def slope(bound: Callable[[Tensor], Tensor], log_w: Tensor) -> Tensor:
    """`d bound / d log w_k`, `[K, B]`."""
    log_w = log_w.detach().requires_grad_()
    return torch.autograd.grad(bound(log_w).sum(), log_w)[0]


def gain(bound: Callable[[Tensor], Tensor], log_w: Tensor) -> Tensor:
    """What each particle adds to the bound: `bound - bound with log w_k replaced by the mean of the others`, `[K, B]`.

    The subtracted part does not depend on particle k, so it leaves the mean of the score-function gradient unchanged.
    """
    K = len(log_w)
    others = (log_w.sum(0) - log_w) / (K - 1)
    replaced = torch.where(
        torch.eye(K, dtype=torch.bool, device=log_w.device).unsqueeze(-1), others, log_w.unsqueeze(1)
    )
    return bound(log_w) - bound(replaced)
