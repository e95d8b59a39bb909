"""Mixtures of one family, whose draws can be differentiated."""

from typing import Any

import pyro.distributions as dist
from pyro.distributions.score_parts import ScoreParts
from torch import Size, Tensor
from torch.distributions import constraints


class Mixture(dist.MixtureSameFamily):
    """`p(z) = sum_m pi_m p_m(z)`: a component is drawn, then z from it, reparameterized in the component's parameters.

    The weights have the score-function gradient, `E[f(z) d log p(z) / d pi]` with the components held fixed. Its
    variance stays bounded however far apart the components are. A reparameterized gradient would have to move mass from
    one to another through regions of almost no density, and has no such bound. So draws are partly reparameterized,
    which `score_parts` declares by Pyro's convention. As a guide it needs two particles or more; the gradient "dreg"
    refuses it. Within `to_event` or a transformed distribution its weights would get no gradient.

    Source: Morningstar et al. 2021 (arXiv:2003.01687) for mixtures as guides.

    Args:
        mixture_distribution: a Categorical, batch shape `[*]`, of M values.
        component_distribution: batch shape `[*, M]`.

    Example:
        >>> import torch
        >>> weights, means = dist.Categorical(logits=torch.zeros(2)), torch.tensor([-5.0, 5.0])
        >>> Mixture(weights, dist.Normal(means, 1.0)).log_prob(torch.tensor(5.0)).exp()
        tensor(0.1995)
    """

    has_rsample = True

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return self.component_distribution.support

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        component = self.mixture_distribution.sample(Size(sample_shape))
        draws = self.component_distribution.rsample(Size(sample_shape))
        event_dim = len(self.event_shape)
        index = component.reshape(*component.shape, *(1,) * (1 + event_dim))
        return draws.take_along_dim(index, -1 - event_dim).squeeze(-1 - event_dim)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return (self.mixture_distribution.logits + self._log_components(value)).logsumexp(-1)

    def score_parts(self, value: Tensor) -> ScoreParts:
        log_components = self._log_components(value)
        log_prob = (self.mixture_distribution.logits + log_components).logsumexp(-1)
        score = (self.mixture_distribution.logits + log_components.detach()).logsumexp(-1)
        return ScoreParts(log_prob, score, log_prob)

    def _log_components(self, value: Tensor) -> Tensor:
        """`log p_m(z)`, `[*, M]`; z is repeated M times, as networks within transforms do not broadcast."""
        event_dim = len(self.event_shape)
        each = value.unsqueeze(-1 - event_dim)
        shape = list(each.shape)
        shape[-1 - event_dim] = self.component_distribution.batch_shape[-1]
        return self.component_distribution.log_prob(each.expand(shape))
