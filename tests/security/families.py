"""Small tokenizers with the special tokens and the chat templates of six model families, for spoofing.

Byte level without merges, so that any text goes in. The templates write roles as the families' own do; where those
refuse a role or a second turn of one, so do these.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kv_memory.engines.transformers.tokenizer import HFTokenizer


@dataclass(frozen=True)
class Family:
    """One model family's way of marking roles."""

    name: str
    special: tuple[str, ...]
    template: str


_EACH = "{%- for message in messages %}"
_END = "{%- endfor %}"
_ALTERNATE = (
    "{%- if message.role not in ['user', 'assistant'] %}{{ raise_exception('unknown role') }}{% endif %}"
    "{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles alternate') }}{% endif %}"
)

FAMILIES = (
    Family(
        "ChatML",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        f"{_EACH}{{{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}}}{_END}"
        "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    ),
    Family(
        "Llama-3",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"),
        "{{- '<|begin_of_text|>' }}"
        f"{_EACH}{{{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim "
        f"+ '<|eot_id|>' }}}}{_END}"
        "{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    ),
    Family(
        "Mistral",
        ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        f"{{{{- '<s>' }}}}{_EACH}{_ALTERNATE}"
        "{%- if message.role == 'user' %}{{- '[INST] ' + message.content + ' [/INST]' }}"
        f"{{%- else %}}{{{{- ' ' + message.content | trim + '</s>' }}}}{{% endif %}}{_END}",
    ),
    Family(
        "Gemma",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        f"{{{{- '<bos>' }}}}{_EACH}{_ALTERNATE}"
        "{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\\n' + message.content | trim "
        f"+ '<end_of_turn>\\n' }}}}{_END}"
        "{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
    ),
    Family(
        "Phi-3",
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        f"{_EACH}{{{{- '<|' + ('user' if message.role == 'tool' else message.role) + '|>\\n' + message.content + "
        f"'<|end|>\\n' }}}}{_END}"
        "{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    ),
    Family(
        "Zephyr",
        ("<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"),
        f"{_EACH}{{{{- '<|' + ('user' if message.role == 'tool' else message.role) + '|>\\n' + message.content + "
        f"'</s>\\n' }}}}{_END}"
        "{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    ),
)
VOCABULARY = 272
"""Upper bound of token ids: those of all families are below."""
STRUCTURE = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")


def tokenizer(family: Family) -> HFTokenizer:
    """Build a tokenizer of that family; the ids from 256 on carry structure."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in family.special])
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in STRUCTURE])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=family.special[0], eos_token=family.special[-1])
    made.chat_template = family.template
    return HFTokenizer(made)
