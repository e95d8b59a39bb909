"""Whether amortization can close its gap: guides that look at all they need, and guides that do not."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.structure import ALL_SEEN, RELAYED, UNMOVED, structure_of
from ppvae.inference.ledger.verdicts import causes
from ppvae.inference.runtime.measuring import measuring
from ppvae.models import DeepMarkov, LinearGaussianStateSpace

SIGMA = 0.5


class Linear(ppvae.Pair):
    """`z ~ N(0, I)`, `x ~ N(W z, sigma^2 I)`, and a guide, each of whose means and scales looks at some of x."""

    def __init__(self, weight, looks):
        super().__init__()
        self.register_buffer("weight", torch.tensor(weight))
        self.register_buffer("looks", torch.tensor(looks))
        self.gain = nn.Parameter(0.3 * torch.ones(self.looks.shape))
        self.bend = nn.Parameter(torch.tensor(0.02))
        self.log_scale = nn.Parameter(torch.full((len(looks),), -1.0))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(self.looks)), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, SIGMA).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc = x @ (self.gain * self.looks).T
            pyro.sample("z", dist.Normal(loc, (self.log_scale + self.bend * loc).exp()).to_event(1))


class WithConstantScale(Linear):
    """The best scale is the same for all data points, so the guide's need not look at them."""

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc = x @ (self.gain * self.looks).T
            pyro.sample("z", dist.Normal(loc, self.log_scale.exp()).to_event(1))


class WithCovariate(Linear):
    """`x ~ N(z + c, sigma^2)`; the guide does not get to see c."""

    def __init__(self):
        super().__init__([[1.0]], [[1.0]])

    def model(self, x, c):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + c, SIGMA).to_event(1), obs=x)

    def guide(self, x, c):
        super().guide(x)


class Forward(LinearGaussianStateSpace):
    """A guide that is independent over time, and looks at the past alone."""

    def __init__(self):
        super().__init__(num_features=1, num_latents=1)
        self.gain = nn.Parameter(torch.tensor(0.5))

    def posterior(self, x, lengths=None):
        return lambda t, z: dist.Normal(self.gain * x[:, : t + 1].mean(1), 0.5).to_event(1)


class ByNumber(Linear):
    """A guide with a mean for each data point, in a table, which it looks up by the data point's number."""

    def __init__(self):
        super().__init__([[1.0]], [[1.0]])
        self.table = nn.Embedding(40, 1)

    def model(self, x, number):
        super().model(x)

    def guide(self, x, number):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.table(number), 1.0).to_event(1))


def found(pair, x):
    with measuring(pair, x, 0) as batch:
        return structure_of(pair, batch, Ascent(), 500)


IDENTITY, FULL = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        (lambda: Linear(IDENTITY, FULL), ALL_SEEN),
        (lambda: Linear([[1.0], [0.0]], [[1.0, 0.0]]), ALL_SEEN),  # the second number says nothing about z
        (lambda: Linear(IDENTITY, IDENTITY), UNMOVED),  # each mean looks at the one number that its latent makes
        (lambda: WithConstantScale(IDENTITY, FULL), UNMOVED),
    ],
)
def test_nothing_is_out_of_reach(pair, says):
    pair = pair()
    x = torch.randn(40, 2)
    assert found(pair, x) == (says, False)


def test_nothing_is_said_of_a_table_with_an_entry_for_each_data_point():
    """It looks at no number that the posterior depends on, and may still be right for each data point."""
    assert found(ByNumber(), (torch.randn(40, 1), torch.arange(40))) == ("", False)


def test_a_part_of_x_that_the_encoder_does_not_see():
    """The best mean is `x_2 / (1 + sigma^2)`: another's costs its square over two posterior variances."""
    pair = Linear(IDENTITY, [[1.0, 0.0], [1.0, 0.0]])
    x = torch.randn(32, 2)
    said, out_of_reach = found(pair, x)
    assert out_of_reach
    assert "'z/loc', 'z/scale'" in said
    other = (x[:, 1] - x[:, 1].roll(1)) / (1 + SIGMA**2)
    exact = (other.square() * (1 + SIGMA**2) / (2 * SIGMA**2)).mean().item()
    figure, error = (float(said.split(word)[1].split()[0]) for word in ("costs another ", " +- "))
    assert figure == pytest.approx(exact, abs=4 * error + 0.05)  # refined scales are right to a few hundredths


def test_a_covariate_that_the_encoder_does_not_see():
    pair = WithCovariate()
    said, out_of_reach = found(pair, (torch.randn(32, 1), torch.randn(32, 1)))
    assert out_of_reach
    assert "no network of what they look at closes the amortization gap" in said


def test_sequences_whose_guide_sees_the_past_alone():
    torch.manual_seed(0)
    said, out_of_reach = found(Forward(), torch.randn(32, 2, 1).cumsum(1))
    assert out_of_reach
    assert "'z1/loc'" in said


def test_sequences_whose_guide_sees_the_future_and_the_last_latent():
    torch.manual_seed(0)
    pair = DeepMarkov(1, 1, (8,))
    assert found(pair, torch.rand(32, 3, 1).round()) == (RELAYED, False)


@pytest.mark.slow(20)
def test_the_verdict_says_it_and_does_not_advise_a_wider_encoder():
    pair = Linear(IDENTITY, [[1.0, 0.0], [1.0, 0.0]])
    x = pair.sample(torch.zeros(1100, 2))
    effort = ppvae.Effort(num_samples=200, annealing=(ppvae.AIS(8, 50),), richer=False, refit_steps=500)
    report = ppvae.gap(pair, x[:100], effort, train=x[100:], seed=0, progress=False)
    assert report.out_of_reach
    assert report.structure in report.verdict()
    (capacity,) = [cause for cause in causes(report) if cause.name == "capacity"]
    assert "looks at the whole data point" in capacity.says
    assert capacity.remedy == "Let all that the encoder gives depend on the whole data point."
