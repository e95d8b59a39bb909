"""Pairs broken on purpose, in one way each: the verdict names it."""

from dataclasses import replace

import pytest
import torch
from support.broken_pairs import BROKEN, collapsed_layer
from support.zoo import ZOO

import ppvae
from ppvae import AIS, Effort
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.verdicts import causes

EFFORT = Effort("auto", 500, (AIS(num_temperatures=50),), 100, Ascent(max_steps=300), restarts=0, refit_steps=1000)
WITHOUT_RICHER = replace(EFFORT, richer=False)
"""Where another cause than the family's is to weigh most: it must then weigh more than all of the family's together."""


SECONDS = {
    "narrow_encoder": 120,
    "wide_likelihood": 120,
    "untrained_guide": 120,
    "diagonal_on_rotated": 30,
    "collapsed": 25,
    "diagonal_on_sum": 25,
}
"""Of the pairs whose verdict takes longest."""
LONG = [name for name, seconds in SECONDS.items() if seconds > 100]


@pytest.mark.parametrize(
    "make",
    [pytest.param(m, marks=[pytest.mark.slow(SECONDS[m.__name__])] if m.__name__ in SECONDS else []) for m in BROKEN],
)
def test_the_cause_is_named(make):
    pair, (train, test) = make()
    effort = EFFORT if make.__name__ in LONG or BROKEN[make] == "correlation" else WITHOUT_RICHER
    report = ppvae.gap(pair, test, effort, train=train, seed=0, progress=False)
    found = causes(report)
    assert found[0].name == BROKEN[make], [(cause.name, cause.nats) for cause in found]
    assert f"The main cause is {BROKEN[make]} (" in report.verdict()
    assert f"): {found[0].says} {found[0].remedy}" in report.verdict()


@pytest.mark.slow(60)
def test_a_layer_that_says_nothing_is_no_cause():
    pair, (_, test) = collapsed_layer()
    report = ppvae.gap(pair, test, WITHOUT_RICHER, seed=0, progress=False)
    assert "collapse" not in [cause.name for cause in causes(report)]
    assert "Unused: z2; the guide is the prior there" in report.verdict()


def test_one_dimension_has_no_correlations():
    """A failed refinement once gave one latent 9.66 nats of correlation; what is gained there is the shape's."""
    pair, x = ZOO["positive"].make()
    effort = Effort("iwae", 100, num_samples=50, ascent=Ascent(max_steps=60), restarts=0)
    report = ppvae.gap(pair, x, effort, seed=0, progress=False)
    assert report.elbo_full_rank is not None
    assert report.correlation_gap is None
    torch.testing.assert_close(report.shape_gap.estimate, report.elbo_flow.estimate - report.elbo_refined.estimate)
    whole = report.shape_gap.estimate + report.remaining_gap.estimate
    torch.testing.assert_close(whole, report.approximation_gap.estimate)
