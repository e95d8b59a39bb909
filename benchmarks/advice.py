"""Whether advice comes true: what the verdict forecasts that a remedy gains, beside what came of following it.

    PYTHONPATH=tests python benchmarks/advice.py [--cases TEXT] [--seeds 2] [--steps 3000]

Takes pairs that are broken on purpose and have one latent vector, and the ledger's forecasts for them, each measured on
held-out data. Then it follows each advice as a user would, from scratch and with other seeds, with the model frozen:
trains the guide longer; gives it a new and wider encoder; trains it on samples of the model too; replaces it by a
full-covariance guide, or a flow, with a new encoder; or rescales the likelihood. What came is the held-out ELBO less
that of a control (the guide as it is for the first, the same encoder with a diagonal guide for the families, the guide
trained as long for the others); for the likelihood, log p(x) less that before, of which the forecast is a lower bound.
"""

import argparse
import copy
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product

import pandas as pd
import pyro
import torch
from support.broken.pairs import BROKEN
from torch import nn
from verdicts import EFFORTS

import ppvae
from ppvae import Pair
from ppvae.inference.ledger.cause import Cause
from ppvae.inference.ledger.verdicts import causes
from ppvae.models import CouplingFlow, DiagonalNormal, FullNormal
from ppvae.networks import mlp
from ppvae.simulation import simulate

WIDE = [200, 200]
NUM_SAMPLES, NUM_PARTICLES = 2000, 2000

FOLLOWED = [
    "moved",
    "narrow",
    "wide",
    "untrained",
    "one number",
    "half blind",
    "clipped input",
    "memorized",
    "rotated",
    "two latents for one",
    "wide likelihood",
    "narrow likelihood",
    "wide likelihood, moved",
    "rotated, moved",
    "narrow encoder",
    "wide likelihood of networks",
    "noisy network",
]
"""Cases with one latent vector z and data in one tensor."""


class Reguided(Pair):
    """The model of a pair with a new guide of its latent vector z."""

    def __init__(self, pair: Pair, posterior: nn.Module):
        super().__init__()
        self.base, self.posterior = pair, posterior
        self.base.requires_grad_(False)

    def model(self, *batch):
        self.base.model(*batch)

    def guide(self, x, *others):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))


def trained(pair: Pair, train, steps: int, seed: int, transform=None) -> Pair:
    """The guide, trained with the model frozen."""
    if not isinstance(pair, Reguided):
        guide = {name for name, _ in pair.named_parameters() if name.startswith(("encoder", "posterior", "scale"))}
        for name, p in pair.named_parameters():
            p.requires_grad_(name in guide)
    schedule = lambda done: 1 - done  # noqa: E731
    ppvae.fit(pair, train, steps=steps, lr=3e-3, schedule=schedule, seed=seed, transform=transform, progress=False)
    return pair


def new_guide(pair: Pair, family: str, train, seed: int) -> Pair:
    """With a wide encoder, drawn by the seed."""
    torch.manual_seed(seed)
    num_features, num_latents = train.shape[1], pair.latents(train[:1], 1)["z"].shape[-1]
    wide = partial(mlp, num_features, WIDE)
    made: dict[str, Callable[[], nn.Module]] = {
        "diagonal": lambda: DiagonalNormal(wide(2 * num_latents)),
        "full": lambda: FullNormal(wide(num_latents + num_latents * (num_latents + 1) // 2), num_latents),
        "flow": lambda: CouplingFlow(wide(2 * num_latents), num_latents),
    }
    return Reguided(copy.deepcopy(pair), made[family]())


def followed(cause: Cause, report: ppvae.GapReport, pair: Pair, train, test, steps: int, seed: int):
    """The pair that follows an advice, and its control."""
    again = partial(trained, train=train, steps=steps, seed=seed)
    if cause.name == "training":
        return again(copy.deepcopy(pair)), pair
    if cause.name == "capacity":
        return again(new_guide(pair, "diagonal", train, seed)), again(copy.deepcopy(pair))
    if cause.name == "generalization":

        def with_samples(batch):
            half = len(batch) // 2
            return torch.cat([batch[half:], simulate(pair, batch[:half])[0]])

        return again(copy.deepcopy(pair), transform=with_samples), again(copy.deepcopy(pair))
    if cause.name in ("correlation", "shape"):
        family = {"correlation": "full", "shape": "flow"}[cause.name]
        return again(new_guide(pair, family, train, seed)), again(new_guide(pair, "diagonal", train, seed))
    scaled = copy.deepcopy(pair)
    (scale,) = report.likelihood.values()
    if hasattr(pair, "log_sigma"):
        scaled.log_sigma.data += math.log(scale.factor)
    else:
        scaled.likelihood.fixed_sigma *= scale.factor
    return scaled, pair


def judge(steps: int, case_and_seed: tuple[str, int]) -> list[dict]:
    """Forecasts for one pair, and what came."""
    case, seed = case_and_seed
    torch.set_num_threads(1)
    pair, (train, test) = BROKEN[case].make_with(seed)
    report = ppvae.gap(pair, test, EFFORTS["small"], train=train, seed=seed, progress=False)
    rows = []
    for cause in causes(report):
        is_scale = cause.name == "likelihood scale"
        forecast = cause.forecast
        if forecast is None and not is_scale:
            continue
        after, control = followed(cause, report, pair, train, test, steps, seed=100 + seed)
        if is_scale:
            measure = partial(ppvae.log_evidence, data=test, num_particles=NUM_PARTICLES, seed=seed, progress=False)
        else:
            measure = partial(ppvae.elbo, data=test, num_samples=NUM_SAMPLES, seed=seed, progress=False)
        gained = measure(after).estimate - measure(control).estimate
        came, error = gained.mean().item(), gained.std().item() / math.sqrt(len(gained))
        told = cause.nats if is_scale else forecast.estimate
        own = cause.std_error if is_scale else forecast.error
        joint = math.hypot(own, error)
        held = came > told - 2 * joint if is_scale else abs(came - told) < 2 * joint + 0.02
        row = {"case": case, "seed": seed, "cause": cause.name, "forecast": told, "its error": own}
        rows.append(row | {"came": came, "error": error, "within": held, "sign": came > -2 * error or told <= 2 * own})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="only those whose names contain this")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3000, help="of training, when advice is followed")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()

    names = [name for name in FOLLOWED if args.cases in name]
    rows = []
    with ProcessPoolExecutor(args.processes) as pool:
        for found in pool.map(partial(judge, args.steps), product(names, range(args.seeds))):
            rows += found
            for row in found:
                print(*(f"{value:.2f}" if isinstance(value, float) else value for value in row.values()), flush=True)
    table = pd.DataFrame(rows)
    print(table.round(2).to_string(index=False))
    print(f"\nwithin two joint errors: {table['within'].sum()} of {len(table)}; sign right: {table['sign'].sum()}")


if __name__ == "__main__":
    main()
