"""Models of either naming are called by theirs, also below an adapter."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from kv_memory.engines.transformers.cache_argument import cache_argument, cache_name
from kv_memory.testing.chat import tiny_model
from kv_memory.training.adapter import Adapter


class Older:
    def forward(self, input_ids: Any, past_key_values: Any = None) -> None: ...


class Newer:
    def forward(self, input_ids: Any, cache: Any = None, **options: Any) -> None: ...


@pytest.mark.parametrize(("model", "name"), [(Older(), "past_key_values"), (Newer(), "cache")])
def test_the_name_is_the_models_own(model: Any, name: str) -> None:
    assert cache_argument(model) == name
    assert cache_name({"attention_mask": None, name: None}) == name


def test_a_model_with_an_adapter_has_the_same() -> None:
    model = tiny_model()
    name = cache_argument(model)
    assert name in inspect.signature(model.forward).parameters
    assert cache_argument(Adapter(model).model) == name
