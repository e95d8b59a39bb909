"""M1: a VAE whose latents also tell the label, where there is one."""

from collections.abc import Sequence
from typing import cast

import pyro
import torch
from torch import Tensor, nn

from ppvae.arguments import Count, Levels, Observed, Size, checked
from ppvae.mode import mode
from ppvae.models.labels.label_distributions import Classifier
from ppvae.models.vae import VAE
from ppvae.networks import mlp
from ppvae.pair import Pair
from ppvae.recipes import remembered
from ppvae.refusals import refuse_shape


class M1(Pair):
    """`p(z) p(x | z) p(y | z)` with the guide `q(z | x)`: a VAE, and a classifier of its latents.

    Takes a tuple `(x, y, known)`: labels `[B]`, whole numbers from 0 to C - 1, and where they are known, a mask `[B]`.
    A row without a label holds any class in its place. Evidence and bounds are those of log p(x, y) for a row with a
    label, and of log p(x) for one without: they are the VAE's own.

    In the source the VAE is trained first, and the classifier after it: `ppvae.fit(vae, x)`, then
    `vae.requires_grad_(False)`, and `ppvae.fit(M1(vae, classifier), (x, y, known))`.

    Source: Kingma et al. 2014 (arXiv:1406.5298).

    Args:
        vae: p(z), p(x | z) and q(z | x).
        classifier: forward(z) returns p(y | z), a Categorical.

    Example:
        >>> pair = M1.mlp(num_features=5, num_latents=2, num_classes=3)
        >>> x, y, known = torch.ones(4, 5), torch.tensor([0, 1, 2, 0]), torch.tensor([True, True, True, False])
        >>> pair.log_weights((x, y, known), num_particles=10).log_w.shape
        torch.Size([10, 4])
        >>> pair.classify(x).shape
        torch.Size([4, 3])
    """

    @checked
    def __init__(self, vae: VAE, classifier: nn.Module):
        super().__init__()
        self.vae = vae
        self.classifier = classifier
        self.example = (vae.example, torch.zeros(1, dtype=torch.long), torch.tensor([True]))

    @classmethod
    @checked
    @remembered
    def mlp(
        cls,
        num_features: Size,
        num_latents: Size,
        num_classes: Size,
        hidden: Sequence[Size] = (200, 200),
        likelihood: str = "bernoulli",
        posterior: str = "diagonal",
        levels: Levels = 256,
        activation: type[nn.Module] = nn.Tanh,
    ) -> "M1":
        """M1 of multilayer perceptrons on vectors; the classifier is linear.

        Args:
            num_features: F, size of x.
            num_latents: D, size of z.
            num_classes: C.
            hidden: as in `VAE.mlp`.
            likelihood: as in `VAE.mlp`.
            posterior: as in `VAE.mlp`.
            levels: as in `VAE.mlp`.
            activation: as in `VAE.mlp`.

        Raises:
            ValueError: a likelihood or posterior that is not in its registry.
        """
        vae = VAE.mlp(num_features, num_latents, hidden, likelihood, posterior, activation, levels)
        return cls(vae, Classifier(mlp(num_latents, [], num_classes)))

    def model(self, x: Tensor, y: Tensor, known: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", self.vae.prior())
            pyro.sample("x", self.vae.likelihood(z), obs=x)
            pyro.sample("y", self.classifier(z).mask(known), obs=y)

    def guide(self, x: Tensor, y: Tensor, known: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", self.vae.posterior(x))

    @checked
    @torch.no_grad()
    def classify(self, x: Observed, num_samples: Count = 100) -> Tensor:
        """`E_q(z | x) p(y | z)`, the probabilities of the labels of x `[B, F]`, over draws of z: `[B, C]`."""
        refuse_shape(x, cast(tuple, self.example)[0].shape[1:])
        with mode(self, training=False):
            return self.classifier(self.vae.posterior(x).sample((num_samples,))).probs.mean(0)
