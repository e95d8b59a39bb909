"""Two processes that do not do the same: what becomes of each case, counted.

`python tests/support/apart.py` prints a table and the counts; with `--json` all outcomes as JSON. Each case runs in two
processes of its own, forked from this one, on gloo.
"""

import contextlib
import functools
import inspect
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import pyro
import torch

import ppvae
from ppvae.models import VAE, LinearVAE

LIMIT = 25.0
"""Seconds after which a case that has not ended counts as hanging."""
TIMEOUT = 6.0
"""Seconds of the process groups' own time-out."""
FORK = multiprocessing.get_context("fork")


def data(num=12, seed=0, features=4):
    return torch.rand(num, features, generator=torch.Generator().manual_seed(seed)).round()


def pair(latents=2, seed=0, cls=VAE, **settings):
    torch.manual_seed(seed)
    return VAE.mlp(4, latents, [6], **settings) if cls is VAE else cls(4, latents)


def fit(rank=0, of=None, **settings):
    given = {"pair": of or pair(), "data": data(), "steps": 4, "batch_size": 4, "progress": False} | settings
    return ppvae.fit(given.pop("pair"), given.pop("data"), **given).history["bound_per_step"].tolist()


def measured(function, *args, **settings):
    """A measurement that the processes share, where that has to be asked for."""
    shared = {"distributed": True} if "distributed" in inspect.signature(function).parameters else {}
    settings = {"seed": 0, "progress": False} | shared | settings
    return function(*args, **settings)


def estimate(rank, num=8, seed=0, function=ppvae.elbo, **settings):
    return measured(function, settings.pop("pair", None) or pair(seed=seed), data(num), **settings).estimate.tolist()


class Scaled(LinearVAE):
    """A pair with a plain attribute that its model reads."""

    strength = 1.0

    def model(self, x):
        with pyro.poutine.scale(scale=1.0):
            super().model(x)
        with pyro.plate("data_", len(x), dim=-1):
            pyro.factor("strength", torch.full((len(x),), self.strength))


def trained(rank, batches, **settings):
    trainer = ppvae.Trainer(settings.pop("pair", None) or pair(), **settings)
    return [trainer.step(batch) for batch in batches]


def tenth(done):
    return 0.1**done


def half(done):
    return 0.5**done


def noisy(x):
    return torch.bernoulli(0.9 * x)


def noisier(x):
    return torch.bernoulli(0.5 * x)


def with_parameter_unlearned(rank):
    one = pair()
    next(one.parameters()).requires_grad_(rank == 0)
    return one


def with_strength(rank):
    torch.manual_seed(0)
    one = Scaled(4, 2)
    one.strength = 1.0 + rank
    return one


def killed(rank):
    class Dying(ppvae.ELBO):
        def __call__(self, pair, batch, step=0.0):
            if step == 2 and rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(pair, batch, step)

    return fit(objective=Dying(), steps=50)


def mistake(at, rank=1):
    """A function that makes a mistake in one process when it has been called so often."""
    called = []

    def function(value):
        called.append(1)
        if len(called) > at and rank:
            raise ZeroDivisionError("a mistake of the user's")
        return value

    return function


def failing(rank):
    slip = mistake(4, rank)

    def objective(pair, batch, step):
        slip(step)
        return ppvae.ELBO()(pair, batch, step)

    return fit(objective=objective)


def failing_callback(run):
    raise ZeroDivisionError("a mistake of the user's")


def failing_batches(rank):
    slip = mistake(2, rank)

    class Slipping(Batches):
        def __iter__(self):
            return (slip(batch) for batch in super().__iter__())

    return fit(data=Slipping([4, 4, 4, 4]))


def failing_measurement(rank):
    class Failing(VAE):
        def model(self, x):
            if rank and len(x) > 6:
                raise ZeroDivisionError("a mistake of the user's")
            super().model(x)

    one = pair()
    one.__class__ = Failing
    return measured(ppvae.elbo, one, data(40), 5).estimate.tolist()


class Batches:
    """An iterable of batches."""

    def __init__(self, sizes, seed=0):
        self.sizes, self.seed = sizes, seed

    def __iter__(self):
        return iter([data(size, self.seed + i) for i, size in enumerate(self.sizes)])


def either(rank, zero, one):
    return one() if rank else zero()


def then_other(rank, value):
    """Zero calls a measurement, the other goes on with something else for a while."""
    if rank == 0:
        return estimate(0)
    time.sleep(TIMEOUT + 4)
    return []


PROCESSES = {
    # what fit is given: named
    "fit lr": ("lr", lambda r: fit(lr=[0.1, 0.2][r])),
    "fit seed": ("seed", lambda r: fit(seed=r)),
    "fit objective": ("objective", lambda r: fit(objective=[ppvae.ELBO(), ppvae.IWAE(3)][r])),
    "fit objective's field": ("objective", lambda r: fit(objective=ppvae.IWAE(3 + r))),
    "fit held_out": ("held_out", lambda r: fit(held_out=data(8, seed=r), epochs=1, steps=None)),
    "fit held_out rows": ("held_out", lambda r: fit(held_out=data(8 + r), epochs=1, steps=None)),
    "fit held_out none": ("held_out", lambda r: fit(held_out=[data(8), None][r], epochs=1, steps=None)),
    "fit patience": ("patience", lambda r: fit(held_out=ppvae.HeldOut(data(8), patience=1 + r), epochs=2, steps=None)),
    "fit steps": ("steps", lambda r: fit(steps=4 + r)),
    "fit epochs": ("epochs", lambda r: fit(epochs=1 + r, steps=None)),
    "fit batch_size": ("batch_size", lambda r: fit(batch_size=4 + r)),
    "fit drop_last": ("drop_last", lambda r: fit(drop_last=bool(r))),
    "fit rows of data": ("data", lambda r: fit(data=data(12 + 4 * r))),
    "fit data": ("data", lambda r: fit(data=data(seed=r))),
    "fit data's type": ("data", lambda r: fit(data=data().to([torch.float32, torch.float64][r]))),
    "fit weights": ("weights", lambda r: fit(weights=[torch.ones(12), torch.arange(12.0)][r])),
    "fit optimizer": ("optimizer", lambda r: fit(optimizer=["adam", "sgd"][r])),
    "fit optimizer class": ("optimizer", lambda r: fit(optimizer=[torch.optim.RMSprop, torch.optim.Adagrad][r])),
    "fit weight decay": (
        "optimizer",
        lambda r: fit(optimizer=functools.partial(torch.optim.AdamW, weight_decay=[0.1, 0.2][r])),
    ),
    "fit schedule": ("schedule", lambda r: fit(schedule=[tenth, half][r])),
    "fit schedule, lambda": ("schedule", lambda r: fit(schedule=[lambda d: 0.1**d, lambda d: 0.2**d][r])),
    "fit schedule none": ("schedule", lambda r: fit(schedule=[tenth, None][r])),
    "fit transform": ("transform", lambda r: fit(transform=[noisy, noisier][r])),
    "fit transform none": ("transform", lambda r: fit(transform=[noisy, None][r])),
    "fit clip_norm": ("clip_norm", lambda r: fit(options=ppvae.StepOptions(clip_norm=1.0 + r))),
    "fit ema": ("ema", lambda r: fit(options=ppvae.StepOptions(ema=[0.9, None][r]))),
    "fit compile": ("compile", lambda r: fit(compile=bool(r))),
    "fit checkpoint": ("checkpoint", lambda r: fit(checkpoint=[Path(tempfile.mkdtemp()) / "run", None][r])),
    "fit checkpoint every": (
        "checkpoint",
        lambda r: fit(checkpoint=ppvae.Checkpoint(Path(tempfile.mkdtemp()) / "run", every=1 + r)),
    ),
    "fit class of pair": ("pair", lambda r: fit(of=pair(cls=[VAE, LinearVAE][r]))),
    "fit number of latents": ("pair", lambda r: fit(of=pair(latents=2 + r))),
    "fit dtype of pair": ("pair", lambda r: fit(of=[pair(), pair().double()][r])),
    "fit what is learned": ("pair", lambda r: fit(of=with_parameter_unlearned(r))),
    "fit an attribute of the pair": ("bound at the start", lambda r: fit(of=with_strength(r))),
    "fit default dtype": ("float64", lambda r: (torch.set_default_dtype([torch.float32, torch.float64][r]), fit())[1]),
    "fit on batches": ("first batch of data", lambda r: fit(data=Batches([4, 4, 4], seed=100 * r))),
    "fit on batches of other sizes": ("batch", lambda r: fit(data=Batches([4, 4, 4 + r]), epochs=1, steps=None)),
    "fit on more batches": ("batch", lambda r: fit(data=Batches([4, 4, 4][: 3 - r]), epochs=1, steps=None)),
    # a loop of one's own
    "Trainer lr": ("lr", lambda r: trained(r, [data()], lr=0.1 + r)),
    "Trainer batch": ("batch", lambda r: trained(r, [data(), data(seed=r)])),
    "Trainer batch size": ("batch", lambda r: trained(r, [data(), data(8 + 2 * r)])),
    "Trainer schedule": ("schedule", lambda r: trained(r, [data()], schedule=[tenth, half][r])),
    "Trainer save by one": (
        "Trainer.save|process 1",
        lambda r: (lambda t: t.save(Path(tempfile.mkdtemp()) / "t") if r == 0 else time.sleep(TIMEOUT + 4))(
            ppvae.Trainer(pair())
        ),
    ),
    # measurements that are shared
    "elbo pair": ("pair", lambda r: estimate(r, seed=r)),
    "elbo structure": ("pair", lambda r: estimate(r, pair=pair(latents=2 + r))),
    "elbo dtype": ("pair", lambda r: estimate(r, pair=[pair(), pair().double()][r])),
    "elbo an attribute": ("log p", lambda r: estimate(r, pair=with_strength(r))),
    "elbo rows": ("data", lambda r: estimate(r, 7 + r)),
    "elbo num_samples": ("num_samples", lambda r: estimate(r, num_samples=10 + r)),
    "elbo seed": ("seed", lambda r: measured(ppvae.elbo, pair(), data(), seed=r).estimate.tolist()),
    "elbo data": ("data", lambda r: measured(ppvae.elbo, pair(), data(seed=r)).estimate.tolist()),
    "evidence method": (
        "method",
        lambda r: estimate(r, function=ppvae.log_evidence, method=["iwae", "ais"][r], num_particles=50),
    ),
    "evidence particles": (
        "num_particles",
        lambda r: estimate(r, function=ppvae.log_evidence, method="iwae", num_particles=50 + r),
    ),
    "evidence annealing": (
        "annealing",
        lambda r: estimate(
            r, 4, function=ppvae.log_evidence, method="ais", annealing=ppvae.AIS(num_chains=4, num_temperatures=10 + r)
        ),
    ),
    "gap effort": (
        "effort",
        lambda r: measured(ppvae.gap, pair(), data(4), ["quick", "default"][r]).mean().estimate,
    ),
    "gradient objectives": (
        "objectives",
        lambda r: measured(
            ppvae.gradient_statistics, pair(), data(4), [[ppvae.IWAE()], [ppvae.IWAE(gradient="dreg")]][r], [2], 16
        ).snr.values.tolist(),
    ),
    "calibration": (
        "num_samples",
        lambda r: measured(
            ppvae.calibration, (lambda p: (p.check(data()), p)[1])(pair(cls=LinearVAE)), 20, 10 + r
        ).rank.values.tolist(),
    ),
    # other calls, or none
    "gap and elbo": (
        "gap.* elbo|elbo.* gap",
        lambda r: either(r, lambda: measured(ppvae.gap, pair(), data(4), "quick"), lambda: estimate(r)),
    ),
    "fit and elbo": ("fit.* elbo|elbo.* fit", lambda r: either(r, fit, lambda: estimate(r))),
    "fit and Trainer": (
        "fit.* Trainer|Trainer.* fit",
        lambda r: either(r, fit, lambda: trained(r, [data(4)] * 4)),
    ),
    "killed in the middle": ("process", killed),
    "failing in the middle": ("mistake", failing),
    "failing in a measurement": ("mistake", failing_measurement),
    "a failing callback": ("mistake", lambda r: fit(callbacks=[failing_callback], epochs=2, steps=None)),
    "a failing transform": ("mistake", lambda r: fit(transform=mistake(2, r))),
    "failing batches": ("mistake", failing_batches),
    "a bad batch for a Trainer": ("data", lambda r: trained(r, [data(), [data(), data() * float("nan")][r]])),
    "a bad file": ("checkpoint|safetensors", lambda r: fit(checkpoint=__file__, resume=True)),
    "bad argument in one": ("lr|fit|process", lambda r: fit(lr=[0.1, -1.0][r])),
}
ALONE = {
    "elbo in one only": lambda r: estimate(r, distributed=False) if r == 0 else time.sleep(1),
    "gap in one only": lambda r: (
        ppvae.gap(pair(cls=LinearVAE), data(4), "quick", seed=0, progress=False).mean().estimate
        if r == 0
        else time.sleep(1)
    ),
    "elbo of 7 rows here and 8 there": lambda r: (
        len(ppvae.elbo(pair(), data(7 + r), seed=0, progress=False).estimate) - 7 - r
    ),
    "fit in one only": lambda r: fit(options=ppvae.StepOptions(distributed=False)) if r == 0 else time.sleep(1),
}
"""Cases in which a process is right to be by itself: both end."""


def _child(rank, path, name, connection):
    os.setsid()
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{path}", rank=rank, world_size=2, timeout=timedelta(seconds=TIMEOUT)
    )
    case = PROCESSES[name][1] if name in PROCESSES else ALONE[name]
    try:
        found = case(rank)
        with contextlib.suppress(TypeError, ValueError):
            found = json.loads(json.dumps(found))
        connection.send(("ended", "", str(found)[:2000]))
    except BaseException as error:
        connection.send((type(error).__name__, str(error), ""))


def outcome(name):
    """What became of a case in each process, `(kind, message, result)`; "hangs" or "dies" where there is none."""
    path = tempfile.mktemp()
    found, processes = [None, None], []
    for rank in range(2):
        mine, theirs = FORK.Pipe()
        process = FORK.Process(target=_child, args=(rank, path, name, theirs))
        process.start()
        theirs.close()
        processes.append((process, mine))
    end = time.monotonic() + LIMIT
    for rank, (_, mine) in enumerate(processes):
        try:
            found[rank] = mine.recv() if mine.poll(max(0.0, end - time.monotonic())) else ("hangs", "", "")
        except EOFError:
            found[rank] = ("dies", "", "")
    for process, _ in processes:
        process.kill()
        process.join()
    return found


def judged(name, found):
    """In a word, what became of a case."""
    kinds = [kind for kind, _, _ in found]
    if "hangs" in kinds:
        return "hangs"
    if name in ALONE:
        return "right" if kinds == ["ended", "ended"] else "obscure"
    if kinds == ["ended", "ended"]:
        return "silent"
    expected = PROCESSES[name][0]
    told = [(kind, message) for kind, message, _ in found if kind not in ("ended", "dies")]
    named = all(re.search(expected, message) for _, message in told) and told
    others = [kind for kind in kinds if kind in ("ended", "dies")]
    allowed = name in ("killed in the middle", "Trainer save by one")
    return "named" if named and (not others or allowed) else "obscure"


def run_processes():
    return {
        name: (lambda found: {"is": judged(name, found), "found": found})(outcome(name)) for name in PROCESSES | ALONE
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = run_processes()
    if "--json" in sys.argv:
        print(json.dumps(found))
        sys.exit()
    for name, result in found.items():
        print(f"{name:35} {result['is']}")
        if result["is"] in ("obscure", "hangs") or "-v" in sys.argv:
            print(f"      {str(result['found'])[:900]}")
    kinds = [result["is"] for result in found.values()]
    print({kind: kinds.count(kind) for kind in dict.fromkeys(kinds)})
