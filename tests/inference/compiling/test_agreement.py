"""A program's results are the eager ones: to the last bit, or to rounding."""

import pytest
import torch

from ppvae.inference.compiling.agreement import refuse_other_results
from ppvae.inference.compiling.inputs import CannotCompileError

BOUND, GRADIENT, SMALL = torch.tensor([-90.0, 0.0]), torch.linspace(-1, 1, 200), 1e-8 * torch.ones(5)
RESULTS = [BOUND, GRADIENT, SMALL, torch.tensor(3)]


def changed(number, new):
    return [new if i == number else t for i, t in enumerate(RESULTS)]


ROUNDING = {
    "bound": changed(0, BOUND * (1 + 1e-5)),
    "gradient": changed(1, GRADIENT * (1 + 1e-5)),
    "one entry, as of a draw": changed(1, GRADIENT + 0.5 * (torch.arange(200) == 7)),
    "what is rounding alone": changed(2, -SMALL),
}
OTHERS = {
    "bound": changed(0, BOUND + 0.2),
    "gradient": changed(1, GRADIENT * 1.05),
    "no gradient": changed(1, torch.zeros(200)),
    "half of a gradient": changed(1, torch.cat([GRADIENT[:100], torch.zeros(100)])),
    "NaN": changed(1, GRADIENT * torch.nan),
    "count": changed(3, torch.tensor(4)),
    "fewer": RESULTS[:-1],
    "shape": changed(1, GRADIENT[:100]),
}


def test_equal_results_agree():
    unknown = changed(1, GRADIENT * torch.nan)
    for results in (RESULTS, unknown):
        assert refuse_other_results(results, results, exact=True) is None  # and nothing is raised


@pytest.mark.parametrize("name", ROUNDING)
def test_rounding_agrees_but_not_exactly(name):
    refuse_other_results(ROUNDING[name], RESULTS, exact=False)
    with pytest.raises(CannotCompileError, match=r"the compiled bound is|not the eager one to the last bit"):
        refuse_other_results(ROUNDING[name], RESULTS, exact=True)


@pytest.mark.parametrize("name", OTHERS)
def test_other_results_are_refused(name):
    with pytest.raises(CannotCompileError, match="does the model, the guide or the objective decide something"):
        refuse_other_results(OTHERS[name], RESULTS, exact=False)
