"""What coupling flows share: halves of a vector, and the reversal by which each half is moved in turn."""

from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Transform


def halves(argument: str, size: int) -> tuple[int, int]:
    """The sizes of the two parts of a vector: the one that a coupling keeps, and the one that it moves.

    Args:
        argument: the argument that gives the size, for the error message.
        size: of the vector.

    Raises:
        ValueError: a size below 2.

    Example:
        >>> halves("num_latents", 5)
        (2, 3)
    """
    if size < 2:
        raise ValueError(f"{argument}: found {size}, expected at least 2, for one part to move the other")
    return size // 2, size - size // 2


class Reverse(Transform):
    """Reverses the entries of a vector. Unlike Pyro's `Permute` it holds no tensor that could be on another device."""

    domain = codomain = constraints.real_vector
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return x.flip(-1)

    _inverse = _call

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])
