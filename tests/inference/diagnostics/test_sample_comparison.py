"""Samples compared: each figure against its closed form, and each error against the spread over fresh samples."""

import math

import pytest
import torch

from ppvae import Modes, compare_samples
from ppvae.inference.diagnostics.frechet import frechet, frechet_distance, frechet_halved, frechet_limit
from ppvae.inference.diagnostics.halves import with_errors
from ppvae.inference.diagnostics.neighborhoods import (
    density_and_coverage,
    expected_coverage_of_equals,
    memorization,
    nearest_in_training,
)
from ppvae.inference.diagnostics.sample_comparison import QUANTITIES
from ppvae.models import Autoencoder, Gaussian, LinearVAE

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(("num_real", "num_drawn", "nearest"), [(40, 40, 5), (30, 60, 3), (50, 20, 1)])
def test_density_and_coverage_of_equal_laws_are_those_of_the_closed_form(num_real, num_drawn, nearest, assert_mean):
    found = [density_and_coverage(torch.randn(num_real, 3), torch.randn(num_drawn, 3), nearest) for _ in range(500)]
    assert_mean(torch.tensor([f["density"] for f in found]), 1.0)
    coverage = torch.tensor([f["coverage"] for f in found])
    assert_mean(coverage, expected_coverage_of_equals(num_real, num_drawn, nearest))


def test_precision_and_recall_by_hand():
    """Two clusters of data; draws of one of them, and a stray one."""
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    drawn = torch.tensor([[0.5], [1.5], [2.5], [-7.0]])
    found = density_and_coverage(real, drawn, nearest=1)
    # Radii are 1 throughout. Of the real balls, [-1, 1] holds one draw, [0, 2] two, [1, 3] two, the others none.
    assert found["density"] == pytest.approx(5 / 4)
    assert found["coverage"] == pytest.approx(3 / 6)
    assert found["precision"] == pytest.approx(3 / 4)
    # Draws' radii: 1, 1, 1 and 7.5: only the second cluster of data is out of reach.
    assert found["recall"] == pytest.approx(3 / 6)


def test_frechet_distance_of_gaussians():
    mean, scales, other = torch.tensor([1.0, -2.0]), torch.tensor([1.0, 3.0]), torch.tensor([2.0, 0.5])
    turn, _ = torch.linalg.qr(torch.randn(2, 2))
    by_scales = mean.square().sum() + (scales - other).square().sum()  # covariances that commute
    found = frechet_distance(mean, turn * scales**2 @ turn.T, torch.zeros(2), turn * other**2 @ turn.T)
    assert found == pytest.approx(by_scales.item())
    a, b = (torch.randn(4, 4) for _ in range(2))
    a, b = a @ a.T, b @ b.T
    by_eigenvalues = a.trace() + b.trace() - 2 * torch.linalg.eigvals(a @ b).real.sqrt().sum()
    assert frechet_distance(torch.zeros(4), a, torch.zeros(4), b) == pytest.approx(by_eigenvalues.item())


def test_the_frechet_distance_of_samples_is_biased_and_its_limit_is_not(assert_mean):
    """By `trace(S) (1/n + 1/m) + ...` above the exact value: seen at n = 200, gone in the limit but for 1 / n^2."""
    num, dims, generator = 200, 4, torch.Generator().manual_seed(0)
    scales = torch.tensor([1.0, 2.0, 0.5, 1.5])
    exact = (scales - 1).square().sum() + 1
    whole, limit = [], []
    for _ in range(300):
        x, y = torch.randn(num, dims), torch.randn(num, dims) * scales + torch.tensor([1.0, 0, 0, 0])
        whole.append(frechet(x, y))
        limit.append(frechet_limit(whole[-1], frechet_halved(x, y, generator)))
    whole, limit = torch.tensor(whole), torch.tensor(limit)
    assert whole.mean() - exact > 4 * whole.std() / 300**0.5
    assert_mean(limit, exact)


@pytest.mark.parametrize(("num_modes", "num"), [(10, 25), (25, 60), (1000, 5000)])
def test_the_floor_of_modes_is_what_a_perfect_sampler_finds(num_modes, num, assert_mean):
    modes = Modes(num_modes, lambda x: x)
    found = [modes.found(torch.randint(num_modes, (num,))) for _ in range(1000)]
    for name, exact in modes.floor(num).items():
        assert_mean(torch.tensor([f[name] for f in found]), exact)


def test_the_floor_of_a_thousand_modes():
    """As is printed beside stacked MNIST: all found by 25,600 draws, and a KL of (K - 1) / 2n."""
    floor = Modes(1000, lambda x: x).floor(25_600)
    assert floor["modes_found"] == pytest.approx(1000, abs=1e-6)
    assert floor["modes_kl"] == pytest.approx(999 / 51_200, rel=0.02)


def test_modes_are_found_about_their_centers():
    modes = Modes.near(torch.tensor([[0.0, 0], [4, 0], [0, 4]]), 0.5)
    x = torch.tensor([[0.1, 0.2], [3.9, 0.3], [2.0, 0], [4.0, 0.4]])
    assert modes.label(x).tolist() == [0, 1, -1, 1]
    found = modes.found(modes.label(x))
    assert (found["modes_found"], found["in_modes"]) == (2, 0.75)
    assert found["modes_kl"] == pytest.approx(2 / 3 * math.log(2))  # shares of 1/3, 2/3 and 0


@pytest.mark.parametrize(
    "draw",
    [lambda: torch.randn(40, 2), lambda: torch.randint(2, (40, 6)).double(), lambda: (3 * torch.randn(40, 30)).round()],
    ids=["numbers", "bits", "whole numbers"],
)
def test_memorization_is_found_where_there_is_some_and_nowhere_else(draw, assert_mean):
    generator, few, shares = torch.Generator().manual_seed(0), [], []
    for _ in range(200):
        counts = nearest_in_training(draw(), draw(), draw())
        share, p_value = memorization(counts, generator)
        few.append(p_value)
        shares.append(share)
    assert_mean(torch.tensor(shares), 0.5)
    p_values = torch.tensor(few)
    for level in (0.05, 0.2, 0.5):
        spread = (level * (1 - level) / 200) ** 0.5
        assert (p_values <= level).double().mean() < level + 3 * spread
        assert (p_values <= level).double().mean() > level / 2 - 3 * spread  # not just always 1


def test_sorted_training_data_are_no_sign_of_anything():
    x = torch.randn(900, 1)
    drawn, held_out, train = x.split(300)
    train = torch.cat([train, torch.randn(600, 1)]).sort(0).values
    cells = compare_samples({"law": drawn}, held_out, train, num_halves=10, seed=0)["law"]
    assert abs(cells["nearest_train"].estimate - 0.5) < 4 * cells["nearest_train"].std_error
    assert cells["nearest_train_p"].estimate > 0.01


def test_points_that_are_as_near_share_a_draw():
    """Also where the distance of equal points is only nearly zero, as it is computed from products."""
    train, held_out = torch.tensor([[1.0], [2.0], [1.0]]), torch.tensor([[1.0], [3.0], [9.0]])
    for shift in (torch.zeros(1), torch.rand(50) + 100):
        counts = nearest_in_training(torch.tensor([[1.0], [2.5], [9.0]]) + shift, train + shift, held_out + shift)
        expected = torch.tensor([1 / 3, 1 / 2, 1 / 3, 1 / 3, 1 / 2, 1])
        assert torch.allclose(counts, expected)


def test_memorization_by_copies():
    generator, train = torch.Generator().manual_seed(0), torch.randn(40, 2)
    copies = train[torch.randint(40, (40,))] + 0.001 * torch.randn(40, 2)
    assert memorization(nearest_in_training(copies, train, torch.randn(40, 2)), generator) == (1.0, 0.001)


@pytest.mark.slow(15)
def test_errors_are_the_spread_over_fresh_samples():
    """Never smaller but for noise, as large where a statistic is smooth, and never twice as large."""
    generator = torch.Generator().manual_seed(0)

    def statistic(x, y):
        return density_and_coverage(x, y, 5) | {"frechet": frechet(x, y)}

    found, said = [], []
    for _ in range(120):
        x, y = torch.randn(200, 2), torch.randn(200, 2) * 1.3 + 0.5
        whole, errors, _ = with_errors(statistic, (x, y), 20, generator)
        found.append(list(whole.values()))
        said.append(list(errors.values()))
    spread = torch.tensor(found).std(0)
    ratio = torch.tensor(said).square().mean(0).sqrt() / spread
    noise = 1 / (2 * 120) ** 0.5
    assert (ratio > 1 - 4 * noise).all(), ratio
    assert (ratio < 2).all(), ratio
    assert ratio[list(whole).index("frechet")] < 1 + 4 * noise, ratio


def test_a_table_of_all_that_can_be_said():
    pair = LinearVAE(3, 2)
    x, train = pair.sample(100), pair.sample(100)
    sources = {"itself": pair, "shifted": pair.sample(100) + 3, "copy": train, "code": Autoencoder(*_parts())}
    modes = Modes.near(torch.zeros(1, 3), 2.0)
    table = compare_samples(sources, x, train, modes=modes, seed=0)
    assert set(table["itself"]) == set(QUANTITIES)
    good, bad, copy = (table[name] for name in ("itself", "shifted", "copy"))
    for name in ("density", "coverage", "nearest_train"):
        assert abs(good[name].estimate - table.ideal[name]) < 4 * good[name].std_error
    assert good["coverage"].estimate > bad["coverage"].estimate + 4 * bad["coverage"].std_error
    # A shift by 3 of three numbers alone is worth 27.
    assert abs(bad["frechet_limit"].estimate - 27) < 4 * bad["frechet_limit"].std_error
    assert copy["nearest_train"].estimate == 1
    assert copy["nearest_train_p"].estimate == 0.001
    assert good["nearest_train_p"].estimate > 0.01
    assert good["seconds_per_1000"].estimate > 0
    assert copy["seconds_per_1000"].undefined == "samples were given, not drawn"
    assert {"it has no prior" in cell.undefined for cell in table["code"].values()} == {True}
    frame = table.to_frame()
    assert frame.loc[("copy", "nearest_train"), "estimate"] == 1
    assert "undefined for code:" in str(table)


def _parts():
    return torch.nn.Linear(3, 2), Gaussian(torch.nn.Linear(2, 3), sigma=1.0)


def test_the_same_seed_gives_the_same_table_and_leaves_the_callers_generator():
    pair = LinearVAE(3, 2)
    x = pair.sample(40)
    before = torch.get_rng_state()
    first, second = (
        compare_samples({"pair": pair}, x, seed=3).to_frame().drop(("pair", "seconds_per_1000")) for _ in "ab"
    )
    assert first.equals(second)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_cannot_be_measured_is_undefined_and_says_why():
    table = compare_samples({"noise": torch.randn(40, 30)}, torch.randn(40, 30), seed=0)["noise"]
    assert table["frechet_limit"].undefined == "a quarter of the points, 10, is no more than the 30 features"
    assert table["modes_found"].undefined == "no modes were given"
    assert table["nearest_train"].undefined == "fewer training points were given than held-out ones"
    far = compare_samples({"far": torch.randn(40, 3) + 9}, torch.randn(40, 3), modes=Modes.near(torch.zeros(1, 3), 1.0))
    assert (far["far"]["modes_found"].estimate, far["far"]["in_modes"].estimate) == (0, 0)
    assert far["far"]["modes_kl"].undefined == "no draw lies in any mode"


@pytest.mark.parametrize("values", ["real", "whole", "bits"])
@pytest.mark.parametrize("origin", [0.0, 1e9])
def test_balls_are_those_of_differences(values, origin):
    """Sums of products would lose what points far from the origin differ by, and what lies on a ball's surface."""
    real, drawn = torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(0)).double()
    if values != "real":
        real, drawn = ((3 * t).round() if values == "whole" else (t > 0).double() for t in (real, drawn))

    def within(center, other):
        radius = (center[:, None] - center).norm(dim=-1).sort(1).values[:, 5:6]
        return (center[:, None] - other).norm(dim=-1) <= radius + 1e-9

    balls, others = within(real, drawn).double(), within(drawn, real).double()
    found = density_and_coverage(real + origin, drawn + origin, nearest=5)
    assert found["density"] == pytest.approx(balls.sum().item() / (5 * len(drawn)))
    assert found["coverage"] == pytest.approx(balls.amax(1).mean().item())
    assert found["precision"] == pytest.approx(balls.amax(0).mean().item())
    assert found["recall"] == pytest.approx(others.amax(0).mean().item())


def test_features_are_evaluated_and_checked():
    torch.manual_seed(0)
    x, y = torch.randn(2, 60, 3)
    noisy = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout())
    settings = {"seed": 0, "num_halves": 2}
    found = compare_samples({"y": y}, x, features=noisy, **settings)["y"]
    plain = compare_samples({"y": y}, x, **settings)["y"]
    assert found["coverage"].estimate == plain["coverage"].estimate
    assert noisy.training
    assert noisy[0].num_batches_tracked == 0
    for features in (lambda x: x[:5], lambda x: x.log()):
        with pytest.raises(ValueError, match=r"features: found the shape .*expected finite ones, \[60, D\]"):
            compare_samples({"y": y}, x, features=features, **settings)


def test_numbers_alone_are_data_points():
    x, y = torch.randn(2, 60, generator=torch.Generator().manual_seed(0))
    one = compare_samples({"y": y}, x, seed=0)["y"]
    assert one["density"] == compare_samples({"y": y[:, None]}, x[:, None], seed=0)["y"]["density"]


def test_refusals():
    x = torch.randn(40, 3)
    for samples, found in {
        x[:, :2]: r"shape \[2\] each, expected \[3\], as the held-out data have$",
        x[:19]: r"19 rows, expected at least half as many as the 40 held-out ones; draw more$",
        torch.cat([x[:-1], x[-1:] / 0]): r"3 numbers that are not finite, expected finite ones$",
    }.items():
        with pytest.raises(ValueError, match=r"^sources: found samples of 'a' of " + found):
            compare_samples({"a": samples}, x)
    with pytest.raises(ValueError, match=r"nearest: found 20, expected fewer than half of the 40"):
        compare_samples({"a": x}, x, nearest=20)
