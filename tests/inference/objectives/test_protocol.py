"""All that is asked of an objective is a member of the protocol; it keeps nothing of the pairs that it has seen."""

import ast
from dataclasses import dataclass
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.zoo import ZOO
from torch import nn

import ppvae
from ppvae import ELBO, IWAE, Pair
from ppvae.inference import GumbelSoftmaxELBO, LinearWarmup, Objective, separable_sites
from ppvae.inference.objectives.dependencies import separable_in
from ppvae.inference.objectives.protocol import as_objective
from ppvae.inference.objectives.registry import REGISTRY
from ppvae.models import LinearVAE
from ppvae.tracing import trace_pair


class OfData(nn.Linear):
    def forward(self, x, below):
        return super().forward(x)


class OfBelow(nn.Linear):
    def forward(self, x, below):
        return super().forward(below)


class Free(nn.Linear):
    """A layer that does not look at the one above."""

    def forward(self, above):
        return self.bias.expand(above.shape)


class Layers(Pair):
    """p(z2) p(z1 | z2) p(x | z1); the guide draws z1, and then z2, of which a module decides what it depends on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lower, self.upper, self.prior = nn.Linear(2, 2), OfData(2, 2), nn.Linear(2, 2)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.prior(z2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(self.lower(x), 0.7).to_event(1))
            pyro.sample("z2", dist.Normal(self.upper(x, z1), 0.7).to_event(1))


def look_up(pair):
    pair.upper = OfBelow(2, 2)


def look_up_and_free_the_lower(pair):
    pair.upper, pair.prior = OfBelow(2, 2), Free(2, 2)


def another_guide(pair):
    """Whose first site is another one."""

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(2 * pair.lower(x), 0.9).to_event(1))
            pyro.sample("z2", dist.Normal(z1, 0.9).to_event(1))

    pair.guide = guide


def another_site(pair):
    """z2 is drawn first, and z1 given z2."""

    def guide(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(pair.lower(x), 0.9).to_event(1))
            pyro.sample("z1", dist.StudentT(5.0, z2, 0.9).to_event(1))

    pair.guide = guide


CHANGES = [
    (look_up, {"z2"}),
    (look_up_and_free_the_lower, {"z1", "z2"}),
    (another_guide, {"z2"}),
    (another_site, {"z1", "z2"}),
]


def bound(objective, pair, x):
    pyro.set_rng_seed(1)
    return objective(pair, x)[0]


@pytest.mark.parametrize(("change", "separable"), CHANGES)
def test_a_changed_pair_has_its_own_split_at_once(float64, change, separable):
    objective, x = ELBO(), torch.randn(5, 2)
    pair, fresh = Layers(), Layers()
    bound(objective, pair, x)
    for each in (pair, fresh):
        torch.manual_seed(1)
        change(each)
    assert separable_sites(fresh, x) == separable
    expected = bound(ELBO(known_separable=frozenset(separable)), fresh, x)
    assert torch.equal(bound(objective, pair, x), expected)
    if change in (look_up, another_guide):
        stale = ELBO(known_separable=frozenset({"z1", "z2"}))
        assert not torch.allclose(bound(stale, fresh, x), expected)


def test_what_is_prepared_is_the_same_objective():
    pair, x = Layers(), torch.randn(5, 2)
    look_up(pair)
    prepared = ELBO(2).prepared(pair, x)
    assert prepared.known_separable == {"z2"}
    assert (prepared, repr(prepared)) == (ELBO(2), repr(ELBO(2)))
    assert torch.equal(bound(prepared, pair, x), bound(ELBO(2), pair, x))
    assert IWAE().prepared(pair, x) == IWAE()


def test_fit_prepares_its_objective_anew_in_each_epoch():
    """As a callback may have changed the pair."""
    found = []

    @dataclass(frozen=True)
    class Watched(ELBO):
        def prepared(self, pair, batch):
            found.append(super().prepared(pair, batch))
            return found[-1]

    def change(fit):  # what it computes, of the same parameters
        own = fit.pair.upper
        look_up(fit.pair)
        fit.pair.upper.weight, fit.pair.upper.bias = own.weight, own.bias

    ppvae.fit(Layers(), torch.randn(20, 2), Watched(), epochs=2, batch_size=5, progress=False, callbacks=[change])
    assert [prepared.known_separable for prepared in found] == [{"z1", "z2"}, {"z2"}]


class Turned(Pair):
    """Whose model draws its latents in either order, as an argument says."""

    def model(self, x, upwards):
        with pyro.plate("data", len(x)):
            first, second = ("z2", "z1") if upwards else ("z1", "z2")
            z = pyro.sample(second, dist.Normal(0.8 * pyro.sample(first, dist.Normal(0.0, 1.0)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.3))

    def guide(self, x, upwards):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(self.slope * x, 0.5))
            pyro.sample("z2", dist.Normal(x + z1, 0.5))


@pytest.mark.parametrize("flags", [(True, False), (False, True), (1, False), ("up", None)])
def test_a_batch_with_another_argument_has_its_own_split(float64, flags):
    """The bounds that training tells are those of plain log weights, whichever batch came first."""
    x, trainer, pair = torch.randn(4000), ppvae.Trainer(Turned(), lr=0.0), Turned()
    for upwards in flags:
        log_w = pair.log_weights((x, upwards), 10).log_w.mean(0)
        noise = pair.log_weights((x, upwards), 1).log_w.sub(log_w).std() / len(x) ** 0.5
        assert abs(trainer.step((x, upwards)) - log_w.mean()) < 4.5 * noise
    assert len({separable_sites(pair, (x, upwards)) for upwards in flags}) == 2


@pytest.mark.parametrize("name", ZOO)
def test_the_order_of_sites_tells_the_same_as_their_dependencies(name):
    pair, x = ZOO[name].make()
    pair.eval()
    found = separable_in(trace_pair(pair, x, 2))
    assert found is None or found == separable_sites(pair, x)


@pytest.mark.parametrize(
    "objective", [ELBO(2, beta=LinearWarmup(4)), GumbelSoftmaxELBO(2, temperature=LinearWarmup(4))]
)
def test_schedules_may_be_held_at_values(objective):
    pair, x = LinearVAE(3, 2), torch.randn(4, 3)
    (name,) = objective.schedules
    assert objective.scheduled(1) == {name: 0.25}
    held = objective.at({name: torch.tensor(0.25)})
    for seed in (1, 2):
        pyro.set_rng_seed(seed)
        expected = objective(pair, x, 1)
        pyro.set_rng_seed(seed)
        for a, b in zip(held(pair, x, 7), expected, strict=True):
            torch.testing.assert_close(a, b)
    assert ELBO().at({}) == ELBO()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "objective", [ELBO(6), IWAE(6), IWAE(6, "dreg"), ppvae.RWS(6, phase="sleep"), ppvae.MIWAE(3, num_groups=2)]
)
def test_parts_add_up_to_the_whole(objective):
    """With the same noise: a draw of six is one of two and then four, for a guide of one site."""
    pair, x = LinearVAE(3, 2), torch.randn(4, 3)
    whole, parts = [], []
    for sizes, found in (([6], whole), ([2, 2, 2], parts)):
        pyro.set_rng_seed(1)
        for value, surrogate in objective.parts(pair, x, sizes):
            gradient = torch.autograd.grad(
                surrogate, list(pair.parameters()), allow_unused=True, materialize_grads=True
            )
            found.append((value.detach(), torch.cat([g.flatten() for g in gradient])))
    assert len(parts) >= 3
    for a, b in zip(zip(*whole, strict=True), zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(sum(a), sum(b))


def test_a_function_is_an_objective(float64):
    def function(pair, batch, step=torch.inf):
        value = pair.log_weights(batch).log_w[0]
        return value, value.mean()

    objective = as_objective(function)
    assert isinstance(objective, Objective)
    assert as_objective(objective) is objective
    pair, x = LinearVAE(3, 2), torch.randn(4, 3)
    before = pair.log_prob(x).mean()
    ppvae.fit(pair, x, function, steps=50, lr=0.05, progress=False)
    assert pair.log_prob(x).mean() > before


def test_fit_asks_the_objective_which_data_it_can_be_trained_on():
    @dataclass(frozen=True)
    class Picky(ELBO):
        def probe(self, pair, batch):
            return torch.where(batch[:, 0] > 0, 0.0, -torch.inf)

    x = torch.ones(10, 3)
    x[7, 0] = -1
    with pytest.raises(ValueError, match="data: found data point 7 outside"):
        ppvae.fit(LinearVAE(3, 2), x, Picky(), steps=1, progress=False)


def test_nothing_asks_which_objective_it_has():
    """No `isinstance` over the objectives' classes, and no member asked for that may not be there."""
    names = {*REGISTRY, "WeightObjective", "MeanOverDraws", "Objective"}
    asked = []
    for path in (Path(ppvae.__file__).parents[1] / "inference").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
                over = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
                ladder = node.func.id in ("isinstance", "issubclass") and over & names
                guess = node.func.id == "getattr" and len(node.args) == 3 and "objective" in ast.unparse(node.args[0])
                if (ladder or guess) and path.name != "protocol.py":
                    asked.append(f"{path}: {ast.unparse(node)}")
    assert asked == []
