"""A hundred labels of MNIST: M2 without and with its classification term, M1, and M1+M2 trained in stages.

    PPVAE_DATA=... OMP_NUM_THREADS=1 python benchmarks/semi_supervised_mnist.py --only bound m2

All 50,000 training digits, of which ten in each class have a label. These come sixty times each, with a sixtieth of the
weight: the objective is the same, and few batches are without labels. Prints the error on the 10,000 test digits.
Published (Kingma et al. 2014, 20 nets of labels each): M1+TSVM 11.82% (0.25), M2 11.97% (1.71), M1+M2 3.33% (0.14).
"""

import argparse
import time

import torch
from torch import Tensor, nn

import ppvae
from ppvae.models import M1, M1M2, M2, VAE, Classifier

PAIRS = ["bound", "m2", "m1", "m1m2"]
PER_CLASS, COPIES = 10, 60
CLASSES, LATENTS = 10, 50
WEIGHT = 0.1 / (PER_CLASS * CLASSES / 50_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PAIRS, nargs="+", default=PAIRS)
    parser.add_argument("--steps", type=int, default=2000, help="of M2, batch 100")
    parser.add_argument("--latent-steps", type=int, default=6000, help="of M1's classifier and of M1+M2, batch 100")
    parser.add_argument("--vae-steps", type=int, default=10_000, help="of the VAE below M1 and M1+M2, batch 100")
    parser.add_argument("--hidden", type=int, default=300, help="size of every hidden layer")
    parser.add_argument("--seed", type=int, default=0, help="of the labels and the training")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    digits = ppvae.datasets.load("mnist", binarize="dynamic")
    batch, weights = partly_labeled(digits, args.seed)
    torch.manual_seed(args.seed)
    of_m2 = {
        "bound": ("M2, no classification term", ppvae.EnumeratedELBO()),
        "m2": (f"M2, weight {WEIGHT:g}", ppvae.SemiSupervisedELBO(weight=WEIGHT)),
    }
    for chosen in [name for name in of_m2 if name in args.only]:
        name, objective = of_m2[chosen]
        pair = M2.mlp(784, LATENTS, CLASSES, [args.hidden], activation=nn.Softplus).init_from(digits.train)
        trained(name, pair, batch, weights, objective, args.steps, digits, args)
    if {"m1", "m1m2"} & set(args.only):
        vae = VAE.mlp(784, LATENTS, [args.hidden, args.hidden], activation=nn.Softplus).init_from(digits.train)
        start = time.perf_counter()
        ppvae.fit(
            vae,
            digits.train,
            steps=args.vae_steps,
            batch_size=100,
            transform=digits.transform,
            seed=args.seed,
            device=args.device,
            progress=False,
        )
        print(f"{'the VAE below':<28} {args.vae_steps} steps in {time.perf_counter() - start:.0f} s", flush=True)
        vae.requires_grad_(False)
    if "m1" in args.only:
        pair = M1(vae, Classifier(nn.Linear(LATENTS, CLASSES)))
        trained("M1, linear classifier", pair, batch, weights, ppvae.ELBO(), args.latent_steps, digits, args)
    if "m1m2" in args.only:
        m2 = M2.mlp(LATENTS, LATENTS, CLASSES, [args.hidden], "heteroscedastic", activation=nn.Softplus)
        objective = ppvae.SemiSupervisedELBO(weight=WEIGHT)
        name = f"M1+M2, weight {WEIGHT:g}"
        trained(name, M1M2(vae, m2), batch, weights, objective, args.latent_steps, digits, args)


def partly_labeled(digits: ppvae.datasets.Dataset, seed: int) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """The training data `(x, y, known)` with the labeled rows repeated, and the weights of the rows."""
    y = digits.labels["train"]
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    labeled = torch.cat([order[y[order] == c][:PER_CLASS] for c in range(CLASSES)])
    unlabeled = torch.ones(len(y), dtype=torch.bool).index_fill(0, labeled, False).nonzero()[:, 0]
    rows = torch.cat([unlabeled, labeled.repeat(COPIES)])
    known = torch.arange(len(rows)) >= len(unlabeled)
    return (digits.train[rows], y[rows], known), torch.where(known, 1 / COPIES, 1.0)


def trained(
    name: str,
    pair: M1 | M2 | M1M2,
    batch: tuple[Tensor, Tensor, Tensor],
    weights: Tensor,
    objective: ppvae.Objective,
    steps: int,
    digits: ppvae.datasets.Dataset,
    args: argparse.Namespace,
) -> None:
    start = time.perf_counter()
    ppvae.fit(
        pair,
        batch,
        objective,
        weights=weights,
        steps=steps,
        batch_size=100,
        transform=lambda rows: (digits.transform(rows[0]), *rows[1:]),
        seed=args.seed,
        device=args.device,
        progress=False,
    )
    seconds = time.perf_counter() - start
    right = pair.classify(digits.test).argmax(-1) == digits.labels["test"]
    print(f"{name:<28} {steps} steps in {seconds:4.0f} s: error {1 - right.float().mean():.2%}", flush=True)


if __name__ == "__main__":
    main()
