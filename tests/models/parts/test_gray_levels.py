"""Likelihoods of gray levels, against sums over all levels and differences of distribution functions."""

import itertools

import pytest
import torch
from torch import nn

import ppvae
from ppvae.models import VAE, Categorical, LogisticMixture
from ppvae.models.parts.gray_levels import DiscretizedLogisticMixture, GrayCategorical, parameters_per_component


def random_mixture(event_shape, levels, num_components=2):
    channels, space = (1, event_shape) if len(event_shape) == 1 else (event_shape[0], event_shape[1:])
    parameters = torch.randn(num_components * parameters_per_component(channels), *space)
    return DiscretizedLogisticMixture(parameters, event_shape, levels)


def all_pixels(levels, num_channels):
    """Every value that a pixel of so many channels can have, `[levels^C, C, 1, 1]`."""
    values = torch.tensor(list(itertools.product(range(levels), repeat=num_channels)))
    return values.to(torch.get_default_dtype()).reshape(-1, num_channels, 1, 1) / (levels - 1)


def by_differences(p, value):
    """`log P` of one pixel `[C]`, as in the source's formula: loops, and differences of the distribution function."""
    C, M, h = p.num_channels, p.num_components, 1 / (p.gray_levels.levels - 1)
    logits, loc, log_scale, rest = p.parameters.flatten().split([M, M * C, M * C, M * C * (C - 1) // 2])
    x, total = 2 * value - 1, 0.0
    for m in range(M):
        product = logits.softmax(0)[m]
        a = iter(rest[m * C * (C - 1) // 2 :].tanh())
        for c in range(C):
            mean = loc[m * C + c] + sum(next(a) * x[j] for j in range(c))
            scale = log_scale[m * C + c].exp()
            above = 1.0 if value[c] == 1 else torch.sigmoid((x[c] + h - mean) / scale)
            below = 0.0 if value[c] == 0 else torch.sigmoid((x[c] - h - mean) / scale)
            product = product * (above - below)
        total = total + product
    return total.log()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("num_channels", "levels"), [(1, 2), (1, 256), (2, 9), (3, 6)])
def test_probabilities_sum_to_one_and_are_differences_of_distribution_functions(num_channels, levels):
    p = random_mixture((num_channels, 1, 1), levels)
    values = all_pixels(levels, num_channels)
    log_p = p.log_prob(values)
    torch.testing.assert_close(log_p.exp().sum(), torch.tensor(1.0))
    some = [0, -1, *torch.randperm(len(values))[:40].tolist()]
    expected = torch.stack([by_differences(p, values[i].flatten()) for i in some])
    torch.testing.assert_close(log_p[some], expected)


@pytest.mark.usefixtures("float64")
def test_pixels_are_independent_and_a_vector_is_an_image_of_one_channel():
    p = random_mixture((3, 2, 2), 5)
    x = p.sample((7,))
    each = [
        DiscretizedLogisticMixture(p.parameters[:, i : i + 1, j : j + 1], (3, 1, 1), 5).log_prob(
            x[:, :, i : i + 1, j : j + 1]
        )
        for i in range(2)
        for j in range(2)
    ]
    torch.testing.assert_close(p.log_prob(x), sum(each))
    vector = random_mixture((4,), 5)
    image = DiscretizedLogisticMixture(vector.parameters.unsqueeze(-1), (1, 4, 1), 5)
    x = vector.sample((7,))
    torch.testing.assert_close(vector.log_prob(x), image.log_prob(x.reshape(7, 1, 4, 1)))
    torch.testing.assert_close(vector.mean, image.mean.flatten())


@pytest.mark.parametrize(("loc", "log_scale"), [(-1.0, -2.5), (0.1, -2.0), (0.2, 5.0)])
def test_float32_keeps_its_digits_in_far_tails_and_narrow_bins(loc, log_scale):
    """Where differences taken in float32 lose all of theirs, and those in float64 still have five."""
    p = DiscretizedLogisticMixture(torch.tensor([0.0, loc, log_scale]).reshape(3, 1, 1), (1, 1, 1))
    values = all_pixels(256, 1)[1:-1]

    def differences(x):
        centered, scale = 2 * x - 1 - loc, torch.tensor(log_scale).to(x).exp()
        return torch.sigmoid((centered + 1 / 255) / scale) - torch.sigmoid((centered - 1 / 255) / scale)

    exact = differences(values.double().flatten())
    lost = (differences(values.flatten()) / exact - 1).abs()
    assert lost.max() > 1e-3
    sure = exact > 1e-11
    torch.testing.assert_close(p.log_prob(values).double()[sure], exact[sure].log(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
def test_gradients_are_finite_at_the_extremes(num_channels, size):
    parameters = (size * torch.randn(200, 2 * parameters_per_component(num_channels), 1, 1)).requires_grad_()
    for value in (0.0, 128 / 255, 1.0):
        x = torch.full((num_channels, 1, 1), value)
        log_p = DiscretizedLogisticMixture(parameters, x.shape).log_prob(x)
        (gradient,) = torch.autograd.grad(log_p.sum(), parameters)
        assert log_p.isfinite().all()
        assert gradient.isfinite().all()
        assert (log_p < 1e-5).all()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("num_channels", [1, 3])
def test_draws_are_as_frequent_as_their_probabilities_say(num_channels, assert_mean):
    p = random_mixture((num_channels, 1, 1), 4)
    values = all_pixels(4, num_channels)
    draws = p.sample((20_000,))
    assert p.support.check(draws).all()
    index = (draws.flatten(1) * 3).round() @ (4.0 ** torch.arange(num_channels - 1, -1, -1))
    probability = p.log_prob(values).exp()
    common = probability > 1e-3
    found = (index.unsqueeze(-1) == torch.arange(len(values)))[:, common].to(torch.get_default_dtype())
    assert_mean(found, probability[common], k=4.5)


@pytest.mark.usefixtures("float64")
def test_the_mean_is_the_sum_over_levels():
    p = random_mixture((1, 1, 1), 17)
    values = all_pixels(17, 1)
    exact = (p.log_prob(values).exp() @ values.flatten()).reshape(1, 1, 1)
    torch.testing.assert_close(p.mean, exact)
    p = random_mixture((3, 1, 1), 16)
    p.parameters[2:8] *= 0.2  # away from black and white
    p.parameters[8:14] -= 3.0
    values = all_pixels(16, 3)
    exact = (p.log_prob(values).exp() @ values.flatten(1)).reshape(3, 1, 1)
    torch.testing.assert_close(p.mean[0], exact[0])
    torch.testing.assert_close(p.mean[1:], exact[1:], rtol=0, atol=0.5 / 15)


@pytest.mark.usefixtures("float64")
def test_a_categorical_is_the_softmax_of_its_logits(assert_mean):
    logits = torch.randn(3, 5)
    p = GrayCategorical(logits=logits)
    values = torch.arange(5) / 4
    torch.testing.assert_close(p.log_prob(values.unsqueeze(-1)).T, logits.log_softmax(-1))
    torch.testing.assert_close(p.mean, logits.softmax(-1) @ values)
    draws = p.sample((20_000,))
    assert p.support.check(draws).all()
    assert_mean((draws.unsqueeze(-1) == values).to(torch.get_default_dtype()), logits.softmax(-1), k=4.5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("likelihood", [Categorical, LogisticMixture])
@pytest.mark.parametrize("event_shape", [(4,), (3, 2, 2)])
def test_likelihoods_start_at_the_data(likelihood, event_shape):
    """With an output that is its bias alone; levels differ by feature, or by channel."""
    share = torch.linspace(0.2, 0.8, event_shape[0]).reshape(event_shape[0], *(1,) * (len(event_shape) - 1))
    x = torch.distributions.Binomial(16, share.expand(event_shape)).sample((3000,)) / 16
    if likelihood is Categorical:
        outputs = 17 * event_shape[0]
    else:
        outputs = LogisticMixture.num_outputs(event_shape, num_components=3)
    layer = nn.Linear(2, outputs) if len(event_shape) == 1 else nn.Conv2d(2, outputs, 1)
    layer.weight.data.zero_()
    part = likelihood(layer, event_shape, levels=17)
    part.init_from(x)
    p = part(torch.zeros(2) if len(event_shape) == 1 else torch.zeros(2, 2, 2))
    assert p.event_shape == event_shape
    atol = 0.01 if likelihood is Categorical else 0.03
    torch.testing.assert_close(p.mean, share.expand(event_shape), rtol=0, atol=atol)
    entropy = -p.log_prob(x).mean() / x[0].numel()
    truth = torch.distributions.Binomial(16, share).log_prob((16 * x).round()).mean().neg()
    assert truth - 0.01 < entropy < truth + (0.02 if likelihood is Categorical else 0.7)


def test_data_off_the_levels_are_refused_with_index_and_remedy():
    x = torch.randint(0, 17, (6, 5)) / 16
    x[3, 2] = 0.3
    for likelihood in ("logistic_mixture", "categorical"):
        vae = VAE.mlp(5, 2, [8], likelihood, levels=17)
        remedy = (
            r"found 0.3 at index \(3, 2\), expected one of 17 gray levels, k / 16; set levels=.*or round: \(x \* 16"
        )
        with pytest.raises(ppvae.ContractError, match=f"model site 'x': .*{remedy}"):
            vae.check(x)
        vae.check(x[:3])
        with pytest.raises(ValueError, match="found row 3 outside the support of the likelihood at site 'x'"):
            ppvae.elbo(vae, x, progress=False)
    with pytest.raises(ValueError, match=r"found 0.3 at index \(3, 2\)"):
        VAE.mlp(5, 2, [8], "categorical", levels=17).init_from(x)
    for outside in (-1 / 16, 17 / 16, float("nan")):
        assert not LogisticMixture(nn.Linear(2, 15), (5,), 17)(torch.zeros(2)).support.check(torch.full((5,), outside))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="levels: found 1, expected 2 or more"):
        DiscretizedLogisticMixture(torch.zeros(3, 1), (1,), levels=1)
    with pytest.raises(ValueError, match=r"parameters: found 11 for each pixel, expected a multiple of 10"):
        DiscretizedLogisticMixture(torch.zeros(11, 2, 2), (3, 2, 2))
