"""A finger and a block on a line, an image and a force: what one latent of both knows of the next push.

    OMP_NUM_THREADS=1 python benchmarks/sensor_fusion.py

Simulated: an image of finger and block, the force between them, a push, and two targets that come of it: how far the
block moves (flow), and whether it is touched (contact). Prints, for held-out pushes, what is predicted from which
sensors, and with the pushes shuffled; the ledger by pattern; and how well the evidence tells sensors that belong
together.
"""

import argparse

import torch
from torch import Tensor, nn

import ppvae
from ppvae.models import Bernoulli, DiagonalNormal, Gaussian, ProductOfExperts, SensorFusion
from ppvae.networks import mlp

PIXELS, LATENTS, HIDDEN = 16, 4, [64, 64]
PATTERNS = [["image"], ["force"], ["image", "force"], ["image", "force", "flow", "contact"]]
EFFORT = ppvae.Effort("iwae", 1000, num_samples=100, ascent=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000, help="of training, batch 100")
    parser.add_argument("--held-out", type=int, default=40, help="rows of the ledger")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    train, test = simulated(10_000), simulated(2000)
    pair = fusion(train)
    ppvae.fit(
        pair,
        train,
        transform=pair.hide_at_random,
        steps=args.steps,
        batch_size=100,
        lr=5e-3,
        schedule=lambda done: 1 - 0.95 * done,
        seed=args.seed,
        progress=False,
    )
    touched = test["contact"].mean().item()
    print(f"contact in {touched:.1%} of the pushes; variance of the flow {test['flow'].var():.4f}")
    for names in PATTERNS[:3]:
        print(f"given {' + '.join(names):<14} {predicted(pair, test, names)}")
    shuffled = test | {"action": test["action"][torch.randperm(len(test["action"]))]}
    print(f"with the pushes shuffled   {predicted(pair, shuffled, PATTERNS[2])}")
    few = {name: x[: args.held_out] for name, x in test.items()}
    settings = {"patterns": PATTERNS, "num_simulations": 200, "seed": args.seed, "progress": False}
    report = ppvae.gap_by_pattern(pair, few, EFFORT, **settings)
    reliable = [each.log_evidence.reliable.double().mean().item() for each in report.reports.values()]
    print(report.summary().assign(reliable=reliable).round(2).to_string())
    print(f"pairs told from strangers by the evidence: {pairing(pair, test, 500, args.seed):.1%}")


def simulated(num: int) -> dict[str, Tensor]:
    """Finger and block anywhere on [0, 1]; a push moves the finger, and the block if it is in the way."""
    finger, block = torch.rand(2, num, 1)
    action = torch.rand(num, 1) - 0.5
    pixel = torch.linspace(0, 1, PIXELS)
    image = bump(pixel - finger) + 0.5 * bump(pixel - block) + 0.05 * torch.randn(num, PIXELS)
    force = (block - finger).sign() * bump(block - finger) + 0.05 * torch.randn(num, 1)
    contact = ((block - finger) * (finger + action - block) > 0).float()
    flow = contact * (finger + action - block) + 0.01 * torch.randn(num, 1)
    return {"image": image, "force": force, "flow": flow, "contact": contact, "action": action}


def bump(distance: Tensor) -> Tensor:
    return (-(distance / 0.2).square()).exp()


def fusion(train: dict[str, Tensor]) -> SensorFusion:
    def network(num_inputs: int, num_outputs: int) -> nn.Module:
        return mlp(num_inputs, HIDDEN, num_outputs, nn.SiLU)

    sizes = {"image": PIXELS, "force": 1}
    sensors = {name: Gaussian(network(LATENTS, size)) for name, size in sizes.items()}
    targets = {"flow": Gaussian(network(LATENTS + 1, 1)), "contact": Bernoulli(network(LATENTS + 1, 1))}
    for name, likelihood in (sensors | targets).items():
        likelihood.init_from(train[name])
    experts = {name: DiagonalNormal(network(size, 2 * LATENTS)) for name, size in sizes.items()}
    return SensorFusion(LATENTS, 1, sensors, targets, ProductOfExperts(experts))


def given(pair: SensorFusion, batch: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """The batch with all but these sensors hidden, and all targets."""
    has = torch.tensor([[name in names for name in pair.modalities]])
    return batch | {"has": has.expand(len(batch["action"]), -1)}


def predicted(pair: SensorFusion, batch: dict[str, Tensor], names: list[str]) -> str:
    torch.manual_seed(0)
    means = pair.reconstruct(given(pair, batch, names))
    right = ((means["contact"] > 0.5) == (batch["contact"] > 0.5)).double().mean()
    explained = 1 - (means["flow"] - batch["flow"]).square().mean() / batch["flow"].var()
    return f"contact right {right:.1%}, flow explained {explained:.1%}"


def pairing(pair: SensorFusion, batch: dict[str, Tensor], num: int, seed: int) -> float:
    """How often `log p(image, force) - log p(image) - log p(force)` is larger for a pair than with another's force.

    As log p(image) is the same in both, it is left out.
    """

    def together(force: Tensor) -> Tensor:
        rows = {name: x[:num] for name, x in batch.items()} | {"force": force}
        both, alone = (
            ppvae.log_evidence(pair, given(pair, rows, names), "iwae", 1000, seed=seed, progress=False).estimate
            for names in (["image", "force"], ["force"])
        )
        return both - alone

    force = batch["force"][:num]
    return (together(force) > together(force.roll(1, 0))).double().mean().item()


if __name__ == "__main__":
    main()
