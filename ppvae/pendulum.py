"""A pendulum in pixels: an environment to act in, whose single frames do not say how fast it moves."""

from typing import Any

import numpy as np

from ppvae.arguments import Count, Seed, Size, checked

GRAVITY, FRICTION, TORQUE = 5.0, 0.1, 8.0
STEP, SUBSTEPS = 0.1, 4
ROD, WIDTH = 0.8, 0.1
"""Of a frame from -1 to 1."""


class PixelPendulum:
    """Pendulums to be brought upright and held there, each seen as a gray image of its rod.

    `theta'' = 5 sin(theta) - 0.1 theta' + 8 a`, with theta the angle from upright, in radians, and an action a between
    -1 and 1, held for a tenth of a second. The reward of a step is `(1 + cos(theta)) / 2` after it: 1 upright, 0
    hanging. An episode starts at rest, at any angle, and is truncated after `num_steps`. The motor is strong enough to
    lift the rod; but a frame does not show its speed, and without that it cannot be stopped at the top.

    `reset` and `step` are those of gymnasium's vector environments, so that another such environment can take its
    place; gymnasium is not needed.

    Args:
        num_envs: N, pendulums that move side by side.
        num_steps: T, steps of an episode.
        width: of a frame, in pixels.

    Example:
        >>> env = PixelPendulum(num_envs=3)
        >>> frames, info = env.reset(seed=0)
        >>> frames, reward, terminated, truncated, info = env.step(np.zeros((3, 1)))
        >>> frames.shape, reward.shape
        ((3, 256), (3,))
    """

    num_actions = 1

    @checked
    def __init__(self, num_envs: Size = 1, num_steps: Count = 40, width: Size = 16):
        self.num_envs = num_envs
        self.num_steps = num_steps
        self.width = width
        self.generator = np.random.default_rng()
        self.reset()

    @checked
    def reset(self, *, seed: Seed | None = None, options: dict | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts episodes: frames `[N, width^2]`, row by row, between 0 and 1; and a dict, which is empty.

        Args:
            seed: of the angles; None goes on with the generator.
            options: has none.
        """
        if seed is not None:
            self.generator = np.random.default_rng(seed)
        self.angle = self.generator.uniform(-np.pi, np.pi, self.num_envs)
        self.speed = np.zeros(self.num_envs)
        self.steps_done = 0
        return self.frames(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """A step in time: frames, rewards `[N]`, whether terminated (never) and truncated, and an empty dict.

        Args:
            actions: `[N, 1]`; what is beyond -1 and 1 is clipped.

        Raises:
            ValueError: actions of another shape.
        """
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs, 1):
            raise ValueError(
                f"actions: found shape {list(actions.shape)}, expected [{self.num_envs}, 1], one for each pendulum"
            )
        torque = TORQUE * actions[:, 0].clip(-1, 1)
        for _ in range(SUBSTEPS):
            self.speed += STEP / SUBSTEPS * (GRAVITY * np.sin(self.angle) - FRICTION * self.speed + torque)
            self.angle += STEP / SUBSTEPS * self.speed
        self.steps_done += 1
        over = np.full(self.num_envs, self.steps_done >= self.num_steps)
        return self.frames(), (1 + np.cos(self.angle)) / 2, np.zeros(self.num_envs, bool), over, {}

    def frames(self) -> np.ndarray:
        """The rods as they are: `exp(-d^2 / 2 w^2)` of each pixel's distance d from the rod; bright ends are bobs."""
        axis = (np.arange(self.width) + 0.5) / self.width * 2 - 1
        across, down = np.meshgrid(axis, axis)
        tip_across, tip_up = (ROD * f(self.angle)[:, None] for f in (np.sin, np.cos))
        along = ((across.ravel() * tip_across - down.ravel() * tip_up) / ROD**2).clip(0, 1)
        squared = (across.ravel() - along * tip_across) ** 2 + (down.ravel() + along * tip_up) ** 2
        return np.exp(-squared / (2 * WIDTH**2)).astype(np.float32)
