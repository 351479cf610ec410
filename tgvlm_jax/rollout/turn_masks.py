"""Which tokens of a conversation the policy wrote, and where each of its turns ends."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int

from tgvlm_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TurnMasks:
    """Right-padded conversations.

    Attributes:
        own: tokens that the policy wrote. ends: the last of each run of them.
    """

    tokens: Int[np.ndarray, "b t"]
    attended: Bool[np.ndarray, "b t"]
    own: Bool[np.ndarray, "b t"]
    ends: Bool[np.ndarray, "b t"]


def from_markers(
    tokens: Int[np.ndarray, "b t"],
    attended: Bool[np.ndarray, "b t"],
    *,
    begin: int,
    end: int,
    pad: int,
) -> TurnMasks:
    """Masks of conversations in which markers stand around what the policy wrote (Video-MTR 7.1).

    The markers are deleted and the rest moves left. A turn without a token has no end.

    Args:
        attended: tokens that are there. begin, end, pad: ids.

    Raises:
        InputError: a marker without its partner.
    """
    opened, closed = (attended & (tokens == marker) for marker in (begin, end))
    depth = np.cumsum(opened, axis=1) - np.cumsum(closed, axis=1)
    if np.any((depth < 0) | (depth > 1)) or np.any(depth[:, -1:] != 0):
        raise InputError(
            f"markers {begin} and {end} must stand in pairs around what the policy wrote"
        )
    keep = attended & ~opened & ~closed
    own = keep & (depth == 1)
    # The last token of a turn is the one before its closing marker.
    ends = own & np.roll(closed, -1, axis=1)
    order = np.argsort(~keep, axis=1, kind="stable")

    def moved(x, fill):
        return np.take_along_axis(np.where(keep, x, fill), order, axis=1)

    return TurnMasks(
        tokens=moved(tokens, tokens.dtype.type(pad)),
        attended=moved(keep, False),
        own=moved(own, False),
        ends=moved(ends, False),
    )
