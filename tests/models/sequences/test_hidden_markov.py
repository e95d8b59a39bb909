"""The hidden Markov model against the sum over all paths of its states."""

import itertools

import pytest
import torch

import ppvae
from ppvae.models import HiddenMarkov

pytestmark = pytest.mark.usefixtures("float64")
LENGTHS = torch.tensor([4, 1, 3])


def hidden_markov(likelihood):
    torch.manual_seed(0)
    pair = HiddenMarkov(3, 2, likelihood)
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter += torch.randn_like(parameter)
    return pair


def sequences():
    return (torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1)) > 0).double()


def by_paths(pair, x):
    """log p(x) of one sequence `[T, F]`: the log of the sum over all states of all steps, the first one's included."""
    initial, transition = pair.initial_logits.log_softmax(-1), pair.transition_logits.log_softmax(-1)
    seen = pair.emission().log_prob(x.unsqueeze(1))
    terms = []
    for path in itertools.product(range(3), repeat=len(x) + 1):
        steps = [transition[a, b] + seen[t, b] for t, (a, b) in enumerate(itertools.pairwise(path))]
        terms.append(initial[path[0]] + sum(steps))
    return torch.stack(terms).logsumexp(0)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_evidence_is_the_sum_over_all_paths(likelihood):
    pair, x = hidden_markov(likelihood), sequences()
    torch.testing.assert_close(pair.log_prob(x), torch.stack([by_paths(pair, row) for row in x]))
    cut = torch.stack([by_paths(pair, row[:length]) for row, length in zip(x, LENGTHS, strict=True)])
    torch.testing.assert_close(pair.log_prob((x, LENGTHS)), cut)
    torch.testing.assert_close(pair.log_weights((x, LENGTHS), 2).log_w, cut.expand(2, 3))


def test_padding_does_not_matter():
    pair, x = hidden_markov("gaussian"), sequences()
    other = torch.where(torch.arange(4).unsqueeze(-1) < LENGTHS[:, None, None], x, 7.0)
    torch.testing.assert_close(pair.log_prob((other, LENGTHS)), pair.log_prob((x, LENGTHS)))


def test_states_start_at_points_that_are_there():
    """Rows are padded with what lies far from all data; the points are those of the first steps alone."""
    x = torch.randn(50, 4, 2)
    lengths = torch.arange(50) % 4
    padded = torch.where(torch.arange(4).unsqueeze(-1) < lengths[:, None, None], x, 1e6)
    pair = HiddenMarkov(20, 2).init_from(padded, lengths)
    there = padded[torch.arange(4) < lengths.unsqueeze(-1)]
    assert all((there == mean).all(-1).any() for mean in pair.outputs)
    with pytest.raises(ValueError, match="x: found 3 data points, expected one or more for each of 20 states"):
        HiddenMarkov(20, 2).init_from(padded[:3], torch.ones(3))
    with pytest.raises(ValueError, match=r"lengths: found 5, expected \[B\]"):
        HiddenMarkov(20, 2).init_from(padded, torch.full((50,), 5))


def test_samples_come_from_the_chain():
    """Of binary data: how often each pair of the first feature's values at neighboring steps occurs."""
    pair, num = hidden_markov("bernoulli"), 20000
    x = pair.sample(pair.examples(num))[:, :2, 0]
    chance = pair.emission().base_dist.probs[:, 0]
    initial, transition = pair.initial_logits.softmax(-1), pair.transition_logits.softmax(-1)
    first = initial @ transition
    for a, b in itertools.product((0.0, 1.0), repeat=2):
        probability = ((first * (chance if a else 1 - chance)) @ transition @ (chance if b else 1 - chance)).item()
        share = ((x[:, 0] == a) & (x[:, 1] == b)).double().mean().item()
        assert abs(share - probability) < 4.5 * (probability * (1 - probability) / num) ** 0.5


def test_training_finds_the_truth():
    """The trained model's evidence of new data is within 3 standard errors of the true model's, or above."""
    torch.manual_seed(0)
    truth = HiddenMarkov(2, 2).requires_grad_(False)
    truth.outputs.copy_(torch.tensor([[2.0, 0.0], [-2.0, 1.0]]))
    truth.transition_logits.copy_(2.0 * torch.eye(2))
    train, new = truth.sample(truth.examples(300)), truth.sample(truth.examples(300))
    pair = HiddenMarkov(2, 2).init_from(train)
    before = truth.log_prob(new) - pair.log_prob(new)
    ppvae.fit(pair, train, steps=300, batch_size=100, lr=0.03, progress=False)
    short = (truth.log_prob(new) - pair.log_prob(new)).detach()
    assert before.mean() > 1
    assert short.mean() < 0.1 + 3 * short.std() / 300**0.5
