"""Pyro pairs, unchanged: each is held to plain Pyro on repeated rows, and to closed form where there is one.

Those that have no log probability per row are refused, and the remedy that the refusal names is followed. The programs
are in `support.corpus`.
"""

import ast
from functools import cache
from pathlib import Path

import pytest
import torch
from support import corpus
from support.corpus import CORPUS
from support.corpus.oracle import elbo, iwae, log_weights

import ppvae
from ppvae import Pair

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore"),  # such as that a pair goes by rows: what is held here are numbers
]

PARTICLES = 400
K_STANDARD_ERRORS = 5.0
ROUNDING = 1e-8


def cases(running):
    """The names of the programs that must run, or of those that must be refused."""
    return [name for name, entry in CORPUS.items() if (entry.expected == "runs") == running]


RUNNING, REFUSED = cases(True), cases(False)


@cache
def oracle_log_weights(name):
    """Plain Pyro's log weights; fewer where each takes a run of its own."""
    program = CORPUS[name].working_program()
    return log_weights(program, PARTICLES if program.repeatable else PARTICLES // 4)


def assert_close(found, expected, *std_errors):
    """Within five joint standard errors, and the rounding of those that have none."""
    joint = sum(error.square() for error in std_errors).sqrt()
    off = (found - expected).abs()
    assert found.shape == expected.shape
    assert (off < K_STANDARD_ERRORS * joint + ROUNDING).all(), f"found {found}, expected {expected} +- {joint}"


# The oracle itself.


def test_the_corpus_is_large_enough():
    assert len(RUNNING) >= 44
    assert len(REFUSED) >= 10


@pytest.mark.parametrize("name", CORPUS)
def test_plain_pyro_agrees_with_closed_forms(name):
    program, log_w = CORPUS[name].working_program(), oracle_log_weights(name)
    assert log_w.isfinite().all()
    for exact, bound in ((program.log_evidence, iwae), (program.elbo, elbo)):
        if exact is not None:
            with torch.no_grad():
                expected = exact(program.data)
            estimate, std_error = bound(log_w)
            assert_close(estimate, expected, std_error)


def test_the_oracle_needs_nothing_of_ppvae():
    """The corpus imports neither the package nor a helper that does."""
    files = list(Path(corpus.__file__).parent.glob("*.py"))
    assert len(files) > 10
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith(("ppvae", "support")) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.module.startswith("support.corpus") or not node.module.startswith(("ppvae", "support"))


# The pairs.


def measured(program):
    pair = Pair.of(program.model, program.guide, program.example, **given(program))
    settings = {"seed": 0, "progress": False}
    return (
        pair,
        ppvae.elbo(pair, program.data, PARTICLES, **settings),
        ppvae.log_evidence(pair, program.data, "iwae", PARTICLES, **settings),
    )


def given(program):
    return {"condition": program.condition} if program.condition else {}


def assert_measured_right(name, program):
    """Both bounds against plain Pyro's and closed forms, in the layout that the code allows."""
    pair, bound, evidence = measured(program)
    for found, of, exact in ((bound, elbo, program.elbo), (evidence, iwae, program.log_evidence)):
        assert_close(found.estimate, *of(oracle_log_weights(name)), found.std_error)
        if exact is not None:
            with torch.no_grad():
                assert_close(found.estimate, exact(program.data), found.std_error)
    assert pair.particles == CORPUS[name].particles


@pytest.mark.parametrize("name", RUNNING)
def test_a_program_runs_unchanged(name):
    assert_measured_right(name, CORPUS[name].program())


@pytest.mark.parametrize("name", REFUSED)
def test_a_program_is_refused_with_a_remedy_that_works(name):
    entry = CORPUS[name]
    with pytest.raises((ppvae.ContractError, TypeError), match=entry.expected):
        measured(entry.program())
    assert_measured_right(name, entry.working_program())
