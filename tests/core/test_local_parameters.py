"""Parameters of each row in a plate that is told which rows it has: any rows may be given, in any order."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoNormal, init_to_value

import ppvae
from ppvae import Pair

pytestmark = pytest.mark.usefixtures("float64")
NUM = 6
LOCS, SCALES = torch.linspace(-1.0, 1.0, NUM).double(), torch.linspace(0.3, 0.8, NUM).double()


def plate(x, index):
    return pyro.plate("data", NUM, subsample=index, dim=-1)


def model(x, index):
    with plate(x, index):
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)


def by_event_dim(x, index):
    with plate(x, index):
        loc = pyro.param("loc", LOCS, event_dim=0)
        scale = pyro.param("scale", SCALES, constraint=constraints.positive, event_dim=0)
        pyro.sample("z", dist.Normal(loc, scale))


def by_hand(x, index):
    loc, scale = pyro.param("loc", LOCS), pyro.param("scale", SCALES, constraint=constraints.positive)
    with plate(x, index) as rows:
        pyro.sample("z", dist.Normal(loc[rows], scale[rows]))


def shared_scale(x, index):
    with plate(x, index):
        loc = pyro.param("loc", LOCS, event_dim=0)
        scale = pyro.param("scale", torch.full((1,), 0.5), constraint=constraints.positive, event_dim=0)
        pyro.sample("z", dist.Normal(loc, scale))


def auto_normal():
    guide = AutoNormal(model, init_loc_fn=init_to_value(values={"z": LOCS}), init_scale=0.5, create_plates=plate)
    guide(torch.zeros(NUM), torch.arange(NUM))
    return guide


HALF = torch.full((NUM,), 0.5)
GUIDES = {
    "event_dim": (lambda: by_event_dim, SCALES),
    "by hand": (lambda: by_hand, SCALES),
    "one scale for all": (lambda: shared_scale, HALF),
    "AutoNormal": (auto_normal, HALF),
}
ROWS = {
    "all": torch.arange(NUM),
    "all, in another order": torch.tensor([3, 0, 5, 4, 1, 2]),
    "some": torch.tensor([4, 1, 2]),
    "some twice": torch.tensor([4, 4, 1]),
    "as many, some twice": torch.tensor([5, 5, 1, 1, 0, 2]),
    "more": torch.tensor([5, 4, 3, 2, 1, 0, 5, 4]),
}


@pytest.fixture(autouse=True)
def empty_store():
    with pyro.get_param_store().scope():
        yield


@pytest.mark.parametrize("particles", ["leading", "rows"])
@pytest.mark.parametrize("index", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize(("make", "scales"), GUIDES.values(), ids=GUIDES)
def test_each_row_has_its_own_parameters(make, scales, index, particles):
    x = torch.randn(NUM)
    pair = Pair.of(model, make(), (x, torch.arange(NUM)))
    assert pair.own_rows is None
    assert pair.particles == "leading"
    pair.particles = particles
    weights = pair.log_weights((x[index], index), 2)  # as many as make the rows of a plate, where there are three
    expected = dist.Normal(LOCS[index], scales[index]).log_prob(weights.latents["z"])
    torch.testing.assert_close(weights.log_q, expected)


@pytest.mark.slow(6)
def test_it_is_trained_on_shuffled_batches_of_any_size():
    """To the exact posterior of each row, N(x / 2, 1/2): the gradient reaches the row's own entries alone."""
    x = torch.randn(NUM)
    for batch_size in (NUM, 4):
        pair = Pair.of(model, by_event_dim, (x, torch.arange(NUM)))
        settings = {"steps": 800, "lr": 0.05, "schedule": lambda done: 0.01**done}
        ppvae.fit(
            pair, (x, torch.arange(NUM)), ppvae.ELBO(gradient="stl"), batch_size=batch_size, progress=False, **settings
        )
        gap = ppvae.elbo(pair, (x, torch.arange(NUM)), progress=False).estimate - dist.Normal(0.0, 2**0.5).log_prob(x)
        assert gap.abs().max() < 1e-3


@pytest.mark.parametrize("particles", ["leading", "rows"])
def test_a_model_is_told_its_own_rows_whatever_the_guides_plate_says(particles):
    """A guide that computes from the data has no use for the rows' numbers; its plate counts them from zero."""
    offsets = torch.arange(1000.0)

    def model(x, index):
        with pyro.plate("data", 1000, subsample=index) as rows:
            z = pyro.sample("z", dist.Normal(offsets[rows], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, index):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + offsets[index]) / 2, 0.5**0.5))

    index = torch.tensor([7, 200, 9, 4])
    x = offsets[index] + torch.randn(4)
    pair = Pair.of(model, guide, example=(x, index))
    pair.particles = particles
    exact = dist.Normal(offsets[index], 2**0.5).log_prob(x)  # the guide is exact, too
    assert torch.allclose(pair.log_weights((x, index), num_particles=5).log_w, exact.expand(5, 4))
    assert torch.allclose(ppvae.elbo(pair, (x, index), progress=False).estimate, exact)
