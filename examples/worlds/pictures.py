"""What the models dream, beside what happened: frame by frame, and moving."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from torch import Tensor
from worlds.agents import World


@torch.no_grad()
def pictures(world: World, frames: Tensor, actions: Tensor, seen: int) -> Tensor:
    """A world's frames of one sequence, `[T, F]`: of the first `seen` it is shown the truth, then it goes on alone.

    It is told the actions all along.
    """
    h, found = world.start(1), []
    for t in range(frames.shape[1]):
        z = world.look(h, frames[:, t]) if t < seen else world.dream(h, 1.0)
        found.append(world.picture(h, z)[0])
        h = world.advance(h, z, actions[:, t])
    return torch.stack(found)


def image(frame: Tensor) -> Tensor:
    side = round(len(frame) ** 0.5)
    return frame.reshape(side, side).clamp(0, 1)


def draw(shown: dict[str, Tensor], seen: int, table: pd.DataFrame, folder: Path) -> None:
    """The frames of every other step above the returns, as world_model.png; all of them as world_model.gif."""
    steps = range(1, len(next(iter(shown.values()))), 2)
    figure = plt.figure(figsize=(15, 7.5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[len(shown), 3])
    axes = above.subplots(len(shown), len(steps))
    for row, (name, frames) in zip(axes, shown.items(), strict=True):
        for ax, t in zip(row, steps, strict=True):
            ax.imshow(image(frames[t]), cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            if ax in axes[0]:
                ax.set_title(f"step {t + 1}" + (", seen" if t < seen else ""), fontsize=9)
        row[0].set_ylabel(name.replace(", ", "\n"))
    bars(below, table)
    figure.savefig(folder / "world_model.png")
    plt.close(figure)
    animate(shown, seen, folder / "world_model.gif")


def bars(figure: plt.Figure, table: pd.DataFrame) -> None:
    """Mean rewards where the controllers have learned, if that was a dream, and in the environment."""
    ax = figure.subplots()
    for column, shift, color in (("its dream", -0.2, "C1"), ("environment", 0.2, "C0")):
        cells = [(i + shift, *map(float, cell.split(" +- "))) for i, cell in enumerate(table[column]) if cell]
        at, means, errors = zip(*cells, strict=True)
        ax.barh(at, means, 0.36, xerr=errors, color=color, label=column)
    ax.set_yticks(range(len(table)), [f"{name}, {where}" for name, where in table.index])
    ax.invert_yaxis()
    ax.set(xlabel="mean reward of a step", xlim=(0, 1), title="controllers, by what they see and where they learned")
    ax.legend(frameon=False, loc="lower right", title="return in")


def animate(shown: dict[str, Tensor], seen: int, path: Path) -> None:
    figure, axes = plt.subplots(1, len(shown), figsize=(2 * len(shown), 2.3), dpi=60)
    images = []
    for ax, (name, frames) in zip(axes, shown.items(), strict=True):
        images.append(ax.imshow(image(frames[0]), cmap="gray", vmin=0, vmax=1))
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, fontsize=9)

    def update(t: int) -> None:
        for artist, frames in zip(images, shown.values(), strict=True):
            artist.set_data(image(frames[t]))
        figure.supxlabel(f"step {t + 1}, {'seen' if t < seen else 'dreamed'}", fontsize=9)

    num_steps = len(next(iter(shown.values())))
    FuncAnimation(figure, update, frames=num_steps).save(path, writer=PillowWriter(fps=6))
    plt.close(figure)
