"""Models side by side on held-out data, with the standard error of the paired differences."""

from collections.abc import Mapping

import pandas as pd
from torch import Tensor

from ppvae.arguments import checked
from ppvae.inference.runtime.records import Measurement


class Comparison(pd.DataFrame):
    """A data frame that prints all its columns and rows, however wide."""

    @property
    def _constructor(self) -> type["Comparison"]:
        """What is made of it, as by `round`, prints likewise; pandas asks for this."""
        return Comparison

    def __repr__(self) -> str:
        return self.to_string()


@checked
def compare(evidences: Mapping[str, Measurement]) -> pd.DataFrame:
    """A table like `arviz.compare`'s, from log evidence on the same held-out data points; best model first.

    `elpd = sum_n log p(x_n)`, the expected log pointwise predictive density, in nats, for all N data points together;
    `mean` and `mean_diff` are per data point, as everywhere else. Differences are paired: the data points that are hard
    for one model are hard for the others too, so `dse = sqrt(N) sd(difference)` is far below what `se` suggests. A
    difference of a few `dse` is a real one; `monte_carlo_error` says how much a repetition on the same data would move
    `elpd`.

    Densities and probabilities are no rivals: a density has units, and may be as large as one likes where the data are
    few values that repeat. Records of unlike kinds are refused. Densities in different units (of data that one model
    had standardized) look alike, and must not be compared either.

    Evidence that is a lower bound (method "iwae") can only disadvantage its model: the better of two may come out
    second, or first by less than it should, but no model is flattered by its own bound. Not for training data, where
    the larger model wins, whatever it has learned. Below about 100 data points `dse` itself is unreliable: too small.

    Source: Vehtari et al. 2017 (arXiv:1507.04544), section 5; Sivula et al. 2020 (arXiv:2008.10296).

    Args:
        evidences: what `log_evidence` (or `elbo`) found, by model name, all on the same N data points in one order.

    Returns:
        A data frame indexed by model: `rank` (0 is best), `elpd`, `se` (`sqrt(N) sd`), `elpd_diff` (best minus this,
        at least 0), `dse` (of that difference), `monte_carlo_error`, `mean` and `mean_diff` (the same as `elpd` and
        `elpd_diff`, per data point), `warning` (the record carries one), `method`.

    Raises:
        ValueError: no records, records of different numbers of data points, of none, or of NaN, or of densities and of
            probabilities.

    Example:
        >>> import torch
        >>> def exact(values):
        ...     return Measurement(torch.tensor(values), torch.zeros(len(values)), num_particles=0, method="exact")
        >>> table = compare({"gmm": exact([-3.0, -7.0, -5.0]), "vae": exact([-2.0, -6.5, -3.5])})
        >>> table[["rank", "elpd", "se", "elpd_diff", "dse"]].round(2)
             rank  elpd    se  elpd_diff   dse
        vae     0 -12.0  3.97        0.0  0.00
        gmm     1 -15.0  3.46        3.0  0.87
    """
    sizes = {name: len(record.estimate) for name, record in evidences.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(
            f"evidences: found records of {sizes or 'no'} data points, expected at least one record and the same data "
            "points in all; measure every model on the same held-out set"
        )
    if bad := [name for name, record in evidences.items() if not sizes[name] or record.estimate.isnan().any()]:
        raise ValueError(
            f"evidences: found a record of {bad[0]!r} with {sizes[bad[0]]} data points, "
            f"{int(evidences[bad[0]].estimate.isnan().sum())} of them not a number, expected one or more, all of them "
            "numbers; measure it again, without the data that have none"
        )
    kinds = {name: record.kind for name, record in evidences.items() if record.kind}
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{name!r} has a {kind}" for name, kind in kinds.items())
        raise ValueError(
            f"evidences: found unlike kinds ({said}), expected one kind in all, as a density is no rival of a "
            "probability; give all models a likelihood of the same kind, on the same numbers: gray levels have a "
            "probability by a VAE's likelihood='categorical' or 'logistic_mixture', or by ppvae.models.Dequantized"
        )
    ranked = sorted(evidences.items(), key=lambda item: item[1].estimate.sum().item(), reverse=True)
    best = ranked[0][1].estimate
    table = [
        {
            "rank": rank,
            "elpd": record.estimate.sum().item(),
            "se": _error_of_sum(record.estimate),
            "elpd_diff": (best - record.estimate).sum().item(),
            "dse": _error_of_sum(best - record.estimate),
            "monte_carlo_error": record.std_error.square().sum().sqrt().item(),
            "mean": record.estimate.mean().item(),
            "mean_diff": (best - record.estimate).mean().item(),
            "warning": bool(record.warning),
            "method": record.method,
        }
        for rank, (_, record) in enumerate(ranked)
    ]
    return Comparison(table, index=[name for name, _ in ranked])


def _error_of_sum(terms: Tensor) -> float:
    return len(terms) ** 0.5 * terms.std().item() if len(terms) > 1 else float("nan")
