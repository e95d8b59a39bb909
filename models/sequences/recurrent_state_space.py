"""The recurrent state space model: latents in time, and a deterministic state that remembers them all."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any, ClassVar, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Size as Shape, Tensor, nn

from ppvae.arguments import Few, Levels, Natural, Size, checked
from ppvae.models.named_likelihoods import LIKELIHOODS
from ppvae.models.parts.conditionals import DiagonalNormal
from ppvae.models.parts.joining import joined
from ppvae.models.parts.recurrence import GRUStep
from ppvae.models.sequences.actions import action_at, refuse_actions
from ppvae.models.sequences.state_space import present_steps, repeated_past_the_end, where_present
from ppvae.networks import mlp
from ppvae.pair import Pair
from ppvae.steps import Steps


class RecurrentStateSpace(Pair):
    """`h_t = f(h_{t-1}, z_{t-1}, a_{t-1})`, `z_t ~ p(z_t | h_t)`, `x_t ~ p(x_t | h_t, z_t)`; guide `q(z_t | h_t, x_t)`.

    Two paths run in time: h, of a recurrent network, a GRU, remembers without noise; the z_t are drawn. The guide runs
    the model's own network on its own draws. It filters, and does not look ahead, so that it can be used while x
    arrives; it pays for that where later data say something of z_t. With one step that is a VAE.

    Takes `x`, `[B, T, F]`; `(x, lengths)`; or `(x, lengths, actions)` and a dict of these, with actions `[B, T, A]`:
    that of step t is taken after x_t. Lengths are as in `StateSpace`. To go on by hand, `state(h, z)` joins both paths,
    and `advance(state, action)` returns the next h.

    Categorical latents have no reparameterized gradient: train with `ppvae.GumbelSoftmaxELBO()`, which is straight
    through, as DreamerV2 is without Gumbel noise, or with `ppvae.ELBO(num_particles=2)`.

    Source: Hafner et al. 2019 (arXiv:1811.04551); categorical latents: Hafner et al. 2021 (arXiv:2010.02193).

    Args:
        num_features: F, size of x_t.
        num_latents: D: Gaussian numbers in z_t, or categorical ones.
        num_actions: A, size of a_t; 0 for none.
        num_classes: C, values of each categorical latent, one-hot: z_t is `[D, C]` then. None for Gaussian latents.
        num_state: H, size of h_t.
        hidden: sizes of the hidden layers of prior, likelihood and posterior.
        likelihood: a name in `ppvae.models.named_likelihoods.LIKELIHOODS`.
        levels: number of gray levels, or of ordered categories, as in `VAE.mlp`.

    Attributes:
        path: `path(h, inputs)` returns the next h, given z and a side by side.
        first: h_1, learned.
        prior: `prior(h)` returns p(z_t | h_t).
        likelihood: `likelihood(state)` returns p(x_t | h_t, z_t), given h and z side by side.
        posterior: `posterior(hx)` returns q(z_t | h_t, x_t), given h and x side by side.

    Raises:
        ValueError: a likelihood of another name; when called, actions of another shape.

    Example:
        >>> pair = RecurrentStateSpace(num_features=3, num_latents=2, num_actions=1)
        >>> batch = {"x": torch.zeros(4, 6, 3), "lengths": torch.tensor([6, 2, 5, 6]), "actions": torch.zeros(4, 6, 1)}
        >>> pair.log_weights(batch, num_particles=10).log_w.shape
        torch.Size([10, 4])
    """

    @checked
    def __init__(
        self,
        num_features: Size,
        num_latents: Few,
        num_actions: Natural = 0,
        num_classes: Levels | None = None,
        num_state: Size = 64,
        hidden: Sequence[Size] = (64,),
        likelihood: str = "gaussian",
        levels: Levels = 256,
    ):
        super().__init__()
        self.num_actions = num_actions
        self.latent_shape = (num_latents,) if num_classes is None else (num_latents, num_classes)
        size = prod(self.latent_shape)

        def latents(num_in: int) -> nn.Module:
            if num_classes is None:
                return DiagonalNormal(mlp(num_in, hidden, 2 * num_latents, nn.ReLU))
            return OneHots(mlp(num_in, hidden, size, nn.ReLU), num_classes)

        def decoder(num_outputs: int) -> nn.Module:
            return mlp(num_state + size, hidden, num_outputs, nn.ReLU)

        self.path: nn.Module = GRUStep(size + num_actions, num_state)
        self.first = nn.Parameter(torch.zeros(num_state))
        self.prior = latents(num_state)
        self.likelihood: nn.Module = LIKELIHOODS[likelihood].of(decoder, (num_features,), levels)
        self.posterior = latents(num_state + num_features)
        x = torch.zeros(1, 10, num_features)
        self.example = (x, None, torch.zeros(1, 10, num_actions)) if num_actions else x

    def state(self, h: Tensor, z: Tensor) -> Tensor:
        """Both paths side by side, `[*, H + D]`."""
        return joined(h, z.flatten(-len(self.latent_shape)))

    def advance(self, state: Tensor, action: Tensor | None = None) -> Tensor:
        """The next h, `[*, H]`, after a state, `[*, H + D]`, and the action taken in it, `[*, A]`."""
        h, z = state.tensor_split([len(self.first)], -1)
        return self.path(h, z if action is None else joined(z, action))

    def model(self, x: Tensor, lengths: Tensor | None = None, actions: Tensor | None = None) -> None:
        refuse_actions(x, actions, self.num_actions)
        present, h = present_steps(x, lengths), cast(Tensor, self.first)
        states: list[Tensor] = []
        with pyro.plate("data", x.shape[0], dim=-1):
            for t in range(x.shape[1]):
                with _in_step(present, t):
                    z = pyro.sample(f"z{t + 1}", self.prior(h))
                states.append(self.state(h, z))
                h = self.advance(states[-1], action_at(actions, t))
            fn = self.likelihood(torch.stack(states, -2))
            pyro.sample("x", (fn if present is None else fn.mask(present)).to_event(1), obs=x)

    def guide(self, x: Tensor, lengths: Tensor | None = None, actions: Tensor | None = None) -> None:
        refuse_actions(x, actions, self.num_actions)
        present, h = present_steps(x, lengths), cast(Tensor, self.first)
        x = repeated_past_the_end(x, present)
        with pyro.plate("data", x.shape[0], dim=-1):
            for t in range(x.shape[1]):
                with _in_step(present, t):
                    z = pyro.sample(f"z{t + 1}", self.posterior(joined(h, x[:, t])))
                h = self.advance(self.state(h, z), action_at(actions, t))

    def time_steps(self, x: Tensor, lengths: Tensor | None = None, actions: Tensor | None = None) -> Steps:
        """A chain of states: its step t draws z_t, and carries h_t along."""
        refuse_actions(x, actions, self.num_actions)
        present = present_steps(x, lengths)
        x = repeated_past_the_end(x, present)

        def h_at(t: int, state: Tensor | None) -> Tensor:
            return self.first.expand(len(x), -1) if state is None else self.advance(state, action_at(actions, t - 1))

        def prior(t: int, state: Tensor | None) -> Any:
            h = h_at(t, state)
            return WithState(h, where_present(self.prior(h), present, t))

        def guide(t: int, state: Tensor | None) -> Any:
            h = h_at(t, state)
            return WithState(h, where_present(self.posterior(joined(h, x[:, t])), present, t))

        def log_likelihood(t: int, state: Tensor) -> Tensor:
            return where_present(self.likelihood(state), present, t).log_prob(x[:, t])

        return Steps(x.shape[1], prior, guide, log_likelihood)


class OneHots(nn.Module):
    """D independent categoricals of C classes given h, one-hot: `[D, C]`.

    Args:
        network: `[*, H] -> [*, D C]`, the logits.
        num_classes: C.

    Example:
        >>> OneHots(nn.Linear(5, 6), num_classes=3)(torch.zeros(4, 5)).event_shape
        torch.Size([2, 3])
    """

    @checked
    def __init__(self, network: nn.Module, num_classes: Levels):
        super().__init__()
        self.network = network
        self.num_classes = num_classes

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        logits = self.network(h).unflatten(-1, (-1, self.num_classes))
        return dist.OneHotCategorical(logits=logits).to_event(1)


class WithState(dist.TorchDistribution):
    """A distribution of z, with what is known beside it: its draws are h and z side by side, `[*, H + D]`.

    Its density is that of z alone, so it is for distributions of the same h only.

    Args:
        h: `[*, H]`.
        fn: of z.
    """

    arg_constraints: ClassVar = {}

    def __init__(self, h: Tensor, fn: dist.TorchDistribution):
        self.h, self.fn = h, fn
        super().__init__(fn.batch_shape, Shape([h.shape[-1] + fn.event_shape.numel()]), validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        z = self.fn.sample(sample_shape)
        return joined(self.h, z.flatten(-len(self.fn.event_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        z = value[..., self.h.shape[-1] :]
        return self.fn.log_prob(z.reshape(*z.shape[:-1], *self.fn.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "WithState":
        return WithState(self.h, self.fn.expand(batch_shape))


def _in_step(present: Tensor | None, t: int) -> AbstractContextManager:
    """Masks the sites of step t; by a handler, as `GumbelSoftmaxELBO` looks for the distribution itself."""
    return nullcontext() if present is None else poutine.mask(mask=cast(torch.BoolTensor, present[:, t]))
