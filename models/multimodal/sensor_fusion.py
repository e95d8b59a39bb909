"""Sensors fused into one latent, which also has to predict targets of an action."""

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppvae.arguments import Size, checked
from ppvae.batches import Batch
from ppvae.devices import device_of
from ppvae.mode import mode
from ppvae.models.multimodal.missing import by_modality, kept_at_random, which_are_there, zero_where_missing
from ppvae.models.parts.joining import joined
from ppvae.models.parts.likelihood import AnyLikelihood
from ppvae.models.parts.priors import StandardNormal
from ppvae.pair import Pair
from ppvae.sources import as_tensor


class SensorFusion(Pair):
    """`p(z) prod_m p(x_m | z) prod_t p(y_t | z, a)` with the guide `q(z | x_S)`: the action a is a covariate.

    Targets are what is seen once the action is taken, and needs no annotation: how things move (flow), whether they
    touch (contact). They teach z what an action depends on. The guide does not see them, so that it can be used before
    the action. The price is a gap where targets are known: what they would add to the posterior.
    `ppvae.gap_by_pattern` measures it.

    Whether sensors belong together (pairing) needs no target: `log p(x_1, x_2) - log p(x_1) - log p(x_2)`, from
    `ppvae.log_evidence` with sensors hidden, says how much likelier they are as a pair than apart.

    A batch is a dict of sensors, targets, `action` `[B, A]`, and `has`, bool `[B, M + T]`: which sensors and then
    which targets each row has. What is missing is masked, as in `MultimodalVAE`. Without `has`, all are there.

    Source: Lee et al. 2019 (arXiv:1810.10191), whose targets are flow, contact and pairing.

    Args:
        num_latents: size of z.
        num_actions: A.
        sensors: by name; forward(z) returns p(x_m | z).
        targets: by name; forward(za), `[*, D + A]`, returns p(y_t | z, a).
        posterior: forward(x, has) returns q(z | x_S), as for `MultimodalVAE`, of the sensors.

    Raises:
        ValueError: no sensors or no targets, or names that come twice or are "z", "action", "has", "data" or names that
            modules use themselves, as "values".

    Example:
        >>> from ppvae.models import Bernoulli, DiagonalNormal, Gaussian, ProductOfExperts
        >>> sensors = {"image": Bernoulli(nn.Linear(2, 9)), "force": Gaussian(nn.Linear(2, 3))}
        >>> experts = {"image": DiagonalNormal(nn.Linear(9, 4)), "force": DiagonalNormal(nn.Linear(3, 4))}
        >>> targets = {"contact": Bernoulli(nn.Linear(3, 1))}
        >>> pair = SensorFusion(2, 1, sensors, targets, ProductOfExperts(experts))
        >>> batch = pair.sample(5) | {"action": torch.ones(5, 1), "has": torch.tensor([[True, True, False]] * 5)}
        >>> pair.reconstruct(batch)["contact"].shape  # what the action would lead to
        torch.Size([5, 1])
    """

    @checked
    def __init__(
        self,
        num_latents: Size,
        num_actions: Size,
        sensors: Mapping[str, AnyLikelihood],
        targets: Mapping[str, AnyLikelihood],
        posterior: nn.Module,
    ):
        super().__init__()
        names = [*sensors, *targets, "z", "action", "has"]
        if not sensors or not targets or len(set(names)) < len(names):
            raise ValueError(
                f"sensors, targets: found {[*sensors]} and {[*targets]}, expected one or more of each, by names that "
                "differ from each other and from 'z', 'action' and 'has'"
            )
        self.prior = StandardNormal(num_latents)
        self.sensors = by_modality("sensors", sensors)
        self.targets = by_modality("targets", targets)
        self.posterior = posterior
        with mode(self, training=False), torch.no_grad():
            device = device_of(self)
            z, action = torch.zeros(1, num_latents, device=device), torch.zeros(1, num_actions, device=device)
            shown = {name: likelihood(z) for name, likelihood in sensors.items()}
            shown |= {name: likelihood(joined(z, action)) for name, likelihood in targets.items()}
            zeros = {name: torch.zeros_like(fn.sample()) for name, fn in shown.items()}
        self.example = zeros | {"action": action, "has": torch.ones(1, len(shown), dtype=torch.bool)}

    @property
    def modalities(self) -> list[str]:
        """The names of sensors and targets, in the order of the columns of `has`."""
        return [*self.sensors, *self.targets]

    def model(self, action: Tensor, has: Tensor | None = None, **x: Tensor) -> None:
        there = dict(zip(self.modalities, which_are_there(x, has, self.modalities).unbind(-1), strict=True))
        with pyro.plate("data", len(action), dim=-1):
            z = pyro.sample("z", self.prior())
            for name, likelihood in self.sensors.items():
                pyro.sample(name, likelihood(z).mask(there[name]), obs=x[name])
            for name, likelihood in self.targets.items():
                pyro.sample(name, likelihood(joined(z, action)).mask(there[name]), obs=x[name])

    def guide(self, action: Tensor, has: Tensor | None = None, **x: Tensor) -> None:
        there = which_are_there(x, has, self.modalities)[:, : len(self.sensors)]
        own = zip(self.sensors, there.unbind(-1), strict=True)
        seen = {name: zero_where_missing(x[name], here) for name, here in own}
        with pyro.plate("data", len(action), dim=-1):
            pyro.sample("z", self.posterior(seen, there))

    def hide_at_random(self, batch: Any) -> Batch:
        """A minibatch with sensors hidden at random, as by `MultimodalVAE.hide_at_random`; targets stay.

        Args:
            batch: of B rows, with or without `has`.
        """
        if not isinstance(batch, dict):
            raise TypeError(f"batch: found {type(batch).__name__}, expected a dict of sensors, targets and `action`")
        batch = {name: t if t is None else as_tensor(f"batch[{name}]", t) for name, t in batch.items()}
        x = {name: t for name, t in batch.items() if name not in ("action", "has")}
        has = which_are_there(x, batch.get("has"), self.modalities)
        sensors, targets = has.split([len(self.sensors), len(self.targets)], -1)
        return {**batch, "has": torch.cat([kept_at_random(sensors), targets], -1)}
