"""The update that ends a training step: gradients summed over processes, clipped, applied, and parameters averaged."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ppvae.batches import Batch
from ppvae.inference.runtime.checkpoint import checksum, fingerprint
from ppvae.inference.runtime.distributed import Processes
from ppvae.inference.runtime.isolation import one_thread, random_state, set_random_state
from ppvae.inference.runtime.meeting import ProcessesError, refuse_differences, refuse_failure
from ppvae.inference.training.settings import StepOptions
from ppvae.threads import outermost

FEW = 100_000
"""Parameters up to which one thread updates faster than several, as a fused optimizer wakes them for each tensor."""


@dataclass
class Update:
    """The end of a training step.

    Attributes:
        optimizer: whose `step` is taken.
        parameters: what is learned, by name.
        buffers: the pair's buffers, which a step may change.
        options: whether gradients are clipped, and parameters averaged.
        processes: among which each batch is shared.
        averages: the running average of each parameter, by name; empty without `options.ema`.
        interrupted: whether Ctrl-C has reached any of the processes.
        whole: the batch that the processes share in this step, if they have not agreed on it before.
    """

    optimizer: Optimizer
    parameters: dict[str, nn.Parameter]
    buffers: Sequence[Tensor] = ()
    options: StepOptions = StepOptions()  # noqa: RUF009 (frozen)
    processes: Processes = field(default_factory=Processes)
    averages: dict[str, Tensor] = field(default_factory=dict)
    interrupted: bool = False
    whole: Batch | None = None

    def __post_init__(self) -> None:
        self._exchanged = True
        self.few = sum(p.numel() for p in self.parameters.values()) <= FEW
        if self.options.ema is not None:
            self.averages = {name: p.detach().clone() for name, p in self.parameters.items()}

    def __call__(
        self, bound: Tensor, gradients: Sequence[Tensor | None], step: float, share: float, before: Sequence[Tensor]
    ) -> float | None:
        """Takes the step and returns the batch's mean bound.

        If the bound or a gradient is not finite, it returns None and changes no parameter.

        Args:
            bound: the mean of the bound over this process's part of the batch.
            gradients: of the loss on that part, one for each parameter; None where the loss does not depend on it.
            step: how many steps were taken before.
            share: the fraction of the batch that this process has.
            before: the buffers before the step.
        """
        found = [g for g in gradients if g is not None]
        total = torch.stack([bound, *[_real(g).sum() for g in found]]).sum()  # not finite if any of its terms is not
        if self.processes.size > 1:
            bound, total, gradients = self._summed(bound, total, gradients, share, before)
        value, finite = torch.stack([bound, total.isfinite().to(bound)]).tolist()
        if not finite:
            return None
        for p, g in zip(self.parameters.values(), gradients, strict=True):
            p.grad = None if g is None else laid_out_as(p, g)
        with one_thread(self.few):
            self.advance(self.optimizer, list(self.parameters.values()), list(self.averages.values()), step)
        self.optimizer.zero_grad()
        return value

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Around a step; an error before the processes' exchange is told in it, lest the others wait for it."""
        self._exchanged = self.processes.size == 1
        try:
            yield
        except Exception as error:
            if not self._exchanged:
                with suppress(ProcessesError):
                    self._sums([], [], f"{type(error).__name__}: {error}")
            raise
        finally:
            self.whole = None

    def no_more_batches(self) -> None:
        """Takes part in an exchange without a batch; if another process has one, all refuse."""
        if self.processes.size > 1:
            self._sums([], [])

    def changing(self) -> list[Tensor]:
        """All tensors that a step may change: parameters, buffers, averages and the optimizer's state."""
        slots = [t for slot in self.optimizer.state.values() for t in slot.values() if isinstance(t, Tensor)]
        return [*self.parameters.values(), *self.buffers, *self.averages.values(), *slots]

    @torch.no_grad()
    def snapshot(self) -> Callable[[], None]:
        """What puts back all that steps change, generators included, as it is now."""
        tensors = self.changing()
        device, copies = tensors[0].device, [t.clone() for t in tensors]
        randomness = random_state(device)

        @torch.no_grad()
        def put_back() -> None:
            set_random_state(randomness, device)
            for t, before in zip(tensors, copies, strict=True):
                t.copy_(before)

        return put_back

    def swap_averages(self) -> None:
        """Swaps the pair's parameters with their averages, if there are any."""
        for name, average in self.averages.items():
            p = self.parameters[name]
            p.data, average.data = average.data, p.data

    def _summed(
        self, bound: Tensor, total: Tensor, gradients: Sequence[Tensor | None], share: float, before: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Bound, check and gradients, weighted by each process's share of the batch and summed, in one exchange.

        Buffers are averaged by their change, so that one that does not change keeps its exact value; that of a count
        is rounded.
        """
        learned = list(self.parameters.values())
        pieces = [torch.zeros_like(p) if g is None else share * g for p, g in zip(learned, gradients, strict=True)]
        pieces += [share * _change(b, old) for b, old in zip(self.buffers, before, strict=True)]
        flags = [float(g is not None) for g in gradients] + [float(self.interrupted)]
        ends = [share * bound, share * total] if share else [torch.zeros_like(total)] * 2
        (*parts, ends_), (*reached, interrupted) = self._sums([*pieces, torch.stack(ends)], flags)
        self.interrupted = interrupted > 0
        for b, old, change in zip(self.buffers, before, parts[len(learned) :], strict=True):
            _set_changed(b, old, change)
        summed = [
            part.view_as(p).to(p.dtype) if yes else None
            for p, part, yes in zip(learned, parts[: len(learned)], reached, strict=True)
        ]
        return ends_[0], ends_[1], summed

    def _sums(
        self, pieces: Sequence[Tensor], flags: Sequence[float], error: str = ""
    ) -> tuple[list[Tensor], list[float]]:
        """Pieces and flags, summed over the processes in one exchange; without any, those of a step as zeros.

        The exchange also tells whether a process has failed, and whether all have the same batch: the four bytes of its
        checksum are the same in all if their variances are zero.

        Raises:
            ValueError: the batches differ; all processes raise it.
            ProcessesError: another process has failed, or has ended.
        """
        if not pieces:
            pieces = [torch.zeros_like(p) for p in self.parameters.values()]
            pieces += [torch.zeros_like(_change(b, b)) for b in self.buffers]
            pieces, flags = [*pieces, torch.zeros(2, device=pieces[0].device)], [0.0] * (len(self.parameters) + 1)
        checked = [*(0 if self.whole is None else checksum(self.whole)).to_bytes(4, "big")]
        numbers = [*flags, float(bool(error)), *checked, *[byte**2 for byte in checked]]
        rows = [*[_real(piece).flatten() for piece in pieces], torch.tensor(numbers, device=pieces[0].device)]
        self._exchanged = True
        *parts, found = self.processes.sum(torch.cat(rows)).split([len(row) for row in rows])
        sums = found.tolist()
        *totals, failed = sums[:-8]
        first, second = sums[-8:-4], sums[-4:]
        if failed or any(self.processes.size * b != a**2 for a, b in zip(first, second, strict=True)):
            self._refuse(error)
        return [_like(piece, part) for part, piece in zip(parts, pieces, strict=True)], totals

    def _refuse(self, error: str) -> NoReturn:
        """Says what is wrong where a process has failed, or has another batch."""
        batch = "none" if self.whole is None else ", ".join(fingerprint(self.whole).values())
        told = self.processes.gather((error, batch))
        if failed := {rank: error for rank, (error, _) in enumerate(told) if error}:
            refuse_failure(outermost(), failed)
        refuse_differences(outermost(), [{"batch": batch} for _, batch in told])
        raise AssertionError("batches of one checksum in all processes")

    def advance(
        self,
        optimizer: Optimizer,
        parameters: Sequence[Tensor],
        averages: Sequence[Tensor],
        step: float | Tensor,
        bad: Tensor | None = None,
    ) -> None:
        """Clips the parameters' `grad`, takes the optimizer's step and updates the averages; a compiled step traces it.

        The average's decay after t steps is the smaller of `ema` and `(1 + t) / (10 + t)`, so that it soon forgets the
        start.

        Args:
            optimizer: torch's; a fused one, if `bad` is given.
            parameters: what it updates.
            averages: of each of them.
            step: how many steps were taken before.
            bad: one if nothing is to change, else zero.
        """
        if self.options.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.options.clip_norm)
        if bad is not None:
            optimizer.found_inf = bad  # type: ignore[attr-defined]
        optimizer.step()
        if self.options.ema is not None:
            with torch.no_grad():
                decay = torch.as_tensor((1 + step) / (10 + step), dtype=torch.float64).clamp(max=self.options.ema)
                decay = decay if bad is None else torch.maximum(decay, bad.double())
                for average, p in zip(averages, parameters, strict=True):
                    average.lerp_(p, (1 - decay).to(average))


def _real(t: Tensor) -> Tensor:
    """A tensor's numbers, of complex ones the real and the imaginary parts."""
    return torch.view_as_real(t) if t.is_complex() else t


def _like(t: Tensor, numbers: Tensor) -> Tensor:
    """The numbers that `_real` gives, in one row, as a tensor like `t`."""
    if t.is_complex():
        numbers = torch.view_as_complex(numbers.clone().view(-1, 2))
    return numbers.view_as(t)


def _change(new: Tensor, old: Tensor) -> Tensor:
    """The difference between a buffer's values; in floating numbers."""
    return (new.long() - old.long()).float() if _is_count(new) else new - old


@torch.no_grad()
def _set_changed(buffer: Tensor, old: Tensor, change: Tensor) -> None:
    """Gives a buffer its old value with a change, which for whole numbers and booleans is rounded."""
    buffer.copy_(old.long() + change.round().long() if _is_count(buffer) else old + change.view_as(buffer))


def _is_count(buffer: Tensor) -> bool:
    """Whether it is of whole numbers or booleans."""
    return not (buffer.is_floating_point() or buffer.is_complex())


def laid_out_as(p: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with its entries in memory in the order of those of `p`, which fused optimizers rely on.

    That of an embedding with `sparse=True` is made dense.
    """
    dense = gradient.to_dense()
    return dense if dense.stride() == p.stride() else torch.empty_like(p).copy_(dense)
