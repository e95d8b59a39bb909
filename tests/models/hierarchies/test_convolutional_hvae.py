"""The convolutional hierarchy against integration on a grid, and what batch norm must not do to evidence."""

import logging

import pyro
import pytest
import torch
from pyro import poutine
from support.compiled_runs import run_as_traced

import ppvae
from ppvae import ELBO, LinearWarmup
from ppvae.inference.training.mixed_precision import networks, networks_in
from ppvae.latent_view import LatentView
from ppvae.models import ConvolutionalHVAE
from ppvae.tracing import trace_pair


def small(shape=(1, 4, 4), groups=(2, 1), **settings):
    """A pair of settings as small as they get, whose batch norms have seen some data."""
    torch.manual_seed(1)
    pair = ConvolutionalHVAE(shape, groups, **{"num_latents": 2, "channels": 3, "num_cells": 1} | settings)
    with torch.no_grad():
        for _ in range(20):
            pair.log_weights(torch.rand(30, *shape).round())
    return pair.eval()


def all_images():
    """The 16 binary images of 2x2 pixels."""
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).reshape(16, 1, 2, 2)


def evidence_on_a_grid(pair, x, size=201, reach=20.0):
    """log p(x) of a pair with two latents of one number each, by the trapezoid rule."""
    axis = torch.linspace(-reach, reach, size)
    z1, z2 = (z.reshape(-1, 1, 1, 1, 1) for z in torch.meshgrid(axis, axis, indexing="ij"))
    model = poutine.condition(pair.model, data={"z1": z1, "z2": z2})
    with torch.no_grad(), pyro.plate("grid", size**2, dim=-2):
        trace = poutine.trace(model).get_trace(x)
    trace.compute_log_prob()
    log_joint = sum(trace.nodes[name]["log_prob"] for name in ("z1", "z2", "x"))
    return log_joint.logsumexp(0) + 2 * (axis[1] - axis[0]).log()


@pytest.mark.slow(3)
@pytest.mark.usefixtures("float64")
def test_weights_have_the_evidence_as_their_mean(assert_mean):
    """And that is a density: over all images it sums to one."""
    pair, x = small((1, 2, 2), [2], num_latents=1), all_images()
    exact = evidence_on_a_grid(pair, x)
    torch.testing.assert_close(exact.logsumexp(0), torch.zeros(()), rtol=0, atol=1e-8)
    with torch.no_grad():
        log_w = pair.log_weights(x, num_particles=3000).log_w
    assert_mean((log_w - exact).exp(), 1.0)
    gap = exact - log_w.mean(0)
    assert (gap > 1e-3).all()


@pytest.mark.slow(14)
@pytest.mark.usefixtures("float64")
def test_the_measured_gap_is_that_of_the_grid():
    pair, x = small((1, 2, 2), [2], num_latents=1), all_images()[:5]
    report = ppvae.gap(pair, x, effort="quick", seed=0, progress=False)
    error = report.log_evidence.estimate - evidence_on_a_grid(pair, x)
    assert (error.abs() < 4 * report.log_evidence.std_error).all()
    assert report.mean().estimate > 4 * report.mean().monte_carlo_error


@pytest.mark.usefixtures("float64")
def test_kl_in_closed_form_has_the_same_mean(assert_mean):
    pair, x = small(), torch.rand(4, 1, 4, 4).round()
    with torch.no_grad():
        analytic, monte_carlo = (
            ELBO(kl=kl)(pair, x.repeat(1500, 1, 1, 1))[0].reshape(1500, 4) for kl in ("analytic", "monte_carlo")
        )
    assert_mean(analytic - monte_carlo, 0.0)
    assert (analytic.std(0) < monte_carlo.std(0)).all()


@pytest.mark.parametrize("training", [False, True])
def test_guide_and_model_agree_on_the_prior(training):
    """To the last bit, so that the KL of a group which x says nothing of is exactly nothing."""
    pair, x = small().train(training), torch.rand(5, 1, 4, 4).round()
    joint = trace_pair(pair, x, num_particles=3)
    for name in ("z1", "z2", "z3"):
        q, p = joint.guide.nodes[name]["fn"].base_dist, joint.model.nodes[name]["fn"].base_dist
        assert torch.equal(q.prior.loc, p.loc)
        assert torch.equal(q.prior.scale, p.scale)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("training", [False, True])
def test_data_points_are_by_themselves_in_evaluation_only(training):
    pair, x = small().train(training), torch.rand(6, 1, 4, 4).round()
    view = LatentView(pair, x)
    u = view.draw(pair, x, num_particles=3).detach()
    whole, part = view.densities(pair, x, u), view.densities(pair, x[:2], u[:, :2])
    for all_six, first_two in zip(whole, part, strict=True):
        assert torch.allclose(all_six[:, :2], first_two, rtol=1e-12) != training


@pytest.mark.parametrize(
    ("shape", "groups", "likelihood", "sizes"),
    [
        ((1, 28, 28), (1, 1), "bernoulli", [(14, 14), (7, 7)]),
        ((3, 8, 4), (1, 2), "logistic_mixture", [(4, 2), (2, 1), (2, 1)]),
    ],
)
def test_any_images_that_the_scales_divide(shape, groups, likelihood, sizes):
    pair = ConvolutionalHVAE(shape, groups, num_latents=2, channels=4, num_cells=1, likelihood=likelihood).eval()
    x = torch.rand(3, *shape).round()
    pair.check(x)
    found = pair.latents(x, num_particles=2)
    assert {name: tuple(z.shape) for name, z in found.items()} == {
        f"z{i}": (2, 3, 2, *size) for i, size in enumerate(sizes, 1)
    }
    assert pair.sample(5).shape == (5, *shape)
    means = pair.init_from(x).reconstruct(x)
    assert means.shape == x.shape
    assert ((means > 0) & (means < 1)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (1, 30, 28)}, r"shape: found \(1, 30, 28\), expected .* multiples of 4, as each of the 2 scales"),
        ({"shape": (28, 28)}, r"shape: found \(28, 28\), expected \(C, H, W\)"),
        ({"groups": []}, r"groups: found \[\], expected a number of latent groups, 1 or more, for each scale"),
        ({"groups": [2, 0]}, r"groups: found \[2, 0\]"),
        ({"num_cells": 0}, "num_cells: found 0, expected at least 1"),
        ({"likelihood": "gamma"}, "likelihood: found 'gamma', expected one of"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ConvolutionalHVAE(**{"shape": (1, 28, 28), "groups": (1, 1)} | change)


@pytest.mark.parametrize("shape", [(16,), (1, 8, 8)])
def test_data_of_another_shape_are_refused(shape):
    with pytest.raises(ppvae.ContractError, match=r"x: found \[\d, .*expected images .* = \(1, 4, 4\)"):
        small().check(torch.zeros(3, *shape))


@pytest.mark.usefixtures("float64")
def test_with_upward_latents_too_it_is_a_density(assert_mean):
    """The mean of the weights, over all images, sums to one."""
    pair, x = small((1, 2, 2), [2], num_latents=1, num_bottom_up=1), all_images()
    with torch.no_grad():
        log_w = pair.log_weights(x, num_particles=3000).log_w
    assert_mean(log_w.logsumexp(1).exp(), 1.0)


@pytest.mark.usefixtures("float64")
def test_upward_latents_that_say_nothing_leave_the_hierarchy_without():
    """With all their networks at zero they are N(0, 1) in model and guide, and reach nothing."""
    pair, plain, x = small(num_bottom_up=2), small(), torch.rand(5, 1, 4, 4).round()
    plain.load_state_dict({name: t for name, t in pair.state_dict().items() if not name.startswith("upwards")})
    for parameter in pair.upwards.parameters():
        parameter.data.zero_()
    found = pair.log_weights(x, 3)
    z = {name: found.latents[name] for name in ("z1", "z2", "z3")}
    traces = given(plain, x, z)
    for trace in traces.values():
        trace.compute_log_prob()
    expected = sum(traces["model"].nodes[name]["log_prob"] for name in (*z, "x")) - sum(
        traces["guide"].nodes[name]["log_prob"] for name in z
    )
    torch.testing.assert_close(found.log_w, expected)


def given(pair, x, latents):
    """Traces of model and guide, by Pyro itself, at latents `[K, B, ...]`."""
    with pyro.plate("particles", len(latents["z1"]), dim=-2):
        return {
            role: poutine.trace(poutine.condition(getattr(pair, role), data=latents)).get_trace(x)
            for role in ("model", "guide")
        }


def test_each_latent_depends_on_those_it_should():
    """By gradients of its mean: in the model on all above it, in the guide on those below that were drawn upwards."""
    pair, x = small(num_bottom_up=2), torch.rand(5, 1, 4, 4).round()
    latents = {name: z.detach().requires_grad_() for name, z in pair.latents(x).items()}
    above = {"z3": set(), "z2": {"z3"}, "b2": {"z3"}, "z1": {"z3", "z2", "b2"}, "b1": {"z3", "z2", "b2"}}
    guided = {"b1": set(), "b2": {"b1"}, "z3": {"b1", "b2"}, "z2": {"b1", "z3"}, "z1": {"z3", "z2", "b2"}}
    for (role, trace), expected in zip(given(pair, x, latents).items(), (above, guided), strict=True):
        for name, parents in expected.items():
            loc = trace.nodes[name]["fn"].base_dist.loc.sum() + 0 * sum(z.sum() for z in latents.values())
            slopes = torch.autograd.grad(loc, list(latents.values()), retain_graph=True)
            found = {other for other, slope in zip(latents, slopes, strict=True) if slope.abs().sum() > 0}
            assert found == parents, (role, name)


def test_a_single_group_has_none():
    assert set(small((1, 2, 2), [1], num_bottom_up=2).state_dict()) == set(small((1, 2, 2), [1]).state_dict())


DATA = torch.rand(24, 1, 1, 4, generator=torch.Generator().manual_seed(0)).round().expand(24, 1, 4, 4).contiguous()
WARM = ELBO(beta=LinearWarmup(8), balance=True)


def trained(groups=(2, 1), recompute=False, **settings):
    pair = small(groups=groups, spectral_weight=0.1, recompute=recompute)
    run = ppvae.fit(pair, DATA, WARM, **{"epochs": 3, "batch_size": 8, "lr": 1e-2, "progress": False} | settings)
    return pair, run


def assert_same(a, b, **tolerance):
    for (name, p), q in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    "recompute",
    [pytest.param(False, marks=pytest.mark.slow(15)), pytest.param(True, marks=pytest.mark.slow(90))],
    ids=["as traced", "recomputed"],
)
def test_compiled_training_is_the_same(recompute, caplog, monkeypatch):
    """Compiling takes a minute and a half: once."""
    if not recompute:
        run_as_traced(monkeypatch)
    with caplog.at_level(logging.WARNING):
        (eager, a), (compiled, b) = (trained([1], recompute, compile=compile) for compile in (False, True))
    assert not caplog.records, caplog.text
    assert_same(eager, compiled, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(*(torch.tensor(r.history["bound_per_step"]) for r in (a, b)), rtol=1e-4, atol=1e-4)


@pytest.mark.slow(6)
def test_resuming_is_bit_for_bit_with_running_statistics_and_singular_vectors(tmp_path):
    whole, _ = trained(checkpoint=tmp_path / "whole")
    trained(epochs=1, checkpoint=tmp_path / "halves")
    halves, run = trained(checkpoint=tmp_path / "halves", resume=True)
    assert run.epochs == 3
    assert_same(whole, halves, rtol=0, atol=0)


@pytest.mark.slow(3)
def test_recomputation_changes_memory_only():
    plain, again = trained()[0], trained(recompute=True)[0]
    assert_same(plain, again, rtol=0, atol=0)


@pytest.mark.slow(6)
def test_bfloat16_reaches_the_convolutions_and_no_log_probability():
    pair, inside = small(), set()
    for module in pair.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, args, out: inside.add(out.dtype))
    with networks_in(torch.bfloat16, networks(pair, DATA[:1]), DATA.device):
        inside.clear()
        weights = pair.log_weights(DATA, num_particles=2)
    assert inside == {torch.bfloat16}
    for terms in (weights.log_p_sites, weights.log_q_sites, weights.latents):
        assert {term.dtype for term in terms.values()} == {torch.float32}
    low, full = (
        trained(options=ppvae.StepOptions(autocast=dtype))[1].history["bound"] for dtype in (torch.bfloat16, None)
    )
    assert 0 < abs(low - full).max() < 0.1


@pytest.mark.slow(4)
def test_training_finds_what_there_is_to_be_found():
    """Columns of four equal pixels: 4 bits, or 2.8 nats, where 16 pixels by themselves take 11.1."""
    pair = small(groups=[1], channels=4)
    run = ppvae.fit(pair, DATA, epochs=100, batch_size=24, lr=0.03, progress=False)
    assert run.history["bound"][0] < -11
    assert run.history["bound"][-10:].mean() > -8.5
    assert ppvae.elbo(pair, DATA, seed=0, progress=False).mean().estimate > -9.5
