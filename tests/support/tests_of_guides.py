"""What all tests of a guide on the model's own data are held to: layouts, seeds, and chunks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from support.zoo import ZOO

from ppvae import ContractError, Pair

FEW = ("linear", "linear, exact", "vector of bits", "mixture", "labeled", "positive", "NICE")
"""Of the zoo, those of the fast tests."""


def assert_same_in_both_layouts(name: str, found: Callable[[Pair, Any], np.ndarray], **tolerances: float) -> None:
    """What is found on a pair of the zoo does not depend on the layout; or it is refused, by name, in both alike."""
    values: list[Any] = []
    for layout in ("leading", "rows"):
        torch.manual_seed(0)
        pair, x = ZOO[name].make()
        pair.check(x)
        pair.particles = layout
        try:
            values.append(found(pair, x))
        except ContractError as error:
            values.append(str(error))
    if isinstance(values[0], str):
        assert values[0] == values[1]
    else:
        np.testing.assert_allclose(*values, **tolerances)


def assert_the_seed_decides(pair: Pair, found: Callable[[int], xr.Dataset]) -> None:
    """What is found by a seed is so again, another seed finds else, and the caller's stream and the mode go on."""
    pair.train()
    before = torch.get_rng_state()
    first, again, other = (found(seed) for seed in (0, 0, 1))
    assert first.identical(again)
    assert not first.equals(other)
    assert torch.equal(torch.get_rng_state(), before)
    assert pair.training


def watched(pair: Pair) -> list[int]:
    """A list that grows by the number of rows with each run of a pair's guide."""
    sizes: list[int] = []
    guide = pair.guide

    def counted(x: torch.Tensor) -> Any:
        sizes.append(len(x))
        return guide(x)

    pair.guide = counted  # type: ignore[method-assign]
    return sizes
