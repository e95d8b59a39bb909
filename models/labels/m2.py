"""M2: a generative model of data and their labels, some of which are missing."""

from collections.abc import Sequence
from typing import cast

import pyro
import pyro.distributions as dist
import torch
from torch import BoolTensor, Tensor, nn

from ppvae.arguments import Levels, Observed, Size, checked
from ppvae.mode import mode
from ppvae.models.labels.label_distributions import Classifier, LabelPrior
from ppvae.models.named_likelihoods import LIKELIHOODS
from ppvae.models.parts.indices import label_vectors
from ppvae.models.parts.joining import joined
from ppvae.models.parts.likelihood import AnyLikelihood
from ppvae.models.parts.posteriors import POSTERIOR_FAMILIES
from ppvae.models.parts.priors import StandardNormal
from ppvae.networks import mlp
from ppvae.pair import Pair
from ppvae.recipes import remembered
from ppvae.refusals import refuse_shape


class M2(Pair):
    """`p(y) p(z) p(x | y, z)` with the guide `q(y | x) q(z | x, y)`; where y is known, it is data.

    Takes a tuple `(x, y, known)`: labels `[B]`, whole numbers from 0 to C - 1, and where they are known, a mask `[B]`.
    A row without a label holds any class in its place. Evidence and bounds are those of log p(x, y) for a row with a
    label, and of log p(x) for one without.

    Train it with `ppvae.SemiSupervisedELBO`, which sums missing labels out of the bound, and trains the classifier
    q(y | x) on the labels, too: the bound of a row with a label does not contain q(y | x). `ppvae.EnumeratedELBO` is
    the same without that, and `ppvae.ELBO(num_particles=2)` draws missing labels.

    Source: Kingma et al. 2014 (arXiv:1406.5298).

    Args:
        label_prior: forward() returns p(y), a Categorical.
        prior: forward() returns p(z).
        likelihood: forward(zy), `[*, D + C]`, returns p(x | y, z); the label is a one at its place.
        classifier: forward(x) returns q(y | x), a Categorical.
        posterior: forward(xy), `[*, F + C]`, returns q(z | x, y).

    Example:
        >>> pair = M2.mlp(num_features=5, num_latents=2, num_classes=3)
        >>> x, y, known = torch.ones(4, 5), torch.tensor([0, 1, 2, 0]), torch.tensor([True, True, True, False])
        >>> pair.log_weights((x, y, known), num_particles=10).log_w.shape
        torch.Size([10, 4])
        >>> pair.classify(x).shape
        torch.Size([4, 3])
    """

    @checked
    def __init__(
        self,
        label_prior: nn.Module,
        prior: nn.Module,
        likelihood: AnyLikelihood,
        classifier: nn.Module,
        posterior: nn.Module,
    ):
        super().__init__()
        self.label_prior = label_prior
        self.prior = prior
        self.likelihood = likelihood
        self.classifier = classifier
        self.posterior = posterior
        with mode(self, training=False), torch.no_grad():
            event_shape = likelihood(joined(prior().sample((1,)), label_prior().probs)).event_shape
        self.example = (torch.zeros(1, *event_shape), torch.zeros(1, dtype=torch.long), torch.tensor([True]))

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
    ) -> "M2":
        """M2 of multilayer perceptrons on vectors.

        Args:
            num_features: F, size of x.
            num_latents: D, size of z.
            num_classes: C.
            hidden: sizes of the hidden layers of classifier and encoder; the decoder's are the same, reversed.
            likelihood: as in `VAE.mlp`.
            posterior: as in `VAE.mlp`.
            levels: as in `VAE.mlp`.
            activation: of the hidden layers.

        Raises:
            ValueError: a likelihood or posterior that is not in its registry.
        """

        def encoder(num_outputs: int) -> nn.Module:
            return mlp(num_features + num_classes, hidden, num_outputs, activation)

        def decoder(num_outputs: int) -> nn.Module:
            return mlp(num_latents + num_classes, hidden[::-1], num_outputs, activation)

        return cls(
            LabelPrior(num_classes),
            StandardNormal(num_latents),
            LIKELIHOODS[likelihood].of(decoder, (num_features,), levels),
            Classifier(mlp(num_features, hidden, num_classes, activation)),
            POSTERIOR_FAMILIES[posterior].of(encoder, num_latents),
        )

    def model(self, x: Tensor, y: Tensor, known: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            label = pyro.sample("y", self.label_prior(), obs=y, obs_mask=cast(BoolTensor, known.bool()))
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.given_label(self.likelihood, z, label), obs=x)

    def guide(self, x: Tensor, y: Tensor, known: Tensor) -> None:
        known = known.bool()
        with pyro.plate("data", x.shape[0], dim=-1):
            label = torch.where(known, y, pyro.sample("y_unobserved", self.classifier(x).mask(~known)))
            pyro.sample("z", self.given_label(self.posterior, x, label))

    def given_label(self, part: nn.Module, vector: Tensor, label: Tensor) -> dist.TorchDistribution:
        """The distribution that a part returns for a vector, `[*, N]`, and a label, `[*]`."""
        return part(joined(vector, label_vectors(label, len(self.label_prior().probs), vector)))

    @checked
    @torch.no_grad()
    def classify(self, x: Observed) -> Tensor:
        """`q(y | x)`, the probabilities of the labels of x `[B, F]`: `[B, C]`."""
        refuse_shape(x, cast(tuple, self.example)[0].shape[1:])
        with mode(self, training=False):
            return self.classifier(x).probs

    @checked
    def init_from(self, x: Observed) -> "M2":
        """Initializes the likelihood from data; returns self."""
        self.likelihood.init_from(x)
        return self
