"""Every public callable, called with one argument malformed: it says so clearly, and leaves nothing changed."""

import inspect
import math
import re
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings, strategies as st
from support import malformed_calls
from support.malformed_calls import CLASSES, TABLE, Case, cases, check_valid, public_methods, public_names, run

import ppvae
from ppvae import AIS, ContractError
from ppvae.models import VAE, GaussianMixture, LinearVAE

NOT_CALLED = {
    *("CheckpointError", "ContractError", "EvidenceUndefined", "NonFiniteError"),  # raised, not called
    *("Objective", "Pair", "inference.WeightObjective"),  # to be subclassed, as are the next
    *("models.Likelihood", "models.MaskedNetwork", "models.StateSpace"),
    *("MLflowLogger", "TensorBoardLogger", "WandbLogger"),  # of packages that may not be there
    "models.polyphony",  # takes nothing
}
INNER = {
    *(
        "model",
        "guide",
        "forward",
        "load_state_dict",
        "push",
        "pull",
        "log_abs_det_jacobian",
        "expand",
        "mapped",
        "moved",
    ),  # torch and Pyro call them
    *("at", "besides", "bound", "draw", "exact_value", "parts", "prepared", "probe", "scheduled", "squared"),
    *("features", "of_each", "start_at", "step"),  # of masked networks
    *("surrogate", "weigh"),  # with those before the masked networks': what training asks of an objective
    *("m_step", "take_step", "launch_step", "set_state", "decoded", "denoised", "elbo_term", "sigma", "start_sigma"),
    *("threads", "undone_on_error"),  # of `Trainer`, with those before
    *("assign", "best_elbo", "counts", "place", "scaled"),
    *("draw_codes", "indices", "laid_under", "vectors"),  # of codes, with those before
    *("generate", "decode"),  # of pairs with an adversary
    *("seen", "written", "prior_given"),  # of pairs with a canvas
    *("transition", "likelihood", "time_steps", "state", "advance"),  # of sequences
    "shared_posterior",  # of several modalities
    *("given_label", "of", "by_column"),  # of labels, of the objectives that sum them out, and of tables
    *("log_prob", "exact_elbo", "sample"),  # of `Pair`, which are overridden, and of `Autoencoder`, which has none
}
"""Methods that the library calls, with what it has checked before."""

LEAST_CLEAR = 0.95
"""The share of malformed calls that are to be refused clearly; most others are torch's refusals of NaN."""

CASES = cases()
SLOW = ("gap", "gap_by_pattern", "to_arviz", "gradient_statistics", "local_classifier_test")
QUICK = [case for case in CASES if case.name not in SLOW]


def test_every_public_callable_is_called():
    called = TABLE.keys() | NOT_CALLED
    assert [
        name for name in public_names() if name not in called and name.removeprefix("inference.") not in called
    ] == []


def test_every_public_method_is_called():
    called = {re.sub(r"^(models|inference|datasets)\.", "", name) for name in TABLE}
    takes_something = {
        name for name, method in public_methods().items() if len(inspect.signature(method).parameters) > 1
    }
    assert [name for name in takes_something - called if name.rpartition(".")[2] not in INNER] == [
        "Likelihood.init_from"
    ]


@pytest.mark.slow(0.1)
@pytest.mark.parametrize("name", TABLE)
def test_calls_without_a_malformed_argument_are_valid(name):
    check_valid(name)


@settings(max_examples=250, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.sampled_from(QUICK))
@example(Case("Effort", "evidence", "typo"))
@example(Case("fit_em", "restarts", "nan"))
@example(Case("fit_em", "data", "nan"))
@example(Case("fit", "objective", "its class"))
@example(Case("fit", "data", "nan"))
@example(Case("models.VAE.init_from", "x", "nan"))
@example(Case("log_evidence", "data", "too wide"))
@example(Case("compare", "evidences", "{object}"))
def test_malformed_calls_are_refused_and_leave_nothing_changed(case):
    """Not one is taken for a meant one, hangs, or leaves something behind. Some are refused by torch or NumPy."""
    outcome = run(case)
    assert outcome.verdict in ("clear", "plain", "works", "obscure"), outcome
    assert outcome.left == (), outcome


@pytest.mark.slow(100)
def test_nearly_all_malformed_calls_are_refused_clearly():
    outcomes = [run(case) for case in CASES]
    counts = Counter(outcome.verdict for outcome in outcomes)
    judged = sum(counts[name] for name in CLASSES if name != "works")
    assert counts["clear"] + counts["plain"] > LEAST_CLEAR * judged, counts
    assert counts["hangs"] == 0
    assert [case for case, outcome in zip(CASES, outcomes, strict=True) if outcome.verdict == "accepted"] == []
    assert [case for case, outcome in zip(CASES, outcomes, strict=True) if outcome.left] == []


NUMBERS = st.integers() | st.floats() | st.booleans() | st.none() | st.text(max_size=3) | st.complex_numbers()


def is_whole(value, least):
    return type(value) is int and least <= value <= 10**9


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(NUMBERS, st.sampled_from(["num_chains", "num_temperatures", "num_leapfrog"]))
def test_counts_are_whole_numbers_of_one_at_least(value, name):
    if is_whole(value, 1):
        assert getattr(AIS(**{name: value}), name) == value
    else:
        with pytest.raises((TypeError, ValueError), match=f"^{name}: found .*, expected at (least|most) "):
            AIS(**{name: value})


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(NUMBERS)
def test_rates_are_finite_and_not_negative(value):
    if type(value) in (int, float) and 0 <= value < math.inf and not (type(value) is int and value >= 2**63):
        ppvae.Trainer(LinearVAE(3, 2), lr=value)
    else:
        with pytest.raises((TypeError, ValueError), match=r"^lr: found .*, expected 0 or more, a finite number"):
            ppvae.Trainer(LinearVAE(3, 2), lr=value)


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(st.text(max_size=8) | NUMBERS)
def test_choices_are_only_those_that_are_listed(value):
    choices = ("full", "diagonal", "spherical", "tied")
    if value in choices:
        GaussianMixture(2, 2, value)
    else:
        with pytest.raises(ValueError, match=r"^covariance: found .*, expected one of 'full', 'diagonal'"):
            GaussianMixture(2, 2, value)


def test_a_schedule_below_zero_is_refused_and_the_pair_stays():
    pair = LinearVAE(3, 2)
    before = malformed_calls.content(pair)
    for bad in (lambda done: -1.0, lambda done: math.nan):
        with pytest.raises(ValueError, match=r"schedule: found .* at step 0, expected a finite factor of 0 or more"):
            ppvae.fit(pair, pair.sample(10), steps=2, schedule=bad, progress=False)
    assert malformed_calls.content(pair) == before


def test_a_run_of_training_is_drawn_as_it_is(tmp_path):
    import matplotlib.pyplot as plt

    pair = LinearVAE(3, 2)
    run_of_fit = ppvae.fit(pair, pair.sample(10), epochs=3, progress=False)
    ax = plt.figure().subplots()
    ppvae.plots.training(ax, run_of_fit)
    ppvae.plots.training(ax, {"a": run_of_fit, "b": [-3.0, -2.0]})
    assert [len(line.get_xdata()) for line in ax.lines] == [3, 3, 2]
    ppvae.plots.training(run_of_fit)
    assert len(plt.gca().lines) == 1
    plt.close("all")


def test_em_that_fails_on_a_later_batch_leaves_the_mixture_as_it_was():
    mixture = GaussianMixture(2, 3)
    before = malformed_calls.content(mixture)
    good = torch.randn(20, 3)
    with pytest.raises(ValueError, match=r"data\[0\]: found nan at index \(0, 0\)"):
        ppvae.fit_streaming_em(mixture, [good, torch.full((20, 3), math.nan)])
    assert malformed_calls.content(mixture) == before


@pytest.mark.parametrize("method", ["auto", "iwae"])
def test_data_of_another_shape_than_the_example_are_named(method):
    pair = LinearVAE(3, 2)
    with pytest.raises(ContractError, match=r"data: found rows of shape \[4\], expected \[3\], as in pair.example"):
        ppvae.log_evidence(pair, torch.zeros(5, 4), method)
    with pytest.raises(ContractError, match=r"data: found rows of shape {'y': \[3\]}, expected \[3\]"):
        pair.encode({"y": torch.zeros(5, 3)})


@pytest.mark.parametrize("likelihood", ["gaussian", "heteroscedastic", "logistic_mixture"])
def test_a_spread_is_not_taken_of_one_row(likelihood):
    pair = VAE.mlp(3, 2, [4], likelihood, levels=3)
    before = malformed_calls.content(pair)
    with pytest.raises(ValueError, match=r"x: found a Tensor of shape .*2 rows or more"):
        pair.init_from(torch.zeros(1, 3))
    assert malformed_calls.content(pair) == before
