"""Actions that sequences are given as covariates, `[B, T, A]`: that of a step is taken after its datum is seen."""

from torch import Tensor


def refuse_actions(x: Tensor, actions: Tensor | None, num_actions: int) -> None:
    """Refuses actions that are not `[B, T, A]`; and none, where A is not zero."""
    expected = (*x.shape[:2], num_actions)
    if (actions is None and num_actions) or (actions is not None and actions.shape != expected):
        found = "None" if actions is None else f"{list(actions.shape[1:])} for each data point"
        raise ValueError(
            f"actions: found {found}, expected {list(expected[1:])}, one after each step; pass a dict of `x` and "
            "`actions`, and make the pair with their size as `num_actions`"
        )


def action_at(actions: Tensor | None, t: int) -> Tensor | None:
    """Those of step t, `[B, A]`, if there are any."""
    return None if actions is None else actions[:, t]
