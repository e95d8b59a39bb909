"""How many of K modes of equal probability a sample finds, and what a perfect sampler would find."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from ppvae.arguments import Count, Observed, Positive, checked
from ppvae.stacks import mode_of


@checked
@dataclass(frozen=True)
class Modes:
    """K modes of equal probability, and which of them a point lies in.

    Attributes:
        num: K.
        label: a function of data `[N, *event]`, such as a classifier's; returns the mode of each, `[N]`, from 0 to
            K - 1, or -1 for none.

    Example:
        >>> modes = Modes.near(torch.tensor([[0.0], [10.0]]), radius=1.0)
        >>> modes.label(torch.tensor([[0.5], [9.5], [5.0]]))
        tensor([ 0,  1, -1])
        >>> modes.floor(num_samples=3)
        {'modes_found': 1.75, 'modes_kl': 0.21576155433883565}
    """

    num: Count
    label: Callable[[Tensor], Tensor]

    @staticmethod
    @checked
    def near(centers: Observed, radius: Positive) -> "Modes":
        """The modes at `centers`, `[K, D]`; what is further than `radius` from all of them lies in none."""

        def label(x: Tensor) -> Tensor:
            distance, index = torch.cdist(x.flatten(1).to(centers), centers).min(1)
            return torch.where(distance <= radius, index, -1)

        return Modes(len(centers), label)

    @staticmethod
    @checked
    def stacked(classify: Callable[[Tensor], Tensor], num_classes: Count = 10, num_channels: Count = 3) -> "Modes":
        """The modes of images whose channels have a class each, such as `load("stacked")`: as many as combinations.

        Args:
            classify: of one channel as a vector, `[M, D]`; returns scores of the classes, `[M, num_classes]`.
            num_classes: of each channel.
            num_channels: of each image.
        """

        def label(x: Tensor) -> Tensor:
            with torch.no_grad():
                classes = classify(x.reshape(len(x) * num_channels, -1)).argmax(1)
            return mode_of(classes.view(len(x), num_channels), num_classes)

        return Modes(num_classes**num_channels, label)

    @checked
    def found(self, labels: Tensor) -> dict[str, float]:
        """Of points with these labels: how many modes have a point, the share of points in any, and the KL divergence
        of the points' shares of the modes from equal ones, in nats; NaN where no point is in any."""
        if labels.is_floating_point() or labels.is_complex():
            raise ValueError(f"labels: found a tensor of {labels.dtype}, expected whole numbers; use -1 for no mode")
        counts = labels[labels >= 0].bincount(minlength=self.num).double()
        share = counts / counts.sum()
        return {
            "modes_found": float((counts > 0).sum()),
            "in_modes": counts.sum().item() / len(labels),
            "modes_kl": torch.special.xlogy(share, share * self.num).sum().item(),
        }

    @checked
    def floor(self, num_samples: Count) -> dict[str, float]:
        """What n points of a perfect sampler give in expectation, all in modes: `K (1 - (1 - 1/K)^n)` modes, and a KL
        of about `(K - 1) / 2n`, here summed exactly over the counts that a mode may have."""
        counts = np.arange(num_samples + 1)
        share = counts / num_samples
        terms = np.where(counts > 0, share * np.log(np.maximum(share, 1e-300) * self.num), 0.0)
        return {
            "modes_found": self.num * (1 - (1 - 1 / self.num) ** num_samples),
            "modes_kl": float(self.num * (stats.binom.pmf(counts, num_samples, 1 / self.num) @ terms)),
        }
