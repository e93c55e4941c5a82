"""Limits that erasers have to meet. An eraser that misses one has a limit: approximate erasure is no security
boundary."""

from __future__ import annotations

from collections.abc import Iterator

from kv_memory.evaluation.baselines import NEVER_SAW
from kv_memory.evaluation.leakage.canaries import Leakage
from kv_memory.evaluation.leakage.record import ByEraser, Result, Target
from kv_memory.evaluation.leakage.treatments import HEALED

EXACT = ("recompute", HEALED)
SAME = 0.01
"""Difference in log-probability, in nats, up to which two caches count as the same: rounding is far below."""
WITHIN_A_BIT, TPR = 0.95, 0.02


def judge(result: Result) -> Iterator[Target]:
    """Yield every target that the result has figures for."""
    tables: dict[str, ByEraser] = {"one erasure": result.canaries}
    tables |= {f"{count} erasures": rows for count, rows in result.successive.items() if count > 1}
    for what, rows in tables.items():
        for how in EXACT:
            if how in rows:
                yield _same(f"{how}, {what}: as never-saw", rows[how], rows[NEVER_SAW])
    for how, row in result.canaries.items():
        if how.startswith("steer"):
            yield Target(
                name=f"{how}: exposure within 1 bit of never-saw's for {WITHIN_A_BIT:.0%} of canaries",
                met=row.within_a_bit.value >= WITHIN_A_BIT,
                measured=f"{row.within_a_bit.value:.1%} of {row.canaries}",
            )
            worst = max(row.tpr, row.tpr_relative, key=lambda estimate: estimate.value)
            yield Target(
                name=f"{how}: TPR at 1 % FPR at most {TPR:.0%}",
                met=worst.value <= TPR,
                measured=f"{worst.value:.1%} ({worst.low:.1%} to {worst.high:.1%}) by the stronger of two tests",
            )


def _same(name: str, row: Leakage, never: Leakage) -> Target:
    return Target(
        name=name,
        met=row.largest_difference <= SAME and row.attack == never.attack,
        measured=f"log-probabilities differ by at most {row.largest_difference:.1e} nats, "
        f"attacks {row.attack.value:.1%} against {never.attack.value:.1%}",
    )
