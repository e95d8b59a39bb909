"""Generative adversarial networks: a pair without a density, and its adversary."""

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppvae.arguments import Size, checked
from ppvae.conversion import data_for, to_pair
from ppvae.mode import mode
from ppvae.models.adversarial.implicit import NO_DENSITY, Implicit
from ppvae.models.adversarial.spectral_linear import SpectralLinear
from ppvae.networks import mlp
from ppvae.pair import Pair
from ppvae.recipes import remembered


class GAN(Pair):
    """`x = G(z)`, `z ~ N(0, I)`, trained against a critic that tells data from draws.

    Train it by `AdversarialLoss`, with rates of their own for generator and critic (`ParameterGroups`). It can be
    drawn from, and `ppvae.compare_samples` compares its draws. It has no density: all bounds, `log_evidence` and `gap`
    refuse it by name.

    Source: Goodfellow et al. 2014 (arXiv:1406.2661).

    Args:
        generator: G, `[*, D] -> [*, *event]`.
        critic: `[*, *event] -> [*, 1]`, a score: the logit of being data, or an unbounded one.
        num_latents: D.

    Example:
        >>> gan = GAN.mlp(num_features=5, num_latents=2)
        >>> gan.sample(3).shape
        torch.Size([3, 5])
    """

    evidence_undefined = NO_DENSITY

    @checked
    def __init__(self, generator: nn.Module, critic: nn.Module, num_latents: Size):
        super().__init__()
        self.generator, self.critic, self.num_latents = generator, critic, num_latents
        with mode(self, training=False), torch.no_grad():
            self.example = generator(self._noise(1)).clone()

    @classmethod
    @checked
    @remembered
    def mlp(
        cls,
        num_features: Size,
        num_latents: Size,
        hidden: Sequence[Size] = (64, 64),
        spectral: bool = False,
        activation: type[nn.Module] = nn.LeakyReLU,
    ) -> "GAN":
        """A GAN of multilayer perceptrons on vectors.

        Args:
            num_features: size of x.
            num_latents: size of z.
            hidden: sizes of the hidden layers of both networks.
            spectral: whether each layer of the critic is divided by its largest singular value.
            activation: of the hidden layers.
        """
        critic = mlp(num_features, hidden, 1, activation)
        if spectral:
            critic = nn.Sequential(*map(_spectral, _layers(critic)))
        return cls(mlp(num_latents, hidden, num_features, activation), critic, num_latents)

    def model(self, x: Tensor) -> None:
        event_shape = x.shape[1:]
        with pyro.plate("data", len(x)):
            pyro.sample("x", Implicit(self.generator, self.num_latents, event_shape, torch.Size(), self._like()), obs=x)

    def guide(self, x: Tensor) -> None:
        """Nothing to infer."""

    def generate(self, *shape: int) -> Tensor:
        """Draws with gradients, `[*shape, *event]`."""
        return self.generator(self._noise(*shape))

    def log_prob(self, x: Tensor) -> Tensor:
        """Refused: there is no density."""
        raise NotImplementedError(f"{type(self).__name__}.log_prob: {self.evidence_undefined}")

    @checked
    def check(self, batch: Any) -> None:
        """Refuses data of another shape than the generator's draws; there is no density to check."""
        self.check_once(batch)

    def check_once(self, batch: Any) -> None:
        """As `check`."""
        x = to_pair(data_for(self, batch), self)
        assert isinstance(self.example, Tensor)
        expected = list(self.example.shape[1:])
        if not isinstance(x, Tensor) or list(x.shape[1:]) != expected:
            found = f"shape {list(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise ValueError(
                f"data: found {found}, expected a tensor of shape [N, {', '.join(map(str, expected))}], as the "
                "generator draws; give each data point that shape"
            )
        if not x.is_floating_point():
            raise ValueError(
                f"data: found {x.dtype}, expected floating-point numbers, as the generator draws; pass x.float()"
            )

    def _noise(self, *shape: int) -> Tensor:
        like = self._like()
        return torch.randn(*shape, self.num_latents, dtype=like.dtype, device=like.device)

    def _like(self) -> Tensor:
        return next(self.generator.parameters(), torch.empty(0))


def _layers(network: nn.Module) -> list[nn.Module]:
    """Those of nested sequences, in order."""
    if not isinstance(network, nn.Sequential):
        return [network]
    return [layer for part in network for layer in _layers(part)]


def _spectral(layer: nn.Module) -> nn.Module:
    return SpectralLinear(layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else layer
