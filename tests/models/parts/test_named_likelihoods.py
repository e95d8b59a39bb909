"""Likelihoods of counts, ordered categories and censored values, against SciPy and integrals over the latent."""

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import nn

import ppvae
from ppvae.models import (
    VAE,
    DeepMarkov,
    MultimodalVAE,
    NegativeBinomial,
    Ordinal,
    Poisson,
    RecurrentStateSpace,
    RightCensored,
)
from ppvae.models.parts.censored import RightCensoredNormal
from ppvae.models.parts.ordinal import OrderedLogits
from ppvae.networks import output_bias

pytestmark = pytest.mark.usefixtures("float64")
Z = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
COUNTS = torch.tensor([0.0, 1.0, 4.0, 30.0], dtype=torch.float64)


def log_prob_of_each(likelihood, x):
    """log p(x | z) without the sum over features, `[Z, x]`; all features have one network."""
    return likelihood(Z).base_dist.log_prob(x).detach().numpy()


def line(num_out=4):
    return nn.Linear(1, num_out)


def test_poisson_is_scipys():
    network = line()
    exact = stats.poisson.logpmf(COUNTS.numpy(), network(Z).exp().detach().numpy())
    np.testing.assert_allclose(log_prob_of_each(Poisson(network), COUNTS), exact, rtol=1e-9)


@pytest.mark.parametrize("gated", [False, True])
def test_negative_binomials_are_scipys(gated):
    network, gate = line(), line() if gated else None
    likelihood = NegativeBinomial(network, (4,), gate)
    nn.init.normal_(likelihood.unconstrained_dispersion)
    theta, mu = likelihood.dispersion().detach().numpy(), network(Z).exp().detach().numpy()
    exact = stats.nbinom.pmf(COUNTS.numpy(), theta, theta / (theta + mu))
    if gated:
        extra = special.expit(gate(Z).detach().numpy())
        exact = extra * (COUNTS.numpy() == 0) + (1 - extra) * exact
    np.testing.assert_allclose(log_prob_of_each(likelihood, COUNTS), np.log(exact), rtol=1e-7)


def test_ordinal_probabilities_are_differences_of_cumulative_ones():
    likelihood = Ordinal(line(), (4,), levels=4)
    nn.init.normal_(likelihood.unconstrained_widths)
    f, cuts = likelihood.network(Z).detach().numpy(), likelihood.cutpoints().detach().numpy()
    cumulative = special.expit(cuts - f[..., None])
    exact = np.diff(np.concatenate([0 * f[..., None], cumulative, 0 * f[..., None] + 1], -1), axis=-1)
    x = torch.arange(4.0)
    found = np.exp(log_prob_of_each(likelihood, x))
    np.testing.assert_allclose(found, np.stack([exact[:, i, i] for i in range(4)], -1), rtol=1e-6)
    assert likelihood(Z).sample((50,)).unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ordered_levels_far_from_the_cutpoints_keep_their_logs(dtype):
    """Where probabilities are below rounding, against differences of sums of exponentials: F(b) - F(a) for b < 0."""
    f, cuts = torch.tensor([-90.0, -30.0, 30.0, 90.0], dtype=dtype), torch.tensor([-1.0, 0.5, 2.0], dtype=dtype)
    found = OrderedLogits(f, cuts).log_prob(torch.arange(4.0)[:, None])
    c = np.array([-np.inf, *cuts.tolist(), np.inf])
    for i, at in enumerate(f.tolist()):
        a, b = (c[:-1] - at, c[1:] - at) if at > 0 else (at - c[1:], at - c[:-1])  # the lower tail, by symmetry
        below = special.log_expit(b) + np.log1p(-np.exp(special.log_expit(a) - special.log_expit(b)))
        np.testing.assert_allclose(found[:, i].numpy(), below, rtol=1e-6, atol=1e-6)


def test_a_censored_gaussian_is_a_density_below_and_a_probability_at_its_limit(assert_mean):
    limit = torch.tensor([0.3, torch.inf, -1.0, 0.0])
    likelihood = RightCensored(line(), limit)
    mu, sigma = likelihood.network(Z).detach().numpy(), likelihood.sigma(Z).item()
    x = torch.tensor([0.3, 5.0, -2.0, 0.0])
    exact = np.where(x == limit, stats.norm.logsf(limit, mu, sigma), stats.norm.logpdf(x, mu, sigma))
    np.testing.assert_allclose(log_prob_of_each(likelihood, x), exact, rtol=1e-9)

    fn = RightCensoredNormal(torch.tensor(0.5), torch.tensor(2.0), torch.tensor(1.0))
    grid = torch.linspace(-20, 1, 200_001)[:-1]
    below = torch.trapezoid(fn.log_prob(grid).exp(), grid) + fn.log_prob(grid[-1]).exp() * (1 - grid[-1])
    assert (below + fn.log_prob(torch.tensor(1.0)).exp()).item() == pytest.approx(1, abs=1e-6)
    assert_mean(fn.sample((20_000,)), fn.mean)
    assert fn.expand((3,)).log_prob(torch.zeros(3)).shape == (3,)


@pytest.mark.parametrize("wrong", [torch.nan, -torch.inf])
def test_a_limit_is_a_number_or_infinity(wrong):
    """Nothing is above NaN: its data would be taken for uncensored."""
    limit = torch.tensor([0.3, wrong, torch.inf])
    with pytest.raises(ValueError, match=rf"^limit, at index \[1\]: found {wrong:g}, expected a number, or infinity"):
        RightCensored(nn.Linear(1, 3), limit)
    with pytest.raises(ValueError, match="limit"):
        RightCensoredNormal(torch.zeros(3), torch.ones(3), limit, validate_args=True)


def test_a_limit_far_away_leaves_no_trace_in_gradients():
    loc = torch.tensor([0.0, 0.0], requires_grad=True)
    scale = torch.tensor(1.0, requires_grad=True)
    fn = RightCensoredNormal(loc, scale, torch.tensor([torch.inf, 60.0]))
    fn.log_prob(torch.tensor([1.0, 60.0])).sum().backward()
    assert loc.grad[0] == 1
    assert scale.grad == pytest.approx(60**2, rel=0.01)
    assert loc.grad[1] == pytest.approx(60, rel=0.01)  # the hazard of a Gaussian's tail
    with pytest.raises(ValueError, match="support"):
        RightCensoredNormal(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(2.0), validate_args=True).log_prob(
            torch.tensor(3.0)
        )


def data_for(name):
    if name == "ordinal":
        return torch.randint(4, (300, 3)).double()
    if name == "right_censored":
        return torch.randn(300, 3).clamp(max=0.8)
    return torch.poisson(torch.rand(300, 3) * torch.tensor([1.0, 3.0, 20.0])) * (torch.rand(300, 3) > 0.2)


NAMES = ["poisson", "negative_binomial", "zero_inflated", "ordinal", "right_censored"]


@pytest.mark.parametrize("name", NAMES)
def test_by_name_they_make_pairs_whose_evidence_is_the_integral(name):
    x = data_for(name)
    pair = VAE.mlp(3, 1, [8], name, levels=4).init_from(x)
    ppvae.fit(pair, x, epochs=10, lr=1e-2, progress=False)
    output_bias(pair.posterior).data[1] += 1.0  # a guide wider than the posterior has bounded weights
    few, z = x[:20], torch.linspace(-8, 8, 2001)[:, None]
    with torch.no_grad():
        log_joint = pair.prior().log_prob(z)[:, None] + pair.likelihood(z[:, None]).log_prob(few)
    exact = log_joint.logsumexp(0) + (z[1] - z[0]).log()
    found = ppvae.log_evidence(pair, few, "iwae", 2000, seed=0, progress=False)
    off = (found.estimate - exact) / found.std_error
    assert found.reliable.sum() >= 10
    assert off[found.reliable].abs().max() < 4
    assert found.kind == ("density of 3 numbers" if name == "right_censored" else "probability")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("images", [False, True])
def test_they_start_at_the_data(name, images):
    x = data_for(name)
    pair = VAE.mlp(3, 2, [4], name, levels=4)
    if images:
        x = x[:, :, None, None].expand(-1, -1, 2, 2)
        pair = VAE.convolutional((3, 2, 2), 2, [4], name, levels=4)
    likelihood = pair.init_from(x).likelihood
    with torch.no_grad():
        for module in likelihood.modules():  # outputs are the biases alone
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.weight.zero_()
        if name == "zero_inflated":
            likelihood.gate = None
        fn = likelihood(torch.zeros(1, 2)).base_dist
    flat = x.movedim(1, -1).reshape(-1, 3)
    if name == "ordinal":
        shares = torch.stack([(flat == k).double().mean(0) for k in range(4)], -1)
        found = fn.probs[0, :, 0, 0] if images else fn.probs[0]
        torch.testing.assert_close(found, shares, atol=0.02, rtol=0)
    elif name == "right_censored":
        assert (likelihood.limit == 0.8).all()
        assert likelihood.sigma(None).item() == pytest.approx(flat.var(0).mean().sqrt().item(), rel=0.01)
    else:
        mean = fn.mean[0, :, 0, 0] if images else fn.mean[0]
        torch.testing.assert_close(mean, flat.mean(0))
    if name == "negative_binomial":
        variance = fn.variance[0, :, 0, 0] if images else fn.variance[0]
        overdispersed = flat.var(0, correction=0) > 1.1 * flat.mean(0)
        torch.testing.assert_close(variance[overdispersed], flat.var(0, correction=0)[overdispersed])


def test_ordinal_data_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"x: found values from 0 to 7, expected whole numbers from 0 to 3"):
        VAE.mlp(1, 1, [4], "ordinal", levels=4).init_from(torch.tensor([[0.0], [7.0]]))


OF_LEVELS = {
    "DeepMarkov": lambda name, num: DeepMarkov(1, 2, [4], name, levels=num).likelihood,
    "RecurrentStateSpace": lambda name, num: (
        RecurrentStateSpace(1, 2, num_state=3, likelihood=name, levels=num).likelihood
    ),
    "MultimodalVAE": lambda name, num: MultimodalVAE.mlp(
        {"a": 1, "b": 2}, 2, [4], {"a": name}, levels={"a": num}
    ).likelihoods["a"],
}
"""Pairs that take a likelihood by name, beside those of vectors and images."""


@pytest.mark.parametrize("name", ["ordinal", "categorical", "logistic_mixture"])
@pytest.mark.parametrize("pair", OF_LEVELS)
def test_pairs_have_the_number_of_levels_of_the_data(pair, name):
    """With more than the data have, some of the probability would be of levels that never come."""
    likelihood = OF_LEVELS[pair](name, 5)
    level = torch.arange(5.0)[:, None, None]
    num_in = next(m for m in likelihood.modules() if isinstance(m, nn.Linear)).in_features
    log_p = likelihood(torch.randn(3, num_in)).log_prob(level if name == "ordinal" else level / 4)
    torch.testing.assert_close(log_p.exp().sum(0), torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
@pytest.mark.parametrize(
    "name", ["bernoulli", "ordinal", "categorical", "logistic_mixture", "autoregressive", "poisson"]
)
def test_bits_of_any_type_start_a_likelihood_alike(name, dtype):
    bits, pairs = torch.rand(20, 3).round(), []
    for x in (bits, bits.to(dtype)):
        torch.manual_seed(1)
        pairs.append(VAE.mlp(3, 2, [4], name, levels=2).init_from(x))
    torch.testing.assert_close(*(dict(pair.named_parameters()) for pair in pairs))
