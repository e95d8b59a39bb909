"""Flips bits in files of every kind, cuts files short, and counts how many of them are refused when they are read.

    PYTHONPATH=tests python tests/support/file_damage.py [--flips 2000] [--truncations 500] [--seed 0]

Prints a line for each kind of file. A damaged file is *refused* if reading it raises CheckpointError and changes
nothing; all else is a failure: another exception (*raw*), one that leaves a change behind (*changed*), or none
(*silent*; how many of these give another result than the undamaged file is *wrong*).
"""

import argparse
import contextlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import ppvae
from ppvae.inference.ledger.report import GapReport
from ppvae.models import VAE, LinearVAE

X = torch.rand(40, 4, generator=torch.Generator().manual_seed(1)).round()
CHAINS = {"num_chains": 2, "num_temperatures": 2, "num_leapfrog": 1}

Opened = tuple[Callable[[], Any], Callable[[Path], Any]]
"""What reading a file may change, as it is now; and reading the file, which returns what follows from it."""


class Stop(Exception):  # noqa: N818 (it is what happens)
    pass


def vae(seed: int) -> VAE:
    torch.manual_seed(seed)
    return VAE.mlp(4, 1, [3])


def state(pair: ppvae.Pair) -> dict[str, Any]:
    return {name: t.tolist() for name, t in pair.state_dict().items()} | {"example": repr(pair.example)}


def train(pair: ppvae.Pair, path: Path, **settings: Any) -> ppvae.Fit:
    held_out = ppvae.HeldOut(X[:10], keep_best=True)
    return ppvae.fit(
        pair, X, epochs=3, batch_size=20, held_out=held_out, checkpoint=path, progress=False, **settings
    )  # a few steps: all that a checkpoint can hold is in it


def stop(so_far: ppvae.Fit) -> None:
    raise Stop


def write_checkpoint(path: Path) -> None:
    with contextlib.suppress(Stop):
        train(vae(0), path, callbacks=[stop])


def open_checkpoint() -> Opened:
    pair = vae(1)
    pair.check(X)  # which gives it an example, as training does
    return lambda: state(pair), lambda path: (train(pair, path, resume=True).history["bound"].tolist(), state(pair))


def trainer(seed: int) -> ppvae.Trainer:
    return ppvae.Trainer(vae(seed), options=ppvae.StepOptions(ema=0.9))


def state_of_trainer(found: ppvae.Trainer) -> Any:
    groups = found.state()
    tensors = {name: {key: t.tolist() for key, t in group.items()} for name, group in groups.tensors.items()}
    return tensors, groups.values


def write_trainer(path: Path) -> None:
    found = trainer(0)
    found.step(X)
    found.save(path)


def open_trainer() -> Opened:
    found = trainer(1)

    def read(path: Path) -> Any:
        found.load(path)
        return found.step(X), state_of_trainer(found)

    return lambda: state_of_trainer(found), read


def write_pair(path: Path) -> None:
    pair = vae(0)
    pair.check(X[:3])
    ppvae.save(pair, path)


def open_pair() -> Opened:
    pair = vae(1)
    return lambda: state(pair), lambda path: state(ppvae.load(pair, path))


def open_new_pair() -> Opened:
    return lambda: None, lambda path: state(ppvae.load(path))


def write_report(path: Path) -> None:
    torch.manual_seed(0)
    pair = LinearVAE(4, 1).fit_guide()
    ppvae.gap(pair, X[:8], "quick", seed=0, progress=False).save(path)


def open_report() -> Opened:
    return lambda: None, lambda path: repr(vars(GapReport.load(path)))


def write_annealing(path: Path) -> None:
    annealed(path)


def annealed(path: Path, seed: int = 0) -> Any:
    chains = ppvae.AIS(checkpoint=path, **CHAINS)
    found = ppvae.log_evidence(vae(0), X[:8], "ais", annealing=chains, seed=seed, progress=False)
    return [getattr(found, name).tolist() for name in ("estimate", "std_error", "acceptance", "divergences")]


def open_annealing() -> Opened:
    return torch.get_rng_state().tolist, annealed


KINDS = {
    "checkpoint of fit": (write_checkpoint, open_checkpoint),
    "file of a trainer": (write_trainer, open_trainer),
    "pair, read into another": (write_pair, open_pair),
    "pair, made anew": (write_pair, open_new_pair),
    "report": (write_report, open_report),
    "checkpoint of AIS": (write_annealing, open_annealing),
}


def flipped(content: bytes, chance: random.Random) -> bytes:
    """The content with one bit flipped."""
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def cut(content: bytes, chance: random.Random) -> bytes:
    """A beginning of the content."""
    return content[: chance.randrange(len(content))]


def outcomes(name: str, damage: Callable[[bytes, random.Random], bytes], times: int, seed: int) -> Counter[str]:
    """How often which of the outcomes above came of reading a damaged file of a kind."""
    write, opened = KINDS[name]
    chance, counts = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        write(path)
        content = path.read_bytes()
        expected = repr(opened()[1](path))
        for _ in range(times):
            path.write_bytes(damage(content, chance))
            counts.update(outcome(path, *opened(), expected))
    return counts


def outcome(path: Path, now: Callable[[], Any], read: Callable[[Path], Any], expected: str) -> Iterator[str]:
    before = repr(now())
    try:
        found = repr(read(path))
    except Exception as error:
        refused, changed = isinstance(error, ppvae.CheckpointError), repr(now()) != before
        yield "refused" if refused and not changed else "raw" if not refused else "refused late"
        if changed:
            yield "changed"
    else:
        yield "silent"
        if found != expected:
            yield "wrong"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=2000, help="bits flipped in each kind of file, one at a time")
    parser.add_argument("--truncations", type=int, default=500, help="times that each kind of file is cut short")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in KINDS:
        for what, damage, times in (("flips", flipped, args.flips), ("truncations", cut, args.truncations)):
            start = time.perf_counter()
            found = dict(outcomes(name, damage, times, args.seed))
            print(f"{name}: {times} {what}: {found} in {time.perf_counter() - start:.0f} s", flush=True)
