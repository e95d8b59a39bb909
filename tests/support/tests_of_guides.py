"""What all tests of a guide on the model's own data are held to: layouts, seeds, chunks, and refusals."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from support.zoo import ZOO
from torch import nn

from ppvae import ContractError, EvidenceUndefined, Pair
from ppvae.models import Autoencoder, Gaussian, LinearVAE

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


def assert_refusals(found: Callable[..., Any]) -> None:
    """`found(pair, **settings)`, on pairs of five features, refuses settings and pairs that tell nothing of a guide."""
    pair = LinearVAE(5, 2)
    with pytest.raises(ValueError, match=r"num_samples: found 0, expected at least 1"):
        found(pair, num_samples=0)
    with pytest.raises(ValueError, match=r"num_simulations: found 9, expected a whole number of at least 10"):
        found(pair, num_simulations=9)
    with pytest.raises(EvidenceUndefined, match="Autoencoder cannot be calibrated: an autoencoder's code"):
        found(Autoencoder(nn.Linear(5, 2), Gaussian(nn.Linear(2, 5), sigma=1.0)))
