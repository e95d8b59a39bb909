"""Annealed importance sampling on a pair, from its guide or prior to its posterior, for all data points at once.

A first pass, the warm-up, finds step sizes and the schedule. Then these are frozen and fresh chains are weighed, which
keeps the weights unbiased.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from ppvae.arguments import Count, File, checked
from ppvae.batches import Batch, num_rows, rows
from ppvae.conversion import to_pair
from ppvae.devices import gpus
from ppvae.inference.compiling.repeated import RECORD_AFTER, Repeated
from ppvae.inference.evidence import annealing, hmc
from ppvae.inference.evidence.coverage import refuse_unlike_rows
from ppvae.inference.evidence.hmc import State
from ppvae.inference.evidence.noncentering import better_noncentered, where_possible
from ppvae.inference.evidence.pace import TIMED, UNTIMED, Pace, clock, in_time
from ppvae.inference.runtime.chunks import over_data
from ppvae.inference.runtime.distributed import processes
from ppvae.inference.runtime.kept_chunks import KeptChunks
from ppvae.latent_view import LatentView
from ppvae.mode import frozen
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair
from ppvae.progress import progress_bar
from ppvae.refusals import ContractError
from ppvae.rules import OneOf
from ppvae.tracing import draw_latents

FEW = 4
"""Data points by which is found whether latents follow one another closely."""

START_STEPS, RATE = 10, 0.2
SCALE_DRAWS = 64
FIRST_SIZE = 2.0
"""In many dimensions D, steps of this size over D^(1/4) are accepted two times in three where the density is Gaussian,
which is near enough to start from; the power is that of Beskos et al. 2013, Bernoulli 19(5A)."""

LEAST_WARM_UP = 50
"""Temperatures of a warm-up, at least."""

PILOT_CHAINS = 16
"""Of a pilot, at most."""

COMPILE_EVALUATIONS, CHAINS = 20_000, 200
"""Compiling takes some 12 seconds, and saves 0.6 milliseconds an evaluation, and as much again for each 200 chains of a
network of usual size."""

COMPILE_SECONDS = 45.0
"""The time that there must be, as compiling takes some of it."""


@checked
@dataclass(frozen=True)
class AIS:
    """Settings of annealed importance sampling, for `ppvae.log_evidence(..., annealing=AIS(...))`.

    The path is `start^(1 - beta) p(x, z)^beta`. From the guide it is short and needs few temperatures, but hardly
    reaches a mode that the guide leaves out. From the prior it is long, and finds the modes that the prior leads to.

    Source: Neal 2001 (arXiv:physics/9803008); on VAEs Wu et al. 2017 (arXiv:1611.04273).

    Attributes:
        num_chains: K, for each data point.
        num_temperatures: T, transitions of each chain.
        start: "guide" or "prior".
        schedule: "adaptive" (each step costs the same share of the effective sample size), "linear" or "sigmoid".
        num_leapfrog: gradients for each transition.
        checkpoint: a file that keeps the finished chunks of data points of this one measurement: with the same data,
            pair, settings and seed it goes on from there, and ends with the same result. With several processes, each
            adds its number to the name.

    Raises:
        TypeError: the checkpoint is not a path.
        ValueError: a number below one, or an unknown start or schedule.
        ppvae.ContractError: when used on a model that gives x no probability under some latents of the start.
    """

    num_chains: Count = 16
    num_temperatures: Count = 500
    start: Annotated[str, OneOf(("guide", "prior"))] = "guide"
    schedule: Annotated[str, OneOf(annealing.SCHEDULES)] = "adaptive"
    num_leapfrog: Count = 5
    checkpoint: File | None = None

    @property
    def name(self) -> str:
        """Its name in records."""
        return "ais" if self.start == "guide" else "ais from prior"

    @property
    def num_warm_up(self) -> int:
        """Temperatures of the warm-up."""
        return max(LEAST_WARM_UP, self.num_temperatures // 4)

    @property
    def num_transitions(self) -> int:
        """Of each chain, the warm-up's included."""
        return START_STEPS + self.num_warm_up + self.num_temperatures

    @property
    def kept_in(self) -> str | Path | None:
        """This process's file, if there is one."""
        if self.checkpoint is None or processes().size == 1:
            return self.checkpoint
        return f"{self.checkpoint}.{processes().rank}"


class WarmUp(NamedTuple):
    """What a first pass along the sigmoid schedule finds; the chains that are weighed take it as it is."""

    precision: Tensor
    """Of u at the start, and of what the guide draws, `[2, B, D]`."""
    log_size: Tensor
    """Of the steps, `[S + 1, B]`."""
    spread: Tensor
    """Standard deviation of log joint - log start over the chains, `[S + 1, B]`."""

    def where(self, at: Tensor, other: "WarmUp") -> "WarmUp":
        """This one at the data points of the mask `[B]`, and the other elsewhere."""
        precision = torch.where(at[:, None], self.precision, other.precision)
        return WarmUp(precision, *(torch.where(at, a, b) for a, b in zip(self[1:], other[1:], strict=True)))


class Sampler:
    """AIS on one chunk of data: the warm-up, whose results are then frozen, and the passes.

    Args:
        settings: of the annealing.
        view: of the pair's latents, from the settings' start.
        evaluate: gives log start, log joint and their gradients at a batch and u.
        pair: the model and guide.
        batch: B data points.
        advance: called before each transition, with the number of chains.
        at: at which data points the view is non-centered, `[B]`; None for a pilot to choose, if it can be.
    """

    def __init__(
        self,
        settings: AIS,
        view: LatentView,
        evaluate: Repeated,
        pair: Pair,
        batch: Batch,
        advance: Callable[[int], Any],
        at: Tensor | None = None,
    ):
        self.settings, self._pair, self._batch, self._advance = settings, pair, batch, advance

        self._view, self._evaluate = view, partial(_state, evaluate, batch)
        warm_up = None
        if at is None and view.noncentered:
            at, warm_up = self._piloted(evaluate)
        if at is not None:
            self._view, self._evaluate = view.at(at), partial(_state, evaluate, batch, at)
        self._warm_up = warm_up or self._warmed_up()
        _, log_size, spread = self._warm_up
        seen_at = annealing.sigmoid(len(spread) - 1).to(spread)
        schedule = annealing.SCHEDULES[settings.schedule]
        self.betas = schedule(settings.num_temperatures, seen_at.cpu(), spread.cpu()).to(spread)
        self._sizes = annealing.along(self.betas, seen_at, log_size).exp()

    def _piloted(self, evaluate: Repeated) -> tuple[Tensor, WarmUp | None]:
        """Where the non-centered view is the better; and the pilots' warm-up, if it serves the passes, too."""
        short, pilots = _pilot(self.settings), []

        def pilot(at: Tensor) -> Tensor:
            pilots.append(Sampler(short, self._view, evaluate, self._pair, self._batch, self._advance, at))
            return pilots[-1].forward()[1]

        at = better_noncentered(self._pair, num_rows(self._batch), pilot)
        as_it_is, noncentered = pilots
        serves = _is_warmed_up_by(short, self.settings)
        return at, noncentered._warm_up.where(at, as_it_is._warm_up) if serves else None

    def _warmed_up(self) -> WarmUp:
        settings, pair, batch = self.settings, self._pair, self._batch
        from_start = self._view.draw(pair, batch, SCALE_DRAWS)
        from_guide = self._view.unconstrain(pair, batch, draw_latents(pair, batch, SCALE_DRAWS))
        precision = torch.stack([u.var(0) ** -1 for u in (from_start, from_guide)])
        state = self.start()
        if not state.log_joint.isfinite().all():
            other = "AIS(start='guide')" if settings.start == "prior" else "method='iwae'"
            raise ContractError(
                f"start: found draws from the {settings.start} under which x has no probability, expected some "
                f"everywhere between {settings.start} and posterior, as AIS passes there; use {other}"
            )
        first_size = min(1.0, FIRST_SIZE * state.position.shape[-1] ** -0.25)
        log_size = torch.full_like(state.log_joint, math.log(first_size))
        betas = annealing.sigmoid(settings.num_warm_up).to(log_size)
        sizes, spread = [], []
        for t in [0] * START_STEPS + list(range(1, len(betas))):
            state, info = self._step(state, betas[t], log_size.exp(), precision)
            log_size = hmc.adapt(log_size, info.acceptance, RATE)
            sizes.append(log_size.mean(0))
            spread.append(state.log_ratio().std(0) if settings.num_chains > 1 else torch.ones_like(sizes[-1]))
        return WarmUp(precision, *(torch.stack(found[START_STEPS - 1 :]) for found in (sizes, spread)))

    def start(self) -> State:
        """Draws from the start."""
        return self._evaluate(self._view.draw(self._pair, self._batch, self.settings.num_chains))

    def posterior(self, latents: dict[str, Tensor]) -> State:
        """Draws from the posterior, given one for each data point, by site `[1, B, *event]`.

        All chains start there and go apart by transitions that leave the posterior invariant: each draw is as exact as
        the first. Left where they start, chains would share its error; those that do not leave its mode still do.
        """
        u = self._view.unconstrain(self._pair, self._batch, latents, renewed=True)
        state = self._evaluate(u.expand(self.settings.num_chains, -1, -1).contiguous())
        for _ in range(self.settings.num_warm_up):
            state, _ = self.at_posterior(state, self._sizes[-1])
        return state

    def guide_and_prior(self, num: int) -> tuple[Tensor, Tensor]:
        """So many draws from each as u, `[num, B, D]`."""
        pair, batch = self._pair, self._batch
        prior = LatentView(pair, batch, "prior")
        from_prior = prior.latents(pair, batch, prior.draw(pair, batch, num))
        from_guide = draw_latents(pair, batch, num)
        return self._view.unconstrain(pair, batch, from_guide), self._view.unconstrain(pair, batch, from_prior)

    def at(self, u: Tensor) -> State:
        """The state at u, `[K, B, D]`."""
        return self._evaluate(u.contiguous())

    def at_posterior(self, state: State, step_size: Tensor) -> tuple[State, hmc.Info]:
        """A transition that leaves the posterior invariant, with step sizes `[K, B]`."""
        return self._step(state, self.betas[-1], step_size, self._warm_up.precision)

    def latents(self, state: State) -> dict[str, Tensor]:
        """The chains' positions as latents by site, `[K, B, *event]`."""
        return self._view.latents(self._pair, self._batch, state.position)

    def forward(self) -> tuple[State, Tensor]:
        """Runs fresh chains to the posterior; their last state and log weights."""
        return self._pass(annealing.forward, self.start())

    def backward(self, posterior: State) -> tuple[State, Tensor]:
        """Runs chains from the posterior to the start; their last state and log weights."""
        return self._pass(annealing.backward, posterior)

    def _pass(self, direction: Any, state: State) -> tuple[State, Tensor]:
        self.acceptance = torch.zeros_like(state.log_joint[0], dtype=torch.float64)
        self.divergences = torch.zeros_like(self.acceptance)

        def transition(state: State, t: int) -> State:
            state, info = self._step(state, self.betas[t], self._sizes[t], self._warm_up.precision)
            self.acceptance += info.acceptance.mean(0) / self.settings.num_temperatures
            self.divergences += info.divergent.sum(0)
            return state

        return direction(state, self.betas, transition)

    def _step(self, state: State, beta: Tensor, step_size: Tensor, precision: Tensor) -> tuple[State, hmc.Info]:
        start, end = precision
        scale = torch.lerp(start, end, beta[..., None]) ** -0.5
        self._advance(self.settings.num_chains)
        return hmc.step(state, beta, self._evaluate, step_size, scale, self.settings.num_leapfrog)


def run_chains(
    pair: Pair,
    batch: Batch,
    settings: AIS,
    passing: Callable[[Sampler, Tensor], dict[str, Tensor]],
    progress: bool,
    more_steps: int = 0,
    result: str = "log weights",
    deadline: float | None = None,
) -> dict[str, Tensor]:
    """`passing(sampler, index of its data points)` for all data points, as many at once as memory allows.

    Args:
        more_steps: that `passing` takes with each chain, besides those to the posterior.
        result: what `passing` returns, in words; a checkpoint of something else is refused.
        deadline: when to end, by `pace.clock`; the result is then that of the data points reached, with their `index`.
    """
    one, few = (to_pair(rows_or_all(pair, batch, slice(num)), pair) for num in (1, FEW))
    as_it_is = LatentView(pair, one, settings.start)
    refuse_unlike_rows(as_it_is, pair, batch)
    view = where_possible(as_it_is, pair, few)
    evaluate = Repeated(pair, partial(_densities, view), *_program_after(settings, num_rows(batch), deadline))

    def one_evaluation(index: Any, num_particles: int, at_once: int) -> dict[str, Tensor]:
        points = to_pair(rows(batch, index.cpu()), pair)
        return {"log_start": _densities(view, pair, points, view.draw(pair, points, settings.num_chains))[0][0]}

    def run(index: Tensor) -> dict[str, Tensor]:
        steps = _num_steps(settings, bool(view.noncentered), more_steps)
        title = f"{settings.name} of {len(index)} data points"
        with progress_bar(
            total=len(index) * steps, desc=title, unit="step", shown=progress, delay=1, leave=False
        ) as bar:
            own = math.ceil(len(index) / processes().size)
            pace = Pace(title, own * steps, bar, gpus(pair), math.inf if deadline is None else deadline)

            def measure(index: Any, num_particles: int, at_once: int) -> dict[str, Tensor]:
                points = to_pair(rows(batch, index.cpu()), pair)
                sampler = Sampler(settings, view, evaluate, pair, points, lambda chains: pace(len(index) * chains))
                return passing(sampler, index)

            kept = _kept(pair, batch, settings, result)
            return over_data(pair, index, 1, measure, None, probe=one_evaluation, kept=kept)

    num = num_rows(batch)
    with frozen(pair):  # gradients are of latents alone
        return run(torch.arange(num)) if deadline is None else in_time(run, num, deadline)


def _pilot(settings: AIS) -> AIS:
    """A short run, by which a view is chosen for each data point, where there is a choice."""
    num_chains, num_temperatures = min(settings.num_chains, PILOT_CHAINS), min(settings.num_temperatures, LEAST_WARM_UP)
    return replace(settings, num_chains=num_chains, num_temperatures=num_temperatures)


def _is_warmed_up_by(short: AIS, settings: AIS) -> bool:
    """Whether the pilot's warm-up is as long as the chains' own would be, and serves them in its place."""
    return short.num_warm_up == settings.num_warm_up


def _num_steps(settings: AIS, piloted: bool, more_steps: int) -> int:
    """Transitions for each data point, of all its chains together."""
    own, pilots, short = settings.num_transitions, 0, _pilot(settings)
    if piloted:
        pilots = 2 * short.num_chains * short.num_transitions
        if _is_warmed_up_by(short, settings):
            own = settings.num_temperatures
    return pilots + settings.num_chains * (own + more_steps)


def _enough_time(deadline: float | None) -> bool:
    return deadline is None or deadline - clock() >= COMPILE_SECONDS


def _program_after(settings: AIS, num_points: int, deadline: float | None) -> tuple[float, float | None]:
    """Evaluations before compiling, and before recording.

    Where there is a deadline, blocks that are too long are given up before they are compiled.
    """
    if not _enough_time(deadline):
        return math.inf, math.inf
    evaluations = settings.num_leapfrog * settings.num_transitions
    if evaluations * (1 + num_points * settings.num_chains / CHAINS) >= COMPILE_EVALUATIONS:
        return (2 if deadline is None else 2 + (UNTIMED + TIMED) * settings.num_leapfrog), math.inf
    return math.inf, 2 if evaluations >= 2 * RECORD_AFTER else None


def _kept(pair: Pair, batch: Batch, settings: AIS, result: str) -> KeptChunks | None:
    if settings.kept_in is None:
        return None
    about = asdict(settings) | {"processes": processes().size, "seed": torch.initial_seed(), "result": result}
    del about["checkpoint"]
    return KeptChunks(settings.kept_in, pair, batch, about)


def weigh(sampler: Sampler, index: Tensor) -> dict[str, Tensor]:
    """AIS to the posterior: log weights `[B, K]`, and the transitions' acceptance and divergences."""
    _, log_weight = sampler.forward()
    return {"forward": log_weight.T, "acceptance": sampler.acceptance, "divergences": sampler.divergences}


def weigh_both_ways(latents: dict[str, Tensor], sampler: Sampler, index: Tensor) -> dict[str, Tensor]:
    """The same, and reverse AIS from the latents that generated the data, by site `[N, *event]`."""
    found = weigh(sampler, index)
    posterior = sampler.posterior({name: z[index][None] for name, z in latents.items()})
    return found | {"backward": sampler.backward(posterior)[1].T}


def _densities(view: LatentView, pair: Pair, batch: Batch, u: Tensor, at: Tensor | None = None) -> tuple[Tensor, ...]:
    if at is not None:
        view = view.at(at)
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        log_start, log_joint = view.densities(pair, batch, u)
        (gradient_start,) = torch.autograd.grad(log_start.sum(), u, retain_graph=True)
        (gradient_joint,) = torch.autograd.grad(log_joint.sum(), u)
    return log_start.detach(), log_joint.detach(), gradient_start, gradient_joint


def _state(evaluate: Repeated, batch: Batch, *at_and_u: Tensor) -> State:
    """The state at u, the last of these; of its type, which a prior of more digits would turn the densities from."""
    *at, u = at_and_u
    return State(u, *(t.to(u.dtype) for t in evaluate(batch, u, *at)))
