"""The settings of a chat model, the memory that they load, and what LangChain asks of a model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from langchain_core.caches import BaseCache
from langchain_core.language_models import ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import BaseMessage
from pydantic import ConfigDict, Field, model_validator

from kv_memory import AuditLog, Calibration, Heal, Memory, Policy, TokenCounter, is_trained_eraser
from langchain_kv_memory.convert import PLACEHOLDERS, to_openai
from langchain_kv_memory.known_settings import check_settings
from langchain_kv_memory.loader import MemoryLoader
from langchain_kv_memory.options import shown_tools
from langchain_kv_memory.profile import profile_of, unread_profile
from langchain_kv_memory.sessions import SessionEntryPoints
from langchain_kv_memory.wrap import memory_over, sampling_of


class LocalChatModel(SessionEntryPoints):
    """A chat model over a memory, which it loads when it is first needed."""

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())

    model: str | Path | None = None
    """Directory saved with save_pretrained, a .gguf file, or a hub id; None is the embedded pocket model."""
    memory: Memory | None = Field(default=None, exclude=True, repr=False)
    """Ready memory, which several chat models may share."""
    eraser: str | Path | None = None
    """Eraser for calls that name none: its name, or the directory, .gguf file or hub id of a trained one; None chooses
    by span and what follows it."""
    device: str | None = None
    dtype: str | None = None
    context_length: int | None = None
    """Longest conversation in tokens; by default what the model says."""
    checkpoint_mb: float | None = None
    """Megabytes for the checkpoints of a model with recurrent layers, such as Qwen3.5; by default 512."""
    checkpoint_device: str | None = None
    """Device on which they are kept, such as "cpu"; by default where the model is."""
    editable_tokens: int | None = None
    """Last tokens of a conversation that can be erased in place, for a model with sliding windows; by default all."""
    cache_tokens: int | None = None
    """Number of cells of all sessions together; by default four times the model's context."""
    calibration: Calibration | str | Path | None = Field(default=None, exclude=True, repr=False)
    """Calibration of the model, or its file; by default the one beside the weights or the trained eraser."""
    policy: Policy | str | Path | None = Field(default=None, exclude=True, repr=False)
    """Policy of how retractions are made and who may ask for them: a kv_memory Policy or its file."""
    audit: AuditLog | str | Path | None = Field(default=None, exclude=True, repr=False)
    """Log in which each retraction is written down, or its file."""
    heal: Heal | None = None
    """When to recompute exactly what an approximate eraser left; see `kv_memory.Memory`."""
    temperature: float | None = None
    """Sampling temperature; 0, the default, takes the likeliest token."""
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: list[str] | None = None
    on_history_edit: Literal["erase", "recompute"] = "erase"
    """Treatment of messages that vanish from the history or become placeholders: erase them from the cache as `eraser`
    says, or recompute everything after them. What follows a message that was replaced by other text is always
    recomputed."""
    placeholders: tuple[str, ...] = PLACEHOLDERS
    """Whole texts of tool results that stand for one that was cleared."""
    cache: BaseCache | bool | None = Field(default=False, exclude=True)
    loader: MemoryLoader = Field(default_factory=MemoryLoader, exclude=True, repr=False)
    """Loader of the memory; shared by the copies that LangChain makes of this object."""

    @model_validator(mode="before")
    @classmethod
    def _are_known(cls, given: dict[str, Any]) -> dict[str, Any]:
        check_settings(cls.__name__, cls.model_fields, given)
        return given

    @classmethod
    def wrap(cls, llm: Any, tokenizer: Any = None, **options: Any) -> Self:
        """Make a chat model over what is loaded already; `options` are this class's.

        `llm`: a transformers model (with its `tokenizer`) or text-generation pipeline, LangChain's HuggingFacePipeline
        or ChatHuggingFace over one, a llama_cpp.Llama, LangChain's LlamaCpp or ChatLlamaCpp over one, a kv_memory
        Engine or Memory. Of a Llama the context, K and V, RoPE and chat template are taken over, and of LangChain's
        the sampling settings that it was given; what cannot be is refused by name.

        Raises TypeError for anything else, UnsupportedModelError for a model whose cache cannot be edited or a Llama
        that cannot be followed, ValueError for a sampling setting that there is not here.
        """
        options = {**sampling_of(llm), **options}
        if isinstance(llm, Memory):
            return cls(memory=llm, **options)
        names = ("calibration", "policy", "audit", "heal", "cache_tokens")
        made = {name: options.pop(name) for name in names if name in options}
        if options.get("eraser") is not None and is_trained_eraser(options["eraser"]):
            made["eraser"] = options.pop("eraser")
        return cls(memory=memory_over(llm, tokenizer, **made), **options)

    def load(self) -> Memory:
        """Return the memory; loads the weights the first time. Raises what `kv_memory.Memory` raises."""
        if self.memory is not None:
            return self.memory
        make = partial(Memory, self.model, device=self.device, dtype=self.dtype, context_length=self.context_length)
        make = partial(make, eraser=self.eraser, policy=self.policy, audit=self.audit, heal=self.heal)
        make = partial(make, calibration=self.calibration, cache_tokens=self.cache_tokens)
        make = partial(make, checkpoint_mb=self.checkpoint_mb, checkpoint_device=self.checkpoint_device)
        make = partial(make, editable_tokens=self.editable_tokens)
        memory = self.loader.get(self._name, make)
        if self.profile is not None and "tool_calling" not in self.profile:
            for name, value in profile_of(memory).items():
                self.profile.setdefault(name, value)  # type: ignore[misc]  # a key of the profile
        return memory

    @property
    def ready(self) -> Memory | None:
        """Return the memory, if it is loaded; never waits."""
        return self.memory or self.loader.loaded

    @property
    def named_eraser(self) -> str | None:
        """Return the eraser that calls ask for; a trained one is the memory's own, which chooses when to use it."""
        return None if self.eraser is None or is_trained_eraser(self.eraser) else str(self.eraser)

    def get_token_ids(self, text: str) -> list[int]:
        """Return the ids of a text, by the model's own tokenizer, for which no weights are loaded."""
        return self._counter.token_ids(text)

    def get_num_tokens_from_messages(self, messages: Sequence[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Return the number of tokens that a call with these messages and tools reads: the answer's `input_tokens`.

        No messages are no tokens. Loads the tokenizer and the chat template alone. Raises ValueError for tools as
        `bind_tools` does, ConversationError where the chat template cannot say the conversation.
        """
        if not messages:
            return 0
        return self._counter.count_tokens(to_openai(messages, self.placeholders), shown_tools(tools or ()) or None)

    @property
    def _counter(self) -> TokenCounter:
        memory = self.ready
        return self.loader.counter(self._name, lambda: TokenCounter(memory.engine if memory else self.model))

    @property
    def _name(self) -> str:
        return self.memory.engine.name if self.memory else str(self.model or "pocket")

    @property
    def _llm_type(self) -> str:
        return "kv-memory"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        named = ("temperature", "top_p", "max_tokens", "seed", "stop", "on_history_edit")
        eraser = None if self.eraser is None else str(self.eraser)
        return {"model_name": self._name, "eraser": eraser, **{name: getattr(self, name) for name in named}}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = "kv_memory"
        params.setdefault("ls_model_name", self._name)
        return params

    def _resolve_model_profile(self) -> ModelProfile | None:
        return unread_profile(self.model, self.context_length) if self.memory is None else profile_of(self.memory)
