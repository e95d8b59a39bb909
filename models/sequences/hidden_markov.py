"""The hidden Markov model: discrete states in time, summed out exactly by the forward algorithm."""

from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.arguments import Observed, Size, checked
from ppvae.models.sequences.state_space import present_steps
from ppvae.pair import Pair
from ppvae.refusals import refuse_shape


class HiddenMarkov(Pair):
    """`c_0 ~ p(c_0)`, `c_t ~ p(c_t | c_{t-1})`, `x_t ~ p(x_t | c_t)`: states summed out, so the gap is zero.

    `log p(x)` is the forward algorithm's, `alpha_t(c) = p(x_t | c) sum_b p(c | b) alpha_{t-1}(b)`, as Pyro's
    `DiscreteHMM` computes it, in O(log T) parallel steps. The ELBO is log p(x) itself, so `ppvae.fit` maximizes the
    likelihood. As in Pyro, c_0 is the state before the first datum. Takes `x`, `[B, T, F]`, or a tuple `(x, lengths)`;
    what lies past a row's length is masked. Call `init_from` before training.

    Source: Rabiner 1989; in parallel: Särkkä & García-Fernández 2019 (arXiv:1905.13002).

    Args:
        num_states: S.
        num_features: F, size of x_t.
        likelihood: "gaussian" (independent features, mean and scale of each state) or "bernoulli".

    Raises:
        ValueError: a likelihood of another name.

    Example:
        >>> hmm = HiddenMarkov(num_states=3, num_features=2)
        >>> hmm.log_prob((torch.zeros(4, 6, 2), torch.tensor([6, 2, 5, 6]))).shape
        torch.Size([4])
    """

    @checked
    def __init__(self, num_states: Size, num_features: Size, likelihood: Literal["gaussian", "bernoulli"] = "gaussian"):
        super().__init__()
        self.likelihood = likelihood
        self.initial_logits = nn.Parameter(torch.zeros(num_states))
        self.transition_logits = nn.Parameter(torch.eye(num_states))
        self.outputs = nn.Parameter(torch.randn(num_states, num_features))
        if likelihood == "gaussian":
            self.log_scales = nn.Parameter(torch.zeros(num_states, num_features))
        self.example = torch.zeros(1, 10, num_features)

    def emission(self) -> dist.TorchDistribution:
        """`p(x_t | c_t)` of each state: batch shape `[S]`."""
        if self.likelihood == "bernoulli":
            return dist.Bernoulli(logits=self.outputs).to_event(1)
        return dist.Normal(self.outputs, self.log_scales.exp()).to_event(1)

    def model(self, x: Tensor, lengths: Tensor | None = None) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", self._sequence(x, lengths), obs=x)

    def guide(self, x: Tensor, lengths: Tensor | None = None) -> None:
        pass

    def _sequence(self, x: Tensor, lengths: Tensor | None) -> dist.DiscreteHMM:
        num_steps, present = x.shape[1], present_steps(x, lengths)
        emission = self.emission().expand((num_steps, len(self.outputs)))
        if present is not None:
            emission = emission.mask(present.unsqueeze(-1))
        return dist.DiscreteHMM(self.initial_logits, self.transition_logits, emission, duration=num_steps)

    @checked
    @torch.no_grad()
    def init_from(self, x: Observed, lengths: Tensor | None = None) -> "HiddenMarkov":
        """Initializes the states' means at random data points, `x_t` of `[N, T, F]` within their lengths; returns self.

        Raises:
            ValueError: points of another shape, fewer of them than states, or lengths that are not from 0 to T.
        """
        present = present_steps(x, lengths)
        points = (x.flatten(end_dim=-2) if present is None else x[present]).to(self.outputs)
        refuse_shape(points, self.outputs.shape[1:])
        if len(points) < len(self.outputs):
            raise ValueError(
                f"x: found {len(points)} data points, expected one or more for each of {len(self.outputs)} states"
            )
        means = points[torch.randperm(len(points))[: len(self.outputs)]]
        self.outputs.copy_(means if self.likelihood == "gaussian" else means.clamp(0.1, 0.9).logit())
        return self
