"""A VQ-VAE-2 on binarized digits: two maps of codes, and priors of them that climb the ELBO, until they overfit.

The first stage learns encoders, dictionaries and decoder, with uniform priors. The second freezes these, and trains a
PixelCNN of the top's codes, and one of the bottom's given the top's, by the ELBO itself: it rises by what the priors
save in the codes' cross-entropy. Its data are the codes of the training digits, binarized once for all, so that it
overfits before long: the ELBO of held-out digits says when. Prints both stages in nats, and writes the figures, and a
picture.

It takes about three minutes on one core.
"""

import argparse
import math
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

import ppvae
from ppvae.models import VQVAE2
from ppvae.views import plots


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", type=int, default=8, help="of each level")
    parser.add_argument("--epochs", type=int, default=60, help="of the first stage")
    parser.add_argument("--prior-epochs", type=int, default=40, help="of the second stage")
    parser.add_argument("--width", type=int, default=24, help="of the priors")
    parser.add_argument("--held-out", type=int, default=300, help="data points to measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for figures and picture")
    parser.add_argument("--smoke", action="store_true", help="the least of everything: does it run at all?")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.smoke:
        args.codes, args.epochs, args.prior_epochs, args.width, args.held_out = 4, 1, 2, 4, 18
    data = ppvae.datasets.load("digits", binarize="dynamic", images=True)
    torch.manual_seed(args.seed)
    train, held_out = data.transform(data.train), data.test[: args.held_out]

    start = time.perf_counter()
    pair = first_stage(data, args)
    seconds = time.perf_counter() - start
    lines = [f"first stage, trained in {seconds:.0f} s; nats per digit, {len(held_out)} held out", ""]
    sizes = [math.prod(level.shape) for level in (pair.top, pair.bottom)]
    uniform = sum(sizes) * math.log(args.codes)
    elbo = pair.exact_elbo(held_out).mean().item()
    used = [int((count > 0).sum()) for count in pair.usage(train)]
    lines += [
        f"{sizes[0]} codes above {sizes[1]}, of {args.codes} each; in use: {used[0]} and {used[1]}",
        f"ELBO, uniform priors       {elbo:9.3f}",
        f"  log p(x | codes)         {elbo + uniform:9.3f}",
        f"  P log K                  {uniform:9.3f}",
    ]

    start = time.perf_counter()
    best, last, curve = second_stage(pair, train, held_out, args)
    peak = int(curve[:, 1].argmax())
    lines += [
        "",
        f"second stage, trained in {time.perf_counter() - start:.0f} s",
        f"{'':<20}{'ELBO':>9}{'gain':>9}{'P log K - cross-entropy':>26}{'gain, training data':>22}",
    ]
    for name, after in ((f"after {1 + peak} epochs", best), (f"after {len(curve)} epochs", last)):
        gain, own = ((after.exact_elbo(x) - pair.exact_elbo(x)).mean() for x in (held_out, train))
        saved = uniform + sum(log_prior(after, held_out)).mean()
        lines.append(f"{name:<20}{elbo + gain:>9.3f}{gain:>9.3f}{saved:>26.3f}{own:>22.3f}")

    log_p = zip(log_prior(best, held_out), sizes, strict=True)
    of_top, of_bottom = (-each.mean() / num / math.log(2) for each, num in log_p)
    uniform_bits = math.log2(args.codes)
    lines.append(f"bits for a code: top {of_top:.2f}, bottom {of_bottom:.2f}, uniformly {uniform_bits:.2f}")
    text = "\n".join(lines)
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "vq2.txt").write_text(f"{text}\n")
    with ppvae.plots.style():
        draw(pair, best, curve, held_out, args.out / "vq2.png")
    print(f"\nwrote vq2.txt and .png to {args.out}/")


def first_stage(data: ppvae.datasets.Dataset, args: argparse.Namespace) -> VQVAE2:
    pair = VQVAE2.convolutional((1, 8, 8), args.codes, 4, 16, num_halvings=1, decay=0.99)
    pair.init_from(data.transform(data.train))
    ppvae.fit(
        pair,
        data.train,
        ppvae.VectorQuantizedELBO(),
        transform=data.transform,
        epochs=args.epochs,
        lr=3e-3,
        schedule=lambda done: 1 - 0.95 * done,
        callbacks=[lambda _: restart(pair, data.train)],
        seed=args.seed,
        progress=False,
    )
    return pair.eval()


def restart(pair: VQVAE2, x: Tensor) -> None:
    """Counts over the epoch's data, as few batches have all codes."""
    pair.restart_dead_codes(x)


def second_stage(
    pair: VQVAE2, train: Tensor, held_out: Tensor, args: argparse.Namespace
) -> tuple[VQVAE2, VQVAE2, Tensor]:
    """The pair with the priors that are best for the held-out digits, and with the last ones; and gains by epoch.

    The gains, `[epochs, 2]`, are of the training and of the held-out digits. That the best epoch is chosen on the
    digits that are reported favors it a little.
    """
    after, gains, states = pair.second_stage(*pair.pixel_priors(args.width, num_layers=3)), [], []

    def measure(_: object) -> None:
        with torch.no_grad():
            gains.append([(after.exact_elbo(x) - pair.exact_elbo(x)).mean().item() for x in (train, held_out)])
        states.append({name: value.clone() for name, value in after.state_dict().items()})

    ppvae.fit(after, train, epochs=args.prior_epochs, lr=3e-3, callbacks=[measure], seed=args.seed, progress=False)
    curve = torch.tensor(gains)
    best = pair.second_stage(*pair.pixel_priors(args.width, num_layers=3))
    best.load_state_dict(states[int(curve[:, 1].argmax())])
    return best.eval(), after.eval(), curve


@torch.no_grad()
def log_prior(pair: VQVAE2, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of the top's codes, and of the bottom's given them, `[B]`."""
    top, bottom = pair.codes(x)
    above = pair.bottom.laid_under(pair.top.codebook.codes[0][top])
    return pair.top.indices().log_prob(top), pair.bottom.indices(above).log_prob(bottom)


def draw(pair: VQVAE2, after: VQVAE2, curve: Tensor, held_out: Tensor, path: Path) -> None:
    """Gains by epoch, reconstructions, and samples from uniform and learned priors."""
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.8), layout="constrained", width_ratios=[1.4, 1, 1, 1])
    epochs = torch.arange(1, 1 + len(curve))
    axes[0].plot(epochs, curve[:, 0], color="C1", label="training digits")
    axes[0].plot(epochs, curve[:, 1], color="C0", label="held-out digits")
    axes[0].axvline(1 + int(curve[:, 1].argmax()), color="0.7", lw=1, label="best epoch")
    axes[0].set(title="what the second stage gains", xlabel="epoch of the second stage", ylabel="nats of the ELBO")
    axes[0].legend(loc="lower right")
    shape = tuple(held_out.shape[2:])
    both = torch.stack([held_out[:18], pair.reconstruct(held_out[:18])], 1).flatten(0, 1)
    plots.images(axes[1], both, shape)
    axes[1].set_title("digits and reconstructions")
    for ax, (name, each) in zip(axes[2:], {"uniform priors": pair, "learned priors": after}.items(), strict=True):
        torch.manual_seed(0)
        z = each.sample_joint(36, observed=False)
        joined = torch.cat([each.bottom.laid_under(z["top"]), z["bottom"]], -1)
        plots.images(ax, each.likelihood(joined).mean.detach(), shape)
        ax.set_title(f"samples, {name}")
    figure.savefig(path)


if __name__ == "__main__":
    main()
