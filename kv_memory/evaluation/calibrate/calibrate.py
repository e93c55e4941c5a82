"""Calibration of a model: probe layers, then the influence that each eraser leaves and its time, then the choice."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from random import Random

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kv_memory.calibration.decide import candidates, defaults
from kv_memory.calibration.record import Agreement, Calibration, Fidelity, Latency, Run, shape_of
from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.errors import ContextLengthError, KVMemoryError
from kv_memory.evaluation.calibrate.layers import choose_layers
from kv_memory.evaluation.calibrate.measure import agreement, fidelity_and_latency
from kv_memory.evaluation.cases import INSIDE, NEAR, Case
from kv_memory.evaluation.machine import hardware
from kv_memory.evaluation.progress import Progress
from kv_memory.evaluation.suites.texts import context_head, text_cases
from kv_memory.evaluation.suites.worlds import message_cases, world_text
from kv_memory.synthetic.drafts import KINDS
from kv_memory.trained.files import TrainedEraser

LAYER_SPAN, LAYER_FOLLOWING, LAYER_CASES = 16, 1024, 24
SHORTEST_CONVERSATION = 256


@dataclass(frozen=True)
class Plan:
    """The sizes and seed of a calibration."""

    spans: tuple[int, ...] = (16, 64, 256)
    followings: tuple[int, ...] = (128, 512, 2048)
    """Numbers of tokens after the span."""
    cases: int = 8
    """Number of cases of each span and suffix length."""
    probes: int = 20
    """Number of questions of each class and length; 0 asks none."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(*self.spans, *self.followings, self.cases) < 1 or self.probes < 0:
            raise KVMemoryError("Spans, lengths and the number of cases of a calibration are at least 1.")

    @property
    def conversations(self) -> tuple[int, ...]:
        """Return the lengths of the conversations that questions are about, in tokens.

        Lengths below `SHORTEST_CONVERSATION` are left out: they hold too little to ask about.
        """
        return tuple(following for following in self.followings if following >= SHORTEST_CONVERSATION)

    @property
    def longest(self) -> int:
        """Return the number of tokens of the longest context, with what is scored after it."""
        return 2 * max(self.spans) + max(self.followings) * 11 // 10 + 4 * NEAR + INSIDE


def calibrate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    plan: Plan,
    text: str | None = None,
    known: Calibration | None = None,
    eraser: TrainedEraser | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Calibration:
    """Measure this model. `text`: the text to erase spans from; by default generated conversations.

    `known`: a calibration of the same model from elsewhere; layers, fidelity and agreement are taken from it and only
    the time is measured. `eraser`: a trained eraser of this model, to be measured too. `progress` is called with what
    is being done, cases done, and cases in all.

    Raises UnsupportedModelError as the engine does, ContextLengthError for lengths that the model does not read,
    ConversationError for a text that is too short, ModelError for an eraser of another model.
    """
    config = model.config.get_text_config(decoder=True).to_dict()
    if known is not None:
        known.check(config)
    if eraser is not None:
        eraser.check(name, config)
    started, rng = time.time(), Random(plan.seed)
    depth = int(config["num_hidden_layers"])
    engine = TransformersEngine(model, tokenizer, name=name, probe_layers=tuple(range(depth)))
    if plan.longest > engine.max_positions:
        raise ContextLengthError(
            f"{name} reads at most {engine.max_positions:,} tokens and the longest case has "
            f"{plan.longest:,}; give shorter lengths."
        )
    ids, head = _ids(engine, tokenizer, text, plan), context_head(tokenizer)

    def cases(span: int, following: int, count: int) -> Iterator[Case]:
        return islice(text_cases(ids, head, span, following, rng), count)

    tables = [cases(span, following, plan.cases) for following in plan.followings for span in plan.spans]
    if known is None:
        steps = _steps(progress, "Choosing probe layers", LAYER_CASES)
        length = min(LAYER_FOLLOWING, max(plan.followings))
        spans = list(cases(LAYER_SPAN, length, LAYER_CASES)) if text is not None else _messages(engine, length, plan)
        influence, layers = choose_layers(engine, spans, steps)
    else:
        influence, layers = known.influence, list(known.layers)
    engine = TransformersEngine(model, tokenizer, name=name, probe_layers=influence.probe_layers)
    if eraser is not None:
        eraser.load(engine)
    erasers = {key: kind for key, kind in candidates(influence).items() if not kind.lacking(engine)}

    fidelity: list[Fidelity] = []
    latency: list[Latency] = []
    steps = _steps(progress, "Erasing spans", len(tables) * plan.cases)
    for table in tables:
        left, took = fidelity_and_latency(engine, table, erasers, steps)
        fidelity, latency = fidelity + left, latency + took

    asked: list[Agreement] = []
    if known is None and plan.probes:
        steps = _steps(progress, "Asking questions", len(plan.conversations) * plan.probes * len(KINDS))
        for tokens in plan.conversations:
            asked += agreement(engine, tokens, plan.probes, erasers, seed=plan.seed, step=steps)

    run = Run(
        hardware=hardware(),
        dtype=engine.kv_dtype,
        versions={"python": platform.python_version()} | {part: version(part) for part in ("torch", "transformers")},
        seed=plan.seed,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.time() - started, 1),
    )
    left_rows, asked_rows = (tuple(fidelity), tuple(asked)) if known is None else (known.fidelity, known.agreement)
    return Calibration(
        model=name,
        shape=shape_of(config),
        influence=influence,
        layers=tuple(layers),
        fidelity_run=run if known is None else known.fidelity_run,
        fidelity=left_rows,
        agreement=asked_rows,
        latency_run=run,
        latency=tuple(latency),
        defaults=defaults(left_rows, asked_rows, latency),
    )


def _ids(engine: TransformersEngine, tokenizer: PreTrainedTokenizerBase, text: str | None, plan: Plan) -> Sequence[int]:
    if text is not None:
        return engine.tokenizer.encode(text, special=False)[0]
    # Four times the longest context, so that cases differ.
    return world_text(ChatFormat(engine.tokenizer), 4 * plan.longest, plan.seed)


def _messages(engine: TransformersEngine, tokens: int, plan: Plan) -> list[Case]:
    """Return cases with messages of conversations of about this length that fit in the model's context."""
    form = ChatFormat(engine.tokenizer)
    found = islice(message_cases(form, max(SHORTEST_CONVERSATION, tokens), plan.seed), 2 * LAYER_CASES)
    return [case for case in found if len(case.ids) <= engine.max_positions][:LAYER_CASES]


def _steps(progress: Progress, what: str, total: int) -> Callable[[], None]:
    """Return a function that reports one more case done at each call."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(what, done, total)

    progress(what, 0, total)
    return step
