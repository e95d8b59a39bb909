"""Denoising diffusion as a pair: a Markov hierarchy with a layer for each step, and a fixed guide."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ppvae.arguments import Size, Sizes, Spread, checked
from ppvae.models.diffusion.noise_schedules import NOISE_SCHEDULES
from ppvae.models.diffusion.noising import PARAMETERIZATIONS, less_noised, noise, noised, renewed
from ppvae.models.parts.likelihood import Likelihood
from ppvae.models.parts.likelihoods import Bernoulli, Gaussian
from ppvae.models.parts.registry import NamedPart, Registry
from ppvae.pair import Pair
from ppvae.refusals import refuse_shape
from ppvae.rules import OneOf

VARIANCES = ("posterior", "upper")


class DiffusionVAE(Pair):
    """`p(x_T) p(x_{T-1} | x_T) ... p(x_1 | x_2) p(x | x_1)`, with noise as its guide; sites "x1" ... "xT" and "x".

    The guide adds noise to the data, `q(x_t | x) = N(alpha_t x, sigma_t^2 I)`. It is drawn from the top: `q(x_T | x)`,
    then each `q(x_{t-1} | x_t, x)`. The model's transitions have the same means, with a network's estimate x^(x_t)
    in place of x, and fixed variances; `p(x_T) = N(0, I)`. So the terms of the ELBO,

        E log p(x | x_1) - sum_{t=2..T} E KL(q(x_{t-1} | x_t, x) || p(x_{t-1} | x_t)) - KL(q(x_T | x) || p(x_T)),

    have closed forms given x_t: with the variance "posterior" a step's KL is `(SNR_{t-1} - SNR_t) |x - x^|^2 / 2`.
    `ppvae.ELBO()` takes all of them, `ppvae.SingleTermELBO()` one for each data point, at a T-th of the cost.

    The guide learns nothing, so its amortization gap is undefined. The gap arises because the model's posterior is
    not this noise: it falls like 1/T where the model has learned a density. With the variance "posterior" it does so
    only if the schedule begins with some noise, as the learned one does. The others begin with none, and a gap remains
    for any T, as the first steps multiply the noise by the same factors however many there are.

    Data are standardized by two numbers, `loc` and `scale`, before noise is added: see `init_from`.

    Source: Sohl-Dickstein et al. 2015 (arXiv:1503.03585); Ho et al. 2020 (arXiv:2006.11239); Kingma et al. 2021
    (arXiv:2107.00630).

    Args:
        denoiser: forward(x_t, gamma_t), with shapes `[*, *shape]` and `[*]` (or broadcastable to it), such as
            `MLPDenoiser` or `UNet`.
        shape: of x.
        num_steps: T.
        likelihood: a name in `DECODERS`, "gaussian" (one learned sigma) or "bernoulli", or a module whose forward takes
            x^(x_1), in the units of x, and returns p(x | x_1).
        schedule: a name in `ppvae.models.diffusion.noise_schedules.NOISE_SCHEDULES`, "cosine", "linear" or "learned",
            or a module like those.
        parameterization: what the denoiser returns: "x", the data; "eps", the noise in x_t; or "v", a mixture of
            both that is well-scaled at each level.
        variance: of p(x_{t-1} | x_t): that of q(x_t | x_{t-1}), "upper", or of q(x_{t-1} | x_t, x), "posterior".

    Raises:
        ValueError: a likelihood, schedule, parameterization or variance of another name, or T < 1.

    Example:
        >>> from ppvae.models import MLPDenoiser
        >>> pair = DiffusionVAE(MLPDenoiser(5), shape=[5], num_steps=3)
        >>> sorted(pair.latents(pair.sample(4), num_particles=2))
        ['x1', 'x2', 'x3']
    """

    amortization_undefined = "the guide is the noising process, which is fixed: it learns nothing from the data"

    times: Tensor
    loc: Tensor
    scale: Tensor

    @checked
    def __init__(
        self,
        denoiser: nn.Module,
        shape: Sizes,
        num_steps: Size,
        likelihood: str | Likelihood = "gaussian",
        schedule: str | nn.Module = "cosine",
        parameterization: Annotated[str, OneOf(PARAMETERIZATIONS)] = "v",
        variance: Annotated[str, OneOf(VARIANCES)] = "upper",
    ):
        super().__init__()
        self.denoiser = denoiser
        self.shape = tuple(shape)
        self.num_steps = num_steps
        event_dim = len(self.shape)
        self.likelihood = DECODERS[likelihood].make(event_dim) if isinstance(likelihood, str) else likelihood
        self.schedule = NOISE_SCHEDULES[schedule].make() if isinstance(schedule, str) else schedule
        self.parameterization = parameterization
        self.variance = variance
        self.register_buffer("times", torch.arange(1, num_steps + 1) / num_steps, persistent=False)
        self.register_buffer("loc", torch.tensor(0.0))
        self.register_buffer("scale", torch.tensor(1.0))
        self.example = torch.zeros(1, *self.shape)

    @checked
    @torch.no_grad()
    def init_from(self, x: Spread) -> "DiffusionVAE":
        """Sets `loc` and `scale` to the mean and standard deviation of all entries of x; initializes a learned sigma.

        Raises:
            ValueError: data that are all the same.
        """
        refuse_shape(x, self.shape)
        x = x.to(self.loc)
        if (x == x.flatten()[0]).all():  # their standard deviation may be a rounding error
            raise ValueError("x: found data without any spread, expected values that differ, as they are divided by it")
        self.loc.copy_(x.mean())
        self.scale.copy_(x.std())
        if isinstance(self.likelihood, Gaussian):
            self.likelihood.start_sigma(self.scale * noise(self.levels()[0]))
        return self

    def levels(self) -> Tensor:
        """gamma_1 ... gamma_T, `[T]`."""
        return self.schedule(self.times)

    def model(self, x: Tensor) -> None:
        gamma = self.levels()
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample(f"x{self.num_steps}", self._event(self._prior()))
            for t in range(self.num_steps - 1, 0, -1):
                x_hat = self.denoised(z, gamma[t])
                z = pyro.sample(f"x{t}", self._event(self._transition(z, x_hat, gamma[t - 1], gamma[t])))
            pyro.sample("x", self.decoded(self.denoised(z, gamma[0])), obs=x)

    def guide(self, x: Tensor) -> None:
        gamma, data = self.levels(), self._standardized(x)
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample(f"x{self.num_steps}", self._event(noised(data, gamma[-1])))
            for t in range(self.num_steps - 1, 0, -1):
                z = pyro.sample(f"x{t}", self._event(less_noised(z, data, gamma[t - 1], gamma[t])))

    def denoised(self, x_t: Tensor, gamma: Tensor) -> Tensor:
        """x^(x_t), the model's estimate of the standardized data, `[*, *shape]`, at levels that broadcast to `[*]`."""
        to_x = PARAMETERIZATIONS[self.parameterization]
        return to_x(self.denoiser(x_t, gamma), x_t, self._per_event(gamma))

    def decoded(self, x_hat: Tensor) -> dist.TorchDistribution:
        """p(x | x_1), from the estimate x^(x_1)."""
        return self.likelihood(self.loc + self.scale * x_hat)

    @property
    def num_terms(self) -> int:
        """T, the number of ELBO terms that run the network."""
        return self.num_steps

    def elbo_term(self, x: Tensor, index: Tensor) -> Tensor:
        """One term of the ELBO for each data point, `[B]`, from one draw; in expectation, all terms sum to it.

        Term 0 is `log p(x | x_1)`, term i is minus the KL of "xi"; from each, a T-th of the KL of "xT" is
        subtracted. It draws x_{i+1} alone, from `q(x_{i+1} | x)`, and runs the network once.

        Args:
            x: `[B, *shape]`.
            index: `[B]`, 0 to T - 1.
        """
        gamma, data = self.levels(), self._standardized(x)
        before = torch.cat([gamma[:1] - 1, gamma[:-1]])  # any level for term 0, whose KL is not used
        gamma_s, gamma_t = self._per_event(before[index]), self._per_event(gamma[index])
        x_t = noised(data, gamma_t).rsample()
        x_hat = self.denoised(x_t, gamma[index])
        q, p = less_noised(x_t, data, gamma_s, gamma_t), self._transition(x_t, x_hat, gamma_s, gamma_t)
        term = torch.where(index == 0, self.decoded(x_hat).log_prob(x), -self._kl(q, p))
        return term - self._kl(noised(data, gamma[-1]), self._prior()) / self.num_steps

    def _prior(self) -> dist.Normal:
        return dist.Normal(self.loc.new_zeros(self.shape), 1.0)

    def _transition(self, x_t: Tensor, x_hat: Tensor, gamma_s: Tensor, gamma_t: Tensor) -> dist.Normal:
        step = less_noised(x_t, x_hat, gamma_s, gamma_t)
        if self.variance == "posterior":
            return step
        return dist.Normal(step.loc, renewed(gamma_s, gamma_t).sqrt() * noise(gamma_t))

    def _standardized(self, x: Tensor) -> Tensor:
        return (x - self.loc) / self.scale

    def _per_event(self, gamma: Tensor) -> Tensor:
        return gamma.reshape(*gamma.shape, *(1,) * len(self.shape))

    def _event(self, fn: dist.Normal) -> dist.TorchDistribution:
        return fn.to_event(len(self.shape))

    def _kl(self, q: dist.Normal, p: dist.Normal) -> Tensor:
        return kl_divergence(q, p).flatten(1).sum(1)


class _Logits(nn.Module):
    """The logit of a bit x in {0, 1}, from an estimate x^ of it: `weight (x^ - 1/2)`, with a learned weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(8.0))

    def forward(self, x_hat: Tensor) -> Tensor:
        return self.weight * (x_hat - 0.5)


@dataclass(frozen=True, kw_only=True)
class NamedDecoder(NamedPart):
    """The likelihood p(x | x_1) of a diffusion by name; the denoiser has done nearly all of the decoding.

    Attributes:
        make: makes a likelihood on the estimate x^(x_1), given the number of x's event dimensions.
    """

    make: Callable[[int], Likelihood]


DECODERS = Registry(
    "likelihood",
    "for another, pass a Likelihood of your own",
    NamedDecoder(
        name="gaussian",
        module=Gaussian,
        summary="real data, with one learned sigma",
        make=lambda event_dim: Gaussian(nn.Identity(), event_dim=event_dim),
    ),
    NamedDecoder(
        name="bernoulli",
        module=Bernoulli,
        summary="binary data",
        make=lambda event_dim: Bernoulli(_Logits(), event_dim),
    ),
)
