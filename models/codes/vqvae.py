"""The VQ-VAE as a pair: a prior over codes, and a guide that puts all probability on the nearest ones."""

import copy
from collections.abc import Sequence

import pyro
import torch
from torch import Tensor, nn

from ppvae.arguments import Count, Fraction, Levels, Observed, Size, checked
from ppvae.mode import mode
from ppvae.models.codes.code_priors import UniformCodes
from ppvae.models.codes.code_search import Joint
from ppvae.models.codes.code_vectors import CodeVectors, looked_up, nearest
from ppvae.models.codes.codebook import Codebook
from ppvae.models.codes.coded_pair import CodedPair, Quantize
from ppvae.models.named_likelihoods import LIKELIHOODS
from ppvae.models.parts.likelihood import AnyLikelihood
from ppvae.networks import mlp
from ppvae.recipes import remembered


class VQVAE(CodedPair):
    """`c ~ prior`, `z = codebook[c]`, `x | z` from a likelihood; guided by the codes nearest to what an encoder gives.

    The site "z" carries the code vectors, `[*positions, D]`. As the guide has one value for each x, the ELBO is
    `log p(x | z) + log p(c)`, with the uniform prior `log p(x | z) - P log K`, a bound like any other. Its gap is
    `-log p(c | x)`, the codes left out; weights from such a guide are all equal, and prove nothing. So evidence is the
    sum over all K^P codes where these are a million at most; else importance weights from `tempered()`, whose guide
    has probability everywhere. The ledger's best guide of the family is at the codes that a coordinate search finds.

    Train with `ppvae.VectorQuantizedELBO()`, whose gradient goes straight through to the encoder, and draws that and
    the codes together.

    Source: van den Oord et al. 2017 (arXiv:1711.00937).

    Args:
        encoder: `[*, *event] -> [*, *positions, D]`.
        codebook: the codes.
        likelihood: forward(z), z `[*, *positions, D]`, returns p(x | z).
        prior: forward() returns a distribution over the indices of all positions: `UniformCodes`, or another, whose
            event shape is that of the positions.

    Example:
        >>> pair = VQVAE.mlp(num_features=64, num_positions=4, num_codes=16, code_dim=2)
        >>> x = pair.sample(5)
        >>> pair.codes(x).shape, pair.log_weights(x, num_particles=3).log_w.shape
        (torch.Size([5, 4]), torch.Size([3, 5]))
    """

    @checked
    def __init__(self, encoder: nn.Module, codebook: Codebook, likelihood: AnyLikelihood, prior: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.codebook = codebook
        self.likelihood = likelihood
        self.prior = prior
        with mode(self, training=False), torch.no_grad():
            z = self._prior().sample((1,))
            self.event_shape = likelihood(z).event_shape
        self._event_dim = z.dim() - 1
        self.example = torch.zeros(1, *self.event_shape)

    @classmethod
    @checked
    @remembered
    def mlp(
        cls,
        num_features: Size,
        num_positions: Size,
        num_codes: Size,
        code_dim: Size,
        hidden: Sequence[Size] = (200, 200),
        likelihood: str = "bernoulli",
        decay: Fraction | None = None,
        activation: type[nn.Module] = nn.Tanh,
        levels: Levels = 256,
    ) -> "VQVAE":
        """A VQ-VAE of multilayer perceptrons on vectors, with a uniform prior.

        Args:
            num_features: size of x.
            num_positions: P.
            num_codes: K.
            code_dim: D.
            hidden: sizes of the encoder's hidden layers; the decoder's are the same, reversed.
            likelihood: a name in `ppvae.models.named_likelihoods.LIKELIHOODS`.
            decay: of the codebook's running averages; None for learning by gradient.
            activation: of the hidden layers.
            levels: number of gray levels, for "logistic_mixture" and "categorical".

        Raises:
            ValueError: a likelihood that is not in its registry.
        """
        size = num_positions * code_dim

        def decoder(num_outputs: int) -> nn.Module:
            return nn.Sequential(nn.Flatten(-2), mlp(size, hidden[::-1], num_outputs, activation))

        encoder = mlp(num_features, hidden, size, activation)
        return cls(
            nn.Sequential(encoder, nn.Unflatten(-1, (num_positions, code_dim))),
            Codebook(num_codes, code_dim, decay=decay),
            LIKELIHOODS[likelihood].of(decoder, (num_features,), levels),
            UniformCodes((num_positions,), num_codes),
        )

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", self._prior())
            pyro.sample("x", self.likelihood(z), obs=x)

    def draw_codes(self, x: Tensor, quantize: Quantize) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", quantize(self.codebook, self.encoder(x), self._event_dim, self.prior))

    def _prior(self) -> CodeVectors:
        return CodeVectors(self.prior(), self.codebook.codes)

    @checked
    @torch.no_grad()
    def codes(self, x: Observed) -> Tensor:
        """The indices of the codes of each data point, `[N, *positions]`."""
        return nearest(self.codebook.scaled(self._encoded(x)), self.codebook.codes)

    def _nearest(self, x: Tensor) -> Tensor:
        return self.codes(x).flatten(1)

    def _joint(self, x: Tensor) -> Joint:
        prior, codes = self.prior(), self.codebook.codes

        def log_joint(index: Tensor) -> Tensor:
            index = index.unflatten(-1, prior.event_shape)
            z = looked_up(codes, index)
            return prior.log_prob(index) + self._log_likelihood(z, x)

        return Joint(log_joint, [codes.shape[1]] * prior.event_shape.numel(), x)

    # Its dictionary, and its prior.

    @checked
    @torch.no_grad()
    def init_from(self, x: Observed) -> "VQVAE":
        """Initializes the likelihood from data, and the codes by k-means of what the encoder gives; returns self."""
        self.likelihood.init_from(x)
        self.codebook.init_from(self._encoded(x))
        return self

    @checked
    @torch.no_grad()
    def usage(self, x: Observed) -> Tensor:
        """How many times data points x have each code, over all of x, `[G, K]`."""
        return self.codebook.counts(self._encoded(x))

    @checked
    @torch.no_grad()
    def restart_dead_codes(self, x: Observed, least: Count = 1) -> int:
        """Moves codes that x has fewer than `least` times to what the encoder gives for some of x; returns how many.

        Give it all data, as few batches have all codes: `fit(..., callbacks=[lambda _: pair.restart_dead_codes(data)])`
        does so after each epoch.
        """
        h = self._encoded(x)
        return self.codebook.place(self.codebook.counts(h) < least, h)

    @checked
    def second_stage(self, prior: nn.Module) -> "VQVAE":
        """A copy with another prior, which alone learns: all else, the codes included, stays as it is.

        From the uniform prior, its ELBO rises by P log K minus the cross-entropy of the codes, exactly.
        """
        after = copy.deepcopy(self).requires_grad_(False)
        after.codebook.decay = None
        after.prior = prior
        return after
