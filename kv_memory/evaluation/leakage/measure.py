"""All measurements of `kv-memory eval leakage`, part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice

from kv_memory.calibration.estimates import ratio, wilson
from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.evaluation.baselines import NEVER_SAW, NO_ERASE
from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.leakage import echoes, injections, successive
from kv_memory.evaluation.leakage.canaries import Seen, look_each, summarise
from kv_memory.evaluation.leakage.echoes import CASCADES, KINDS, Echoed
from kv_memory.evaluation.leakage.injections import Obeyed
from kv_memory.evaluation.leakage.plan import Plan
from kv_memory.evaluation.leakage.record import (
    ByEraser,
    Cascaded,
    Echoes,
    Injections,
    Orders,
    Result,
)
from kv_memory.evaluation.leakage.scenes import make_scene
from kv_memory.evaluation.leakage.targets import judge
from kv_memory.evaluation.leakage.work import Found, Job, Work
from kv_memory.evaluation.machine import environment
from kv_memory.evaluation.progress import Progress
from kv_memory.sessions.memory import Memory

Later = Callable[[], Found]
"""A function that returns the results of work that has begun."""


@dataclass(frozen=True)
class Measurement:
    """A model, its erasers and how much to measure."""

    form: ChatFormat
    name: str
    """Name of the model."""
    work: Work
    erasers: Sequence[str]
    plan: Plan
    progress: Progress

    def run(self) -> Result:
        """Measure everything.

        Processes get the cases of all parts at once, those that take long before the others, so that none waits for
        the last case of a part.
        """
        successive, echoes, canaries = self.successive(), self.echoes(), self.canaries()
        injected = self.injections()
        result = Result(
            model=self.name,
            environment=environment(self.plan.seed),
            canaries=canaries(),
            successive=successive(),
            echoes=echoes(),
            orders=self.orders(),
            injections=injected(),
        )
        return result.model_copy(update={"targets": tuple(judge(result))})

    def _seed(self, number: int) -> int:
        return 1000 * self.plan.seed + number

    def _rows(self, what: str, do: Callable[[Memory, Job], Found], jobs: Sequence[Job]) -> Later[list[Found]]:
        """Return a function for the result of each job; other processes begin at once, this one when it is called."""
        work = self.work(do, jobs)

        def rows() -> list[Found]:
            found: list[Found] = []
            self.progress(what, 0, len(jobs))
            for row in work:
                found.append(row)
                self.progress(what, len(found), len(jobs))
            return found

        return rows

    def canaries(self) -> Later[ByEraser]:
        """Measure one erasure."""
        jobs = [self._seed(number) for number in range(self.plan.probes)]
        rows = self._rows("Canaries", partial(_canary, self.erasers), jobs)
        return lambda: summarise(rows())

    def successive(self) -> Later[dict[int, ByEraser]]:
        """Measure 1, 5 and 20 erasures in one session."""
        jobs = [self._seed(number) for number in range(self.plan.sessions)]
        rows = self._rows("Many erasures in one session", partial(_successive, self.erasers), jobs)

        def found() -> dict[int, ByEraser]:
            seen = rows()
            return {count: summarise([row[count] for row in seen]) for count in successive.COUNTS}

        return found

    def echoes(self) -> Later[dict[str, Echoes]]:
        """Measure values that a later turn repeats."""
        jobs = [(kind, self._seed(number)) for kind in KINDS for number in range(self.plan.echoes)]
        rows = self._rows("Echoes", partial(_echo, self.erasers), jobs)
        return lambda: self._echoed(jobs, rows())

    def _echoed(self, jobs: Sequence[tuple[str, int]], rows: Sequence[Echoed]) -> dict[str, Echoes]:
        found: dict[str, Echoes] = {}
        for kind in KINDS:
            of_kind = [row for row, job in zip(rows, jobs, strict=True) if job[0] == kind]
            found[kind] = Echoes(
                leakage={cascade: summarise([row.seen[cascade] for row in of_kind]) for cascade in CASCADES},
                cascade={how: _cascaded(of_kind, how) for how in self.erasers},
            )
        return found

    def orders(self) -> dict[str, Orders]:
        """Measure orders that the model obeys."""
        rows: list[Obeyed] = []
        numbers = count(100_000 * self.plan.seed)
        while len(rows) < self.plan.probes:  # about every sixth world has an order
            jobs = [next(numbers) for _ in range(6 * (self.plan.probes - len(rows)))]
            found = self._rows("Orders in tool results", partial(_order, self.erasers), jobs)()
            rows += [row for row in found if row is not None]
        rows = rows[: self.plan.probes]
        return {
            how: Orders(
                obeyed=wilson(sum(row.said[how] == row.ordered for row in rows), len(rows)),
                agreement=wilson(sum(row.said[how] == row.said[NEVER_SAW] for row in rows), len(rows)),
            )
            for how in (NO_ERASE, *self.erasers, NEVER_SAW)
        }

    def injections(self) -> Later[dict[str, Injections]]:
        """Measure injections of the two collections."""
        begun = {}
        for source in injections.FILES if self.plan.data else ():
            assert self.plan.data is not None
            cases = list(islice(injections.injected(self.form, self.plan.data, source), self.plan.probes))
            begun[source] = self._rows(f"Injections of {source}", partial(_residuals, self.erasers), cases)
        return lambda: self._injected({source: rows() for source, rows in begun.items()})

    def _injected(self, seen: Mapping[str, list[dict[str, float]]]) -> dict[str, Injections]:
        found: dict[str, Injections] = {}
        for source, rows in seen.items():
            left = {how: [row[how] for row in rows] for how in (rows[0] if rows else ())}
            base = left.pop(NO_ERASE, [])
            found[source] = Injections(
                cases=len(rows),
                residual={how: ratio(kl, base, self.plan.seed) for how, kl in left.items()},
            )
        return found


def _canary(erasers: Sequence[str], memory: Memory, number: int) -> dict[str, Seen]:
    return look_each(memory, make_scene(number), erasers)


def _successive(erasers: Sequence[str], memory: Memory, number: int) -> dict[int, dict[str, Seen]]:
    return successive.look_after(memory, make_scene(number, max(successive.COUNTS)), erasers)


def _echo(erasers: Sequence[str], memory: Memory, job: tuple[str, int]) -> Echoed:
    kind, number = job
    return echoes.look_at_echo(memory, make_scene(number), kind, erasers)


def _order(erasers: Sequence[str], memory: Memory, number: int) -> Obeyed | None:
    return injections.order(memory, number, erasers)


def _residuals(erasers: Sequence[str], memory: Memory, case: Case) -> dict[str, float]:
    return injections.residuals(memory, case, erasers)


def _cascaded(rows: Sequence[Echoed], how: str) -> Cascaded:
    left, of = (sum(row.spared[how][part] for row in rows) for part in (0, 1))
    return Cascaded(found=wilson(sum(row.found[how] for row in rows), len(rows)), spared=wilson(left, max(of, 1)))
