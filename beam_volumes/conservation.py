"""The proof of a run that nothing was lost on the way: what was planned, or sent, is what was done, or came."""

from __future__ import annotations

from collections.abc import Mapping

from beam_volumes.errors import ConservationError


def check_stages(place: str, stages: Mapping[str, tuple[int, int]], state: str = "") -> None:
    """Make sure that the two numbers of each stage, expected and done, are the same.

    Args:
        place: what the run fills.
        stages: by name.
        state: what is to be said of the place where they are not; ends in "; ".

    Raises:
        ConservationError: with the stages that do not agree.

    """
    wrong = [
        f"{name}: expected {expected}, came {done}" for name, (expected, done) in stages.items() if expected != done
    ]
    if wrong:
        raise ConservationError(
            f"{place}: something was lost or came twice on the way ({'; '.join(wrong)}): {state}give the same command "
            "again, and what is missing is done anew"
        )
