"""Damaged files of every kind are refused, wherever a bit has flipped or the file ends, and change nothing."""

import random

import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from support.disks import fill
from support.file_damage import CHAINS, KINDS, X, annealed, cut, flipped, outcome, outcomes, vae

import ppvae
from ppvae.inference.runtime.checkpoint import CheckpointError, read

SECONDS = {"checkpoint of fit": 400, "checkpoint of AIS": 250}
"""That 2000 flips take; 30 of the other kinds."""


@pytest.mark.parametrize(
    ("name", "damage", "times"),
    [
        *((name, damage, times) for name in KINDS for damage, times in ((flipped, 8), (cut, 3))),
        *(
            pytest.param(name, damage, times, marks=pytest.mark.slow(SECONDS.get(name, 30) * times // 2000))
            for name in KINDS
            for damage, times in ((flipped, 400), (cut, 100))
        ),
    ],
)
def test_a_damaged_file_is_refused(name, damage, times):
    assert outcomes(name, damage, times, seed=0) == {"refused": times}


@pytest.mark.slow(5)
@pytest.mark.parametrize("name", KINDS)
def test_what_all_readers_begin_with_refuses_it_wherever_the_damage_is(name, tmp_path):
    """By itself, and so more often."""
    path, chance = tmp_path / "file", random.Random(1)
    KINDS[name][0](path)
    content = path.read_bytes()
    for damage, times in ((flipped, 2000), (cut, 500)):
        for _ in range(times):
            path.write_bytes(damage(content, chance))
            with pytest.raises(CheckpointError):
                read(path)


@pytest.mark.slow(20)
@pytest.mark.parametrize("name", ["pair, made anew", "report"])
def test_every_single_bit_of_a_file_counts(name, tmp_path):
    """Of booleans, too: a copy of them keeps one bit of eight."""
    write, opened = KINDS[name]
    path = tmp_path / "file"
    write(path)
    content, (now, use) = path.read_bytes(), opened()
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert list(outcome(path, now, use, "")) == ["refused"], bit


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("changed", ["sha256", "format", "about"])
def test_a_file_without_a_checksum_or_of_another_format_is_refused(changed, name, tmp_path):
    write, opened = KINDS[name]
    write(tmp_path / "file")
    with safe_open(tmp_path / "file", framework="pt") as file:
        tensors, metadata = {key: file.get_tensor(key).clone() for key in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(tensors, tmp_path / "file", {key: value for key, value in metadata.items() if key != changed})
    now, use = opened()
    before = repr(now())
    with pytest.raises(CheckpointError, match="format None" if changed == "format" else "found no checksum"):
        use(tmp_path / "file")
    assert repr(now()) == before


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_another_kind_is_refused(name, tmp_path):
    """But that a pair can be read from what training has written."""
    holds_a_pair = {"checkpoint of fit", "file of a trainer"}
    for other, (write, _) in KINDS.items():
        if other.split(",")[0] == name.split(",")[0] or (name.startswith("pair") and other in holds_a_pair):
            continue
        now, use = KINDS[name][1]()
        write(tmp_path / other)
        before = repr(now())
        with pytest.raises(CheckpointError):
            use(tmp_path / other)
        assert repr(now()) == before


@pytest.mark.parametrize("path", ["", "/dev/null"])
def test_what_is_no_file_is_not_read(path, tmp_path):
    with pytest.raises(CheckpointError, match="found a directory, a device or a pipe"):
        read(tmp_path / path)


def test_annealing_knows_its_seed(tmp_path):
    annealed(tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"settings\.seed: found 0, expected 5"):
        annealed(tmp_path / "file", seed=5)
    assert annealed(tmp_path / "file") == annealed(tmp_path / "other")
    assert annealed(tmp_path / "another", seed=5) != annealed(tmp_path / "file")


def test_draws_are_not_gone_on_with_from_log_weights(tmp_path):
    annealed(tmp_path / "file")
    chains = ppvae.AIS(checkpoint=tmp_path / "file", **CHAINS)
    with pytest.raises(CheckpointError, match=r"settings\.result: found log weights, expected draws"):
        ppvae.to_arviz(vae(0), X[:8], num_samples=2, posterior="annealed", annealing=chains, seed=0, progress=False)


def test_annealing_goes_on_where_its_results_cannot_be_kept(small_disk):
    expected = annealed(small_disk / "file")
    (small_disk / "file").unlink()
    fill(small_disk)
    with pytest.warns(UserWarning, match=f"finished data points are not kept.*{small_disk / 'file'}"):
        assert annealed(small_disk / "file") == expected


def test_a_bad_place_for_results_is_found_before_any_are_measured(tmp_path):
    with pytest.raises(ValueError, match="path: found a directory"):
        annealed(tmp_path)
    with pytest.raises(TypeError, match="checkpoint: found 5, expected a file's path"):
        ppvae.AIS(checkpoint=5)
