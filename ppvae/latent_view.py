"""The latent view of a pair: all its continuous latents as one unconstrained vector for each particle and data point.

Samplers, annealing, and guides fitted to one data point at a time stand on it, and know nothing of any model.
"""

from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Normal

from ppvae.batches import Batch, num_rows
from ppvae.contract import check_shapes
from ppvae.coordinates import Coordinates, Standardized, coordinates, location_and_scale
from ppvae.enumerable import model_runs_enumerated
from ppvae.pair import Pair
from ppvae.particles import run
from ppvae.precise_draws import PreciseDraws
from ppvae.refusals import ContractError
from ppvae.sites import log_prob_terms, presence, refuse_other_latents, sample_sites
from ppvae.supports import at_some_draws, refuse_unlike_support
from ppvae.tracing import Joint, trace_model, trace_pair
from ppvae.weights import sum_terms


class Densities(NamedTuple):
    """Log densities of unconstrained vectors, `[K, B]`, in nats, with the Jacobians of what constrains them."""

    log_start: Tensor
    """`log q(z | x)`; `log p(z)` where the view starts from the prior."""
    log_joint: Tensor
    """`log p(x, z)`."""


class LatentView:
    """The continuous latents z of a pair as unconstrained vectors u, `[K, B, D]`.

    `u = concat_l T_l^-1(z_l)`, with T_l from the reals onto the support of site l (`ppvae.coordinates`), which may
    depend on the sites before it; densities of u are those of z times `|det dT/du|`. Discrete sites that only the model
    has are summed out. Of a masked latent, which is not there, the entries of u are standard normal under both
    densities and independent of all else: they cancel. So do the lengths of vectors whose direction is an angle.

    It does not apply to a guide with discrete sites, nor to a pair without continuous latents.

    Args:
        pair: the model and guide.
        batch: data points like those to come.
        start: "guide" or "prior": what `draw` draws from, and whose density `log_start` is.
        noncentered: sites that are given by `(z - loc) / scale` of the model, which depend on the latents before them.

    Raises:
        ppvae.ContractError: a latent is discrete, its support in the guide is not the model's, or its density is known
            for its own draws alone (the site is named); there is no latent; it cannot be drawn from; or the model does
            not take all values of a discrete latent at once.
        ValueError: a start of another name.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> pair, x = LinearVAE(num_features=5, num_latents=2, guide="exact"), torch.randn(3, 5)
        >>> view = LatentView(pair, x)
        >>> log_start, log_joint = view.densities(pair, x, view.draw(pair, x, num_particles=4))
        >>> torch.allclose(log_joint - log_start, pair.log_prob(x).expand(4, 3), atol=1e-4)
        True
    """

    def __init__(self, pair: Pair, batch: Batch, start: str = "guide", noncentered: Collection[str] = ()):
        if start not in ("guide", "prior"):
            raise ValueError(f"start: found {start!r}, expected 'guide' or 'prior'")
        self.start, self.noncentered = start, noncentered
        self._at: Tensor | None = None
        self._shapes: dict[str, torch.Size] = {}
        with torch.no_grad():
            u = self.draw(pair, batch, 1)
            if start == "prior":
                self._refuse_not_enumerable(pair, batch)
            self.log_start(pair, batch, u)  # is there a density of any u?
            self.refuse_unlike_support(pair, batch)

    @property
    def num_dims(self) -> int:
        """D."""
        return sum(shape.numel() for shape in self._shapes.values())

    @property
    def sites(self) -> dict[str, slice]:
        """Which of u's entries belong to each site."""
        ends = [0, *accumulate(shape.numel() for shape in self._shapes.values())]
        return {name: slice(*ends[i : i + 2]) for i, name in enumerate(self._shapes)}

    def refuse_unlike_support(self, pair: Pair, batch: Batch) -> None:
        """Refuses, by name, a guide to start from whose support is not the model's for some data point of a batch."""
        if self.start == "guide":
            why = (
                "as chains and maps that start from the guide cannot leave the one for the other; start from the "
                "prior, AIS(start='prior'), or give the guide the model's support"
            )
            at_some_draws(pair, batch, lambda joint: refuse_unlike_support(pair, batch, joint, why))

    def _refuse_not_enumerable(self, pair: Pair, batch: Batch) -> None:
        """Refuses a model that does not run with all values of its discrete latents, which a guide may draw."""
        if not model_runs_enumerated(pair, batch):
            raise ContractError(
                f"{type(pair).__name__}: found a model that fails with all values of its discrete latents at once, "
                "along further dimensions on the left, expected one that takes them, as `[..., n]` code does, as views "
                "from the prior sum them out; use method='iwae', for which the guide draws them"
            )

    def at(self, rows: Tensor) -> "LatentView":
        """The view that is non-centered at some data points of a batch alone, a mask `[B]`."""
        view = copy(self)
        view._at = rows
        return view

    def draw(self, pair: Pair, batch: Batch, num_particles: int) -> Tensor:
        """Draws from the guide, or from the prior: u, `[K, B, D]`."""
        pieces, latents = self._draw(pair, batch, num_particles)
        if self.noncentered:
            return self.unconstrain(pair, batch, latents, renewed=True)
        return torch.cat([pieces[name].reshape(num_particles, num_rows(batch), -1) for name in self._shapes], -1)

    def unconstrain(self, pair: Pair, batch: Batch, latents: dict[str, Tensor], *, renewed: bool = False) -> Tensor:
        """Given latents by site, `[K, B, *event]`, as u; `renewed`: with fresh noise for those that are not there."""
        num_particles = next(iter(latents.values())).shape[0]
        given = _Given(lambda name, own: (own.inv(latents[name]), latents[name]), self._standard)
        self._run(pair, batch, num_particles, given)
        there = given.there if renewed else dict.fromkeys(given.there)
        pieces = [_with_noise(given.pieces[name], there[name]) for name in self._shapes]
        return torch.cat([piece.reshape(num_particles, num_rows(batch), -1) for piece in pieces], -1)

    def densities(self, pair: Pair, batch: Batch, u: Tensor) -> Densities:
        """`log_start` and `log_joint` of u `[K, B, D]`."""
        given = self._given(u)
        joint = self._run(pair, batch, len(u), given)
        log_p = joint.log_p_terms()
        if self.start == "guide":
            check_shapes(joint)
            start = joint.log_q_terms()
        else:
            start = joint.log_p_terms(without=sample_sites(joint.model, observed=True))
        log_det = given.log_det()
        return Densities(sum_terms(start) + log_det, sum_terms(log_p) + log_det)

    def log_start(self, pair: Pair, batch: Batch, u: Tensor) -> Tensor:
        """The first of the densities alone, `[K, B]`; where the view starts from the guide, the model is not run."""
        if self.start == "prior" or self.noncentered:
            return self.densities(pair, batch, u).log_start
        given = self._given(u)
        with given:
            trace = run(pair, "guide", batch, len(u))
        refuse_other_latents(given.pieces, self._shapes)
        return sum_terms(log_prob_terms(trace)) + given.log_det()

    def latents(self, pair: Pair, batch: Batch, u: Tensor) -> dict[str, Tensor]:
        """u as the latents of the model, by site, `[K, B, *event]`."""
        given = self._given(u)
        self._run(pair, batch, len(u), given)
        return given.values

    def _standard(self, name: str, fn: Any) -> Coordinates | None:
        """Non-centered coordinates of a site; None where it has none, or is to have none."""
        if name not in self.noncentered or (found := location_and_scale(fn)) is None:
            return None
        loc, scale = found
        if self._at is not None:
            at = self._at.reshape(-1, *(1,) * len(fn.event_shape))
            loc, scale = torch.where(at, loc, 0.0), torch.where(at, scale, 1.0)
        return Standardized(loc, scale)

    def _given(self, u: Tensor) -> "_Given":
        pieces = {name: u[..., where].reshape(*u.shape[:2], *self._shapes[name]) for name, where in self.sites.items()}

        def value(name: str, own: Coordinates) -> tuple[Tensor, Tensor]:
            if name not in pieces:
                refuse_other_latents([*pieces, name], pieces)
            return pieces[name], own(pieces[name])

        return _Given(value, self._standard)

    def _run(self, pair: Pair, batch: Batch, num_particles: int, given: "_Given") -> Joint:
        by_guide = self.start == "guide" and not self.noncentered
        with given:
            joint = (trace_pair if by_guide else trace_model)(pair, batch, num_particles=num_particles)
        refuse_other_latents(given.pieces, self._shapes)
        if by_guide or self.start == "prior":
            return joint
        with _Given(lambda name, own: (given.pieces[name], given.values[name])):  # which only the model could tell
            return replace(joint, guide=run(pair, "guide", batch, num_particles))

    def _draw(self, pair: Pair, batch: Batch, num_particles: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Draws by site, as pieces of u where no site is non-centered, and as latents."""
        role = "guide" if self.start == "guide" else "model"
        try:
            with PreciseDraws(pair):
                trace = run(pair, role, batch, num_particles)
        except NotImplementedError as error:
            raise ContractError(
                f"{type(pair).__name__}: found a distribution without draws in its {role}, expected one that can "
                "be sampled; give it an `rsample` or a `sample` method"
            ) from error
        sites, shape = sample_sites(trace), (num_particles, num_rows(batch))
        pieces, latents = {}, {}
        for name, own in self._coordinates(trace).items():
            value = latents[name] = sites[name]["value"].expand(*shape, *sites[name]["fn"].event_shape)
            piece = own.inv(value)
            pieces[name] = _with_noise(piece, _there(sites[name], value, piece))
        if not pieces:
            raise ContractError(
                f"{type(pair).__name__}: found no continuous latent, expected at least one; log p(x) is a sum then: "
                "use method='exact'"
            )
        self._shapes = {name: piece.shape[2:] for name, piece in pieces.items()}
        return pieces, latents

    def _coordinates(self, trace: Trace) -> dict[str, Coordinates]:
        sites = sample_sites(trace, observed=False)
        return {
            name: coordinates(name, site["fn"])
            for name, site in sites.items()
            if self.start == "guide" or not site["fn"].has_enumerate_support  # those are summed out
        }


class _Given(Messenger):
    """Gives each latent that is not enumerated a value: `value(name, its coordinates)` is (u, z).

    Its coordinates are `standard(name, fn)`, where that is something.
    """

    def __init__(
        self,
        value: Callable[[str, Coordinates], tuple[Tensor, Tensor]],
        standard: Callable[[str, Any], Coordinates | None] = lambda name, fn: None,
    ):
        super().__init__()
        self._value, self._standard = value, standard
        self._coordinates: list[Coordinates] = []
        self.pieces: dict[str, Tensor] = {}
        self.values: dict[str, Tensor] = {}
        self.there: dict[str, Tensor | None] = {}

    def _pyro_sample(self, msg: Message) -> None:
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg):
            return
        name = str(msg["name"])
        self._coordinates.append(self._standard(name, msg["fn"]) or coordinates(name, msg["fn"]))
        self.pieces[name], self.values[name] = self._value(name, self._coordinates[-1])
        self.there[name] = _there(msg, self.values[name], self.pieces[name])
        msg["value"], msg["done"] = self.values[name], True

    def log_det(self) -> Tensor:
        """`log |det dT/du|` of what is there, and the standard normal density of what is not: `[K, B]`."""
        terms = []
        for name, own in zip(self.pieces, self._coordinates, strict=True):
            piece, there = self.pieces[name], self.there[name]
            term = own.log_abs_det_jacobian(piece, self.values[name])
            if there is not None:
                noise = torch.where(there, 0.0, Normal(0.0, 1.0).log_prob(piece))
                terms.append(noise.reshape(*piece.shape[:2], -1).sum(-1))
                term = torch.where(there if term.dim() == there.dim() else _any_entry(there, term), term, 0.0)
            terms.append(term.reshape(*term.shape[:2], -1).sum(-1))
        return torch.stack(terms).sum(0)


def _there(site: Mapping[str, Any], value: Tensor, piece: Tensor) -> Tensor | None:
    """Which entries of a piece of u stand for latents that are there, of its shape; None if all do.

    Where the coordinates mix a site's entries (a simplex), the site is there if any of them is.
    """
    if (there := presence(site)) is None:
        return None
    there = there.expand(value.shape)
    if piece.shape != value.shape:
        there = _any_entry(there, piece).expand(piece.shape)
    return there


def _any_entry(there: Tensor, like: Tensor) -> Tensor:
    """Where any entry of a site is there, `[K, B]`, with further dimensions to broadcast against `like`."""
    return there.reshape(*there.shape[:2], -1).any(-1).reshape(*there.shape[:2], *(1,) * (like.dim() - 2))


def _with_noise(piece: Tensor, there: Tensor | None) -> Tensor:
    return piece if there is None else torch.where(there, piece, torch.randn_like(piece))
