"""A row whose log probability depends on the other rows of its batch is refused, however it depends on them."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from support.functions import Functions, assert_says, refusal, scalar_guide, scalar_model

from ppvae import Pair, log_evidence
from ppvae.models import LinearVAE

X = torch.tensor([0.3, 5.0, -1.0, 0.2, 0.9, -0.4, 0.1, 2.0, -3.0])


def noise_by(scale):
    """Its scale is a function of the data and the latents."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0 + scale(x, z)), obs=x)

    return model


OF_DATA = {
    "largest": lambda x, z: x.max().exp(),
    "largest in absolute value": lambda x, z: x.abs().max(),
    "smallest": lambda x, z: x.min().exp(),
    "median": lambda x, z: x.median().exp(),
    "mean": lambda x, z: x.mean(0).exp(),
    "number": lambda x, z: float(len(x)),
    "largest of latents": lambda x, z: z.exp().max(),
    "deviation": lambda x, z: (z - x).square().mean().sqrt(),
    "next": lambda x, z: x.roll(1).abs(),
    "sum of those before": lambda x, z: x.abs().cumsum(0),
}


@pytest.mark.parametrize("num_rows", [2, 3, 6, 9])
@pytest.mark.parametrize("dependence", OF_DATA)
def test_rows_that_depend_on_others(dependence, num_rows):
    for place in range(num_rows):  # wherever the extreme row is
        x = X[:num_rows].roll(place)
        message = refusal(Functions(noise_by(OF_DATA[dependence]), scalar_guide), x)
        assert_says(message, "model site 'x'", "depends on the other rows of its batch", "each row to stand for itself")


@pytest.mark.parametrize("dependence", OF_DATA)
def test_a_guide_whose_rows_depend_on_others(dependence):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0 + OF_DATA[dependence](x, torch.zeros_like(x))))

    if "latents" not in dependence:
        assert_says(refusal(Functions(scalar_model, guide), X), "guide site 'z'", "depends on the other rows")


@pytest.mark.parametrize("ties", [1, 2])
def test_steps_counted_by_the_longest_row(ties):
    def model(x, length):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, length / length.max()), obs=x)

    length = torch.tensor([3, 10, 4, 10 if ties == 2 else 5, 6, 2, 8])
    pair = Functions(model, lambda x, length: scalar_guide(x))
    assert_says(refusal(pair, (X[:7], length)), "model site 'x'", "depends on the other rows")


def test_one_site_for_each_step_of_the_longest_row_is_no_dependence():
    """Those of a shorter row are masked, whatever number of sites the batch has."""

    def model(x, length):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            for t in range(int(length.max())):
                with poutine.mask(mask=t < length):
                    pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])

    def guide(x, length):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0], 1.0))

    Functions(model, guide).check((torch.randn(5, 4), torch.tensor([1, 2, 4, 3, 1])))


# One row: its particles stand beside each other as rows do.

MIXED = {
    "mean": lambda x, z: (z - z.mean(0)).square(),
    "largest": lambda x, z: z.exp().max(),
    "deviation": OF_DATA["deviation"],
}


@pytest.mark.parametrize("mixing", MIXED)
def test_draws_of_one_row_that_depend_on_each_other(mixing):
    message = refusal(Functions(noise_by(MIXED[mixing]), scalar_guide), X[:1])
    assert_says(message, "model site 'x'", "depends on other draws for it", "each row to stand for itself")


def test_a_row_alone_is_measured_as_ever():
    """What is taken of its own features is no dependence."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    pair = Pair.of(noise_by(lambda x, z: 0.0), guide, example=X[:1])
    found = log_evidence(pair, X[:1], "iwae", num_particles=5000, seed=0, progress=False)
    assert (found.estimate - dist.Normal(0.0, 2**0.5).log_prob(X[:1])).abs() < 5 * found.std_error


@pytest.mark.filterwarnings("ignore:LinearVAE is run by rows")  # as the layouts round apart, too
@pytest.mark.parametrize("num", [2, 3, 7, 50])
def test_rounding_that_a_narrow_guide_magnifies_is_no_dependence(num):
    torch.manual_seed(0)
    pair = LinearVAE(20, 12)
    pair.posterior_scale.data -= 20
    pair.check(torch.randn(num, 20))


def test_what_rounds_otherwise_in_another_batch_is_no_dependence():
    def guide(x, units):
        rounded = x * (1 + units * torch.finfo(x.dtype).eps * (x.sum() > X.sum()))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(rounded, 1e-6))  # so narrow that the last bit of z counts

    def of(units):
        return Functions(scalar_model, lambda x: guide(x, units))

    of(1).check(X)
    assert "depends on the other rows" in refusal(of(1000), X)


SEEDED = {
    "guide": lambda model, guide: (model, seeded(guide)),
    "model": lambda model, guide: (seeded(model), guide),
    "handler": lambda model, guide: (model, poutine.seed(guide, rng_seed=3)),
}


def seeded(function):
    def called(x):
        pyro.set_rng_seed(0)
        function(x)

    return called


@pytest.mark.parametrize("case", SEEDED)
@pytest.mark.parametrize("num_rows", [1, 9])
def test_a_pair_that_draws_the_same_each_time_is_refused(case, num_rows):
    """The estimates of several runs would be one, and their error none."""
    message = refusal(Functions(*SEEDED[case](scalar_model, scalar_guide)), X[:num_rows])
    assert_says(message, "guide site 'z'", "the same draws in two runs", "new ones each time", "poutine.seed", "seed=")
    Functions(scalar_model, scalar_guide).check(X[:num_rows])


def test_draws_of_a_discrete_latent_may_be_the_same():
    """One bit for each of three particles is what it was in one run of eight."""

    def coin(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    def coin_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Bernoulli(torch.sigmoid(x)))

    for seed in range(20):
        torch.manual_seed(seed)
        Functions(coin, coin_guide).check(X[:1])


class Shared:
    """A guide that leaves something for the model on the object of both."""

    left: torch.Tensor

    def guide(self, x):
        self.left = 0.1 * x
        scalar_guide(x)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + self.left, 1.0), obs=x)


@pytest.mark.parametrize("num_rows", [3, 9])
def test_a_model_that_keeps_something_from_the_guides_run_is_told_so(num_rows):
    shared = Shared()
    message = refusal(Functions(shared.model, shared.guide), X[:num_rows])
    assert_says(message, "model, after site 'z': found RuntimeError", "keep nothing from the guide's run")
