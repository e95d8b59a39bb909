"""What a pair remembers of data: one row, set by `check` and by training, kept in files, changed by no measurement."""

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae import Effort, Pair
from ppvae.batches import tensors
from ppvae.inference.ledger.ascent import Ascent
from ppvae.refusals import refuse_shape


class Shifted(Pair):
    """`z ~ N(0, 1)`, `x ~ N(z + shift, 1)`: the shift of each row is a covariate; batch norm in both, idle here."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.norm = nn.BatchNorm1d(1)

    def model(self, x, shift):
        self.norm(shift.reshape(-1, 1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z + shift, 1.0), obs=x)

    def guide(self, x, shift):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - shift) / 2, self.scale))


@pytest.fixture
def pair():
    pair = Shifted()
    pair.check(batch(1.0, num=3))
    return pair


def batch(shift, num=40):
    return torch.randn(num) + shift, torch.full((num,), shift)


CHAINS = ppvae.AIS(num_chains=2, num_temperatures=5, num_leapfrog=1)
EFFORT = Effort("iwae", 20, num_samples=10, ascent=Ascent(2, max_steps=5), restarts=0)

MEASUREMENTS = {
    "log_evidence": lambda pair, data: ppvae.log_evidence(
        pair, data, num_particles=30, annealing=CHAINS, progress=False
    ),
    "elbo": lambda pair, data: ppvae.elbo(pair, data, 5, progress=False),
    "elbo_terms": lambda pair, data: ppvae.elbo_terms(pair, data, 5, progress=False),
    "gap": lambda pair, data: ppvae.gap(pair, data, EFFORT, progress=False),
    "bound_curve": lambda pair, data: ppvae.bound_curve(pair, data, [1, 2], progress=False),
    "to_arviz": lambda pair, data: ppvae.to_arviz(pair, data, progress=False),
    "gradient_statistics": lambda pair, data: ppvae.gradient_statistics(
        pair, data, [ppvae.ELBO()], [100], repeats=16, progress=False
    ),
    "calibration": lambda pair, data: ppvae.calibration(pair, num_simulations=20, progress=False),
    "expected_coverage": lambda pair, data: ppvae.expected_coverage(pair, num_simulations=20, progress=False),
    "local_classifier_test": lambda pair, data: ppvae.local_classifier_test(pair, data, 20, progress=False),
    "aggregated_posterior": lambda pair, data: ppvae.pictures.aggregated_posterior([plt.figure().gca()], pair, data),
    "sample": lambda pair, data: pair.sample(data),
    "reconstruct": lambda pair, data: pair.reconstruct(data),
    "log_weights": lambda pair, data: pair.log_weights(data, 3),
}


@pytest.mark.parametrize("name", [name for name in MEASUREMENTS if name != "log_weights"])
def test_a_measurement_changes_nothing(pair, name):
    """Neither the example nor a running statistic, though the pair is in training mode."""
    pair.train()
    example, state = pair.example, {name: t.clone() for name, t in pair.state_dict().items()}
    MEASUREMENTS[name](pair, batch(5.0))
    plt.close("all")
    assert pair.example is example
    assert pair.training
    for entry, before in state.items():
        assert torch.equal(pair.state_dict()[entry], before), entry


@pytest.mark.parametrize("name", ["to_arviz", "gradient_statistics", "gap", "aggregated_posterior"])
def test_a_measurement_of_a_pair_without_example_leaves_it_without(name):
    pair = Shifted()
    MEASUREMENTS[name](pair, batch(5.0))
    plt.close("all")
    assert pair.example is None


def test_check_and_training_set_it(pair):
    assert pair.example[1].tolist() == [1.0]
    ppvae.fit(pair, batch(3.0), steps=2, progress=False)
    assert pair.example[1].tolist() == [3.0]


def test_samples_are_drawn_at_given_covariates(pair):
    shift = torch.tensor([-50.0, 0.0, 50.0]).repeat(100)
    x = pair.sample((torch.zeros(300), shift))
    assert x.shape == (300,)
    assert (x - shift).abs().max() < 10
    assert abs(pair.sample(300).mean() - 1.0) < 4 * (2 / 300) ** 0.5


@pytest.mark.parametrize("kind", [torch.as_tensor, torch.Tensor.numpy], ids=["tensors", "arrays"])
def test_of_several_rows_the_first_is_taken(pair, kind):
    x, shift = batch(0.0, num=3)[0], torch.tensor([40.0, 0.0, -40.0])
    pair.example = (kind(x), kind(shift))
    assert abs(pair.sample(300).mean() - 40.0) < 4 * (2 / 300) ** 0.5
    assert pair.examples(5)[1].tolist() == [40.0] * 5
    pair.example = (kind(x), kind(shift[:2]))
    with pytest.raises(ValueError, match=r"Shifted.example: found that sizes of dimension 0 are .*'0': 3, '1': 2"):
        pair.sample(5)


X = torch.randn(4, 3)


@pytest.mark.parametrize(
    "example", [X, (X, X[:, 0]), {"x": X, "length": torch.ones(4)}], ids=["tensor", "tuple", "dict"]
)
def test_files_keep_it(example, tmp_path):
    pair, other = (ppvae.models.LinearVAE(num_features=3, num_latents=2) for _ in range(2))
    pair.example, other.example = example, None
    ppvae.save(pair, tmp_path / "pair")
    ppvae.load(other, tmp_path / "pair")
    assert type(other.example) is type(example)
    for name, t in tensors(example).items():
        assert torch.equal(tensors(other.example)[name], t)


def test_a_file_of_a_pair_without_example_leaves_the_others(pair, tmp_path):
    blank = Shifted()
    ppvae.save(blank, tmp_path / "pair")
    ppvae.load(pair, tmp_path / "pair")
    assert pair.example[1].tolist() == [1.0]


def test_a_checkpoint_of_training_keeps_it(pair, tmp_path):
    ppvae.fit(pair, batch(3.0), epochs=1, checkpoint=tmp_path / "run", progress=False)
    other = Shifted()
    ppvae.load(other, tmp_path / "run")
    assert other.example[1].tolist() == [3.0]


class Particular(Pair):
    """Takes rows of two numbers and no others; `refuse` says so, in words of its own or not."""

    def __init__(self, refuse=None):
        super().__init__()
        self.refuse = refuse

    def model(self, x):
        if self.refuse is not None:
            self.refuse(x)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x.reshape(len(x), 2))

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))


def test_data_unlike_the_example_are_at_fault_only_where_the_example_runs():
    """Sequences of any length, and then a network that takes none."""

    class Ragged(Pair):
        def __init__(self):
            super().__init__()
            self.network = nn.Linear(1, 1)

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(self.network(z[..., None]) + 0 * x, 1.0).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x.mean(-1), 1.0))

    pair = Ragged()
    pair.check(torch.randn(4, 3))
    pair.log_weights(torch.randn(4, 5))
    pair.network = nn.Linear(2, 1)
    for length in (3, 5, 6):
        with pytest.raises(ppvae.ContractError, match=r"^model, after site 'z': found RuntimeError: .*mat1 and mat2"):
            pair.log_weights(torch.randn(4, length))


def test_what_the_library_refuses_itself_is_not_laid_to_the_example():
    def by_user(x):
        if x.shape[1] != 2:
            raise ValueError("x: found other rows, expected two numbers")

    for refuse, laid in ((None, True), (by_user, True), (lambda x: refuse_shape(x, (2,)), False)):
        pair = Particular(refuse)
        pair.check(torch.randn(4, 2))
        with pytest.raises(ppvae.ContractError) as refusal:
            pair.log_weights(torch.randn(4, 3))
        assert ("as in pair.example" in str(refusal.value)) == laid
