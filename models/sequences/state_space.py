"""State space models: `p(z_1) p(x_1 | z_1) prod_t p(z_t | z_{t-1}) p(x_t | z_t)`, for sequences of any length."""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from ppvae.pair import Pair
from ppvae.steps import Conditional, Steps


class StateSpace(Pair):
    """A Markov chain of latents, sites "z1" ... "zT", that is seen through its emissions, one site "x", `[T, F]`.

    The base class of sequences: a subclass has the four members below, as modules or as methods. It takes a batch `x`,
    `[B, T, F]`, or a tuple `(x, lengths)`, `[B]`. What lies past a row's length is masked, latents and data: a padded
    row has the evidence, the posterior and the gap of the short one, whatever possible values it is padded with.

    Source: Krishnan et al. 2017 (arXiv:1609.09869).

    Attributes:
        prior: `prior()` returns p(z_1).
        transition: `transition(z)` returns p(z_t | z_{t-1}).
        likelihood: `likelihood(z)` returns p(x_t | z_t), with leading dimensions as z has them.
        posterior: `posterior(x, lengths)` returns a function of t and z_{t-1} that returns q(z_t | z_{t-1}, x); for the
            first step, t = 0, it gets None.
    """

    prior: Callable[[], Any]
    transition: Callable[[Tensor], Any]
    likelihood: Callable[[Tensor], Any]
    posterior: Callable[[Tensor, Tensor | None], Conditional]

    def model(self, x: Tensor, lengths: Tensor | None = None) -> None:
        present = present_steps(x, lengths)
        with pyro.plate("data", x.shape[0], dim=-1):
            path: list[Tensor] = []
            for t in range(x.shape[1]):
                fn = self.transition(path[-1]) if path else self.prior()
                path.append(pyro.sample(f"z{t + 1}", where_present(fn, present, t)))
            fn = self.likelihood(torch.stack(path, -2))
            pyro.sample("x", (fn if present is None else fn.mask(present)).to_event(1), obs=x)

    def guide(self, x: Tensor, lengths: Tensor | None = None) -> None:
        present, z = present_steps(x, lengths), None
        q = self.posterior(repeated_past_the_end(x, present), lengths)
        with pyro.plate("data", x.shape[0], dim=-1):
            for t in range(x.shape[1]):
                z = pyro.sample(f"z{t + 1}", where_present(q(t, z), present, t))

    def time_steps(self, x: Tensor, lengths: Tensor | None = None) -> Steps:
        present = present_steps(x, lengths)
        x = repeated_past_the_end(x, present)
        q = self.posterior(x, lengths)

        def prior(t: int, z: Tensor | None) -> Any:
            return where_present(self.prior() if z is None else self.transition(z), present, t)

        def guide(t: int, z: Tensor | None) -> Any:
            return where_present(q(t, z), present, t)

        def log_likelihood(t: int, z: Tensor) -> Tensor:
            return where_present(self.likelihood(z), present, t).log_prob(x[:, t])

        return Steps(x.shape[1], prior, guide, log_likelihood)


def present_steps(x: Tensor, lengths: Tensor | None) -> Tensor | None:
    """Which steps of `[B, T, F]` lie within the rows' lengths, a mask `[B, T]`; None where all do.

    Raises:
        ValueError: not one length for each row, or one that is not from 0 to T; on a GPU torch's own error.
    """
    if lengths is None:
        return None
    num_rows, num_steps = x.shape[:2]
    expected = f"expected [B], for each row a whole number from 0 to {num_steps}"
    if lengths.shape != (num_rows,):
        raise ValueError(f"lengths: found the shape {list(lengths.shape)}, {expected}")
    whole = torch.where(lengths == lengths.long(), lengths.long(), -1)
    try:  # the values cannot be looked at while a step is compiled
        ends = x.new_zeros(num_rows, num_steps + 1).scatter(-1, whole.unsqueeze(-1), 1.0)
    except RuntimeError as error:
        wrong = lengths[(whole < 0) | (whole > num_steps)][0]
        raise ValueError(f"lengths: found {wrong:g}, {expected}") from error
    return ends.flip(-1).cumsum(-1).flip(-1)[:, 1:] > 0


def repeated_past_the_end(x: Tensor, present: Tensor | None) -> Tensor:
    """Sequences whose first step stands where a row has ended.

    A mask leaves out the terms of what a row is padded with. But that may be so large that a guide's network
    overflows, which a row's own values do not.
    """
    if present is None:
        return x
    return torch.where(present.reshape(*present.shape, *(1,) * (x.dim() - 2)), x, x[:, :1])


def where_present(fn: Any, present: Tensor | None, t: int) -> Any:
    """A distribution of step t, masked where a row has ended."""
    return fn if present is None else fn.mask(present[:, t])
