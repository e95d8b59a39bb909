"""Annealed importance sampling on a pair, from its guide or prior to its posterior, for all data points at once.

A first pass, the warm-up, finds step sizes and the schedule. Then these are frozen and fresh chains are weighed, which
keeps the weights unbiased.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from ppvae.arguments import Count, File, checked
from ppvae.batches import Batch, num_rows, rows
from ppvae.conversion import to_pair
from ppvae.devices import gpus
from ppvae.inference.compiling.repeated import Repeated
from ppvae.inference.evidence import annealing, hmc
from ppvae.inference.evidence.hmc import State
from ppvae.inference.evidence.noncentering import better_noncentered, where_possible
from ppvae.inference.evidence.pace import TIMED, UNTIMED, Pace, clock, in_time
from ppvae.inference.runtime.chunks import over_data
from ppvae.inference.runtime.distributed import processes
from ppvae.inference.runtime.kept_chunks import KeptChunks
from ppvae.latent_view import LatentView
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair
from ppvae.progress import progress_bar
from ppvae.refusals import ContractError
from ppvae.rules import OneOf
from ppvae.tracing import draw_latents

FEW = 4
"""Data points by which is found whether latents follow one another closely."""

START_STEPS, RATE = 30, 0.2
SCALE_DRAWS = 64
COMPILE_EVALUATIONS = 2000
"""The number of evaluations from which compiling pays off for any pair."""

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
        ppvae.ContractError: when used from the prior of a model that gives x no probability under some latents.
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
        return max(50, self.num_temperatures // 4)

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


PILOT = AIS(num_temperatures=50)
"""By which, at most, a view is chosen for each data point, where there is a choice."""


class Sampler:
    """AIS on one chunk of data: the warm-up, whose results are then frozen, and the passes.

    Args:
        settings: of the annealing.
        view: of the pair's latents, from the settings' start.
        evaluate: gives log start, log joint and their gradients at a batch and u.
        pair: the model and guide.
        batch: B data points.
        advance: called before each transition.
        at: at which data points the view is non-centered, `[B]`; None for a pilot to choose, if it can be.
    """

    def __init__(
        self,
        settings: AIS,
        view: LatentView,
        evaluate: Repeated,
        pair: Pair,
        batch: Batch,
        advance: Callable[[], Any],
        at: Tensor | None = None,
    ):
        self.settings, self._pair, self._batch, self._advance = settings, pair, batch, advance

        def pilot(at: Tensor) -> Tensor:
            num_chains = min(settings.num_chains, PILOT.num_chains)
            num_temperatures = min(settings.num_temperatures, PILOT.num_temperatures)
            short = replace(settings, num_chains=num_chains, num_temperatures=num_temperatures)
            return Sampler(short, view, evaluate, pair, batch, lambda: None, at).forward()[1]

        if at is None and view.noncentered:
            at = better_noncentered(pair, num_rows(batch), pilot)
        self._view = view if at is None else view.at(at)
        self._evaluate = partial(_state, evaluate, batch, *(() if at is None else (at,)))
        self._precision = [
            self._view.draw(pair, batch, SCALE_DRAWS).var(0) ** -1,
            self._view.unconstrain(pair, batch, draw_latents(pair, batch, SCALE_DRAWS)).var(0) ** -1,
        ]
        self._warm_up()

    def _warm_up(self) -> None:
        """Finds step sizes and, if it is adaptive, the schedule, by a pass along the sigmoid schedule."""
        settings = self.settings
        state = self.start()
        if settings.start == "prior" and not state.log_joint.isfinite().all():
            raise ContractError(
                "start: found draws from the prior under which x has no probability, expected some everywhere between "
                "prior and posterior, as AIS passes there; use AIS(start='guide')"
            )
        log_size = torch.zeros_like(state.log_joint)
        seen_at = annealing.sigmoid(settings.num_warm_up).to(log_size)
        sizes, spread = [], []
        for t in [0] * START_STEPS + list(range(len(seen_at))):
            state, info = self._step(state, seen_at[t], log_size.exp())
            log_size = hmc.adapt(log_size, info.acceptance, RATE)
            sizes.append(log_size.mean(0))
            spread.append(state.log_ratio().std(0) if settings.num_chains > 1 else torch.ones_like(sizes[-1]))
        sizes, spread = sizes[START_STEPS:], spread[START_STEPS:]
        schedule = annealing.SCHEDULES[settings.schedule]
        self.betas = schedule(settings.num_temperatures, seen_at.cpu(), torch.stack(spread).cpu()).to(log_size)
        self._sizes = annealing.along(self.betas, seen_at, torch.stack(sizes)).exp()

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
            state, _ = self._step(state, self.betas[-1], self._sizes[-1])
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
        return self._step(state, self.betas[-1], step_size)

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
            state, info = self._step(state, self.betas[t], self._sizes[t])
            self.acceptance += info.acceptance.mean(0) / self.settings.num_temperatures
            self.divergences += info.divergent.sum(0)
            return state

        return direction(state, self.betas, transition)

    def _step(self, state: State, beta: Tensor, step_size: Tensor) -> tuple[State, hmc.Info]:
        start, end = self._precision
        scale = torch.lerp(start, end, beta[..., None]) ** -0.5
        self._advance()
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
        more_steps: that `passing` takes for each data point, besides those to the posterior.
        result: what `passing` returns, in words; a checkpoint of something else is refused.
        deadline: when to end, by `pace.clock`; the result is then that of the data points reached, with their `index`.
    """
    one, few = (to_pair(rows_or_all(pair, batch, slice(num)), pair) for num in (1, FEW))
    view = where_possible(LatentView(pair, one, settings.start), pair, few)
    evaluate = Repeated(pair, partial(_densities, view), _compile_after(settings, deadline), _enough_time(deadline))

    def one_evaluation(index: Any, num_particles: int, at_once: int) -> dict[str, Tensor]:
        points = to_pair(rows(batch, index.cpu()), pair)
        return {"log_start": _densities(view, pair, points, view.draw(pair, points, settings.num_chains))[0][0]}

    def run(index: Tensor) -> dict[str, Tensor]:
        steps = settings.num_transitions + more_steps
        title = f"{settings.name} of {len(index)} data points"
        with progress_bar(
            total=len(index) * steps, desc=title, unit="step", shown=progress, delay=1, leave=False
        ) as bar:
            own = math.ceil(len(index) / processes().size)
            pace = Pace(title, own * steps, bar, gpus(pair), math.inf if deadline is None else deadline)

            def measure(index: Any, num_particles: int, at_once: int) -> dict[str, Tensor]:
                points = to_pair(rows(batch, index.cpu()), pair)
                return passing(Sampler(settings, view, evaluate, pair, points, lambda: pace(len(index))), index)

            kept = _kept(pair, batch, settings, result)
            return over_data(pair, index, 1, measure, None, probe=one_evaluation, kept=kept)

    num = num_rows(batch)
    return run(torch.arange(num)) if deadline is None else in_time(run, num, deadline)


def _enough_time(deadline: float | None) -> bool:
    return deadline is None or deadline - clock() >= COMPILE_SECONDS


def _compile_after(settings: AIS, deadline: float | None) -> float:
    """Evaluations before compiling; where there is a deadline, blocks that are too long are given up before."""
    evaluations = settings.num_leapfrog * (settings.num_temperatures + settings.num_warm_up)
    if evaluations < COMPILE_EVALUATIONS or not _enough_time(deadline):
        return math.inf
    return 2 if deadline is None else 2 + (UNTIMED + TIMED) * settings.num_leapfrog


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
    *at, u = at_and_u
    return State(u, *evaluate(batch, u, *at))
