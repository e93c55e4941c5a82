"""The plan of a training: its settings, checked before anything starts, and its batches by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Annotated, Any, Literal, Protocol, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch.utils.data import Dataset

from kv_memory.erasers.steering import Steering
from kv_memory.errors import KVMemoryError
from kv_memory.synthetic.drafts import Kind
from kv_memory.training.batch import Batch, Example, collate
from kv_memory.training.corpus import TextExamples
from kv_memory.training.suites import SuiteExamples

Stage = Literal["text", "tasks"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class Plan(BaseModel):
    """The settings of one training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    near_drop_steps: Annotated[int, Field(ge=0)] = 0
    """Number of steps before stage 1, on stage 2's examples, which bring the attention on the steering states close to
    0, so that training starts from what `drop` does."""
    text_steps: Annotated[int, Field(ge=0)] = 1000
    """Number of steps of stage 1."""
    task_steps: Annotated[int, Field(ge=0)] = 2000
    """Number of steps of stage 2."""
    lengths: tuple[Annotated[int, Field(ge=300)], ...] = (512, 1024, 2048)
    """Lengths of the contexts, in tokens; each batch has one of them."""
    tokens: Annotated[int, Field(ge=1)] = 16384
    """Number of tokens in a batch's contexts together."""
    text_share: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Share of stage 2 batches that are stage 1's."""
    suites: tuple[str, ...] = ()
    """Names of suites (evaluation/suites) whose conversations for training stage 2 has beside the generated ones."""
    suite_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the other stage 2 batches that are of suites, if there are suites."""
    balance: dict[Kind, Annotated[float, Field(gt=0)]] = {}
    """Weight of a class of questions when one of a conversation is drawn; 1 for a class that is left out."""
    questions: Annotated[int, Field(ge=1)] = 6
    """Largest number of questions about one span. Prefilling a conversation costs far more than one more question."""
    slots: Annotated[int | None, Field(ge=1)] = None
    """Number of slots, None for the whole span. This and the next three are as in `Steering`."""
    spread: bool = False
    sees_suffix: bool = False
    closes: bool = False
    content_free: bool = False
    """Whether the slots run a token that ends a turn instead of the span's tokens."""
    repair: Annotated[int, Field(ge=0)] = 0
    """Number of tokens, chosen by `influence`, that are recomputed over the steering states before the questions."""
    repair_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the steps that have the repair; the others train the steering states alone."""
    mass_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight in the loss of attention on the steering states: what they do not need for the span disturbs other
    answers."""
    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    warm_up: Annotated[int, Field(ge=0)] = 100
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    seed: int = 0
    gradient_checkpointing: bool = False
    """Whether to save memory for a third more time, for models whose activations do not fit."""

    @model_validator(mode="after")
    def _slots_are_said(self) -> Plan:
        if self.spread and self.slots is None:
            raise ValueError("spread says where slots are: say how many slots")
        if self.closes and (self.slots is None or self.spread):
            raise ValueError("a gap is closed behind slots that are a span's first cells: say how many, not spread")
        return self

    @classmethod
    def of(cls, **settings: Any) -> Plan:
        """Make a plan with these settings. Raises KVMemoryError, which names the first wrong setting."""
        try:
            return cls(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "the plan"
            given = f" (given: {first['input']!r})" if first["loc"] else ""
            raise KVMemoryError(f"The training cannot start: {name}: {first['msg']}{given}.") from error

    @property
    def steps(self) -> int:
        """Return the number of steps of all stages."""
        return self.near_drop_steps + self.text_steps + self.task_steps

    def repaired(self, step: int) -> int:
        """Return how many tokens are recomputed in this step."""
        return self.repair if Random(f"{self.seed}:{step}:repair").random() < self.repair_share else 0

    def is_text(self, step: int) -> bool:
        """Return whether the batch of this step is of text."""
        stage = step - self.near_drop_steps
        drawn = Random(f"{self.seed}:{step}:text").random() < self.text_share
        return 0 <= stage < self.text_steps or drawn

    def is_suite(self, step: int) -> bool:
        """Return whether the batch of this step is of suites."""
        drawn = Random(f"{self.seed}:{step}:suites").random() < self.suite_share
        return bool(self.suites) and drawn and not self.is_text(step)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, then a cosine down to 0."""
        done = step / max(1, self.steps)
        return (
            self.learning_rate
            * min(1.0, (step + 1) / max(1, self.warm_up))
            * 0.5
            * (1 + float(torch.tensor(done * torch.pi).cos()))
        )


class Tasks(Protocol):
    """A source of stage 2 examples on conversations."""

    def draw(self, rng: Random, tokens: int, balance: Mapping[Kind, float] | None = None) -> Example:
        """Draw an example on a conversation of about this many tokens; `balance` as in `Plan`."""


class Batches(Dataset[Batch]):
    """The batches of every step and process, which depend on the plan alone."""

    def __init__(
        self,
        plan: Plan,
        text: TextExamples,
        tasks: Tasks | None,
        processes: int = 1,
        *,
        suites: SuiteExamples | None = None,
        token: int = 0,
    ) -> None:
        """Set up the batches.

        `tasks`: None if the model has no chat template; then all stages are of text. `suites`: the examples of the
        plan's suites, if it has any. `token`: the token that content-free slots run.
        """
        self.plan = plan
        self.steering = Steering(
            "default", plan.slots, plan.spread, plan.sees_suffix, token if plan.content_free else None, plan.closes
        )
        self.text = text
        self.tasks = tasks
        self.suites = suites
        self.processes = processes

    def __len__(self) -> int:
        return self.plan.steps * self.processes

    def __getitem__(self, index: int) -> Batch:
        """Return the batch of step index // processes."""
        step = index // self.processes
        rng = Random(f"{self.plan.seed}:{step}")  # the same length for all processes
        length = rng.choice(self.plan.lengths)
        rng = Random(f"{self.plan.seed}:{step}:{index % self.processes}")
        rows = range(max(1, self.plan.tokens // length))
        if self.suites is not None and self.plan.is_suite(step):
            return self.collate([self.suites.draw(rng, length) for _ in rows])
        is_text = self.plan.is_text(step)
        return self.collate([self._draw(rng, is_text, length) for _ in rows])

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Make the batch of these examples, for this plan's eraser."""
        return collate(examples, self.steering)

    def validation(self, length: int, count: int, stage: Stage) -> list[Example]:
        """Return examples of one length that are not trained on."""
        rng = Random(f"{self.plan.seed}:validation:{length}")
        return [self._draw(rng, stage == "text", length) for _ in range(count)]

    def _draw(self, rng: Random, is_text: bool, length: int) -> Example:
        if is_text or self.tasks is None:
            return self.text.draw(rng, length)
        return self.tasks.draw(rng, length, self.plan.balance)
