"""The split of the KL against its closed form on a linear VAE, whose aggregate posterior is Gaussian."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal, kl_divergence

import ppvae
from ppvae.inference.diagnostics.splitting_kl import aggregate
from ppvae.inference.objectives.aggregate import Posteriors, log_aggregate, posteriors, stratified_shares
from ppvae.models import VAE, LinearVAE, MarkovHVAE

pytestmark = pytest.mark.usefixtures("float64")


def linear():
    """A linear VAE whose guide's axes are not the model's, so that all three terms are there."""
    torch.manual_seed(3)
    pair = LinearVAE(5, 3).fit_guide()
    with torch.no_grad():
        pair.encoder.weight += 0.1 * torch.randn(3, 5)
        pair.encoder.bias += 0.3
    return pair


@torch.no_grad()
def exact(pair):
    """With `q(z) = N(m, S)`: the mutual information `log(|S| / |diag s^2|) / 2`, and so on."""
    A, s = pair.encoder.weight, torch.nn.functional.softplus(pair.posterior_scale)
    S = A @ pair.marginal().covariance_matrix @ A.T + s.square().diag()
    m = A @ pair.mean + pair.encoder.bias
    dimensions = kl_divergence(Normal(m, S.diagonal().sqrt()), Normal(torch.zeros(3), 1.0))
    return {
        "mutual information": (S.logdet() - s.square().log().sum()).item() / 2,
        "total correlation": (S.diagonal().log().sum() - S.logdet()).item() / 2,
        "KL of dimensions": dimensions.sum().item(),
        "KL of z[0]": dimensions[0].item(),
    }


@pytest.mark.slow(10)
def test_the_split_over_the_law_is_the_closed_form_but_for_its_bias_and_errors_are_its_spread(assert_mean):
    pair = linear()
    known = exact(pair)
    assert min(known.values()) > 0.01
    found = [ppvae.kl_split(pair, pair.sample(60), seed=i) for i in range(40)]
    nats, errors, bias = (
        {name: torch.tensor([f.loc[name, column] for f in found]) for name in found[0].index}
        for column in ("nats", "std_error", "bias")
    )
    for name, value in known.items():
        assert_mean(nats[name] - bias[name], value)  # what halves say of the bias is the bias, but for 1 / N^2
        assert 1 - 4 / 80**0.5 < errors[name].square().mean().sqrt() / nats[name].std() < 1.8
    too_high = bias["mutual information"]
    assert too_high.mean() > 4 * too_high.std() / 40**0.5


@pytest.mark.parametrize("over", ["law", "data"])
def test_the_terms_add_up(over):
    pair = linear()
    nats = ppvae.kl_split(pair, pair.sample(30), over, 3, seed=0).nats
    assert nats[["mutual information", "total correlation", "KL of dimensions"]].sum() == pytest.approx(nats["KL"])
    assert nats[[f"KL of z[{j}]" for j in range(3)]].sum() == pytest.approx(nats["KL of dimensions"])


def test_over_the_data_the_density_is_that_of_the_mixture():
    pair = linear()
    x = pair.sample(7)
    found = posteriors(pair, x, 2)
    whole, margins = aggregate(found, "data")
    for k, n in ((0, 0), (1, 5)):
        z = found.z[k, n]
        of_each = Normal(found.loc, found.scale).log_prob(z)
        assert whole[k, n].item() == pytest.approx((of_each.sum(-1).logsumexp(0) - math.log(7)).item())
        torch.testing.assert_close(margins[k, n], of_each.logsumexp(0) - math.log(7))
    assert ppvae.kl_split(pair, pair.sample(30), "data", seed=0).nats["mutual information"] < math.log(30)


def test_stratified_shares_make_the_density_unbiased(assert_mean):
    """Over random minibatches, at a given draw of a given data point."""
    loc, scale, z = torch.randn(20, 2), 0.3 + torch.rand(20, 2), torch.randn(1, 20, 2)
    exact, _ = log_aggregate(Posteriors(loc, scale, z), torch.full((20, 20), 1 / 20).log())
    found = []
    for _ in range(2000):
        few = torch.cat([torch.tensor([3]), torch.tensor([i for i in range(20) if i != 3])[torch.randperm(19)[:4]]])
        shares = stratified_shares(torch.full((5,), 1 / 5), 20)
        found.append(log_aggregate(Posteriors(loc[few], scale[few], z[:, few]), shares)[0][0, 0].exp())
    assert_mean(torch.stack(found), exact[0, 3].exp().item())


def test_shares_of_a_whole_data_set_are_equal_and_weights_enter_them():
    assert torch.allclose(stratified_shares(torch.full((4,), 0.25), 4).exp(), torch.full((4, 4), 0.25))
    shares = stratified_shares(torch.tensor([0.2, 0.3, 0.5]), 10).exp()
    assert torch.allclose(shares.sum(1), torch.ones(3))
    assert shares[0].tolist() == pytest.approx([0.06, 0.94 * 3 / 8, 0.94 * 5 / 8])  # 0.2 * 3 / 10, a weight of 0.6


@pytest.mark.parametrize("counts", [[2, 1, 3, 0, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
def test_an_aggregate_of_weighted_posteriors_is_that_of_repeated_ones(counts):
    """At the same draws, of the data points that count."""
    counts = torch.tensor(counts)
    found = Posteriors(torch.randn(5, 2), 0.3 + torch.rand(5, 2), torch.randn(3, 5, 2))
    repeated = Posteriors(*(t.repeat_interleave(counts, t.dim() - 2) for t in found))
    weighted = log_aggregate(found, stratified_shares(counts / counts.sum(), 5))
    num = int(counts.sum())
    plain = log_aggregate(repeated, stratified_shares(torch.full((num,), 1 / num), num))
    for a, b in zip(weighted, plain, strict=True):
        torch.testing.assert_close(a.repeat_interleave(counts, 1), b)


@pytest.mark.parametrize("measure", [ppvae.kl_split, lambda pair, data: ppvae.BetaTCVAE()(pair, data)])
def test_a_latent_that_some_rows_lack_has_no_aggregate(measure):
    """What a guide draws where its latent is masked says nothing; where it is there, masks do not matter."""

    def model(x, there):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1).mask(there))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x, there):
        with pyro.plate("data", len(x)):
            loc = torch.where(there, 0.5 * x, 5.0).unsqueeze(-1)
            pyro.sample("z", dist.Normal(loc, x.new_ones(2)).to_event(1).mask(there))

    x, there = torch.randn(10), torch.arange(10) > 1
    pair = ppvae.Pair.of(model, guide, (x, there))
    with pytest.raises(ppvae.ContractError, match="guide site 'z': found masked for some data points, expected there"):
        measure(pair, (x, there))
    measure(pair, (x[there], there[there]))


def test_refusals():
    hierarchy = MarkovHVAE.mlp(4, [2, 2], [4], "gaussian")
    with pytest.raises(ppvae.ContractError, match=r"'z1' \(Normal of shape \[2\]\), 'z2'.*expected one"):
        ppvae.kl_split(hierarchy, torch.randn(10, 4))
    mixture = VAE.mlp(4, 2, [5], "gaussian", prior="mixture")
    with pytest.raises(ppvae.ContractError, match="found the prior Mixture at site 'z', expected independent Gaussian"):
        ppvae.kl_split(mixture, torch.randn(10, 4))
    with pytest.raises(ValueError, match="data: found 5 data points, expected 8 or more"):
        ppvae.kl_split(linear(), torch.randn(5, 5))
