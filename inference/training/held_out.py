"""The bound on held-out data, after each epoch."""

from collections.abc import Callable

import torch

from ppvae.batches import Batch, num_rows, rows
from ppvae.inference.runtime.isolation import interrupts_held, own_randomness
from ppvae.inference.training.prepared import Prepared
from ppvae.inference.training.trainer import HELD_OUT, Trainer
from ppvae.mode import mode


class HeldOutBound:
    """The objective's mean value; by the same draws at each call, so that only the parameters differ.

    Args:
        trainer: of the pair; its averages stand in for the parameters, if it keeps any.
        data: the held-out data.
        batch_size: how many data points are measured together.
    """

    def __init__(self, trainer: Trainer, data: Batch, batch_size: int):
        self._trainer, self._data, self._batch_size = trainer, data, batch_size
        self.prepared = Prepared(trainer.objective, trainer.pair)  # apart from the steps', in evaluation mode

    @torch.no_grad()
    def __call__(self, signaled: Callable[[], bool]) -> float:
        """The bound now.

        Raises:
            KeyboardInterrupt: a signal, which is asked for between batches, ends a run of one process.
        """
        trainer, processes = self._trainer, self._trainer.processes
        total = torch.zeros(1, dtype=torch.float64, device=trainer.device)
        own = processes.share(torch.arange(num_rows(self._data), device=trainer.device))
        seed = (trainer.seed, HELD_OUT, processes.rank)
        randomness, evaluation = own_randomness(seed, trainer.device), mode(trainer.pair, training=False)
        with processes.together(busy=True), randomness, evaluation, trainer.averaged():
            for index in own.split(self._batch_size):
                if signaled() and processes.size == 1:
                    raise KeyboardInterrupt
                with interrupts_held():
                    if len(index):
                        points = trainer.converted(rows(self._data, index))
                        total += self.prepared(points)(trainer.pair, points)[0].sum()
        return processes.sum(total).item() / num_rows(self._data)
