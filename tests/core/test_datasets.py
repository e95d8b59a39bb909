import gzip
import hashlib
import io
import math
import os
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch

from ppvae import datasets, mnist_files
from ppvae.datasets import bits_per_dim, dequantize, load

SIZES = {
    "digits": (1197, 300, 300),
    "moons": (3000, 1000, 1000),
    "pinwheel": (3000, 1000, 1000),
    "ring": (3000, 1000, 1000),
    "grid": (3000, 1000, 1000),
}
SHAPES = {"digits": (8, 8), "moons": (2,), "pinwheel": (2,), "ring": (2,), "grid": (2,)}
CLASSES = {"digits": 10, "moons": 2, "pinwheel": 5, "ring": 8, "grid": 25}
IMAGES = "train-images-idx3-ubyte"

needs_mnist = pytest.mark.skipif(
    not os.environ.get("PPVAE_DATA"), reason="PPVAE_DATA is not set: there is no MNIST to read"
)


def splits(data):
    return [data.train, data.validation, data.test]


# -- what every data set holds --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIZES)
def test_sizes_shapes_and_labels(name):
    data = load(name)
    assert tuple(map(len, splits(data))) == SIZES[name]
    assert data.shape == SHAPES[name]
    assert data.num_features == math.prod(SHAPES[name])
    assert data.transform is None
    for x, (split, y) in zip(splits(data), data.labels.items(), strict=True):
        assert x.dtype == torch.float32
        assert x.shape[1:] == (data.num_features,)
        assert len(y) == len(x)
        assert y.dtype == torch.int64
        assert y.unique().tolist() == list(range(CLASSES[name])), split


@pytest.mark.parametrize("options", [{}, {"binarize": "static"}, {"dequantize": True}])
def test_images_are_the_vectors_unflattened(options):
    vectors, images = load("digits", **options), load("digits", images=True, **options)
    assert images.shape == (1, 8, 8)
    assert images.num_features == 64
    for x, y in zip(splits(images), splits(vectors), strict=True):
        assert torch.equal(x, y.reshape(-1, 1, 8, 8))
    if images.transform is not None:
        assert images.transform(images.train).shape == images.train.shape


@pytest.mark.parametrize("name", SIZES)
def test_same_seed_same_data_other_seed_other_data(name):
    first, again, other = load(name, seed=3), load(name, seed=3), load(name, seed=4)
    for a, b, c in zip(splits(first), splits(again), splits(other), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_digits_splits_are_disjoint_and_together_sklearns_digits():
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    data = load("digits", seed=1)
    rows = torch.cat([torch.cat(splits(data)) * 16, torch.cat(list(data.labels.values()))[:, None]], dim=1)
    assert sorted(rows.tolist()) == sorted(np.column_stack([pixels, classes]).tolist())


@pytest.mark.parametrize(("name", "radius"), [("ring", 2.0), ("grid", 4 * 2**0.5)])
def test_gaussians_lie_about_their_centers(name, radius):
    data = load(name)
    x, y = torch.cat([data.train, data.test]).double(), torch.cat([data.labels["train"], data.labels["test"]])
    parts = [x[y == k] for k in range(CLASSES[name])]
    assert torch.stack([part.mean(0).norm() for part in parts]).max() == pytest.approx(radius, abs=0.02)
    spread = torch.cat([part - part.mean(0) for part in parts]).std()
    assert spread == pytest.approx(0.05, rel=4 / (4 * len(x)) ** 0.5)


def test_moons_lie_on_their_half_circles():
    data = load("moons")
    x, y = data.train.double(), data.labels["train"]
    center = torch.tensor([[0.0, 0.0], [1.0, 0.5]]).double()[y]
    residual = (x - center).norm(dim=1) - 1  # noise of 0.1; the curve adds noise^2 / 2 on average
    assert abs(residual.mean() - 0.005) < 5 * 0.1 / math.sqrt(len(x))
    assert abs(residual.std() - 0.1) < 5 * 0.1 / math.sqrt(2 * len(x))


def test_pinwheel_straightens_to_the_gaussian_it_was_bent_from():
    data = load("pinwheel")
    x, y = torch.cat(splits(data)).double() / 2, torch.cat(list(data.labels.values()))
    assert y.bincount().tolist() == [1000] * 5
    # The inverse map keeps the distance from the origin, but the radial coordinate is needed to turn back.
    radius = x.norm(dim=1)
    for _ in range(50):  # fixed point: the turn depends on the coordinate it uncovers
        angle = y * (2 * math.pi / 5) + 0.25 * radius.exp()
        radius = x[:, 0] * angle.cos() - x[:, 1] * angle.sin()
    across = x[:, 0] * angle.sin() + x[:, 1] * angle.cos()
    assert abs(radius.mean() - 1) < 5 * 0.3 / math.sqrt(5000)
    assert abs(radius.std() - 0.3) < 5 * 0.3 / math.sqrt(10000)
    assert abs(across.mean()) < 5 * 0.1 / math.sqrt(5000)
    assert abs(across.std() - 0.1) < 5 * 0.1 / math.sqrt(10000)


@pytest.mark.parametrize("name", SIZES)
def test_loading_leaves_the_global_generators_alone(name):
    options = {"binarize": "static"} if name == "digits" else {}
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    load(name, **options)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "mnits",
            {},
            r"name: found 'mnits', expected one of \['digits', 'grid', 'mnist', 'moons', .*, 'stacked', 'textures'\]",
        ),
        ("digits", {"binarize": True}, "binarize: found True, expected 'dynamic', 'static' or None"),
        ("digits", {"binarize": "static", "dequantize": True}, "expected at most one"),
        ("moons", {"binarize": "dynamic"}, r"binarize: found 'moons' .* expected gray levels in \[0, 1\]"),
        ("pinwheel", {"dequantize": True}, r"dequantize: found 'pinwheel' .* expected gray levels"),
        ("moons", {"images": True}, r"images: found 'moons' of 2-D points, expected 'digits' or 'mnist'"),
    ],
)
def test_refuses(name, options, message):
    with pytest.raises(ValueError, match=message):
        load(name, **options)


# -- binarization ---------------------------------------------------------------------------------------------


def assert_bernoulli(binary, gray):
    """Zeros and ones, whose sum is within 5 standard errors of the sum of the gray values."""
    assert set(binary.unique().tolist()) == {0.0, 1.0}
    binary, gray = binary.double(), gray.double()
    assert abs((binary - gray).sum()) < 5 * (gray * (1 - gray)).sum().sqrt()
    assert torch.equal(binary[(gray == 0) | (gray == 1)], gray[(gray == 0) | (gray == 1)])


def test_static_binarization_draws_every_split_once():
    gray, data, other = (
        load("digits"),
        load("digits", binarize="static"),
        load("digits", binarize="static", seed=1),
    )
    assert data.transform is None
    for binary, x in zip(splits(data), splits(gray), strict=True):
        assert_bernoulli(binary, x)
    assert torch.equal(data.train, load("digits", binarize="static").train)
    assert not torch.equal(data.train, other.train)


def test_dynamic_binarization_draws_each_minibatch_anew():
    gray, data = load("digits"), load("digits", binarize="dynamic")
    assert torch.equal(data.train, gray.train)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = data.transform(data.train), data.transform(data.train)
    assert_bernoulli(first, gray.train)
    assert_bernoulli(second, gray.train)
    assert not torch.equal(first, second)


def test_dynamic_and_static_have_the_same_validation_and_test():
    dynamic, static = load("digits", binarize="dynamic"), load("digits", binarize="static")
    assert torch.equal(dynamic.validation, static.validation)
    assert torch.equal(dynamic.test, static.test)


# -- dequantization and bits per dimension --------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 17, 50, 256, 65536])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floor_recovers_the_level(levels, dtype):
    level = torch.arange(levels).repeat(max(1, 2_000_000 // levels))
    x = level.to(dtype) / (levels - 1)
    y = dequantize(x, levels, generator=torch.Generator().manual_seed(0))
    assert y.dtype == dtype
    assert y.min() > 0
    assert y.max() < 1
    assert torch.equal((y * levels).floor().long(), level)


def test_dequantized_uniform_levels_are_uniform():
    level = torch.arange(17).repeat(10_000).double()
    y = dequantize(level / 16, 17, generator=torch.Generator().manual_seed(0))
    u = y * 17 - level
    assert abs(u.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / len(u))
    assert abs(u.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / len(u))  # Var (u - 1/2)^2 = 1/80 - 1/144 = 1/180


@pytest.mark.parametrize(
    ("x", "levels", "message"),
    [
        (torch.tensor([[0.5, 2.0]]), 17, r"found 2 at index \(0, 1\), expected gray values in \[0, 1\]"),
        (torch.tensor([0.0, float("nan")]), 17, r"found nan at index \(1,\)"),
        (torch.tensor([3, 4]), 17, "found torch.int64, expected torch.float32 or torch.float64"),
        (torch.tensor([0.5]), 1, "levels: found 1, expected 2 or more"),
    ],
)
def test_dequantize_refuses(x, levels, message):
    with pytest.raises(ValueError, match=message):
        dequantize(x, levels)


def test_loading_dequantized():
    gray, data = load("digits"), load("digits", dequantize=True)
    assert torch.equal(data.train, gray.train)
    assert torch.equal(data.test, load("digits", dequantize=True).test)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = data.transform(data.train), data.transform(data.train)
    assert not torch.equal(first, second)
    for y, x in [(first, gray.train), (data.validation, gray.validation), (data.test, gray.test)]:
        assert torch.equal((y * 17).floor(), x * 16)


def test_bits_per_dim_of_equally_likely_levels_is_their_entropy():
    # As probabilities: log P(x) = -D log 16. As a density after dequantizing: log p(y) = 0 on [0, 1)^D.
    assert bits_per_dim(-10 * math.log(16), num_features=10) == pytest.approx(4)
    assert bits_per_dim(0.0, num_features=10, levels=16) == 4


def test_bits_per_dim_agrees_between_a_probability_and_its_flat_density():
    # A density that is flat over each level's cell has exactly the probability of the level: P = p / levels.
    probability = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
    density = probability * 4
    expected = torch.tensor([1.0, 2.0, 3.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(bits_per_dim(probability.log(), 1), expected)
    torch.testing.assert_close(bits_per_dim(density.log(), 1, levels=4), expected)
    assert (probability * expected).sum() == 1.75  # the entropy, in bits


def test_bits_per_dim_falls_as_the_evidence_rises():
    assert bits_per_dim(-90.0, 784) < bits_per_dim(-94.0, 784)


@pytest.mark.parametrize(("num_features", "levels"), [(0, None), (0, 256), (784, 1)])
def test_bits_per_dim_refuses(num_features, levels):
    with pytest.raises(ValueError, match=r"(num_features|levels): found [01], expected [12] or more"):
        bits_per_dim(-94.0, num_features, levels)


# -- MNIST: where the files come from -------------------------------------------------------------------------


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty data folder and cache, and no network."""

    def refuse(url, timeout):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("PPVAE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def tiny_mnist(monkeypatch):
    """MNIST's four files as they would be with three images in each part, and a decompressed copy's MD5."""
    pixels = bytes(range(256)) * 10
    content = {
        name: bytes(16) + pixels[: 3 * 784] if "images" in name else bytes(8) + b"\x07\x00\x09"
        for name in mnist_files.MD5
    }
    for name, part in content.items():
        monkeypatch.setitem(mnist_files.MD5, name, hashlib.md5(part).hexdigest())
    return content


def test_offline_says_how_to_set_ppvae_data(offline):
    with pytest.raises(ConnectionError, match=r"Set PPVAE_DATA to a folder which holds the four MNIST files") as e:
        load("mnist")
    assert str(offline / "data" / "mnist") in str(e.value)
    assert str(offline / "cache" / "ppvae" / "mnist") in str(e.value)
    assert str(e.value).count("no network") == len(mnist_files.MIRRORS)


def test_without_ppvae_data_only_the_cache_is_searched(offline, monkeypatch):
    monkeypatch.setenv("PPVAE_DATA", "")
    with pytest.raises(ConnectionError, match=r"no file train-images-idx3-ubyte.gz in [^,]*ppvae/mnist, and"):
        load("mnist")


@pytest.mark.parametrize("name", [f"{IMAGES}.gz", IMAGES])
def test_wrong_bytes_fail_the_checksum(offline, name):
    content = gzip.compress(b"not MNIST") if name.endswith(".gz") else b"not MNIST"
    (offline / "data" / "mnist" / name).write_bytes(content)
    found, expected = hashlib.md5(b"not MNIST").hexdigest(), mnist_files.MD5[IMAGES]
    with pytest.raises(ValueError, match=rf"{name}: found 9 bytes with MD5 {found}, expected .* MD5 {expected}"):
        load("mnist")


def test_a_truncated_file_is_named(offline):
    whole = gzip.compress(os.urandom(10_000))
    for length in (len(whole) // 2, 5):
        (offline / "data" / f"{IMAGES}.gz").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"{IMAGES}.gz: found a damaged or truncated gzip file"):
            load("mnist")


def test_a_flipped_byte_is_noticed(offline):
    whole = bytearray(gzip.compress(bytes(range(256)) * 40))
    whole[len(whole) // 2] ^= 0xFF
    (offline / "data" / f"{IMAGES}.gz").write_bytes(whole)
    with pytest.raises(ValueError, match=rf"{IMAGES}.gz: found "):
        load("mnist")


@pytest.mark.parametrize("folder", ["data/mnist", "data", "cache/ppvae/mnist"])
@pytest.mark.parametrize("packed", [True, False])
def test_files_are_found_plain_and_packed_in_each_folder(offline, tiny_mnist, folder, packed):
    (offline / folder).mkdir(parents=True, exist_ok=True)
    for name, content in tiny_mnist.items():
        path = offline / folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    x, y = datasets._mnist(0, torch.Generator())[:2]
    expected = torch.arange(3 * 784).remainder(256).float().reshape(3, 784) / 255
    assert torch.equal(x, torch.cat([expected, expected]))
    assert y.tolist() == [7, 0, 9, 7, 0, 9]


def test_download_passes_over_a_bad_mirror_and_fills_the_cache(offline, tiny_mnist, monkeypatch):
    asked = []

    def mirror(url, timeout):
        asked.append(url)
        content = tiny_mnist[url.rsplit("/", 1)[1].removesuffix(".gz")]
        packed = gzip.compress(content)
        return io.BytesIO(packed[:-9] if url.startswith(mnist_files.MIRRORS[0]) else packed)

    monkeypatch.setattr(urllib.request, "urlopen", mirror)
    first = datasets._mnist(0, torch.Generator())
    assert len(asked) == 2 * 4
    cached = sorted(path.name for path in (offline / "cache" / "ppvae" / "mnist").iterdir())
    assert cached == sorted(f"{name}.gz" for name in tiny_mnist)  # and no unfinished file beside them
    again = datasets._mnist(0, torch.Generator())
    assert len(asked) == 2 * 4
    assert torch.equal(first.x, again.x)


# -- MNIST: the data ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mnist():
    return load("mnist")


@needs_mnist
def test_mnist_is_mnist(mnist):
    assert tuple(map(len, splits(mnist))) == (50000, 10000, 10000)
    assert mnist.shape == (28, 28)
    assert mnist.num_features == 784
    assert mnist.train.dtype == torch.float32
    both = torch.cat([mnist.train, mnist.validation]).double()
    assert (both.min(), both.max()) == (0, 1)
    assert both.mean().item() == pytest.approx(0.13066, abs=5e-6)
    assert both.std().item() == pytest.approx(0.30811, abs=5e-6)
    assert mnist.labels["train"][:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.labels["test"][:5].tolist() == [7, 2, 1, 0, 4]
    assert mnist.labels["test"].bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@needs_mnist
def test_mnist_dequantized_has_256_levels(mnist):
    data = load("mnist", dequantize=True)
    assert torch.equal(data.train, mnist.train)
    assert torch.equal((data.test * 256).floor(), (mnist.test * 255).round())
