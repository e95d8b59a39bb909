"""Models by their samples: quality, variety, memorization and speed, each figure with its error."""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from ppvae.arguments import Count, Observed, Seed, checked
from ppvae.batches import some_rows, transformed
from ppvae.inference.diagnostics.cells import Cell, Table
from ppvae.inference.diagnostics.frechet import frechet, frechet_halved, frechet_limit
from ppvae.inference.diagnostics.halves import with_errors
from ppvae.inference.diagnostics.modes_found import Modes
from ppvae.inference.diagnostics.neighborhoods import (
    density_and_coverage,
    expected_coverage_of_equals,
    memorization,
    nearest_in_training,
)
from ppvae.inference.runtime.chunks import evaluating
from ppvae.mode import mode
from ppvae.pair import Pair
from ppvae.rules import Numbers, Whole

TIMED = 5
"""Calls of `sample` that are timed, after one that is not."""

Halves = Annotated[int, Whole(at_least=2)]
Many = Annotated[Tensor, Numbers(finite=True, rows=20)]
"""Data points that have nearest neighbors within a half of them."""


@checked
def compare_samples(
    sources: Mapping[str, Pair | Tensor],
    held_out: Many,
    train: Observed | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    modes: Modes | None = None,
    *,
    num_samples: Annotated[int, Whole(at_least=20)] | None = None,
    nearest: Count = 5,
    num_halves: Halves = 20,
    seed: Seed | None = None,
) -> Table:
    """Models side by side by what they draw. Whatever has a `sample` can be compared, with or without a density.

    | quantity             | what it is                                                                        |
    |----------------------|-----------------------------------------------------------------------------------|
    | `density`            | how many balls about held-out points a draw lies in, over k; may exceed 1         |
    | `coverage`           | the share of balls about held-out points that hold a draw                         |
    | `precision`          | the share of draws in any ball about a held-out point                             |
    | `recall`             | the share of held-out points in any ball about a draw                             |
    | `frechet`            | the Frechet distance of the features, squared, at these numbers of points         |
    | `frechet_half`       | the same of half as many: the difference is half the bias of `frechet`            |
    | `frechet_limit`      | the same for infinitely many                                                      |
    | `modes_found`        | modes with at least one draw                                                      |
    | `in_modes`           | the share of draws in any mode                                                    |
    | `modes_kl`           | the KL divergence of the draws' shares of the modes from equal ones, in nats      |
    | `nearest_train`      | the share of draws nearer to a training point than to a held-out one              |
    | `nearest_train_p`    | its p-value: small where training points have been learned by heart               |
    | `seconds_per_1000`   | time that 1000 draws take, in one call of `num_samples`                           |

    Standard errors are over other draws *and* other held-out points (`with_errors`); they do not say what another run
    of training would change. A p-value has none.

    When it is wrong: all but speed depend on the features. Distances between raw pixels say little about images. The
    bias of nearest neighbors depends on the numbers of points: compare figures of one call. The ideals are for equal
    laws of continuous data: where values repeat, balls hold more, and density and coverage may exceed them.
    `frechet_limit` keeps terms of `1 / n^2`, large where n is not far above the number of features.

    Source: Naeem et al. 2020 (arXiv:2002.09797); Kynkäänniemi et al. 2019 (arXiv:1904.06991); Heusel et al. 2017
    (arXiv:1706.08500); Chong & Forsyth 2020 (arXiv:1911.07023); modes: Metz et al. 2017 (arXiv:1611.02163).

    Args:
        sources: pairs, or samples `[M, *event]` drawn before, with M at least N / 2, by name.
        held_out: N data points that no model was trained on.
        train: training data, for memorization, which takes any N of them.
        features: a function of data `[N, *event]`; returns `[N, D]`. By default the data themselves, as vectors. A
            module is evaluated.
        modes: the modes to look for.
        num_samples: M, draws of each pair; as many as held-out points if None.
        nearest: k, of the nearest neighbors.
        num_halves: how many times halves are drawn for the errors.
        seed: makes the result reproducible (but for seconds) and leaves the caller's generators as they were.

    Returns:
        A `Table`: `table["name"]["coverage"].estimate`, and `print(table)`.

    Raises:
        ValueError: samples of another shape than the data, or fewer than half as many, features that are no finite row
            for each data point, or fewer points in a half than neighbors.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> _ = torch.manual_seed(0)
        >>> pair = LinearVAE(num_features=3, num_latents=2)
        >>> table = compare_samples({"itself": pair, "noise": torch.randn(200, 3)}, pair.sample(200), seed=0)
        >>> table["itself"]["coverage"].estimate > table["noise"]["coverage"].estimate
        True
        >>> table["noise"]["seconds_per_1000"].undefined
        'samples were given, not drawn'
    """
    if nearest >= len(held_out) // 2:
        raise ValueError(
            f"nearest: found {nearest}, expected fewer than half of the {len(held_out)} held-out points, "
            "as errors are those of halves; take fewer neighbors"
        )
    if train is not None and train.shape[1:] != held_out.shape[1:]:
        raise ValueError(
            f"train: found shape {list(train.shape)}, expected rows like the held-out ones, of shape "
            f"{list(held_out.shape[1:])}"
        )
    num = num_samples or len(held_out)
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())) if seed is None else seed)
    of_features = partial(_features, features)
    real = of_features(held_out)
    seen = None if train is None else of_features(train[some_rows(len(train), len(held_out))])
    measure = partial(_measured, real, seen, of_features, modes, nearest, num_halves, generator)
    cells = {}
    for name, source in sources.items():
        try:
            x, seconds = _drawn(name, source, num, seed)
        except NotImplementedError as error:
            cells[name] = dict.fromkeys(QUANTITIES, Cell(undefined=str(error)))
            continue
        x = x.to(held_out)
        _refuse_unlike(name, x, held_out)
        cells[name] = measure(x) | {"seconds_per_1000": seconds}
    ideal: dict[str, float | None] = dict.fromkeys(QUANTITIES)
    ideal |= {"density": 1.0, "coverage": expected_coverage_of_equals(len(held_out), num, nearest)}
    ideal |= {"frechet_limit": 0.0} | (modes.floor(num) if modes else {}) | {"nearest_train": 0.5}
    return Table(cells, ideal, f"{num} samples of each, {len(held_out)} held-out data points, {nearest} neighbors")


QUANTITIES = (
    *("density", "coverage", "precision", "recall", "frechet", "frechet_half", "frechet_limit"),
    *("modes_found", "in_modes", "modes_kl", "nearest_train", "nearest_train_p", "seconds_per_1000"),
)


def _drawn(name: str, source: Pair | Tensor, num: int, seed: int | None) -> tuple[Tensor, Cell]:
    """A source's samples, and the seconds that 1000 of them take."""
    if isinstance(source, Tensor):
        return source, Cell(undefined="samples were given, not drawn")
    with evaluating(source, seed):
        x, seconds = source.sample(num), []
        for _ in range(TIMED):
            start = time.perf_counter()
            source.sample(num)
            seconds.append((time.perf_counter() - start) * 1000 / num)
    if not isinstance(x, Tensor):
        raise ValueError(
            f"sources: found {name!r} with samples of several sites {sorted(x)}, expected a tensor; pass one of them"
        )
    spread = torch.tensor(seconds)
    return x, Cell(spread.mean().item(), spread.std().item() / TIMED**0.5)


def _refuse_unlike(name: str, x: Tensor, held_out: Tensor) -> None:
    if x.shape[1:] != held_out.shape[1:]:
        found, expected = f"shape {list(x.shape[1:])} each", f"{list(held_out.shape[1:])}, as the held-out data have"
    elif len(x) < len(held_out) // 2:
        found, expected = f"{len(x)} rows", f"at least half as many as the {len(held_out)} held-out ones; draw more"
    elif not x.isfinite().all():
        found, expected = f"{int((~x.isfinite()).sum())} numbers that are not finite", "finite ones"
    else:
        return
    raise ValueError(f"sources: found samples of {name!r} of {found}, expected {expected}")


def _features(features: Callable[[Tensor], Tensor] | None, x: Tensor) -> Tensor:
    evaluated = mode(features, training=False) if isinstance(features, nn.Module) else nullcontext()
    with torch.no_grad(), evaluated:
        found = torch.as_tensor(transformed(features, x))
    if found.shape[:1] != x.shape[:1] or not found.isfinite().all():
        raise ValueError(
            f"features: found the shape {list(found.shape)}, {int((~found.isfinite()).sum())} numbers of it not "
            f"finite, expected finite ones, [{len(x)}, D] for as many data points; return a row for each"
        )
    return found.detach().reshape(len(x), -1).double().cpu()


def _measured(
    real: Tensor,
    seen: Tensor | None,
    features: Callable[[Tensor], Tensor],
    modes: Modes | None,
    nearest: int,
    num_halves: int,
    generator: torch.Generator,
    x: Tensor,
) -> dict[str, Cell]:
    """All quantities of a set of samples but its speed."""
    found, drawn = dict.fromkeys(QUANTITIES, Cell()), features(x)

    def add(statistic: Callable[..., dict[str, float]], *samples: Tensor) -> None:
        whole, errors, _ = with_errors(statistic, samples, num_halves, generator)
        found.update({name: Cell(whole[name], errors[name]) for name in whole})

    add(partial(density_and_coverage, nearest=nearest), real, drawn)
    add(partial(_frechets, generator), real, drawn)
    few = min(len(real), len(drawn)) // 4
    if few <= real.shape[1]:
        too_few = Cell(undefined=f"a quarter of the points, {few}, is no more than the {real.shape[1]} features")
        found["frechet_limit"] = too_few
    if modes is None:
        found |= dict.fromkeys(("modes_found", "in_modes", "modes_kl"), Cell(undefined="no modes were given"))
    else:
        add(modes.found, modes.label(x).cpu())
        if found["in_modes"].estimate == 0:
            found["modes_kl"] = Cell(undefined="no draw lies in any mode")
    if seen is None or len(seen) < len(real):
        fewer = Cell(undefined="fewer training points were given than held-out ones")
        return found | dict.fromkeys(("nearest_train", "nearest_train_p"), fewer)
    add(_share_in_training, seen, real, drawn)
    _, p_value = memorization(nearest_in_training(drawn, seen, real), generator)
    return found | {"nearest_train_p": Cell(p_value)}


def _frechets(generator: torch.Generator, real: Tensor, drawn: Tensor) -> dict[str, float]:
    whole, half = frechet(real, drawn), frechet_halved(real, drawn, generator)
    return {"frechet": whole, "frechet_half": half, "frechet_limit": frechet_limit(whole, half)}


def _share_in_training(seen: Tensor, real: Tensor, drawn: Tensor) -> dict[str, float]:
    counts = nearest_in_training(drawn, seen, real)
    return {"nearest_train": (counts[: len(seen)].sum() / counts.sum()).item()}
