"""What the tests of several processes run under torchrun: `distributed_script.py DEED FOLDER`.

Every process writes what it found to FOLDER/DEED.SIZE.RANK.pt; run without torchrun, it is the only one.
"""

import atexit
import contextlib
import os
import signal
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import ppvae
from ppvae.models import VAE, GaussianMixture, LinearVAE

RANK, SIZE = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


class Regression(ppvae.Pair):
    """No latents, so no noise; a parameter that is not reached, and a constant buffer."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.unused = nn.Parameter(torch.ones(3))
        self.register_buffer("scale", torch.tensor(0.1))

    def model(self, x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(self.network(x)[..., 0], self.scale), obs=y)

    def guide(self, x, y):
        pass


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 4, generator=generator)
    return x, x.sin().sum(-1)


def regression(objective=None, **settings):
    """Six epochs of batches of 16, 16, 16 and 2: the last has fewer points than three processes."""
    torch.manual_seed(RANK)  # another start in each process: the first one's counts
    pair = Regression()
    run = ppvae.fit(
        pair,
        data(),
        objective,
        epochs=6,
        batch_size=16,
        optimizer=lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.1),
        lr=0.01,
        options=ppvae.StepOptions(clip_norm=50.0, ema=0.9),
        held_out=ppvae.HeldOut(data(), keep_best=True),
        progress=False,
        **settings,
    )
    return {"state": pair.state_dict(), "bound": run.history["bound_per_step"], "held_out": run.history["held_out"]}


def train(folder):
    return regression() | {"compiled": regression(compile=True)["state"], "trainer": own_loop()}


class Counted(Regression):
    """With a running mean that is assigned, a count of steps, and a constant that a callback changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("seen", torch.tensor(False))

    def model(self, x, y):
        before = self.mean
        if self.training:
            self.mean = 0.9 * before + 0.1 * x.mean(0)
            self.count += 1
            self.seen |= torch.tensor(True)
        super().model(x - before, y)


def counted(folder):
    """The last batch of an epoch has fewer points than three processes."""
    torch.manual_seed(0)

    def callback(run):
        run.pair.scale = torch.tensor(0.1 * (1 + run.epochs))
        with torch.no_grad():
            run.pair.network[2].bias.clamp_(min=0.0)

    pair = Counted()
    ppvae.fit(pair, data(), epochs=4, batch_size=16, lr=0.01, callbacks=[callback], progress=False)
    return pair.state_dict()


def own_loop():
    """Eight steps on batches that all processes have; the last of them has fewer points than three processes."""
    torch.manual_seed(RANK)
    pair, (x, y) = Regression(), data()
    trainer = ppvae.Trainer(pair, lr=0.01, options=ppvae.StepOptions(ema=0.9))
    bounds = [trainer.step((x[i : i + 16], y[i : i + 16])) for _ in range(2) for i in range(0, 50, 16)]
    return {"state": pair.state_dict(), "average": trainer.update.averages, "bounds": torch.tensor(bounds)}


class Disturbed(ppvae.ELBO):
    """Does a deed at a step, if told to."""

    at, deed = None, None

    def __call__(self, pair, batch, step=0.0):
        if step == self.at:
            Disturbed.deed()
        return super().__call__(pair, batch, step)


@contextlib.contextmanager
def disturbed(at, deed):
    Disturbed.at, Disturbed.deed = at, deed
    try:
        yield
    finally:
        Disturbed.at = None


def signal_last(number):
    """Sends a signal to the last process, from itself."""
    if RANK == SIZE - 1:
        os.kill(os.getpid(), number)


def kill(folder):
    """The last process is killed, without a word, in the fourth epoch."""
    with disturbed(14, lambda: signal_last(signal.SIGKILL)):
        return regression(Disturbed(), checkpoint=ppvae.Checkpoint(folder / "checkpoint", every=5))


def resume(folder):
    return regression(Disturbed(), checkpoint=folder / "checkpoint", resume=True)


def leave():
    raise RuntimeError("left")


def noisy(folder):
    """A pair with noise, left in the middle of an epoch and resumed: a checkpoint keeps each process's noise."""
    x = torch.rand(60, 6, generator=torch.Generator().manual_seed(0)).round()

    def trained(**settings):
        torch.manual_seed(0)
        pair = VAE.mlp(6, 2, [8])
        ppvae.fit(pair, x, Disturbed(), steps=12, batch_size=20, progress=False, **settings)
        return pair.state_dict()

    path, found = folder / f"noisy{SIZE}", {"whole": trained()}
    with contextlib.suppress(RuntimeError), disturbed(8, leave):
        trained(checkpoint=ppvae.Checkpoint(path, every=7))
    found["resumed"] = trained(checkpoint=path, resume=True)
    return found


def interrupt(folder):
    """Ctrl-C reaches one process only."""
    torch.manual_seed(0)
    pair = Regression()
    with disturbed(5, lambda: signal_last(signal.SIGINT)):
        run = ppvae.fit(pair, data(), Disturbed(), epochs=5, batch_size=16, progress=False)
    return {"steps": run.steps, "stopped": run.stopped, "state": pair.state_dict()}


def nan(folder):
    """One process's part of a batch is out of range in the third step."""

    class Failing(ppvae.ELBO):
        def __call__(self, pair, batch, step=0.0):
            value, surrogate = super().__call__(pair, batch, step)
            return (value / 0 if step == 2 and RANK == SIZE - 1 else value), surrogate

    torch.manual_seed(0)
    pair = Regression()
    try:
        ppvae.fit(pair, data(), Failing(), epochs=2, batch_size=16, progress=False)
    except ppvae.NonFiniteError as error:
        return {"steps": error.fit.steps, "state": pair.state_dict()}


def measure(folder):
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    linear, mixture = LinearVAE(5, 2).fit_guide(), GaussianMixture(num_components=3, num_features=5)
    x = torch.randn(31, 5, generator=torch.Generator().manual_seed(0))
    if SIZE > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    shared = {"progress": False, "distributed": "auto"}
    bound = ppvae.log_evidence(linear, x, "iwae", num_particles=500, seed=0, **shared)
    own = ppvae.log_evidence(linear, x[: 20 + RANK], "iwae", num_particles=500, seed=0, progress=False)
    gap = ppvae.gap(linear, x[:2], "quick", seed=0, **shared)
    statistics = ppvae.gradient_statistics(linear, x, [ppvae.ELBO(kl="monte_carlo")], [2, 4], repeats=33, **shared)
    return {
        "exact": ppvae.log_evidence(mixture, x, **shared).estimate,
        "mixture elbo": ppvae.elbo(mixture, x, **shared).estimate,
        "log p": linear.log_prob(x),
        "iwae": (bound.estimate, bound.std_error),
        "own": own.estimate,
        "gap": gap.mean().estimate,
        "snr": statistics.snr.values,
        "value": statistics.value.values,
    }


def other_data(folder):
    try:
        ppvae.fit(LinearVAE(4, 2), torch.full((20, 4), float(RANK)), epochs=1, progress=False)
    except ValueError as error:
        return {"message": str(error)}


if __name__ == "__main__":
    deed, folder = sys.argv[1], Path(sys.argv[2])
    # the first to be registered is the last to be called
    atexit.register(lambda: torch.save(torch.distributed.is_initialized(), folder / f"remains.{SIZE}.{RANK}.pt"))
    torch.set_num_threads(1)
    for name in deed.split(","):
        torch.save(globals()[name](folder), folder / f"{name}.{SIZE}.{RANK}.pt")
