"""The data points that cost most, in the report: their figures, and their pictures where rows are images."""

import base64
import io
from typing import Any

import torch
from matplotlib.image import imsave
from torch import Tensor

from ppvae.batches import as_batch, num_rows, tensors
from ppvae.inference.ledger.report import GapReport
from ppvae.views.elements import Content, Element, element

MOST_POINTS = 12
CHANNELS = (1, 3)
LEAST_PIXELS = 4
"""Height and width below which a row of three dimensions is no image."""


def worst_points(report: GapReport, data: Any, shape: tuple[int, int] | None) -> list[Element]:
    """A card for each of the data points with the largest gap, the largest first."""
    order = report.gap.estimate.argsort(descending=True, stable=True)[:MOST_POINTS].tolist()
    pictures = {} if data is None else pictures_of(data, len(report.elbo.estimate), shape, order)
    cards = [element("figure", *pictures.get(index, ()), *_said(report, index)) for index in order]
    said = "Here ± is one Monte Carlo error: what another run of the measurement would change."
    return [element("p", said, class_="quiet"), element("div", *cards, class_="cards points")]


def _said(report: GapReport, index: int) -> list[Content]:
    evidence, gap = report.log_evidence, report.gap
    lines: list[Content] = [
        element("strong", f"{gap.estimate[index]:z.2f} ± {gap.std_error[index]:.2f}"),
        element("div", f"data point {index}"),
        element("div", f"log p(x) {evidence.estimate[index]:z.2f}, ELBO {report.elbo.estimate[index]:z.2f}"),
    ]
    if not evidence.khat[index].isnan():
        lines.append(element("div", f"k-hat {evidence.khat[index]:z.2f}"))
    lines.append(element("div", f"by {evidence.methods[index]}"))
    if not evidence.reliable[index]:
        lines.append(element("div", "not to be trusted", class_="bad"))
    return [lines[0], element("figcaption", *lines[1:])]


def pictures_of(data: Any, num: int, shape: tuple[int, int] | None, order: list[int]) -> dict[int, list[Element]]:
    """By index, the picture of a row as an `<img>` that needs no file; none where rows are no images."""
    batch = as_batch(data)
    if num_rows(batch) != num:
        raise ValueError(f"data: found {num_rows(batch)} data points, expected the {num} that the report measured")
    fitting = [images for t in tensors(batch).values() if (images := as_images(t, shape)) is not None]
    if shape is not None and not fitting:
        found = [list(t.shape) for t in tensors(batch).values()]
        raise ValueError(
            f"data: found shapes {found}, expected rows of {shape[0]} times {shape[1]} pixels, as shape says"
        )
    return {index: [_picture(fitting[0][index], index)] for index in order} if fitting else {}


def as_images(t: Tensor, shape: tuple[int, int] | None) -> Tensor | None:
    """The rows `[N, ...]` as `[N, H, W, C]` in [0, 1]; None where they are no images of this shape.

    Without a shape, rows `[H, W]` and `[C, H, W]` are images, with C of 1 or 3; with one, vectors are too.
    """
    t = t.detach().cpu()
    if shape is not None:
        channels, rest = divmod(t[0].numel(), shape[0] * shape[1])
        if rest or channels not in CHANNELS:
            return None
        t = t.reshape(len(t), channels, *shape)
    else:
        t = t.unsqueeze(1) if t.dim() == 3 else t
        if t.dim() != 4 or t.shape[1] not in CHANNELS or min(t.shape[2:]) < LEAST_PIXELS:
            return None
    scale = 255.0 if t.dtype == torch.uint8 else 1.0
    return (t.double() / scale).nan_to_num().clamp(0, 1).permute(0, 2, 3, 1)


def _picture(image: Tensor, index: int) -> Element:
    file = io.BytesIO()
    imsave(file, image.expand(*image.shape[:2], 3).contiguous().numpy(), format="png")
    content = base64.b64encode(file.getvalue()).decode()
    return element("img", src=f"data:image/png;base64,{content}", alt=f"data point {index}")
