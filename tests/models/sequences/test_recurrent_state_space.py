"""The recurrent state space model against Kalman where it is linear, a sum over all paths, and the VAE of one step."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import ppvae
from ppvae.models import VAE, Gaussian, LinearGaussianStateSpace, RecurrentStateSpace
from ppvae.models.parts.conditionals import DiagonalNormal
from ppvae.networks import inverse_softplus

pytestmark = pytest.mark.usefixtures("float64")
LENGTHS = torch.tensor([5, 1, 3, 5])
ROWS, STEPS, FEATURES, LATENTS, ACTIONS = 4, 5, 3, 2, 2


class Forgetful(nn.Module):
    """No deterministic path: h is z and a of the step before, and a one, which tells that there was a step."""

    def forward(self, h, inputs):
        return torch.cat([inputs, torch.ones_like(inputs[..., :1])], -1)


def kalman(guide="exact"):
    torch.manual_seed(0)
    pair = LinearGaussianStateSpace(FEATURES, LATENTS, guide).requires_grad_(False)
    for parameter in pair.parameters():
        parameter += 0.3 * torch.randn_like(parameter)
    return pair


def linear(truth):
    """The same model with actions, `z_t ~ N(A z_{t-1} + B a_{t-1}, q^2)`, and no other memory than z; and B."""
    torch.manual_seed(1)
    pair = RecurrentStateSpace(FEATURES, LATENTS, ACTIONS, num_state=LATENTS + ACTIONS + 1, hidden=[4])
    pair.path = Forgetful()
    pair.prior = DiagonalNormal(nn.Linear(LATENTS + ACTIONS + 1, 2 * LATENTS))
    pair.likelihood = Gaussian(nn.Linear(2 * LATENTS + ACTIONS + 1, FEATURES), min_sigma=0.0)
    pair.requires_grad_(False)
    prior, emission, by_action = pair.prior.network, pair.likelihood.network, torch.randn(LATENTS, ACTIONS)
    for layer in (prior, emission):
        layer.weight.zero_()
        layer.bias.zero_()
    prior.weight[:LATENTS, :-1] = torch.cat([truth.dynamics, by_action], -1)
    prior.bias[LATENTS:] = start = inverse_softplus(torch.ones(LATENTS))
    prior.weight[LATENTS:, -1] = inverse_softplus(truth.log_scales.exp()) - start
    emission.weight[:, -LATENTS:] = truth.weight
    emission.bias.copy_(truth.mean)
    pair.likelihood.unconstrained_sigma.copy_(inverse_softplus(truth.log_sigma.exp()))
    return pair, by_action


def data():
    torch.manual_seed(2)
    return torch.randn(ROWS, STEPS, FEATURES), torch.randn(ROWS, STEPS, ACTIONS)


def pushed(truth, by_action, actions):
    """What the actions alone make of the latents, `[B, T, D]`."""
    path = [torch.zeros(len(actions), LATENTS)]
    for t in range(STEPS - 1):
        path.append(path[-1] @ truth.dynamics.T + actions[:, t] @ by_action.T)
    return torch.stack(path, 1)


def test_without_a_deterministic_path_it_is_kalmans():
    """With the exact guide, moved by the actions, each weight of the linear model is Kalman's log p(x)."""
    truth, (x, actions) = kalman(), data()
    pair, by_action = linear(truth)

    def guide(x, lengths, actions):
        moved = pushed(truth, by_action, actions)
        q, z = truth.posterior(x - moved @ truth.weight.T, lengths), None
        with pyro.plate("data", len(x)):
            for t in range(STEPS):
                fn = q(t, None if z is None else z - moved[:, t - 1])
                fn = dist.MultivariateNormal(fn.loc + moved[:, t], precision_matrix=fn.precision_matrix)
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z{t + 1}", fn)

    pair.guide = guide
    expected = truth.log_prob((x - pushed(truth, by_action, actions) @ truth.weight.T, LENGTHS))
    torch.testing.assert_close(pair.log_weights((x, LENGTHS, actions), 20).log_w, expected.expand(20, ROWS))


@pytest.mark.parametrize("method", ["bootstrap filter", "particle filter"])
def test_particle_filters_find_kalmans_evidence(method):
    truth, (x, actions) = kalman(), data()
    pair, by_action = linear(truth)
    expected = truth.log_prob((x - pushed(truth, by_action, actions) @ truth.weight.T, LENGTHS))
    found = ppvae.log_evidence(pair, (x, LENGTHS, actions), method, 4000, seed=0, progress=False)
    assert found.reliable.all()
    assert ((found.estimate - expected).abs() < 4 * found.std_error).all()


def test_samples_follow_the_actions():
    truth, (_, actions) = kalman(), data()
    pair, by_action = linear(truth)
    many = actions.repeat(3000, 1, 1)
    x = pair.sample({"x": torch.zeros(len(many), STEPS, FEATURES), "actions": many}).unflatten(0, (3000, ROWS))
    expected = pushed(truth, by_action, actions) @ truth.weight.T + truth.mean
    assert ((x.mean(0) - expected).abs() < 4.5 * x.std(0) / 3000**0.5).all()


def test_one_step_is_the_vae_of_its_parts():
    torch.manual_seed(0)
    pair, x = RecurrentStateSpace(FEATURES, LATENTS, num_state=4, hidden=[5]), torch.randn(6, FEATURES)
    pair.first.data.normal_()

    class Given(nn.Module):
        """A part that is given h_1 beside its input."""

        def __init__(self, part):
            super().__init__()
            self.part = part

        def forward(self, *inputs):
            value = torch.cat([pair.first.expand(*inputs[0].shape[:-1], -1), inputs[0]], -1) if inputs else pair.first
            return self.part(value)

    vae = VAE(Given(pair.prior), Given(pair.likelihood), Given(pair.posterior))
    found = []
    for each, batch in ((pair, x.unsqueeze(1)), (vae, x)):
        torch.manual_seed(3)
        found.append(each.log_weights(batch, 7))
    torch.testing.assert_close(found[0].log_w, found[1].log_w)
    torch.testing.assert_close(found[0].log_q, found[1].log_q)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_padded_row_is_the_short_row(num_classes):
    """With the same noise the weights are the same, whatever the padding of data and actions."""
    torch.manual_seed(0)
    pair, (x, actions) = RecurrentStateSpace(FEATURES, LATENTS, ACTIONS, num_classes, num_state=4, hidden=[5]), data()
    for i, length in enumerate(LENGTHS.tolist()):
        row, action = x[i : i + 1], actions[i : i + 1]
        torch.manual_seed(3)
        short = pair.log_weights({"x": row[:, :length], "actions": action[:, :length]}, 5)
        for padding in (0.0, 9.0):
            torch.manual_seed(3)
            padded = [torch.cat([t[:, :length], torch.full_like(t[:, length:], padding)], 1) for t in (row, action)]
            found = pair.log_weights((padded[0], LENGTHS[i : i + 1], padded[1]), 5)
            torch.testing.assert_close(found.log_w, short.log_w)
            torch.testing.assert_close(found.log_q, short.log_q)


def test_evidence_of_categorical_latents_is_the_sum_over_all_paths():
    """By a particle filter, which is not told that they can be enumerated; and no bound is above it."""
    torch.manual_seed(0)
    pair = RecurrentStateSpace(FEATURES, 1, ACTIONS, 3, num_state=4, hidden=[5]).requires_grad_(False)
    pair.prior.network[-1].weight *= 4
    pair.likelihood.network[-1].weight *= 4
    x, actions = (each[:, :3] for each in data())
    terms = []
    for path in itertools.product(torch.eye(3), repeat=3):
        given = {f"z{t + 1}": value.expand(ROWS, 1, 3) for t, value in enumerate(path)}
        trace = poutine.trace(poutine.condition(pair.model, data=given)).get_trace(x, None, actions)
        trace.compute_log_prob()
        terms.append(sum(site["log_prob"] for site in trace.nodes.values() if "log_prob" in site))
    exact = torch.stack(terms).logsumexp(0)
    found = ppvae.log_evidence(pair, (x, None, actions), "bootstrap filter", 8000, seed=0, progress=False)
    assert ((found.estimate - exact).abs() < 4 * found.std_error).all()
    elbo = ppvae.elbo(pair, (x, None, actions), 2000, seed=0, progress=False)
    assert (elbo.estimate < exact + 4 * elbo.std_error).all()


@torch.no_grad()
def test_straight_through_the_value_is_the_elbos():
    """Vectors of one-hot latents are softened for the gradient alone; each of the pair's parameters has one."""
    torch.manual_seed(0)
    pair = RecurrentStateSpace(FEATURES, LATENTS, ACTIONS, 3, num_state=4, hidden=[5])
    many = tuple(each.repeat(400, *(1,) * (each.dim() - 1)) for each in (data()[0], LENGTHS, data()[1]))
    objectives = (ppvae.GumbelSoftmaxELBO(), ppvae.ELBO(kl="monte_carlo", num_particles=2))
    straight, elbo = (objective(pair, many)[0].unflatten(0, (400, ROWS)) for objective in objectives)
    error = ((straight.var(0) + elbo.var(0)) / 400).sqrt()
    assert ((straight.mean(0) - elbo.mean(0)).abs() < 4.5 * error).all()
    with torch.enable_grad():
        gradients = torch.autograd.grad(objectives[0](pair, many)[1], list(pair.parameters()))
    assert all(gradient.norm() > 0 for gradient in gradients)


def test_an_action_tells_of_later_steps_alone():
    torch.manual_seed(0)
    pair, (x, actions) = RecurrentStateSpace(FEATURES, LATENTS, ACTIONS, num_state=4, hidden=[5]), data()
    changed = actions.clone()
    changed[:, 2] += 1.0
    found = []
    for given in (actions, changed):
        torch.manual_seed(3)
        found.append(pair.log_weights((x, LENGTHS, given), 5).log_w)
    same = (found[0] == found[1]).all(0)
    assert same.tolist() == [length <= 3 for length in LENGTHS.tolist()]


def test_actions_that_do_not_fit_are_refused():
    x, actions = data()
    pair = RecurrentStateSpace(FEATURES, LATENTS, ACTIONS)
    with pytest.raises(ValueError, match=r"actions: found None, expected \[5, 2\], one after each step"):
        pair.log_weights(x)
    with pytest.raises(ValueError, match=r"actions: found \[5, 1\] for each data point, expected \[5, 2\]"):
        pair.log_weights((x, None, actions[..., :1]))
    with pytest.raises(ValueError, match=r"actions: found \[5, 2\] for each data point, expected \[5, 0\]"):
        RecurrentStateSpace(FEATURES, LATENTS).log_weights((x, None, actions))
