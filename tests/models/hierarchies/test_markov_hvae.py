"""The Markov hierarchy and its guides against the linear-Gaussian chain (oracle 5), where all is linear algebra."""

import pytest
import torch
from safetensors.torch import load_file
from support.linear_hierarchies import (
    EXACT,
    LinearGaussian,
    as_hierarchy,
    best_independent,
    chain,
    exact_flow,
    linear,
)
from torch import nn

import ppvae
from ppvae.inference import ELBO, separable_sites
from ppvae.models import FullNormal, LadderPosterior, MarkovHVAE, ResidualPosterior
from ppvae.models.hierarchies.hierarchical_posteriors import HIERARCHICAL_POSTERIORS
from ppvae.refusals import ContractError

pytestmark = pytest.mark.usefixtures("float64")

DOWNWARDS = ["ladder", "residual"]


@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
def test_independent_guide_costs_what_the_chain_says(kl, assert_mean):
    truth = chain([3, 2, 2])
    pair, x = as_hierarchy(truth, best_independent(truth)), truth.sample(5)
    with torch.no_grad():
        values = ELBO(kl=kl)(pair, x.repeat(20_000, 1))[0].reshape(20_000, 5)
        exact = truth.log_prob(x) - truth.factorized_gap()
    assert truth.factorized_gap() > 0.5
    assert_mean(values, exact)


@pytest.mark.parametrize("posterior", EXACT)
@pytest.mark.parametrize("sizes", [[1], [1, 1], [1, 1, 1, 1]])
def test_guides_over_dependent_layers_reach_the_posterior(posterior, sizes):
    """Of scalars, with the parameters that the chain gives: no gap, where independent layers have one."""
    truth = chain(sizes)
    pair, x = as_hierarchy(truth, EXACT[posterior](truth)), truth.sample(6)
    log_w = pair.log_weights(x, 20).log_w
    torch.testing.assert_close(log_w, truth.log_prob(x).expand(20, 6))
    assert (truth.factorized_gap() > 0.01) == (len(sizes) > 1)


@pytest.mark.parametrize("sizes", [[3], [3, 2], [2, 3, 3, 2]])
def test_maps_give_the_posterior_of_vectors_its_correlations(sizes):
    """No gap, whatever the sizes of layers, where independent scalars have one."""
    truth = chain(sizes)
    pair, x = as_hierarchy(truth, exact_flow(truth)), truth.sample(6)
    torch.testing.assert_close(pair.log_weights(x, 20).log_w, truth.log_prob(x).expand(20, 6))
    assert truth.factorized_gap() > 0.1


def test_maps_that_do_nothing_leave_the_residual_guide():
    """As they do at their start."""
    pair, x = MarkovHVAE.mlp(6, [4, 3], [8], "gaussian", "iaf"), torch.randn(5, 6)
    torch.manual_seed(0)
    found = pair.log_weights(x, 7)
    pair.posterior = ResidualPosterior(list(pair.posterior.features), list(pair.posterior.heads))
    torch.manual_seed(0)
    expected = pair.log_weights(x, 7)
    torch.testing.assert_close(found.latents, expected.latents, rtol=0, atol=0)
    torch.testing.assert_close(found.log_w, expected.log_w)


def noises(pair, x, repeats):
    """Mean and variance of the ELBO of each data point, with the KL in closed form and by draws."""
    with torch.no_grad():
        many = x.repeat(repeats, 1)
        values = [ELBO(kl=kl)(pair, many)[0].reshape(repeats, -1) for kl in ("analytic", "monte_carlo")]
    return [(value.mean(0), value.var(0)) for value in values]


@pytest.mark.parametrize("posterior", ["independent", *DOWNWARDS])
def test_analytic_inner_kl_has_the_same_mean_and_less_noise_before_training(posterior):
    pair = MarkovHVAE.mlp(6, [4, 3, 2], [8], "gaussian", posterior)
    x = pair.sample(5)
    (mean, variance), (other_mean, other_variance) = noises(pair, x, 4000)
    assert separable_sites(pair, x) == {"z1", "z2", "z3"}
    assert ((mean - other_mean) / ((variance + other_variance) / 4000).sqrt()).abs().max() < 4
    assert (variance < other_variance).all()


@pytest.mark.parametrize("posterior", ["independent", *DOWNWARDS])
def test_near_the_posterior_it_has_more_noise(posterior):
    """There the noises of Monte Carlo's terms cancel (Roeder et al. 2017): all of them, if the guide is exact."""
    truth = chain([1, 1, 1])
    pair = as_hierarchy(truth, EXACT.get(posterior, best_independent)(truth))
    x = truth.sample(5)
    (mean, variance), (other_mean, other_variance) = noises(pair, x, 4000)
    assert ((mean - other_mean) / ((variance + other_variance) / 4000).sqrt()).abs().max() < 4
    assert (variance > other_variance).all()
    if posterior in EXACT:
        assert other_variance.max() < 1e-20


def test_samples_have_the_marginal_covariance(assert_mean):
    truth = chain([3, 2, 2])
    x = as_hierarchy(truth, best_independent(truth)).sample(20_000) - truth.mean.detach()
    exact = truth.marginal().covariance_matrix.flatten().detach()
    assert_mean((x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(1), exact, k=4.5)


def test_where_x_says_nothing_the_ladder_stays_at_the_prior():
    """A message that is infinitely wide costs nothing, and changes nothing."""
    truth = chain([2, 2])
    features = [linear(torch.randn(2, n), torch.zeros(2)) for n in (4, 2)]
    pair = as_hierarchy(truth, LadderPosterior(features, [LinearGaussian(torch.eye(2), 1e9)] * 2))
    pair.posterior.heads[1] = LinearGaussian(torch.zeros(2, 2), 1.0)
    usage = ppvae.elbo_terms(pair, truth.sample(5), progress=False).latents
    assert max(each.kl.estimate.abs().max() for each in usage.values()) < 1e-6
    assert all(each.collapsed for each in usage.values())


def test_at_its_start_the_residual_guide_goes_half_way_with_the_draw_above():
    """Its means are `mu_l / 2 + m_l(x)`."""
    pair = MarkovHVAE.mlp(6, [4, 3, 2], [8], "gaussian", "residual")
    trace = ppvae.tracing.trace_pair(pair, torch.randn(5, 6), 30).guide
    for name in ("z1", "z2"):
        site = trace.nodes[name]["fn"].base_dist
        assert site.prior.loc.std(0).min() > 1e-3
        message = site.loc - site.prior.loc / 2
        torch.testing.assert_close(message, message[:1].expand(30, 5, -1))


@pytest.mark.parametrize("posterior", HIERARCHICAL_POSTERIORS)
@pytest.mark.parametrize("num_latents", [[3], [3, 2], [4, 3, 2, 2]])
def test_any_number_of_layers(num_latents, posterior):
    pair = MarkovHVAE.mlp(6, num_latents, [8], "gaussian", posterior)
    x = torch.randn(4, 6)
    pair.check(x)
    latents = pair.latents(x, num_particles=3)
    assert {name: tuple(z.shape) for name, z in latents.items()} == {
        f"z{i}": (3, 4, n) for i, n in enumerate(num_latents, 1)
    }
    _, surrogate = ELBO(kl="monte_carlo" if posterior in ("bottom_up", "iaf") else "analytic")(pair, x)
    surrogate.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pair.parameters())


@pytest.mark.parametrize("posterior", HIERARCHICAL_POSTERIORS)
def test_training_closes_in_on_the_chains_evidence(posterior):
    """By two thirds of the way from where it starts."""
    sizes = [2, 2] if posterior == "iaf" else [1, 1]
    truth = chain(sizes)
    x = truth.sample(300)
    pair, reachable = MarkovHVAE.mlp(4, sizes, [16], "gaussian", posterior).init_from(x), truth.log_prob(x).mean()
    start = ppvae.elbo(pair, x, seed=0, progress=False).mean().estimate
    ppvae.fit(pair, x, epochs=40, batch_size=60, lr=0.01, progress=False)
    end = ppvae.elbo(pair, x, seed=0, progress=False).mean().estimate
    assert start < reachable - 0.5
    assert (end - start) / (reachable - start) > 2 / 3, (start, end, reachable)


@pytest.mark.parametrize("posterior", HIERARCHICAL_POSTERIORS)
def test_with_batch_norms_a_data_point_is_measured_by_itself(posterior):
    """Training moves their running averages; measuring uses them and keeps them."""
    torch.manual_seed(0)
    x = torch.randn(60, 4)
    pair = MarkovHVAE.mlp(4, [3, 2], [5], "gaussian", posterior, batch_norm=True).init_from(x)
    ppvae.fit(pair, x, epochs=3, batch_size=20, seed=0, progress=False)
    running = {name: b.clone() for name, b in pair.named_buffers() if "running" in name}
    assert all((b != 0).any() and (b != 1).any() for b in running.values())
    together = ppvae.log_evidence(pair, x, "iwae", 2000, seed=0, progress=False)
    alone = ppvae.log_evidence(pair, x[:1], "iwae", 2000, seed=1, progress=False)
    error = (together.std_error[0] ** 2 + alone.std_error[0] ** 2) ** 0.5
    assert abs(together.estimate[0] - alone.estimate[0]) < 4 * error
    torch.testing.assert_close({name: dict(pair.named_buffers())[name] for name in running}, running)


def test_transitions_keep_their_distance_from_a_function():
    """So that no unit of a layer can become one of the layer above."""
    pair = MarkovHVAE.mlp(6, [3, 2], hidden=[5])
    pair.transitions[0].network[-1].bias.data.fill_(-1e3)
    assert (pair.transitions[0](torch.randn(4, 2)).base_dist.scale >= 0.5).all()


@pytest.mark.parametrize("likelihood", ["categorical", "logistic_mixture"])
def test_gray_levels(likelihood):
    """Probabilities of all levels of one pixel add up to one."""
    pair = MarkovHVAE.mlp(1, [2, 2], [4], likelihood, levels=5)
    every = torch.arange(5.0).unsqueeze(-1) / 4
    z = torch.randn(3, 1, 2)
    torch.testing.assert_close(pair.likelihood(z).log_prob(every).exp().sum(-1), torch.ones(3))


@pytest.mark.parametrize("posterior", HIERARCHICAL_POSTERIORS)
def test_a_checkpoint_holds_every_tensor_once(posterior, tmp_path):
    pair = MarkovHVAE.mlp(6, [3, 2, 2], [8], "gaussian", posterior)
    ppvae.save(pair, tmp_path / "pair.safetensors")
    found = load_file(tmp_path / "pair.safetensors")
    held = {t.data_ptr(): t.numel() for t in pair.state_dict().values()}
    assert sum(t.numel() for t in found.values()) == sum(held.values()) + pair.example.numel()
    other = MarkovHVAE.mlp(6, [3, 2, 2], [8], "gaussian", posterior)
    ppvae.load(other, tmp_path / "pair.safetensors")
    x = torch.randn(4, 6)
    torch.manual_seed(0)
    before = pair.log_weights(x, 3).log_w
    torch.manual_seed(0)
    torch.testing.assert_close(other.log_weights(x, 3).log_w, before, rtol=0, atol=0)


def test_what_is_refused():
    with pytest.raises(ValueError, match="num_latents: found no layers"):
        MarkovHVAE.mlp(num_features=6, num_latents=[])
    with pytest.raises(ValueError, match="posterior: found 'flow', expected one of 'independent', 'bottom_up'"):
        MarkovHVAE.mlp(6, [2, 2], posterior="flow")
    with pytest.raises(ValueError, match="num_latents: found 1, expected at least 2"):
        MarkovHVAE.mlp(6, [2, 1], posterior="iaf")
    with pytest.raises(ValueError, match=r"hidden: found no layers.*features of 'ladder'"):
        MarkovHVAE.mlp(6, [2, 2], hidden=[], posterior="ladder")
    pair = MarkovHVAE.mlp(6, [2, 2], [4], posterior="residual")
    pair.transitions[0] = FullNormal(nn.Linear(2, 5), 2)
    with pytest.raises(ContractError, match=r"transitions\[0\]: found MultivariateNormal, expected Normal"):
        pair.check(torch.zeros(3, 6))
