"""The clock: at which optimizer steps a run saves and measures."""

from __future__ import annotations


def clock_steps(last: int, per_doubling: int = 2, max_points: int | None = None) -> tuple[int, ...]:
    """Step 0, log-spaced steps, and the last step.

    Args:
        last: optimizer steps of the whole training, at least 1.
        per_doubling: steps for each doubling of the step number; where two round to the same step one is kept.
        max_points: at most so many steps; the earliest and the last are kept. None keeps all.

    Returns:
        Strictly increasing optimizer steps; the first is 0 and the last is ``last``.

    Raises:
        ValueError: for a training without steps, or fewer than one step for each doubling, or fewer than two points.
    """
    if last < 1 or per_doubling < 1 or (max_points is not None and max_points < 2):
        raise ValueError(
            f"clock_steps got last={last}, per_doubling={per_doubling}, max_points={max_points}; "
            "expected last >= 1, per_doubling >= 1 and max_points >= 2."
        )
    steps = {0, last}
    exponent = 0
    while (step := round(2 ** (exponent / per_doubling))) <= last:
        steps.add(step)
        exponent += 1
    ordered = sorted(steps)
    if max_points is not None and len(ordered) > max_points:
        ordered = [*ordered[: max_points - 1], last]
    return tuple(ordered)
