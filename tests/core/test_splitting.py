"""A support that is split by rows says of each value what it says of the row, whatever tensors it holds."""

from typing import ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor

import ppvae
from ppvae import Pair
from ppvae.splitting import split, split_constraint

pytestmark = pytest.mark.usefixtures("float64")

K, B = 3, 2


class OneOf(constraints.Constraint):
    """The rows of a codebook, `[C, D]`."""

    event_dim = 1

    def __init__(self, codes):
        self.codes = codes

    def check(self, value):
        return (value.unsqueeze(-2) == self.codes).all(-1).any(-1)


class Box(constraints.Constraint):
    """Between the ends of each feature, `[D, 2]`."""

    event_dim = 1

    def __init__(self, ends):
        self.ends = ends

    def check(self, value):
        return ((self.ends[:, 0] <= value) & (value <= self.ends[:, 1])).all(-1)


class Increasing(constraints.Constraint):
    """By the positions of its dimensions, as plain Pyro gives them."""

    event_dim = 1

    def check(self, value):
        return value[:, 0] <= value[:, 1]


def ends(*shape: int) -> tuple[Tensor, Tensor]:
    return -torch.rand(shape), torch.rand(shape)


@pytest.mark.parametrize("num", [4, K * B])
@pytest.mark.parametrize(
    "support",
    [
        lambda num: OneOf(torch.arange(2.0 * num).reshape(num, 2) % 3 - 1),
        lambda num: Box(torch.tensor([[-1.0, 0.5], [-0.5, 1.0]])),
        lambda num: Increasing(),
        lambda num: constraints.independent(constraints.interval(*ends(K * B, 2)), 1),
        lambda num: constraints.cat([constraints.interval(*ends(K * B, 1)), constraints.positive], 1, [1, 1]),
        lambda num: constraints.stack([constraints.interval(*ends(K * B)), constraints.positive], -1),
        lambda num: constraints.independent(
            constraints.MixtureSameFamilyConstraint(constraints.interval(*ends(K * B, 2, num))), 1
        ),
    ],
    ids=["codebook", "box", "positions", "interval", "cat", "stack", "mixture"],
)
def test_a_split_support_agrees_with_its_rows(support, num):
    torch.manual_seed(0)
    constraint = support(num)
    values = torch.randint(-1, 2, (K * B, 2)) * torch.tensor([1.0, 0.3])
    inside = constraint.check(values)
    found = split_constraint(constraint, 1, (K, B))
    assert type(found) is type(constraint)
    torch.testing.assert_close(found.check(split(values, 1, (K, B))), split(inside, inside.dim() - 1, (K, B)))


def test_a_support_that_holds_none_of_its_own_stays_as_it_is():
    for constraint in (constraints.real, constraints.unit_interval, constraints.simplex):
        assert split_constraint(constraint, 1, (K, B)) is constraint


class Codes(dist.TorchDistribution):
    """A code of a codebook `[C, D]`, by its logits."""

    arg_constraints: ClassVar = {}
    has_enumerate_support = True

    def __init__(self, logits, codes):
        self.logits, self.codes = logits.log_softmax(-1), codes
        super().__init__(logits.shape[:-1], codes.shape[1:], validate_args=False)

    support = property(lambda self: OneOf(self.codes))

    def sample(self, sample_shape=()):
        return self.codes[dist.Categorical(logits=self.logits).sample(torch.Size(sample_shape))]

    def log_prob(self, value):
        is_code = (value.unsqueeze(-2) == self.codes).all(-1)
        return self.logits.masked_fill(~is_code, -torch.inf).logsumexp(-1)

    def enumerate_support(self, expand=True):
        values = self.codes.reshape(-1, *(1,) * len(self.batch_shape), *self.event_shape)
        return values.expand(-1, *self.batch_shape, *self.event_shape) if expand else values

    def expand(self, batch_shape, _instance=None):
        return Codes(self.logits.expand(*batch_shape, -1), self.codes)


@pytest.mark.filterwarnings("ignore:.*run by rows")
@pytest.mark.parametrize("particles", ["leading", "rows"])
@pytest.mark.parametrize("num", [2, 5])
def test_codes_of_a_codebook_as_latents(num, particles):
    torch.manual_seed(0)
    codes = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 1.0], [0.5, 0.5]])
    x = torch.randn(num, 2) + 1

    def joint(x):
        return dist.Normal(codes, 1.0).log_prob(x.unsqueeze(-2)).sum(-1) - torch.tensor(5.0).log()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Codes(torch.zeros(len(x), 5), codes))
            if particles == "rows":
                z = z.view(len(x), 2)  # no particles leading
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Codes(joint(x), codes))

    pair = Pair.of(model, guide, x)
    assert pair.particles == particles
    found = ppvae.log_evidence(pair, x, "iwae", num_particles=10, progress=False)
    torch.testing.assert_close(found.estimate, joint(x).logsumexp(-1))
