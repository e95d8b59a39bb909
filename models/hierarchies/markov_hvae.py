"""The Markov-prior hierarchical VAE: p(z_L) p(z_{L-1} | z_L) ... p(z_1 | z_2) p(x | z_1)."""

from collections.abc import Sequence
from itertools import pairwise

import pyro
import torch
from torch import Tensor, nn

from ppvae.arguments import Levels, Observed, Size, checked
from ppvae.mode import mode
from ppvae.models.hierarchies.hierarchical_posteriors import HIERARCHICAL_POSTERIORS, LayerNetworks
from ppvae.models.named_likelihoods import LIKELIHOODS
from ppvae.models.parts.conditionals import DiagonalNormal
from ppvae.models.parts.likelihood import AnyLikelihood
from ppvae.models.parts.priors import StandardNormal
from ppvae.networks import mlp
from ppvae.pair import Pair
from ppvae.recipes import remembered

MIN_SCALE = 0.5
"""The floor under the scales of transitions. A layer can rescale its units, so the floor costs the model nothing.
Without it, with guides that run downwards, some units become nearly deterministic functions of the layer above, with
scales of a thousandth, and carry no information of their own about x.
"""


class MarkovHVAE(Pair):
    """A chain of L latent layers, z_1 next to the data, and a guide over them; sites "z1" ... "zL" and "x".

    With a guide of Gaussian layers that are independent given x, or drawn downwards, the ELBO is
    `E log p(x | z_1) - sum_{l<L} E_q KL(q(z_l | z_{l+1}, x) || p(z_l | z_{l+1})) - KL(q(z_L | x) || p(z_L))`,
    each inner KL in closed form, which `ppvae.ELBO()` uses automatically. A guide that cannot express how layers depend
    on one another given x loses nats: `ppvae.gap` says how many, `ppvae.elbo_terms` what each layer's term is.

    Source: Rezende et al. 2014 (arXiv:1401.4082); Sønderby et al. 2016 (arXiv:1602.02282); Vahdat & Kautz 2020
    (arXiv:2007.03898).

    Args:
        prior: forward() returns p(z_L).
        transitions: L - 1 modules; `transitions[l - 1]`(z_{l+1}) returns p(z_l | z_{l+1}).
        likelihood: forward(z_1) returns p(x | z_1).
        posterior: a module whose forward(x, transitions) draws the sites "z1" ... "zL": `ConditionallyIndependent`,
            `BottomUpPosterior`, `LadderPosterior`, `ResidualPosterior` or `IAFPosterior`.

    Example:
        >>> hvae = MarkovHVAE.mlp(num_features=64, num_latents=[8, 4], hidden=[50])
        >>> sorted(hvae.latents(hvae.sample(5), num_particles=3))
        ['z1', 'z2']
    """

    @checked
    def __init__(
        self, prior: nn.Module, transitions: Sequence[nn.Module], likelihood: AnyLikelihood, posterior: nn.Module
    ):
        super().__init__()
        self.prior = prior
        self.transitions = nn.ModuleList(transitions)
        self.likelihood = likelihood
        self.posterior = posterior
        # In evaluation mode: in training mode, batch norms would learn from the draw, or refuse a single one.
        with mode(self, training=False), torch.no_grad():
            z = prior().sample((1,))
            for transition in reversed(self.transitions):
                z = transition(z).sample()
            self.example = torch.zeros(1, *likelihood(z).event_shape)

    @classmethod
    @checked
    @remembered
    def mlp(
        cls,
        num_features: Size,
        num_latents: Sequence[Size],
        hidden: Sequence[Size] = (200, 200),
        likelihood: str = "bernoulli",
        posterior: str = "independent",
        activation: type[nn.Module] = nn.Tanh,
        levels: Levels = 256,
        batch_norm: bool = False,
    ) -> "MarkovHVAE":
        """A hierarchy of multilayer perceptrons.

        Args:
            num_features: size of x.
            num_latents: sizes of z_1 ... z_L.
            hidden: sizes of the hidden layers of each network on the way up from x; reversed on the way down.
            likelihood: a name in `ppvae.models.named_likelihoods.LIKELIHOODS`: "bernoulli", "gaussian" (one learned
                sigma), "heteroscedastic" (sigma(z), a network), or another.
            posterior: a name in `ppvae.models.hierarchies.hierarchical_posteriors.HIERARCHICAL_POSTERIORS`:
                "independent" (each layer given x), "bottom_up" (each given the one below), "ladder" (downwards,
                messages from x combined with the prior), "residual" (downwards, relative to the prior), "iaf" (the
                same, then moved by a flow), or another.
            activation: of the hidden layers.
            levels: number of gray levels, for "logistic_mixture" and "categorical"; data are `k / (levels - 1)`.
            batch_norm: whether there is one before each activation. Training takes longer, and the ladder uses its
                upper layers far more (Sønderby et al. 2016).

        Raises:
            ValueError: no layers, or a likelihood or posterior that is not in its registry.
        """
        if not num_latents:
            raise ValueError("num_latents: found no layers, expected the sizes of z_1 ... z_L, L >= 1")
        transitions = [
            DiagonalNormal(mlp(above, hidden[::-1], 2 * below, activation, batch_norm), MIN_SCALE)
            for below, above in pairwise(num_latents)
        ]
        networks = LayerNetworks(num_features, num_latents, hidden, activation, batch_norm)
        guide = HIERARCHICAL_POSTERIORS[posterior].make(networks)

        def decoder(num_outputs: int) -> nn.Module:
            return mlp(num_latents[0], hidden[::-1], num_outputs, activation, batch_norm)

        return cls(
            StandardNormal(num_latents[-1]),
            transitions,
            LIKELIHOODS[likelihood].of(decoder, (num_features,), levels),
            guide,
        )

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            top = len(self.transitions) + 1
            z = pyro.sample(f"z{top}", self.prior())
            for layer in range(top - 1, 0, -1):
                z = pyro.sample(f"z{layer}", self.transitions[layer - 1](z))
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            self.posterior(x, self.transitions)

    @checked
    def init_from(self, x: Observed) -> "MarkovHVAE":
        """Initializes the likelihood from data: output bias at the mean of x, a learned sigma at its spread."""
        self.likelihood.init_from(x)
        return self
