"""A few labels of MNIST: M2 without and with its classification term, M1, and M1+M2 trained in stages.

    PPVAE_DATA=... OMP_NUM_THREADS=1 python benchmarks/semi_supervised_mnist.py --only bound m2

All 50,000 training digits, of which a hundred, ten in each class, have a label. These come sixty times each, with a
sixtieth of the weight: the objective is the same, and few batches are without labels. Other numbers of labels come as
often. As in the source, all labels are equally probable. Prints the error on the 10,000 test digits, for each seed.

M1 and M1+M2 stand on one VAE, which is trained first, and frozen. As in the source's code, latents whose means hardly
vary over the digits are cut off: they are noise. All digits are encoded once, and each step draws their latents anew.
M1+M2 is then an M2 of the latents that are left: its gradient is that of `M1M2`, for less work. The classifier of M1
learns from the digits with labels, as the others say nothing of it.

Published (Kingma et al. 2014, 20 sets of labels each): M1+TSVM 11.82% (0.25), M2 11.97% (1.71), M1+M2 3.33% (0.14).
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import ppvae
from ppvae.models import M1, M1M2, M2, VAE, Classifier

PAIRS = ["bound", "m2", "m1", "m1m2"]
CLASSES, LATENTS = 10, 50
LABELED_ROWS = 6000
"""Of 56,000 or so, as digits with labels are repeated."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PAIRS, nargs="+", default=PAIRS)
    parser.add_argument("--labels", type=int, default=100, help="how many digits have one, a multiple of ten")
    parser.add_argument("--weight", type=float, help="of log q(y | x) at a label; 0.1 N / N_l by default")
    parser.add_argument("--steps", type=int, default=2000, help="of M2, batch 100")
    parser.add_argument("--vae-steps", type=int, default=10_000, help="of the VAE below M1 and M1+M2, batch 100")
    parser.add_argument("--vae-file", help="where the VAE is kept: a later run does not train it again")
    parser.add_argument("--m1-steps", type=int, default=2000, help="of M1's classifier, batch 100")
    parser.add_argument("--m1m2-steps", type=int, default=20_000, help="of M1+M2, batch 100")
    parser.add_argument("--hidden", type=int, default=300, help="size of every hidden layer")
    parser.add_argument("--lr", type=float, default=1e-3, help="at the start; it falls to a twentieth")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the labels and the training")
    args = parser.parse_args()

    digits = ppvae.datasets.load("mnist", binarize="dynamic")
    weight = 0.1 * len(digits.train) / args.labels if args.weight is None else args.weight
    with_term = ppvae.SemiSupervisedELBO(weight=weight)
    if {"m1", "m1m2"} & set(args.only):
        vae = in_use(trained_vae(digits, args), digits)
        latents = encoded(vae, digits)
    for seed in args.seeds:
        y, known, weights, rows = partly_labeled(digits.labels["train"], args.labels, seed)
        x = digits.train[rows]
        for name, objective in (("bound", ppvae.EnumeratedELBO()), ("m2", with_term)):
            if name in args.only:
                pair = m2(784, "bernoulli", args.hidden, seed).init_from(digits.train)
                trained(pair, (x, y, known), objective, weights, digits.transform, args.steps, seed, args)
                tell(name, pair, digits, seed)
        if "m1" in args.only:
            torch.manual_seed(seed)
            pair = M1(vae, Classifier(nn.Linear(latents.shape[1] // 2, CLASSES)))
            labeled = x[known], y[known], known[known]
            trained(pair, labeled, ppvae.ELBO(), None, digits.transform, args.m1_steps, seed, args)
            tell("m1", pair, digits, seed)
        if "m1m2" in args.only:
            upper = m2(latents.shape[1] // 2, "heteroscedastic", args.hidden, seed)
            trained(upper, (latents[rows], y, known), with_term, weights, drawn, args.m1m2_steps, seed, args)
            tell("m1m2", M1M2(vae, upper), digits, seed)


def partly_labeled(y: Tensor, num_labels: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Labels, which are known, and weights of the training data with labeled rows repeated; and the rows they are."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    labeled = torch.cat([order[y[order] == c][: num_labels // CLASSES] for c in range(CLASSES)])
    unlabeled = torch.ones(len(y), dtype=torch.bool).index_fill(0, labeled, False).nonzero()[:, 0]
    copies = max(1, LABELED_ROWS // num_labels)
    rows = torch.cat([unlabeled, labeled.repeat(copies)])
    known = torch.arange(len(rows)) >= len(unlabeled)
    return y[rows], known, torch.where(known, 1 / copies, 1.0), rows


def m2(num_features: int, likelihood: str, hidden: int, seed: int) -> M2:
    torch.manual_seed(seed)
    pair = M2.mlp(num_features, LATENTS, CLASSES, [hidden], likelihood, activation=nn.Softplus)
    pair.label_prior.requires_grad_(False)
    return pair


def trained_vae(digits: ppvae.datasets.Dataset, args: argparse.Namespace) -> VAE:
    torch.manual_seed(0)
    vae = VAE.mlp(784, LATENTS, [args.hidden, args.hidden], activation=nn.Softplus).init_from(digits.train)
    start = time.perf_counter()
    ppvae.fit(
        vae,
        digits.train,
        steps=args.vae_steps,
        batch_size=100,
        lr=args.lr,
        schedule=falling,
        transform=digits.transform,
        progress=False,
        checkpoint=args.vae_file,
        resume=args.vae_file is not None,
    )
    bound = ppvae.elbo(vae, digits.test[:1000], 10, seed=0, progress=False).estimate.mean()
    print(f"the VAE: {args.vae_steps} steps in {time.perf_counter() - start:.0f} s, ELBO {bound:.1f}", flush=True)
    return vae.requires_grad_(False)


def in_use(vae: VAE, digits: ppvae.datasets.Dataset) -> VAE:
    """The VAE without the latents whose means have a standard deviation below 0.1 over the digits."""
    kept = (encoded(vae, digits)[:, :LATENTS].std(0) > 0.1).nonzero()[:, 0]
    first, last = vae.likelihood.network[0], vae.posterior.network[-1]
    both = torch.cat([kept, LATENTS + kept])  # of locations and of scales
    narrow = VAE.mlp(784, len(kept), [first.out_features] * 2, activation=nn.Softplus)
    state = vae.state_dict() | {
        "likelihood.network.0.weight": first.weight[:, kept],
        "posterior.network.4.weight": last.weight[both],
        "posterior.network.4.bias": last.bias[both],
    }
    narrow.load_state_dict(state)
    bound = ppvae.elbo(narrow, digits.test[:1000], 10, seed=0, progress=False).estimate.mean()
    print(f"{len(kept)} of {LATENTS} latents are in use, ELBO with these {bound:.1f}", flush=True)
    return narrow.requires_grad_(False)


def encoded(vae: VAE, digits: ppvae.datasets.Dataset) -> Tensor:
    """Means and scales of the latents of the training digits, side by side."""
    torch.manual_seed(0)
    q = vae.posterior(digits.transform(digits.train)).base_dist
    return torch.cat([q.loc, q.scale], -1)


def drawn(latents: Tensor) -> Tensor:
    loc, scale = latents.chunk(2, -1)
    return torch.normal(loc, scale)


def trained(
    pair: M1 | M2,
    batch: tuple[Tensor, Tensor, Tensor],
    objective: ppvae.Objective,
    weights: Tensor | None,
    draw: Callable[[Tensor], Tensor],
    steps: int,
    seed: int,
    args: argparse.Namespace,
) -> None:
    """Trains a pair on `(x, y, known)`, x drawn anew in each batch."""
    start = time.perf_counter()
    ppvae.fit(
        pair,
        batch,
        objective,
        weights=weights,
        steps=steps,
        batch_size=100,
        lr=args.lr,
        schedule=falling,
        transform=lambda rows: (draw(rows[0]), *rows[1:]),
        seed=seed,
        progress=False,
    )
    print(f"{steps} steps in {time.perf_counter() - start:.0f} s, ", end="", flush=True)


def falling(done: float) -> float:
    return 1 - 0.95 * done


def tell(name: str, pair: M1 | M2 | M1M2, digits: ppvae.datasets.Dataset, seed: int) -> None:
    wrong = pair.classify(digits.test).argmax(-1) != digits.labels["test"]
    print(f"{name}, seed {seed}: error {wrong.double().mean():.2%}", flush=True)


if __name__ == "__main__":
    main()
