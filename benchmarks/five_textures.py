"""Five views of a digit: what each way to fuse them costs, by how many views there are.

    PPVAE_DATA=... OMP_NUM_THREADS=1 python benchmarks/five_textures.py

MNIST over five textures, five digits of one class a data point. Trains a pair with each guide, with views hidden at
random; prints log p(x), the gap and calibration given one view, two, and all five, and how often a view that is
generated from one other, from all others, and from all five has their class, by a classifier trained here.
"""

import argparse
import time

import torch
from torch import Tensor, nn

import ppvae
from ppvae.inference.ledger.ascent import Ascent
from ppvae.models import MultimodalVAE
from ppvae.models.multimodal.named_fusions import FUSIONS
from ppvae.textures import PATTERNS

VIEWS = list(PATTERNS)
GIVEN = [VIEWS[:1], VIEWS[:2], VIEWS]
EFFORT = ppvae.Effort("auto", 1000, (ppvae.AIS(8, 200),), 100, Ascent(max_steps=100), restarts=0, richer=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guides", nargs="+", choices=list(FUSIONS), default=list(FUSIONS))
    parser.add_argument("--shared", type=int, default=10, help="size of the shared latent")
    parser.add_argument("--private", type=int, default=10, help="size of each view's own latent; 0 for none")
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--steps", type=int, default=4000, help="of training, batch 100")
    parser.add_argument("--held-out", type=int, default=6, help="data points of the ledger")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data = ppvae.datasets.load("textures")
    train, test = views_of(data.train), views_of(data.test)
    labels = data.labels["test"]
    classifiers = {view: trained_classifier(x, data.labels["train"], args) for view, x in train.items()}
    right = [f"{view} {share_of(classifiers[view], test[view], labels):.1%}" for view in VIEWS]
    print(f"the classifiers are right about {', '.join(right)} of real views", flush=True)
    for guide in args.guides:
        start = time.perf_counter()
        pair = trained(guide, train, args)
        done = time.perf_counter()
        few = {view: x[: args.held_out] for view, x in test.items()}
        options = {"patterns": GIVEN, "num_simulations": 200, "seed": args.seed, "progress": False}
        report = ppvae.gap_by_pattern(pair, few, EFFORT, **options)
        reliable = [each.log_evidence.reliable.double().mean().item() for each in report.reports.values()]
        print(f"\n{guide}: trained in {done - start:.0f} s, measured in {time.perf_counter() - done:.0f} s")
        print(report.summary().assign(reliable=reliable).round(2).to_string())
        for count in (1, 4, 5):
            share = coherence(pair, test, labels, classifiers, count)
            print(f"coherent, given {count} of the views: {share:.1%}", flush=True)


def views_of(images: Tensor) -> dict[str, Tensor]:
    """Each view as vectors, by the name of its pattern."""
    return dict(zip(VIEWS, images.unflatten(-1, (5, -1)).unbind(-2), strict=True))


def trained_classifier(x: Tensor, labels: Tensor, args: argparse.Namespace) -> nn.Module:
    torch.manual_seed(args.seed)
    network = nn.Sequential(
        nn.Unflatten(-1, (1, 28, 28)),
        nn.Conv2d(1, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, weight_decay=1e-4)
    for _ in range(args.steps // 2):
        at = torch.randint(len(x), (100,))
        loss = nn.functional.cross_entropy(network(x[at]), labels[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.requires_grad_(False)


def trained(guide: str, train: dict[str, Tensor], args: argparse.Namespace) -> MultimodalVAE:
    """A pair trained with all subsets of the views."""
    torch.manual_seed(args.seed)
    sizes = {view: x.shape[-1] for view, x in train.items()}
    private = dict.fromkeys(VIEWS, args.private) if args.private else None
    pair = MultimodalVAE.mlp(sizes, args.shared, [args.hidden], posterior=guide, private=private).init_from(train)
    ppvae.fit(
        pair,
        train,
        ppvae.ELBO(num_particles=2),
        transform=pair.hide_at_random,
        steps=args.steps,
        batch_size=100,
        lr=2e-3,
        schedule=lambda done: 1 - 0.95 * done,
        seed=args.seed,
        progress=False,
    )
    return pair


def share_of(classifier: nn.Module, x: Tensor, labels: Tensor) -> float:
    """How many the classifier gets right."""
    return (classifier(x).argmax(-1) == labels).double().mean().item()


def coherence(
    pair: MultimodalVAE, test: dict[str, Tensor], labels: Tensor, classifiers: dict[str, nn.Module], count: int
) -> float:
    """How often a view that is generated from the `count` views after it has their class; of five, it is the last."""
    torch.manual_seed(0)
    shares = []
    for m, view in enumerate(VIEWS):
        has = torch.zeros(len(labels), len(VIEWS), dtype=torch.bool)
        has[:, [(m + 1 + i) % len(VIEWS) for i in range(count)]] = True
        drawn = pair.generate({**test, "has": has})[view][0]
        shares.append(share_of(classifiers[view], drawn, labels))
    return sum(shares) / len(shares)


if __name__ == "__main__":
    main()
