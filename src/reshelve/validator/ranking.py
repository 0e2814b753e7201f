"""How alike two rankings are. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

PERSISTENCE: Final = 0.9


def overlap(here: Sequence[Hashable], there: Sequence[Hashable]) -> float:
    """The share of hits that both rankings have, of the longer one; whatever their places. Both empty: 1."""
    longest = max(len(here), len(there))
    return len(set(here) & set(there)) / longest if longest else 1.0


def rank_biased_overlap(here: Sequence[Hashable], there: Sequence[Hashable], p: float = PERSISTENCE) -> float:
    """Rank-biased overlap, extrapolated from what is seen of the two rankings (0: disjoint, 1: the same).

    RBO_ext of W. Webber, A. Moffat, J. Zobel: A Similarity Measure for Indefinite Rankings, ACM Transactions on
    Information Systems 28(4), 2010, equation 32, which allows for rankings of different lengths. `p`: how likely
    somebody who looks at a hit looks at the next one, too: with 0.9 the first ten hits carry 86 % of the weight.
    Both empty: 1; only one: 0. No ranking may hold the same item twice."""
    short, long = sorted((here, there), key=len)
    s, depth = len(short), len(long)
    if s == 0:
        return 0.0 if depth else 1.0
    in_short: set[Hashable] = set()
    in_long: set[Hashable] = set()
    overlaps = [0]  # X of the paper: by depth, how many items both have
    for d in range(depth):
        added = 0
        if d < s:
            added += short[d] in in_long
            in_short.add(short[d])
        in_long.add(long[d])
        added += long[d] in in_short
        overlaps.append(overlaps[-1] + added)
    agreement = sum(overlaps[d] / d * p**d for d in range(1, depth + 1))
    # Behind the end of the shorter one, it is taken to go on agreeing as it did until there.
    beyond = sum(overlaps[s] * (d - s) / (s * d) * p**d for d in range(s + 1, depth + 1))
    tail = (overlaps[depth] - overlaps[s]) / depth + overlaps[s] / s
    return (1 - p) / p * (agreement + beyond) + tail * p**depth
