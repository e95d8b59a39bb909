"""What the core asks of a pair before there is one: a model and a guide."""

from typing import Any, Protocol


class ModelAndGuide(Protocol):
    """Something with a model p(x, z) and a guide q(z | x), Pyro functions of a batch."""

    def model(self, *args: Any, **kwargs: Any) -> Any: ...
    def guide(self, *args: Any, **kwargs: Any) -> Any: ...
