"""Threads of one process, modes of autograd and closed terminals around calls: what becomes of each, counted.

`python tests/support/surroundings.py [threads] [modes] [terminals]` prints tables.
"""

import multiprocessing
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pyro
import pyro.distributions as dist
import torch

import ppvae
from ppvae.inference.ledger.ascent import Ascent
from ppvae.models import VAE, GaussianMixture, LinearVAE

FORK = multiprocessing.get_context("fork")

X = torch.rand(16, 4, generator=torch.Generator().manual_seed(0)).round()


def pair(cls=VAE, seed=0):
    torch.manual_seed(seed)
    return VAE.mlp(4, 2, [6]) if cls is VAE else cls(4, 2)


# Threads: each job alone, then 24 at a time.


def _state(one):
    return torch.cat([t.flatten() for t in one.state_dict().values()]).tolist()


def _gap(one, seed):
    return ppvae.gap(one, X[:3], "quick", seed=seed, progress=False).mean().estimate


def _steps(one, seed):
    trainer = ppvae.Trainer(one, seed=seed)
    return [trainer.step(X) for _ in range(6)]


def _existing(one, seed):
    """A pair of plain functions with parameters in Pyro's store."""

    def model(x):
        w = pyro.param(f"w{seed}", torch.ones(4))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z * w, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1))

    made = ppvae.Pair.of(model, guide, X)
    ppvae.fit(made, X, epochs=2, batch_size=4, seed=seed, progress=False)
    return _state(made)


def _fit(one, seed):
    ppvae.fit(one, X, epochs=2, batch_size=4, seed=seed, progress=False)
    return _state(one)


def _arviz(one, seed):
    found = ppvae.to_arviz(one, X, posterior="resampled", num_samples=3, seed=seed, progress=False)
    return found.posterior["z"].values.tolist()


def _shown(one, seed):
    """Draws nothing that matters: whether it runs."""
    one.sample(3)
    one.log_weights(X, 2)
    one.latents(X, 2)
    return [one.encode(X).mean.tolist(), list(one.reconstruct(X).shape)]


JOBS = {
    "fit": (VAE, _fit),
    "elbo": (VAE, lambda one, seed: ppvae.elbo(one, X, seed=seed, progress=False).estimate.tolist()),
    "log_evidence": (
        VAE,
        lambda one, seed: ppvae.log_evidence(one, X, "iwae", 50, seed=seed, progress=False).estimate.tolist(),
    ),
    "gap": (LinearVAE, _gap),
    "to_arviz": (VAE, _arviz),
    "check": (VAE, lambda one, seed: one.check(X)),
    "Trainer.step": (VAE, _steps),
    "sample, encode, reconstruct": (LinearVAE, _shown),
    "Pair.of, fit": (LinearVAE, _existing),
    "gradient_statistics": (
        LinearVAE,
        lambda one, seed: ppvae.gradient_statistics(
            one, X, [ppvae.IWAE()], [2], 16, seed=seed, progress=False
        ).snr.values.tolist(),
    ),
}


def at_once(jobs, number):
    """How many of so many jobs at a time give what each gives alone, another number, or an error."""
    work = [jobs[i % len(jobs)] for i in range(number)]
    pyro.poutine.runtime._PYRO_STACK.clear()  # of what the jobs before may have left
    alone = [job(pair(cls, i), i) for i, (cls, job) in enumerate(work)]
    pairs = [pair(cls, i) for i, (cls, _) in enumerate(work)]

    def one(i):
        try:
            return work[i][1](pairs[i], i)
        except Exception as error:
            return error

    with ThreadPoolExecutor(number) as pool:
        found = list(pool.map(one, range(number)))
    errors = [str(each)[:200] for each in found if isinstance(each, Exception)]
    same = sum(not isinstance(f, Exception) and f == a for f, a in zip(found, alone, strict=True))
    return {"same": same, "other": number - same - len(errors), "failed": len(errors)}


def run_threads(number=24):
    """Each kind of job so many times at once, then all kinds in turn; and a thread that a callback waits for."""
    found = {name: at_once([job], number) for name, job in JOBS.items()}
    found["all in turn"] = at_once([*JOBS.values()], number)
    return found | {"a thread that a callback waits for": run_worker()}


def run_worker():
    """What a callback is told that starts a thread for a measurement and waits for it."""
    pyro.poutine.runtime._PYRO_STACK.clear()
    told = []

    def work(one):
        try:
            told.append(ppvae.elbo(one, X, progress=False).mean().estimate)
        except Exception as error:
            told.append(str(error))

    def callback(run):
        worker = threading.Thread(target=work, args=(run.pair,), daemon=True)
        worker.start()
        worker.join(60)

    ppvae.fit(pair(), X, epochs=1, progress=False, callbacks=[callback])
    return told or "hangs"


# What is set around a call.

EFFORT = ppvae.Effort("iwae", 50, (ppvae.AIS(4, 10),), 20, Ascent(max_steps=60), 0, True, 10)

CALLS = {
    "fit": lambda one, x: ppvae.fit(one, x, epochs=2, batch_size=4, progress=False).history["bound"].tolist(),
    "Trainer": lambda one, x: ppvae.Trainer(one).step(x),
    "gap": lambda one, x: ppvae.gap(one, x[:3], EFFORT, train=x, seed=0, progress=False).mean().estimate,
    "elbo": lambda one, x: ppvae.elbo(one, x, seed=0, progress=False).estimate.tolist(),
    "ais": lambda one, x: ppvae.log_evidence(
        one, x[:2], "ais", annealing=ppvae.AIS(4, 20), seed=0, progress=False
    ).estimate.tolist(),
    "gradient_statistics": lambda one, x: ppvae.gradient_statistics(
        one, x, [ppvae.ELBO(kl="monte_carlo")], [2], 16, progress=False
    ).snr.values.tolist(),
    "to_arviz refined": lambda one, x: (
        ppvae.to_arviz(one, x[:2], posterior="refined", num_samples=3, seed=0, progress=False)
        .posterior["z"]
        .values.tolist()
    ),
    "check": lambda one, x: one.check(x),
    "Pair.of": lambda one, x: _existing(one, 0)[:0],
}


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


def within(around, call, expected):
    """Whether a call within such a mode, on data made there, gives what is expected."""
    one = pair()
    with around():
        try:
            return "works" if call(one, X.clone()) == expected else "another number"
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:100]}"


def of_pair_made_within(call, expected):
    """The same, outside, of a pair made within `inference_mode`, which may also be refused by name."""
    with torch.inference_mode():
        one = pair()
    try:
        return "works" if call(one, X) == expected else "another number"
    except Exception as error:
        named = "pair: found" in str(error) and "inference_mode" in str(error)
        return "named" if named else f"{type(error).__name__}: {str(error)[:100]}"


def run_modes(names=tuple(CALLS)):
    """Each call within `no_grad`, `inference_mode` and `autocast`, and of a pair made in the second."""
    results = {}
    for name in names:
        expected = CALLS[name](pair(), X)
        for around in (torch.no_grad, torch.inference_mode, autocast):
            results[f"{name} in {around.__name__}"] = within(around, CALLS[name], expected)
        results[f"{name} of a pair made in inference_mode"] = of_pair_made_within(CALLS[name], expected)
    return results


# Where a bar has nowhere to be drawn: what is done to a process before its calls.


def _missing(name):
    def deed():
        os.close({"stdout": 1, "stderr": 2}[name])
        setattr(sys, name, None)

    return deed


def _onto(number):
    """Standard error is a file that cannot be written."""
    return lambda: os.dup2(number(), 2)


def _unread():
    read, write = os.pipe()
    os.close(read)
    return write


TERMINALS = {
    "no stderr, as after 2>&-": _missing("stderr"),
    "no stdout, as after >&-": _missing("stdout"),
    "sys.stderr closed": lambda: sys.stderr.close(),
    "descriptor 2 closed": lambda: os.close(2),
    "a pipe that nobody reads": _onto(_unread),
    "a full disk": _onto(lambda: os.open("/dev/full", os.O_WRONLY)),
    "TERM=dumb": lambda: os.environ.update(TERM="dumb"),
}


def _with_bars():
    one, mixture = pair(LinearVAE), GaussianMixture(num_components=2, num_features=4)
    ppvae.fit(one, X, epochs=2, batch_size=4)
    ppvae.log_evidence(one, X, "iwae", 5000)
    ppvae.gradient_statistics(one, X, [ppvae.IWAE()], [2], 16)
    ppvae.fit_em(mixture, torch.randn(30, 4), progress=True)
    ppvae.fit_streaming_em(mixture, torch.randn(30, 4), batch_size=10, progress=True)


def _in_child(deed, connection):
    try:
        deed()
        _with_bars()
        connection.send("works")
    except BaseException as error:
        connection.send(f"{type(error).__name__}: {error}")


def run_terminals():
    """Whether calls with bars end as they do elsewhere, each time in a process forked from this one."""
    results = {}
    for name, deed in TERMINALS.items():
        mine, theirs = FORK.Pipe()
        process = FORK.Process(target=_in_child, args=(deed, theirs))
        process.start()
        theirs.close()
        results[name] = mine.recv() if mine.poll(100) else "hangs"
        process.kill()
        process.join()
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    parts = {"threads": run_threads, "modes": run_modes, "terminals": run_terminals}
    for part in [name for name in parts if name in sys.argv] or parts:
        print(f"\n{part}")
        for name, result in parts[part]().items():
            print(f"  {name:50} {result}", flush=True)
