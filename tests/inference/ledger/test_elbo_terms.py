"""The ELBO site by site: the terms add up, in whatever order the guide draws, and are called what they are."""

import math

import pytest
import torch
from support.linear_hierarchies import as_hierarchy, chain, exact_bottom_up
from support.zoo import ZOO
from torch.distributions import Normal

import ppvae
from ppvae.batches import num_rows
from ppvae.inference import EvidenceUndefined
from ppvae.models import Autoencoder, Gaussian, LinearVAE, MarkovHVAE
from ppvae.models.hierarchies.hierarchical_posteriors import HIERARCHICAL_POSTERIORS

NO_KL = {
    "bidirectional hierarchy": ["b1"],  # drawn first, and given what is above it in the model
    "bottom-up": ["z1"],
    "chain, exact": ["z1"],
    "hierarchy, upwards": ["z1"],
    "M1+M2": ["z1"],
    "mixture prior": ["z"],  # a KL that ppvae does not know to be one, as c above z is summed out
}


@pytest.fixture(autouse=True)
def _float64(float64):
    """All of this file in double precision."""


def measured(pair, data, num_samples=50, seed=0):
    return ppvae.elbo_terms(pair, data, num_samples, seed=seed, progress=False)


@pytest.mark.parametrize("name", ZOO)
def test_terms_add_up(name):
    """For each data point, to rounding; and to the ELBO that is measured apart, within the errors."""
    pair, batch = ZOO[name].make()
    terms = measured(pair, batch)
    total = terms.expected_log_likelihood.estimate - sum(usage.kl.estimate for usage in terms.latents.values())
    torch.testing.assert_close(total, terms.elbo.estimate, rtol=1e-12, atol=1e-10)
    other = ppvae.elbo(pair, batch, 50, seed=1, progress=False)
    error = torch.hypot(terms.elbo.std_error, other.std_error)
    assert ((terms.elbo.estimate - other.estimate).abs() <= 5 * error + 1e-9).all()
    assert terms.elbo.estimate.shape == (num_rows(batch),)
    assert [site for site, usage in terms.latents.items() if not usage.is_kl] == NO_KL.get(name, [])


def test_expected_log_likelihood_of_the_linear_vae(assert_mean):
    """`E_q log N(x; W z + mean, 1)`, whose residual has the mean `x - mean - W m` and the variances `W^2 s^2`."""
    pair = LinearVAE(5, 2)
    x = torch.randn(20, 5)
    line = measured(pair, x, 400).expected_log_likelihood
    with torch.no_grad():
        q = pair._q(x).base_dist
        mean = Normal(0.0, 1.0).log_prob(x - pair.mean - q.loc @ pair.weight.T).sum(-1)
        exact = mean - (q.scale.square() @ pair.weight.T.square()).sum(-1) / 2
    assert ((line.estimate - exact) / line.std_error).abs().max() < 4.5


def test_kl_to_a_prior_whose_component_is_summed_out():
    """Against a grid: `E_q[log q(z) - log sum_c p(c) p(z | c)]`."""
    pair, x = ZOO["mixture prior"].make()
    usage = measured(pair, x, 2000).latents["z"]
    z = torch.linspace(-12, 12, 4001).unsqueeze(1)
    with torch.no_grad():
        log_q = Normal(pair.encoder(x.unsqueeze(-1)).squeeze(-1), 0.8).log_prob(z)
        components = Normal(pair.means, 1.0).log_prob(z) + pair.logits.log_softmax(0)
        exact = torch.trapezoid(log_q.exp() * (log_q - components.logsumexp(-1, keepdim=True)), z, dim=0)
    assert ((usage.kl.estimate - exact) / usage.kl.std_error).abs().max() < 4.5


def test_a_site_tied_to_the_observation_is_named():
    pair, x = ZOO["tied by summation"].make()
    terms = measured(pair, x)
    assert not terms.latents
    assert "latent sites ['z']" in terms.expected_log_likelihood.warning
    assert not measured(*ZOO["mixture prior"].make()).expected_log_likelihood.warning


def test_collapse_is_said_of_each_layer():
    """A decoder that looks at z1 alone, and a guide of z2 that is its prior."""
    pair = MarkovHVAE.mlp(5, [3, 2], [8], "gaussian")
    x = torch.randn(40, 5)
    with torch.no_grad():
        transition, top = pair.transitions[0].network[-1], pair.posterior.encoders[1].network[-1]
        transition.weight.zero_()
        top.weight.zero_()
        top.bias.copy_(torch.tensor([0.0, 0.0, *[math.log(math.expm1(1.0))] * 2]))  # N(0, 1), by a softplus
    terms = measured(pair, x, 400)
    assert terms.collapsed == ("z2",)
    assert "\nCollapsed: z2." in str(terms)
    table = terms.summary()
    assert table.index.tolist() == ["E log p(x | z)", "KL of z1", "KL of z2", "ELBO"]
    assert table.index.name == "MarkovHVAE, 40 data points"
    assert table["collapsed"].dropna().tolist() == [False, True]
    assert table["num_units"].dropna().tolist() == [3, 2]
    assert table.loc["KL of z2", "active_units"] == 0
    assert abs(table.loc["KL of z2", "mutual_information"]) < 1e-10
    sign = torch.tensor([1.0, -1.0, -1.0, -1.0])
    assert abs((sign * torch.tensor(table["nats"].to_numpy())).sum()) < 1e-12


@pytest.mark.slow(4)
def test_a_guide_that_runs_upwards_is_not_said_to_pay_kls():
    """Where x tells nothing, its exact guide is the prior upwards: z1 is paid what z2 pays, their mutual information.

    z1's term is not below 0.05 nats because it has collapsed; that it has is told by its posterior means.
    """
    truth = chain([1, 1])
    with torch.no_grad():
        truth.weights[0].zero_()
        truth.weights[1].fill_(2.0)
        variance = truth.log_sigmas[1].exp().square()
        information = (1 + 4 / variance).log() / 2
    pair = as_hierarchy(truth, exact_bottom_up(truth))
    terms = measured(pair, truth.sample(30), 400)
    kl = {name: usage.kl.mean() for name, usage in terms.latents.items()}
    assert abs(kl["z1"].estimate + information) < 4 * kl["z1"].monte_carlo_error
    assert abs(kl["z2"].estimate - information) < 4 * kl["z2"].monte_carlo_error
    assert terms.collapsed == ("z1",)
    assert terms.summary().index.tolist() == ["E log p(x | z)", "E log q/p of z1", "KL of z2", "ELBO"]
    report = ppvae.gap(pair, truth.sample(5), "quick", seed=0, progress=False)
    assert report.summary().index.tolist()[-2:] == ["E log q/p of z1", "KL of z2"]


def test_information_near_what_the_data_can_show_is_said_to_be_so():
    """A guide so certain that each draw tells its data point: log 7 of all that it knows."""
    pair = LinearVAE(5, 2)
    with torch.no_grad():
        pair.posterior_scale.fill_(-20.0)
    terms = measured(pair, torch.randn(7, 5))
    assert terms.latents["z"].mutual_information == pytest.approx(math.log(7))
    assert f"Mutual information may be larger: this many data points show at most {math.log(7):.2f} nats" in str(terms)
    assert "may be larger" not in str(measured(LinearVAE(5, 2, guide="exact"), torch.randn(7, 5) / 10))


@pytest.mark.parametrize("posterior", HIERARCHICAL_POSTERIORS)
def test_layers_come_in_the_guides_order(posterior):
    pair = MarkovHVAE.mlp(5, [3, 2, 2], [8], "gaussian", posterior)
    downwards = posterior in ("ladder", "residual", "iaf")
    expected = ["z3", "z2", "z1"] if downwards else ["z1", "z2", "z3"]
    assert list(measured(pair, torch.randn(6, 5), 5).latents) == expected


def test_what_is_refused():
    with pytest.raises(ValueError, match="num_samples: found 0, expected at least 1"):
        ppvae.elbo_terms(LinearVAE(5, 2), torch.randn(3, 5), 0)
    plain = Autoencoder(torch.nn.Linear(5, 2), Gaussian(torch.nn.Linear(2, 5)))
    with pytest.raises(EvidenceUndefined, match="has no evidence"):
        ppvae.elbo_terms(plain, torch.randn(3, 5))
