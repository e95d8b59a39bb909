"""The Gaussian mixture as a pair: its evidence and its posterior are known exactly."""

import math
from collections.abc import Callable, Collection
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions import transform_to

from ppvae.arguments import Finite, Positive, RealTensor, Size, checked
from ppvae.batches import of_batch
from ppvae.models.exact.gaussian_moments import (
    ComponentMoments,
    DenseGaussians,
    EStep,
    Gaussians,
    NarrowGaussians,
    e_step,
    log_joint,
    quickest_diagonal,
    square,
)
from ppvae.networks import mlp
from ppvae.pair import Pair

_PARAMETERS = ("weights", "means", "covariances")
_HIDDEN = 64


class GaussianMixture(Pair):
    """`c ~ Categorical(weights)`, `x | c ~ N(mean_c, covariance_c)`; the guide is q(c | x).

    `log p(x) = logsumexp_c [log weight_c + log N(x; mean_c, covariance_c)]`. The exact guide is
    `p(c | x) = weight_c N(x; mean_c, covariance_c) / p(x)`, so the gap is 0 for every x. A small component can collapse
    onto a data point, and the likelihood grow without bound: `ppvae.inference.fit_em` has a floor against it, SVI none.

    Source: Dempster, Laird & Rubin 1977; McLachlan & Peel 2000.

    Args:
        num_components: C.
        num_features: D.
        covariance: "full" (a matrix each), "diagonal" (a variance per feature each), "spherical" (one variance each)
            or "tied" (one matrix for all).
        guide: "exact" (computed from the model's parameters) or "amortized" (a network of one hidden layer; its gap is
            `exact_gap`).

    Attributes:
        logits: unnormalized log weights, `[C]`.
        means: `[C, D]`.
        raw_scale: unconstrained: logarithms of standard deviations, or a Cholesky factor with the diagonal's logarithm.

    Raises:
        ValueError: no components or features, or a covariance or guide of another name.

    Example:
        >>> mixture = GaussianMixture(num_components=2, num_features=1, covariance="spherical")
        >>> _ = mixture.assign(means=torch.tensor([[-1.0], [1.0]]))
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> mixture.responsibilities(x)
        tensor([[0.5000, 0.5000],
                [0.0180, 0.9820]], grad_fn=<ExpBackward0>)
        >>> torch.allclose(mixture.log_weights(x).log_w, mixture.log_prob(x))
        True
    """

    @checked
    def __init__(
        self,
        num_components: Size,
        num_features: Size,
        covariance: Literal["full", "diagonal", "spherical", "tied"] = "full",
        guide: Literal["exact", "amortized"] = "exact",
    ):
        super().__init__()
        C, D = num_components, num_features
        shapes = {"full": (C, D, D), "diagonal": (C, D), "spherical": (C,), "tied": (D, D)}
        self.covariance, self.guide_family = covariance, guide
        self.num_components, self.num_features = num_components, num_features
        self.logits = nn.Parameter(torch.zeros(C))
        self.means = nn.Parameter(torch.randn(C, D))
        self.raw_scale = nn.Parameter(torch.zeros(shapes[covariance]))
        if guide == "amortized":
            self.encoder = mlp(D, [_HIDDEN], C)
        self.example = torch.zeros(1, D)

    # The pair.

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            component = pyro.sample("component", dist.Categorical(logits=self.logits))
            pyro.sample("x", self._component(component), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("component", dist.Categorical(logits=self._log_guide(x)))

    def _component(self, component: Tensor) -> dist.TorchDistribution:
        """p(x | c) for a tensor of components of any shape."""
        loc, scale = self.means[component], self._scale if self.covariance == "tied" else self._scale[component]
        if self._is_dense:
            return dist.MultivariateNormal(loc, scale_tril=scale)
        return dist.Normal(loc, scale[..., None] if self.covariance == "spherical" else scale).to_event(1)

    def _log_guide(self, x: Tensor) -> Tensor:
        """`log q(c | x)`, `[B, C]`."""
        logits = self.encoder(x) if self.guide_family == "amortized" else self._log_joint(x)
        return logits.log_softmax(-1)

    # What is known exactly.

    @property
    def weights(self) -> Tensor:
        """`[C]`, positive, sum to 1."""
        return self.logits.softmax(0)

    @property
    def covariances(self) -> Tensor:
        """full `[C, D, D]`, diagonal `[C, D]`, spherical `[C]`, tied `[D, D]`; in squared units of x."""
        return self._scale @ self._scale.mT if self._is_dense else self._scale.square()

    @property
    def scale_tril(self) -> Tensor:
        """Cholesky factors of the covariances as matrices, `[C, D, D]`, whatever their type."""
        if self._is_dense:
            return self._scale.expand(self.num_components, -1, -1)
        scale = self._scale[:, None] if self.covariance == "spherical" else self._scale
        return torch.diag_embed(scale.expand(self.means.shape))

    @of_batch
    @checked
    def log_prob(self, x: RealTensor) -> Tensor:
        """Exact `log p(x)` of x `[B, D]`: `[B]`, in nats."""
        self._check(x)
        return self._log_joint(x).logsumexp(-1)

    @checked
    def responsibilities(self, x: RealTensor) -> Tensor:
        """Exact `p(c | x)` of x `[B, D]`: `[B, C]`."""
        self._check(x)
        return self._log_joint(x).log_softmax(-1).exp()

    @of_batch
    @checked
    def exact_gap(self, x: RealTensor) -> Tensor:
        """`log p(x) - ELBO = KL(q(c | x) || p(c | x))`, exactly: `[B]`, in nats; 0 with the exact guide."""
        self._check(x)
        log_q, log_posterior = self._log_guide(x), self._log_joint(x).log_softmax(-1)
        return (log_q.exp() * (log_q - log_posterior)).sum(-1)

    @property
    def num_parameters(self) -> int:
        """Free parameters of the model, without those of a guide: `C - 1 + C D` and those of the covariances."""
        C, D = self.means.shape
        free = {"full": C * D * (D + 1) // 2, "diagonal": C * D, "spherical": C, "tied": D * (D + 1) // 2}
        return C - 1 + C * D + free[self.covariance]

    @checked
    def bic(self, x: RealTensor) -> float:
        """Bayesian information criterion on x `[N, D]`, `-2 log p(x) + num_parameters log N`: lower is better."""
        return self._deviance(x) + self.num_parameters * math.log(len(x))

    @checked
    def aic(self, x: RealTensor) -> float:
        """Akaike information criterion on x `[N, D]`, `-2 log p(x) + 2 num_parameters`: lower is better."""
        return self._deviance(x) + 2 * self.num_parameters

    @torch.no_grad()
    def _deviance(self, x: Tensor) -> float:
        return -2 * self.log_prob(x).double().sum().item()

    # Parameters in their natural units.

    @checked
    @torch.no_grad()
    def assign(
        self, *, weights: Finite | None = None, means: Finite | None = None, covariances: Finite | None = None
    ) -> "GaussianMixture":
        """Sets the parameters that are given, in the shapes in which the properties return them; returns self.

        Raises:
            ValueError: another shape, weights that are negative, or covariances that are not positive definite.

        Example:
            >>> mixture = GaussianMixture(2, 3, covariance="tied").assign(covariances=4 * torch.eye(3))
            >>> mixture.scale_tril[0, 0, 0].item()
            2.0
        """
        given = {"weights": weights, "means": means, "covariances": covariances}
        for name, value in given.items():
            if value is not None and value.shape != getattr(self, name).shape:
                found, expected = list(value.shape), list(getattr(self, name).shape)
                raise ValueError(f"{name}: found shape {found}, expected {expected} for covariance={self.covariance!r}")
        if weights is not None:
            if (weights < 0).any() or not weights.sum() > 0:
                raise ValueError(f"weights: found {weights.tolist()}, expected none negative and a positive sum")
            self.logits.copy_((weights / weights.sum()).clamp_min(torch.finfo(self.logits.dtype).tiny).log())
        if means is not None:
            self.means.copy_(means)
        if covariances is not None:
            self.raw_scale.copy_(transform_to(self._constraint).inv(self._cholesky(covariances.double())))
        return self

    def _cholesky(self, covariances: Tensor) -> Tensor:
        if self._is_dense:
            tril, failed = torch.linalg.cholesky_ex(covariances)
        else:
            tril, failed = covariances.sqrt(), ~(covariances > 0)
        if failed.any():
            raise ValueError(
                f"covariances: not positive definite at index {failed.nonzero()[0].tolist()}, expected all to be; "
                "raise covariance_floor, use fewer components, or remove features that never vary"
            )
        return tril

    # EM: the two halves of an iteration, for ppvae.inference.fit_em.

    @checked
    @torch.no_grad()
    def start(self, means: Finite, variance: Positive) -> None:
        """Sets the means `[C, D]`, with equal weights and the same spherical covariance for all."""
        shape = self.raw_scale.shape
        ones = torch.eye(shape[-1]).expand(shape) if self._is_dense else torch.ones(shape)
        self.assign(weights=torch.ones(self.num_components), means=means, covariances=variance * ones)

    @checked
    def e_step(self, x: RealTensor, *, hard: bool = False, data_weights: RealTensor | None = None) -> EStep:
        """Log likelihood and moments of x `[N, D]`, in one pass; memory does not grow with `N C D`.

        Args:
            x: finite data, of any dtype and on any device.
            hard: each data point counts for its most probable component only.
            data_weights: by which data points count in the moments, `[N]`.
        """
        self._check_shape(x)
        if data_weights is not None and data_weights.shape != x.shape[:1]:
            raise ValueError(
                f"data_weights: found shape {list(data_weights.shape)}, expected [{len(x)}], one for each row"
            )
        return e_step(self._gaussians(quickest_diagonal), self._log_weights(), x, hard, data_weights)

    @torch.no_grad()
    def m_step(
        self, moments: ComponentMoments, *, covariance_floor: float = 0.0, update: Collection[str] = _PARAMETERS
    ) -> float:
        """Sets the parameters named in `update` to their maximum likelihood under `moments`, with `covariance_floor`
        added to variances. A component that owns nothing keeps its covariance.

        Returns:
            A lower bound, by EM theory, on the rise of the mean log likelihood, in nats. Without a floor it is 0. With
            floor e, the M step maximizes the expected log likelihood less `e/2 sum_c weight_c tr(precision_c)`, so the
            likelihood may lose what this penalty gains: the bound is `e/2 sum_c weight_c (new - old trace)`.
        """
        before = self._gaussians().precision_trace()
        self.assign(
            weights=moments.weight if "weights" in update else None,
            means=moments.mean if "means" in update else None,
        )
        if "covariances" not in update:
            return 0.0
        self.assign(covariances=self._likeliest_covariances(moments, covariance_floor))
        return covariance_floor / 2 * (moments.weight * (self._gaussians().precision_trace() - before)).sum().item()

    def _likeliest_covariances(self, moments: ComponentMoments, floor: float) -> Tensor:
        about_means = moments.covariance + square(moments.mean - self.means, like=moments.covariance)
        if self.covariance == "tied":
            about_means = torch.tensordot(moments.weight, about_means, dims=1)
        if self._is_dense:
            found = about_means + floor * torch.eye(self.num_features).to(about_means)
        else:
            found = floor + (about_means.mean(1) if self.covariance == "spherical" else about_means)
        if self.covariance != "tied":
            idle = moments.weight == 0
            found[idle] = self.covariances[idle].to(found)
        return found

    # Inside.

    @property
    def _is_dense(self) -> bool:
        return self.covariance in ("full", "tied")

    @property
    def _constraint(self) -> constraints.Constraint:
        return constraints.lower_cholesky if self._is_dense else constraints.positive

    @property
    def _scale(self) -> Tensor:
        """Cholesky factors, full `[C, D, D]` or tied `[D, D]`, or standard deviations, `[C, D]` or `[C]`."""
        return transform_to(self._constraint)(self.raw_scale)

    def _gaussians(self, diagonal: Callable[[Tensor, Tensor], Gaussians] = NarrowGaussians) -> Gaussians:
        if self._is_dense:
            return DenseGaussians(self.means, self._scale)
        return diagonal(self.means, self._scale[:, None] if self.covariance == "spherical" else self._scale)

    def _log_weights(self) -> Tensor:
        return self.logits.double().log_softmax(0)

    def _log_joint(self, x: Tensor) -> Tensor:
        """`log p(x, c)`, `[B, C]`."""
        return log_joint(self._gaussians(), self._log_weights(), x).to(self.means.dtype)

    def _check(self, x: Tensor) -> None:
        self._check_shape(x)
        if x.dtype != self.means.dtype:
            raise TypeError(
                f"x: found dtype {x.dtype}, expected the mixture's {self.means.dtype}; convert with x.to(mixture.means)"
                " or mixture.double()"
            )
        bad = ~x.isfinite().all(1)
        if bad.any():
            raise ValueError(
                f"x: found a NaN or infinite value in row {int(bad.nonzero()[0])} ({int(bad.sum())} such rows), "
                "expected finite numbers; remove or impute those rows first"
            )

    def _check_shape(self, x: Tensor) -> None:
        if x.dim() != 2 or x.shape[1] != self.num_features or len(x) == 0:
            raise ValueError(
                f"x: found shape {list(x.shape)}, expected [N, {self.num_features}] with N >= 1; "
                "flatten each data point with x.flatten(1)"
            )
