"""Modes found on a ring, a grid and stacked MNIST, by a VAE, two GANs and a perfect sampler, beside its floor.

    PPVAE_DATA=... python benchmarks/modes.py
    python benchmarks/modes.py --data ring grid

For each data set, prints how many modes have a draw, the share of draws in any, and the KL divergence of their shares
of the modes from equal ones, in nats, with standard errors over seeds of training. The column "ideal" is the floor,
what a perfect sampler finds in expectation, in closed form. Beside it stands one, which draws held-out data; where the
two differ on stacked MNIST, it is by the classifier that tells the modes. All draws of stacked MNIST are in black and
white: the VAE has a coin for each pixel; the GANs are trained on gray levels, and their draws are binarized as the data
are.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import ppvae
from ppvae.datasets import Dataset, load
from ppvae.inference import Cell, Table
from ppvae.models import GAN, VAE

QUANTITIES = ("modes_found", "in_modes", "modes_kl")
NOWHERE = "a run of which no draw lies in any mode"


@dataclass(frozen=True)
class Task:
    """One data set: what is trained on it, and how modes are told.

    Attributes:
        data: as loaded.
        modes: the modes to find.
        num: draws of each sampler.
        vae: makes one.
        generator, critic: make those of a GAN.
        num_latents: of both.
        finish: what is done to a GAN's draws.
        rate: of training, of the VAE; that of GANs is half of it.
        penalty: of the gradient, for the Wasserstein GAN.
    """

    data: Dataset
    modes: ppvae.Modes
    num: int
    vae: Callable[[], VAE]
    generator: Callable[[], nn.Module]
    critic: Callable[[], nn.Module]
    num_latents: int
    finish: Callable[[Tensor], Tensor]
    rate: float
    penalty: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--steps", type=int, default=2000, help="of training of each")
    parser.add_argument("--seeds", type=int, default=3, help="of training, and of the perfect sampler's draws")
    args = parser.parse_args()
    for name in args.data:
        start = time.perf_counter()
        task = TASKS[name]()
        found = [measured(name, task, args.steps, seed) for seed in range(args.seeds)]
        title = f"\n{name}: {task.num} draws of {task.modes.num} modes, {args.steps} steps, {args.seeds} seeds"
        cells = {sampler: over_seeds([one[sampler] for one in found]) for sampler in found[0]}
        print(Table(cells, dict.fromkeys(QUANTITIES) | task.modes.floor(task.num), title))
        print(f"{time.perf_counter() - start:.0f} s", flush=True)


def over_seeds(found: list[dict[str, float]]) -> dict[str, Cell]:
    """Means, and their errors."""
    cells = {}
    for quantity in QUANTITIES:
        values = torch.tensor([one[quantity] for one in found])
        error = values.std().item() / math.sqrt(len(values))
        cells[quantity] = Cell(values.mean().item(), error) if values.isfinite().all() else Cell(undefined=NOWHERE)
    return cells


def measured(name: str, task: Task, steps: int, seed: int) -> dict[str, dict[str, float]]:
    """What each sampler finds, once trained from this seed."""
    torch.manual_seed(seed)
    settings = {"steps": steps, "schedule": lambda done: 0.1**done, "seed": seed, "progress": False}
    vae = task.vae()
    ppvae.fit(vae, task.data.train, transform=task.data.transform, lr=task.rate, **settings)
    samplers = {"VAE": lambda num: vae.sample(num)}
    groups = ppvae.ParameterGroups({"critic": 2.0}, settings={"betas": (0.5, 0.9)})
    wasserstein = ppvae.AdversarialLoss(kind="wasserstein", penalty=task.penalty)
    for kind, loss in {"GAN": ppvae.AdversarialLoss(), "Wasserstein GAN": wasserstein}.items():
        gan = GAN(task.generator(), task.critic(), task.num_latents)
        ppvae.fit(gan, task.data.train, loss, lr=task.rate / 2, optimizer=groups, **settings)
        samplers[kind] = lambda num, gan=gan: task.finish(gan.sample(num))
    found = {kind: task.modes.found(labels(task, sample)) for kind, sample in samplers.items()}
    fresh = load(name, seed=1 + seed, **({"binarize": "static"} if name == "stacked" else {}))
    return {"perfect sampler": task.modes.found(labels(task, again(fresh)))} | found


def labels(task: Task, sample: Callable[[int], Tensor]) -> Tensor:
    """The modes of `task.num` draws, a thousand at a time."""
    return torch.cat([task.modes.label(sample(min(1000, task.num - i))) for i in range(0, task.num, 1000)])


def again(data: Dataset) -> Callable[[int], Tensor]:
    """Held-out data one after the other."""
    rest = iter(torch.cat([data.validation, data.test]).split(1000))
    return lambda num: next(rest)[:num]


def gaussians(name: str, centers: Tensor) -> Task:
    """A ring or a grid, in two dimensions; a mode is within three standard deviations of its center."""
    return Task(
        load(name),
        ppvae.Modes.near(centers, 0.15),
        2000,
        lambda: VAE.mlp(2, 2, [64, 64], "gaussian"),
        lambda: ppvae.networks.mlp(4, [64, 64], 2, nn.LeakyReLU),
        lambda: ppvae.networks.mlp(2, [64, 64], 1, nn.LeakyReLU),
        4,
        lambda x: x,
        4e-3,
        0.1,
    )


def ring() -> Task:
    angle = torch.arange(8) * (math.pi / 4)
    return gaussians("ring", 2 * torch.stack([angle.cos(), angle.sin()], 1))


def grid() -> Task:
    return gaussians("grid", torch.cartesian_prod(*[torch.arange(-4.0, 5.0, 2.0)] * 2))


def stacked() -> Task:
    """Three digits, as the channels of one image; a mode is what a classifier says of each channel."""
    data = load("stacked", binarize="dynamic")
    assert data.transform
    return Task(
        data,
        ppvae.Modes.stacked(classifier()),
        10_000,
        lambda: VAE.mlp(data.num_features, 32, [400], activation=nn.ReLU).init_from(data.train),
        lambda: nn.Sequential(ppvae.networks.mlp(64, [256, 512], data.num_features, nn.LeakyReLU), nn.Sigmoid()),
        lambda: ppvae.networks.mlp(data.num_features, [256, 256], 1, nn.LeakyReLU),
        64,
        data.transform,
        1e-3,
        10.0,
    )


def classifier() -> nn.Module:
    """Of one digit in black and white; prints how many held-out ones it is right about."""
    digits = load("mnist", binarize="dynamic")
    assert digits.transform
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for index in torch.randint(len(digits.train), (1500, 100)):
        x = digits.transform(digits.train[index])
        loss = nn.functional.cross_entropy(network(x), digits.labels["train"][index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        right = (network(digits.test).argmax(1) == digits.labels["test"]).double().mean().item()
    print(f"a classifier that is right about {right:.1%} of held-out digits", flush=True)
    return network


TASKS = {"ring": ring, "grid": grid, "stacked": stacked}

if __name__ == "__main__":
    main()
