"""The configuration of a policy: targets, rules by category, and what happens after an erasure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kv_memory.arguments import check
from kv_memory.errors import PolicyError
from kv_memory.policy.authority import Authority
from kv_memory.policy.loading import read_values, sentence
from kv_memory.policy.reasons import Category, Reason
from kv_memory.policy.rules import Rule, RuleSettings

Heal = Literal["idle", "now", "never"]
"""When an approximate erasure is made exact: while no request waits, at once, or not at all."""
Cascade = Literal["report", "retract", "regenerate"]
"""Treatment of later assistant turns that depended on the retracted text: they are named in the report, retracted too,
or retracted and then generated again by `Session.regenerate`. Without a value they are not scored."""

Milliseconds = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Residual = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]


class _Targets(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    latency_ms: Milliseconds | None = None
    """Median milliseconds that an erasure may take."""
    residual: Residual | None = None
    """Residual influence that an erasure may leave (1: as if nothing was erased), by the upper end of the measured
    interval."""
    agreement: Share | None = None
    """Share of questions, in the worst class, that must be answered as if the span had never been read."""


class CategoryRule(_Targets):
    """Settings for reasons of one category; fields that are left out are as in the policy."""

    exact: Annotated[bool, Field(strict=True)] | None = None
    """Whether only an exact eraser may be used; by default for security alone."""
    interrupt: Annotated[bool, Field(strict=True)] | None = None
    """Whether an answer that can still see the text is interrupted; by default for security alone. Otherwise the text
    is erased once the answer has ended."""
    heal: Heal | None = None
    cascade: Cascade | None = None


@dataclass(frozen=True)
class Handling:
    """The settings of a policy for one retraction."""

    category: Category
    exact: bool
    interrupt: bool
    latency_ms: float | None
    residual: float | None
    agreement: float | None
    heal: Heal
    cascade: Cascade | None

    @property
    def faithful(self) -> bool:
        """Return whether there is a fidelity target."""
        return self.residual is not None or self.agreement is not None

    @property
    def targets(self) -> bool:
        """Return whether there is any target."""
        return self.faithful or self.latency_ms is not None


class Policy(_Targets):
    """The settings for retractions. By default: erasers as the calibration says, exact for security, healed when idle.

    ```toml
    latency_ms = 50
    residual = 0.1
    cascade = "retract"

    [categories.privacy]
    exact = true

    [authority]
    tool = ["tool_result", "document", "user"]

    [[retract]]
    rule = "superseded"
    arguments = ["order_id"]
    ```
    """

    heal: Heal = "idle"
    cascade: Cascade | None = None
    keep_undo: Annotated[bool, Field(strict=True)] = False
    """Whether the KV rows of erased spans are kept, so that a retraction can be undone bit-identically."""
    categories: dict[Category, CategoryRule] = {}
    authority: Authority = Authority()
    retract: tuple[RuleSettings, ...] = ()
    """Rules that say what is to be retracted; `Session.apply_policy` carries them out."""

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read a policy from a .toml, .yaml or .yml file.

        Raises PolicyError, in one sentence, for a file that cannot be read, and for a field that is not known or has a
        value that is not allowed.
        """
        check("path", path, (str, Path), "the .toml or .yaml file of a policy; Policy.of takes values")
        return cls.of(read_values(Path(path).expanduser()), str(path))

    @classmethod
    def of(cls, values: Mapping[str, Any], source: str = "the policy") -> Policy:
        """Make a policy from plain values. Raises PolicyError as `load` does; `source`: name of the values in the
        error."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise PolicyError(sentence(error, cls, source)) from error

    def handling(self, reason: Reason | str = "") -> Handling:
        """Return the settings for a retraction with this reason."""
        category = Reason.of(reason).category
        rule = self.categories.get(category, CategoryRule())
        return Handling(
            category=category,
            exact=category is Category.SECURITY if rule.exact is None else rule.exact,
            interrupt=category is Category.SECURITY if rule.interrupt is None else rule.interrupt,
            latency_ms=self.latency_ms if rule.latency_ms is None else rule.latency_ms,
            residual=self.residual if rule.residual is None else rule.residual,
            agreement=self.agreement if rule.agreement is None else rule.agreement,
            heal=rule.heal or self.heal,
            cascade=rule.cascade or self.cascade,
        )

    def rules(self, clock: Callable[[], float] = time.time) -> tuple[Rule, ...]:
        """Return the rules of `retract`, ready to decide. `clock` gives seconds since the epoch."""
        return tuple(settings.build(clock) for settings in self.retract)
