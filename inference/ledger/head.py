"""A pair whose guide's draws are mapped by a network of the data: what a richer posterior for all of it would gain."""

from typing import Any

import torch
from torch import Tensor, nn

from ppvae.batches import Batch, num_rows
from ppvae.inference.ledger.of_data import OfData
from ppvae.inference.ledger.richer_families import families_of, log_weights_of_images, standard_of
from ppvae.inference.ledger.transport import Parameters
from ppvae.inference.objectives.gradients import has_scored_sites
from ppvae.latent_view import LatentView
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair
from ppvae.refusals import ContractError

SHARED = "coupling"
"""Parts of a map that have networks, and are the same for all data points."""


class Head(Pair):
    """A pair, and a map of its guide's draws, as that of a richer family, with parameters by a network of the data.

    Before training it is the pair itself. Its own guide stays that of the pair, whose modules stay in evaluation mode;
    `log_weights_of_head` are those of the mapped draws.

    Args:
        pair: the model and guide; its parameters are shared.
        batch: training data, as the pair takes them.
        family: "full_rank" or "flow".

    Raises:
        ppvae.ContractError: a latent is discrete, or its draws are not reparameterized (the pair is named).
    """

    def __init__(self, pair: Pair, batch: Batch, family: str):
        super().__init__()
        self.pair, self.particles, self.guide_leads = pair, pair.particles, pair.guide_leads
        two = rows_or_all(pair, batch, slice(2))
        self.view = LatentView(pair, two)
        if has_scored_sites(pair, two):
            raise ContractError(
                f"{type(pair).__name__}.guide: found draws without gradients, expected reparameterized ones, by whose "
                "gradients a map of them is learned"
            )
        self.family = families_of(self.view.num_dims)[family]
        with torch.no_grad():
            start = self.family.start(self.view.draw(pair, rows_or_all(pair, batch, slice(1)), 1)[0])
        self.shared = nn.ParameterDict({name: t for name, t in start.items() if name.startswith(SHARED)})
        own = {name: t.shape[1:] for name, t in start.items() if name not in self.shared}
        self.encoder = OfData(batch, own, next(iter(start.values())))

    def train(self, training: bool = True) -> "Head":
        super().train(training)
        self.pair.train(False)
        return self

    def model(self, *args: Any, **kwargs: Any) -> Any:
        return self.pair.model(*args, **kwargs)

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        return self.pair.guide(*args, **kwargs)

    def own(self) -> list[nn.Parameter]:
        """The parameters of the map."""
        return [*self.shared.parameters(), *self.encoder.parameters()]

    def log_weights_of_head(self, points: Batch, num_particles: int) -> Tensor:
        """`log p(x, u) - log q(u)` of mapped draws u, `[K, B]`."""
        with torch.no_grad():
            standard = standard_of(self.view, self.pair, points)
        return log_weights_of_images(
            self.view, self.family, self.pair, points, standard, num_particles, self._parameters_for(points)
        )

    def _parameters_for(self, points: Batch) -> Parameters:
        num = num_rows(points)
        shared = {name: t.expand(num, *t.shape[1:]) for name, t in self.shared.items()}
        return shared | self.encoder(points)


def elbo_of_head(head: Head, points: Batch, step: int) -> tuple[Tensor, Tensor]:
    """An objective: the ELBO by a single draw."""
    value = head.log_weights_of_head(points, 1).mean(0)
    return value, value.mean()
