"""Tables with missing values against closed forms, grids, and the pair without what is missing."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae.models import VAE, DiagonalNormal, MixedColumns, StandardNormal, TableVAE

pytestmark = pytest.mark.usefixtures("float64")

MIXED = {"age": "real", "visits": "count", "smokes": "binary", "grade": ["low", "middle", "high"]}
F = len(MIXED)


def mixed(num_latents=1):
    """A table of four kinds of columns, whose parameters are away from where they start."""
    torch.manual_seed(0)
    pair = TableVAE.mlp(MIXED, num_latents, [4])
    with torch.no_grad():
        for parameter in pair.likelihood.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
        for name, value in (("loc", 2.0), ("spread", 3.0)):
            getattr(pair.likelihood.columns[0], name).fill_(value)
    return pair


def patterns():
    """All sixteen ways in which four values may be there or missing."""
    return (torch.arange(2**F).unsqueeze(-1) >> torch.arange(F)) % 2 == 1


def by_hand(pair, z, x):
    """log p(x_j | z) of each column from its formula, `[*, B, F]`."""
    real, _, _, ordinal = pair.likelihood.columns
    output = pair.likelihood.network(z).expand(*z.shape[:-2], len(x), F)
    scale = real.spread * (0.01 + nn.functional.softplus(real.unconstrained_sigma))
    residual = (x[:, 0] - real.loc - real.spread * output[..., 0]) / scale
    count = x[:, 1] * output[..., 1] - output[..., 1].exp() - (x[:, 1] + 1).lgamma()
    binary = x[:, 2] * output[..., 2] - nn.functional.softplus(output[..., 2])
    first, second = ordinal.cutpoints()
    below = [(c - output[..., 3]).sigmoid() for c in (first, second)]
    level = torch.stack([below[0], below[1] - below[0], 1 - below[1]], -1).log()
    level = level.gather(-1, x[:, 3].long().expand(level.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    return torch.stack([-(residual**2) / 2 - scale.log() - math.log(2 * math.pi) / 2, count, binary, level], -1)


def rows():
    x = torch.tensor([[1.5, 2.0, 1.0, 2.0]]).repeat(2**F, 1)
    return x + torch.tensor([0.1, 0.0, 0.0, 0.0]) * torch.arange(2**F).unsqueeze(-1), patterns()


def test_columns_have_their_formulas_and_draws_their_means():
    pair, (x, _) = mixed(), rows()
    z = torch.randn(5, 16, 1)
    found = pair.likelihood.by_column(z)
    torch.testing.assert_close(found.log_prob(x), by_hand(pair, z, x))
    torch.testing.assert_close(pair.likelihood(z).log_prob(x), by_hand(pair, z, x).sum(-1))
    wide = found.expand([7, 5, 16, F])
    assert torch.equal(wide.log_prob(x)[3], found.log_prob(x))
    draws = pair.likelihood.by_column(z[0, :1]).sample((20000,))
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - found.mean[0, :1]).abs() < 4 * error).all()


def test_evidence_is_that_of_what_is_there_in_every_pattern():
    """Against a grid over the latent, and zero where nothing is there."""
    pair, (x, present) = mixed(), rows()
    z = torch.linspace(-8, 8, 4001)[:, None, None]
    log_joint = torch.where(present, by_hand(pair, z, x), 0.0).sum(-1) + dist.Normal(0.0, 1.0).log_prob(z).squeeze(-1)
    exact = log_joint.logsumexp(0) + (z[1] - z[0]).log().squeeze()
    with torch.no_grad():
        found = ppvae.log_evidence(pair, (x, present), "iwae", 4000, seed=0, progress=False)
    assert ((found.estimate - exact).abs() < 4 * found.std_error + 1e-6).all()
    assert exact[0].abs() < 1e-9


def test_a_missing_value_is_as_if_its_column_were_not_there():
    """A pair of the columns that are there, with the same guide, has the same weights; fillers are nothing."""
    whole, (x, _) = mixed(), rows()
    part = TableVAE(
        StandardNormal(1), MixedColumns(nn.Linear(1, 2), {"age": "real", "smokes": "binary"}), nn.Identity()
    )
    there, present = [0, 2], torch.tensor([True, False, True, False]).expand(16, -1)
    part.likelihood.columns = nn.ModuleList(whole.likelihood.columns[j] for j in there)
    part.likelihood.network = _Some(whole.likelihood.network, there)
    part.posterior = _Filled(whole.posterior, there)
    weights = []
    for pair, batch in (
        (whole, (x, present)),
        (whole, (torch.where(present, x, 0.0), present)),
        (part, (x[:, there], present[:, there])),
    ):
        torch.manual_seed(1)
        weights.append(pair.log_weights(batch, 5).log_w)
    torch.testing.assert_close(weights[0], weights[1])
    torch.testing.assert_close(weights[0], weights[2])


class _Some(nn.Module):
    """Some of a network's outputs."""

    def __init__(self, network, there):
        super().__init__()
        self.network, self.there = network, there

    def forward(self, z):
        return self.network(z)[..., self.there]


class _Filled(nn.Module):
    """A posterior of a whole row, told that other columns are missing."""

    def __init__(self, posterior, there):
        super().__init__()
        self.posterior, self.there = posterior, there

    def forward(self, h):
        seen, present = h.chunk(2, -1)
        both = h.new_zeros(2, *seen.shape[:-1], F)
        both[..., self.there] = torch.stack([seen, present])
        return self.posterior(torch.cat([*both], -1))


def real_table():
    """Three real columns of one factor, and the exact guide of the rows that have all but the last."""
    torch.manual_seed(0)
    columns = dict.fromkeys("abc", "real")
    pair = TableVAE(StandardNormal(1), MixedColumns(nn.Linear(1, 3), columns), DiagonalNormal(nn.Linear(6, 2)))
    return pair


def test_imputed_intervals_of_real_columns_are_the_conditional_ones():
    pair, x = real_table(), torch.tensor([[1.0, -0.5, 9.0]])
    present = torch.tensor([[True, True, False]])
    W, b = pair.likelihood.network.weight[:, 0], pair.likelihood.network.bias
    covariance = W[:, None] * W + torch.eye(3)
    gain = torch.linalg.solve(covariance[:2, :2], covariance[:2, 2])
    mean = b[2] + gain @ (x[0, :2] - b[:2])
    std = (covariance[2, 2] - gain @ covariance[:2, 2]).sqrt()
    torch.manual_seed(1)
    found = pair.impute((x, present), num_samples=20000, level=0.8)
    weights = pair.log_weights((x, present), 20000).log_w[:, 0].softmax(0)
    size = 1 / weights.square().sum()
    normal = dist.Normal(mean, std)
    for quantile, probability in ((found.lower, 0.1), (found.median, 0.5), (found.upper, 0.9)):
        error = (probability * (1 - probability) / size + probability * (1 - probability) / 20000).sqrt()
        assert (normal.cdf(quantile[0, 2]) - probability).abs() < 4 * error
        assert torch.equal(quantile[0, :2], x[0, :2])


def test_imputation_is_calibrated_on_the_models_own_data():
    """Of values that the model draws and that are hidden, intervals hold the share they say, or more if discrete."""
    pair, num, level, draws = mixed(), 600, 0.8, 200
    torch.manual_seed(2)
    present = torch.rand(num, F) < 0.6
    x = pair.sample((torch.zeros(num, F), present))
    found = pair.impute((torch.where(present, x, 0.0), present), draws, level)
    held = (found.lower <= x) & (x <= found.upper)
    assert held[present].all()
    for j in range(F):
        share, missing = held[~present[:, j], j].double().mean(), int((~present[:, j]).sum())
        error = 4 * (level * (1 - level) / missing) ** 0.5 + 1 / draws
        assert share > level - error
        if j == 0:  # the real column
            assert share < level + error


def test_initialized_columns_have_the_datas_means():
    torch.manual_seed(0)
    pair, num = TableVAE.mlp(MIXED, 2, [4]), 4000
    x = torch.stack([5 + 2 * torch.randn(num), torch.rand(num) * 6, torch.rand(num), torch.zeros(num)], -1)
    x[:, 1], x[:, 2] = x[:, 1].floor(), (x[:, 2] < 0.2).double()
    x[:, 3] = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), num, replacement=True)
    present = torch.rand(num, F) < 0.8
    pair.init_from(torch.where(present, x, 0.0), present)
    with torch.no_grad():
        pair.likelihood.network[-1].weight.zero_()
    mean = pair.likelihood.by_column(torch.zeros(2)).mean
    expected = torch.stack([x[present[:, j], j].mean() for j in range(F)])
    torch.testing.assert_close(mean, expected, rtol=2e-3, atol=2e-3)  # one is added to each count of an ordinal level


def test_a_likelihood_of_mixed_columns_is_one_for_any_vae():
    torch.manual_seed(0)
    pair = VAE(StandardNormal(2), MixedColumns(nn.Linear(2, F), MIXED), DiagonalNormal(nn.Linear(F, 4)))
    x = pair.sample(8)
    assert pair.log_weights(x, 3).log_w.isfinite().all()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": "integer"}, r"columns.'a'.: found 'integer', expected 'real', 'count', 'binary', or the levels"),
        ({"a": ["low"]}, r"columns.'a'.: found .*; name two levels or more, each of them once"),
        ({"a": ["low", "low"]}, r"columns.'a'.: found .*; name two levels or more, each of them once"),
    ],
)
def test_columns_of_no_kind_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        TableVAE.mlp(columns, 2)


def test_an_impossible_filler_and_a_column_without_values_are_refused():
    pair, (x, present) = mixed(), rows()
    with pytest.raises(ppvae.ContractError, match="x"):
        pair.log_weights((torch.where(present, x, -1.0), present))
    with pytest.raises(ValueError, match="column 'visits': found no value that is there"):
        pair.init_from(x, present & (torch.arange(F) != 1))
    with pytest.raises(ValueError, match=r"data\[0\]: found nan"):
        pair.log_weights((torch.where(present, x, torch.nan), present))


@pytest.mark.parametrize(("column", "value"), [(1, -3.0), (1, 1.5), (2, 0.5), (3, 7.0), (3, 1.5)])
def test_a_column_does_not_start_at_values_that_it_cannot_have(column, value):
    pair, (x, present) = mixed(), rows()
    before = {name: t.clone() for name, t in pair.state_dict().items()}
    x[2, column], present[2, column] = value, True
    with pytest.raises(ValueError, match=f"column '{list(MIXED)[column]}': found {value:g}, expected values within"):
        pair.init_from(x, present)
    assert all(torch.equal(t, before[name]) for name, t in pair.state_dict().items())
    pair.init_from(x, present & (torch.arange(len(x)) != 2)[:, None])


@pytest.mark.parametrize("dtype", [torch.int8, torch.float32])
def test_a_mask_of_values_may_be_ones_and_zeros(dtype):
    torch.manual_seed(0)
    pair = TableVAE.mlp({"a": "real", "b": "binary"}, 2, [5])
    x, present = torch.rand(4, 2).round(), torch.tensor([[True, False], [True, True], [False, True], [False, False]])
    found = [ppvae.elbo(pair, (x, mask), seed=0, progress=False).estimate for mask in (present, present.to(dtype))]
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, 7.7, 1234.567])
@pytest.mark.parametrize("num", [1, 7, 1000])
def test_a_column_of_equal_values_has_no_spread_to_be_divided_by(dtype, value, num):
    """The standard deviation of equal numbers is a rounding error, not zero."""
    pair = TableVAE.mlp({"same": "real", "rest": "real"}, 2).to(dtype)
    x = torch.stack([torch.full((num,), value, dtype=dtype), torch.randn(num, dtype=dtype)], -1)
    pair.init_from(x)
    same, rest = pair.likelihood.columns
    assert same.spread.item() == 1
    assert num == 1 or rest.spread.item() == pytest.approx(x[:, 1].std().item())


def test_columns_that_are_constant_or_copies_have_bounded_densities():
    """However far sigma shrinks: that of a mean that is exact is the density at zero of `N(0, (0.01 spread)^2)`."""
    torch.manual_seed(0)
    x = torch.randn(50, 1).expand(-1, 3) * torch.tensor([2.0, 2.0, 0.0]) + 7.0
    likelihood = MixedColumns(nn.Linear(1, 3), dict.fromkeys("abc", "real"))
    for j, column in enumerate(likelihood.columns):
        column.start_at(x[:, j])
        assert column(torch.zeros(())).stddev.item() == pytest.approx(column.spread.item())
        column.unconstrained_sigma.data.fill_(-1e3)
        exact = (x[:, j] - column.loc) / column.spread
        bound = -(0.01 * column.spread).log() - math.log(2 * math.pi) / 2
        torch.testing.assert_close(column(exact).log_prob(x[:, j]), bound.expand(50))
