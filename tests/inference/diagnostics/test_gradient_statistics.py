"""The microscope shows what is known: exact moments, exact gradients, known biases, the same noise for all."""

import math
from dataclasses import dataclass

import numpy as np
import pyro
import pytest
import torch

import ppvae
from ppvae import ELBO, IWAE, JVI, RWS, TVO, VIMCO, ContractError, EnumeratedELBO
from ppvae.inference.diagnostics import gradient_noise, repeated_gradients
from ppvae.inference.diagnostics.moments import BLOCKS, Moments
from ppvae.models import GaussianMixture, LinearVAE
from ppvae.views import plots


def look(pair, data, objectives, num_particles=(4,), repeats=200, **settings):
    return ppvae.gradient_statistics(pair, data, objectives, num_particles, repeats, progress=False, **settings)


@pytest.fixture
def pair(float64):
    """A linear VAE whose guide is a little off."""
    pair = LinearVAE(num_features=4, num_latents=2).fit_guide()
    pair.encoder.bias.data += 0.3
    return pair


@pytest.fixture
def x(pair):
    return torch.randn(3, 4)


def gradients(pair, x, objective, repeats):
    found = [torch.autograd.grad(objective(pair, x)[1], list(pair.parameters())) for _ in range(repeats)]
    return torch.stack([torch.cat([g.flatten() for g in each]) for each in found])


def test_moments_of_known_vectors():
    mean, scale = torch.tensor([3.0, 0.0, 4.0, 1.0]), torch.tensor([1.0, 2.0, 0.5, 0.0])
    moments = Moments([[slice(0, 1), slice(2, 3)], [slice(1, 2)], [slice(3, 4)]])
    for r in range(4000):
        moments.add(r % BLOCKS, mean + scale * torch.randn(4))
    found = moments.statistics()
    for name, exact in (("norm", [5.0, 0.0, 1.0]), ("variance", [1.25, 4.0, 0.0])):
        estimate, std_error = found[name]
        assert ((estimate - torch.tensor(exact)).abs() <= 5 * std_error).all()  # seven degrees of freedom
    assert found["norm"][0][0] / found["norm"][1][0] > 100
    estimate, std_error = moments.statistics(reference=mean)["norm"]
    assert (estimate <= 5 * std_error).all()
    assert found["snr"][0][2] == math.inf


def test_a_small_variance_survives_a_large_mean():
    moments = Moments([[slice(0, 1)]])
    for r in range(800):
        moments.add(r % BLOCKS, torch.tensor([1e4]) + 0.01 * torch.randn(1))
    estimate, std_error = moments.statistics()["variance"]
    assert abs(estimate - 1e-4) < 5 * std_error < 1e-4


@pytest.mark.slow(10)
def test_statistics_are_those_of_the_gradients(pair, x):
    ds = look(pair, x, [IWAE(gradient="dreg")], groups={"all": [""]}, repeats=400)
    ours = gradients(pair, x, IWAE(4, "dreg"), 2000)
    variance, norm = ours.var(0).sum().item(), ours.mean(0).norm().item()
    for name, exact in (("total_variance", variance), ("mean_norm", norm), ("snr", norm / variance**0.5)):
        assert abs(ds[name].item() - exact) < 5 * ds[f"{name}_std_error"].item() < 0.5 * exact


@pytest.mark.slow(17)
def test_bias_is_seen_where_there_is_one_and_not_elsewhere(pair, x):
    objectives = [ELBO(), ELBO(gradient="stl"), ELBO(gradient="score"), IWAE(), IWAE(gradient="stl")]
    objectives += [IWAE(gradient="dreg"), VIMCO(), RWS(), TVO()]
    guide = look(pair, x, objectives, (8,), repeats=300).sel(group="guide", num_particles=8)
    z = (guide["bias"] / guide["bias_std_error"]).to_series()
    for name in ("ELBO", "ELBO stl", "ELBO score", "IWAE dreg", "VIMCO"):
        assert z[name] < 4
    for name in ("IWAE stl", "RWS"):
        assert z[name] > 10
    assert z[["IWAE", "TVO"]].isna().all()  # the reference itself, and one that has none


def test_noise_is_shared_by_all_objectives(pair, x):
    ds = look(pair, x, [IWAE(), IWAE(gradient="dreg"), VIMCO()], repeats=16)
    assert (ds["value"] == ds["value"][0]).all()
    again = look(pair, x, [IWAE(gradient="dreg")], repeats=16)
    assert again["total_variance"].sel(objective="IWAE dreg").equals(ds["total_variance"].sel(objective="IWAE dreg"))
    other = look(pair, x, [IWAE(gradient="dreg")], repeats=16, seed=1)
    assert (other["value"] != again["value"]).all()


@pytest.mark.slow(4)
def test_values_are_measured_against_the_exact_evidence(pair, x):
    ds = look(pair, x, [ELBO(), IWAE()], (1, 10, 100), repeats=200)
    exact = (pair.exact_elbo(x) - pair.log_prob(x)).mean().item()
    for K in (1, 10, 100):
        elbo = ds.sel(objective="ELBO", num_particles=K)
        assert abs(elbo["value_bias"] - exact) < 4 * elbo["value_bias_std_error"]
    iwae = ds.sel(objective="IWAE")
    assert (iwae["value_bias"].diff("num_particles") > 0).all()
    assert ds["value_variance"].sel(objective="ELBO", num_particles=1) > 0
    assert (ds[["seconds", "value_seconds"]].to_array() > 0).all()
    torch.testing.assert_close(
        torch.tensor(ds["variance_times_cost"].values),
        torch.tensor((ds["total_variance"] * ds["seconds"]).values),
    )


@pytest.mark.slow(13)
def test_evidence_is_estimated_where_it_is_not_known():
    vae = ppvae.models.VAE.mlp(num_features=6, num_latents=2, hidden=[5])
    ds = look(vae, vae.sample(4), [IWAE()], (2, 50), repeats=100)
    bias = ds["value_bias"].sel(objective="IWAE")
    assert bias[0] < bias[1] < 4 * ds["value_bias_std_error"].sel(objective="IWAE")[1]


def test_an_exact_elbo_has_no_bias_and_no_noise(float64):
    mixture, x = GaussianMixture(num_components=3, num_features=2, guide="amortized"), torch.randn(6, 2)
    ds = look(mixture, x, [EnumeratedELBO(), VIMCO()], repeats=16)
    exact = ds.sel(objective="EnumeratedELBO")
    assert (exact["bias"] < 1e-12).all()
    assert (exact["total_variance"] == 0).all()
    assert (ds["total_variance"].sel(objective="VIMCO") > 0).all()


def test_refused_cells_are_declared(pair, x):
    ds = look(pair, x, [IWAE(), VIMCO(), JVI()], (1, 4), repeats=16)
    refused = ds.sel(objective="VIMCO", num_particles=1)
    assert refused["snr"].isnull().all()
    assert refused["value"].isnull()
    assert any(line.startswith("VIMCO, num_particles=1: guide site 'z'") for line in ds.attrs["undefined"])
    evaluated = ds.sel(objective="JVI", num_particles=4)
    assert evaluated["value"].notnull()
    assert evaluated["snr"].isnull().all()
    with pytest.raises(ContractError, match="guide site 'z': found Normal and one particle"):
        look(pair, x, [VIMCO()], (1,), repeats=16)


def test_groups(pair, x):
    assert look(pair, x, [IWAE()], repeats=16).group.values.tolist() == ["model", "guide"]
    ds = look(pair, x, [IWAE()], repeats=16, groups={"slope": ["encoder.weight"], "both": ["encoder", "mean"]})
    assert ds.group.values.tolist() == ["slope", "both"]
    assert (ds["total_variance"].sel(group="slope") < ds["total_variance"].sel(group="both")).all()
    with pytest.raises(ValueError, match=r"groups: found 'decoder' in 'model', expected the name of a parameter"):
        look(pair, x, [IWAE()], groups={"model": ["decoder"]})


class Named(LinearVAE):
    """With parameters whose names begin alike, one within another module."""

    def __init__(self):
        super().__init__(num_features=4, num_latents=2)
        self.m, self.mu = (torch.nn.Parameter(torch.zeros(4)) for _ in range(2))
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(11))
        self.block = torch.nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("chosen", "members"),
    [
        (["m"], ["m"]),
        (["mu"], ["mu"]),
        (["blocks.1"], ["blocks.1.weight", "blocks.1.bias"]),
        (["blocks.10.bias", "block"], ["blocks.10.bias", "block.weight", "block.bias"]),
        (["blocks"], [f"blocks.{i}.{name}" for i in range(11) for name in ("weight", "bias")]),
        ([""], None),
    ],
)
def test_names_of_groups_match_whole_or_at_dots(chosen, members, monkeypatch):
    pair, taken = Named(), {}

    class Watched(repeated_gradients.RepeatedGradients):
        def __init__(self, pair, batch, groups, *others):
            taken.update(groups)
            super().__init__(pair, batch, groups, *others)

    monkeypatch.setattr(gradient_noise, "RepeatedGradients", Watched)
    look(pair, torch.randn(3, 4), [IWAE()], repeats=16, groups={"group": chosen})
    names = {id(p): name for name, p in pair.named_parameters()}
    assert sorted(names[id(p)] for p in taken["group"]) == sorted(names.values() if members is None else members)


@pytest.mark.parametrize("part", ["blocks.", "bl", "m.", "mu.m", "locks"])
def test_part_of_a_name_is_no_group(part):
    with pytest.raises(ValueError, match=f"groups: found '{part}' in 'group', expected the name of a parameter or"):
        look(Named(), torch.randn(3, 4), [IWAE()], repeats=16, groups={"group": [part]})


@pytest.mark.slow(17)
def test_memory_is_bounded_by_chunks(pair, x, monkeypatch):
    whole = look(pair, x, [IWAE(), ELBO(gradient="stl")], (50,), repeats=200)
    sizes = []
    trace_pair = ppvae.tracing.trace_pair
    monkeypatch.setattr(repeated_gradients, "GRADIENT_CPU_ELEMENTS", 10_000)
    monkeypatch.setattr(
        ppvae.inference.objectives.gradients, "trace_pair", lambda pair, x, K: sizes.append(K) or trace_pair(pair, x, K)
    )
    chunked = look(pair, x, [IWAE(), ELBO(gradient="stl")], (50,), repeats=200)
    assert max(sizes) < 30
    for name in ("total_variance", "value"):
        error = (chunked[f"{name}_std_error"] ** 2 + whole[f"{name}_std_error"] ** 2) ** 0.5
        assert (abs(chunked[name] - whole[name]) < 5 * error).all()


@pytest.mark.slow(22)
def test_compiled_gradients_are_the_same(pair, x):
    objectives = [IWAE(gradient="dreg"), ELBO(gradient="stl")]
    eager, compiled = (look(pair, x, objectives, repeats=32, compile=compile) for compile in (False, True))
    for variable in ("value", "mean_norm", "total_variance", "bias"):
        np.testing.assert_allclose(eager[variable], compiled[variable], rtol=1e-6, atol=1e-9)


def test_nothing_is_left_behind(pair, x):
    pair.train()
    pyro.set_rng_seed(5)
    before = torch.get_rng_state()
    look(pair, x, [IWAE()], repeats=16)
    assert torch.equal(torch.get_rng_state(), before)
    assert pair.training
    assert all(p.grad is None for p in pair.parameters())
    assert not pyro.poutine.runtime._PYRO_STACK


@dataclass(frozen=True)
class Mine:
    """A user's objective: the mean log weight."""

    num_particles: int = 1

    def __call__(self, pair, batch, step=math.inf):
        value = pair.log_weights(batch, self.num_particles).log_w.mean(0)
        return value, value.mean()


def test_a_users_objective_is_one_among_others(pair, x):
    ds = look(pair, x, {"mine": Mine(), "ours": ELBO(kl="monte_carlo")}, (3,), repeats=16)
    for variable in ("value", "snr"):
        np.testing.assert_allclose(*ds[variable].values, rtol=1e-9)


def test_bad_arguments_are_refused(pair, x):
    for settings, message in (
        ({"repeats": 10}, "repeats: found 10, expected at least 16"),
        ({"num_particles": ()}, "num_particles: found none"),
        ({"num_particles": (0,)}, r"num_particles\[0\]: found 0, expected at least 1"),
        ({"objectives": [IWAE(), IWAE(3)]}, r"objectives: found \['IWAE', 'IWAE'\], expected different ones"),
        ({"objectives": {"f": lambda pair, batch: None}}, "objectives: found 'f' without a field `num_particles`"),
        ({"data": x * math.nan}, "found nan"),
    ):
        with pytest.raises(ValueError, match=message):
            look(**({"pair": pair, "data": x, "objectives": [IWAE()]} | settings))
    with pytest.raises(ValueError, match="pair: found no parameter of LinearVAE with"):
        look(LinearVAE(3, 2).requires_grad_(False), torch.randn(4, 3), [IWAE()])


def test_plot_shows_the_ratios(pair, x):
    ds = look(pair, x, [IWAE(), IWAE(gradient="dreg")], (1, 8), repeats=100)
    figure = plots.gradient_statistics(ds)
    assert [ax.get_title() for ax in figure.axes] == ["gradient of model", "gradient of guide"]
    drawn = figure.axes[0].containers[1].lines[0].get_xydata()
    assert drawn[:, 1].tolist() == ds["snr"].sel(objective="IWAE dreg", group="model").values.tolist()
