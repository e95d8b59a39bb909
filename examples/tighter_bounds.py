"""Tighter variational bounds are not necessarily better - and how to have it both ways.

With more particles K the importance-weighted bound closes in on log p(x), and the model's gradient gets clearer; but
the guide's signal-to-noise ratio falls as K^-1/2 (Rainforth et al. 2018, arXiv:1802.04537). With the doubly
reparameterized gradient of the same bound it rises as K^1/2 (Tucker et al. 2019, arXiv:1810.04152). Both are measured
here: on the first paper's Gaussian toy, with parameters near the optimum, and on a VAE trained on handwritten digits,
whose weights have heavier tails than the theory assumes. Prints the slopes of log SNR on log K, and writes the figure.

It takes about three minutes on one core.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
import xarray as xr
from torch import nn

import ppvae
from ppvae.views import plots

OBJECTIVES = {
    "IWAE": ppvae.IWAE(),
    "IWAE, sticking the landing": ppvae.IWAE(gradient="stl"),
    "IWAE, doubly reparameterized": ppvae.IWAE(gradient="dreg"),
}


class GaussianToy(ppvae.Pair):
    """z ~ N(mu, I), x | z ~ N(z, I), q(z | x) = N(A x + b, 2/3 I), a little off the optimum A = I/2, b = mu/2."""

    def __init__(self, num_features: int = 20, off_by: float = 0.01):
        super().__init__()
        identity = torch.eye(num_features)
        self.mu = nn.Parameter(torch.randn(num_features))
        self.A = nn.Parameter(identity / 2 + off_by * torch.randn(num_features, num_features))
        self.b = nn.Parameter(self.mu.detach() / 2 + off_by * torch.randn(num_features))
        self.example = torch.zeros(1, num_features)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.mu, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.A.T + self.b, (2 / 3) ** 0.5).to_event(1))

    def log_prob(self, x):
        return dist.Normal(self.mu, 2**0.5).to_event(1).log_prob(x)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="gradients for each estimator and K")
    parser.add_argument("--particles", type=int, nargs="+", default=[1, 10, 100, 1000], help="the K to try")
    parser.add_argument("--device", default="cpu", help="where to train and measure, such as cuda")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the figure")
    parser.add_argument("--smoke", action="store_true", help="the least of everything: does it run at all?")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    repeats, num_particles = (32, [1, 4, 16]) if args.smoke else (args.repeats, args.particles)
    torch.manual_seed(0)
    toy = GaussianToy().to(args.device)
    vae, digits = trained_vae(epochs=2 if args.smoke else 100, device=args.device)
    measured = {
        "Gaussian toy": ppvae.gradient_statistics(
            toy, toy.sample(10), OBJECTIVES, num_particles, repeats, groups={"mu (model)": ["mu"], "b (guide)": ["b"]}
        ),
        "VAE on digits": ppvae.gradient_statistics(vae, digits, OBJECTIVES, num_particles, repeats),
    }
    heavy = ppvae.log_evidence(vae, digits, "iwae", num_particles=10_000, seed=0).khat > 0.25
    print(
        f"VAE on digits: w^4, on which dreg's noise rests, has no mean (k-hat > 1/4) at {heavy.sum()} of {len(heavy)}\n"
    )
    for name, ds in measured.items():
        print(f"{name}: slope of log SNR on log K")
        print(slopes(ds).to_pandas().round(2).to_string(), end="\n\n")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "tighter_bounds.png"
    with plots.style():
        draw(measured).savefig(path)
    print(f"wrote {path}")


def trained_vae(epochs: int, device: str) -> tuple[ppvae.Pair, torch.Tensor]:
    """A VAE trained on binarized 8x8 digits, and ten held-out digits."""
    digits = ppvae.datasets.load("digits", binarize="dynamic")
    vae = ppvae.models.VAE.mlp(64, 8, hidden=[100]).init_from(digits.train)
    ppvae.fit(vae, digits.train, ppvae.IWAE(10), epochs=epochs, lr=3e-3, transform=digits.transform, device=device)
    return vae, digits.test[:10]


def slopes(ds: xr.Dataset) -> xr.DataArray:
    """Least-squares slopes of log SNR on log K, points weighted by inverse relative error; unseen signals left out."""
    result = xr.full_like(ds["snr"].isel(num_particles=0, drop=True), np.nan)
    for at in np.ndindex(result.shape):
        index = dict(zip(result.dims, at, strict=True))
        snr, error = ds["snr"].isel(index).values, ds["snr_std_error"].isel(index).values
        seen = snr > 2 * error
        if seen.sum() >= 2:
            K = np.log(ds["num_particles"].values[seen])
            result[index] = np.polyfit(K, np.log(snr[seen]), 1, w=snr[seen] / error[seen])[0]
    return result


def draw(measured: dict[str, xr.Dataset]) -> plt.Figure:
    """A row for each pair: how far the bound is from log p(x), and the SNR of the model's and the guide's gradient."""
    figure, grid = plt.subplots(len(measured), 3, figsize=(13, 4 * len(measured)), layout="constrained")
    for row, (name, ds) in zip(grid, measured.items(), strict=True):
        bound = ds.isel(objective=0)
        row[0].errorbar(
            bound["num_particles"], -bound["value_bias"], bound["value_bias_std_error"], color="black", marker="o"
        )
        row[0].set(ylabel="log p(x) - bound [nats]", title=name)
        plots.log_axes(row[0], ds["num_particles"].values)
        plots.gradient_statistics(ds, row[1:])
    figure.legend(*grid[0, 2].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


if __name__ == "__main__":
    main()
