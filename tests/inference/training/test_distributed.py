"""Several processes: the same training as one, whatever their number, and measurements shared among them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ppvae
from ppvae import StepOptions
from ppvae.models import LinearVAE

SCRIPT = Path(__file__).parents[2] / "support" / "distributed_script.py"
SIZES = [2, pytest.param(3, marks=pytest.mark.slow(90))]


def launch(size, deeds, folder):
    """Runs deeds in so many processes; the exit status, and what each process found by deed."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"] if size > 1 else []
    done = subprocess.run(
        [sys.executable, *torchrun, str(SCRIPT), ",".join(deeds), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = {}
    for deed in deeds:
        files = [folder / f"{deed}.{size}.{rank}.pt" for rank in range(size)]
        found[deed] = [torch.load(f, weights_only=False) for f in files if f.exists()]
    return done, found


def assert_same(one, other, **tolerance):
    torch.testing.assert_close(one, other, **tolerance or {"rtol": 0, "atol": 0})


@pytest.mark.slow(43)
@pytest.mark.parametrize("size", SIZES)
def test_training_and_measuring_together(size, tmp_path):
    deeds = ["train", "noisy", "interrupt", "nan", "other_data", "measure"]
    done, found = launch(size, deeds, tmp_path)
    assert done.returncode == 0, done.stderr
    alone_done, alone = launch(1, ["train", "measure"], tmp_path)
    assert alone_done.returncode == 0, alone_done.stderr
    assert all(len(of_ranks) == size for of_ranks in found.values())
    # a group that is still there while Python ends may abort the process, by its threads
    assert [torch.load(tmp_path / f"remains.{size}.{rank}.pt") for rank in range(size)] == [False] * size

    for mine in found["train"]:  # no noise: the same training, but for the order of sums, and the same bits everywhere
        assert_same(mine["state"], alone["train"][0]["state"], rtol=1e-4, atol=1e-5)
        assert_same(mine["compiled"], alone["train"][0]["state"], rtol=1e-4, atol=1e-5)
        assert_same(torch.tensor(mine["bound"]), torch.tensor(alone["train"][0]["bound"]), rtol=1e-4, atol=1e-4)
        assert_same(torch.tensor(mine["held_out"]), torch.tensor(alone["train"][0]["held_out"]), rtol=1e-4, atol=1e-4)
        assert_same(mine["state"], found["train"][0]["state"])
        for part in ("state", "average", "bounds"):
            assert_same(mine["trainer"][part], alone["train"][0]["trainer"][part], rtol=1e-4, atol=1e-5)
            assert_same(mine["trainer"][part], found["train"][0]["trainer"][part])
        assert mine["state"]["scale"] == torch.tensor(0.1)
        assert_same(mine["state"]["unused"], torch.ones(3))  # not even decayed: it has no gradient

    for mine in found["noisy"]:
        assert_same(mine["resumed"], mine["whole"])
        assert_same(mine["whole"], found["noisy"][0]["whole"])
    for mine in found["interrupt"]:  # at the step that the signal came in, or the one after it
        assert mine["stopped"] == "interrupted"
        assert mine["steps"] in (6, 7)
        assert_same(mine["state"], found["interrupt"][0]["state"])
    for mine in found["nan"]:
        assert mine["steps"] == 2
        assert_same(mine["state"], found["nan"][0]["state"])
    for mine in found["other_data"]:
        assert "data: found" in mine["message"]
        assert "in process 1" in mine["message"]

    one = alone["measure"][0]
    for mine in found["measure"]:
        for exact in ("exact", "mixture elbo"):
            assert_same(mine[exact], one[exact], rtol=1e-10, atol=1e-10)
        estimate, std_error = mine["iwae"]
        assert ((estimate - mine["log p"]) / std_error).abs().max() < 5
        assert_same(estimate, found["measure"][0]["iwae"][0])
        for statistic in ("snr", "value"):  # the same repeats, with the same noise, whoever took them
            assert_same(torch.tensor(mine[statistic]), torch.tensor(one[statistic]), rtol=1e-6, atol=1e-9)
    for rank, mine in enumerate(found["measure"]):  # what was not to be shared is each one's own, as it is alone
        assert len(mine["own"]) == 20 + rank
        assert ((mine["own"] - mine["log p"][: 20 + rank]).abs() < 0.1).all()
    assert_same(found["measure"][0]["own"], one["own"])
    noise = [mine["iwae"][0][0] for mine in found["measure"]]
    assert noise[0] != one["iwae"][0][-1]


@pytest.mark.slow(20)
@pytest.mark.parametrize("size", SIZES)
def test_what_calls_and_callbacks_change_is_the_same_in_all(size, tmp_path):
    done, found = launch(size, ["counted"], tmp_path)
    assert done.returncode == 0, done.stderr
    _, alone = launch(1, ["counted"], tmp_path)
    assert (alone["counted"][0]["count"], alone["counted"][0]["seen"]) == (16, True)
    for mine in found["counted"]:
        assert_same(mine, found["counted"][0])
        assert_same(mine, alone["counted"][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "then"), [pytest.param(2, then, marks=pytest.mark.slow(30)) for then in (1, 3)])
def test_one_is_killed_and_others_go_on(size, then, tmp_path):
    done, _ = launch(size, ["kill"], tmp_path)
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr
    done, found = launch(then, ["resume"], tmp_path)
    assert done.returncode == 0, done.stderr
    _, alone = launch(1, ["train"], tmp_path)
    for mine in found["resume"]:
        assert len(mine["bound"]) == 24
        assert_same(mine["state"], alone["train"][0]["state"], rtol=1e-4, atol=1e-5)


def test_alone_it_cannot_be_asked_for():
    with pytest.raises(ValueError, match="distributed: found True without a process group"):
        ppvae.elbo(LinearVAE(4, 2), torch.randn(9, 4), progress=False, distributed=True)
    alone = ppvae.elbo(LinearVAE(4, 2), torch.randn(9, 4), progress=False, distributed="auto")
    assert len(alone.estimate) == 9
    with pytest.raises(ValueError, match="distributed: found True without a process group"):
        ppvae.fit(LinearVAE(4, 2), torch.randn(9, 4), epochs=1, options=StepOptions(distributed=True), progress=False)
    with pytest.raises(ValueError, match="distributed: found 'yes', expected 'auto', True or False"):
        ppvae.fit(LinearVAE(4, 2), torch.randn(9, 4), epochs=1, options=StepOptions(distributed="yes"), progress=False)
