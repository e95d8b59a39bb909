"""A pair as it is, beside a network that is trained against it."""

from typing import Any

from torch import Tensor

from ppvae.pair import Pair


class WithCritic(Pair):
    """The base class of pairs that are another pair, with a critic: model, guide and closed forms are that pair's.

    Bounds, evidence and ledger are of that pair as it was trained. They do not contain the critic.

    Args:
        pair: it is shared, not copied.
    """

    def __init__(self, pair: Pair):
        super().__init__()
        self.pair = pair
        self.example = pair.example
        self.evidence_undefined = pair.evidence_undefined
        self.amortization_undefined = pair.amortization_undefined

    def model(self, *args: Any, **kwargs: Any) -> Any:
        return self.pair.model(*args, **kwargs)

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        return self.pair.guide(*args, **kwargs)

    def penalty(self) -> Tensor | float:
        return self.pair.penalty()

    def log_prob(self, batch: Any) -> Tensor:
        """As that pair has it."""
        return self.pair.log_prob(batch)

    def exact_elbo(self, batch: Any) -> Tensor:
        """As that pair has it."""
        return self.pair.exact_elbo(batch)
