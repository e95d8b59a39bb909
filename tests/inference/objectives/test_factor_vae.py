"""FactorVAE on a linear VAE, whose q(z) is Gaussian: the best critic, and the total correlation that it gives."""

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal
from torch.nn.functional import logsigmoid, softplus

import ppvae
from ppvae import ELBO, FactorVAE
from ppvae.inference.objectives.factor_vae import shuffled
from ppvae.inference.objectives.weighting import weighted
from ppvae.models import LatentCritic, LinearVAE

pytestmark = pytest.mark.usefixtures("float64")


class Quadratic(nn.Module):
    """`c + b'z + z'A z`: in it is the log of the ratio of any two Gaussian densities."""

    def __init__(self, size):
        super().__init__()
        self.A, self.b = nn.Parameter(torch.zeros(size, size)), nn.Parameter(torch.zeros(size))
        self.c = nn.Parameter(torch.zeros(()))

    def forward(self, z):
        return self.c + z @ self.b.unsqueeze(-1) + ((z @ self.A) * z).sum(-1, keepdim=True)

    @torch.no_grad()
    def set_to_ratio(self, m, S):
        """The best critic of N(m, S) against the product of its margins."""
        L, margins = torch.linalg.inv(S), (1 / S.diagonal()).diag()
        difference = L - margins
        self.A.copy_(-difference / 2)
        self.b.copy_(difference @ m)
        self.c.copy_((S.diagonal().log().sum() - S.logdet() - m @ difference @ m) / 2)


def entangled():
    """A linear VAE whose guide's means are correlated, with the best of critics."""
    torch.manual_seed(3)
    pair = LinearVAE(5, 2).fit_guide()
    with torch.no_grad():
        pair.encoder.weight[1] += 2 * pair.encoder.weight[0]
        pair.posterior_scale -= 1
        pair.encoder.bias += 0.3
    made = LatentCritic(pair, Quadratic(2))
    made.latent_critic.set_to_ratio(*aggregate(pair))
    return made


def aggregate(pair):
    """Mean and covariance of q(z), for data of the model's own law."""
    A, s = pair.encoder.weight, softplus(pair.posterior_scale)
    law = pair.marginal()
    S = A @ law.covariance_matrix.detach() @ A.T + s.square().diag()
    return A @ law.mean.detach() + pair.encoder.bias, S


def total_correlation(pair):
    _, S = aggregate(pair)
    return (S.diagonal().log().sum() - S.logdet()) / 2


def test_the_ratio_is_that_of_the_densities():
    made = entangled()
    m, S = (t.detach() for t in aggregate(made.pair))
    z = torch.randn(10, 2)
    known = MultivariateNormal(m, S).log_prob(z) - Normal(m, S.diagonal().sqrt()).log_prob(z).sum(-1)
    torch.testing.assert_close(made.latent_critic(z).squeeze(-1), known)


def test_the_best_critics_price_and_its_gradient_are_those_of_the_total_correlation(assert_mean):
    """And for this critic its own gradient is zero: it is the best."""
    made = entangled()
    pair, critic = made.pair, list(made.latent_critic.parameters())
    learned = [pair.encoder.weight, pair.encoder.bias, pair.posterior_scale]

    settings = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}

    def gradient(surrogate, parameters):
        return torch.cat([g.flatten() for g in torch.autograd.grad(surrogate, parameters, **settings)])

    found, of_critic = [], []
    for seed in range(200):
        x, surrogates = pair.sample(100), []
        for gamma in (0.0, 1.0):
            torch.manual_seed(seed)
            surrogates.append(FactorVAE(gamma=gamma)(made, x)[1])
        price = surrogates[0] - surrogates[1]
        found.append(torch.cat([price.detach()[None], gradient(price, learned)]))
        of_critic.append(gradient(surrogates[0], critic))
    known = total_correlation(pair)
    assert known > 0.1
    assert_mean(torch.stack(found), torch.cat([known.detach()[None], gradient(known, learned)]))
    assert_mean(torch.stack(of_critic)[:, :4], torch.zeros(4))


@pytest.mark.slow(8)
def test_a_trained_critic_sees_what_kl_split_finds(assert_mean):
    """The total correlation: in closed form, by nested Monte Carlo, and by a critic that started from nothing."""
    made = entangled()
    known, x = total_correlation(made.pair).item(), made.pair.sample(4000)
    made.latent_critic = Quadratic(2)
    made.pair.requires_grad_(False)
    settings = {"schedule": lambda done: 0.01**done, "seed": 0, "progress": False}
    ppvae.fit(made, x, FactorVAE(2), steps=800, batch_size=400, lr=0.02, **settings)
    with torch.no_grad():
        of_critic = made.latent_critic(made.latents(made.pair.sample(20_000))["z"][0]).squeeze(-1)
    split = ppvae.kl_split(made, made.pair.sample(1000), seed=0).loc["total correlation"]
    assert abs(split.nats - split.bias - known) < 4 * split.std_error
    # What 4000 data points say of their law is off by about the error of a mean over them.
    error = of_critic.std().item() * (1 / len(of_critic) + 1 / len(x)) ** 0.5
    assert abs(of_critic.mean().item() - known) < 4 * error
    assert 4 * error < known / 4


def test_the_value_is_the_elbo_and_neither_player_climbs_the_others_gain(assert_mean):
    made = entangled()
    x = made.pair.sample(50)
    with torch.no_grad():
        values = torch.stack([FactorVAE()(made, x)[0] for _ in range(100)])
    assert_mean(values.mean(1), made.exact_elbo(x).mean())
    found = {}
    for gamma in (0.0, 7.0):
        torch.manual_seed(0)
        found[gamma] = torch.autograd.grad(FactorVAE(gamma=gamma)(made, x)[1], list(made.parameters()))
    torch.manual_seed(0)
    made.latents(x)  # what the price draws first
    elbo = torch.autograd.grad(ELBO()(made, x)[1], list(made.pair.parameters()))
    num = len(elbo)
    torch.testing.assert_close(found[0.0][:num], elbo)
    torch.testing.assert_close(found[0.0][num:], found[7.0][num:])
    torch.manual_seed(0)
    z = made.latents(x)["z"]
    ELBO()(made, x)
    critic = made.latent_critic
    gain = logsigmoid(critic(z)).mean() + logsigmoid(-critic(shuffled(z))).mean()
    torch.testing.assert_close(found[0.0][num:], torch.autograd.grad(gain, list(critic.parameters())))


def test_shuffled_numbers_are_of_different_data_points_by_weight(assert_mean):
    z = torch.arange(4.0).view(1, 4, 1).expand(20_000, 4, 3)
    weights = torch.tensor([1.0, 3.0, 2.0, 2.0])
    with weighted(weights, FactorVAE()):
        drawn = shuffled(z)[:, 0]
    share = weights / weights.sum()
    for j in range(3):
        assert_mean(torch.nn.functional.one_hot(drawn[:, j].long(), 4).double(), share.double())
    together = (drawn[:, 0] == 1) & (drawn[:, 1] == 1)
    assert_mean(together.double(), (3 / 8) ** 2)


def test_refusals():
    x = torch.randn(5, 4)
    with pytest.raises(ppvae.ContractError, match=r"LinearVAE: found no `latent_critic`.*use ppvae\.models\.LatentCri"):
        FactorVAE()(LinearVAE(4, 2), x)
    with pytest.raises(ppvae.ContractError, match=r"found the latent sites 'z' .*expected one, with independent Gauss"):
        FactorVAE()(LatentCritic(LinearVAE(4, 2, guide="full"), nn.Linear(2, 1)), x)
