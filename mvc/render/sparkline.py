"""A curve in one line of block characters."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """The shape of `values` in at most `width` characters, each the mean of its share.

    The scale is the curve's own, lowest to highest; a value that is not finite is a `!`, a flat
    curve stays at the bottom.
    """
    num = min(width, len(values))
    shares = [values[i * len(values) // num : (i + 1) * len(values) // num] for i in range(num)]
    means = [sum(share) / len(share) for share in shares]
    finite = [mean for mean in means if math.isfinite(mean)]
    if not finite:
        return "!" * num
    low, span = min(finite), max(finite) - min(finite)
    top = len(_BARS) - 1
    return "".join(
        _BARS[round((mean - low) / span * top) if span else 0] if math.isfinite(mean) else "!"
        for mean in means
    )
