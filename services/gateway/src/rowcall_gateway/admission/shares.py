"""How much of a bound is one gateway's, by what it and the others need. Arithmetic only. Called by `meters`.

Where all needs together are less than the bound, what is left over is spread evenly, so that a gateway that is called more a moment
later need not ask first. Where they are more, each gateway has its part of the needs: callers are refused alike wherever they
come. The shares of gateways that know the same needs add up to the bound.
"""

from __future__ import annotations

from typing import Final

LAPSED: Final = 0.5
"""Of its last share, what a gateway keeps that cannot renew it."""


def rate_share(bound: float, mine: float, others: float, other_gateways: int) -> float:
    """Jobs a second that this gateway may let in.

    Args:
        bound: Of all gateways together.
        mine: Jobs a second that it is asked for.
        others: Jobs a second that the others are asked for together.
        other_gateways: How many others there are.
    """
    if other_gateways == 0:
        return bound
    wanted = mine + others
    if wanted > bound:
        return bound * mine / wanted
    return mine + (bound - wanted) / (other_gateways + 1)


def places(bound: int, mine: int, others_hold: int, others_want: int, other_gateways: int) -> int:
    """Calls that this gateway may have at a time.

    Never more than what the others leave of the bound: their calls go on, however small their share has become.

    Args:
        bound: Of all gateways together.
        mine: Calls that it would have.
        others_hold: Calls that the others have.
        others_want: Calls that the others would have.
        other_gateways: How many others there are.
    """
    if other_gateways == 0:
        return bound
    left = max(bound - others_hold, 0)
    # Of a bound with fewer places than gateways, whoever asks while one is free may have it.
    least = min(left, 1)
    return max(min(int(rate_share(bound, mine, others_want, other_gateways)), left), least)
