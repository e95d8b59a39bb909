"""What flows of couplings share: halves of a vector, and the reversal that lets each half be moved in turn."""

from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Transform


def halves(argument: str, size: int) -> tuple[int, int]:
    """The sizes of the two parts of a vector: the one that a coupling keeps, and the one that it moves.

    Args:
        argument: that gives the size, for the refusal.
        size: of the vector.

    Raises:
        ValueError: a size below 2.

    Example:
        >>> halves("num_latents", 5)
        (2, 3)
    """
    if size < 2:
        raise ValueError(f"{argument}: found {size}, expected at least 2, for one part of them to move another")
    return size // 2, size - size // 2


class Reverse(Transform):
    """The entries of a vector in reverse order. Unlike Pyro's `Permute` it holds no tensor that could be elsewhere."""

    domain = codomain = constraints.real_vector
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return x.flip(-1)

    _inverse = _call

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])
