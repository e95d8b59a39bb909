"""Linear Gaussian modalities: a pair of which everything is known, whatever is missing."""

from collections.abc import Mapping
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ppvae.accepted import of_accepted
from ppvae.arguments import Size, checked
from ppvae.models.multimodal.missing import zero_where_missing
from ppvae.models.multimodal.multimodal_vae import MultimodalVAE
from ppvae.models.multimodal.named_fusions import FUSIONS
from ppvae.models.parts.likelihoods import Gaussian
from ppvae.models.parts.mixtures import Mixture
from ppvae.networks import inverse_softplus


class LinearModalities(MultimodalVAE):
    """`z ~ N(0, I)`, `x_m | z ~ N(W_m z + mean_m, s_m^2 I)`: a linear VAE for each modality, with one z.

    Given the modalities S, the posterior has the precision `P_S = I + sum_{m in S} W_m' W_m / s_m^2` and the mean
    `P_S^-1 h_S`, with `h_S = sum_{m in S} W_m' (x_m - mean_m) / s_m^2`. So `log p(x_S) = sum_{m in S} log N(x_m;
    mean_m, s_m^2 I) + (h_S' P_S^-1 h_S - log det P_S) / 2`, and the gap of the best diagonal Gaussian is `(sum_j log
    P_jj - log det P) / 2`. A product of experts is exact where all `W_m' W_m` are diagonal; a mixture is not, where
    components differ.

    Source: Tipping & Bishop 1999 for one modality; Wu & Goodman 2018 (arXiv:1802.05335) for the product.

    Args:
        sizes: of each modality.
        num_latents: size of z.
        guide: "product", "mixture" or "mixture of products" of experts, linear in x; or "exact", computed from the
            model's parameters.

    Raises:
        ValueError: a guide of another name.

    Example:
        >>> pair = LinearModalities({"a": 3, "b": 4}, num_latents=2, guide="exact")
        >>> batch = pair.sample(5) | {"has": torch.tensor([[True, False]]).expand(5, 2)}
        >>> torch.allclose(pair.log_weights(batch).log_w[0], pair.log_prob(batch), atol=1e-4)
        True
    """

    @checked
    def __init__(
        self,
        sizes: Mapping[str, Size],
        num_latents: Size,
        guide: Literal["product", "mixture", "mixture of products", "exact"] = "product",
    ):
        def encoder(name: str, num_outputs: int) -> nn.Module:
            return nn.Linear(sizes[name], num_outputs)

        likelihoods = {name: Gaussian(nn.Linear(num_latents, size)) for name, size in sizes.items()}
        posterior = nn.Identity() if guide == "exact" else FUSIONS[guide].of(encoder, list(sizes), num_latents)
        super().__init__(num_latents, likelihoods, posterior)
        self.guide_family = guide

    def shared_posterior(self, x: Mapping[str, Tensor], has: Tensor) -> dist.TorchDistribution:
        return self._given(x, has) if self.guide_family == "exact" else super().shared_posterior(x, has)

    @torch.no_grad()
    def fit_guide(self) -> "LinearModalities":
        """Sets each expert to its likelihood of z, less the correlations: precision `diag(W'W) / s^2`; returns self."""
        if self.guide_family == "exact":
            return self
        posterior: Any = self.posterior
        for name, expert in posterior.experts.items():
            weight, mean, precision = self._parts(name)
            diagonal = weight.square().sum(0)
            network, D = expert.network, weight.shape[1]
            network.weight.zero_()
            network.weight[:D] = weight.T / diagonal.unsqueeze(-1)
            network.bias[:D] = -network.weight[:D] @ mean
            network.bias[D:] = inverse_softplus((diagonal * precision).rsqrt())
        return self

    # What is known exactly.

    @of_accepted
    def log_prob(self, batch: Any) -> Tensor:
        """Exact `log p(x_S)` of what each row has, `[B]`, in nats."""
        x, has = self._seen(batch)
        linear, precision = self._linear(x, has), self._precision(has)
        explained = (linear * torch.linalg.solve(precision, linear)).sum(-1) - torch.logdet(precision)
        at_zero = torch.zeros_like(linear)
        noise = [likelihood(at_zero).log_prob(x[name]) for name, likelihood in self.likelihoods.items()]
        return (has * torch.stack(noise, -1)).sum(-1) + explained / 2

    @of_accepted
    def true_posterior(self, batch: Any) -> dist.MultivariateNormal:
        """Exact `p(z | x_S)`, batch shape `[B]`."""
        return self._given(*self._seen(batch))

    @of_accepted
    def exact_gap(self, batch: Any) -> Tensor:
        """Exact `KL(q(z | x_S) || p(z | x_S))` of the guide as it is, `[B]`, in nats.

        Raises:
            NotImplementedError: the guide is a mixture, whose divergence has no closed form.
        """
        x, has = self._seen(batch)
        q = self.shared_posterior(x, has)
        if isinstance(q, Mixture):
            raise NotImplementedError(f"{type(self).__name__}.exact_gap: found a mixture as guide; use ppvae.gap")
        if isinstance(q, dist.Independent):
            q = dist.MultivariateNormal(q.mean, scale_tril=q.stddev.diag_embed())
        return kl_divergence(q, self._given(x, has))

    @of_accepted
    def exact_elbo(self, batch: Any) -> Tensor:
        """Exact `log p(x_S) - KL(q(z | x_S) || p(z | x_S))`, `[B]`, in nats; refused as `exact_gap` is."""
        return self.log_prob(batch) - self.exact_gap(batch)

    @checked
    def factorized_gap(self, has: Tensor) -> Tensor:
        """`(sum_j log P_jj - log det P) / 2` of rows that have these modalities, bool `[B, M]`: `[B]`, in nats."""
        precision = self._precision(has)
        return (precision.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.logdet(precision)) / 2

    def _seen(self, batch: Any) -> tuple[dict[str, Tensor], Tensor]:
        """What each row has, and zeros, of which any square is finite, for what is missing."""
        x, has = self.split(batch)
        there = dict(zip(self.modalities, has.unbind(-1), strict=True))
        return {name: zero_where_missing(x[name], there[name]) for name in there}, has

    def _given(self, x: Mapping[str, Tensor], has: Tensor) -> dist.MultivariateNormal:
        precision = self._precision(has)
        loc = torch.linalg.solve(precision, self._linear(x, has))
        return dist.MultivariateNormal(loc, precision_matrix=precision)

    def _linear(self, x: Mapping[str, Tensor], has: Tensor) -> Tensor:
        """h of each row, `[B, D]`."""
        each = []
        for name in self.likelihoods:
            weight, mean, precision = self._parts(name)
            each.append((x[name] - mean) @ weight * precision)
        return (has.unsqueeze(-1) * torch.stack(each, -2)).sum(-2)

    def _precision(self, has: Tensor) -> Tensor:
        """P of each row, `[B, D, D]`."""
        weights = [self._parts(name) for name in self.likelihoods]
        each = torch.stack([weight.T @ weight * precision for weight, _, precision in weights])
        identity = torch.eye(each.shape[-1], dtype=each.dtype, device=each.device)
        return identity + torch.einsum("bm,mij->bij", has.to(each), each)

    def _parts(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """W, the mean and `1 / s^2` of a modality."""
        likelihood: Any = self.likelihoods[name]
        network = likelihood.network
        return network.weight, network.bias, likelihood.sigma(network.bias) ** -2
