"""Can an agent learn in its own dream? World models of a pendulum in pixels, and what their evidence is of.

V, a VAE, encodes each frame; M, an MDN-RNN, forecasts the next encoding given the action; C, a linear controller found
by CMA-ES, acts on both. A recurrent state space model does the work of V and M at once, and has one evidence, of whole
sequences of frames; V's is of single frames, M's of encodings. Controllers learn in the environment or in a dream, at
several temperatures, and are tried in both. The table has their returns over seeds, the picture and the animation what
the models dream, beside what happened.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from worlds.agents import (
    StateSpaceWorld,
    VisionAndMemory,
    World,
    acted,
    best_controller,
    dreamed,
    linear,
    reward_of,
    watched,
)
from worlds.pictures import draw, pictures

import ppvae
from ppvae.datasets import PixelPendulum
from ppvae.models import VAE, MixtureDensityRNN, RecurrentStateSpace

PER_CONTROLLER = 8
"""Episodes by which CMA-ES judges each controller."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=400, help="of random actions, to learn the models from")
    parser.add_argument("--steps", type=int, default=30, help="of an episode, a multiple of 15")
    parser.add_argument("--training", type=float, default=1.0, help="a factor of all numbers of steps of training")
    parser.add_argument("--generations", type=int, default=30, help="of CMA-ES")
    parser.add_argument("--seeds", type=int, default=3, help="controllers of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the models")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for figure, animation and table")
    parser.add_argument("--smoke", action="store_true", help="the least of everything: does it run at all?")
    args = parser.parse_args()
    if args.smoke:
        args.episodes, args.steps, args.training, args.generations, args.seeds = 20, 15, 0.01, 1, 2
    return args


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    frames, actions, rewards = at_random(args.episodes, args.steps, args.seed)
    vision, memory, space = trained(frames, actions, args)
    held_out = at_random(20, args.steps, args.seed + 1)[:2]
    text = f"evidence of held-out frames, nats per frame\n{evidence(vision, memory, space, *held_out).round(2)}"
    print(text, flush=True)

    worlds = {"V": VisionAndMemory(vision, memory, with_memory=False), "V and M": VisionAndMemory(vision, memory)}
    worlds["state space"] = StateSpaceWorld(space)
    table = returns(worlds, frames, actions, rewards, args)
    text += f"\n\nmean reward of a step, over {args.seeds} controllers +- standard deviation\n{table.to_string()}"
    print(text[text.index("\n\n") :])

    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "world_model.txt").write_text(f"{text}\n")
    seen = min(5, args.steps // 2)
    shown = {"what happened": held_out[0][0]}
    for name in ("V and M", "state space"):
        shown[f"{name}, dreamed"] = pictures(worlds[name], held_out[0][:1], held_out[1][:1], seen)
    with ppvae.plots.style():
        draw(shown, seen, table, args.out)
    print(f"\nwrote world_model.txt, .png and .gif to {args.out}/")


def at_random(num: int, num_steps: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frames `[N, T, F]`, the random actions after them, and the rewards of these."""
    env, generator = PixelPendulum(num, num_steps), np.random.default_rng(seed)
    frames, _ = env.reset(seed=seed)
    action, found = np.zeros((num, 1), np.float32), []
    for _ in range(num_steps):
        action = (0.7 * action + 0.7 * generator.normal(size=action.shape)).clip(-1, 1).astype(np.float32)
        after, reward, *_ = env.step(action)
        found.append((frames, action, reward.astype(np.float32)))
        frames = after
    x, a, r = (torch.tensor(np.stack(each, 1)) for each in zip(*found, strict=True))
    return x, a, r


def trained(
    frames: Tensor, actions: Tensor, args: argparse.Namespace
) -> tuple[VAE, MixtureDensityRNN, RecurrentStateSpace]:
    def fitted(pair: ppvae.Pair, data: object, steps: int, batch_size: int, lr: float) -> ppvae.Pair:
        start = time.perf_counter()
        steps = max(2, int(steps * args.training))
        schedule = {"lr": lr, "schedule": lambda done: 1 - done}
        ppvae.fit(pair, data, steps=steps, batch_size=batch_size, seed=args.seed, progress=False, **schedule)
        print(f"{type(pair).__name__} trained in {time.perf_counter() - start:.0f} s", flush=True)
        return pair.eval().requires_grad_(False)

    def windows(sequences: Tensor, size: int) -> Tensor:
        """Each sequence in pieces, learned from as sequences of their own: training is truncated there."""
        return sequences.unflatten(1, (-1, size)).flatten(0, 1)

    single = frames.flatten(0, 1)
    vision = fitted(VAE.mlp(single.shape[-1], 2, [128], "gaussian").init_from(single), single, 1000, 100, 3e-3)
    encoded = {"x": windows(vision.posterior(frames).sample(), 15), "actions": windows(actions, 15)}
    memory = fitted(MixtureDensityRNN(2, 1, num_state=32), encoded, 800, 50, 1e-2)
    space = RecurrentStateSpace(single.shape[-1], 2, 1, num_state=32, hidden=[64])
    space.likelihood.init_from(single)
    whole = {"x": windows(frames, 15), "actions": windows(actions, 15)}
    return vision, memory, fitted(space, whole, 500, 50, 5e-3)


def evidence(
    vision: VAE, memory: MixtureDensityRNN, space: RecurrentStateSpace, frames: Tensor, actions: Tensor
) -> pd.DataFrame:
    """Each on what it is a density of; V and M have a bound together, with M as the prior of V's codes."""
    q = vision.posterior(frames)
    z = q.sample((20,))
    log_q = q.log_prob(z).sum(-1).mean(0)
    log_m = torch.stack([memory.log_prob({"x": each, "actions": actions}) for each in z]).mean(0)
    given_z = vision.likelihood(z).log_prob(frames).sum(-1).mean(0)
    alone = ppvae.elbo(vision, frames.flatten(0, 1), 20, seed=0, progress=False).estimate
    batch = {"x": frames, "actions": actions}
    joint = ppvae.elbo(space, batch, 20, seed=0, progress=False).estimate
    filtered = ppvae.log_evidence(space, batch, "particle filter", 1600, seed=0, progress=False)
    num_steps = frames.shape[1]
    rows = {
        "V: ELBO of single frames": alone.mean(),
        "M: log p(codes), of codes and not of frames": log_m.mean() / num_steps,
        "V and M: ELBO of frames in sequence": (given_z + log_m - log_q).mean() / num_steps,
        "state space: ELBO of frames in sequence": joint.mean() / num_steps,
        f"state space: particle filters, {filtered.reliable.double().mean():.0%} reliable": filtered.estimate.mean()
        / num_steps,
    }
    return pd.DataFrame({"nats": {name: value.item() for name, value in rows.items()}})


def returns(
    worlds: dict[str, World], frames: Tensor, actions: Tensor, rewards: Tensor, args: argparse.Namespace
) -> pd.DataFrame:
    """What controllers of each kind earn where they have learned, and in the environment."""
    kinds = [(name, None) for name in worlds]
    kinds += [("V and M", temperature) for temperature in (0.1, 1.0, 2.0)] + [("state space", 1.0)]
    features = {name: watched(world, frames, actions) for name, world in worlds.items()}
    judges = {name: reward_of(f, rewards, max(2, int(600 * args.training))) for name, f in features.items()}
    rows = []
    for name, temperature in kinds:
        start, size = time.perf_counter(), features[name].shape[-1]
        learn = partial(learned, worlds[name], judges[name], temperature, size, args)
        found = torch.tensor([learn(seed) for seed in range(args.seeds)])
        dream, real = (f"{value.mean():.2f} +- {value.std():.2f}" for value in found.T)
        where = "environment" if temperature is None else f"dream, temperature {temperature}"
        rows.append((name, where, "" if temperature is None else dream, real))
        print(f"controllers of {name}, in {where}: {time.perf_counter() - start:.0f} s", flush=True)
    columns = ["controller of", "learned in", "its dream", "environment"]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:2])


def learned(
    world: World, judge: nn.Module, temperature: float | None, size: int, args: argparse.Namespace, seed: int
) -> tuple[float, float]:
    """The returns of one controller in its dream and in the environment, after it has learned in one of the two."""

    def in_dream(controllers: Tensor, num: int, at: int) -> Tensor:
        torch.manual_seed(at)
        found = dreamed(world, linear(controllers), judge, num, args.steps, temperature or 1.0)
        return found.unflatten(0, (len(controllers), -1)).mean(1)

    def in_environment(controllers: Tensor, num: int, at: int) -> Tensor:
        found = acted(world, linear(controllers), PixelPendulum(num, args.steps), at)
        return found.unflatten(0, (len(controllers), -1)).mean(1)

    where = in_environment if temperature is None else in_dream

    def judged(controllers: Tensor, generation: int) -> Tensor:
        return where(controllers, PER_CONTROLLER * len(controllers), 1000 * seed + generation)

    best = best_controller(judged, size, 1, args.generations, seed)
    return in_dream(best, 200, 10**6).item(), in_environment(best, 200, 10**6).item()


if __name__ == "__main__":
    main()
