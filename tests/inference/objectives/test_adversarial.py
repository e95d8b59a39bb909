"""Adversarial training against what is known: linear critics, the best critic, and the divergence that it sees."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal
from torch.nn.functional import logsigmoid

import ppvae
from ppvae import AdversarialLoss, ParameterGroups
from ppvae.inference.objectives.registry import REGISTRY
from ppvae.models import GAN, VAE

pytestmark = pytest.mark.usefixtures("float64")


def linear(num_features=3, num_latents=2):
    torch.manual_seed(1)
    return GAN(nn.Linear(num_latents, num_features), nn.Linear(num_features, 1), num_latents)


def gradients(gan, objective, x, seed=0):
    torch.manual_seed(seed)
    value, surrogate = objective(gan, x)
    names, parameters = zip(*gan.named_parameters(), strict=True)
    return value, dict(zip(names, torch.autograd.grad(surrogate, parameters), strict=True))


def test_wasserstein_of_a_linear_critic_is_its_closed_form():
    gan, x = linear(), torch.randn(5, 3)
    a, W, b = gan.critic.weight[0], gan.generator.weight, gan.generator.bias
    torch.manual_seed(0)
    z = torch.randn(4, 5, 2)
    value, found = gradients(gan, AdversarialLoss(4, "wasserstein", penalty=10.0), x)
    fake = z @ W.T + b
    torch.testing.assert_close(value, ((fake - x) @ a).mean(0).detach())
    slope = a.norm()
    penalty = 20 * (slope - 1) * a / slope
    torch.testing.assert_close(found["critic.weight"][0], (x.mean(0) - fake.mean((0, 1)) - penalty).detach())
    torch.testing.assert_close(found["generator.bias"], a.detach())
    torch.testing.assert_close(found["generator.weight"], torch.outer(a, z.mean((0, 1))).detach())


def test_each_player_climbs_its_own_gain_alone():
    gan, x = GAN.mlp(3, 2, [8]), torch.randn(6, 3)
    _, found = gradients(gan, AdversarialLoss(), x)
    torch.manual_seed(0)
    fake = gan.generate(1, 6)
    of_generator = logsigmoid(gan.critic(fake)).mean()
    own = torch.autograd.grad(of_generator, list(gan.generator.parameters()))
    for name, g in zip(dict(gan.generator.named_parameters()), own, strict=True):
        torch.testing.assert_close(found[f"generator.{name}"], g)
    of_critic = logsigmoid(gan.critic(x)).mean() + logsigmoid(-gan.critic(fake.detach())).mean()
    own = torch.autograd.grad(of_critic, list(gan.critic.parameters()))
    for name, g in zip(dict(gan.critic.named_parameters()), own, strict=True):
        torch.testing.assert_close(found[f"critic.{name}"], g)


class LogRatio(nn.Module):
    """The best critic between two Gaussians: log p - log q."""

    def __init__(self, p, q):
        super().__init__()
        self.p, self.q = p, q

    def forward(self, x):
        return self.p.log_prob(x) - self.q.log_prob(x)


def test_the_best_critic_sees_twice_the_jensen_shannon_divergence(assert_mean):
    p, q = Normal(1.0, 0.5), Normal(0.0, 1.0)
    gan = GAN(nn.Identity(), LogRatio(p, q), 1)
    grid = torch.linspace(-12, 12, 200_001)
    log_p, log_q = p.log_prob(grid), q.log_prob(grid)
    middle = torch.logaddexp(log_p, log_q) - math.log(2)
    twice = torch.trapezoid(log_p.exp() * (log_p - middle) + log_q.exp() * (log_q - middle), grid)
    with torch.no_grad():
        value, _ = AdversarialLoss(10)(gan, p.sample((20_000, 1)))
    assert_mean(value, -twice)


@pytest.mark.slow(3)
@pytest.mark.parametrize("seed", range(3))
def test_training_matches_the_law_of_the_data(seed):
    """A generator of one number, which can be exact: averaged over steps, its mean and spread come ten times closer.

    By itself it circles about them, as critic and generator follow each other: the penalty is small, so that the
    critic's slope may change its sign soon.
    """
    torch.manual_seed(seed)
    gan, x = GAN(nn.Linear(1, 1), ppvae.networks.mlp(1, [16], 1, nn.Softplus), 1), 1 + 0.5 * torch.randn(2000, 1)
    groups = ParameterGroups({"critic": 10.0}, settings={"betas": (0.0, 0.9)})
    objective, options = AdversarialLoss(kind="wasserstein", penalty=0.1), ppvae.StepOptions(ema=0.995)

    def distance():
        return abs(gan.generator.bias.item() - 1) + abs(gan.generator.weight.abs().item() - 0.5)

    before, settings = distance(), {"steps": 2000, "batch_size": 100, "lr": 4e-3, "progress": False}
    ppvae.fit(gan, x, objective, optimizer=groups, options=options, **settings)
    assert distance() < before / 10


def test_rates_of_their_own():
    gan = linear()
    groups = ParameterGroups({"critic": 0.0}, "sgd")
    before = {name: p.clone() for name, p in gan.named_parameters()}
    ppvae.fit(gan, torch.randn(20, 3), AdversarialLoss(), steps=3, lr=0.1, optimizer=groups, progress=False)
    for name, p in gan.named_parameters():
        assert torch.equal(p, before[name]) == name.startswith("critic"), name
    with pytest.raises(ValueError, match=r"factors: found the prefixes \['critc'\], with which no parameter's name"):
        ppvae.Trainer(gan, AdversarialLoss(), optimizer=ParameterGroups({"critc": 1.0}))


def test_a_schedule_multiplies_all_rates():
    gan, groups = linear(), ParameterGroups({"critic": 3.0}, "sgd")
    trainer = ppvae.Trainer(gan, AdversarialLoss(), lr=0.1, optimizer=groups, schedule=lambda done: 0.5**done)
    for _ in range(3):
        trainer.step(torch.randn(4, 3))
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx([0.3 / 4, 0.1 / 4])


@pytest.mark.parametrize("name", [name for name in REGISTRY if name != "AdversarialLoss"])
def test_every_bound_of_a_gan_is_refused_by_name(name):
    gan, x = linear(), torch.randn(5, 3)
    objective = REGISTRY[name].objective(num_particles=3)
    lacking = "no guide site|latent sites none|found no `(num_terms|critic|latent_critic)`"
    said = f"no density of what a generator|found gradients enabled|{lacking}"
    for attempt in (lambda: objective(gan, x, 0), lambda: ppvae.fit(gan, x, objective, steps=1, progress=False)):
        with pytest.raises((NotImplementedError, ppvae.ContractError), match=said):
            attempt()


def test_what_a_gan_does_not_have_is_undefined():
    gan, x = linear(), torch.randn(5, 3)
    for measure in (ppvae.log_evidence, ppvae.elbo, ppvae.gap):
        with pytest.raises(ppvae.inference.EvidenceUndefined, match="GAN has no evidence: a generator's"):
            measure(gan, x)
    with pytest.raises(NotImplementedError, match=r"GAN\.log_prob: a generator's samples"):
        gan.log_prob(x)
    with pytest.raises(ValueError, match=r"data: found shape \[5, 2\], expected a tensor of shape \[N, 3\]"):
        ppvae.fit(gan, x[:, :2], AdversarialLoss(), steps=1, progress=False)
    with pytest.raises(ppvae.ContractError, match="VAE: found no `critic` and `generate`, expected a pair with an adv"):
        AdversarialLoss()(VAE.mlp(3, 2, [4], "gaussian"), x)


def test_a_prefix_is_a_whole_name_or_that_of_a_module():
    """So "critic" is not "critic2", as among the groups of `gradient_statistics`."""
    named = {name: torch.nn.Parameter(torch.zeros(1)) for name in ("critic", "critic.a", "critic2.a")}
    made = ParameterGroups({"critic": 4.0}, "sgd").of(named, lr=1.0)
    assert [(group["lr"], len(group["params"])) for group in made.param_groups] == [(4.0, 2), (1.0, 1)]


def test_whole_numbers_are_refused_as_the_generator_draws_none():
    with pytest.raises(ValueError, match=r"data: found torch.int64, expected floating-point numbers.*pass x.float\(\)"):
        ppvae.fit(GAN.mlp(4, 2), torch.zeros(8, 4, dtype=torch.long), AdversarialLoss(), epochs=1, progress=False)
