"""The linear-Gaussian chain as a pair: a hierarchy where everything is known in closed form."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.nn.functional import pad, softplus

from ppvae.arguments import Observed, Size, checked
from ppvae.batches import of_batch
from ppvae.networks import inverse_softplus
from ppvae.pair import Pair
from ppvae.refusals import fitting


class LinearGaussianChain(Pair):
    """`z_L ~ N(0, I)`, `z_l | z_{l+1} ~ N(W_l z_{l+1}, s_l^2 I)`, `x | z_1 ~ N(W_0 z_1 + mean, s_0^2 I)`.

    The joint is one Gaussian: with T the matrix that takes `(x - mean, z_1, ..., z_L)` to each layer's noise, and S
    the diagonal matrix of the standard deviations, its precision is `P = T' S^-2 T`. So x is Gaussian, and `z | x` has
    the precision P_zz, which is block tridiagonal. The best guide whose scalars are independent given x has the exact
    mean and the variances `1 / P_jj`; its gap is the same for every x, `(sum_j log P_jj - log det P_zz) / 2`.
    Measurements of hierarchies are tested on this pair; with one layer it is `LinearVAE`. Where noise is a hundredth
    of its signal or less, covariances are nearly singular: use float64.

    Source: Rauch, Tung & Striebel 1965, whose smoother this is; for the best independent Gaussian, Bishop 2006, 10.1.2.

    Args:
        num_features: size of x.
        num_latents: sizes of z_1 ... z_L; sites "z1" ... "zL".
        guide: "independent" (all scalars given x; learned, linear in x), or "exact" (computed from the model's
            parameters, and drawn upwards, `p(z_1 | x) p(z_2 | z_1) ...`, as the posterior factorizes).

    Attributes:
        weights: W_0 ... W_{L-1}.
        log_sigmas: logarithms of s_0 ... s_{L-1}.

    Raises:
        ValueError: no layers, or a guide of another name.

    Example:
        >>> chain = LinearGaussianChain(num_features=4, num_latents=[3, 2], guide="exact")
        >>> x = chain.sample(5)
        >>> torch.allclose(chain.log_weights(x).log_w[0], chain.log_prob(x), atol=1e-4)
        True
    """

    @checked
    def __init__(
        self, num_features: Size, num_latents: Sequence[Size], guide: Literal["independent", "exact"] = "independent"
    ):
        super().__init__()
        if not num_latents:
            raise ValueError("num_latents: found no layers, expected the sizes of z_1 ... z_L, L >= 1")
        self.guide_family = guide
        self.sizes = [num_features, *num_latents]
        self.weights = nn.ParameterList(torch.randn(n, m) / math.sqrt(m) for n, m in pairwise(self.sizes))
        self.log_sigmas = nn.Parameter(torch.zeros(len(num_latents)))
        self.mean = nn.Parameter(torch.zeros(num_features))
        if guide == "independent":
            self.encoder = nn.Linear(num_features, sum(num_latents))
            self.posterior_scale = nn.Parameter(torch.zeros(sum(num_latents)))
        self.example = torch.zeros(1, num_features)

    def model(self, x: Tensor) -> None:
        sigmas = self.log_sigmas.exp()
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample(f"z{len(sigmas)}", dist.Normal(self.mean.new_zeros(self.sizes[-1]), 1.0).to_event(1))
            for layer in range(len(sigmas) - 1, 0, -1):
                z = pyro.sample(f"z{layer}", dist.Normal(z @ self.weights[layer].T, sigmas[layer]).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weights[0].T + self.mean, sigmas[0]).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            if self.guide_family == "exact":
                z = x - self.mean
                for layer, (gain, scale_tril) in enumerate(self.upwards(), start=1):
                    z = pyro.sample(f"z{layer}", dist.MultivariateNormal(z @ gain.T, scale_tril=scale_tril))
            else:
                locs, scales = (t.split(self.sizes[1:], -1) for t in (self.encoder(x), softplus(self.posterior_scale)))
                for layer, (loc, scale) in enumerate(zip(locs, scales, strict=True), start=1):
                    pyro.sample(f"z{layer}", dist.Normal(loc, scale).to_event(1))

    # What is known exactly.

    def joint(self) -> dist.MultivariateNormal:
        """The joint distribution of `(x, z_1, ..., z_L)`."""
        residuals, sigmas = self._residuals()
        loc = torch.cat([self.mean, self.mean.new_zeros(sum(self.sizes[1:]))])
        whitened = residuals / sigmas.unsqueeze(-1)
        return dist.MultivariateNormal(loc, precision_matrix=whitened.T @ whitened)

    def _residuals(self) -> tuple[Tensor, Tensor]:
        """The noise of x, z_1 ... z_L as a linear map of `(x - mean, z_1, ..., z_L)`, and its standard deviations."""
        size = sum(self.sizes)
        above = pad(torch.block_diag(*self.weights), (self.sizes[0], 0, 0, self.sizes[-1]))
        sigmas = [*self.log_sigmas.exp(), self.mean.new_ones(())]
        return (
            torch.eye(size, dtype=above.dtype, device=above.device) - above,
            torch.cat([sigma.expand(n) for sigma, n in zip(sigmas, self.sizes, strict=True)]),
        )

    def marginal(self) -> dist.MultivariateNormal:
        """`p(x)`."""
        num_features = self.sizes[0]
        return dist.MultivariateNormal(self.mean, self.joint().covariance_matrix[:num_features, :num_features])

    @of_batch
    @checked
    def log_prob(self, x: Observed) -> Tensor:
        """Exact `log p(x)`, `[B]`, in nats."""
        return self.marginal().log_prob(fitting(x, self.mean.shape, self.mean.dtype))

    @checked
    def posterior(self, x: Observed) -> dist.MultivariateNormal:
        """Exact `p(z_1, ..., z_L | x)`, with the layers concatenated in that order."""
        x = fitting(x, self.mean.shape, self.mean.dtype)
        gain, precision = self._smoother()
        return dist.MultivariateNormal((x - self.mean) @ gain.T, precision_matrix=precision)

    def _smoother(self) -> tuple[Tensor, Tensor]:
        """The posterior's mean as a linear map of `x - mean`, and its precision, `P_zz`."""
        of_x, of_z = self.joint().precision_matrix[self.sizes[0] :].tensor_split([self.sizes[0]], 1)
        return -torch.linalg.solve(of_z, of_x), of_z

    def upwards(self) -> list[tuple[Tensor, Tensor]]:
        """Exact `p(z_1 | x), p(z_2 | z_1) ...`: each a gain on what is below, and the covariance's Cholesky factor."""
        blocks = [rows.split(self.sizes, 1) for rows in self.joint().covariance_matrix.split(self.sizes)]
        found = []
        for below, layer in pairwise(range(len(self.sizes))):
            gain = torch.linalg.solve(blocks[below][below], blocks[below][layer]).T
            found.append((gain, torch.linalg.cholesky(blocks[layer][layer] - gain @ blocks[below][layer])))
        return found

    @checked
    def exact_elbo_terms(self, x: Observed) -> dict[str, Tensor]:
        """Exact terms of the ELBO, each `[B]`, in nats: for "x" `E_q log p(x | z_1)`, for "zl" `E_q log q(zl)/p(zl)`.

        In a layer's term, q and p are its conditionals: for the independent guide the term is an expected KL
        divergence; for the exact one, which runs upwards, it may be negative. The ELBO is the term of "x" less the
        others.
        """
        x = fitting(x, self.mean.shape, self.mean.dtype)
        q, (residuals, sigmas) = self._q(x), self._residuals()
        of_z = residuals[:, self.sizes[0] :]
        mean = torch.cat([x - self.mean, q.loc], -1) @ residuals.T
        squares = mean.square() + ((of_z @ q.covariance_matrix) * of_z).sum(-1)
        log_p = -(squares / sigmas.square() + math.log(2 * math.pi)) / 2 - sigmas.log()
        expected, *latent = (t.sum(-1) for t in log_p.split(self.sizes, -1))
        entropies = [(log_scale + (1 + math.log(2 * math.pi)) / 2).sum() for log_scale in self._log_scales()]
        kl = [-entropy - term for entropy, term in zip(entropies, latent, strict=True)]
        return {"x": expected} | {f"z{layer}": term for layer, term in enumerate(kl, start=1)}

    def _q(self, x: Tensor) -> dist.MultivariateNormal:
        """The guide as one Gaussian."""
        if self.guide_family == "exact":
            return self.posterior(x)
        return dist.MultivariateNormal(self.encoder(x), scale_tril=softplus(self.posterior_scale).diag())

    def _log_scales(self) -> Sequence[Tensor]:
        """Log diagonals of the Cholesky factors of the guide's conditional covariances."""
        if self.guide_family == "exact":
            return [scale_tril.diagonal().log() for _, scale_tril in self.upwards()]
        return softplus(self.posterior_scale).log().split(self.sizes[1:])

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
        return kl_divergence(self._q(x), self.posterior(x))

    def factorized_gap(self) -> Tensor:
        """`(sum_j log P_jj - log det P_zz) / 2`: the gap of the best independent guide, in nats, for every x."""
        _, precision = self._smoother()
        return (precision.diagonal().log().sum() - torch.logdet(precision)) / 2

    @torch.no_grad()
    def fit_guide(self) -> "LinearGaussianChain":
        """Sets a learned guide to the best of its family for the model as it is; returns self."""
        if self.guide_family == "exact":
            return self
        gain, precision = self._smoother()
        scale = precision.diagonal().rsqrt()
        self.encoder.weight.copy_(gain)
        self.encoder.bias.copy_(-gain @ self.mean)
        self.posterior_scale.copy_(inverse_softplus(scale))
        return self
