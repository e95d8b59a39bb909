"""Guides of a hierarchy: modules whose forward draws the sites "z1" ... "zL" given x, in an order of their own.

Each is called with x and the model's transitions, on which the top-down guides build.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.arguments import checked
from ppvae.models.parts.conditionals import DiagonalNormal
from ppvae.models.parts.couplings import halves
from ppvae.models.parts.flow_posteriors import autoregressive_map
from ppvae.models.parts.joining import joined
from ppvae.models.parts.registry import NamedPart, Registry
from ppvae.models.parts.residual_normal import ResidualNormal
from ppvae.networks import hidden_layers, mlp
from ppvae.refusals import ContractError, family
from ppvae.rules import Elements, Instance

Modules = Annotated[Sequence[nn.Module], Elements(Instance(nn.Module), at_least=1)]


class EncodedLayers(nn.Module):
    """A guide that has an encoder for each layer.

    Args:
        encoders: L modules, `encoders[l - 1]` returns the distribution of z_l.
    """

    @checked
    def __init__(self, encoders: Modules):
        super().__init__()
        self.encoders = nn.ModuleList(encoders)


class ConditionallyIndependent(EncodedLayers):
    """`q(z_1 | x) ... q(z_L | x)`: each layer has its own encoder of x.

    It cannot express the posterior's dependence between layers.

    Args:
        encoders: L modules, `encoders[l - 1]`(x) returns q(z_l | x).

    Example:
        >>> from ppvae.models import MarkovHVAE
        >>> pair = MarkovHVAE.mlp(num_features=6, num_latents=[3, 2], hidden=[8])
        >>> pair.posterior = ConditionallyIndependent([DiagonalNormal(nn.Linear(6, 2 * size)) for size in (3, 2)])
        >>> list(pair.latents(torch.zeros(4, 6)))
        ['z1', 'z2']
    """

    def forward(self, x: Tensor, transitions: nn.ModuleList) -> None:
        for layer, encoder in enumerate(self.encoders, start=1):
            pyro.sample(f"z{layer}", encoder(x))


class BottomUpPosterior(EncodedLayers):
    """`q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1})`: a Markov chain in the direction opposite to the model's.

    The exact posterior factorizes in the same way. But a layer learns of x only through the draws below it, and only
    the top layer's KL term has a closed form.

    Source: Rezende et al. 2014 (arXiv:1401.4082); the stacked guides of Burda et al. 2016 (arXiv:1509.00519).

    Args:
        encoders: L modules, `encoders[0]`(x) returns q(z_1 | x), `encoders[l]`(z_l) q(z_{l+1} | z_l).

    Example:
        >>> from ppvae.models import MarkovHVAE
        >>> pair = MarkovHVAE.mlp(num_features=6, num_latents=[3, 2], hidden=[8])
        >>> pair.posterior = BottomUpPosterior([DiagonalNormal(nn.Linear(6, 6)), DiagonalNormal(nn.Linear(3, 4))])
        >>> list(pair.latents(torch.zeros(4, 6)))
        ['z1', 'z2']
    """

    def forward(self, x: Tensor, transitions: nn.ModuleList) -> None:
        below = x
        for layer, encoder in enumerate(self.encoders, start=1):
            below = pyro.sample(f"z{layer}", encoder(below))


class TopDownPosterior(nn.Module):
    """`q(z_L | x) q(z_{L-1} | z_L, x) ... q(z_1 | z_2, x)`, each built on the model's p(z_l | z_{l+1}).

    Features `d_1 = f_1(x)`, `d_l = f_l(d_{l-1})` are computed upwards, without draws; the layers are drawn downwards,
    in the model's order. So all KL terms have closed forms given the layers above.

    Args:
        features: L modules, `features[0]`(x) is d_1, `features[l]`(d_l) is d_{l+1}.
        heads: L modules; the last one, of d_L, returns q(z_L | x). The others return Normals, as `DiagonalNormal` does.

    Raises:
        ContractError: when called with a transition that does not return a factorized Normal.
    """

    @checked
    def __init__(self, features: Modules, heads: Modules):
        super().__init__()
        self.features = nn.ModuleList(features)
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor, transitions: nn.ModuleList) -> None:
        d = [x]
        for feature in self.features:
            d.append(feature(d[-1]))
        top = len(self.features)
        z = pyro.sample(f"z{top}", self.mapped(top, self.heads[-1](d[top]), d[top]))
        for layer in range(top - 1, 0, -1):
            prior = transitions[layer - 1](z)
            if not isinstance(getattr(prior, "base_dist", None), dist.Normal):
                raise ContractError(
                    f"transitions[{layer - 1}]: found {family(prior)}, expected Normal(...).to_event(1), as "
                    f"{type(self).__name__} shifts and scales it; use BottomUpPosterior or ConditionallyIndependent"
                )
            q = self.moved(prior.base_dist, self.heads[layer - 1], d[layer]).to_event(1)
            z = pyro.sample(f"z{layer}", self.mapped(layer, q, d[layer]))

    def moved(self, prior: dist.Normal, head: nn.Module, d: Tensor) -> ResidualNormal:
        """A Gaussian `q(z_l | z_{l+1}, x)`, from `p(z_l | z_{l+1})`, the layer's head and `d_l`."""
        raise NotImplementedError

    def mapped(self, layer: int, q: dist.TorchDistribution, d: Tensor) -> dist.TorchDistribution:
        """What z_l is drawn from: that Gaussian, or what a map makes of it."""
        return q


class LadderPosterior(TopDownPosterior):
    """`q(z_l | z_{l+1}, x)` proportional to `p(z_l | z_{l+1}) N(z_l; m_l(x), v_l(x))`, the prior times a message.

    Precisions add, and means are weighted by them: where x says little about a layer, its posterior is its prior. A
    layer's message does not depend on the layers above, which is exact for scalars in a linear-Gaussian chain.

    Source: Sønderby et al. 2016 (arXiv:1602.02282).

    Args:
        features: as in `TopDownPosterior`.
        heads: `heads[l - 1]`(d_l) returns N(m_l, v_l); the last one is q(z_L | x) itself.

    Example:
        >>> from ppvae.models import MarkovHVAE
        >>> pair = MarkovHVAE.mlp(num_features=6, num_latents=[3, 2], hidden=[8])
        >>> features = [nn.Linear(6, 8), nn.Linear(8, 8)]
        >>> pair.posterior = LadderPosterior(features, [DiagonalNormal(nn.Linear(8, 2 * size)) for size in (3, 2)])
        >>> list(pair.latents(torch.zeros(4, 6)))
        ['z2', 'z1']
    """

    def moved(self, prior: dist.Normal, head: nn.Module, d: Tensor) -> ResidualNormal:
        message = head(d).base_dist
        both = torch.hypot(prior.scale, message.scale)
        share = (prior.scale / both).square()  # of the message: v_p / (v_p + v)
        return ResidualNormal(share * (message.loc - prior.loc), message.scale / both, prior)


class ResidualPosterior(TopDownPosterior):
    """`q(z_l | z_{l+1}, x) = N(mu_l + delta_mu, (sigma_l delta_sigma)^2)`, mu_l and sigma_l being the transition's.

    The deltas are functions of x, mu_l and sigma_l: the posterior depends on the layer above only through the prior's
    parameters, as `p(z_l | z_{l+1}, x)` is proportional to `p(z_l | z_{l+1}) p(x | z_l)`. See `ResidualNormal`.

    How heads are initialized influences whether z_{l+1} is used. If deltas do not depend on mu_l, all its noise passes
    into z_l, and nothing pulls mu_l towards what x says; if they cancel mu_l, the likelihood has no influence on
    z_{l+1}. `MarkovHVAE.mlp` starts half-way, at the mean `mu_l / 2 + m_l(x)`.

    Source: Vahdat & Kautz 2020 (arXiv:2007.03898), whose deltas also depend on x and on the prior's inputs.

    Args:
        features: as in `TopDownPosterior`.
        heads: `heads[l - 1]`, of d_l, mu_l and sigma_l concatenated, returns a Normal whose parameters are delta_mu and
            delta_sigma; the last one, of d_L, returns q(z_L | x) itself.

    Example:
        >>> from ppvae.models import MarkovHVAE
        >>> pair = MarkovHVAE.mlp(num_features=6, num_latents=[3, 2], hidden=[8])
        >>> features = [nn.Linear(6, 8), nn.Linear(8, 8)]
        >>> heads = [DiagonalNormal(nn.Linear(8 + 3 + 3, 6)), DiagonalNormal(nn.Linear(8, 4))]
        >>> pair.posterior = ResidualPosterior(features, heads)
        >>> list(pair.latents(torch.zeros(4, 6)))
        ['z2', 'z1']
    """

    def moved(self, prior: dist.Normal, head: nn.Module, d: Tensor) -> ResidualNormal:
        delta = head(joined(d, prior.loc, prior.scale)).base_dist
        return ResidualNormal(delta.loc, delta.scale, prior)


class IAFPosterior(ResidualPosterior):
    """`z_l = T_l(e_l; c_l)`, e_l from the residual guide's Gaussian, T_l a step of an inverse autoregressive flow.

    T_l shifts and scales each latent by a masked network of those before it and of the context c_l: d_l, which comes
    from x, and mean and log scale of that Gaussian, where both directions meet. So the latents of a layer may be
    correlated given x and the layer above. No KL has a closed form; `InverseAutoregressiveFlow` says when densities are
    slow. With maps that are the identity it is a `ResidualPosterior`: `MarkovHVAE.mlp` starts there.

    Source: Kingma et al. 2016 (arXiv:1606.04934), whose hierarchy is convolutional and passes features downwards too.

    Args:
        features: as in `TopDownPosterior`.
        heads: as in `ResidualPosterior`; the last one returns a factorized Normal.
        maps: L conditional transforms, `maps[l - 1].condition(c_l)` is T_l.

    Example:
        >>> from ppvae.models import MarkovHVAE
        >>> from ppvae.models.parts.flow_posteriors import autoregressive_map
        >>> pair = MarkovHVAE.mlp(num_features=6, num_latents=[3, 2], hidden=[8])
        >>> features = [nn.Linear(6, 8), nn.Linear(8, 8)]
        >>> heads = [DiagonalNormal(nn.Linear(8 + 3 + 3, 6)), DiagonalNormal(nn.Linear(8, 4))]
        >>> pair.posterior = IAFPosterior(features, heads, [autoregressive_map(n, 8 + n + n, 8) for n in (3, 2)])
        >>> list(pair.latents(torch.zeros(4, 6)))
        ['z2', 'z1']
    """

    @checked
    def __init__(self, features: Modules, heads: Modules, maps: Modules):
        super().__init__(features, heads)
        self.maps = nn.ModuleList(maps)

    def mapped(self, layer: int, q: dist.TorchDistribution, d: Tensor) -> dist.TorchDistribution:
        step: Any = self.maps[layer - 1]
        context = joined(d, q.base_dist.loc, q.base_dist.scale.log())
        return dist.TransformedDistribution(q, [step.condition(context)])


@dataclass(frozen=True)
class LayerNetworks:
    """The multilayer perceptrons of a guide of L layers.

    Attributes:
        num_features: size of x.
        num_latents: sizes of z_1 ... z_L.
        hidden: sizes of the hidden layers of each encoder, or of each layer's features.
        activation: of the hidden layers.
        batch_norm: whether there is one before each activation.
    """

    num_features: int
    num_latents: Sequence[int]
    hidden: Sequence[int] = (200, 200)
    activation: type[nn.Module] = nn.Tanh
    batch_norm: bool = False

    def encoder(self, num_in: int, num_latents: int) -> DiagonalNormal:
        """A Gaussian of `num_latents`, by a network with the hidden layers."""
        return DiagonalNormal(mlp(num_in, self.hidden, 2 * num_latents, self.activation, self.batch_norm))

    def features(self, name: str) -> list[nn.Module]:
        """f_1 ... f_L of the guide of that name, each a stack of all hidden layers."""
        if not self.hidden:
            raise ValueError(f"hidden: found no layers, expected one or more, as they are the features of {name!r}")
        num_inputs = [self.num_features] + [self.hidden[-1]] * (len(self.num_latents) - 1)
        return [hidden_layers(n, self.hidden, self.activation, self.batch_norm) for n in num_inputs]

    def head(self, num_latents: int) -> DiagonalNormal:
        """A Gaussian of `num_latents`, linear in a layer's features."""
        return DiagonalNormal(mlp(self.hidden[-1], [], 2 * num_latents))


def _independent(networks: LayerNetworks) -> ConditionallyIndependent:
    return ConditionallyIndependent([networks.encoder(networks.num_features, size) for size in networks.num_latents])


def _bottom_up(networks: LayerNetworks) -> BottomUpPosterior:
    sizes = pairwise([networks.num_features, *networks.num_latents])
    return BottomUpPosterior([networks.encoder(below, size) for below, size in sizes])


def _ladder(networks: LayerNetworks) -> LadderPosterior:
    return LadderPosterior(networks.features("ladder"), [networks.head(size) for size in networks.num_latents])


def _residual(networks: LayerNetworks) -> ResidualPosterior:
    *lower, top = networks.num_latents
    features = networks.features("residual")
    heads = [_residual_head(networks.hidden[-1], size) for size in lower]
    return ResidualPosterior(features, [*heads, networks.head(top)])


def _iaf(networks: LayerNetworks) -> IAFPosterior:
    residual, width = _residual(networks), networks.hidden[-1]
    maps = [_identity_map(size, width + 2 * size, max(width, size)) for size in networks.num_latents]
    return IAFPosterior(list(residual.features), list(residual.heads), maps)


def _identity_map(size: int, num_context: int, num_hidden: int) -> nn.Module:
    """A map that is the identity until it is trained."""
    halves("num_latents", size)
    step = autoregressive_map(size, num_context, num_hidden)
    *_, last = (layer for layer in step.modules() if isinstance(layer, nn.Linear))
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return step


def _residual_head(width: int, size: int) -> DiagonalNormal:
    """One linear layer on d_l, mu_l and sigma_l, which starts at `delta_mu = m_l(x) - mu_l / 2`."""
    layer = nn.Linear(width + 2 * size, 2 * size)
    layer.weight.data[:, width:] = 0
    layer.weight.data[:size, width : width + size] = -torch.eye(size) / 2
    return DiagonalNormal(layer)


@dataclass(frozen=True, kw_only=True)
class NamedHierarchicalPosterior(NamedPart):
    """A guide of a hierarchy by name.

    Attributes:
        factorization: of the guide, as a formula.
        make: makes it from the networks of its layers.
    """

    factorization: str
    make: Callable[[LayerNetworks], nn.Module]


HIERARCHICAL_POSTERIORS = Registry(
    "posterior",
    "for another, set `pair.posterior` to a module of your own",
    NamedHierarchicalPosterior(
        name="independent",
        module=ConditionallyIndependent,
        factorization="q(z_1 | x) ... q(z_L | x)",
        summary="from x alone",
        make=_independent,
    ),
    NamedHierarchicalPosterior(
        name="bottom_up",
        module=BottomUpPosterior,
        factorization="q(z_1 | x) q(z_2 | z_1) ...",
        summary="from the layer below",
        source="Rezende et al. 2014; Burda et al. 2016",
        make=_bottom_up,
    ),
    NamedHierarchicalPosterior(
        name="ladder",
        module=LadderPosterior,
        factorization="q(z_L | x) ... q(z_1 | z_2, x)",
        summary="from the product of `p(z_l | z_{l+1})` and a Gaussian message from x",
        source="Sønderby et al. 2016",
        make=_ladder,
    ),
    NamedHierarchicalPosterior(
        name="residual",
        module=ResidualPosterior,
        factorization="q(z_L | x) ... q(z_1 | z_2, x)",
        summary="from `p(z_l | z_{l+1})`, shifted and scaled by functions of x and of its mean and scale",
        source="Vahdat & Kautz 2020",
        make=_residual,
    ),
    NamedHierarchicalPosterior(
        name="iaf",
        module=IAFPosterior,
        factorization="q(z_L | x) ... q(z_1 | z_2, x)",
        summary='as by "residual", then moved by an inverse autoregressive flow, given x and the layer above',
        source="Kingma et al. 2016",
        make=_iaf,
    ),
)
