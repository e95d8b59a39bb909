"""Halves of digits, and digits with labels: what each way to fuse several modalities costs, by what is there.

Trains a pair with each of four guides (product of experts, mixture of experts, mixture of products, one joint network),
with modalities hidden at random. Then measures, for each pattern of what is there, log p(x), the gap, and whether the
guide is overconfident; and, by a classifier trained here, whether what is generated from one modality fits it. Writes
the figures, and a picture.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor, nn

import ppvae
from ppvae.inference.ledger.ascent import Ascent
from ppvae.models import MultimodalVAE
from ppvae.models.multimodal.named_fusions import FUSIONS
from ppvae.views import plots

NUM_CLASSES = 10
DROPPED = ("data_points", "approximation_gap_error", "amortization_gap_error")
"""Columns that the printed table leaves out."""
HALVES = {"upper": slice(0, 32), "lower": slice(32, 64)}


def digit_halves(x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    return {name: x[:, rows] for name, rows in HALVES.items()}


def image_and_label(x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    return {"image": x, "label": labels}


TASKS = {"halves": digit_halves, "image and label": image_and_label}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=[*TASKS, "both"], default="image and label")
    parser.add_argument("--steps", type=int, default=1000, help="of training")
    parser.add_argument("--held-out", type=int, default=24, help="digits to measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for figures and picture")
    parser.add_argument("--smoke", action="store_true", help="the least of everything: does it run at all?")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.smoke:
        args.task, args.steps, args.held_out = "both", 5, 4
    digits = ppvae.datasets.load("digits", binarize="dynamic")
    classifier = trained_classifier(digits, args)
    seen = (classifier(digits.test).argmax(-1) == digits.labels["test"]).double().mean()
    lines, found = [], {}

    def tell(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    tell(f"the classifier is right about {seen:.1%} of real digits")
    for task in TASKS if args.task == "both" else [args.task]:
        train, test = (TASKS[task](getattr(digits, part), digits.labels[part]) for part in ("train", "test"))
        for posterior in FUSIONS:
            start = time.perf_counter()
            pair = trained(task, posterior, train, digits, args)
            done = time.perf_counter()
            report = measured(pair, {name: t[: args.held_out] for name, t in test.items()}, args)
            shares = coherence(task, pair, test, digits.labels["test"], classifier)
            found[task, posterior] = pair, report, shares
            seconds = f"trained in {done - start:.0f} s, measured in {time.perf_counter() - done:.0f} s"
            tell(f"\n{task}, {posterior}: {seconds}")
            tell(table(report).round(2).to_string())
            tell(f"coherent: {', '.join(f'{name} {share:.1%}' for name, share in shares.items())}")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "modalities.txt").write_text("\n".join([*lines, ""]))
    with ppvae.plots.style():
        draw(found, digits, args.out / "modalities.png")
    print(f"\nwrote modalities.txt and .png to {args.out}/")


def trained_classifier(digits: ppvae.datasets.Dataset, args: argparse.Namespace) -> nn.Module:
    """Of binarized digits."""
    torch.manual_seed(args.seed)
    network = ppvae.networks.mlp(digits.num_features, [200], NUM_CLASSES, nn.ReLU)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, weight_decay=1e-4)
    for _ in range(args.steps):
        at = torch.randint(len(digits.train), (128,))
        logits = network(digits.transform(digits.train[at]))
        loss = nn.functional.cross_entropy(logits, digits.labels["train"][at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.requires_grad_(False)


def trained(
    task: str,
    posterior: str,
    train: dict[str, Tensor],
    digits: ppvae.datasets.Dataset,
    args: argparse.Namespace,
) -> MultimodalVAE:
    """A pair trained with all subsets of the modalities; images are binarized anew for each minibatch."""
    torch.manual_seed(args.seed)
    sizes = {name: NUM_CLASSES if name == "label" else x.shape[1] for name, x in train.items()}
    pair = MultimodalVAE.mlp(sizes, 8, [100], {"label": "label"} if "label" in sizes else None, posterior)

    def shown(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        drawn = {name: x if name == "label" else digits.transform(x) for name, x in batch.items()}
        return pair.hide_at_random(drawn)

    ppvae.fit(
        pair.init_from(train),
        train,
        ppvae.ELBO(num_particles=2),
        transform=shown,
        steps=args.steps,
        batch_size=128,
        lr=1e-2,
        schedule=lambda done: 1 - 0.95 * done,
        seed=args.seed,
        progress=False,
    )
    return pair


def measured(pair: MultimodalVAE, test: dict[str, Tensor], args: argparse.Namespace) -> ppvae.PatternReport:
    """The gap of each pattern, and what of it is amortization."""
    effort = ppvae.Effort("auto", 2000, (ppvae.AIS(8, 60),), 200, Ascent(max_steps=100), restarts=0, richer=False)
    if args.smoke:
        effort = ppvae.Effort("iwae", 20, num_samples=5, ascent=None)
    first, second = pair.modalities
    return ppvae.gap_by_pattern(
        pair,
        test,
        effort,
        patterns=[[first, second], [first], [second]],
        num_simulations=20 if args.smoke else 400,
        seed=args.seed,
        progress=False,
    )


def table(report: ppvae.PatternReport) -> pd.DataFrame:
    """The lines of the report, and of how many digits the evidence is reliable."""
    found = report.summary()
    found = found[[name for name in found if name not in DROPPED]]
    reliable = [each.log_evidence.reliable.double().mean().item() for each in report.reports.values()]
    return found.assign(reliable=reliable)


@torch.no_grad()
def coherence(
    task: str, pair: MultimodalVAE, test: dict[str, Tensor], labels: Tensor, classifier: nn.Module
) -> dict[str, float]:
    """How often what is generated given one modality is of the class that the other one has."""
    shares = {}
    for m, given in enumerate(pair.modalities):
        has = torch.zeros(len(labels), 2, dtype=torch.bool)
        has[:, m] = True
        torch.manual_seed(0)
        drawn = {name: x[0] for name, x in pair.generate({**test, "has": has}).items()}
        both = drawn | {given: test[given]}
        found = both["label"] if given == "image" else classifier(whole(both)).argmax(-1)
        shares[f"given {given}"] = (found == labels).double().mean().item()
    return shares


def whole(x: dict[str, Tensor]) -> Tensor:
    """The image, in one piece."""
    return x["image"] if "image" in x else torch.cat([x["upper"], x["lower"]], -1)


def draw(found: dict[tuple[str, str], Any], digits: ppvae.datasets.Dataset, path: Path) -> None:
    """The gap of each pattern and what is generated from one modality, for each guide."""
    tasks = list(dict.fromkeys(task for task, _ in found))
    figure, axes = plt.subplots(len(tasks), 3, figsize=(12, 3.4 * len(tasks)), layout="constrained", squeeze=False)
    for row, task in zip(axes, tasks, strict=True):
        own = {posterior: found[task, posterior] for posterior in FUSIONS}
        gaps = pd.DataFrame({name: report.summary()["gap"] for name, (_, report, _) in own.items()})
        errors = pd.DataFrame({name: report.summary()["gap_error"] for name, (_, report, _) in own.items()})
        gaps.plot.bar(ax=row[0], yerr=errors, rot=0, legend=task == tasks[0])
        row[0].set(title=f"{task}: the gap", xlabel="", ylabel="nats")
        shares = pd.DataFrame({name: shares for name, (_, _, shares) in own.items()})
        errors = (shares * (1 - shares) / len(digits.labels["test"])) ** 0.5
        shares.plot.bar(ax=row[1], yerr=errors, rot=0, legend=False)
        row[1].set(title="coherent with what is given", ylabel="share of held-out digits", ylim=(0, 1))
        images = torch.cat([generated(task, pair, digits) for pair, _, _ in own.values()])
        plots.images(row[2], images, digits.shape, columns=NUM_CLASSES)
        plots.label_tiles(row[2], digits.shape, {}, {2 * i + 0.5: name for i, name in enumerate(own)})
        row[2].set_title("given the upper half" if task == "halves" else "given the label")
        row[2].set_anchor("N")  # so that the titles are level
    figure.savefig(path)


@torch.no_grad()
def generated(task: str, pair: MultimodalVAE, digits: ppvae.datasets.Dataset) -> Tensor:
    """Two digits of each class: drawn given the label, or the lower half given the upper one."""
    torch.manual_seed(0)
    chosen = [int((digits.labels["test"] == label).nonzero()[0]) for label in range(NUM_CLASSES)] * 2
    x, labels = digits.test[chosen], digits.labels["test"][chosen]
    batch, given = TASKS[task](x, labels), "upper" if task == "halves" else "label"
    has = torch.tensor([[name == given for name in pair.modalities]]).expand(len(x), -1)
    drawn = {name: value[0] for name, value in pair.generate({**batch, "has": has}).items()}
    return whole(drawn | {given: batch[given]})


if __name__ == "__main__":
    main()
