"""Parameters of each row, as `pyro.param(..., event_dim=1)` has them in a plate of the whole data."""

from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor


class LocalParameters(Messenger):
    """Gives each row its own parameters, whichever rows `pyro.plate(name, N, subsample=rows)` is given.

    Pyro selects them only where there are fewer rows than N. All rows in another order would have each other's, and
    repeated rows none.

    Example:
        >>> import pyro, torch
        >>> def scales(rows):
        ...     with pyro.plate("data", 3, subsample=rows, dim=-1):
        ...         return pyro.param("scale", torch.tensor([1.0, 2.0, 3.0]), event_dim=0)
        >>> with pyro.get_param_store().scope():
        ...     plain = scales(torch.tensor([2, 0, 1]))
        ...     with LocalParameters():
        ...         own = scales(torch.tensor([2, 0, 1]))
        >>> plain.tolist(), own.tolist()
        ([1.0, 2.0, 3.0], [3.0, 1.0, 2.0])
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, Tensor] = {}  # by plate

    def _pyro_sample(self, msg: Message) -> None:
        if site_is_subsample(msg) and isinstance(msg["value"], Tensor):
            self._rows[str(msg["name"])] = msg["value"]

    def _pyro_post_param(self, msg: Message) -> None:
        event_dim, value = msg["kwargs"].get("event_dim"), msg["value"]
        if event_dim is None or not isinstance(value, Tensor):
            return
        for frame in msg["cond_indep_stack"]:
            if frame.name in self._rows and frame.dim is not None:
                dim = frame.dim - event_dim
                if value.dim() >= -dim and value.shape[dim] == frame.full_size:
                    msg["value"] = value.index_select(dim, self._rows[frame.name].to(value.device))
                    msg["kwargs"]["event_dim"] = None  # lest the plate select among the selected
