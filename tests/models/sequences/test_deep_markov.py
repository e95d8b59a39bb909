"""The deep Markov model: a padded sequence is the short one, its networks read as said, its evidence agrees."""

import pytest
import torch
from torch.nn.functional import softplus

import ppvae
from ppvae.models import DeepMarkov, GatedTransition
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


@pytest.mark.parametrize("posterior", ["combiner", "mean_field"])
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
