"""The check refuses networks that take no particles, and values that have no finite log probability."""

import traceback

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.runtime import _PYRO_STACK
from support.functions import Functions, assert_says, refusal, scalar_guide, scalar_model

from ppvae import IWAE, ContractError, fit
from ppvae.models import DeepMarkov


@pytest.fixture(autouse=True)
def _no_handler_left():
    """Also after an exception, Pyro's stack is empty."""
    yield
    assert _PYRO_STACK == []


# Networks.


def test_network_that_does_not_broadcast_over_summed_values():
    def model(join):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                c = pyro.sample("c", dist.Bernoulli(0.5))
                pyro.sample("x", dist.Normal(join(z, c), 1.0), obs=x)

        return model

    message = refusal(Functions(model(lambda z, c: torch.stack([z, c], -1).sum(-1)), scalar_guide), torch.randn(9))
    assert_says(message, "model, after site 'c'", "stack expects each tensor to be equal size", "['c']", "summed out")
    assert_says(message, "[values, 1]", "broadcast")
    Functions(model(lambda z, c: z + c), scalar_guide).check(torch.randn(9))


def test_function_that_fails_by_itself():
    def guide(x):
        scalar_guide(x)
        x.no_such_attribute  # noqa: B018

    message = refusal(Functions(scalar_model, guide), torch.randn(9))
    assert_says(message, "guide, after site 'z'", "no_such_attribute", "expected it to run on a batch of")


def test_failure_inside_a_markov_loop_leaves_no_handler():
    def model(x):
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(3)):
                pyro.sample(f"x{t}", dist.Normal(0.0, 1.0), obs=x[:, t])

    assert_says(refusal(Functions(model, lambda x: None), torch.randn(9, 2)), "model, after site 'x1'", "IndexError")


# Values.


def test_network_with_a_nan_parameter():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))
            pyro.sample("u", dist.Normal(x * torch.nan, 1.0))

    message = refusal(Functions(scalar_model, guide), torch.randn(9))
    assert_says(message, "guide, after site 'z'", "found NaN", "are data and parameters finite")


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_log_probability_that_is_not_finite(value):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            scale = torch.where(x > 1.5, value, 1.0)
            pyro.sample("x", dist.Normal(z, scale, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    x = torch.tensor([0.0, 1.0, 2.0, 0.5])
    message = refusal(Functions(model, guide), x)
    assert_says(
        message, "model site 'x'", f"found log probability {-value}", "at row 2", "expected a finite one", "scale"
    )


def test_guides_log_probability_that_is_not_finite():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x, log_density=torch.inf))

    message = refusal(Functions(scalar_model, guide), torch.randn(9))
    assert_says(message, "guide site 'z'", "found log probability inf", "expected a finite one")


def test_data_outside_the_support():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(0.5), obs=x)

    message = refusal(Functions(model, lambda x: None), torch.tensor([0.0, 0.5]))
    assert_says(message, "model site 'x'", "Bernoulli", "expected one inside its support", "Boolean", "binarize")


def test_latents_outside_the_models_support():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    message = refusal(Functions(model, scalar_guide), -10 - torch.rand(9))
    assert_says(
        message, "model site 'z'", "LogNormal", "expected one inside its support", "GreaterThan", "let the guide"
    )


def test_impossible_combinations_of_summed_values_are_no_breach():
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Uniform(torch.tensor([0.0, 1.0])[c], 2.0, validate_args=False), obs=x)

    pair = Functions(model, lambda x: None)
    pair.check(torch.tensor([0.5, 1.5]))
    exact = torch.tensor([0.25, 0.25 + 0.5]).log()
    torch.testing.assert_close(pair.log_weights(torch.tensor([0.5, 1.5])).log_w[0], exact)


# Counts.


@pytest.mark.parametrize("num", [0, -1])
def test_counts_below_one(num):
    pair, x = Functions(scalar_model, scalar_guide), torch.randn(3)
    pair.check(x)
    for function in (pair.log_weights, pair.latents, pair.reconstruct):
        with pytest.raises(ValueError, match=rf"num_particles: found {num}, expected at least 1"):
            function(x, num_particles=num)
    with pytest.raises(ValueError, match=rf"at: found {num}, expected at least 1"):
        pair.sample(num)


def test_weights_of_an_unchecked_pair_never_have_another_shape():
    """A dim of one's own left of the particles is not taken for a summed-out site's."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(5, 1, 1), 1.0))

    with pytest.raises(
        ContractError, match=r"site 'z': found size 5 at dim -3 of its batch shape, expected batch shape \[batch\]"
    ):
        Functions(scalar_model, guide).log_weights(torch.randn(3), num_particles=2)


def test_values_outside_the_support_are_not_said_to_be_of_another_shape():
    """Sequences of another length than the example's are fine; and the values are not printed, not even by torch."""
    pair = DeepMarkov(3, 2)
    with pytest.raises(ContractError, match="model site 'x': found a value that Bernoulli refuses") as refused:
        pair.check(0.5 * torch.ones(4, 7, 3))
    assert "shape [7, 3]" not in str(refused.value)
    assert "0.5000" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("transform", [dist.transforms.AbsTransform(), dist.transforms.SoftmaxTransform()])
def test_transforms_that_are_not_one_to_one_have_no_density(transform):
    def guide(x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [transform]))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Dirichlet(torch.ones(2)))
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    message = refusal(Functions(model, guide), torch.randn(9))
    assert_says(message, "guide site 'z': found TransformedDistribution, which knows no density", "FoldedDistribution")


def test_a_guide_that_draws_what_the_model_rules_out_is_told_so():
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=torch.tensor([0.0, 0.0, -torch.inf])))
            pyro.sample("x", dist.Normal(c.to(x), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(logits=logits.expand(len(x), 3)))

    logits = torch.nn.Parameter(torch.zeros(3))
    pair = Functions(model, guide)
    pair.logits = logits
    with pytest.raises(ContractError) as caught:
        fit(pair, torch.randn(9), IWAE(20), epochs=1, progress=False)
    assert_says(
        str(caught.value), "model site 'c'", "found log probability -inf", "Give it the probability zero there, too"
    )
