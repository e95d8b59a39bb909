"""The check refuses broken plates, shapes and sites: by site, with what was found, expected, and the remedy."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.runtime import _PYRO_STACK
from support.functions import Functions, assert_says, refusal, scalar_guide, scalar_model, vector_guide, vector_model

from ppvae import ContractError, Pair


@pytest.fixture(autouse=True)
def _no_handler_left():
    """Also after an exception, Pyro's stack is empty."""
    yield
    assert _PYRO_STACK == []


@pytest.mark.parametrize("num_rows", [1, 2, 7, 8, 100])
def test_a_pair_that_keeps_the_contract_passes(num_rows):
    x = torch.randn(num_rows)
    pair = Functions(scalar_model, scalar_guide)
    pair.check(x)
    assert torch.equal(pair.example, x[:1])
    Functions(vector_model(lambda z, x: dist.Normal(z, 1.0).to_event(1)), vector_guide).check(torch.randn(num_rows, 7))


# Plates.


def test_no_plate():
    def guide(x):
        pyro.sample("z", dist.Normal(x, 1.0))

    message = refusal(Functions(scalar_model, guide), torch.randn(9))
    assert_says(
        message, "guide site 'z'", "found outside any plate", "expected inside the data plate", "with pyro.plate"
    )


def test_latent_outside_the_plate():
    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale), obs=x)

    def guide(x):
        pyro.sample("scale", dist.LogNormal(0.0, 0.1))

    message = refusal(Functions(model, guide), torch.randn(9))
    assert_says(message, "guide site 'scale'", "found outside", "expected inside the data plate", "make it an nn.Param")
    message = refusal(Functions(model, lambda x: None), torch.randn(9))
    assert_says(message, "model site 'scale'", "found outside", "expected inside the data plate", "make it an nn.Param")


def test_sequential_plate():
    def model(x):
        for i in pyro.plate("data", len(x)):
            pyro.sample(f"x{i}", dist.Normal(0.0, 1.0), obs=x[i])

    assert_says(refusal(Functions(model, lambda x: None), torch.randn(9)), "model site 'x0'", "found outside any plate")


@pytest.mark.parametrize(("size", "subsample_size"), [(5, 5), (1000, 5)])
def test_plate_of_another_size_than_the_batch(size, subsample_size):
    def model(x):
        with pyro.plate("rows", size, subsample_size=subsample_size):
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([subsample_size]), obs=x[:subsample_size])

    message = refusal(Functions(model, lambda x: None), torch.randn(100))
    assert_says(message, "model site 'x'", "found plate 'rows' of size 5", "the number of rows in the batch")


@pytest.mark.parametrize("dims", [(-2, -1), (-1, -2), (None, None)])
def test_second_plate(dims):
    def guide(x):
        with pyro.plate("data", len(x), dim=dims[0]), pyro.plate("pixels", 3, dim=dims[1]):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    message = refusal(Functions(vector_model(lambda z, x: dist.Normal(z, 1.0).to_event(1)), guide), torch.randn(9, 3))
    assert_says(message, "guide site 'z'", "found in plates {'data': dim", "'pixels': dim", "dim -2", "expected only")
    assert_says(message, "at dim -1", "`.to_event(n)`")


def test_one_plate_at_the_particles_dim():
    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    message = refusal(Functions(model, lambda x: None), torch.randn(9, 1))
    assert_says(
        message, "model site 'x'", "found in plates {'data': dim -2}", "expected only the data plate, at dim -1"
    )


# Shapes.


@pytest.mark.parametrize("num_rows", [2, 6, 7, 100])
@pytest.mark.parametrize("num_features", [2, 6, 7, 8, 9])
def test_missing_to_event(num_rows, num_features):
    """Also where the event size is that of the batch, of the rows that the check tries, or of its particles."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(num_features), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    observed = vector_model(lambda z, x: dist.Normal(z, 1.0))
    x = torch.randn(num_rows, num_features)
    for pair, site in (
        (Functions(model, guide), "guide site 'z'"),
        (Functions(observed, vector_guide), "model site 'x'"),
    ):
        message = refusal(pair, x)
        assert_says(message, site, "found size", "at dim -", "expected batch shape", "`.to_event(n)`")


def test_missing_to_event_in_the_models_prior_alone():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    message = refusal(Functions(model, vector_guide), torch.randn(9, 1))
    assert_says(message, "site 'z'", "found event shape [1] in the guide and [] in the model", "expected the same")
    assert_says(message, "`.to_event(n)`")


def test_event_sizes_that_differ():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    pair = Functions(vector_model(lambda z, x: dist.Normal(z, 1.0).to_event(1)), guide)
    message = refusal(pair, torch.randn(9, 3))
    assert_says(message, "site 'z'", "found event shape [2] in the guide and [3] in the model", "expected the same")


@pytest.mark.parametrize("num_outputs", [1, 4])
def test_data_of_another_event_shape_than_its_distribution(num_outputs):
    """Size 1 would broadcast, and count its one parameter for every feature, unasked."""

    def likelihood(z, x):
        return dist.Normal(z[..., :1].expand(*z.shape[:-1], num_outputs), 1.0).to_event(1)

    pair = Functions(vector_model(likelihood), vector_guide)
    message = refusal(pair, torch.randn(9, 3))
    assert_says(
        message,
        "model site 'x'",
        "found observed data of shape [6, 3]",
        f"expected [batch, *event] = [6, {num_outputs}]",
    )
    assert_says(message, "check `.to_event(n)`")


@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 4), (12, 1)])
def test_images_observed_as_vectors_are_refused_and_the_remedy_works(shape):
    encoder, decoder = torch.nn.Linear(12, 2), torch.nn.Linear(2, 12)

    def model(x, observed):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=observed(x))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x.flatten(1)), 1.0).to_event(1))

    x = torch.randn(9, *shape)
    message = refusal(Functions(lambda x: model(x, lambda x: x), guide), x)
    assert_says(message, "model site 'x'", f"found observed data of shape [6, {', '.join(map(str, shape))}]")
    assert_says(message, "expected [batch, *event] = [6, 12]", "as `x.reshape(len(x), 12)`")
    Functions(lambda x: model(x, lambda x: x.reshape(len(x), 12)), guide).check(x)


def test_batch_shape_of_particles_only():
    """A guide whose `[K, 1]` would broadcast over data points."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2, 1), 1.0))

    message = refusal(Functions(scalar_model, guide), torch.randn(9))
    assert_says(
        message, "guide site 'z'", "found size 2 at dim -2", "expected batch shape [batch] = [", "`.to_event(n)`"
    )


# Sites.


def test_nothing_observed():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    message = refusal(Functions(model, scalar_guide), torch.randn(9))
    assert_says(message, "model: found no observed site among ['z']", "expected at least one", "`obs=x`")


def test_guide_site_absent_from_the_model():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))
            pyro.sample("u", dist.Normal(0.0, 1.0))

    message = refusal(Functions(scalar_model, guide), torch.randn(9))
    assert_says(
        message, "guide site 'u'", "found absent in the model", "expected a latent there", "['z']", "leave it out"
    )


def test_model_site_absent_from_the_guide():
    message = refusal(Functions(scalar_model, lambda x: None), torch.randn(9))
    assert_says(message, "model site 'z'", "found no site of that name in the guide", "expected one or the other")
    assert_says(message, "add `pyro.sample('z', ...)` to the guide")


def test_guide_site_observed_in_the_model():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0))

    message = refusal(Functions(scalar_model, guide), torch.randn(9))
    assert_says(message, "guide site 'x'", "found observed in the model", "expected a latent there")


def test_guide_site_observed_in_the_guide():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))
            pyro.sample("label", dist.Normal(0.0, 1.0), obs=x)

    message = refusal(Functions(scalar_model, guide), torch.randn(9))
    assert_says(message, "guide site 'label'", "found observed in the guide", "expected drawn", "leave out its `obs=`")


def test_a_factor_in_the_guide():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))
            pyro.factor("label", -x.abs(), has_rsample=False)

    message = refusal(Functions(scalar_model, guide), torch.randn(9))
    assert_says(message, "guide site 'label'", "found pyro.factor in the guide", "expected draws of latents alone")


def test_a_plate_opened_twice_under_one_name():
    def guide(x):
        scalar_guide(x)
        with pyro.plate("data", len(x)):
            pyro.sample("u", dist.Normal(0.0, 1.0))

    message = refusal(Functions(scalar_model, guide), torch.randn(9))
    assert_says(message, "guide: found Multiple sample sites named 'data'", "expected each name once", "make it once")


def test_no_model_or_guide_at_all():
    with pytest.raises(ContractError, match=r"guide, before its first site.*Pair has no `guide`; write it as a method"):
        Pair().check(torch.randn(3))


def test_a_loop_over_some_features_drawn_at_random():
    def model(x):
        features = pyro.plate("features", 3, subsample_size=2)
        with pyro.plate("data", len(x)):
            for i in features:
                pyro.sample(f"y{i}", dist.Normal(0.0, 1.0), obs=x[:, i])

    message = refusal(Functions(model, lambda x: None), torch.randn(5, 3))
    assert_says(message, "model site 'y", "a loop over 2 of the 3 indices of plate 'features'", "expected the same")
    assert_says(message, "leave out its subsample_size")


@pytest.mark.parametrize("which", [{}, {"subsample": torch.tensor([0, 2])}])
def test_a_loop_over_features(which):
    def model(x):
        features = pyro.plate("features", 3, **which)
        with pyro.plate("data", len(x)):
            for i in features:
                pyro.sample(f"y{i}", dist.Normal(0.0, 1.0), obs=x[:, int(i)])

    Functions(model, lambda x: None).check(torch.randn(5, 3))


def test_sites_chosen_at_random():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample(f"y{int(torch.randint(100, ()))}", dist.Normal(0.0, 1.0 + torch.rand(())), obs=x)

    message = refusal(Functions(model, lambda x: None), torch.randn(5))
    assert_says(message, "model site 'y", "of the same values", "draw all that is random by `pyro.sample`")
