"""A chat model over what is loaded already."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from kv_memory import Memory
from kv_memory.errors import ModelError
from kv_memory.pocket import model_path
from langchain_kv_memory import ErasableChatModel

from .orders import QUESTION, lookup, read, talk, thread

CONFIG = thread("t")


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

        loaded = ChatLlamaCpp(model_path=path, n_ctx=2048, verbose=False)
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
