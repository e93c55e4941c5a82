"""A run of the bench: every treatment on the same cases in the same order, each case beside never-saw."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from kv_memory.engines.base import Engine
from kv_memory.erasers.base import Eraser
from kv_memory.evaluation.baselines import CORRECTION, NEVER_SAW, NO_ERASE, OTHER_CHUNKS, OTHER_DTYPE, REREAD
from kv_memory.evaluation.bench.rows import Row
from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.trial import Outcome, Trial, now, trial

CHUNK = 96
"""Tokens of a pass in which `OTHER_CHUNKS` reads, a size that no engine's own passes have."""
Known = Callable[[Case], Collection[str]]
"""A function that says which treatments of a case have a row already."""


@dataclass(frozen=True)
class Bench:
    """An engine and the erasers to measure on it."""

    engine: Engine
    erasers: Mapping[str, Eraser]
    other: Engine | None = None
    """The same model in another dtype, for the noise floor; None measures none."""
    answers: bool = True
    """Whether answers are generated where they may differ from never-saw's."""

    @property
    def treatments(self) -> tuple[str, ...]:
        """Return the names of all treatments of a case that has a correction."""
        other = (OTHER_DTYPE,) if self.other is not None else ()
        return (NEVER_SAW, OTHER_CHUNKS, *other, NO_ERASE, CORRECTION, REREAD, *self.erasers)

    def rows(self, cases: Iterable[Case], known: Known = lambda case: ()) -> Iterator[list[Row]]:
        """Yield the rows of each case, of the treatments that are not `known` yet; nothing where all are."""
        for case in cases:
            missing = [treatment for treatment in self.treatments_of(case) if treatment not in known(case)]
            if missing:
                with trial(self.engine, case) as this:
                    yield [self._measured(this, treatment) for treatment in missing]

    def treatments_of(self, case: Case) -> tuple[str, ...]:
        """Return the names of this case's treatments."""
        return tuple(name for name in self.treatments if name != CORRECTION or case.corrected is not None)

    def _measured(self, this: Trial, treatment: str) -> Row:
        case = this.case
        if treatment == NEVER_SAW:
            return self._row(case, treatment, this.outcome(this.reference), this.answer)
        if treatment == OTHER_DTYPE and self.other is not None:
            return self._reread(this, treatment, self.other, len(case.ids))
        if treatment in (OTHER_CHUNKS, REREAD):
            return self._reread(this, treatment, self.engine, CHUNK if treatment == OTHER_CHUNKS else len(case.ids))
        if treatment == CORRECTION and case.corrected is not None:
            found = this.outcome(this.score(this.read, case.corrected))
            said = self._said(this, found, partial(this.greedy, this.read, case.corrected))
            return self._row(case, treatment, found, said)
        with this.erased(None if treatment == NO_ERASE else self.erasers[treatment]) as (seq, seconds, recomputed):
            found = this.outcome(this.score(seq), seconds, recomputed)
            return self._row(case, treatment, found, self._said(this, found, partial(this.greedy, seq)))

    def _reread(self, this: Trial, name: str, engine: Engine, chunk: int) -> Row:
        """Read the case without its spans once more, in an engine and in passes of `chunk` tokens."""
        kept, seq, started = this.case.kept, engine.create(), now()
        try:
            for start in range(0, len(kept), chunk):
                engine.prefill(seq, kept[start : start + chunk])
            seconds = now() - started
            found = this.outcome(this.score(seq, engine=engine), seconds, len(kept))
            said = self._said(this, found, partial(this.greedy, seq, engine=engine))
        finally:
            engine.free(seq)
        return self._row(this.case, name, found, said)

    def _said(self, this: Trial, found: Outcome, answer: Callable[[], str]) -> str | None:
        """Return the greedy answer: never-saw's where the tokens agree, which is known without generating it."""
        if this.case.scored is not None or not self.answers:
            return None
        return this.answer if found.agrees else answer()

    def _row(self, case: Case, treatment: str, found: Outcome, said: str | None) -> Row:
        said = None if case.scored is not None else said
        return Row(
            suite=case.suite,
            case=case.name,
            conversation=case.conversation,
            kind=case.kind,
            groups=dict(case.groups),
            tokens=len(case.ids),
            erased=case.erased,
            following=case.following,
            treatment=treatment,
            kl=found.kl,
            agrees=found.agrees,
            seconds=found.seconds,
            recomputed=found.recomputed,
            answer=said,
            right=None if said is None or case.answer is None else case.right(said),
            misled=None if said is None or not case.wrong else case.misled(said),
        )
