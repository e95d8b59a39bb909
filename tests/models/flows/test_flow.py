"""What holds of every flow: it inverts, its log-determinant is autograd's, its density integrates to one, it trains."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from support.compiled_runs import run_as_traced
from torch import nn

import ppvae
from ppvae.models import NICE, ContinuousFlow, Flow, Glow, RealNVP, ResidualFlow, StandardNormal
from ppvae.models.flows.transforms import fresh

FLOWS = {
    "NICE": lambda: NICE(2, num_couplings=4, hidden=[8]),
    "NICE, odd": lambda: NICE(3, num_couplings=4, hidden=[8]),
    "RealNVP": lambda: RealNVP(2, num_couplings=4, hidden=[8]),
    "RealNVP, odd": lambda: RealNVP(3, num_couplings=4, hidden=[8]),
    "continuous": lambda: ContinuousFlow(2, hidden=[8], tolerance=1e-6),
    "residual": lambda: ResidualFlow(2, num_blocks=4, hidden=[8]),
    "Glow": lambda: Glow((1, 4, 4), num_levels=2, num_steps=1, num_hidden=4),
    "Glow, color": lambda: Glow((3, 2, 2), num_levels=1, num_steps=2, num_hidden=4),
    "Pyro's": lambda: Flow(StandardNormal(2), [dist.transforms.spline_coupling(2, hidden_dims=[8], count_bins=3)]),
    "iterated": lambda: Flow(
        StandardNormal(2), [dist.transforms.iterated(2, dist.transforms.affine_coupling, 2, hidden_dims=[8])]
    ),
}
PLANAR = [name for name in FLOWS if not name.startswith("Glow") and not name.endswith("odd")]


def moved(name):
    """A flow away from its start, which may be an identity."""
    flow = FLOWS[name]()
    for p in flow.parameters():
        p.data += 0.2 * torch.randn(p.shape)
    return flow.eval()


def quick(name):
    """A flow at its start, solved no better than training needs."""
    flow = FLOWS[name]()
    if name == "continuous":
        flow.transforms[0].tolerance = 1e-3
    return flow


def noise_of(flow, x):
    """z, without the help of a cache."""
    for transform in reversed(fresh(flow.transforms.parts, training=False)):
        x = transform.inv(x)
    return x


def data_of(flow, z):
    for transform in fresh(flow.transforms.parts, training=False):
        z = transform(z)
    return z


@pytest.mark.parametrize("name", FLOWS)
def test_inverse(name):
    flow = moved(name)
    with torch.no_grad():
        z = flow.base().sample((7, 5))
        torch.testing.assert_close(noise_of(flow, data_of(flow, z)), z, atol=1e-5, rtol=1e-5)
        x = torch.randn(5, *flow.example.shape[1:])
        torch.testing.assert_close(data_of(flow, noise_of(flow, x)), x, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", FLOWS)
def test_log_determinant_is_that_of_autograds_jacobian(name):
    flow = moved(name)
    if name == "continuous":
        flow.transforms[0].tolerance = 1e-10
    x = flow.sample(3)
    for row, found in zip(x, flow.log_prob(x), strict=True):
        z = noise_of(flow, row[None])[0]
        jacobian = torch.autograd.functional.jacobian(lambda x: noise_of(flow, x[None])[0], row)
        log_det = torch.linalg.slogdet(jacobian.reshape(z.numel(), z.numel())).logabsdet
        torch.testing.assert_close(found, flow.base().log_prob(z) + log_det, atol=1e-6, rtol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [name for name in PLANAR if name != "Pyro's"])  # splines have kinks
def test_density_integrates_to_one(name):
    """On a grid that reaches twice as far as two thousand samples do."""
    flow = moved(name)
    x = flow.sample(2000)
    low, high = 1.5 * x.amin(0) - 0.5 * x.amax(0), 1.5 * x.amax(0) - 0.5 * x.amin(0)
    sides = [torch.linspace(*ends, 401) for ends in zip(low.tolist(), high.tolist(), strict=True)]
    with torch.no_grad():
        density = flow.log_prob(torch.cartesian_prod(*sides)).exp()
    assert density.sum().item() * ((high - low) / 400).prod().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.usefixtures("float64")
def test_density_of_images_integrates_to_one(assert_mean):
    """By importance sampling in the sixteen dimensions of a Glow near its start."""
    flow = FLOWS["Glow"]()
    for p in flow.parameters():
        p.data += 0.03 * torch.randn(p.shape)
    proposal = dist.Normal(torch.zeros(1, 4, 4), 1.2).to_event(3)
    x = proposal.sample((20_000,))
    with torch.no_grad():
        assert_mean((flow.log_prob(x) - proposal.log_prob(x)).exp(), 1.0)


@pytest.mark.parametrize("name", FLOWS)
def test_same_data_after_a_change_of_parameters(name):
    """Nothing that a transform keeps is met again; and the pair can be copied at any time."""
    flow = moved(name)
    x = flow.sample(4)
    flow.log_prob(x)
    copied = copy.deepcopy(flow)
    for p in flow.parameters():
        p.data += 0.1
    copied.load_state_dict(flow.state_dict())
    torch.testing.assert_close(flow.log_prob(x), copied.log_prob(x.clone()))


@pytest.mark.parametrize("name", FLOWS)
def test_evidence_is_exact_and_the_gap_zero(name):
    flow = moved(name)
    x = flow.sample(20)
    flow.train()
    evidence, elbo = ppvae.log_evidence(flow, x), ppvae.elbo(flow, x, num_samples=3)
    assert evidence.method == "exact"
    torch.testing.assert_close(evidence.estimate.float(), flow.log_prob(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(elbo.estimate, evidence.estimate, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(flow.exact_elbo(x), flow.log_prob(x))


@pytest.mark.parametrize("name", FLOWS)
def test_a_saved_flow_is_the_same(name, tmp_path):
    flow, other = moved(name), moved(name)
    ppvae.save(flow, tmp_path / "flow.safetensors")
    ppvae.load(other, tmp_path / "flow.safetensors")
    x = flow.sample(4)
    assert torch.equal(flow.log_prob(x), other.log_prob(x))


@pytest.mark.parametrize("name", PLANAR)
def test_training_raises_the_evidence(name):
    """Of correlated Gaussian data: from that of the start at least half of the way to that of the truth."""
    truth = dist.MultivariateNormal(torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    x, held_out = truth.sample((500,)), truth.sample((500,))
    flow, reachable = quick(name), truth.log_prob(held_out).mean()
    before = flow.log_prob(held_out).mean()
    result = ppvae.fit(flow, x, steps=100, batch_size=100, lr=0.02, compile=False, progress=False)
    after = flow.log_prob(held_out).mean()
    assert result.stopped == "completed"
    assert before + (reachable - before) / 2 < after < reachable + 0.05


@pytest.mark.parametrize(
    "name",
    [
        "RealNVP",
        pytest.param("residual", marks=pytest.mark.slow(6)),
        pytest.param("Glow", marks=pytest.mark.slow(60)),
    ],
)
def test_training_compiled_and_not_is_the_same(name, caplog, monkeypatch):
    if name == "residual":
        run_as_traced(monkeypatch)
    flows = [moved(name), moved(name)]
    flows[1].load_state_dict(flows[0].state_dict())
    x = torch.randn(64, *flows[0].example.shape[1:])
    bounds = [
        ppvae.fit(flow, x, steps=8, batch_size=32, lr=0.01, compile=how, progress=False).history["bound"]
        for flow, how in zip(flows, (False, True), strict=True)
    ]
    assert "uncompiled" not in caplog.text
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-3)
    assert bounds[0][-1] > bounds[0][0]


@pytest.mark.parametrize(
    "make",
    [lambda: quick("continuous"), lambda: ResidualFlow(2, num_blocks=4, hidden=[8], lipschitz=0.4)],
    ids=["solved", "roulette"],
)
def test_what_cannot_be_compiled_says_so_and_trains(make, caplog):
    flow, x = make(), 2 + torch.randn(64, 2)
    before = flow.log_prob(x).mean()
    ppvae.fit(flow, x, steps=40, batch_size=32, lr=0.02, compile=True, progress=False)
    assert "training goes on uncompiled" in caplog.text
    assert flow.log_prob(x).mean() > before + 0.5


def test_a_step_of_training_starts_where_the_data_are():
    """Of a batch that is the same tensor each time: the bound must follow the parameters."""
    flow, x = FLOWS["RealNVP"](), 2 + torch.randn(64, 2)
    result = ppvae.fit(flow, x, steps=5, batch_size=64, lr=0.1, progress=False)
    assert len(set(result.history["bound"])) == 5


def test_refuses():
    normal, affine = StandardNormal(2), dist.transforms.affine_coupling(2)
    with pytest.raises(ValueError, match=r"transforms\[0\]: found Normalize.*no inverse"):
        Flow(normal, [dist.transforms.Normalize()])
    with pytest.raises(ValueError, match=r"transforms\[1\]: found the inverse of AffineCoupling.*Bijection"):
        Flow(normal, [affine, affine.inv])
    for make in (NICE, RealNVP):
        with pytest.raises(ValueError, match="num_features: found 1, expected at least 2"):
            make(1)
    with pytest.raises(ValueError, match="height 8 and width 6 with 2 levels, expected both divisible by"):
        Glow((1, 8, 6), num_levels=2)
    with pytest.raises(ValueError, match=r"lipschitz: found 1.0, expected above 0 and below 1"):
        ResidualFlow(2, lipschitz=1.0)


def test_a_base_of_ones_own():
    """A uniform base and no map but the identity's: a density of one on the unit square."""

    class Square(nn.Module):
        def forward(self):
            return dist.Uniform(torch.zeros(2), torch.ones(2)).to_event(1)

    flow = Flow(Square(), [])
    assert torch.equal(flow.log_prob(torch.rand(5, 2)), torch.zeros(5))
    assert flow.sample(5).shape == (5, 2)
    assert math.isclose(flow.example.sum(), 0)
