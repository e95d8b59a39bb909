"""The command line prints what the functions return, and ends with status 2 and the package's own messages."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ppvae
from ppvae.command_line import data_in, main

MODULE = """
import torch
from ppvae.models import LinearVAE

torch.manual_seed(0)
good = LinearVAE(num_features=3, num_latents=1).fit_guide()
number = 3

def made():
    torch.manual_seed(1)
    return LinearVAE(num_features=3, num_latents=2)

def broken():
    return {}["absent"]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_pairs.py").write_text(MODULE)
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    np.save("x.npy", x)
    np.savez("x.npz", x=x)
    np.savetxt("x.csv", x, delimiter=",", header="a,b,c", comments="")
    yield tmp_path
    sys.modules.pop("my_pairs", None)


def test_the_table_of_data_sets_is_that_of_load(capsys):
    assert main(["datasets"]) == 0
    names = [line.split('"')[1] for line in capsys.readouterr().out.splitlines()[2:]]
    with pytest.raises(ValueError, match=r"expected one of \[" + ", ".join(f"'{name}'" for name in sorted(names))):
        ppvae.datasets.load("none")


@pytest.mark.parametrize("data", ["x.npy", "x.npz", "x.csv"])
def test_gap_prints_and_keeps_the_report(folder, data, capsys):
    assert (
        main(
            ["gap", "my_pairs.py:good", data, "--effort", "quick", "--save", "report.safetensors", "--html", "gap.html"]
        )
        == 0
    )
    kept = ppvae.GapReport.load("report.safetensors")
    x = torch.as_tensor(np.load("x.npy"))
    own = ppvae.gap(good_pair(), x, "quick", seed=0, progress=False)
    assert torch.equal(kept.elbo.estimate, own.elbo.estimate)
    assert torch.equal(kept.log_evidence.estimate, own.log_evidence.estimate)
    printed = capsys.readouterr().out
    assert own.verdict() in printed
    assert "which is exact" in Path("gap.html").read_text()
    assert f"{own.mean().estimate:z.3f}" in printed


def test_where_the_page_cannot_be_written_is_said_before_measuring(folder, capsys):
    Path("gap.html").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["gap", "my_pairs.py:good", "x.npy", "--html", "gap.html"])
    assert ended.value.code == 2
    assert "found a directory" in capsys.readouterr().err


def good_pair():
    names = {}
    exec(MODULE, names)
    return names["good"]


def test_compare_ranks_pairs_of_all_kinds_by_exact_evidence(folder, capsys):
    ppvae.save(good_pair(), "kept.safetensors")
    assert main(["compare", "my_pairs:made", "my_pairs:good", "kept.safetensors", "x.npy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    x, names = torch.as_tensor(np.load("x.npy")), {}
    exec(MODULE, names)
    good, made = (pair.log_prob(x).sum().item() for pair in (names["good"], names["made"]()))
    found = [(line.split()[0], float(line.split()[2])) for line in lines[1:]]
    of = {"my_pairs:good": good, "kept.safetensors": good, "my_pairs:made": made}
    assert dict(found) == pytest.approx(of, abs=6e-4)
    assert [elpd for _, elpd in found] == sorted((elpd for _, elpd in found), reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gp"], "command: found 'gp', expected 'datasets', 'gap' or 'compare'; did you mean 'gap'?"),
        (["gap", "my_pairs:good"], "the following arguments are required: data"),
        (["gap", "my_pairs:good", "x.npy", "--seed", "-1"], "--seed: found '-1', expected a whole number"),
        (["gap", "none_here:good", "x.npy"], "importing none_here fails (ModuleNotFoundError"),
        (["gap", "my_pairs:goood", "x.npy"], "found no 'goood' in my_pairs, expected one of its names; its pairs are"),
        (["gap", "my_pairs:number", "x.npy"], "my_pairs:number is 3, expected a Pair"),
        (["gap", "my_pairs:LinearVAE", "x.npy"], "LinearVAE in my_pairs, which needs arguments (missing a required"),
        (["gap", "my_pairs:broken", "x.npy"], "broken in my_pairs fails (KeyError: 'absent'), expected a pair"),
        (["gap", "my_pairs:good", "x.txt"], "data: found 'x.txt', expected a file whose name ends in .npy"),
        (["gap", "my_pairs:good", "none.npy"], "No such file or directory: 'none.npy'"),
        (["gap", "my_pairs:good", "x.npy", "--effort", "quik"], "effort: found 'quik', expected"),
        (["compare", "my_pairs:good", "x.npy", "--method", "auo"], "method: found 'auo', expected"),
        (["gap", "x.npy", "x.npy"], "x.npy: "),
        (["gap", "my_pairs", "x.npy"], "no file 'my_pairs', expected one that ppvae.save wrote, MODULE:NAME or"),
    ],
)
def test_what_is_wrong_is_said_with_status_2(folder, arguments, message, capsys):
    assert message in said_with_status_2(arguments, capsys)


def said_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


FILES = {
    "numbers.csv": (b"0.5,0.5,2\n1,2,3\n", "first line is of numbers, where a header should name the columns"),
    "index.csv": (b",a,b\n0,1,2\n", "a column without a name, 'Unnamed: 0', as pandas writes its index"),
    "counted.csv": (b",0,1\n0,1,2\n", "cannot be read"),
    "header.csv": (b"a,b\n", "data: found 0 data points, expected at least 1"),
    "empty.csv": (b"", "empty.csv, which cannot be read (No columns to parse from file)"),
    "empty.npy": (b"", "empty.npy, which cannot be read"),
    "text.npy": (b"hello", "text.npy, which cannot be read (no array of numbers), expected numbers, as numpy.save"),
    "text.npz": (b"hello", "text.npz, which cannot be read (no arrays of numbers)"),
    "short.npz": (b"PK\x03\x04", "short.npz, which cannot be read (File is not a zip file)"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_hold_no_data_are_named(folder, name, capsys):
    content, message = FILES[name]
    Path(name).write_bytes(content)
    assert message in said_with_status_2(["gap", "my_pairs:good", name], capsys)


@pytest.mark.parametrize("header", ["a,b,c", "0,1,2", "1,x,2.5"])
def test_of_a_table_all_rows_below_the_header_are_data(tmp_path, header):
    """Also where the columns are counted, as pandas names them that have no name."""
    (tmp_path / "x.csv").write_text(f"{header}\n0.5,1,2\n3,4,5\n")
    assert data_in(str(tmp_path / "x.csv")).to_numpy().tolist() == [[0.5, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_help_needs_no_torch(tmp_path):
    script = "import sys; sys.argv = ['ppvae', '--version']; import ppvae.command_line as c\ntry: c.main()\n"
    script += "except SystemExit: print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == [f"ppvae {ppvae.__version__}", "False"]


def test_python_m_runs_it():
    ran = subprocess.run([sys.executable, "-m", "ppvae", "--help"], capture_output=True, text=True, check=True)
    assert "usage: ppvae" in ran.stdout
    assert "compare" in ran.stdout
