"""VAE/GAN against closed forms: linear features of a linear decoder, and each player by itself."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import logsigmoid, softplus

import ppvae
from ppvae import ELBO, FeatureELBO
from ppvae.models import GAN, VAE, VAEGAN, DiagonalNormal, Gaussian, StandardNormal

pytestmark = pytest.mark.usefixtures("float64")


def linear(features=None):
    """A VAE of linear networks with p(x | z) = N(W z + b, I), and a linear critic."""
    torch.manual_seed(1)
    vae = VAE(StandardNormal(2), Gaussian(nn.Linear(2, 4), sigma=1.0), DiagonalNormal(nn.Linear(4, 4)))
    features = nn.Linear(4, 3) if features is None else features
    return VAEGAN(vae, features, nn.Linear(4 if isinstance(features, nn.Identity) else 3, 1))


def gradients(pair, objective, x, seed=0):
    torch.manual_seed(seed)
    value, surrogate = objective(pair, x)
    names, parameters = zip(*pair.named_parameters(), strict=True)
    found = torch.autograd.grad(surrogate, parameters, allow_unused=True, materialize_grads=True)
    return value, dict(zip(names, found, strict=True))


def flat(found, prefix):
    return torch.cat([g.flatten() for name, g in found.items() if name.startswith(prefix)])


def test_identical_features_give_the_elbo_and_its_gradient():
    """With f(x) = x, and sigma = 1 in p(x | z), for encoder and decoder alike."""
    pair, x = linear(nn.Identity()), torch.randn(5, 4)

    class Plain(ELBO):
        """Draws for a value first, as the other does."""

        def __call__(self, pair, batch, step=torch.inf):
            with torch.no_grad():
                value, _ = super().__call__(pair, batch, step)
            return value, super().__call__(pair, batch, step)[1]

    (value, found), (elbo, known) = (gradients(pair, o, x) for o in (FeatureELBO(3, weight=0), Plain(3)))
    torch.testing.assert_close(value, elbo)
    torch.testing.assert_close(flat(found, "pair"), flat(known, "pair"))


def test_linear_features_of_a_linear_decoder_are_a_closed_form(assert_mean):
    """`E log N(A x; A (W z + b), I)`, with `z ~ N(m, S)`, is `-(|A (x - W m - b)|^2 + tr A W S W'A') / 2` and a
    constant; it is not `log p(x | z)`, which A = I would give."""
    pair, x = linear(), torch.randn(3, 4)
    A, decoder, encoder = pair.features.weight.detach(), pair.pair.likelihood.network, pair.pair.posterior.network
    m, unconstrained = encoder(x).chunk(2, -1)
    S = softplus(unconstrained).square()
    AW = A @ decoder.weight
    squares = ((x - m @ decoder.weight.T - decoder.bias) @ A.T).square().sum(1) + (S @ AW.square().T).sum(1)
    kl = kl_divergence(Normal(m, S.sqrt()), Normal(0.0, 1.0)).sum(1)
    learned = [*pair.pair.likelihood.parameters(), *pair.pair.posterior.parameters()]
    known = torch.autograd.grad((-squares / 2 - kl).mean(), learned)
    found = []
    for seed in range(200):
        _, gradient = gradients(pair, FeatureELBO(weight=0.0), x, seed)
        found.append(torch.cat([flat(gradient, "pair.likelihood"), flat(gradient, "pair.posterior")]))
    assert_mean(torch.stack(found), torch.cat([g.flatten() for g in known]))
    _, elbo = gradients(pair, ELBO(400), x)
    known_in_features = torch.cat([g.flatten() for g in known[:2]])
    assert (flat(elbo, "pair.likelihood") - known_in_features).abs().max() > 0.1


def test_each_player_climbs_its_own_gain_alone():
    """The critic's scores reach the decoder by `weight`, and the encoder not at all; no reconstruction error reaches
    the critic."""
    pair, x = linear(), torch.randn(6, 4)
    of = {weight: gradients(pair, FeatureELBO(weight=weight), x)[1] for weight in (0.0, 2.0)}
    for prefix in ("pair.posterior", "critic"):
        torch.testing.assert_close(flat(of[0.0], prefix), flat(of[2.0], prefix))

    torch.manual_seed(0)
    q = pair.pair.posterior(x)
    q.rsample((1,))  # for the value
    reconstructed = pair.decode(q.rsample((1,)).detach())
    fakes = torch.cat([reconstructed, pair.generate(1, 6)])
    of_decoder = torch.autograd.grad(2 * logsigmoid(pair.critic(fakes)).mean(), list(pair.pair.likelihood.parameters()))
    more = flat(of[2.0], "pair.likelihood") - flat(of[0.0], "pair.likelihood")
    torch.testing.assert_close(more, torch.cat([g.flatten() for g in of_decoder]))
    gain = logsigmoid(pair.critic(x)).mean() + logsigmoid(-pair.critic(fakes.detach())).mean()
    of_critic = torch.autograd.grad(gain, list(pair.critic.parameters()))
    torch.testing.assert_close(flat(of[0.0], "critic"), torch.cat([g.flatten() for g in of_critic]))


def test_by_rows_it_is_the_same():
    pair, x, found = linear(), torch.randn(5, 4), []
    for layout in ("leading", "rows"):
        pair.particles = layout
        found.append(gradients(pair, FeatureELBO(2), x))
    torch.testing.assert_close(found[0], found[1])


def test_ledger_and_evidence_are_those_of_the_vae():
    """As it was trained: the critic's parameters enter nothing."""
    torch.manual_seed(0)
    vae, x = VAE.mlp(4, 2, [5], "gaussian"), torch.randn(200, 4)
    pair = VAEGAN(vae, nn.Sequential(nn.Linear(4, 5), nn.Tanh()), nn.Linear(5, 1))
    before = [p.clone() for p in pair.parameters()]
    groups = ppvae.ParameterGroups({"critic": 2.0}, settings={"betas": (0.5, 0.9)})
    ppvae.fit(pair, x, FeatureELBO(), steps=20, optimizer=groups, progress=False)
    moved = [not torch.equal(a, b) for a, b in zip(before, pair.parameters(), strict=True)]
    assert moved.count(False) == 1  # sigma, which training does not see
    spread = (x - pair.reconstruct(x, 10)).square().mean().sqrt()
    vae.likelihood.start_sigma(spread)
    for measure in (ppvae.elbo, partial(ppvae.log_evidence, method="iwae")):
        own, of_vae = (measure(p, x[:5], seed=0, progress=False).estimate for p in (pair, vae))
        assert torch.equal(own, of_vae)


def test_refusals():
    with pytest.raises(ppvae.ContractError, match="GAN: found no `critic`, `features` and `decode`, expected a pair"):
        FeatureELBO()(GAN.mlp(4, 2, [5]), torch.randn(3, 4))
