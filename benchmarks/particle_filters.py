"""How the error of log p(x) grows with a sequence's length: importance weights beside particle filters.

    OMP_NUM_THREADS=1 python benchmarks/particle_filters.py

Linear Gaussian sequences, whose log p(x) is exact by Kalman filtering, and a guide that is independent in time. The
table has the root mean square of the error over the sequences and, in brackets, its mean: in nats, for as many
particles each way; then the share of the sequences that are called reliable, and of these the share that is within
1.96 standard errors.
"""

import argparse

import pandas as pd
import torch

import ppvae
from ppvae.models import LinearGaussianStateSpace

METHODS = ("iwae", "particle filter", "bootstrap filter")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[5, 10, 20, 40, 80])
    parser.add_argument("--sequences", type=int, default=400, help="of each length")
    parser.add_argument("--particles", type=int, default=800)
    args = parser.parse_args()

    torch.manual_seed(0)
    pair = LinearGaussianStateSpace(3, 2, "mean_field")
    rows = {}
    for length in args.lengths:
        x = pair.sample(torch.zeros(args.sequences, length, 3))
        exact = pair.log_prob(x).detach().double()
        rows[length] = {}
        for method in METHODS:
            found = ppvae.log_evidence(pair, x, method, args.particles, seed=0, progress=False)
            error = found.estimate - exact
            covered = (error.abs() < 1.96 * found.std_error)[found.reliable].double().mean()
            rows[length][method] = (
                f"{error.square().mean().sqrt():.3f} ({error.mean():+.3f}), "
                f"{found.reliable.double().mean():.0%}, {covered:.1%}"
            )
    print(pd.DataFrame.from_dict(rows, orient="index").rename_axis("steps").to_string())


if __name__ == "__main__":
    main()
