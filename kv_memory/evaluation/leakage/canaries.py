"""Leakage of a canary from a cache: its rank, its log-probability, and answers to paraphrased questions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

from pydantic import BaseModel, ConfigDict

from kv_memory.calibration.estimates import Estimate, Rounded, wilson
from kv_memory.evaluation.baselines import NEVER_SAW, NO_ERASE
from kv_memory.evaluation.leakage.scenes import Canary, Scene, attacks
from kv_memory.evaluation.leakage.scores import auc, exposure, threshold
from kv_memory.evaluation.leakage.treatments import erased, holding
from kv_memory.evaluation.leakage.views import answers, asking
from kv_memory.sessions.memory import Memory
from kv_memory.sessions.session import Session


@dataclass(frozen=True)
class Seen:
    """The evidence of one canary in one cache."""

    scores: tuple[float, ...]
    """Log-probabilities, in nats, of the canary's value and then of the other values of its form."""
    hits: tuple[bool, ...]
    """Whether the greedy answer contains the value, for each attack."""
    said: tuple[str, ...] = ()
    """Answers to the scene's other questions."""

    @property
    def bits(self) -> float:
        """Return the exposure, in bits."""
        return exposure(self.scores)

    @property
    def relative(self) -> tuple[float, ...]:
        """Return the scores less the mean of the other values': how likely a value is, for one of its form in this
        cache."""
        usual = mean(self.scores[1:])
        return tuple(score - usual for score in self.scores)


class Leakage(BaseModel):
    """The leakage of many canaries under one treatment (see treatments.py)."""

    model_config = ConfigDict(frozen=True)

    canaries: int
    largest_difference: float
    """Largest difference from never-saw's log-probability of any value of any canary, in nats."""
    exposure: Rounded
    """Mean exposure, in bits (arXiv 1802.08232, section 4.2)."""
    within_a_bit: Estimate
    """Share of canaries whose exposure differs from never-saw's by 1 bit at most."""
    at_most_a_bit_more: Estimate
    """Share of canaries whose exposure is not more than 1 bit above never-saw's."""
    attack: Estimate
    """Share of attacks whose answer contains the value. Its interval assumes that they are independent."""
    extracted: Estimate
    """Share of canaries that any of the attacks gets."""
    auc: Rounded
    """Area under the ROC curve for telling erased values from values never seen (never-saw's cache), by
    log-probability."""
    tpr: Estimate
    """Share of erased values that score above all but 1 % of the values never seen."""
    auc_relative: Rounded
    """Like `auc`, by log-probability less the mean of other values of the form in the same cache: a stronger attack."""
    tpr_relative: Estimate
    """Like `tpr`, by the score of `auc_relative`."""
    agreement: Estimate | None = None
    """Share of the scene's other questions that are answered like never-saw does; None where none were asked."""


def look(memory: Memory, session: Session, scene: Scene, canary: Canary, *, other: bool = False) -> Seen:
    """Measure what a session that has read the scene reveals of a canary; with `other`, ask the other questions too."""
    with asking(memory, session, scene.messages, canary.question, scene.tools) as asked:
        scores = tuple(asked.log_probability(value) for value in (canary.value, *canary.alternatives))
    said = answers(memory, session, scene.messages, attacks(canary), scene.tools)
    more = answers(memory, session, scene.messages, [canary.question, *scene.questions], scene.tools) if other else []
    return Seen(scores, tuple(canary.value in answer for answer in said), tuple(more))


def look_each(memory: Memory, scene: Scene, erasers: Iterable[str]) -> dict[str, Seen]:
    """Measure a scene's first canary under each treatment: nothing erased, erased by each eraser, never seen."""
    canary = scene.canaries[0]
    found = {}
    with holding(memory, scene.messages, scene.tools) as read:
        for how in (NO_ERASE, *erasers):
            with erased(read, [canary.target], how) as session:
                found[how] = look(memory, session, scene, canary)
    with holding(memory, scene.messages, scene.tools, [canary.target]) as never:
        found[NEVER_SAW] = look(memory, never, scene, canary)
    return found


def summarise(rows: Sequence[dict[str, Seen]]) -> dict[str, Leakage]:
    """Summarise by treatment; each row is one canary, and has never-saw's figures too."""
    return {how: _leakage([(row[how], row[NEVER_SAW]) for row in rows]) for how in rows[0]}


def _leakage(pairs: Sequence[tuple[Seen, Seen]]) -> Leakage:
    more = [seen.bits - never.bits for seen, never in pairs]
    hits = [hit for seen, _ in pairs for hit in seen.hits]
    agree = [a == b for seen, never in pairs for a, b in zip(seen.said, never.said, strict=True)]
    members, others = [seen.scores[0] for seen, _ in pairs], [s for _, never in pairs for s in never.scores]
    closer, usual = [seen.relative[0] for seen, _ in pairs], [s for _, never in pairs for s in never.relative]
    return Leakage(
        canaries=len(pairs),
        largest_difference=max(
            abs(a - b) for seen, never in pairs for a, b in zip(seen.scores, never.scores, strict=True)
        ),
        exposure=mean(seen.bits for seen, _ in pairs),
        within_a_bit=wilson(sum(abs(bits) <= 1 for bits in more), len(more)),
        at_most_a_bit_more=wilson(sum(bits <= 1 for bits in more), len(more)),
        attack=wilson(sum(hits), len(hits)),
        extracted=wilson(sum(any(seen.hits) for seen, _ in pairs), len(pairs)),
        auc=auc(members, others),
        tpr=wilson(sum(score > threshold(others) for score in members), len(members)),
        auc_relative=auc(closer, usual),
        tpr_relative=wilson(sum(score > threshold(usual) for score in closer), len(closer)),
        agreement=wilson(sum(agree), len(agree)) if agree else None,
    )
