"""A chat model over what is loaded already."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import pytest
from langchain_core.messages import HumanMessage
from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
from peft import LoraConfig, get_peft_model
from pydantic import BaseModel
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from kv_memory import Memory
from kv_memory.errors import ModelError
from kv_memory.pocket import model_path
from langchain_kv_memory import ErasableChatModel

from ..gguf_models import tiny_gguf
from .orders import QUESTION, lookup, read, talk, thread

CONFIG = thread("t")


class Size(BaseModel):
    """The size of something."""

    size: Literal["s", "m"]


def get_weather(city: Literal["Oslo", "Rome"]) -> str:
    """Look up the weather of a city."""
    return f"{city}: 1 degree"


def _whole(chunks: Iterator[Any]) -> Any:
    """The message that these chunks are."""
    return reduce(lambda one, other: one + other, chunks)


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    path = str(model_path())
    return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)


@pytest.mark.parametrize("kind", ["model", "pipeline", "HuggingFacePipeline", "ChatHuggingFace", "engine", "memory"])
def test_what_can_be_wrapped(loaded: tuple[Any, Any], pocket: Memory, kind: str) -> None:
    transformer, tokenizer = loaded
    pipe = pipeline("text-generation", model=transformer, tokenizer=tokenizer)
    model = {
        "model": lambda: ErasableChatModel.wrap(transformer, tokenizer, max_tokens=8),
        "pipeline": lambda: ErasableChatModel.wrap(pipe, max_tokens=8),
        "HuggingFacePipeline": lambda: ErasableChatModel.wrap(HuggingFacePipeline(pipeline=pipe), max_tokens=8),
        "ChatHuggingFace": lambda: ErasableChatModel.wrap(
            ChatHuggingFace(llm=HuggingFacePipeline(pipeline=pipe)), max_tokens=8
        ),
        "engine": lambda: ErasableChatModel.wrap(pocket.engine, max_tokens=8),
        "memory": lambda: ErasableChatModel.wrap(pocket, max_tokens=8),
    }[kind]()
    model.forget(config=CONFIG)  # another test may have talked there
    assert model.invoke(talk(), CONFIG).content == "delivered"
    model.retract("call_1", config=CONFIG)
    assert model.invoke(talk(), CONFIG).content == "unknown"
    assert model.profile is not None
    assert model.profile["max_input_tokens"] == pocket.engine.max_positions
    model.forget(config=CONFIG)


@pytest.mark.parametrize("kind", ["path", "Llama", "ChatLlamaCpp"])
def test_gguf_models(pocket: Memory, kind: str) -> None:
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="llama-cpp-python is not installed (make llama)", exc_type=ImportError
    )
    from kv_memory.gguf import pocket_gguf

    path = str(pocket_gguf())
    loaded: Any = None
    if kind == "Llama":
        loaded = llama_cpp.Llama(path, n_ctx=2048, verbose=False)
    elif kind == "ChatLlamaCpp":
        from langchain_community.chat_models import ChatLlamaCpp

        loaded = ChatLlamaCpp(model_path=path, n_ctx=2048, rope_freq_base=0, verbose=False)
    model = (
        ErasableChatModel(model=path, max_tokens=8) if loaded is None else ErasableChatModel.wrap(loaded, max_tokens=8)
    )
    assert model.invoke(talk(), CONFIG).content == "delivered"
    report = model.retract("call_1", config=CONFIG)
    assert report.tokens_erased > 0
    assert model.invoke(talk(), CONFIG).content == "unknown"
    assert model.profile is not None
    if loaded is not None:
        assert model.profile["max_input_tokens"] == 2048
        engine = model.load().engine
        assert engine.max_positions == 2048


@pytest.mark.parametrize("kind", ["llama.cpp, bytes", "llama.cpp, sentencepiece"])
def test_a_gguf_model_of_any_converter_keeps_to_tools_and_schemas(
    tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    """A random model, which would never do it by itself."""
    model = ErasableChatModel(model=tiny_gguf(tmp_path_factory, kind), max_tokens=120)
    assert model.profile is not None
    assert model.profile["max_input_tokens"] == 2048
    forced = model.bind_tools([get_weather], tool_choice="any")
    for answer in (forced.invoke("Hi", CONFIG), _whole(forced.stream("Hi", CONFIG))):
        assert [call["name"] for call in answer.tool_calls] == ["get_weather"]
        assert answer.tool_calls[0]["args"]["city"] in ("Oslo", "Rome")
    for method in ("function_calling", "json_schema"):
        assert isinstance(model.with_structured_output(Size, method=method).invoke("Hi", CONFIG), Size)
    assert model.profile["structured_output"]
    assert model.profile["tool_choice"]
    assert model.profile["tool_calling"]


def test_the_profile_says_whether_the_template_calls_tools(tmp_path_factory: pytest.TempPathFactory) -> None:
    plain = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    path = tiny_gguf(tmp_path_factory, "llama.cpp, bytes", template=plain)
    model = ErasableChatModel(model=path, context_length=512)
    assert model.profile is not None
    assert "tool_calling" not in model.profile  # it is not known yet
    model.load()
    assert (model.profile["tool_calling"], model.profile["tool_choice"]) == (False, True)
    assert model.profile["max_input_tokens"] == 512


@pytest.fixture
def llama_cpp_chat() -> Any:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (make llama)", exc_type=ImportError)
    from langchain_community.chat_models import ChatLlamaCpp

    from kv_memory.gguf import pocket_gguf

    settings = {"n_ctx": 512, "rope_freq_base": 0, "verbose": False}
    return lambda **given: ChatLlamaCpp(model_path=str(pocket_gguf()), **settings, **given)


def test_the_sampling_that_chatllamacpp_was_given_is_taken_over(llama_cpp_chat: Any) -> None:
    assert ErasableChatModel.wrap(llama_cpp_chat()).temperature is None
    given = {"temperature": 0.3, "top_p": 0.7, "max_tokens": 9, "stop": ["x"], "seed": 4}
    wrapped = ErasableChatModel.wrap(llama_cpp_chat(**given), max_tokens=5)
    assert {name: getattr(wrapped, name) for name in given} == {**given, "max_tokens": 5}


@pytest.mark.parametrize("given", [{"top_k": 20}, {"repeat_penalty": 1.3}, {"logprobs": 3}], ids=str)
def test_sampling_that_there_is_not_is_refused_by_name(llama_cpp_chat: Any, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"cannot take over {next(iter(given))}=.* of ChatLlamaCpp"):
        ErasableChatModel.wrap(llama_cpp_chat(**given))


def test_sampling_that_is_switched_off_is_no_reason_to_refuse(llama_cpp_chat: Any) -> None:
    assert ErasableChatModel.wrap(llama_cpp_chat(top_k=0, repeat_penalty=1.0)).temperature is None


def test_what_cannot_be_wrapped_is_named(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(TypeError, match=r"wrap\(\) takes .* got str"):
        ErasableChatModel.wrap("a string")
    with pytest.raises(TypeError, match="without a tokenizer"):
        ErasableChatModel.wrap(loaded[0])


def test_chat_models_may_share_a_memory(pocket: Memory, model: ErasableChatModel) -> None:
    other = ErasableChatModel(memory=pocket, max_tokens=4)
    model.invoke(talk(), CONFIG)
    other.retract("call_1", config=CONFIG)
    assert model.invoke(talk(), CONFIG).content == "unknown"
    assert read(other.invoke(talk(), CONFIG)) > 70


def test_a_model_that_is_none_is_told_at_the_first_call() -> None:
    model = ErasableChatModel(model="/no/such/model")
    with pytest.raises(ModelError, match="does not exist"):
        model.invoke("Hello")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT uses an old name of transformers
def test_a_trained_eraser_is_the_memorys_default(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    """By its directory, as PEFT saves it; where calls named it as an eraser they would be refused."""
    transformer, tokenizer = loaded
    lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(deepcopy(transformer), lora).save_pretrained(tmp_path)
    model = ErasableChatModel.wrap(deepcopy(transformer), tokenizer, eraser=tmp_path, max_tokens=4, heal="never")
    model.invoke(talk(), CONFIG)
    assert [part.eraser for part in model.retract("call_1", config=CONFIG).parts] == ["steer"]
    model.invoke(talk()[:2], CONFIG)


def test_an_eraser_of_the_model_is_used(pocket: Memory) -> None:
    for model in (
        ErasableChatModel.wrap(pocket.engine, eraser="drop", max_tokens=4, heal="never"),
        ErasableChatModel(memory=pocket, eraser="drop", max_tokens=4),
    ):
        model.forget(config=CONFIG)
        history = [*lookup(), *lookup(call="call_2"), HumanMessage(QUESTION)]
        model.invoke(history, CONFIG)
        report = model.retract("call_1", config=CONFIG)
        assert (report.parts[0].eraser, report.tokens_recomputed) == ("drop", 0)
        after = model.invoke([*history[:3], HumanMessage(QUESTION)], thread("t2"))
        assert after.response_metadata["kv_memory"]["session"] == "t2"
        model.invoke([*history[:3], *history[6:]], CONFIG)
        branch = model.load().session("t").branches.latest
        assert branch is not None
        assert branch.ledger.approximate_from is not None
