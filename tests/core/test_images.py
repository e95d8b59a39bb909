"""Images as people have them become a tensor, or the message names what to write."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

import ppvae
from ppvae.datasets import images

LEVELS = torch.randint(256, (5, 6, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
COLORED = torch.randint(256, (5, 3, 6, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
BITS = (LEVELS > 127).float()


def pil(image):
    return Image.fromarray(image.numpy() if image.dim() == 2 else image.movedim(0, -1).numpy())


@pytest.mark.parametrize("x", [LEVELS, COLORED])
def test_a_folder_a_list_and_an_array_are_the_same_tensor(x, tmp_path):
    expected = (x if x.dim() == 4 else x[:, None]).float() / 255
    for i, image in enumerate(x):
        pil(image).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no image")
    sources = [tmp_path, str(tmp_path), list(map(pil, x)), list(x), [image.numpy() for image in x], x, x.numpy()]
    for source in [*sources, x.float() / 255, (x / 255).double().numpy()]:
        assert torch.equal(images(source), expected)


def test_channels_may_come_last_and_transparency_goes():
    assert torch.equal(images(COLORED.movedim(1, -1)), images(COLORED))
    opaque = [pil(image).convert("RGBA") for image in COLORED]
    assert torch.equal(images(opaque), images(COLORED))
    assert torch.equal(images([pil(image).convert("LA") for image in LEVELS]), images(LEVELS))
    assert torch.equal(images(BITS.bool()), BITS[:, None])


def test_levels_beyond_bytes_are_not_clipped(tmp_path):
    """PIL would make white of all that is above 255, in files of 16 bits, and black of numbers in [0, 1]."""
    levels = np.random.default_rng(0).integers(2**16, size=(3, 6, 4)).astype(np.uint16)
    for i, image in enumerate(levels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    with pytest.raises(
        ValueError, match=r"found uint16 from \d+ to \d+, expected bytes.*numpy.asarray\(image\) / 65535"
    ):
        images(tmp_path)
    opened = [np.asarray(Image.open(file)) / 65535 for file in sorted(tmp_path.iterdir())]
    assert torch.equal(images(opened), torch.tensor(levels / 65535, dtype=torch.float32)[:, None])
    real = [Image.fromarray(image.astype(np.float32)) for image in opened]
    assert torch.equal(images(real), images(opened))


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ([LEVELS[0], LEVELS[0, :3]], ValueError, r"found images of shapes .*\(1, 6, 4\).*resize them"),
        ([], ValueError, "found images of shapes none"),
        (LEVELS.float(), ValueError, r"found float32 from \d+ to \d+, expected bytes, or numbers in \[0, 1\]"),
        ("/no/such/folder", FileNotFoundError, "found no images in /no/such/folder"),
        ([3], TypeError, "found 3 in it, expected PIL images"),
        (3, TypeError, "found 3, expected a folder, a list of images"),
        (torch.zeros(2, 7, 7, 7), ValueError, r"found an image of shape \[7, 7, 7\]"),
    ],
)
def test_what_is_no_image_is_refused(source, error, message):
    with pytest.raises(error, match=f"source: {message}"):
        images(source)


def flat(likelihood="bernoulli"):
    return ppvae.models.VAE.mlp(24, 2, [4], likelihood)


def convolutional(likelihood="bernoulli"):
    return ppvae.models.VAE.convolutional((1, 6, 4), 2, (4,), likelihood)


MESSAGES = {
    "a list of PIL images": (convolutional, list(map(pil, LEVELS)), "found a list of 5 images.*datasets.images"),
    "a list of tensors": (convolutional, list(BITS[:, None]), r"pass torch.stack\(data\), as a list of 5 tensors"),
    "a list of vectors": (flat, list(BITS.flatten(1)), r"pass torch.stack\(data\)"),
    "[N, 1, H, W] to an MLP": (flat, BITS[:, None], r"rows of shape \[1, 6, 4\], expected \[24\].*pass x.flatten\(1\)"),
    "[N, H, W]": (convolutional, BITS, r"pass x.reshape\(-1, 1, 6, 4\)"),
    "[N, H, W, C]": (convolutional, BITS[..., None], r"pass x.movedim\(-1, 1\)"),
    "[N, D]": (convolutional, BITS.flatten(1), r"pass x.reshape\(-1, 1, 6, 4\)"),
    "bytes": (convolutional, LEVELS[:, None], "if these are images of bytes, pass x / 255"),
    "bytes as gray levels": (
        lambda: convolutional("categorical"),
        LEVELS[:, None],
        "GrayCategorical refuses.*pass x / 255",
    ),
    "gray levels as bits": (convolutional, images(LEVELS), "if these are gray levels, binarize them, as transform="),
}
DONE = {
    "[N, 1, H, W] to an MLP": BITS[:, None].flatten(1),
    "[N, H, W]": BITS.reshape(-1, 1, 6, 4),
    "[N, H, W, C]": BITS[..., None].movedim(-1, 1),
    "[N, D]": BITS.flatten(1).reshape(-1, 1, 6, 4),
    "a list of tensors": torch.stack(list(BITS[:, None])),
    "bytes as gray levels": LEVELS[:, None] / 255,
}
"""What the messages say to write."""


@pytest.mark.parametrize("case", MESSAGES)
def test_data_that_do_not_fit_are_told_what_to_write(case):
    make, x, message = MESSAGES[case]
    for call in (
        lambda data: ppvae.fit(make(), data, steps=1, progress=False),
        lambda data: ppvae.elbo(make(), data, 2, progress=False),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            call(x)
        if case in DONE:
            call(DONE[case])


def test_a_folder_as_data_is_told_what_to_write(tmp_path):
    with pytest.raises(TypeError, match=r"data: found the folder .*ppvae.datasets.images"):
        ppvae.fit(flat(), str(tmp_path), steps=1, progress=False)


HELD_OUT = {
    "NaN": (BITS.flatten(1) * float("nan"), r"held_out\[0\]: found nan at index \(0, 0\)"),
    "another shape": (BITS, r"held_out: found rows of shape \[6, 4\].*pass x.flatten\(1\)"),
    "gray levels": (LEVELS.flatten(1) / 255, "held_out: model site 'x': found a value that Bernoulli refuses"),
    "a string": ("x", "held_out: found {'0': 'str'}"),
    "nothing": (BITS[:0], "held_out: found 0 data points"),
}


@pytest.mark.parametrize("case", HELD_OUT)
def test_held_out_data_are_called_so(case):
    data, message = HELD_OUT[case]
    with pytest.raises(ValueError, match=f"^{message}"):
        ppvae.fit(flat(), BITS.flatten(1), steps=1, held_out=data, progress=False)


def test_training_data_of_the_ledger_are_called_so():
    with pytest.raises(ValueError, match=r"^train\[0\]: found nan"):
        ppvae.gap(flat(), BITS.flatten(1), "quick", train=BITS.flatten(1) * float("nan"), progress=False)


def shown(x, shape):
    ax = plt.figure().subplots()
    ppvae.plots.images(ax, x, shape, 2)
    found = np.asarray(ax.images[0].get_array())
    plt.close("all")
    return found


def test_pictures_take_channels():
    x = torch.rand(4, 3, 6, 4)
    assert np.array_equal(shown(x[:, 0].flatten(1), (6, 4)), shown(x[:, :1].flatten(1), (1, 6, 4)))
    mosaic = shown(x.flatten(1), (3, 6, 4))
    assert mosaic.shape == (16, 12, 3)
    assert np.array_equal(mosaic[1:7, 7:11], x[1].movedim(0, -1).numpy())  # the second tile, within its white frame
    assert (mosaic[0] == 1).all()
    with pytest.raises(ValueError, match="shape: found 2 channels, expected 1 or 3"):
        shown(x[:, :2].flatten(1), (2, 6, 4))
    ax = plt.figure().subplots()
    ppvae.pictures.samples(ax, ppvae.models.VAE.convolutional((3, 6, 4), 2, (4,), "gaussian"), (3, 6, 4))
    assert ax.images[0].get_array().shape[-1] == 3
    plt.close("all")


def test_a_shape_without_channels_is_told_what_to_write():
    with pytest.raises(ValueError, match=r"shape: found \(6, 4\), expected \(channels, height, width\), such as"):
        ppvae.models.VAE.convolutional((6, 4), 2)
