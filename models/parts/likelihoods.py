"""Likelihoods: modules whose forward takes z and returns the distribution p(x | z)."""

from typing import Annotated, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.arguments import Levels, Natural, Observed, Positive, RealTensor, Size, Sizes, Spread, checked
from ppvae.models.parts.gray_levels import (
    DiscretizedLogisticMixture,
    GrayCategorical,
    GrayLevels,
    parameters_per_component,
)
from ppvae.models.parts.likelihood import Likelihood
from ppvae.networks import output_bias
from ppvae.rules import Number

MinSigma = Annotated[float, Number(at_least=0, below=1)]
"""A learned sigma starts at 1."""


class Bernoulli(Likelihood):
    """`p(x | z) = prod_i Bernoulli(x_i; sigmoid(f_i(z)))`, for binary data.

    Not for gray values between 0 and 1: binarize them (`datasets.load(..., binarize="dynamic")`), or use `Gaussian`.

    Args:
        network: `[*, D] -> [*, *event]`, the logits.
        event_dim: number of event dimensions of x; 3 for images `[C, H, W]`.

    Example:
        >>> Bernoulli(nn.Linear(2, 5))(torch.zeros(4, 2)).event_shape
        torch.Size([5])
    """

    @checked
    def __init__(self, network: nn.Module, event_dim: Natural = 1):
        super().__init__()
        self.network = network
        self.event_dim = event_dim

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=self.network(z)).to_event(self.event_dim)

    @checked
    def init_from(self, x: Observed) -> None:
        """Sets the network's output bias to the logit of the data mean, clamped to [0.01, 0.99]."""
        bias = output_bias(self.network)
        bias.data.copy_(mean_per_output(x, bias, self.event_dim).clamp(0.01, 0.99).logit())


class Gaussian(Likelihood):
    """`p(x | z) = N(x; mu(z), sigma^2 I)`, with sigma fixed, one learned scalar, or a network sigma(z).

    Where data lie in a subspace (saturated pixels), a sigma without a lower bound lets the density grow without limit.
    `min_sigma` is that bound, and part of the model.

    Source: Kingma & Welling 2014 (arXiv:1312.6114); learned scalar: Rybkin et al. 2021 (arXiv:2006.13202).

    Args:
        network: `[*, D] -> [*, *event]`, the mean.
        sigma: a number (fixed), "learned" (one scalar, starting at 1), or a module `[*, D] -> [*, *event]` whose
            softplus is added to `min_sigma`.
        min_sigma: lower bound of a learned sigma, in the units of x, below 1.
        event_dim: number of event dimensions of x; 3 for images `[C, H, W]`.

    Raises:
        ValueError: a sigma that is not positive, or a `min_sigma` of one or more.

    Example:
        >>> Gaussian(nn.Linear(2, 5), sigma="learned")(torch.zeros(4, 2)).event_shape
        torch.Size([5])
    """

    fixed_sigma: Tensor

    @checked
    def __init__(
        self,
        network: nn.Module,
        sigma: Positive | Literal["learned"] | nn.Module = "learned",
        min_sigma: MinSigma = 1e-2,
        event_dim: Natural = 1,
    ):
        super().__init__()
        self.network = network
        self.min_sigma = min_sigma
        self.event_dim = event_dim
        self.sigma_network = sigma if isinstance(sigma, nn.Module) else None
        if sigma == "learned":
            self.unconstrained_sigma = nn.Parameter(torch.tensor(1.0 - min_sigma).expm1().log())  # inverse softplus
        elif not isinstance(sigma, nn.Module):
            self.register_buffer("fixed_sigma", torch.tensor(float(sigma)))

    def sigma(self, z: Tensor) -> Tensor:
        """The standard deviation of x given z, in the units of x."""
        if self.sigma_network is not None:
            return self.min_sigma + softplus(self.sigma_network(z))
        if hasattr(self, "fixed_sigma"):
            return self.fixed_sigma
        return self.min_sigma + softplus(self.unconstrained_sigma)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.network(z), self.sigma(z)).to_event(self.event_dim)

    @checked
    def init_from(self, x: Spread) -> None:
        """Sets the mean network's output bias to the data mean, and a learned sigma to the data's spread."""
        bias = output_bias(self.network)
        mean = mean_per_output(x, bias, self.event_dim)
        bias.data.copy_(mean)
        self.start_sigma(x.to(bias).std(0).square().mean().sqrt())

    @checked
    def start_sigma(self, sigma: RealTensor) -> None:
        """Sets a learned sigma to a value, in the units of x."""
        added = (sigma - self.min_sigma).clamp(min=self.min_sigma)
        unconstrained = torch.where(added > 20, added, added.expm1().log())  # its softplus is `added`
        if self.sigma_network is not None:
            output_bias(self.sigma_network).data.copy_(unconstrained)
        elif not hasattr(self, "fixed_sigma"):
            self.unconstrained_sigma.data.copy_(unconstrained)


class GrayLevelLikelihood(Likelihood):
    """A likelihood of gray levels, whose network has several outputs for each number of x.

    Args:
        network: `[*, D]` to the parameters.
        event_shape: of x: `(num_features,)` or `(C, H, W)`.
        levels: L; data are `k / (L - 1)`.
    """

    @checked
    def __init__(self, network: nn.Module, event_shape: Sizes, levels: Levels = 256):
        super().__init__()
        self.network = network
        self.event_shape = tuple(event_shape)
        self.levels = levels


class LogisticMixture(GrayLevelLikelihood):
    """Gray levels by discretized logistic mixtures, whose parameters a network computes from z; see
    `ppvae.models.parts.gray_levels.DiscretizedLogisticMixture`.

    A probability, not a density: its bits per dimension are those of the images themselves. Not for dequantized data.

    Source: Salimans et al. 2017 (arXiv:1701.05517).

    Args:
        network: `[*, D] -> [*, num_outputs]` for vectors, `[*, D] -> [*, num_outputs, H, W]` for images, with
            `num_outputs` as the method of that name returns it.
        event_shape: of x: `(num_features,)` or `(C, H, W)`.
        levels: L; data are `k / (L - 1)`.

    Example:
        >>> outputs = LogisticMixture.num_outputs((5,), num_components=3)
        >>> LogisticMixture(nn.Linear(2, outputs), (5,), levels=17)(torch.zeros(4, 2)).event_shape
        torch.Size([5])
    """

    @staticmethod
    @checked
    def num_outputs(event_shape: Sizes, num_components: Size) -> int:
        """The size of the network's output, for images the number of its channels."""
        if len(event_shape) == 1:
            return num_components * parameters_per_component(1) * event_shape[0]
        return num_components * parameters_per_component(event_shape[0])

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        parameters = self.network(z)
        if len(self.event_shape) == 1:
            parameters = parameters.unflatten(-1, (-1, *self.event_shape))
        return DiscretizedLogisticMixture(parameters, self.event_shape, self.levels)

    @checked
    def init_from(self, x: Spread) -> None:
        """Spreads components of equal weight over two standard deviations about the data mean of each output; channels
        start independent of one another."""
        bias = output_bias(self.network)
        values = 2 * per_output(x.to(bias), len(self.event_shape), self.event_shape[0]) - 1
        C = 1 if len(self.event_shape) == 1 else self.event_shape[0]
        std = values.std(0).clamp(min=1 / (self.levels - 1)).view(C, -1)
        parameters = bias.data.zero_().view(-1, std.shape[1])
        M = len(parameters) // parameters_per_component(C)
        loc, log_scale = (part.view(M, C, -1) for part in parameters[M : M + 2 * M * C].chunk(2))
        spread = torch.linspace(-1, 1, M).to(bias) if M > 1 else bias.new_zeros(1)
        loc.copy_(values.mean(0).view(C, -1) + spread.view(M, 1, 1) * std)
        log_scale.copy_((std / 2).log().expand_as(log_scale))


class Categorical(GrayLevelLikelihood):
    """Gray levels by a probability for each, the softmax of a network of z: L outputs for each number of x.

    It does not know that neighboring levels are similar: with many levels and few data, prefer `LogisticMixture`.

    Args:
        network: `[*, D] -> [*, L F]` for vectors of F features, `[*, D] -> [*, L C, H, W]` for images.
        event_shape: of x: `(F,)` or `(C, H, W)`.
        levels: L; data are `k / (L - 1)`.

    Example:
        >>> Categorical(nn.Linear(2, 17 * 5), (5,), levels=17)(torch.zeros(4, 2)).event_shape
        torch.Size([5])
    """

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        dim = -len(self.event_shape)
        logits = self.network(z).unflatten(dim, (self.levels, self.event_shape[0])).movedim(dim - 1, -1)
        return GrayCategorical(logits=logits).to_event(len(self.event_shape))

    @checked
    def init_from(self, x: Observed) -> None:
        """Sets the output bias to the log frequencies of the levels in the data, with one added to each count."""
        GrayLevels(self.levels).refuse_outside(x)
        bias, top = output_bias(self.network), self.levels - 1
        level = (per_output(x, len(self.event_shape), self.event_shape[0]) * top).round().long()
        num = level.shape[1]
        cell = level * num + torch.arange(num, device=level.device)
        count = torch.bincount(cell.flatten(), minlength=self.levels * num) + 1
        bias.data.copy_((count / (len(level) + self.levels)).log())


def mean_per_output(x: Tensor, bias: Tensor, event_dim: int) -> Tensor:
    """The data mean for each output unit: per feature, or per channel of images."""
    return per_output(x.to(bias), event_dim, len(bias)).mean(0)


def per_output(x: Tensor, event_dim: int, num: int) -> Tensor:
    """The data of each output unit: `[N, features]`, or, for images, `[N H W, C]`."""
    is_image = event_dim == 3
    if (x.dim() != 4 or x.shape[1] != num) if is_image else x[0].numel() != num:
        expected = f"[N, {num}, H, W]" if is_image else f"[N, {num}]"
        raise ValueError(f"x: found shape {list(x.shape)}, expected {expected}, as the network's output has it")
    return x.movedim(1, -1).flatten(end_dim=-2) if is_image else x.flatten(1)
