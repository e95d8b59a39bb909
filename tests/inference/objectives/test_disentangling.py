"""beta-TCVAE and DIP-VAE: the value is the ELBO, and the price is what its closed form says."""

import pytest
import torch

from ppvae import DIPVAE, ELBO, BetaTCVAE, FactorVAE
from ppvae.inference.objectives.weighting import weighted
from ppvae.models import LatentCritic, LinearVAE

pytestmark = pytest.mark.usefixtures("float64")


def entangled():
    """A linear VAE whose guide's means are correlated."""
    torch.manual_seed(3)
    pair = LinearVAE(5, 2).fit_guide()
    with torch.no_grad():
        pair.weight[:, 1] += 0.8 * pair.weight[:, 0]
    return pair.fit_guide()


def total_correlation(pair, covariance):
    """Of q(z), for data of this covariance."""
    A, s = pair.encoder.weight, torch.nn.functional.softplus(pair.posterior_scale)
    S = A @ covariance @ A.T + s.square().diag()
    return (S.diagonal().log().sum() - S.logdet()) / 2


@pytest.mark.parametrize("objective", [BetaTCVAE(beta=50.0), DIPVAE(kind="I"), DIPVAE(kind="II")])
def test_the_value_is_the_elbo_and_the_price_is_not_in_it(objective, assert_mean):
    pair = entangled()
    x = pair.sample(50)
    with torch.no_grad():
        values = torch.stack([objective(pair, x)[0] for _ in range(100)])
    assert_mean(values.mean(1), pair.exact_elbo(x).mean())
    assert objective(pair, x)[1] < objective(pair, x)[0].mean() - 0.1


def test_with_beta_one_it_is_the_elbo():
    pair = entangled()
    x = pair.sample(10)
    found = []
    for objective in (BetaTCVAE(beta=1.0), ELBO()):
        torch.manual_seed(0)
        if isinstance(objective, ELBO):
            pair.latents(x)  # what the other drew before
        surrogate = objective(pair, x)[1]
        found.append(torch.autograd.grad(surrogate, list(pair.parameters())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow(10)
def test_the_price_and_its_gradient_are_those_of_the_total_correlation(assert_mean):
    """By batches of 200 and, as the bias of a minibatch falls as 1 / B, their halves."""
    pair = entangled()
    target = pair.marginal().covariance_matrix.detach()
    parameters = [pair.encoder.weight, pair.posterior_scale]

    def gradient(price):
        return torch.cat([price.detach()[None], *(g.flatten() for g in torch.autograd.grad(price, parameters))])

    def price(x, seed):
        surrogates = []
        for beta in (1.0, 2.0):
            torch.manual_seed(seed)
            surrogates.append(BetaTCVAE(beta=beta)(pair, x)[1])
        return gradient(surrogates[0] - surrogates[1])

    found = []
    for i in range(60):
        x = pair.sample(200)
        halves = (price(x[:100], 2 * i) + price(x[100:], 2 * i + 1)) / 2
        found.append(2 * price(x, 1000 + i) - halves)
    assert_mean(torch.stack(found), gradient(total_correlation(pair, target)))


def test_the_covariance_that_is_priced():
    """Of means alone, or of all of q(z); for equal weights that of numpy."""
    pair = entangled()
    x = pair.sample(200)
    mean, scale = pair.encoder(x), torch.nn.functional.softplus(pair.posterior_scale)
    for kind, more in (("I", 0.0), ("II", scale.square().diag())):
        C = mean.T.cov(correction=0) + more
        off = C - C.diagonal().diag()
        torch.manual_seed(0)
        free = DIPVAE(off_diagonal=0, diagonal=0, kind=kind)(pair, x)[1]
        for prices, known in (((2.0, 0), 2 * off.square().sum()), ((0, 3.0), 3 * (C.diagonal() - 1).square().sum())):
            torch.manual_seed(0)
            found = free - DIPVAE(off_diagonal=prices[0], diagonal=prices[1], kind=kind)(pair, x)[1]
            assert found.item() == pytest.approx(known.item())


@pytest.mark.parametrize("objective", [BetaTCVAE(), BetaTCVAE(num_data=60), DIPVAE(), FactorVAE()])
def test_a_batch_of_no_weight_teaches_nothing(objective):
    pair = LatentCritic(entangled(), torch.nn.Linear(2, 1))
    x = pair.sample(6)
    with weighted(torch.zeros(6), objective):
        value, surrogate = objective(pair, x)
    gradients = torch.autograd.grad(surrogate, list(pair.parameters()), allow_unused=True)
    assert value.isfinite().all()
    assert all((g == 0).all() for g in gradients if g is not None)


def test_whole_weights_are_repeated_rows():
    pair = entangled()
    pair.posterior_scale.data.fill_(-30.0)  # no noise, so that repeated rows draw alike
    x, weights = pair.sample(6), torch.tensor([1.0, 2, 1, 3, 1, 1])
    with weighted(weights / weights.mean(), DIPVAE()):
        found = DIPVAE()(pair, x)[1]
    assert found.item() == pytest.approx(DIPVAE()(pair, x.repeat_interleave(weights.long(), 0))[1].item())
