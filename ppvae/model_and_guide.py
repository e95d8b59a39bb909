"""What the core asks of a pair before there is one: a model and a guide."""

from typing import Any, Protocol

from ppvae.batches import Batch


class ModelAndGuide(Protocol):
    """Something with a model p(x, z) and a guide q(z | x), Pyro functions of a batch.

    Attributes:
        particles: "leading" or "rows", how both are run with many particles; see `ppvae.particles`.
        guide_leads: whether the guide runs with particles leading where the model runs by rows.
        own_rows: those that the guide has parameters for, if it takes no others; see `ppvae.own_rows`.
    """

    @property
    def particles(self) -> str: ...
    @property
    def guide_leads(self) -> bool: ...
    @property
    def own_rows(self) -> Batch | None: ...

    def model(self, *args: Any, **kwargs: Any) -> Any: ...
    def guide(self, *args: Any, **kwargs: Any) -> Any: ...
