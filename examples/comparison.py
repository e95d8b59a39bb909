"""The table of ticks and crosses, measured: mixture, VAE, GAN, VAE/GAN, flow and diffusion by their samples.

Mode coverage, sampling speed, quality: each with a figure, and its error over seeds of training. All models are trained
on dequantized handwritten digits and draw as many as there are held out. Quality and coverage are measured in the
features of a small classifier, trained first. What a model does not have is undefined, and the table says why.
Writes the table and one picture.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import ppvae
from ppvae.datasets import Dataset
from ppvae.inference import Cell, Table
from ppvae.models import GAN, VAE, VAEGAN, DiffusionVAE, GaussianMixture, MLPDenoiser, RealNVP
from ppvae.views import plots

D, FEATURES, TRAINING = 64, 16, "training data"
Models = dict[str, ppvae.Pair | Tensor]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="of training of each model")
    parser.add_argument("--seeds", type=int, default=3, help="how many times all is trained")
    parser.add_argument("--particles", type=int, default=500, help="for the log p(x) of the VAE, and draws for an ELBO")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for table and picture")
    parser.add_argument("--smoke", action="store_true", help="the least of everything: does it run at all?")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.smoke:
        args.steps, args.seeds, args.particles = 5, 2, 10
    data = ppvae.datasets.load("digits", dequantize=True)
    features, label, accuracy = classifier(data, 20 if args.smoke else 1000)
    modes = ppvae.Modes(10, label)
    tables, models = [], {}
    for seed in range(args.seeds):
        models, seconds = trained(data, args.steps, seed)
        table = ppvae.compare_samples(models, data.test, models[TRAINING], features, modes, seed=seed)
        cells = {name: dict(of_model) for name, of_model in table.cells.items()}
        for name, pair in models.items():
            cells[name] |= {"training_seconds": Cell(seconds[name])} if name in seconds else {}
            cells[name]["log_p"] = log_p(pair, data.test, args.particles)
        cells[TRAINING]["training_seconds"] = Cell(undefined="it is no model")
        tables.append(Table(cells, {**table.ideal, "training_seconds": None, "log_p": None}, table.title))
        print(f"seed {seed}: all trained in {sum(seconds.values()):.0f} s", flush=True)

    text = f"features of a classifier that is right on {accuracy:.1%} of held-out digits\n{over_seeds(tables)}"
    print(f"\n{text}")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "comparison.txt").write_text(text + "\n")
    with ppvae.plots.style():
        draw(models, over_seeds(tables), args.out / "comparison.png")
    print(f"\nwrote comparison.txt and comparison.png to {args.out}/")


def classifier(data: Dataset, steps: int) -> tuple[Callable, Callable, float]:
    """The features and the labels that a small network gives to digits, and its accuracy on the held-out ones."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(D, 64), nn.ReLU(), nn.Linear(64, FEATURES), nn.Tanh())
    network = nn.Sequential(body, nn.Linear(FEATURES, 10))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.05)
    for _ in range(steps):
        few = torch.randint(len(data.train), (128,))
        loss = nn.functional.cross_entropy(network(data.transform(data.train[few])), data.labels["train"][few])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def label(x: Tensor) -> Tensor:
        return network(x).argmax(1)

    return body, label, (label(data.test) == data.labels["test"]).double().mean().item()


def trained(data: Dataset, steps: int, seed: int) -> tuple[Models, dict[str, float]]:
    """All models, trained, beside training data as a perfect sampler; and how long each took."""
    torch.manual_seed(seed)
    x = data.transform(data.train)
    generator = nn.Sequential(ppvae.networks.mlp(16, [128, 128], D, nn.LeakyReLU), nn.Sigmoid())
    critic = ppvae.networks.mlp(D, [128, 128], 1, nn.LeakyReLU)
    groups = ppvae.ParameterGroups({"critic": 2.0}, settings={"betas": (0.5, 0.9)})
    features = ppvae.networks.hidden_layers(D, [128, 128], nn.LeakyReLU)
    against = {"optimizer": groups, "lr": 1e-3}
    pairs: dict[str, tuple[ppvae.Pair, dict]] = {
        "mixture": (GaussianMixture(30, D, "diagonal").double(), {}),
        "VAE": (VAE.mlp(D, 8, [128], "heteroscedastic").init_from(x), {}),
        "GAN": (GAN(generator, critic, 16), {"objective": ppvae.AdversarialLoss()} | against),
        "VAE/GAN": (
            VAEGAN(VAE.mlp(D, 8, [128], "gaussian").init_from(x), features, nn.Linear(128, 1)),
            {"objective": ppvae.FeatureELBO(beta=0.1)} | against,
        ),
        "flow": (RealNVP(D, hidden=[64, 64]), {}),
        "diffusion": (
            DiffusionVAE(MLPDenoiser(D, [128, 128]), [D], 50).init_from(x),
            {"objective": ppvae.SingleTermELBO()},
        ),
    }
    seconds = {}
    for name, (pair, settings) in pairs.items():
        start = time.perf_counter()
        if isinstance(pair, GaussianMixture):
            ppvae.fit_em(pair, x.double(), restarts=2, covariance_floor=1e-3, seed=seed, progress=False)
        else:
            options = {"lr": 3e-3, "schedule": lambda done: 0.1**done, "transform": data.transform} | settings
            ppvae.fit(pair, data.train, steps=steps, seed=seed, progress=False, **options)
        if isinstance(pair, VAEGAN):  # sigma, which its training does not see
            pair.pair.likelihood.start_sigma((x - pair.reconstruct(x, 10)).square().mean().sqrt())
        seconds[name] = time.perf_counter() - start
    models: Models = {name: pair for name, (pair, _) in pairs.items()}
    return models | {TRAINING: x[torch.randperm(len(x))[: len(data.test)]]}, seconds


def log_p(pair: ppvae.Pair | Tensor, x: Tensor, particles: int) -> Cell:
    """log p(x) in nats per data point, exact or a lower bound, or why there is none."""
    if isinstance(pair, Tensor):
        return Cell(undefined="it is no model")
    if pair.evidence_undefined:
        return Cell(undefined=pair.evidence_undefined)
    x = x.to(next(pair.parameters()).dtype)
    if isinstance(pair, DiffusionVAE):
        found = ppvae.elbo(pair, x, max(2, particles // 50), seed=0, progress=False)
    else:
        method = "iwae" if isinstance(pair, VAE | VAEGAN) else "exact"
        found = ppvae.log_evidence(pair, x, method, particles, seed=0, progress=False)
    return Cell(found.mean().estimate, found.mean().std_error)


def over_seeds(tables: list[Table]) -> Table:
    """Means, and their errors over seeds."""
    cells: dict[str, dict[str, Cell]] = {}
    for name, of_model in tables[0].cells.items():
        cells[name] = {}
        for quantity, first in of_model.items():
            values = torch.tensor([table[name][quantity].estimate for table in tables])
            error = values.std().item() / math.sqrt(len(values))
            cells[name][quantity] = first if first.undefined else Cell(values.mean().item(), error)
    return Table(cells, tables[0].ideal, f"{tables[0].title}; means and errors over {len(tables)} seeds of training")


def draw(models: Models, table: Table, path: Path) -> None:
    """Samples of each model; and quality against coverage, with errors over seeds."""
    rows = -(-(1 + len(models)) // 4)
    figure, grid = plt.subplots(rows, 4, figsize=(10, 2.6 * rows), layout="constrained")
    *axes, last = grid.flat
    for ax, (name, source) in zip(axes, models.items(), strict=True):
        x = source[:36] if isinstance(source, Tensor) else source.sample(36)
        plots.images(ax, x.float(), (8, 8))
        ax.set_title(name)
    for i, (name, cells) in enumerate(table.cells.items()):
        coverage, density = cells["coverage"], cells["density"]
        point = (coverage.estimate, density.estimate)
        last.plot(*point, "osD^vPX"[i % 7], color=f"C{i}", label=name)
        last.errorbar(*point, density.std_error, coverage.std_error, color=f"C{i}", capsize=0)
    last.set(xlabel="coverage", ylabel="density", xlim=(0, 1.05), ylim=0)
    last.legend(fontsize=7)
    figure.savefig(path)


if __name__ == "__main__":
    main()
