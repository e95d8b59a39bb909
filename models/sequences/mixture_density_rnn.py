"""The MDN-RNN: a recurrent network that forecasts the next vector by a mixture of Gaussians, with a temperature."""

from math import sqrt
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Size as Shape, Tensor, nn
from torch.nn.functional import softplus

from ppvae.arguments import Few, Natural, Positive, RealTensor, Size, checked
from ppvae.models.parts.joining import joined
from ppvae.models.parts.recurrence import GRUStep
from ppvae.models.sequences.actions import action_at, refuse_actions
from ppvae.models.sequences.state_space import present_steps
from ppvae.pair import Pair


class MixtureDensityRNN(Pair):
    """`p(x) = prod_t p(x_t | h_t)`, a mixture of Gaussians, with `h_{t+1} = f(h_t, x_t, a_t)` by a recurrent network.

    There are no latents: the evidence is known, the guide is empty, the gap is zero, and the ELBO is log p(x) itself.
    Of encodings of frames it is the M of a world model: its evidence is then a density of encodings, not of frames.

    Takes `x`, `[B, T, F]`; `(x, lengths)`; or `(x, lengths, actions)` and a dict of these, with actions `[B, T, A]`:
    that of step t is taken after x_t. What lies past a row's length does not count. To go on by hand, `forecast(h)` is
    p(x_t | h_t), and `advance(h, x, action)` the next h.

    Source: Graves 2013 (arXiv:1308.0850); Ha & Schmidhuber 2018 (arXiv:1803.10122), who take a mixture for each
    feature; here one is for all, so that the features' modes go together.

    Args:
        num_features: F, size of x_t.
        num_actions: A, size of a_t; 0 for none.
        num_components: M; their means start apart, at random.
        num_state: H, size of h_t, of a GRU.

    Raises:
        ValueError: when called, actions of another shape.

    Example:
        >>> pair = MixtureDensityRNN(num_features=3, num_actions=1)
        >>> batch = {"x": torch.zeros(4, 6, 3), "actions": torch.zeros(4, 6, 1)}
        >>> pair.log_prob(batch).shape, pair.sample(batch).shape
        (torch.Size([4]), torch.Size([4, 6, 3]))
    """

    @checked
    def __init__(self, num_features: Size, num_actions: Natural = 0, num_components: Few = 5, num_state: Size = 64):
        super().__init__()
        self.num_actions = num_actions
        self.num_components = num_components
        self.path: nn.Module = GRUStep(num_features + num_actions, num_state)
        self.first = nn.Parameter(torch.zeros(num_state))
        self.head = nn.Linear(num_state, num_components * (1 + 2 * num_features))
        nn.init.normal_(self.head.bias[num_components : num_components * (1 + num_features)])
        x = torch.zeros(1, 10, num_features)
        self.example = (x, None, torch.zeros(1, 10, num_actions)) if num_actions else x

    @checked
    def forecast(self, h: RealTensor, temperature: Positive = 1.0) -> dist.TorchDistribution:
        """`p(x_t | h_t)`, batch shape `[*]` for h in `[*, H]`.

        Args:
            h: the state.
            temperature: tau; weights are proportional to `pi^(1 / tau)`, and variances are multiplied by tau. Below 1
                likely outcomes become likelier; above, the forecast is less sure than the model is.
        """
        M = self.num_components
        logits, rest = self.head(h).tensor_split([M], -1)
        loc, unconstrained = rest.unflatten(-1, (2, M, -1)).unbind(-3)
        components = dist.Normal(loc, sqrt(temperature) * softplus(unconstrained)).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits / temperature), components)

    def advance(self, h: Tensor, x: Tensor, action: Tensor | None = None) -> Tensor:
        """The next h, `[*, H]`, after x_t, `[*, F]`, and the action then taken, `[*, A]`."""
        return self.path(h, x if action is None else joined(x, action))

    def model(self, x: Tensor, lengths: Tensor | None = None, actions: Tensor | None = None) -> None:
        refuse_actions(x, actions, self.num_actions)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", Forecasts(self, x, lengths, actions), obs=x)

    def guide(self, x: Tensor, lengths: Tensor | None = None, actions: Tensor | None = None) -> None:
        """Nothing to infer: there are no latents."""


class Forecasts(dist.TorchDistribution):
    """`prod_t p(x_t | h_t)` of whole sequences; a draw takes a step for each datum, and needs no x.

    Args:
        pair: whose forecasts.
        like: `[B, T, F]`, for its shape.
        lengths: of the rows.
        actions: `[B, T, A]`.
    """

    arg_constraints: ClassVar = {}
    support = dist.constraints.independent(dist.constraints.real, 2)

    def __init__(self, pair: MixtureDensityRNN, like: Tensor, lengths: Tensor | None, actions: Tensor | None):
        self.pair, self.present, self.actions = pair, present_steps(like, lengths), actions
        super().__init__(like.shape[:1], like.shape[1:])

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        h: Tensor = self.pair.first
        states: list[Tensor] = []
        for t in range(self.event_shape[0]):
            states.append(h.expand(*value.shape[:-2], -1))
            h = self.pair.advance(h, value[..., t, :], action_at(self.actions, t))
        log_p = self.pair.forecast(torch.stack(states, -2)).log_prob(value)
        if self.present is not None:
            log_p = torch.where(self.present, log_p, 0.0)
        return log_p.sum(-1).expand(torch.broadcast_shapes(value.shape[:-2], self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        h, x = self.pair.first.expand(*self._extended_shape(sample_shape)[:-2], -1), []
        for t in range(self.event_shape[0]):
            x.append(self.pair.forecast(h).sample())
            h = self.pair.advance(h, x[-1], action_at(self.actions, t))
        return torch.stack(x, -2)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Forecasts":
        """The data are forecast once, however many particles there are."""
        result = type(self).__new__(type(self))
        result.pair, result.present, result.actions = self.pair, self.present, self.actions
        dist.TorchDistribution.__init__(result, Shape(batch_shape), self.event_shape)
        return result
