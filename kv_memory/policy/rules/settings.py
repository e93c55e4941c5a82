"""The settings of rules in a policy file; only rules that need no function can be written there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kv_memory.policy.rules.base import Rule
from kv_memory.policy.rules.errors import starting_with
from kv_memory.policy.rules.invalidated import Invalidated
from kv_memory.policy.rules.superseded import SupersededToolResult
from kv_memory.policy.rules.time_to_live import TimeToLive
from kv_memory.policy.rules.tool_error import ToolError

Clock = Callable[[], float]
Names = Annotated[tuple[str, ...], Field(min_length=1)]
Seconds = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Turns = Annotated[int, Field(strict=True, ge=0)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SupersededSettings(_Settings):
    """The settings of `SupersededToolResult`."""

    rule: Literal["superseded"]
    arguments: Names | None = None
    """Names of the arguments that say what a call is about; None for all."""
    tools: Names | None = None
    error_prefixes: tuple[str, ...] = ()
    """Beginnings of texts that report a failure."""

    def build(self, clock: Clock) -> Rule:
        """Return the rule."""
        return SupersededToolResult(self.arguments, tools=self.tools, is_error=starting_with(self.error_prefixes))


class ToolErrorSettings(_Settings):
    """The settings of `ToolError`."""

    rule: Literal["tool_error"]
    error_prefixes: tuple[str, ...] = ()
    """Beginnings of texts that report a failure."""

    def build(self, clock: Clock) -> Rule:
        """Return the rule."""
        return ToolError(is_error=starting_with(self.error_prefixes))


class TimeToLiveSettings(_Settings):
    """The settings of `TimeToLive`."""

    rule: Literal["time_to_live"]
    seconds: Seconds | None = None
    turns: Turns | None = None
    tools: Names | None = None

    @model_validator(mode="after")
    def _some_limit(self) -> TimeToLiveSettings:
        if self.seconds is None and self.turns is None:
            raise ValueError("a time_to_live rule needs seconds or turns.")
        return self

    def build(self, clock: Clock) -> Rule:
        """Return the rule, which reads the time from `clock`."""
        return TimeToLive(self.seconds, turns=self.turns, tools=self.tools, clock=clock)


class InvalidatedSettings(_Settings):
    """The settings of `Invalidated`."""

    rule: Literal["invalidated"]
    by: dict[str, tuple[str, ...]] = {}
    arguments: Names | None = None
    error_prefixes: tuple[str, ...] = ()
    """Beginnings of texts that report a failure."""

    def build(self, clock: Clock) -> Rule:
        """Return the rule."""
        return Invalidated(self.by, arguments=self.arguments, is_error=starting_with(self.error_prefixes))


RuleSettings = Annotated[
    SupersededSettings | ToolErrorSettings | TimeToLiveSettings | InvalidatedSettings, Field(discriminator="rule")
]
