"""The linear Gaussian state space model: a sequence of which everything is known, by Kalman's recursions."""

import math
from typing import Any, Literal, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.accepted import of_accepted
from ppvae.arguments import Count, RealTensor, Rows, Size, checked
from ppvae.batches import call
from ppvae.models.sequences.state_space import StateSpace, present_steps
from ppvae.refusals import refuse_shape
from ppvae.steps import Conditional


class Backward(NamedTuple):
    """What the data from each step on say: `p(z_t | z_{t-1}, x) = N(G_t z_{t-1} + c_t, P_t^-1)`, and log p(x).

    Attributes:
        gains: the G_t, `[*, T, D, D]`; that of the first step is zero.
        offsets: the c_t, `[B, T, D]`.
        precisions: the P_t, `[*, T, D, D]`.
        log_prob: log p(x), `[B]`.
    """

    gains: Tensor
    offsets: Tensor
    precisions: Tensor
    log_prob: Tensor


class LinearGaussianStateSpace(StateSpace):
    """`z_1 ~ N(0, I)`, `z_t | z_{t-1} ~ N(A z_{t-1}, diag q^2)`, `x_t | z_t ~ N(W z_t + mean, s^2 I)`.

    One pass backwards in time, the information filter, gives log p(x) and all `p(z_t | z_{t-1}, x)`, whose product is
    the posterior; one pass forwards then gives the smoothed marginals. The posterior's precision P is block
    tridiagonal, with `P_tt = Q^-1 + A' Q^-1 A + W' W / s^2` away from the ends. The best guide whose scalars are
    independent given x has the smoothed means and the variances `1 / P_jj`, and the gap
    `(sum_j log P_jj - log det P) / 2`, the same for every x of one length. Use float64 where noise is far below signal.

    Source: Kalman 1960; Rauch, Tung & Striebel 1965; for the best independent Gaussian, Bishop 2006, 10.1.2.

    Args:
        num_features: F, size of x_t.
        num_latents: D, size of z_t.
        guide: "mean_field" (the best with independent scalars) or "exact"; both are computed from the model's
            parameters.

    Raises:
        ValueError: a guide of another name.

    Example:
        >>> pair = LinearGaussianStateSpace(num_features=3, num_latents=2, guide="exact")
        >>> x = torch.randn(4, 10, 3)
        >>> torch.allclose(pair.log_weights(x).log_w[0], pair.log_prob(x), atol=1e-4)
        True
    """

    @checked
    def __init__(self, num_features: Size, num_latents: Size, guide: Literal["mean_field", "exact"] = "mean_field"):
        super().__init__()
        self.guide_family = guide
        rotation = torch.linalg.qr(torch.randn(num_latents, num_latents)).Q
        self.dynamics = nn.Parameter((0.9 * rotation).contiguous())
        self.log_scales = nn.Parameter(torch.full((num_latents,), 0.5).log())
        self.weight = nn.Parameter(torch.randn(num_features, num_latents) / math.sqrt(num_latents))
        self.mean = nn.Parameter(torch.zeros(num_features))
        self.log_sigma = nn.Parameter(torch.zeros(()))
        self.example = torch.zeros(1, 10, num_features)

    def prior(self) -> dist.TorchDistribution:  # type: ignore[override]
        return dist.Normal(torch.zeros_like(self.log_scales), 1.0).to_event(1)

    def transition(self, z: Tensor) -> dist.TorchDistribution:  # type: ignore[override]
        return dist.Normal(z @ self.dynamics.T, self.log_scales.exp()).to_event(1)

    def likelihood(self, z: Tensor) -> dist.TorchDistribution:  # type: ignore[override]
        return dist.Normal(z @ self.weight.T + self.mean, self.log_sigma.exp()).to_event(1)

    @checked
    def posterior(self, x: Rows, lengths: RealTensor | None = None) -> Conditional:  # type: ignore[override]
        if self.guide_family == "exact":
            found = self._backward(x, lengths)

            def exact(t: int, z: Tensor | None) -> Any:
                loc = found.offsets[:, t]
                if z is not None:
                    loc = loc + (found.gains[:, t] @ z.unsqueeze(-1)).squeeze(-1)
                return dist.MultivariateNormal(loc, precision_matrix=found.precisions[:, t])

            return exact
        loc, scale = self._smooth(x, lengths)[0], self._diagonal(x, lengths).rsqrt()
        return lambda t, z: dist.Normal(loc[:, t], scale[:, t]).to_event(1)

    # What is known exactly.

    @of_accepted
    def log_prob(self, batch: Any) -> Tensor:
        """Exact `log p(x)`, `[B]`, in nats."""
        return call(self._backward, batch).log_prob

    @of_accepted
    def smoothed(self, batch: Any) -> dist.MultivariateNormal:
        """Exact `p(z_t | x)`, batch shape `[B, T]`; past a row's length, its forecast."""
        loc, covariance = call(self._smooth, batch)
        return dist.MultivariateNormal(loc, covariance)

    @of_accepted
    def exact_elbo(self, batch: Any) -> Tensor:
        """Exact `log p(x) - KL(q(z | x) || p(z | x))`, `[B]`, in nats."""
        return self.log_prob(batch) - self.exact_gap(batch)

    @of_accepted
    def exact_gap(self, batch: Any) -> Tensor:
        """Exact `KL(q(z | x) || p(z | x))` of the guide as it is, `[B]`, in nats."""
        gap = call(self._factorized_gap, batch)
        return torch.zeros_like(gap) if self.guide_family == "exact" else gap

    @checked
    def factorized_gap(self, num_steps: Count) -> Tensor:
        """`(sum_j log P_jj - log det P) / 2`: the gap of the best independent guide for T steps, in nats."""
        return self._factorized_gap(self.mean.new_zeros(1, num_steps, len(self.mean)))[0]

    def _factorized_gap(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        found, present = self._backward(x, lengths), _present(x, lengths)
        by_step = self._diagonal(x, lengths).log().sum(-1) - torch.logdet(found.precisions)
        return (present * by_step).sum(-1).expand(len(x)) / 2

    def _diagonal(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """The diagonal of the posterior's precision, `[*, T, D]`; past a row's length, the prior's given the past."""
        present = _present(x, lengths).unsqueeze(-1)
        noise = (-2 * self.log_scales).exp().expand(x.shape[1], -1)
        noise = torch.cat([torch.ones_like(noise[:1]), noise[1:]])
        from_next = (self.dynamics.square() * noise[-1:].T if x.shape[1] > 1 else self.dynamics * 0).sum(0)
        followed = torch.cat([present[:, 1:], torch.zeros_like(present[:, :1])], 1)
        seen = self.weight.square().sum(0) * (-2 * self.log_sigma).exp()
        return noise + followed * from_next + present * seen

    def _backward(self, x: Tensor, lengths: Tensor | None = None) -> Backward:
        """The information filter, from the last step to the first."""
        if x.dim() != 3:
            raise ValueError(f"x: found shape {list(x.shape)}, expected [N, T, {len(self.mean)}], sequences of vectors")
        refuse_shape(x, self.mean.shape)
        present = _present(x, lengths)
        x = torch.where(present.unsqueeze(-1) > 0, x, 0.0)  # the square of what a row is padded with may overflow
        precision = (-2 * self.log_sigma).exp()
        seen = self.weight.T @ self.weight * precision
        along = (x - self.mean) @ self.weight * precision
        noise = dist.Normal(self.mean, self.log_sigma.exp()).to_event(1).log_prob(x)
        scaled = (-2 * self.log_scales).exp().unsqueeze(-1) * self.dynamics  # Q^-1 A
        information, linear, log_prob = torch.zeros_like(seen), torch.zeros_like(along[:, 0]), x.new_zeros(len(x))
        gains, offsets, precisions = [], [], []
        for t in reversed(range(x.shape[1])):
            now = present[:, t]
            information = information + now[:, None, None] * seen
            linear, log_prob = linear + now[:, None] * along[:, t], log_prob + now * noise[:, t]
            log_scales = self.log_scales if t else torch.zeros_like(self.log_scales)
            posterior = information + (-2 * log_scales).exp().diag()
            tril = torch.linalg.cholesky(posterior)
            offset = torch.cholesky_solve(linear.unsqueeze(-1), tril).squeeze(-1)
            gain = torch.cholesky_solve((scaled if t else torch.zeros_like(scaled)).expand_as(tril), tril)
            log_det = 2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            log_prob = log_prob + (linear * offset).sum(-1) / 2 - log_det / 2 - log_scales.sum()
            gains.append(gain)
            offsets.append(offset)
            precisions.append(posterior)
            information = scaled.T @ (self.dynamics - gain)
            information = (information + information.mT) / 2
            linear = (gain.mT @ linear.unsqueeze(-1)).squeeze(-1)
        by_step = [torch.stack(found[::-1], 1) for found in (gains, offsets, precisions)]
        return Backward(by_step[0], by_step[1], by_step[2], log_prob)

    def _smooth(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Means `[B, T, D]` and covariances `[*, T, D, D]` of p(z_t | x), from the first step to the last."""
        found = self._backward(x, lengths)
        covariances = torch.linalg.inv(found.precisions)
        loc, covariance = torch.zeros_like(found.offsets[:, 0]), torch.zeros_like(covariances[:, 0])
        path = []
        for t in range(x.shape[1]):
            gain = found.gains[:, t]
            loc = (gain @ loc.unsqueeze(-1)).squeeze(-1) + found.offsets[:, t]
            covariance = gain @ covariance @ gain.mT + covariances[:, t]
            path.append((loc, covariance))
        locs, spreads = zip(*path, strict=True)
        return torch.stack(locs, 1), torch.stack(spreads, 1)


def _present(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Which steps are there, ones and zeros: `[B, T]`, or `[1, T]` where all are."""
    present = present_steps(x, lengths)
    return x.new_ones(1, x.shape[1]) if present is None else present.to(x)
