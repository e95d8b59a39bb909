"""Probabilistic PCA as a pair: the linear VAE, where everything is known in closed form."""

import math
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.nn.functional import softplus

from ppvae.arguments import Observed, Size, checked
from ppvae.batches import of_batch
from ppvae.networks import inverse_softplus
from ppvae.pair import Pair
from ppvae.refusals import fitting, refuse_shape


class LinearVAE(Pair):
    """`z ~ N(0, I)`, `x | z ~ N(W z + mean, sigma^2 I)`, with a linear Gaussian guide `q(z | x)`.

    With `M = W'W + sigma^2 I`: `x ~ N(mean, W W' + sigma^2 I)` and `z | x ~ N(M^-1 W'(x - mean), sigma^2 M^-1)`. The
    best diagonal guide has the exact mean and variances `sigma^2 / M_jj`; its gap is the same for every x,
    `(sum_j log M_jj - log det M) / 2`. So estimators are tested on this pair.

    Source: Tipping & Bishop 1999; Lucas et al. 2019 (arXiv:1911.02469) for its ELBO.

    Args:
        num_features: size of x.
        num_latents: size of z.
        guide: "diagonal" or "full" (learned, linear in x), or "exact" (computed from the model's parameters).

    Raises:
        ValueError: a guide of another name, or more latents than features.

    Example:
        >>> pair = LinearVAE(num_features=5, num_latents=2, guide="exact")
        >>> x = torch.randn(4, 5)
        >>> torch.allclose(pair.log_weights(x).log_w[0], pair.log_prob(x), atol=1e-5)
        True
    """

    @checked
    def __init__(self, num_features: Size, num_latents: Size, guide: Literal["diagonal", "full", "exact"] = "diagonal"):
        super().__init__()
        if num_latents >= num_features:
            raise ValueError(f"num_latents: found {num_latents}, expected 1 to {num_features - 1}, below num_features")
        self.guide_family = guide
        self.weight = nn.Parameter(torch.randn(num_features, num_latents) / math.sqrt(num_latents))
        self.mean = nn.Parameter(torch.zeros(num_features))
        self.log_sigma = nn.Parameter(torch.zeros(()))
        if guide != "exact":
            self.encoder = nn.Linear(num_features, num_latents)
            self.posterior_scale = nn.Parameter(torch.zeros(num_latents))  # of the Cholesky factor's diagonal
        if guide == "full":
            self.posterior_tril = nn.Parameter(torch.zeros(num_latents, num_latents))
        self.example = torch.zeros(1, num_features)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(self.mean.new_zeros(self.weight.shape[1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T + self.mean, self.log_sigma.exp()).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", self._q(x))

    def _q(self, x: Tensor) -> dist.TorchDistribution:
        if self.guide_family == "exact":
            return self._posterior(x)
        loc, scale = self.encoder(x), softplus(self.posterior_scale)
        if self.guide_family == "diagonal":
            return dist.Normal(loc, scale).to_event(1)
        return dist.MultivariateNormal(loc, scale_tril=self.posterior_tril.tril(-1) + scale.diag())

    def marginal(self) -> dist.LowRankMultivariateNormal:
        """`p(x) = N(mean, W W' + sigma^2 I)`."""
        noise = (2 * self.log_sigma).exp().expand(self.mean.shape)
        return dist.LowRankMultivariateNormal(self.mean, self.weight, noise)

    @of_batch
    @checked
    def log_prob(self, x: Observed) -> Tensor:
        """Exact `log p(x)`, `[B]`, in nats."""
        return self.marginal().log_prob(fitting(x, self.mean.shape, self.mean.dtype))

    @checked
    def posterior(self, x: Observed) -> dist.MultivariateNormal:
        """Exact `p(z | x) = N(M^-1 W'(x - mean), sigma^2 M^-1)`."""
        return self._posterior(fitting(x, self.mean.shape, self.mean.dtype))

    def _posterior(self, x: Tensor) -> dist.MultivariateNormal:
        M = self._precision_times_variance()
        loc = torch.linalg.solve(M, (x - self.mean) @ self.weight, left=False)
        return dist.MultivariateNormal(loc, precision_matrix=M * (-2 * self.log_sigma).exp())

    @of_batch
    @checked
    def exact_elbo(self, x: Observed) -> Tensor:
        """Exact `log p(x) - KL(q(z | x) || p(z | x))`, `[B]`, in nats."""
        return self.log_prob(x) - self.exact_gap(x)

    @of_batch
    @checked
    def exact_gap(self, x: Observed) -> Tensor:
        """Exact `KL(q(z | x) || p(z | x))` of the guide as it is, `[B]`, in nats."""
        x = fitting(x, self.mean.shape, self.mean.dtype)
        q = self._q(x)
        if isinstance(q, dist.Independent):
            q = dist.MultivariateNormal(q.base_dist.loc, scale_tril=q.base_dist.scale.diag_embed())
        return kl_divergence(q, self.posterior(x))

    def factorized_gap(self) -> Tensor:
        """`(sum_j log M_jj - log det M) / 2`: the gap of the best diagonal guide, in nats, the same for every x."""
        M = self._precision_times_variance()
        return (M.diagonal().log().sum() - torch.logdet(M)) / 2

    def _precision_times_variance(self) -> Tensor:
        identity = torch.eye(self.weight.shape[1], dtype=self.weight.dtype, device=self.weight.device)
        return self.weight.T @ self.weight + (2 * self.log_sigma).exp() * identity

    @checked
    @torch.no_grad()
    def fit_closed_form(self, x: Observed) -> "LinearVAE":
        """Sets the model to its maximum likelihood on `x` and the guide to the best of its family; returns self.

        `W = U_k (Lambda_k - sigma^2 I)^(1/2)`, `sigma^2` the mean of the remaining eigenvalues of the covariance.

        Raises:
            ValueError: data of rank `num_latents` or less, which leave no variance for sigma but that of rounding.
        """
        refuse_shape(x, self.mean.shape)
        x = x.to(self.weight).flatten(end_dim=-2).double()
        num_features, num_latents = self.weight.shape
        values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
        variance = values[:-num_latents].mean()
        of_data = (torch.finfo(self.weight.dtype).eps * x.abs().max()).square()
        rounding = of_data + 10 * num_features * torch.finfo(x.dtype).eps * values[-1]
        if not variance > rounding:
            raise ValueError(
                f"x: found covariance of rank <= {num_latents}, expected variance left over for sigma; "
                "take fewer latents"
            )
        top = values[-num_latents:].flip(0)
        self.mean.copy_(x.mean(0))
        self.weight.copy_(vectors[:, -num_latents:].flip(1) * (top - variance).clamp(min=0).sqrt())
        self.log_sigma.copy_(variance.log() / 2)
        return self.fit_guide()

    @torch.no_grad()
    def fit_guide(self) -> "LinearVAE":
        """Sets a learned guide to the best of its family for the model as it is; returns self."""
        if self.guide_family == "exact":
            return self
        M, variance = self._precision_times_variance(), (2 * self.log_sigma).exp()
        self.encoder.weight.copy_(torch.linalg.solve(M, self.weight.T))
        self.encoder.bias.copy_(-self.encoder.weight @ self.mean)
        if self.guide_family == "diagonal":
            scale = (variance / M.diagonal()).sqrt()
        else:
            tril = torch.linalg.cholesky(variance * torch.linalg.inv(M))
            self.posterior_tril.copy_(tril.tril(-1))
            scale = tril.diagonal()
        self.posterior_scale.copy_(inverse_softplus(scale))
        return self
