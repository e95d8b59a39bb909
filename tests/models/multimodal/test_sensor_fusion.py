"""Sensors and targets of an action: a target is a modality that the action moves, and that the guide does not see."""

import pytest
import torch
from torch import nn

from ppvae.models import (
    Bernoulli,
    DiagonalNormal,
    Gaussian,
    JointPosterior,
    LinearModalities,
    MixtureOfProducts,
    MultimodalVAE,
    ProductOfExperts,
    SensorFusion,
)

pytestmark = pytest.mark.usefixtures("float64")
A, D = 2, 2
ALL, SENSORS, ONE = [True, True, True], [True, True, False], [False, True, False]


class ExactGivenSensors(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, x, has):
        nothing = torch.zeros(len(has), 2), torch.zeros(len(has), 1, dtype=torch.bool)
        return self.linear.shared_posterior(x | {"y": nothing[0]}, torch.cat([has, nothing[1]], -1))


def linear_pairs():
    """The fusion of a and b with the target y, and the same without an action: y is a third modality."""
    torch.manual_seed(0)
    linear = LinearModalities({"a": 3, "b": 2, "y": 2}, D, "exact").requires_grad_(False)
    sensors = {name: linear.likelihoods[name] for name in ("a", "b")}
    target, plain = Gaussian(nn.Linear(D + A, 2)), linear.likelihoods["y"]
    target.load_state_dict(
        plain.state_dict() | {"network.weight": torch.cat([plain.network.weight, torch.randn(2, A)], -1)}
    )
    return SensorFusion(D, A, sensors, {"y": target}, ExactGivenSensors(linear)), linear


def batch(pair, has):
    torch.manual_seed(1)
    return pair.sample(5) | {"action": torch.randn(5, A), "has": torch.tensor([has] * 5)}


def without_action(pair, x):
    moved = x["action"] @ pair.targets["y"].network.weight[:, D:].T
    return {"a": x["a"], "b": x["b"], "y": x["y"] - moved, "has": x["has"]}


@pytest.mark.parametrize("has", [SENSORS, ONE])
def test_without_targets_the_guide_is_the_posterior(has):
    """All weights are log p(x_S), whatever the action."""
    pair, linear = linear_pairs()
    x = batch(pair, has)
    exact = linear.log_prob(without_action(pair, x))
    torch.testing.assert_close(pair.log_weights(x, 4).log_w, exact.expand(4, -1))


def test_with_targets_the_gap_is_what_they_would_tell():
    """Each weight is p(x, y | a) times the posterior given x and y, over that given x: the gap is their divergence."""
    pair, linear = linear_pairs()
    x = batch(pair, ALL)
    given_all = without_action(pair, x)
    given_sensors = given_all | {"has": torch.tensor([SENSORS] * 5)}
    torch.manual_seed(2)
    z = pair.latents(x, 20)["z"]
    torch.manual_seed(2)
    found = pair.log_weights(x, 20).log_w
    told = linear.true_posterior(given_all).log_prob(z) - linear.true_posterior(given_sensors).log_prob(z)
    torch.testing.assert_close(found, linear.log_prob(given_all) + told)


def test_actions_move_targets_and_nothing_else():
    pair, _ = linear_pairs()
    x = batch(pair, SENSORS)
    pushed = x | {"action": x["action"] + 1}
    found = []
    for data in (x, pushed):
        torch.manual_seed(2)
        found.append(pair.reconstruct(data))
    for name in ("a", "b"):
        torch.testing.assert_close(found[1][name], found[0][name], rtol=0, atol=0)
    moved = pair.targets["y"].network.weight[:, D:].sum(-1)
    torch.testing.assert_close(found[1]["y"] - found[0]["y"], moved.expand(5, -1))


def test_hiding_leaves_targets_and_what_was_missing():
    pair, _ = linear_pairs()
    x = batch(pair, ALL)
    x["has"][2:, 2], x["has"][0, 0] = False, False
    has = pair.hide_at_random(x)["has"]
    assert torch.equal(has[:, 2], x["has"][:, 2])
    assert not has[0, 0]
    assert has[:, :2].any(-1).all()


@pytest.mark.parametrize(("sensors", "targets"), [("a", "a"), ("a", "action"), ("z", "y"), ("has", "y"), ("a", None)])
def test_names_that_mean_something_else_are_refused(sensors, targets):
    parts = [{name: Bernoulli(nn.Linear(D, 3))} if name else {} for name in (sensors, targets)]
    posterior = ProductOfExperts({sensors: DiagonalNormal(nn.Linear(3, 2 * D))})
    with pytest.raises(ValueError, match=r"sensors, targets: found .*, expected one or more of each, by names that"):
        SensorFusion(D, A, *parts, posterior)


@pytest.mark.parametrize("name", ["data", "values", "type", "blood.pressure"])
def test_names_of_plates_and_modules_are_refused(name):
    expert, likelihood = DiagonalNormal(nn.Linear(3, 2 * D)), Bernoulli(nn.Linear(D, 3))
    found = f"found a modality called '{name}', expected a name without a dot that"
    for make in (ProductOfExperts, lambda experts: MixtureOfProducts(experts, [[name]])):
        with pytest.raises(ValueError, match=f"^experts: {found}"):
            make({name: expert})
    with pytest.raises(ValueError, match=f"^networks: {found}"):
        JointPosterior({name: nn.Linear(3, 2)}, expert)
    with pytest.raises(ValueError, match=f"^likelihoods: {found}"):
        MultimodalVAE(D, {name: likelihood}, nn.Identity())
    for own in ({name: likelihood}, {"a": likelihood}):
        with pytest.raises(ValueError, match=f"^(sensors|targets): {found}"):
            SensorFusion(D, A, own, {name if "a" in own else "y": Bernoulli(nn.Linear(D + A, 3))}, nn.Identity())
