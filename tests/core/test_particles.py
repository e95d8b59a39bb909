"""Two layouts of particles: what takes leading dimensions has them, all else runs by rows, as plain Pyro would."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from support.functions import assert_says
from torch import nn

from ppvae import ContractError, Pair, elbo, fit, log_evidence
from ppvae.inference import ELBO, IWAE

pytestmark = pytest.mark.usefixtures("float64")

B, D = 5, 4


def linear(seed, num_in, num_out):
    torch.manual_seed(seed)
    return nn.Linear(num_in, num_out)


def convolved(z):
    return CONVOLUTION(z.view(len(z), 1, 2, 2)).view(len(z), -1)


torch.manual_seed(0)
CONVOLUTION = nn.Conv2d(1, 1, 3, padding=1).double()
EYE = torch.eye(D)
MIXING = {
    "softmax": lambda h: torch.softmax(h, dim=1),
    "normalize": nn.functional.normalize,
    "cumsum": lambda h: h.cumsum(1),
    "norm": lambda h: h / h.norm(dim=1, keepdim=True),
    "mean": lambda h: h - h.mean(1, keepdim=True),
    "flip": lambda h: h.flip(1),
}
FAILING = {
    "view": lambda h: h.view(len(h), 2, 2).sum(-1).repeat(1, 2),
    "convolution": convolved,
    "one-hot": lambda h: h + nn.functional.one_hot(h.argmax(1), D),
    "tuple": lambda h: h.split((2, 2), dim=1)[0].repeat(1, 2),
}


def pair_with(network, weight=3.0):
    """A model with `network` between two linear layers, and a guide with one, in plain Pyro."""
    decoder, output, encoder = linear(1, D, D), linear(2, D, 6), linear(3, 6, 2 * D)

    def model(x):
        pyro.module("decoder", decoder)
        pyro.module("output", output)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(output(weight * network(decoder(z))), 0.5).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide, torch.randn(B, 6)


def log_w_by_plain_pyro(model, guide, x, num_particles, seed):
    """`[K, B]`, on K * B rows; the oracle of meaning."""
    many = x.repeat(num_particles, 1)
    torch.manual_seed(seed)
    drawn = poutine.trace(guide).get_trace(many)
    joint = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(many)
    for trace in (drawn, joint):
        trace.compute_log_prob()
    log_p, log_q = (sum(s["log_prob"] for s in t.nodes.values() if "log_prob" in s) for t in (joint, drawn))
    return (log_p - log_q).reshape(num_particles, len(x))


def made(model, guide, x):
    """A pair of the functions, which says that it is run by rows."""
    with pytest.warns(UserWarning, match="run by rows") as caught:
        pair = Pair.of(model, guide, example=x)
    assert len(caught) == 1
    assert pair.particles == "rows"
    return pair


@pytest.mark.parametrize("name", [*MIXING, *FAILING])
def test_networks_that_take_no_leading_dimensions_are_right(name):
    model, guide, x = pair_with((MIXING | FAILING)[name])
    pair = made(model, guide, x)
    torch.manual_seed(7)
    found = pair.log_weights(x, num_particles=9)
    assert found.log_w.shape == (9, B)
    assert found.latents["z"].shape == (9, B, D)
    torch.testing.assert_close(found.log_w, log_w_by_plain_pyro(model, guide, x, 9, seed=7))
    pair.check(x)  # says it once


@pytest.mark.parametrize("name", MIXING)
def test_every_measurement_of_such_a_pair_is_that_of_plain_pyro(name):
    model, guide, x = pair_with(MIXING[name], weight=1.0)
    pair = made(model, guide, x)
    with torch.no_grad():
        log_w = log_w_by_plain_pyro(model, guide, x, 4000, seed=1)
    expected = log_w.mean(0), log_w.std(0) / 4000**0.5
    found = elbo(pair, x, 4000, seed=0, progress=False)
    error = (found.std_error.square() + expected[1].square()).sqrt()
    assert ((found.estimate - expected[0]).abs() < 5 * error).all()
    again = elbo(pair, x[:2], 4000, seed=3, progress=False)  # a row's number does not depend on the others
    error = (found.std_error[:2].square() + again.std_error.square()).sqrt()
    assert ((found.estimate[:2] - again.estimate).abs() < 5 * error).all()


def test_leading_dimensions_are_kept_where_they_are_right():
    model, guide, x = pair_with(lambda h: torch.softmax(h, -1))
    pair = Pair.of(model, guide, example=x)
    assert pair.particles == "leading"
    torch.manual_seed(7)
    leading = pair.log_weights(x, num_particles=9).log_w
    pair.particles = "rows"
    torch.manual_seed(7)
    torch.testing.assert_close(pair.log_weights(x, num_particles=9).log_w, leading)
    pair.check(x)
    assert pair.particles == "rows"  # as it was set


def chain(join):
    """z2 and z1 in plain Pyro, with a guide q(z2 | x) q(z1 | z2, x) that joins x and z2."""
    first, second, output = linear(1, 6, 1), linear(2, 7, 1), linear(3, 1, 6)

    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(output(z1), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(first(x), 1.0).to_event(1))
            pyro.sample("z1", dist.Normal(second(join(x, z2)), 1.0).to_event(1))

    return model, guide


def test_the_remedy_for_data_that_are_joined_to_latents_is_right():
    x = torch.randn(B, 6)
    with pytest.warns(UserWarning, match=r"`x\.expand\(\*z\.shape\[:-1\], -1\)`"):
        by_rows = Pair.of(*chain(lambda x, z: torch.cat([x, z], -1)), example=x)
    mended = Pair.of(*chain(lambda x, z: torch.cat([x.expand(*z.shape[:-1], -1), z], -1)), example=x)
    assert (by_rows.particles, mended.particles) == ("rows", "leading")
    found = []
    for pair in (by_rows, mended):
        torch.manual_seed(7)
        found.append(pair.log_weights(x, num_particles=9).log_w)
    torch.testing.assert_close(*found)


def test_an_encoder_sees_the_data_once():
    model, guide, x = pair_with(MIXING["softmax"])
    pair = made(model, guide, x)
    assert pair.guide_leads
    encoder = next(m for m in pair.modules() if isinstance(m, nn.Linear) and m.out_features == 2 * D)
    seen = []
    encoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[0]))
    pair.log_weights(x, num_particles=9)
    assert seen == [B]


@pytest.mark.parametrize("mixing", MIXING)
def test_a_guide_that_is_wrong_with_particles_leading_runs_by_rows(mixing):
    """Its second latent is by a network of the first."""
    network, encoder = MIXING[mixing], linear(3, 6, 2 * D)

    def model(x):
        with pyro.plate("data", len(x)):
            first = pyro.sample("first", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            z = pyro.sample("z", dist.Normal(first, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.cat([z, z[:, :2]], 1), 0.5).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = encoder(x).chunk(2, -1)
            first = pyro.sample("first", dist.Normal(loc, log_scale.exp()).to_event(1))
            pyro.sample("z", dist.Normal(3.0 * network(first), 1.0).to_event(1))

    x = torch.randn(B, 6)
    pair = made(model, guide, x)
    assert not pair.guide_leads
    torch.manual_seed(7)
    found = pair.log_weights(x, num_particles=9).log_w
    torch.testing.assert_close(found, log_w_by_plain_pyro(model, guide, x, 9, seed=7))


@pytest.mark.parametrize("objective", [ELBO(), IWAE(4)])
def test_compiled_steps_by_rows_agree_with_eager_ones(objective, caplog):
    fits = []
    for compile in (False, True):
        model, guide, x = pair_with(MIXING["softmax"])
        pair = made(model, guide, x)
        history = fit(pair, x, objective, steps=4, seed=0, progress=False, compile=compile).history["bound"]
        fits.append((history, list(pair.parameters())))
    (eager, before), (compiled, after) = fits
    assert not [record for record in caplog.records if record.name == "ppvae"]  # of going on uncompiled
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(after, before)


@pytest.mark.slow(10)
def test_annealing_by_rows_brings_the_closed_form():
    """x ~ N(W softmax-free z): a linear model whose network flips dimension 1."""
    weight = torch.randn(3, 2)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.flip(1) @ weight.T, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    x = torch.randn(B, 3)
    covariance = weight.flip(1) @ weight.flip(1).T + torch.eye(3)
    exact = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x)
    found = log_evidence(made(model, guide, x), x, "ais", seed=0, progress=False)
    assert ((found.estimate - exact).abs() < 5 * found.std_error).all()


# Refused in both layouts.


def refused(model, guide, x):
    with pytest.raises(ContractError) as caught:
        Pair.of(model, guide, example=x)
    return str(caught.value)


def test_softmax_over_the_batch():
    model, guide, x = pair_with(lambda h: torch.softmax(h, dim=0))
    message = refused(model, guide, x)
    assert_says(message, "model site 'x'", "depends on the other rows of its batch", "`softmax(-1)`")


def test_batch_norm_without_running_statistics():
    norm = nn.BatchNorm1d(D, track_running_stats=False).eval()
    model, guide, x = pair_with(norm)
    assert_says(refused(model, guide, x), "depends on the other rows", "batch norm keep running statistics")
    made(*pair_with(nn.BatchNorm1d(D).eval()))  # is accepted


def test_an_encoder_that_looks_at_other_rows():
    model, guide, x = pair_with(nn.Identity())

    def mixing(x):
        return guide(x - x.mean(0))

    assert_says(refused(model, mixing, x), "guide site 'z'", "depends on the other rows")


def test_noise_outside_sample_sites():
    model, guide, x = pair_with(lambda h: nn.functional.dropout(h))
    assert_says(refused(model, guide, x), "model site 'x'", "of the same values", "training=self.training")


def test_networks_that_take_neither():
    model, guide, x = pair_with(lambda h: h.view(B, D))
    message = refused(model, guide, x)
    assert_says(message, "model, after site 'z'", "expected it to run on a batch of 4 rows")


@pytest.mark.filterwarnings("ignore:.*is run by rows")
def test_a_plate_that_is_told_its_whole_size_takes_more_rows_than_that():
    """`plate(name, N, len(x))`, of which Pyro takes at most N rows, but K particles by rows make more."""
    x, network = torch.randn(5, 2), nn.Linear(2, 2)

    def model(x):
        with pyro.plate("data", 5, len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(network(z.view(-1, 2)), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", 5, len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.8).to_event(1))

    pair = Pair.of(model, guide, x)
    assert pair.particles == "rows"
    found = pair.log_weights(x, 3)
    z = found.latents["z"]
    log_p = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(network(z), 1.0).log_prob(x)
    torch.testing.assert_close(found.log_w, (log_p - dist.Normal(x / 2, 0.8).log_prob(z)).sum(-1))
