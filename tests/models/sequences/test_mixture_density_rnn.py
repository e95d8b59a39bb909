"""The MDN-RNN against torch's mixtures, step by step, and against linear regression."""

import pytest
import torch
from torch import distributions, nn
from torch.nn.functional import softplus

import ppvae
from ppvae.models import MixtureDensityRNN
from ppvae.networks import inverse_softplus

pytestmark = pytest.mark.usefixtures("float64")
ROWS, STEPS, FEATURES, ACTIONS, COMPONENTS = 5, 4, 3, 2, 3
LENGTHS = torch.tensor([4, 1, 3, 2, 4])


def rnn(num_components=COMPONENTS):
    torch.manual_seed(0)
    pair = MixtureDensityRNN(FEATURES, ACTIONS, num_components, num_state=6)
    pair.first.data.normal_()
    return pair


def data(num=ROWS):
    torch.manual_seed(1)
    return torch.randn(num, STEPS, FEATURES), torch.randn(num, STEPS, ACTIONS)


def by_hand(pair, x, actions):
    """log p(x) of one sequence `[T, F]`: torch's cell and torch's mixture, one step after another."""
    h, total = pair.first, torch.zeros(())
    for t in range(len(x)):
        out = pair.head(h)
        loc, scale = out[COMPONENTS:].reshape(2, COMPONENTS, FEATURES)
        components = distributions.Independent(distributions.Normal(loc, softplus(scale)), 1)
        mixture = distributions.MixtureSameFamily(distributions.Categorical(logits=out[:COMPONENTS]), components)
        total = total + mixture.log_prob(x[t])
        h = pair.path.cell(torch.cat([x[t], actions[t]]), h)
    return total


def test_evidence_is_that_of_torchs_mixtures():
    pair, (x, actions) = rnn(), data()
    whole = torch.stack([by_hand(pair, row, action) for row, action in zip(x, actions, strict=True)])
    torch.testing.assert_close(pair.log_prob((x, None, actions)), whole)
    short = torch.stack([by_hand(pair, x[i, :n], actions[i, :n]) for i, n in enumerate(LENGTHS.tolist())])
    padded = torch.where(torch.arange(STEPS).unsqueeze(-1) < LENGTHS[:, None, None], x, 7.0)
    torch.testing.assert_close(pair.log_prob((padded, LENGTHS, actions)), short)
    torch.testing.assert_close(pair.log_weights((x, LENGTHS, actions), 2).log_w, short.expand(2, ROWS))
    torch.testing.assert_close(pair.exact_elbo((x, LENGTHS, actions)), short)


class Linear(nn.Module):
    """h is what was given in the step before."""

    def forward(self, h, inputs):
        return inputs


def regression(x, actions):
    """Least squares of x_t on x_{t-1}, a_{t-1} and a one, and the residuals' variances, `[F]`."""
    inputs = torch.cat([x[:, :-1], actions[:, :-1], torch.ones(len(x), STEPS - 1, 1)], -1).flatten(0, 1)
    targets = x[:, 1:].flatten(0, 1)
    solution = torch.linalg.lstsq(inputs, targets).solution
    return solution.T, (targets - inputs @ solution).square().mean(0)


def test_one_component_on_a_linear_map_is_gaussian_regression():
    """With the solution of least squares, log p(x_2 ... x_T | x_1) is the regression's, and no slope is left."""
    x, actions = data(50)
    pair = MixtureDensityRNN(FEATURES, ACTIONS, 1, num_state=FEATURES + ACTIONS)
    pair.path = Linear()
    weight, variance = regression(x, actions)
    with torch.no_grad():
        pair.head.weight.zero_()
        pair.head.weight[1 : 1 + FEATURES] = weight[:, :-1]
        pair.head.bias[1 : 1 + FEATURES] = weight[:, -1]
        pair.head.bias[1 + FEATURES :] = inverse_softplus(variance.sqrt())
    later = pair.log_prob((x, None, actions)) - pair.log_prob((x[:, :1], None, actions[:, :1]))
    mean = torch.cat([x, actions], -1)[:, :-1] @ weight[:, :-1].T + weight[:, -1]
    expected = distributions.Normal(mean, variance.sqrt()).log_prob(x[:, 1:]).sum((1, 2))
    torch.testing.assert_close(later, expected)
    for gradient in torch.autograd.grad(later.sum(), [pair.head.weight, pair.head.bias]):
        assert gradient[: 1 + FEATURES].abs().max() < 1e-9
    assert gradient[1 + FEATURES :].abs().max() < 1e-9


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_sharpens_weights_and_scales_variances(temperature):
    pair, h = rnn(), torch.randn(7, 6, generator=torch.Generator().manual_seed(2))
    plain, found = pair.forecast(h), pair.forecast(h, temperature)
    weights = plain.mixture_distribution.probs ** (1 / temperature)
    torch.testing.assert_close(found.mixture_distribution.probs, weights / weights.sum(-1, keepdim=True))
    torch.testing.assert_close(found.component_distribution.mean, plain.component_distribution.mean)
    variance = temperature * plain.component_distribution.variance
    torch.testing.assert_close(found.component_distribution.variance, variance)


def test_samples_have_the_forecasts_distribution():
    """With one component, what is left of the draws is standard normal, and independent in time and of features."""
    pair = rnn(1).requires_grad_(False)
    _, actions = data(4000)
    x = pair.sample({"x": torch.zeros(4000, STEPS, FEATURES), "actions": actions})
    h, left = pair.first.expand(4000, -1), []
    for t in range(STEPS):
        forecast = pair.forecast(h).component_distribution
        left.append((x[:, t] - forecast.mean.squeeze(-2)) / forecast.stddev.squeeze(-2))
        h = pair.advance(h, x[:, t], actions[:, t])
    left = torch.cat(left, -1)
    assert (left.mean(0).abs() < 4.5 / 4000**0.5).all()
    off = left.T @ left / 4000 - torch.eye(STEPS * FEATURES)
    assert (off.abs() < 4.5 * (1 + torch.eye(len(off))).sqrt() / 4000**0.5).all()


@pytest.mark.slow(8)
def test_training_finds_modes_that_a_gaussian_cannot_have():
    """A coin moves x up or down by one, with noise 0.1: log p is known, and one Gaussian is 1.6 nats a step short."""
    torch.manual_seed(0)
    x = ((torch.rand(400, 6, 1) < 0.5) * 2.0 - 1 + 0.1 * torch.randn(400, 6, 1)).cumsum(1)
    steps = torch.cat([x[:, :1], x.diff(dim=1)], 1)
    truth = torch.logaddexp(*(distributions.Normal(m, 0.1).log_prob(steps) for m in (-1.0, 1.0))) - torch.log(
        torch.tensor(2.0)
    )
    truth = truth.sum((1, 2)).mean()
    gaussian = 6 * distributions.Normal(0.0, steps.std()).log_prob(steps).mean()
    pair = MixtureDensityRNN(1, num_components=2, num_state=16)
    ppvae.fit(pair, x, steps=300, batch_size=100, lr=0.02, schedule=lambda done: 1 - done, progress=False)
    found = pair.log_prob(x).mean().item()
    assert gaussian < truth - 6
    assert found > (truth + gaussian) / 2


def test_actions_that_do_not_fit_are_refused():
    x, _ = data()
    with pytest.raises(ValueError, match=r"actions: found None, expected \[4, 2\], one after each step"):
        rnn().log_prob(x)
