"""EM against scikit-learn: the same data, start and number of iterations, in turns, on the same cores.

    python benchmarks/em_vs_sklearn.py [--json em.json]

Both run `fit` as a user calls it, validation included, from the same weights, means and covariances. The two take turns
block by block, so that what else the machine does hits both; the table gives medians of the blocks, the median of the
ratios block by block, and how far the final log likelihoods are apart.
"""

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as SklearnMixture

from ppvae.inference.training.em import fit_em
from ppvae.models import GaussianMixture

SKLEARN_NAMES = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}


def make_data(num_points: int, num_features: int, num_components: int) -> np.ndarray:
    """Draws of a mixture of correlated, overlapping Gaussians."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(num_components, num_features))
    factors = rng.normal(size=(num_components, num_features, num_features)) / num_features**0.5
    component = rng.integers(num_components, size=num_points)
    x = means[component] + 0.3 * rng.normal(size=(num_points, num_features))
    for c in range(num_components):
        mine = component == c
        x[mine] += rng.normal(size=(mine.sum(), num_features)) @ factors[c]
    return x


def time_sklearn(x: np.ndarray, means: np.ndarray, covariance: str, iterations: int) -> tuple[float, float]:
    """Seconds of `fit`, and the mean log likelihood it ends at."""
    C, D = means.shape
    shapes = {"full": np.eye(D) * np.ones((C, 1, 1)), "tied": np.eye(D), "diagonal": np.ones((C, D))}
    mixture = SklearnMixture(
        C,
        covariance_type=SKLEARN_NAMES[covariance],
        tol=0,
        max_iter=iterations,
        init_params="random_from_data",
        weights_init=np.full(C, 1 / C),
        means_init=means,
        precisions_init=shapes.get(covariance, np.ones(C)) / x.var(),
    )
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(x)
    return time.perf_counter() - start, mixture.score(x)


def time_ppvae(x: np.ndarray, means: np.ndarray, covariance: str, iterations: int) -> tuple[float, float]:
    """Seconds of `fit_em`, and the mean log likelihood it ends at."""
    C, D = means.shape
    mixture = GaussianMixture(C, D, covariance).to(torch.from_numpy(x).dtype)
    mixture.start(torch.from_numpy(means), x.var())
    start = time.perf_counter()
    result = fit_em(mixture, x, init="current", max_iterations=iterations, tolerance=-1.0)
    return time.perf_counter() - start, result.history[-1]


def compare(x: np.ndarray, covariance: str, num_components: int, iterations: int, blocks: int) -> dict:
    """One row of the table."""
    means = x[np.random.default_rng(1).choice(len(x), num_components, replace=False)]
    seconds: dict[str, list[float]] = {"sklearn": [], "ppvae": []}
    ends = {}
    time_ppvae(x, means, covariance, iterations=1)  # threads and libraries start
    for _ in range(blocks):
        for name, run in (("sklearn", time_sklearn), ("ppvae", time_ppvae)):
            elapsed, ends[name] = run(x, means, covariance, iterations)
            seconds[name].append(elapsed)
    ratios = [theirs / ours for theirs, ours in zip(seconds["sklearn"], seconds["ppvae"], strict=True)]
    return {
        "covariance": covariance,
        "dtype": str(x.dtype),
        "sklearn_s": statistics.median(seconds["sklearn"]),
        "ppvae_s": statistics.median(seconds["ppvae"]),
        "times_faster": statistics.median(ratios),
        "times_faster_worst_block": min(ratios),
        "log_likelihood": ends["ppvae"],
        "difference": abs(ends["ppvae"] - ends["sklearn"]),
        "blocks": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--covariances", nargs="+", default=list(SKLEARN_NAMES), choices=SKLEARN_NAMES)
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32"], choices=["float64", "float32"])
    parser.add_argument("--json", type=Path, help="also write every timing here")
    args = parser.parse_args()

    x = make_data(args.points, args.features, args.components)
    print(
        f"EM, N={args.points}, D={args.features}, C={args.components}, {args.iterations} iterations, "
        f"{torch.get_num_threads()} threads, medians of {args.blocks} blocks\n\n"
        "| covariance | data | scikit-learn, s | ppvae, s | faster | worst block | log likelihood differs by, nats |\n"
        "|---|---|---|---|---|---|---|"
    )
    rows = []
    for covariance in args.covariances:
        for dtype in args.dtypes:
            row = compare(x.astype(dtype), covariance, args.components, args.iterations, args.blocks)
            rows.append(row)
            print(
                f"| {covariance} | {dtype} | {row['sklearn_s']:.2f} | {row['ppvae_s']:.2f} "
                f"| {row['times_faster']:.1f}x | {row['times_faster_worst_block']:.1f}x | {row['difference']:.1e} |",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps({"settings": vars(args) | {"json": None}, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
