"""An objective is added by a class and a registration."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support.objectives import assert_conforms
from support.zoo import ZOO

import ppvae
from ppvae.inference import Objective, WeightObjective
from ppvae.inference.objectives import registry
from ppvae.inference.objectives.registry import REGISTRY, Entry, register, table

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Median(WeightObjective):
    """The median log weight."""

    def bound(self, log_w):
        return log_w.median(0).values


@dataclass(frozen=True)
class Plain(Objective):
    """The mean log weight."""

    num_particles: int = 2

    def __call__(self, pair, batch, step=torch.inf):
        value = pair.log_weights(batch, self.num_particles).log_w.mean(0)
        return value, value.mean()


def test_the_documents_print_the_registry():
    assert table() in (ROOT / "docs/objectives.md").read_text()


def test_entries_are_named_as_their_classes_and_exported():
    for name, entry in REGISTRY.items():
        assert getattr(ppvae, name) is entry.objective
        assert entry.value
        assert entry.gradients


@pytest.mark.parametrize("added", [Median, Plain])
def test_one_class_and_one_registration_make_an_objective(added, monkeypatch):
    monkeypatch.setattr(registry, "REGISTRY", dict(REGISTRY))
    register(Entry(added, "its value", "its gradients"))
    assert f"| `{added.__name__}` | its value | its gradients | |" in table()
    with pytest.raises(ValueError, match=f"objective: found a second {added.__name__}, expected a name that is not"):
        register(Entry(added, "another", "another"))
    objective = registry.REGISTRY[added.__name__].objective(num_particles=3)
    for name in ("linear", "chain"):
        assert_conforms(objective, *ZOO[name].make())
    pair, x = ZOO["linear"].make()
    start = pair.log_prob(x).mean()
    fit = ppvae.fit(pair, x, objective, steps=30, lr=0.05, progress=False)
    assert fit.stopped == "completed"
    assert pair.log_prob(x).mean() > start
    ds = ppvae.gradient_statistics(pair, x, [objective, ppvae.ELBO()], [3], repeats=16, progress=False)
    assert (ds["total_variance"] > 0).all()
    assert ds.objective.values.tolist() == [added.__name__, "ELBO"]
