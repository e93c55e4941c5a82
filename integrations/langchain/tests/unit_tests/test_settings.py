"""Settings of a chat model: none is ignored in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from langchain_core.runnables import ConfigurableField

from kv_memory import Memory
from langchain_kv_memory import ErasableChatModel


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What memories are asked for; none is loaded."""
    asked: list[dict[str, Any]] = []

    def make(model: Any, **options: Any) -> Memory:
        asked.append({"model": model, **options})
        return Mock(Memory, engine=Mock(max_positions=9), format=Mock(calls_tools=True))

    monkeypatch.setattr("langchain_kv_memory.settings.Memory", make)
    return asked


def test_a_misspelt_setting_is_named_with_what_was_meant() -> None:
    with pytest.raises(ValueError, match="no setting 'max_token'; did you mean 'max_tokens'"):
        ErasableChatModel(max_token=3)
    with pytest.raises(ValueError, match=r"no setting 'zzz'; help\(ErasableChatModel\)"):
        ErasableChatModel(zzz=3)


def test_settings_that_mean_something_to_remote_models_alone_are_let_pass() -> None:
    assert ErasableChatModel(timeout=60, max_retries=2, max_tokens=3).max_tokens == 3


@pytest.mark.parametrize("name", ["model", "policy", "heal", "cache_tokens", "checkpoint_mb", "calibration"])
def test_a_ready_memory_takes_no_settings(name: str) -> None:
    value = {"heal": "never", "cache_tokens": 9, "checkpoint_mb": 9}.get(name, "x")
    makes: list[Callable[[Any], Any]] = [
        lambda m: ErasableChatModel(memory=m, **{name: value}),
        lambda m: _wrap(m, **{name: value}),
    ]
    for make in makes:
        with pytest.raises(ValueError, match=f"A ready memory has its own {name}"):
            make(Mock(Memory))


def test_a_ready_memory_takes_an_erasers_name_but_no_files(tmp_path: Path) -> None:
    assert _wrap(Mock(Memory), eraser="drop").named_eraser == "drop"
    with pytest.raises(ValueError, match="has its own eraser"):
        _wrap(Mock(Memory), eraser=tmp_path)


def test_the_memory_is_made_of_the_settings(made: list[dict[str, Any]], tmp_path: Path) -> None:
    given = {"policy": "p.toml", "audit": tmp_path / "a", "heal": "now", "calibration": "c.json", "dtype": "float32"}
    sizes: dict[str, Any] = {"cache_tokens": 9, "context_length": 5, "checkpoint_mb": 7.5, "checkpoint_device": "cpu"}
    sizes |= {"editable_tokens": 3}
    model = ErasableChatModel(model=tmp_path, eraser=tmp_path, **sizes, **given)
    assert model.load() is model.load() is model.ready
    assert made == [{"model": tmp_path, "eraser": tmp_path, **sizes, "device": None, **given}]


def test_calls_name_no_eraser_where_a_trained_one_is_loaded(tmp_path: Path) -> None:
    assert ErasableChatModel(eraser=str(tmp_path)).named_eraser is None
    assert ErasableChatModel(eraser="org/eraser").named_eraser is None
    assert ErasableChatModel(eraser="influence").named_eraser == "influence"


def test_a_loaded_model_cannot_become_another(made: list[dict[str, Any]]) -> None:
    model = ErasableChatModel(model="org/one")
    model.load()
    other = model.configurable_fields(model=ConfigurableField(id="llm")).with_config({"configurable": {"llm": "org/2"}})
    with pytest.raises(ValueError, match="has loaded 'org/one' and cannot become 'org/2'"):
        other.invoke("Hello.")


def _wrap(memory: Memory, **options: Any) -> ErasableChatModel:
    return ErasableChatModel.wrap(memory, **options)
