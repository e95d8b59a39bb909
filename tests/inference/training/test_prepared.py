"""What an objective is prepared with is that of the batch's own arguments: a model may branch on them."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppvae import ELBO, Pair
from ppvae.inference.training.prepared import MOST, Prepared

pytestmark = pytest.mark.usefixtures("float64")


class Branching(Pair):
    """`z2 ~ N(z1, 1)` in the guide; in the model z1 depends on z2 where `level` is above zero."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))

    def model(self, x, level):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2 if level > 0 else 0.0, 1.0))
            pyro.sample("x", dist.Normal(z1 + z2, 1.0), obs=x)

    def guide(self, x, level):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x / 2, self.scale))
            pyro.sample("z2", dist.Normal(z1, self.scale))


@pytest.mark.parametrize("levels", [(0, 1), (1, 0), (0.0, 0.3), (2, 0), (0.5, 0.0), (False, True)], ids=str)
def test_another_value_has_bounds_of_its_own(levels):
    """Those of an objective that is prepared for it alone."""
    pair, x = Branching(), torch.linspace(-1, 2, 500)
    kept = Prepared(ELBO(), pair)
    for level in levels:
        batch, found = {"x": x, "level": level}, []
        for prepared in (kept, Prepared(ELBO(), pair)):
            torch.manual_seed(0)
            found.append([t.detach() for t in prepared(batch)(pair, batch)])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b)


def test_a_run_that_counts_or_anneals_prepares_few_times():
    pair, times = Branching(), []

    class Counted(ELBO):
        def prepared(self, pair, batch):
            times.append(batch["level"])
            return super().prepared(pair, batch)

    prepared = Prepared(Counted(), pair)
    for step in range(200):
        for level in (step, step / 200):
            prepared({"x": torch.zeros(3), "level": level})
    assert times == [0, 0.0, 1, 1 / 200, *range(2, MOST + 2)]
