"""Likelihoods: modules whose forward takes z and returns the distribution p(x | z)."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.networks import mlp, output_bias


class Likelihood(nn.Module):
    """What a likelihood is: z in, p(x | z) out, and a start from the data."""

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """p(x | z) for z in `[*, D]`."""
        raise NotImplementedError

    def init_from(self, x: Tensor) -> None:
        """Starts at the data: output biases at the mean of x, a learnt scale at its spread."""
        raise NotImplementedError


class Bernoulli(Likelihood):
    """`p(x | z) = prod_i Bernoulli(x_i; sigmoid(f_i(z)))`, for binary data.

    Not for gray values between 0 and 1: binarise them (`datasets.load(..., binarize="dynamic")`), or use `Gaussian`.

    Args:
        network: `[*, D] -> [*, *event]`, the logits.
        event_dim: number of event dimensions of x; 3 for images `[C, H, W]`.

    Example:
        >>> Bernoulli(nn.Linear(2, 5))(torch.zeros(4, 2)).event_shape
        torch.Size([5])
    """

    def __init__(self, network: nn.Module, event_dim: int = 1):
        super().__init__()
        self.network = network
        self.event_dim = event_dim

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=self.network(z)).to_event(self.event_dim)

    def init_from(self, x: Tensor) -> None:
        """Sets the network's output bias to the logit of the data mean, clamped to [0.01, 0.99]."""
        bias = output_bias(self.network)
        bias.data.copy_(_mean_per_output(x, bias, self.event_dim).clamp(0.01, 0.99).logit())


class Gaussian(Likelihood):
    """`p(x | z) = N(x; mu(z), sigma^2 I)`, with sigma fixed, one learnt scalar, or a network sigma(z).

    A sigma(z) is unbounded below: with data of fewer dimensions than it pretends (saturated pixels) the density can
    grow without limit. `min_sigma` bounds it, and is part of the model.

    Source: Kingma & Welling 2014 (arXiv:1312.6114); learnt scalar: Rybkin et al. 2021 (arXiv:2006.13202).

    Args:
        network: `[*, D] -> [*, *event]`, the mean.
        sigma: a number (fixed), "learnt" (one scalar, starting at 1), or a module `[*, D] -> [*, *event]` whose
            softplus is added to `min_sigma`.
        min_sigma: least value of a sigma that is learnt, in the units of x.
        event_dim: number of event dimensions of x; 3 for images `[C, H, W]`.

    Raises:
        ValueError: a sigma that is not positive, or of another kind.

    Example:
        >>> Gaussian(nn.Linear(2, 5), sigma="learnt")(torch.zeros(4, 2)).event_shape
        torch.Size([5])
    """

    fixed_sigma: Tensor

    def __init__(
        self,
        network: nn.Module,
        sigma: float | str | nn.Module = "learnt",
        min_sigma: float = 1e-2,
        event_dim: int = 1,
    ):
        super().__init__()
        self.network = network
        self.min_sigma = min_sigma
        self.event_dim = event_dim
        self.sigma_network = sigma if isinstance(sigma, nn.Module) else None
        if sigma == "learnt":
            self.unconstrained_sigma = nn.Parameter(torch.tensor(1.0 - min_sigma).expm1().log())  # inverse softplus
        elif isinstance(sigma, float | int) and sigma > 0:
            self.register_buffer("fixed_sigma", torch.tensor(float(sigma)))
        elif self.sigma_network is None:
            raise ValueError(f"sigma: found {sigma!r}, expected a positive number, 'learnt' or a module of z")

    def sigma(self, z: Tensor) -> Tensor:
        """The standard deviation of x given z, in the units of x."""
        if self.sigma_network is not None:
            return self.min_sigma + softplus(self.sigma_network(z))
        if hasattr(self, "fixed_sigma"):
            return self.fixed_sigma
        return self.min_sigma + softplus(self.unconstrained_sigma)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.network(z), self.sigma(z)).to_event(self.event_dim)

    def init_from(self, x: Tensor) -> None:
        """Sets the mean network's output bias to the data mean, and a sigma that is learnt to the data's spread."""
        bias = output_bias(self.network)
        mean = _mean_per_output(x, bias, self.event_dim)
        bias.data.copy_(mean)
        self.start_sigma(x.to(bias).std(0).square().mean().sqrt())

    def start_sigma(self, sigma: Tensor) -> None:
        """Sets a sigma that is learnt to a number, in the units of x."""
        inverse_softplus = (sigma - self.min_sigma).clamp(min=self.min_sigma).expm1().log()
        if self.sigma_network is not None:
            output_bias(self.sigma_network).data.copy_(inverse_softplus)
        elif not hasattr(self, "fixed_sigma"):
            self.unconstrained_sigma.data.copy_(inverse_softplus)


def mlp_likelihood(
    name: str, num_latents: int, hidden: Sequence[int], num_features: int, activation: type[nn.Module] = nn.Tanh
) -> Likelihood:
    """The likelihood of that name, of multilayer perceptrons of z.

    Args:
        name: "bernoulli", "gaussian" (one learnt sigma) or "heteroscedastic" (sigma(z), a network of its own).
        num_latents: size of z.
        hidden: sizes of the hidden layers.
        num_features: size of x.
        activation: of the hidden layers.

    Raises:
        ValueError: a likelihood of another name.
    """

    def network() -> nn.Module:
        return mlp(num_latents, hidden, num_features, activation)

    if name == "bernoulli":
        return Bernoulli(network())
    if name == "gaussian":
        return Gaussian(network())
    if name == "heteroscedastic":
        return Gaussian(network(), sigma=network())
    raise ValueError(f"likelihood: found {name!r}, expected 'bernoulli', 'gaussian' or 'heteroscedastic'")


def _mean_per_output(x: Tensor, bias: Tensor, event_dim: int) -> Tensor:
    """The data mean for each output unit: per feature, or per channel of images."""
    mean = x.to(bias).mean(0)
    return mean.flatten(1).mean(1) if event_dim == 3 else mean.flatten()
