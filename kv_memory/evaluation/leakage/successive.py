"""Many erasures in one session: does the influence left of the first one grow?"""

from __future__ import annotations

from collections.abc import Sequence

from kv_memory.evaluation.baselines import NEVER_SAW, NO_ERASE
from kv_memory.evaluation.leakage.canaries import Seen, look
from kv_memory.evaluation.leakage.scenes import Scene
from kv_memory.evaluation.leakage.treatments import erase, erased, holding
from kv_memory.sessions.memory import Memory

COUNTS = (1, 5, 20)


def look_after(
    memory: Memory, scene: Scene, erasers: Sequence[str], counts: Sequence[int] = COUNTS
) -> dict[int, dict[str, Seen]]:
    """Measure the first canary, which is erased first, after each of `counts` erasures, beside never-saw of as many."""
    targets = [canary.target for canary in scene.canaries]
    found: dict[int, dict[str, Seen]] = {count: {} for count in counts}
    with holding(memory, scene.messages, scene.tools) as read:
        for how in (NO_ERASE, *erasers):
            with erased(read, (), how) as session:
                for number, target in enumerate(targets[: max(counts)], start=1):
                    if how != NO_ERASE:
                        erase(session, target, how)
                    if number in found:
                        found[number][how] = look(memory, session, scene, scene.canaries[0], other=True)
    for count in counts:
        with holding(memory, scene.messages, scene.tools, targets[:count]) as never:
            found[count][NEVER_SAW] = look(memory, never, scene, scene.canaries[0], other=True)
    return found
