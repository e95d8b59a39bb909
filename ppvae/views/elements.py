"""HTML as a tree of elements: all text and all attributes are escaped when it is written."""

import math
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

import numpy as np

Element = ElementTree.Element
Content = str | Element


def element(name: str, /, *content: Content, **attributes: object) -> Element:
    """An element with this content; `class_` stands for the attribute `class`, and `data_x` for `data-x`."""
    made = Element(name, {key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items()})
    for each in content:
        if isinstance(each, Element):
            made.append(each)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + each
        else:
            made.text = (made.text or "") + each
    return made


def table(head: Sequence[str], rows: Iterable[Sequence[Content]], **attributes: object) -> Element:
    """A table whose first column names the rows."""
    first = element("thead", element("tr", *(element("th", each, scope="col") for each in head)))
    body = [
        element("tr", element("th", row[0], scope="row"), *(element("td", each) for each in row[1:])) for row in rows
    ]
    return element("table", first, element("tbody", *body), **attributes)


def figure(value: float) -> str:
    """A number to three decimals, none of them a negative zero; in words where there is none."""
    return "undefined" if math.isnan(value) else f"{value:z.3f}"


def written(tree: Element) -> str:
    """The tree as HTML."""
    return ElementTree.tostring(tree, encoding="unicode", method="html")


def histogram(values: np.ndarray) -> Element:
    """Bars of the counts of finite values, over their range; it fills the width that it is given."""
    num_bins = min(32, 4 + math.isqrt(2 * len(values)))
    counts, _ = np.histogram(values, num_bins)
    bars = [
        element("rect", x=at, y=f"{20 - height:.3f}", width=0.9, height=f"{height:.3f}")
        for at, height in enumerate(20 * counts / max(1, counts.max()))
        if height
    ]
    return _drawing(*bars, viewBox=f"0 0 {num_bins} 20", class_="histogram")


def curve(values: np.ndarray) -> Element:
    """A line through finite values; it fills the width that it is given."""
    low, high = values.min(), values.max()
    heights = 19 - 18 * (values - low) / (high - low if high > low else 1.0)
    points = " ".join(f"{x:.2f},{y:.2f}" for x, y in zip(np.linspace(0, 100, len(values)), heights, strict=True))
    style = "fill:none;stroke:currentColor;vector-effect:non-scaling-stroke"
    return _drawing(element("polyline", points=points, style=style), viewBox="0 0 100 20", class_="curve")


def _drawing(*content: Element, **attributes: object) -> Element:
    return element("svg", *content, preserveAspectRatio="none", aria_hidden="true", **attributes)
