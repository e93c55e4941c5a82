"""The conversion of a transformers model directory to a GGUF file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
from numpy.typing import NDArray
from transformers import GenerationConfig

from kv_memory.engines.fingerprint import digest_of
from kv_memory.engines.transformers.loading import load_tokenizer, reading
from kv_memory.gguf.architecture import architecture, reorder, sizes, skeleton, tensor_names
from kv_memory.gguf.base_model import MODEL_KEY, BaseModel, model_name, read_config, revision_at
from kv_memory.gguf.checkpoint import Checkpoint
from kv_memory.gguf.rope import FREQUENCIES, frequency_factors, rope_fields
from kv_memory.gguf.tokenizer import add_tokenizer
from kv_memory.gguf.writer import KINDS, Dtype, Planned, Progress, write_file

_FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}


def export_model(model_dir: Path, out: Path, dtype: Dtype, progress: Progress = lambda done, total: None) -> None:
    """Write a Qwen3, Qwen2 or Llama model, as save_pretrained left it, as a GGUF file for llama.cpp.

    Matrices get `dtype` (float16 where q8_0 is asked for and their rows are no multiple of 32 numbers), vectors stay
    float32. Only one tensor at a time is in memory. The file is written beside `out` and renamed.

    Raises UnsupportedModelError for other architectures, tokenizers and rotary positions, ModelError for a directory
    that is not a model or not a whole one, KVMemoryError where `out` cannot be written.
    """
    config = read_config(model_dir)
    architecture(config, "convert_hf_to_gguf.py")
    with reading(str(model_dir)):
        tokenizer = load_tokenizer(str(model_dir))
    checkpoint = Checkpoint(model_dir)
    shapes = parameter_shapes(config)
    checkpoint.check(shapes)
    known = BaseModel(model_name(model_dir), revision_at(model_dir), digest_of(checkpoint.heads(shapes)), config)
    sources = {name: parameter for parameter, name in tensor_names(config, list(shapes)).items()}

    def encode(tensor: Planned) -> NDArray[Any]:
        parameter = sources[tensor.name]
        return gguf.quantize(reorder(config, parameter, checkpoint.tensor(parameter).numpy()), tensor.kind)

    stops = _stops(model_dir, tokenizer)
    write_model(out, known, tokenizer, dtype, encode, stops=stops, progress=progress)


def write_model(
    out: Path,
    model: BaseModel,
    tokenizer: Any,
    dtype: Dtype,
    encode: Callable[[Planned], NDArray[Any]],
    *,
    stops: list[int],
    progress: Progress = lambda done, total: None,
) -> None:
    """Write a model of this config and tokenizer; `encode` returns its tensors by their GGUF names.

    `stops`: ids that end a turn. Raises as `export_model`.
    """
    config = model.config
    arch = architecture(config, "convert_hf_to_gguf.py")
    writer = gguf.GGUFWriter(None, arch)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(model.name)
    writer.add_file_type(_FILE_TYPES[dtype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, size in sizes(config).items():
        writer.add_uint32(key, size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(sizes(config)[f"{arch}.attention.key_length"])
    for key, value in rope_fields(config).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_float32(key, value)
    add_tokenizer(writer, tokenizer, config.vocab_size, stops)
    writer.add_string(MODEL_KEY, model.as_json())
    shapes = parameter_shapes(config)
    names = tensor_names(config, list(shapes))
    planned = [Planned.of(names[parameter], shape, KINDS[dtype]) for parameter, shape in shapes.items()]
    factors = frequency_factors(config)
    if factors is not None:
        planned.append(Planned.of(FREQUENCIES, factors.shape, KINDS[dtype]))

    def encode_all(tensor: Planned) -> NDArray[Any]:
        return factors if factors is not None and tensor.name == FREQUENCIES else encode(tensor)

    write_file(out, writer, planned, encode_all, progress)


def parameter_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter, in the order of `named_parameters`; tied embeddings once."""
    return {name: tuple(parameter.shape) for name, parameter in skeleton(config).named_parameters()}


def _stops(folder: Path, tokenizer: Any) -> list[int]:
    """Return the ids that end a turn: the tokenizer's eos first, then those of generation_config.json."""
    try:
        ids = GenerationConfig.from_pretrained(folder).eos_token_id
    except (OSError, ValueError):  # it has none
        ids = None
    listed = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    first = tokenizer.eos_token_id
    return listed if first is None else [first, *(id_ for id_ in listed if id_ != first)]
