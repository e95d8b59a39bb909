"""What networks of labels are given: labels as vectors."""

from torch import Tensor


def label_vectors(label: Tensor, num_classes: int, like: Tensor) -> Tensor:
    """Labels `[*]` as vectors with a one at the label, `[*, num_classes]`, of the type of `like`.

    Raises:
        ValueError: a label that is no class; on a GPU torch's own error.
    """
    index = label if label.is_floating_point() else label.long()
    try:
        return like.new_zeros(*label.shape, num_classes).scatter(-1, index.unsqueeze(-1), 1.0)
    except RuntimeError as error:
        raise ValueError(
            f"labels: found {label.dtype} from {label.min()} to {label.max()}, expected whole numbers from 0 to "
            f"{num_classes - 1}; number the classes from 0"
        ) from error
