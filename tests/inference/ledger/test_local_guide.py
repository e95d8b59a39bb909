"""Local guides against the guides that they move: with offsets of zero, and with offsets whose effect is known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import TransformedDistribution, transforms
from support.oracle_pairs import Guided
from support.zoo import ZOO

from ppvae import Pair
from ppvae.batches import num_rows
from ppvae.inference.ledger.local_guide import LocalGuide

NORMAL = {"loc": (2,), "scale": (2,)}
SHAPES = {
    "linear": {"z": NORMAL},
    "linear, full": {"z": {"loc": (2,), "scale_tril": (2, 2)}},
    "linear, exact": {"z": {"loc": (2,), "scale_tril": (2, 2)}},
    "low-rank posterior": {"z": {"loc": (2,), "cov_factor": (2, 2), "cov_diag": (2,)}},
    "mixture posterior": {"z": {"logits": (4,), "loc": (4, 2), "scale": (4, 2)}},
    "autoregressive posterior, flow prior": {"z": NORMAL},
    "hierarchy": {"z1": NORMAL, "z2": NORMAL},
    "bottom-up": {"z1": NORMAL, "z2": NORMAL},
    "labeled": {"z": NORMAL},
    "positive": {"z": {"loc": (), "scale": ()}},
    "mixture": {"component": {"logits": (3,)}},
    "discrete above continuous": {"c": {"logits": (3,)}, "z": {"loc": (), "scale": ()}},
    "one-hot": {"z": {"logits": (3,)}},
    "bits": {"z0": {"logits": ()}, "z1": {"logits": ()}},
    "vector of bits": {"z": {"logits": (2,)}},
    "counts": {"z": {"rate": ()}},
    "deep Markov": {f"z_{t}": NORMAL for t in (1, 2, 3, 4)},
    "pyro tutorial": {"latent": {"loc": (3,), "scale": (3,)}},
    "summed": {},
    "no latents": {},
}
"""Of the offsets, by site and argument, written by hand."""


@pytest.fixture(autouse=True)
def _float64(float64):
    """All of this file in double precision."""


def seeded(pair, batch, num_particles=5):
    torch.manual_seed(1)
    return pair.log_weights(batch, num_particles)


def moved(local, batch, offsets, num_particles=5):
    """Draws with the same noise: as the pair has them, and with the offsets."""
    zero = local.zeros(batch)
    before = seeded(local, local.with_offsets(batch, zero), num_particles)
    return before, seeded(local, local.with_offsets(batch, zero | offsets), num_particles)


@pytest.mark.parametrize("name", ZOO)
def test_offsets_of_zero_leave_the_guide_as_it_is(name):
    pair, batch = ZOO[name].make()
    pair.eval()
    local = LocalGuide(pair, batch)
    before, after = seeded(pair, batch), seeded(local, local.with_offsets(batch, local.zeros(batch)))
    torch.testing.assert_close(after.log_w, before.log_w)
    torch.testing.assert_close(after.latents, before.latents)
    assert set(local.fixed) == ({"y"} if name == "dequantized uniformly" else set())


@pytest.mark.parametrize("name", SHAPES)
def test_offsets_have_the_arguments_shapes(name):
    pair, batch = ZOO[name].make()
    local = LocalGuide(pair, batch)
    expected = {f"{site}/{argument}": shape for site, own in SHAPES[name].items() for argument, shape in own.items()}
    assert local.shapes == expected
    zeros = local.zeros(batch)
    assert {name: t.shape for name, t in zeros.items()} == {k: (num_rows(batch), *v) for k, v in expected.items()}


def test_a_location_is_shifted_by_scales_for_its_data_point_alone():
    pair, x = ZOO["linear"].make()
    shift = torch.zeros(8, 2)
    shift[3] = torch.tensor([1.5, -2.0])
    before, after = moved(LocalGuide(pair, x), x, {"z/loc": shift})
    expected = (shift * pair._q(x).base_dist.scale).expand(5, 8, 2)
    torch.testing.assert_close(after.latents["z"] - before.latents["z"], expected)
    torch.testing.assert_close(after.log_q, before.log_q)


def test_a_scale_is_multiplied():
    pair, x = ZOO["linear"].make()
    factor = torch.ones(8, 2)
    factor[3] = torch.tensor([2.0, 0.1])
    before, after = moved(LocalGuide(pair, x), x, {"z/scale": factor.log()})
    loc = pair.encoder(x)
    torch.testing.assert_close(after.latents["z"] - loc, factor * (before.latents["z"] - loc))
    torch.testing.assert_close(after.log_q, before.log_q - factor.log().sum(-1))


def test_a_cholesky_factor_gains_what_is_below_the_diagonal_and_multiplies_what_is_on_it():
    pair, x = ZOO["linear, full"].make()
    change = torch.tensor([[math.log(3.0), 0.0], [0.7, 0.0]])
    before, after = moved(LocalGuide(pair, x), x, {"z/scale_tril": change.expand(8, 2, 2)})
    loc, tril = pair.encoder(x), pair._q(x).scale_tril[0].detach()
    noise = torch.linalg.solve_triangular(tril, (before.latents["z"] - loc).mT, upper=False)
    expected = tril + torch.tensor([[2 * tril[0, 0], 0.0], [0.7, 0.0]])
    torch.testing.assert_close(after.latents["z"] - loc, (expected @ noise).mT)


def test_logits_and_rates_are_moved_in_their_own_units():
    change = torch.tensor([0.0, 1.0, -1.0]).expand(8, 3)
    pair, x = ZOO["amortized mixture"].make()
    local = LocalGuide(pair, x)
    weights = local.log_weights(local.with_offsets(x, {"component/logits": change}), 5)
    log_q = (pair._log_guide(x) + change).log_softmax(-1)
    expected = log_q.expand(5, 8, 3).gather(-1, weights.latents["component"].unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(weights.log_q, expected)

    pair, x = ZOO["counts"].make()
    local, change = LocalGuide(pair, x), torch.linspace(-1, 1, 8)
    weights = local.log_weights(local.with_offsets(x, {"z/rate": change}), 5)
    rate = torch.nn.functional.softplus(pair.encoder(x.unsqueeze(-1)).squeeze(-1)) + 0.5
    torch.testing.assert_close(weights.log_q, dist.Poisson(rate * change.exp()).log_prob(weights.latents["z"]))


def test_a_mixtures_weights_and_components_are_moved():
    pair, x = ZOO["mixture posterior"].make()
    local, change = LocalGuide(pair, x), torch.tensor([0.0, 1.0, -1.0, 0.5])
    shift, factor = torch.randn(8, 4, 2), 0.5 + torch.rand(8, 4, 2)
    offsets = {"z/logits": change.expand(8, 4), "z/loc": shift, "z/scale": factor.log()}
    weights = local.log_weights(local.with_offsets(x, offsets), 5)
    q = pair.posterior(x)
    own = q.component_distribution.base_dist
    components = dist.Normal(own.loc + shift * own.scale, own.scale * factor).to_event(1)
    expected = dist.MixtureSameFamily(dist.Categorical(logits=q.mixture_distribution.logits + change), components)
    torch.testing.assert_close(weights.log_q, expected.log_prob(weights.latents["z"]))


def test_pyros_mixtures_of_diagonal_normals_are_moved():
    """Their constructor knows of no `validate_args`."""

    def guide(x):
        with pyro.plate("data", len(x)):
            locs = torch.stack([x[:, :2], -x[:, :2]], 1)
            pyro.sample("z", dist.MixtureOfDiagNormals(locs, torch.ones(len(x), 2, 2), torch.zeros(len(x), 2)))

    pair = Pair.of(ZOO["linear"].make()[0].model, guide, example=torch.randn(8, 3))
    x = torch.randn(8, 3)
    shift = torch.randn(8, 2, 2)
    before, after = moved(LocalGuide(pair, x), x, {"z/locs": shift})
    difference = after.latents["z"] - before.latents["z"]
    first = torch.isclose(difference, shift[:, 0].expand(5, 8, 2)).all(-1)
    second = torch.isclose(difference, shift[:, 1].expand(5, 8, 2)).all(-1)
    assert (first ^ second).all()
    assert first.any()
    assert second.any()


def test_below_another_site_the_offset_is_the_same_wherever_that_is():
    """In x -> z1 -> z2, of scale 0.7, a shift of z1 takes the location of z2 along, and z2's own comes on top."""
    pair, x = ZOO["bottom-up"].make()
    first, second = torch.randn(8, 2), torch.randn(8, 2)
    before, after = moved(LocalGuide(pair, x), x, {"z1/loc": first, "z2/loc": second})
    torch.testing.assert_close(after.latents["z1"] - before.latents["z1"], (0.7 * first).expand(5, 8, 2))
    carried = 0.7 * (first @ pair.to_z2.weight.T + second)
    torch.testing.assert_close(after.latents["z2"] - before.latents["z2"], carried.expand(5, 8, 2))


def test_offsets_travel_with_batches_of_any_kind():
    """The same pair with its data as a tensor, a tuple and a dict."""

    class Tupled(Guided):
        def guide(self, x, y):
            super().guide(x, y)

    class Named(Tupled):
        def model(self, x, y):
            super().model(x, y)

    def guide(x, *rest):
        return dist.Normal((x if not rest else rest[0]).unsqueeze(-1).expand(-1, 2), 1.0).to_event(1)

    x, shift = torch.randn(3), torch.randn(3, 2)
    found = []
    for pair, batch in ((Guided(guide), x), (Tupled(guide), (x, x)), (Named(guide), {"x": x, "y": x})):
        local = LocalGuide(pair, batch)
        moved = local.with_offsets(batch, local.zeros(batch) | {"z/loc": shift})
        assert type(moved) is (dict if isinstance(batch, dict) else tuple)
        found.append(seeded(local, moved))
        torch.testing.assert_close(found[-1].latents["z"] - seeded(pair, batch).latents["z"], shift.expand(5, 3, 2))
    for other in found[1:]:
        torch.testing.assert_close(other.log_w, found[0].log_w)


def test_a_flows_base_is_moved():
    """`z = T(e)`, e of scale 1/2: a shift of e by s scales gives `T(e + s / 2)`, at the density of e."""
    flow = transforms.AffineAutoregressive(pyro.nn.AutoRegressiveNN(2, [8]))

    def guide(x):
        base = dist.Normal(torch.zeros(len(x), 2), 0.5).to_event(1)
        return TransformedDistribution(base, [flow])

    x, shift = torch.randn(4), torch.randn(4, 2)
    local = LocalGuide(Guided(guide), x)
    assert local.shapes == {"z/loc": (2,), "z/scale": (2,)}
    with torch.no_grad():
        before, after = moved(local, x, {"z/loc": shift})
        base = flow.inv(before.latents["z"])
        torch.testing.assert_close(after.latents["z"], flow(base + shift / 2))
        log_det = flow.log_abs_det_jacobian(base + shift / 2, after.latents["z"])
        torch.testing.assert_close(after.log_q, dist.Normal(0.0, 0.5).log_prob(base).sum(-1) - log_det)


def test_what_cannot_be_moved_says_why_and_stays():
    x = torch.randn(3)
    pair = Guided(lambda x: dist.Uniform(x.unsqueeze(-1) - 1, torch.ones(2) + 5).to_event(1))
    local = LocalGuide(pair, x)
    assert local.shapes == {}
    assert local.fixed == {"z": "Uniform has no argument that can be moved"}
    assert local.with_offsets(x, {}) == (x,)
    torch.testing.assert_close(seeded(local, (x,)).latents, seeded(pair, x).latents)


def test_a_deltas_log_density_is_no_offset_and_is_kept():
    """A point with a density of its own, as a flow written by hand has it."""

    def guide(x):
        noise = torch.randn(len(x), 2)
        return dist.Delta(noise, log_density=-noise.square().sum(-1) / 2, event_dim=1)

    x = torch.randn(3)
    pair = Guided(guide)
    pair.particles = "rows"  # for each of which the guide draws noise of its own
    local = LocalGuide(pair, x)
    assert local.shapes == {}
    assert local.fixed == {"z": "Delta has no argument that can be moved"}
    torch.testing.assert_close(seeded(local, (x,)).log_w, seeded(pair, x).log_w)


@pytest.mark.parametrize(
    ("guide", "argument"),
    [
        (lambda x: dist.RelaxedOneHotCategorical(torch.tensor(0.5), logits=torch.zeros(len(x), 2)), "logits"),
        (lambda x: dist.Multinomial(4, logits=torch.zeros(len(x), 2)), "logits"),
        (lambda x: dist.Binomial(torch.tensor([3.0, 4.0]), logits=x.unsqueeze(-1)).to_event(1), "logits"),
    ],
    ids=["relaxed", "multinomial", "binomial"],
)
def test_what_has_no_offset_is_kept(guide, argument):
    """Temperatures and counts."""
    assert_kept(Guided(guide), torch.tensor([1.0, -1.0, 2.0]), argument)


def test_a_mask_is_kept():
    class Masked(Guided):
        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1).mask(x > 0))
                pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    pair = Masked(lambda x: dist.Normal(x.unsqueeze(-1).expand(-1, 2), 1.0).to_event(1).mask(x > 0))
    after = assert_kept(pair, torch.tensor([1.0, -1.0, 2.0]), "loc")
    assert (after.log_q[:, 1] == 0).all()


def assert_kept(pair, x, argument):
    """The weights of a guide with no offsets: those of the pair."""
    local = LocalGuide(pair, x)
    assert local.shapes[f"z/{argument}"] == (2,)
    before, after = seeded(pair, x), seeded(local, local.with_offsets(x, local.zeros(x)))
    torch.testing.assert_close(after.latents, before.latents)
    torch.testing.assert_close(after.log_q, before.log_q)
    return after
