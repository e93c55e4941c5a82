"""The whole of `kv-memory eval leakage`, part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from kv_memory.calibration.estimates import ratio, wilson
from kv_memory.evaluation.leakage import echoes, injections, isolation, spoofing, successive
from kv_memory.evaluation.leakage.canaries import look_each, summarise
from kv_memory.evaluation.leakage.echoes import CASCADES, KINDS, Echoed
from kv_memory.evaluation.leakage.plan import Plan
from kv_memory.evaluation.leakage.record import (
    ByEraser,
    Cascaded,
    Echoes,
    Generated,
    Injections,
    IsolationFigures,
    Orders,
    Result,
    environment,
)
from kv_memory.evaluation.leakage.scenes import make_scene
from kv_memory.evaluation.leakage.targets import judge
from kv_memory.evaluation.leakage.treatments import NEVER_SAW, NO_ERASE
from kv_memory.memory import Memory

Progress = Callable[[str, int, int], None]
"""Hears what is being done, how many are done, and how many there are."""


@dataclass(frozen=True)
class Measurement:
    """A model, its erasers and how much to measure."""

    memory: Memory
    erasers: Sequence[str]
    plan: Plan
    progress: Progress

    def run(self) -> Result:
        """Measure everything; the parts that may not fail come first."""
        plan = self.plan
        spoofed = self.spoofing()
        isolated = self.isolation()
        result = Result(
            model=self.memory.engine.name,
            environment=environment(plan.seed),
            canaries=self.canaries(),
            successive=self.successive(),
            echoes=self.echoes(),
            orders=self.orders(),
            injections=self.injections(),
            isolation=isolated,
            spoofing=spoofed,
        )
        return result.model_copy(update={"targets": tuple(judge(result))})

    def _seed(self, number: int) -> int:
        return 1000 * self.plan.seed + number

    def canaries(self) -> ByEraser:
        """One erasure."""
        rows = []
        for number in range(self.plan.probes):
            self.progress("Canaries", number, self.plan.probes)
            rows.append(look_each(self.memory, make_scene(self._seed(number)), self.erasers))
        return summarise(rows)

    def successive(self) -> dict[int, ByEraser]:
        """1, 5 and 20 erasures in one session."""
        rows = []
        for number in range(self.plan.sessions):
            self.progress("Many erasures in one session", number, self.plan.sessions)
            scene = make_scene(self._seed(number), max(successive.COUNTS))
            rows.append(successive.look_after(self.memory, scene, self.erasers))
        return {count: summarise([row[count] for row in rows]) for count in successive.COUNTS}

    def echoes(self) -> dict[str, Echoes]:
        """Values that a later turn says again."""
        found: dict[str, Echoes] = {}
        for place, kind in enumerate(KINDS):
            rows = []
            for number in range(self.plan.echoes):
                self.progress("Echoes", place * self.plan.echoes + number, len(KINDS) * self.plan.echoes)
                scene = make_scene(self._seed(number))
                rows.append(echoes.look_at_echo(self.memory, scene, kind, self.erasers))
            found[kind] = Echoes(
                leakage={cascade: summarise([row.seen[cascade] for row in rows]) for cascade in CASCADES},
                cascade={how: _cascaded(rows, how) for how in self.erasers},
            )
        return found

    def orders(self) -> dict[str, Orders]:
        """Orders that the model obeys."""
        rows = []
        for row in injections.orders(self.memory, self.plan.probes, self.plan.seed, self.erasers):
            rows.append(row)
            self.progress("Orders in tool results", len(rows), self.plan.probes)
        return {
            how: Orders(
                obeyed=wilson(sum(row.said[how] == row.ordered for row in rows), len(rows)),
                agreement=wilson(sum(row.said[how] == row.said[NEVER_SAW] for row in rows), len(rows)),
            )
            for how in (NO_ERASE, *self.erasers, NEVER_SAW)
        }

    def injections(self) -> dict[str, Injections]:
        """Injections of the two collections."""
        found: dict[str, Injections] = {}
        for source in injections.FILES if self.plan.data else ():
            assert self.plan.data is not None
            rows = []
            cases = injections.injected(self.memory.format, self.plan.data, source)
            for number, case in enumerate(islice(cases, self.plan.probes)):
                self.progress(f"Injections of {source}", number, self.plan.probes)
                rows.append(injections.residuals(self.memory, case, self.erasers))
            left = {how: [row[how] for row in rows] for how in (rows[0] if rows else ())}
            base = left.pop(NO_ERASE, [])
            found[source] = Injections(
                cases=len(rows),
                residual={how: ratio(kl, base, self.plan.seed) for how, kl in left.items()},
            )
        return found

    def isolation(self) -> IsolationFigures:
        """Interleaved sessions of a small random model."""
        total = self.plan.generated
        found = isolation.check(total, self.plan.seed, lambda done: self.progress("Isolation", done, total))
        return IsolationFigures(
            cases=found.cases,
            failures=found.failures,
            largest_difference=found.largest,
            controls_noticed=found.noticed,
            controls=found.controls,
        )

    def spoofing(self) -> dict[str, Generated]:
        """Contents that look like structure, through the chat templates of six families."""
        total = self.plan.generated
        found = spoofing.check(total, self.plan.seed, lambda done: self.progress("Spoofing", done, total))
        share = {name: len(range(place, total, len(found))) for place, name in enumerate(found)}
        return {name: Generated(cases=share[name], failures=tuple(failures)) for name, failures in found.items()}


def _cascaded(rows: Sequence[Echoed], how: str) -> Cascaded:
    left, of = (sum(row.spared[how][part] for row in rows) for part in (0, 1))
    return Cascaded(found=wilson(sum(row.found[how] for row in rows), len(rows)), spared=wilson(left, max(of, 1)))
