"""A VAE of several modalities: a shared latent, private ones, and a guide for any subset of the modalities."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from ppvae.arguments import Count, Levels, Positive, Size, checked
from ppvae.batches import Batch
from ppvae.conversion import to_pair
from ppvae.devices import device_of
from ppvae.mode import mode
from ppvae.models.multimodal.class_labels import ClassLabel, OneHot
from ppvae.models.multimodal.missing import by_modality, kept_at_random, which_are_there, zero_where_missing
from ppvae.models.multimodal.named_fusions import FUSIONS
from ppvae.models.named_likelihoods import LIKELIHOODS
from ppvae.models.parts.conditionals import DiagonalNormal
from ppvae.models.parts.joining import joined
from ppvae.models.parts.likelihood import AnyLikelihood, Likelihood
from ppvae.models.parts.priors import StandardNormal
from ppvae.networks import mlp
from ppvae.pair import Pair
from ppvae.recipes import remembered
from ppvae.sources import as_tensor
from ppvae.tracing import draw_latents

LABEL = "label"
"""The name of a likelihood of labels, `0 ... size - 1`, in `MultimodalVAE.mlp`."""


class MultimodalVAE(Pair):
    """`p(z) prod_m p(w_m) p(x_m | z, w_m)` with the guide `q(z | x_S) prod_{m in S} q(w_m | x_m)`.

    The latent z is shared; a modality may have a private latent `w_m`, site "w_m", for what the others say nothing of.
    Priors are N(0, I). A batch is a dict of all modalities, and of `has`, bool `[B, M]`, in their order: which of them
    each row has. Without `has`, all are there. What is missing is masked, the observation and its private latent: a
    row has the evidence, the posterior and the gap that it has in the model of its own modalities alone, whatever
    stands in for the rest. Any ordinary number that the likelihood allows will do: `batch_with_missing` replaces NaN.

    `sample(num)` draws all modalities together, `generate(batch)` draws them given those that are there (cross
    generation), and `reconstruct(batch)` has the means of all of them.

    Weights scale the terms of single modalities in training, as a label is worth two nats where an image is worth a
    hundred. They are a beta, no part of any bound: values that are reported leave them out.

    Source: Suzuki et al. 2016 (arXiv:1611.01891); Wu & Goodman 2018 (arXiv:1802.05335) for missing modalities; Sutter
    et al. 2020 (arXiv:2006.08242) for private latents.

    Args:
        num_latents: size of z.
        likelihoods: by modality; forward(h) returns p(x_m | h), with h being z, or z and w_m side by side.
        posterior: forward(x, has) returns q(z | x_S), from all modalities by name, with zeros for what is missing, and
            `has`: `ProductOfExperts`, `MixtureOfProducts`, `JointPosterior`, or another.
        private: by modality, the size of w_m and a module; forward(x_m) returns the diagonal Normal q(w_m | x_m).
        weights: by modality, of its log likelihood in training; one where none is given.

    Raises:
        ValueError: no modalities, or one called "has", "z", "data" or by a name that modules use themselves, as
            "values"; a private latent or weight of another modality.

    Example:
        >>> pair = MultimodalVAE.mlp({"image": 64, "label": 10}, 8, [50], {"label": "label"})
        >>> batch = pair.sample(5) | {"has": torch.tensor([[True, False]]).expand(5, 2)}
        >>> pair.generate(batch, num_samples=3)["label"].shape  # given the images
        torch.Size([3, 5])
    """

    @checked
    def __init__(
        self,
        num_latents: Size,
        likelihoods: Mapping[str, AnyLikelihood],
        posterior: nn.Module,
        private: Mapping[str, tuple[Size, nn.Module]] | None = None,
        weights: Mapping[str, Positive] | None = None,
    ):
        super().__init__()
        private, weights = private or {}, weights or {}
        if not likelihoods or not {"has", "z"}.isdisjoint(likelihoods):
            raise ValueError(f"likelihoods: found {list(likelihoods)}, expected modalities, none called 'has' or 'z'")
        if others := (set(private) | set(weights)) - set(likelihoods):
            raise ValueError(f"private, weights: found {sorted(others)}, expected some of {list(likelihoods)}")
        self.prior = StandardNormal(num_latents)
        self.likelihoods = by_modality("likelihoods", likelihoods)
        self.posterior = posterior
        self.private_priors = nn.ModuleDict({name: StandardNormal(size) for name, (size, _) in private.items()})
        self.private_posteriors = nn.ModuleDict({name: module for name, (_, module) in private.items()})
        self.weights: dict[str, float] = dict(weights)
        with mode(self, training=False), torch.no_grad():
            widths = {name: num_latents + private[name][0] if name in private else num_latents for name in likelihoods}
            device = device_of(self)
            shown = {name: module(torch.zeros(1, widths[name], device=device)) for name, module in likelihoods.items()}
            zeros = {name: torch.zeros_like(fn.sample()) for name, fn in shown.items()}
        self.example = zeros | {"has": torch.ones(1, len(likelihoods), dtype=torch.bool)}

    @classmethod
    @checked
    @remembered
    def mlp(
        cls,
        sizes: Mapping[str, Size],
        num_latents: Size,
        hidden: Sequence[Size] = (200, 200),
        likelihoods: Mapping[str, str] | None = None,
        posterior: str = "product",
        private: Mapping[str, Size] | None = None,
        weights: Mapping[str, Positive] | None = None,
        activation: type[nn.Module] = nn.Tanh,
        levels: Mapping[str, Levels] | None = None,
    ) -> "MultimodalVAE":
        """A pair of multilayer perceptrons on modalities that are vectors, or labels.

        Args:
            sizes: of each modality; of labels, how many classes there are.
            num_latents: size of z.
            hidden: sizes of the hidden layers of each modality's encoder; its decoder's are the same, reversed.
            likelihoods: by modality, "label", for labels `[B]`, or a name in
                `ppvae.models.named_likelihoods.LIKELIHOODS`; "bernoulli" where none is given.
            posterior: a name in `ppvae.models.multimodal.named_fusions.FUSIONS`: "product" of experts, "mixture" of
                experts, "mixture of products", or "joint".
            private: size of the private latent of each modality that has one.
            weights: by modality, of its log likelihood in training.
            activation: of the hidden layers.
            levels: by modality, the number of its gray levels, or of ordered categories, as in `VAE.mlp`; 256 where
                none is given.

        Raises:
            ValueError: a likelihood or posterior that is not in its registry, or one of another modality.
        """
        kinds, private = dict.fromkeys(sizes, "bernoulli") | dict(likelihoods or {}), private or {}
        if others := (set(kinds) | set(private)) - set(sizes):
            raise ValueError(f"likelihoods, private: found {sorted(others)}, expected some of {list(sizes)}")
        num_levels = dict.fromkeys(sizes, 256) | dict(levels or {})
        if others := set(num_levels) - set(sizes):
            raise ValueError(f"levels: found {sorted(others)}, expected some of {list(sizes)}")

        def encoder(name: str, num_outputs: int) -> nn.Module:
            if kinds[name] == LABEL:
                return nn.Sequential(OneHot(sizes[name]), mlp(sizes[name], hidden, num_outputs, activation))
            return mlp(sizes[name], hidden, num_outputs, activation)

        def likelihood(name: str) -> Likelihood:
            def decoder(num_outputs: int) -> nn.Module:
                return mlp(num_latents + private.get(name, 0), hidden[::-1], num_outputs, activation)

            if kinds[name] == LABEL:
                return ClassLabel(decoder(sizes[name]))
            return LIKELIHOODS[kinds[name]].of(decoder, (sizes[name],), num_levels[name])

        return cls(
            num_latents,
            {name: likelihood(name) for name in sizes},
            FUSIONS[posterior].of(encoder, list(sizes), num_latents),
            {name: (size, DiagonalNormal(encoder(name, 2 * size))) for name, size in private.items()},
            weights,
        )

    @property
    def modalities(self) -> list[str]:
        """Their names, in the order of the columns of `has`."""
        return list(self.likelihoods)

    def model(self, has: Tensor | None = None, **x: Tensor) -> None:
        there = self._by_name(which_are_there(x, has, self.modalities))
        with pyro.plate("data", _num_rows(x), dim=-1):
            z = pyro.sample("z", self.prior())
            for name, likelihood in self.likelihoods.items():
                h = z
                if name in self.private_priors:
                    w = pyro.sample(f"w_{name}", self.private_priors[name]().mask(there[name]))
                    h = joined(z, w)
                with poutine.scale(scale=self.weights.get(name, 1.0)):
                    pyro.sample(name, likelihood(h).mask(there[name]), obs=x[name])

    def guide(self, has: Tensor | None = None, **x: Tensor) -> None:
        present = which_are_there(x, has, self.modalities)
        there = self._by_name(present)
        seen = {name: zero_where_missing(x[name], there[name]) for name in there}
        with pyro.plate("data", _num_rows(x), dim=-1):
            pyro.sample("z", self.shared_posterior(seen, present))
            for name, posterior in self.private_posteriors.items():
                fn = _prior_where_missing(posterior(seen[name]), there[name])
                pyro.sample(f"w_{name}", fn.mask(there[name]))

    def shared_posterior(self, x: Mapping[str, Tensor], has: Tensor) -> dist.TorchDistribution:
        """q(z | x_S), from all modalities, zeros for what is missing, and which are there, `[B, M]`."""
        return self.posterior(x, has)

    def hide_at_random(self, batch: Any) -> Batch:
        """A minibatch with modalities hidden at random, so that a guide learns all subsets.

        Each row keeps a subset of what it has, drawn uniformly from those that are not empty. With
        `ppvae.fit(..., transform=pair.hide_at_random)` the bound that training reports is the mean over such subsets.

        Args:
            batch: of B rows, with or without `has`.
        """
        x, has = self.split(batch)
        return {**x, "has": kept_at_random(has)}

    @checked
    @torch.no_grad()
    def generate(
        self, batch: Any, num_samples: Count = 1, private: Literal["guide", "prior"] = "guide"
    ) -> dict[str, Tensor]:
        """Draws of all modalities given those that are there, `[num_samples, B, *event]`: cross generation.

        `z ~ q(z | x_S)`, then each modality from its likelihood, with z in common.

        Args:
            batch: B rows; `has` says what is given.
            num_samples: draws for each row.
            private: where private latents come from: those of modalities that are there from the guide, or, "prior",
                none of them, so that what is shared stays and all else is new. Those of what is missing are always
                from the prior.
        """
        with mode(self, training=False):
            latents = draw_latents(self, to_pair(self.checked(batch), self), num_samples)
            z, found = latents["z"].flatten(0, 1), {}
            for name, likelihood in self.likelihoods.items():
                h = z
                if name in self.private_priors:
                    w = latents[f"w_{name}"].flatten(0, 1)
                    h = joined(z, w if private == "guide" else torch.randn_like(w))
                found[name] = likelihood(h).sample().unflatten(0, (num_samples, -1))
        return found

    def init_from(self, batch: Any) -> "MultimodalVAE":
        """Initializes each likelihood from the rows that have its modality; returns self."""
        x, has = self.split(batch)
        for name, there in self._by_name(has).items():
            likelihood: Any = self.likelihoods[name]
            likelihood.init_from(x[name][there])
        return self

    def split(self, batch: Any) -> tuple[dict[str, Tensor], Tensor]:
        """The modalities of a batch by name, and which of them each row has, bool `[B, M]`."""
        if not isinstance(batch, dict):
            raise TypeError(f"batch: found {type(batch).__name__}, expected a dict of modalities, and `has`")
        given: dict[str, Any] = {name: t if t is None else as_tensor(f"batch[{name}]", t) for name, t in batch.items()}
        x = {name: t for name, t in given.items() if name != "has"}
        return x, which_are_there(x, given.get("has"), self.modalities)

    def _by_name(self, present: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.likelihoods, present.unbind(-1), strict=True))


def _num_rows(x: Mapping[str, Tensor]) -> int:
    return next(iter(x.values())).shape[0]


def _prior_where_missing(fn: Any, there: Tensor) -> dist.TorchDistribution:
    normal, there = fn.base_dist, there.unsqueeze(-1)
    loc = torch.where(there, normal.loc, torch.zeros_like(normal.loc))
    return dist.Normal(loc, torch.where(there, normal.scale, torch.ones_like(normal.scale))).to_event(1)
