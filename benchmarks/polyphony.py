"""How near models of sequences come to the truth about generated polyphony, whose log p(x) is known.

    OMP_NUM_THREADS=1 python benchmarks/polyphony.py

Phrases of 16 to 32 steps and 36 notes, by `ppvae.models.polyphony`. Hidden Markov models and deep Markov models learn
from some of them, the latter with each guide; the table has log p(x) of others, exactly or by a particle filter, with
its Monte Carlo error, the ELBO and the gap, in nats per phrase.
"""

import argparse
import time

import pandas as pd
import torch
from torch import Tensor

import ppvae
from ppvae.models import DeepMarkov, HiddenMarkov, polyphony

STEPS, FEWEST = 32, 16
Phrases = tuple[Tensor, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=500, help="phrases to learn from")
    parser.add_argument("--held-out", type=int, default=50, help="phrases to measure")
    parser.add_argument("--steps", type=int, default=1500, help="of training, batch 50")
    parser.add_argument("--particles", type=int, default=8000, help="of the particle filters")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    truth = polyphony()
    train, held_out = phrases(truth, args.train), phrases(truth, args.held_out)
    notes = truth.example.shape[-1]
    pairs: dict[str, ppvae.Pair] = {"the true model": truth}
    for states in (3, 5, 10):
        pairs[f"hidden Markov, {states} states"] = HiddenMarkov(states, notes, "bernoulli").init_from(train[0])
    for posterior in ("combiner", "iaf", "mean_field"):
        pairs[f"deep Markov, {posterior}"] = DeepMarkov(notes, 4, [64], posterior=posterior)
    for name, pair in pairs.items():
        start = time.perf_counter()
        if pair is not truth:
            ppvae.fit(
                pair,
                train,
                steps=args.steps,
                batch_size=50,
                lr=0.01,
                schedule=lambda done: 1 - 0.9 * done,
                seed=args.seed,
                progress=False,
            )
        print(name, f"{time.perf_counter() - start:.0f} s", flush=True)
    table = pd.DataFrame.from_dict({name: measured(pair, held_out, args) for name, pair in pairs.items()}, "index")
    print(table.round(2).to_string())


def phrases(truth: HiddenMarkov, num: int) -> Phrases:
    lengths = torch.randint(FEWEST, STEPS + 1, (num,))
    return truth.sample((torch.zeros(num, STEPS, truth.example.shape[-1]), lengths)), lengths


def measured(pair: ppvae.Pair, x: Phrases, args: argparse.Namespace) -> dict[str, float]:
    method = "exact" if isinstance(pair, HiddenMarkov) else "particle filter"
    evidence = ppvae.log_evidence(pair, x, method, args.particles, seed=args.seed, progress=False)
    elbo = ppvae.elbo(pair, x, seed=args.seed, progress=False).mean()
    return {
        "log p(x)": evidence.mean().estimate,
        "Monte Carlo": evidence.mean().monte_carlo_error,
        "reliable": evidence.reliable.double().mean().item(),
        "ELBO": elbo.estimate,
        "gap": evidence.mean().estimate - elbo.estimate,
    }


if __name__ == "__main__":
    main()
