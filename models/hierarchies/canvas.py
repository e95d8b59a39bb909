"""What kinds of DRAW share: a canvas that is added to step by step, and a guide that runs the model's decoder."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.pair import Pair

State = tuple[Tensor, Tensor]


class CanvasPair(Pair):
    """`p(z_1) p(z_2 | z_1) ... p(x | canvas)`: each z_t moves a decoder's state and adds to a canvas of logits.

    The guide draws z_t from an encoder's state, which sees x, the canvas and the decoder's state.

    Attributes:
        num_steps: T.
        encoder, decoder: cells: what they are told, and their state, to the next one.
        posterior: forward(state of the encoder) returns q(z_t | x, z_1 ... z_{t-1}).
    """

    num_steps: int
    encoder: Any
    decoder: Any
    posterior: nn.Module

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            canvas, state = torch.zeros_like(x), self.decoder.start(x)
            for step in range(1, self.num_steps + 1):
                z = pyro.sample(f"z{step}", self.prior_given(state))
                canvas, state = self.written(canvas, state, z)
            pyro.sample("x", dist.Bernoulli(logits=canvas).to_event(3), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            canvas, state, seen = torch.zeros_like(x), self.decoder.start(x), self.encoder.start(x)
            for step in range(1, self.num_steps + 1):
                seen = self.encoder(self.seen(x, canvas, state[0]), seen)
                z = pyro.sample(f"z{step}", self.posterior(seen[0]))
                canvas, state = self.written(canvas, state, z)

    def prior_given(self, state: State) -> dist.TorchDistribution:
        """`p(z_t | z_1 ... z_{t-1})`, from the decoder's state."""
        raise NotImplementedError

    def seen(self, x: Tensor, canvas: Tensor, state: Tensor) -> Tensor:
        """What the encoder is told of x, of the canvas's error and of the decoder's state."""
        raise NotImplementedError

    def written(self, canvas: Tensor, state: State, z: Tensor) -> tuple[Tensor, State]:
        """The canvas and the decoder's state after z_t."""
        raise NotImplementedError
