"""Many runs at once: each is the run that it is alone, or, where it draws noise, has the law of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.compiled_runs import DATA, run_as_traced
from torch import nn

import ppvae
from ppvae import ELBO, IWAE, ContractError, EnumeratedELBO, LinearWarmup, NonFiniteError, StepOptions
from ppvae.inference.objectives.protocol import Objective
from ppvae.models import VAE, GaussianMixture, LinearVAE

pytestmark = pytest.mark.usefixtures("float64")
SETTINGS = {"steps": 12, "batch_size": 20, "lr": 1e-2, "progress": False}


def data():
    return DATA.double()


def one_by_one(make, objective, seeds, **settings):
    pairs = []
    for seed in seeds:
        torch.manual_seed(seed)
        pairs.append(make())
        ppvae.fit(pairs[-1], data(), objective, compile=False, **SETTINGS | settings)
    return pairs


def assert_same(pairs, others):
    for pair, other in zip(pairs, others, strict=True):
        torch.testing.assert_close(pair.state_dict(), other.state_dict(), rtol=1e-9, atol=1e-9)


@dataclass(frozen=True)
class Annealed(Objective):
    """A bound without noise, with a schedule."""

    beta: Callable

    @property
    def schedules(self):
        return ("beta",)

    def __call__(self, pair, batch, step=float("inf")):
        value, surrogate = EnumeratedELBO()(pair, batch)
        return value, self.beta(step) * surrogate


CASES = {
    "amortized": (lambda: GaussianMixture(3, 4, guide="amortized"), EnumeratedELBO(), {}),
    "schedules": (lambda: GaussianMixture(3, 4), Annealed(LinearWarmup(10)), {"schedule": lambda share: 1 - share / 2}),
    "rates of their own": (
        lambda: GaussianMixture(2, 4),
        EnumeratedELBO(),
        {"optimizer": ppvae.ParameterGroups({"means": 3.0}), "schedule": lambda share: 1 - share},
    ),
    "decay and average": (
        lambda: GaussianMixture(2, 4),
        EnumeratedELBO(),
        {"optimizer": partial(torch.optim.AdamW, weight_decay=0.1), "options": StepOptions(ema=0.9)},
    ),
}


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_without_noise_each_run_is_what_it_is_alone(name, compile, monkeypatch):
    run_as_traced(monkeypatch)
    make, objective, settings = CASES[name]
    runs = ppvae.fit_many(make, data(), objective, seeds=[3, 1, 4], compile=compile, **SETTINGS | settings)
    alone = one_by_one(make, objective, [3, 1, 4], **settings)
    assert_same(runs.pairs, alone)
    assert runs.fit.steps == 12
    bounds = torch.stack([objective(pair, data())[0].mean() for pair in runs.pairs])
    assert bounds.std() > 0


@pytest.mark.slow(8)
@pytest.mark.parametrize("objective", [ELBO(2, gradient="stl"), IWAE(3, gradient="dreg")])
def test_each_run_draws_noise_of_its_own_with_the_law_of_one_alone(objective):
    """A step of gradient ascent, many times from one start: means and deviations agree, and no two steps do."""
    num = 60
    torch.manual_seed(0)
    start = LinearVAE(4, 2, guide="full").state_dict()

    def make():
        pair = LinearVAE(4, 2, guide="full")
        pair.load_state_dict(start)
        return pair

    settings = {"steps": 1, "batch_size": 70, "lr": 1.0, "optimizer": "sgd", "progress": False}
    together = ppvae.fit_many(make, data(), objective, seeds=num, **settings).pairs
    alone = [make() for _ in range(num)]
    for seed, pair in enumerate(alone):
        ppvae.fit(pair, data(), objective, seed=seed, **settings)
    for name, old in start.items():
        moved, expected = (torch.stack([p.state_dict()[name] - old for p in pairs]) for pairs in (together, alone))
        error = ((moved.var(0) + expected.var(0)) / num).sqrt()
        assert ((moved.mean(0) - expected.mean(0)).abs() <= 4.5 * error + 1e-12).all(), name
        torch.testing.assert_close(moved.std(0), expected.std(0), rtol=4.5 / num**0.5, atol=1e-12)
    steps = torch.stack([pair.state_dict()["weight"] for pair in together]).flatten(1)
    assert len(steps.unique(dim=0)) == num


class Regular(GaussianMixture):
    """With a penalty, and running statistics of what it has seen."""

    def __init__(self):
        super().__init__(3, 4)
        self.norm = nn.BatchNorm1d(4, affine=False)

    def model(self, x):
        super().model(self.norm(x) * self.means.mean() if self.training else x)

    def penalty(self):
        return 0.1 * self.means.square().sum()


def test_penalties_and_running_statistics_are_each_runs_own():
    runs = ppvae.fit_many(Regular, data(), EnumeratedELBO(), seeds=2, **SETTINGS)
    assert_same(runs.pairs, one_by_one(Regular, EnumeratedELBO(), range(2)))


class Dropped(LinearVAE):
    def __init__(self):
        super().__init__(4, 2)
        self.drop = nn.Dropout(0.5)

    def guide(self, x):
        super().guide(self.drop(x))


def test_dropout_differs_between_runs():
    torch.manual_seed(0)
    start = Dropped().state_dict()

    def make():
        pair = Dropped()
        pair.load_state_dict(start)
        return pair

    def squares(pair, batch, step=None):
        value = -pair.encoder(pair.drop(batch)).square().sum(-1)
        return value, value.mean()

    one, other = ppvae.fit_many(make, data(), squares, seeds=2, **SETTINGS).pairs
    assert not torch.equal(one.encoder.weight, other.encoder.weight)


def test_runs_of_a_network_compile(caplog):
    def make():
        return VAE.mlp(4, 2, hidden=[5], likelihood="gaussian")

    eager, compiled = (
        ppvae.fit_many(make, data(), IWAE(3), seeds=3, compile=compile, **SETTINGS) for compile in (False, True)
    )
    assert not [record for record in caplog.records if record.name == "ppvae"]
    for a, b in zip(eager.pairs, compiled.pairs, strict=True):
        torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=1e-4, atol=1e-6)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path):
    def make():
        return LinearVAE(4, 2)

    settings = {"batch_size": 20, "progress": False}
    whole = ppvae.fit_many(make, data(), seeds=2, epochs=4, **settings)
    settings |= {"checkpoint": tmp_path / "runs.pt", "resume": True}
    ppvae.fit_many(make, data(), seeds=2, epochs=2, **settings)
    rest = ppvae.fit_many(make, data(), seeds=2, epochs=4, **settings)
    for a, b in zip(whole.pairs, rest.pairs, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_pairs_are_measured_and_become_chains():
    runs = ppvae.fit_many(lambda: LinearVAE(4, 2), data(), seeds=3, **SETTINGS)
    assert ppvae.to_arviz(runs.pairs, data()[:5], num_samples=4).posterior.sizes["chain"] == 3
    for pair in runs.pairs:
        assert ppvae.log_evidence(pair, data()[:5], "exact").estimate.shape == (5,)


def test_what_would_mix_the_runs_is_refused():
    for settings in ({"weights": torch.ones(70)}, {"options": StepOptions(clip_norm=1.0)}):
        with pytest.raises(ValueError, match="expected none, as it would mix the runs"):
            ppvae.fit_many(lambda: LinearVAE(4, 2), data(), **SETTINGS | settings)


def test_pairs_that_differ_in_more_than_values_are_refused():
    sizes = iter([2, 3])
    with pytest.raises(ContractError, match="make_pair: found a LinearVAE of another structure than the first"):
        ppvae.fit_many(lambda: LinearVAE(4, next(sizes)), data(), seeds=2, **SETTINGS)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")
def test_what_cannot_be_copied_is_refused():
    def scripted():
        pair = ppvae.models.VAE.mlp(6, 2, [4])
        pair.posterior = torch.jit.script(torch.nn.Linear(6, 4))
        return pair

    with pytest.raises(ContractError, match=r"posterior.weight: copy.deepcopy makes no parameter of it"):
        ppvae.fit_many(scripted, data(), seeds=2, **SETTINGS)


class Looking(LinearVAE):
    def model(self, x):
        if self.weight.abs().max() > -1:
            super().model(x)


def test_what_looks_at_values_is_refused_with_the_line():
    with pytest.raises(ContractError, match=r"Looking: found what cannot be run for several pairs at once, .*abs\(\)"):
        ppvae.fit_many(lambda: Looking(4, 2), data(), **SETTINGS)


class Counting(LinearVAE):
    calls = 0

    def model(self, x):
        self.calls += 1
        super().model(x)


def test_a_count_that_a_module_keeps_is_refused():
    with pytest.raises(
        ContractError, match=r"Counting: .*calls: found \d+ after \d+, expected what stays from call to call"
    ):
        ppvae.fit_many(lambda: Counting(4, 2), data(), seeds=2, **SETTINGS)


def test_a_step_that_is_not_finite_is_taken_by_no_run():
    with pytest.raises(NonFiniteError, match="mean") as caught:
        ppvae.fit_many(lambda: LinearVAE(4, 2), data(), seeds=2, optimizer="sgd", **SETTINGS | {"lr": 1e200})
    assert caught.value.fit.steps == 1
    assert "every site is finite" not in str(caught.value)  # none was looked at


class Rates(ppvae.Pair):
    """Its posterior is Gamma(2 + x, 2)."""

    def __init__(self):
        super().__init__()
        self.log_shape = nn.Parameter(torch.rand(()))

    def model(self, x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(self.log_shape.exp() + x, 2.0))


def test_noise_that_is_no_function_of_normal_draws():
    counts = torch.poisson(torch.ones(70))
    for pair in ppvae.fit_many(Rates, counts, seeds=3, **SETTINGS | {"steps": 400}).pairs:
        assert abs(pair.log_shape.exp().item() - 2.0) < 0.3


class Normalized(torch.optim.SGD):
    """Gradients by their norm over each parameter, as LARS has it."""

    def step(self, closure=None):
        for p in (p for group in self.param_groups for p in group["params"]):
            p.grad /= p.grad.norm()
        super().step(closure)


@pytest.mark.parametrize("optimizer", [torch.optim.Adafactor, Normalized])
def test_an_optimizer_that_looks_at_whole_tensors_is_refused(optimizer):
    """The parameters of all runs are one tensor to it."""
    with pytest.raises(ValueError, match=r"optimizer: found .*, which moves a run by what the others have"):
        ppvae.fit_many(lambda: LinearVAE(4, 2), data(), seeds=2, optimizer=optimizer, **SETTINGS)
    ppvae.fit_many(lambda: LinearVAE(4, 2), data(), seeds=1, optimizer=optimizer, **SETTINGS)


@pytest.mark.parametrize("optimizer", [torch.optim.RAdam, torch.optim.Rprop, partial(torch.optim.SGD, momentum=0.9)])
def test_an_optimizer_that_moves_each_number_by_itself(optimizer):
    objective = EnumeratedELBO()
    runs = ppvae.fit_many(lambda: GaussianMixture(2, 4), data(), objective, seeds=3, optimizer=optimizer, **SETTINGS)
    assert_same(runs.pairs, one_by_one(lambda: GaussianMixture(2, 4), objective, range(3), optimizer=optimizer))


class Decayed(GaussianMixture):
    """With a parameter that no bound depends on."""

    def __init__(self):
        super().__init__(2, 4)
        self.idle = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize("compile", [False, True])
def test_a_parameter_without_a_gradient_stays_as_it_is(compile, monkeypatch):
    run_as_traced(monkeypatch)
    optimizer = partial(torch.optim.AdamW, weight_decay=0.5)
    runs = ppvae.fit_many(
        Decayed, data(), EnumeratedELBO(), seeds=2, optimizer=optimizer, compile=compile, **SETTINGS
    ).pairs
    assert_same(runs, one_by_one(Decayed, EnumeratedELBO(), range(2), optimizer=optimizer))
    assert torch.equal(runs[0].idle, torch.ones(3))


class Turned(GaussianMixture):
    """With a complex parameter."""

    def __init__(self):
        super().__init__(2, 4)
        self.factor = nn.Parameter(torch.randn(4, dtype=torch.complex128))

    def penalty(self):
        return (self.factor * self.means - 1j).abs().sum()


def test_complex_parameters_learn_as_they_do_alone():
    runs = ppvae.fit_many(Turned, data(), EnumeratedELBO(), seeds=2, **SETTINGS).pairs
    assert_same(runs, one_by_one(Turned, EnumeratedELBO(), range(2)))
    assert (runs[0].factor != runs[1].factor).all()


class Settings(GaussianMixture):
    """A pair of which each has a setting of its own, in what is no parameter."""

    def __init__(self, setting):
        super().__init__(2, 4)
        self.setting = setting
        self.drop = nn.Dropout(setting if isinstance(setting, float) else 0.0)

    def penalty(self):
        factor = self.setting(self.means) if callable(self.setting) else self.setting
        return (factor * self.drop(self.means)).square().sum()


@pytest.mark.parametrize("own", [(0.1, 0.2), (torch.ones(4), torch.zeros(4)), (nn.Tanh(), nn.ReLU())])
def test_pairs_that_differ_in_what_is_no_parameter_are_refused(own):
    settings = iter(own)
    with pytest.raises(ContractError, match="make_pair: found that pair 1 computes other numbers than pair 0 does"):
        ppvae.fit_many(lambda: Settings(next(settings)), data(), EnumeratedELBO(), seeds=2, **SETTINGS)


def test_each_pair_keeps_what_training_does_not_look_at():
    names = iter("ab")

    def make():
        pair = GaussianMixture(2, 4)
        pair.name = next(names)
        return pair

    runs = ppvae.fit_many(make, data(), EnumeratedELBO(), seeds=2, **SETTINGS)
    assert [pair.name for pair in runs.pairs] == ["a", "b"]


class Looked(LinearVAE):
    def __init__(self, table):
        super().__init__(4, 2)
        self.table = table

    def penalty(self):
        return self.table(torch.arange(3)).square().sum()


@pytest.mark.parametrize(
    ("table", "found"),
    [
        (nn.Embedding(3, 2, sparse=True), "table.weight: found a sparse gradient, expected a dense one"),
        (nn.utils.parametrizations.spectral_norm(nn.Embedding(3, 2)), "RuntimeError: Batching rule not implemented"),
    ],
)
def test_what_vmap_does_not_know_is_refused(table, found):
    with pytest.raises(ContractError, match=f"Looked: found what cannot be run for several pairs at once, {found}"):
        ppvae.fit_many(lambda: Looked(table), data(), seeds=2, **SETTINGS)


def test_runs_by_another_objective_do_not_go_on(tmp_path):
    settings = {"progress": False, "checkpoint": tmp_path / "runs.pt"}
    ppvae.fit_many(lambda: LinearVAE(4, 2), data(), IWAE(2), seeds=2, epochs=1, **settings)
    with pytest.raises(ppvae.CheckpointError, match=r"objective: found .*IWAE.*2.*, expected .*IWAE.*3"):
        ppvae.fit_many(lambda: LinearVAE(4, 2), data(), IWAE(3), seeds=2, epochs=2, resume=True, **settings)


@pytest.mark.parametrize("seeds", [[], (), range(0)])
def test_no_seeds_are_refused(seeds):
    with pytest.raises(ValueError, match="seeds: found none, expected at least one"):
        ppvae.fit_many(lambda: LinearVAE(4, 2), data(), seeds=seeds, **SETTINGS)


def test_what_is_refused_alone_is_refused_in_the_same_words():
    with pytest.raises(ContractError, match=r"^guide site 'component': found Categorical and one particle"):
        ppvae.fit_many(lambda: GaussianMixture(2, 4), data(), ELBO(), seeds=2, **SETTINGS)
