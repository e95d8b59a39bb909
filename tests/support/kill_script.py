"""Kills training at random moments, resumes it, and compares the parameters with those of an undisturbed run.

Usage: python kill_script.py KILLS FOLDER COMPILE SEED SIGNAL, with COMPILE True or False, SIGNAL SIGKILL or SIGTERM.
Prints a JSON report. Each run is a fork of this process, which has imported everything and computed nothing: what
follows a kill is training alone. Compiled runs are killed once they have compiled.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
import torch._dynamo  # optimizers import it at their first step: done once here, not in each child
from torch import nn

from ppvae import Checkpoint, HeldOut, Pair
from ppvae.inference.runtime.checkpoint import read
from ppvae.inference.runtime.pair_files import save
from ppvae.inference.training.fitting import fit

ROWS, FEATURES, LATENTS = 100, 16, 3


class SmallVAE(Pair):
    """A VAE with what a state can hold: dropout, batch statistics, networks."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2 * LATENTS))
        self.decoder = nn.Sequential(nn.Linear(LATENTS, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, FEATURES))

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENTS), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def train(checkpoint: Path | None, result: Path, compile: bool) -> None:
    """One run, resumed from `checkpoint` if there is one; every part of the state is in use."""
    torch.manual_seed(0)
    pair, data = SmallVAE(), torch.rand(ROWS + 50, FEATURES)
    fit(
        pair,
        data[:ROWS],
        epochs=20,
        batch_size=24,  # the last batch of each epoch is smaller
        lr=0.01,
        schedule=lambda done: 0.1**done,
        transform=torch.bernoulli,
        held_out=HeldOut(data[ROWS:].round(), keep_best=True),
        checkpoint=Checkpoint(checkpoint, every=2) if checkpoint else None,
        resume=checkpoint is not None,
        compile=compile,
        progress=False,
    )
    save(pair, result)


def fork(checkpoint: Path | None, result: Path, compile: bool) -> int:
    if child := os.fork():
        return child
    try:
        train(checkpoint, result, compile)
        os._exit(0)
    except SystemExit as end:
        os._exit(end.code)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def finish(child: int) -> bool:
    """Waits for a child; whether it came to its end, rather than being killed."""
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) == 1:
        raise RuntimeError("a run failed; its error is printed above")
    return os.waitstatus_to_exitcode(status) == 0


def same(one: Path, other: Path) -> bool:
    a, b = read(one)[0], read(other)[0]
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def await_write(path: Path, child: int) -> None:
    """Returns when the child has written the checkpoint once more: it has compiled, and trains."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if path.exists() and path.stat().st_mtime_ns > before:
            return
        time.sleep(0.001)


def main(kills: int, folder: Path, compile: bool, seed: int, number: signal.Signals) -> dict:
    torch.set_num_threads(1)  # threads do not survive a fork
    chance, started = random.Random(seed), time.perf_counter()
    finish(fork(None, folder / "undisturbed", compile))
    timed = fork(folder / "timed.checkpoint", folder / "timed", compile)
    if compile:
        await_write(folder / "timed.checkpoint", timed)
        begun = time.perf_counter()
        finish(timed)
        duration = time.perf_counter() - begun
    else:
        finish(timed)
        duration = (time.perf_counter() - started) / 2
    report = {"kills": 0, "exact": 0, "runs": 0, "steps_at_kill": [], "killed_while_writing": 0}
    while report["kills"] < kills:
        checkpoint, result = (folder / f"{report['runs']}.{kind}" for kind in ("checkpoint", "result"))
        report["runs"] += 1
        killed = 0
        for _ in range(min(chance.choice([1, 1, 2, 3]), kills - report["kills"])):
            child = fork(checkpoint, result, compile)
            if compile:
                await_write(checkpoint, child)
            time.sleep(chance.uniform(0, duration))
            os.kill(child, number)
            if finish(child):
                break
            killed += 1
            for unfinished in folder.glob(".ppvae-*.tmp"):
                report["killed_while_writing"] += 1
                unfinished.unlink()
            report["steps_at_kill"].append(read(checkpoint)[1]["steps"] if checkpoint.exists() else 0)
        if not result.exists():
            finish(fork(checkpoint, result, compile))
        report["kills"] += killed
        report["exact"] += killed * same(folder / "undisturbed", result)
    report["seconds"] = round(time.perf_counter() - started, 1)
    return report


if __name__ == "__main__":
    kills, folder, compile, seed, number = sys.argv[1:]
    print(json.dumps(main(int(kills), Path(folder), compile == "True", int(seed), signal.Signals[number])))
