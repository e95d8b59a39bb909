"""Discrete guide sites with a gradient along a path: Gumbel-softmax, straight through."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.nn.functional import softplus

from ppvae.arguments import Count, Positive, Schedule, checked
from ppvae.batches import Batch
from ppvae.inference.objectives.evidence_lower_bound import ELBO
from ppvae.inference.objectives.gradients import reparameterized
from ppvae.inference.objectives.protocol import MeanOverDraws
from ppvae.inference.objectives.schedules import refuse_scheduled
from ppvae.pair import Pair
from ppvae.rebuilding import with_parts
from ppvae.refusals import ContractError, family


@checked
@dataclass(frozen=True)
class GumbelSoftmaxELBO(MeanOverDraws):
    """The ELBO with one-hot and Bernoulli guide sites drawn exactly, and differentiated as if softened.

    Forward `z = one_hot(argmax(l + g))`, g Gumbel noise; backward `z = softmax((l + g) / temperature)`. The value is
    the ELBO, unbiased. The gradient is biased, most at high temperatures, and has more variance at low ones; for an
    unbiased one use `ELBO(num_particles=2)` or `EnumeratedELBO`. Between the corners of the simplex, log p(z) is taken
    as linear in z. Model code must use z itself (`z @ weights`), not an index made from it.

    Source: Jang et al. 2017 (arXiv:1611.01144); Maddison et al. 2017 (arXiv:1611.00712); straight through: Bengio et
    al. 2013 (arXiv:1308.3432).

    Args:
        num_particles: K, draws per data point.
        temperature: above 0; or a schedule `step -> temperature`, whose value at infinity is used in evaluation.

    Raises:
        ValueError: a temperature of 0 or less.
        ContractError: when called, on a guide site that has no reparameterization and is neither one-hot nor Bernoulli.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> value, surrogate = GumbelSoftmaxELBO(temperature=0.5)(LinearVAE(5, 2), torch.zeros(3, 5))
        >>> value.shape
        torch.Size([3])
    """

    num_particles: Count = 1
    temperature: Positive | Schedule = 0.5

    @property
    def schedules(self) -> tuple[str, ...]:
        return ("temperature",) if callable(self.temperature) else ()

    @property
    def unbiased(self) -> ELBO:
        """The ELBO with the score function, which needs a second particle."""
        return ELBO(max(self.num_particles, 2))

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        temperature = self.temperature(step) if callable(self.temperature) else self.temperature
        refuse_scheduled("temperature", temperature, step, lambda number: number > 0, "a number above 0")
        with _StraightThrough(temperature):
            return ELBO(self.num_particles, kl="monte_carlo")(pair, batch)


class _StraightThrough(Messenger):
    """Gives the guide's discrete sites, here and in the model, distributions whose draws carry a gradient."""

    def __init__(self, temperature: float):
        super().__init__()
        self.temperature = temperature
        self.replaced: set[str] = set()

    def _pyro_sample(self, msg: Message) -> None:
        name, fn = str(msg["name"]), cast(dist.TorchDistribution, msg["fn"])
        enumerated = msg["done"] and name not in self.replaced
        if not msg["is_observed"] and not site_is_subsample(msg) and not reparameterized(fn) and not enumerated:
            msg["fn"] = self._replacement(name, fn)
            self.replaced.add(name)

    def _replacement(self, name: str, fn: dist.TorchDistribution) -> dist.TorchDistribution:
        return with_parts(fn, partial(self._softened, name, family(fn)))

    def _softened(self, name: str, said: str, base: dist.TorchDistribution) -> dist.TorchDistribution:
        if isinstance(base, dist.OneHotCategorical):
            return _OneHot(self.temperature, base.logits)
        if isinstance(base, dist.Bernoulli):
            return _Bernoulli(self.temperature, base.logits)
        if name in self.replaced:  # the model's, whose probability is taken as it is for softened draws
            return base
        raise ContractError(
            f"guide site '{name}': found {said}, whose draws cannot be softened, expected "
            "OneHotCategorical or Bernoulli; rewrite the site with one of them, or use VIMCO"
        )


class _OneHot(dist.OneHotCategorical):
    has_rsample = True

    def __init__(self, temperature: float, logits: Tensor):
        super().__init__(logits=logits, validate_args=False)
        self.relaxed = dist.RelaxedOneHotCategoricalStraightThrough(torch.as_tensor(temperature), logits=logits)

    def rsample(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.relaxed.rsample(*args, **kwargs)

    def log_prob(self, value: Tensor) -> Tensor:
        return (value * self.logits).sum(-1)


class _Bernoulli(dist.Bernoulli):
    has_rsample = True

    def __init__(self, temperature: float, logits: Tensor):
        super().__init__(logits=logits, validate_args=False)
        self.relaxed = dist.RelaxedBernoulliStraightThrough(torch.as_tensor(temperature), logits=logits)

    def rsample(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.relaxed.rsample(*args, **kwargs)

    def log_prob(self, value: Tensor) -> Tensor:
        return value * self.logits - softplus(self.logits)
