"""The deep Markov model: a padded sequence is the short one, its networks read as said, its evidence agrees."""

import pytest
import torch
from torch.nn.functional import softplus

import ppvae
from ppvae.models import CombinerFlow, DeepMarkov, GatedTransition
from ppvae.models.sequences.recurrent_posteriors import BackwardGRU

pytestmark = pytest.mark.usefixtures("float64")
LENGTHS = torch.tensor([6, 1, 4])


def deep_markov(posterior="combiner"):
    torch.manual_seed(0)
    return DeepMarkov(3, 2, [8], "gaussian", posterior)


def sequences():
    return torch.randn(3, 6, 3, generator=torch.Generator().manual_seed(1))


def drawn(pair, batch):
    torch.manual_seed(3)
    return pair.log_weights(batch, 5)


@pytest.mark.parametrize("posterior", ["combiner", "iaf", "mean_field"])
def test_padded_row_is_the_short_row(posterior):
    """With the same noise the weights are the same, whatever the padding."""
    pair, x = deep_markov(posterior), sequences()
    for i, length in enumerate(LENGTHS.tolist()):
        row = x[i : i + 1]
        short = drawn(pair, row[:, :length])
        for padding in (0.0, 9.0):
            padded = torch.cat([row[:, :length], torch.full_like(row[:, length:], padding)], 1)
            found = drawn(pair, (padded, LENGTHS[i : i + 1]))
            torch.testing.assert_close(found.log_w, short.log_w)
            torch.testing.assert_close(found.log_q, short.log_q)


def test_network_reads_backwards_from_each_rows_end():
    network, x = BackwardGRU(3, 4), sequences()
    hidden = network(x, LENGTHS)
    for i, length in enumerate(LENGTHS.tolist()):
        state = None
        for t in reversed(range(length)):
            output, state = network.network(x[i : i + 1, t : t + 1], state)
            torch.testing.assert_close(hidden[i, t], output[0, 0])
    torch.testing.assert_close(network(x), network(x, torch.full((3,), 6)))


def test_combiner_sees_what_is_to_come_alone():
    """`q(z_t | z_{t-1}, x)` does not change with x before t, and does with what comes later."""
    pair, x, z = deep_markov(), sequences(), torch.randn(3, 2)
    here = pair.posterior(x)(3, z).mean
    past, future = x.clone(), x.clone()
    past[:, :3] += 1.0
    future[:, 5] += 1.0
    assert torch.equal(pair.posterior(past)(3, z).mean, here)
    assert not torch.allclose(pair.posterior(future)(3, z).mean, here)


def test_flow_is_a_density():
    """On a grid it adds up to one, has the draws' means, and is what a draw's own density says."""
    torch.manual_seed(0)
    posterior = CombinerFlow(3, 2, 8)
    with torch.no_grad():
        for parameter in posterior.head.layers.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    x, before = torch.randn(1, 4, 3), torch.randn(1, 2)
    axis = torch.linspace(-12, 12, 801)
    z = torch.cartesian_prod(axis, axis)
    density = posterior(x)(2, before).log_prob(z).exp() * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(density.sum(), torch.tensor(1.0), rtol=0, atol=1e-5)
    q = posterior(x)(2, before)
    draws = q.sample((20000,))
    torch.testing.assert_close(q.log_prob(draws), posterior(x)(2, before).log_prob(draws))
    error = (draws.std(0) / len(draws) ** 0.5).squeeze(0)
    assert ((draws.mean(0).squeeze(0) - density @ z).abs() < 4 * error).all()


def test_flow_that_moves_nothing_is_the_combiner():
    gaussian, flow, x = deep_markov().posterior, deep_markov("iaf").posterior, sequences()
    shared = {name: value for name, value in gaussian.state_dict().items() if not name.startswith("head")}
    assert len(flow.load_state_dict(shared, strict=False).unexpected_keys) == 0
    flow.head.base.load_state_dict(gaussian.head.state_dict())
    for layer in flow.head.layers:
        for parameter in layer.parameters():
            parameter.data.zero_()
    z, value = torch.randn(3, 2), torch.randn(3, 2)
    torch.testing.assert_close(flow(x)(2, z).log_prob(value), gaussian(x)(2, z).log_prob(value))


def test_transition_is_between_linear_and_nonlinear():
    transition, z = GatedTransition(2, [8]), torch.randn(5, 2)
    for bias, expected in ((-50.0, transition.linear(z)), (50.0, transition.nonlinear(z))):
        with torch.no_grad():
            transition.gate[-1].bias.fill_(bias)
        torch.testing.assert_close(transition(z).mean, expected)
    torch.testing.assert_close(transition.linear(z), z)
    torch.testing.assert_close(transition(z).stddev, softplus(transition.scale(transition.nonlinear(z).relu())))


@pytest.mark.slow(25)
def test_evidence_by_annealing_and_by_particle_filters_agrees():
    pair = deep_markov()
    x = pair.sample(pair.examples(6))
    ais = ppvae.log_evidence(pair, x, "ais", annealing=ppvae.AIS(num_temperatures=150), seed=0, progress=False)
    filtered = ppvae.log_evidence(pair, x, "bootstrap filter", 4000, seed=0, progress=False)
    assert filtered.reliable.all()
    error = (ais.std_error.square() + filtered.std_error.square()).sqrt()
    assert ((ais.estimate - filtered.estimate).abs() < 4 * error).all()


def test_no_hidden_layers_are_refused():
    with pytest.raises(ValueError, match="hidden: found no layers, expected at least one"):
        DeepMarkov(3, 2, [])
