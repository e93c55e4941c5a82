"""A causal language model and its tokenizer, from a directory or the hub, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from kv_memory.engines.transformers.probe import reaches
from kv_memory.engines.transformers.tiktoken_file import load_converted
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.errors import ModelError

SMALL = 1_000_000_000
"""Number of parameters below which float32 on a CPU is worth its memory: most CPUs compute bfloat16 several times
slower."""

_IMAGES = AutoModelForImageTextToText._model_mapping
# What transformers and torch raise for a model that they cannot read, or not in this way: no such file or repository,
# unknown architecture, broken JSON or weights, a device that is not there, a dtype that is none.
_READ_ERRORS = (
    AssertionError,
    AttributeError,
    ImportError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)


def load_model(
    name: str,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    check: Callable[[dict[str, Any]], object] = lambda config: None,
    check_layers: Callable[[Any], object] = reaches,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model onto its device, and its tokenizer.

    `device`: by default CUDA where there is one, else the CPU. `dtype`: by default, on CUDA the checkpoint's if that
    has 16 bits, else bfloat16; on the CPU float32 for a model of less than a thousand million parameters, else the
    checkpoint's. Raises ModelError, and before the weights are read what `check_layers` raises, which is given the
    configuration (by default UnsupportedModelError for layers that cannot be edited), and what `check` raises, which is
    given that of the text model.
    """
    name = checked_path(name)
    place, wanted = place_of(device), _dtype(dtype)
    with reading(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        check_layers(config)
        check(config.get_text_config(decoder=True).to_dict())
        tokenizer = load_tokenizer(name)
        model = class_of(config).from_pretrained(name, dtype=wanted or _choose_dtype(config, place)).to(place)
    return model, tokenizer


def outline(name: str, device: str | torch.device | None = None) -> PreTrainedModel:
    """Return the model without its weights, on the meta device, in the dtype that `load_model` gives it on `device`.

    Raises ModelError where there is no such model.
    """
    name = checked_path(name)
    place = place_of(device)
    with reading(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        dtype = _choose_dtype(config, place)
        with torch.device("meta"):
            return class_of(config).from_config(config, dtype=dtype)


def name_of(model: PreTrainedModel) -> str:
    """Return what a loaded model was loaded from, else the name of its class."""
    return str(getattr(model.config, "_name_or_path", "") or type(model).__name__)


def ends_of(model: PreTrainedModel) -> Sequence[int]:
    """Return the ids that end a turn by the model's generation config."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    return [ends] if isinstance(ends, int) else ends or ()


def place_of(device: str | torch.device | None) -> torch.device:
    """Return the device of this name, by default a GPU. Raises ModelError where there is none."""
    there = torch.cuda.is_available()
    try:
        place = torch.device(device or ("cuda" if there else "cpu"))
        torch.zeros(1, device=place).item()  # "meta" has a name and no memory
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        known = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if there else []
        raise ModelError(
            f"There is no device {str(device)!r} here; give one of {', '.join(['cpu', *known])}."
        ) from error
    return place


def _dtype(name: str | torch.dtype | None) -> str | torch.dtype | None:
    """Return the type of weights of this name; None and "auto", the checkpoint's, as they are. Raises ModelError where
    it is none."""
    if name is None or name == "auto" or isinstance(name, torch.dtype):
        return name
    found = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ModelError(f"There is no dtype {name!r} of weights; give float32, bfloat16 or float16.")
    return found


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a directory or hub id; code of the model's is never run.

    Raises ModelError where it has none or a tiktoken file that cannot be converted, and what transformers raises.
    """
    tokenizer = load_converted(name)
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    # NOTE: where its files are missing, transformers makes some models a tokenizer of special tokens only.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ModelError(f"{name} has no tokenizer; save the model's tokenizer into it with save_pretrained.")
    return tokenizer


def tokenizer_of(name: str) -> HFTokenizer:
    """Return the tokenizer of a directory or hub id as engines use it; no weights are read or looked for.

    Raises ModelError.
    """
    name = checked_path(name)
    with reading(name):
        return HFTokenizer(load_tokenizer(name))


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raise a ModelError for what transformers and torch raise in the block about a model that they cannot read."""
    try:
        yield
    except _READ_ERRORS as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"Cannot load {name!r} as a causal language model ({reason}); give a directory saved with save_pretrained, "
            "or the id of a model on the Hugging Face hub that this machine can reach."
        ) from error


def checked_path(name: str) -> str:
    """Return the directory or the hub id; tells a missing or empty directory from an id before the hub is asked for
    it."""
    path = Path(name).expanduser()
    if path.exists():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"{name} is not a model: it has no config.json; give a directory saved with save_pretrained."
            )
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"{name} does not exist; give a directory saved with save_pretrained, or a hub id.")
    return name


def class_of(config: Any) -> Any:
    """Return the class that loads a model of this configuration: some that read images too, such as Mistral Small 3,
    are no causal language models to transformers."""
    known = type(config) in AutoModelForCausalLM._model_mapping
    return AutoModelForCausalLM if known or type(config) not in _IMAGES else AutoModelForImageTextToText


def _choose_dtype(config: Any, device: torch.device) -> torch.dtype:
    stored = getattr(config, "dtype", None) or torch.float32
    if device.type == "cuda":
        return stored if stored.itemsize == 2 else torch.bfloat16
    with torch.device("meta"):
        size = class_of(config).from_config(config).num_parameters()
    return torch.float32 if size < SMALL else stored
