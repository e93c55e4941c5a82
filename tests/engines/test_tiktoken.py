"""A tiktoken file gives the ids that tiktoken gives; what cannot be known without running code is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from kv_memory import Memory, ModelError
from kv_memory.engines.transformers.loading import load_tokenizer
from kv_memory.engines.transformers.split_pattern import LLAMA_3, pattern_in
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.testing.chat import CHATML
from tests import tiktoken_files as files

PATTERNS = {"kimi": "|".join(files.KIMI), "llama": LLAMA_3}
WRITERS: dict[str, Callable[[Path], Path]] = {"kimi": files.write_kimi, "llama": files.write_llama}
NOT_KNOWN = "cannot be told how this tokenizer cuts text"

pieces = st.one_of(
    st.text(max_size=6),
    st.text("aeRT's 1٢½\n\r\t\u00a0\u3000你好ー\u0301\u017f\U0001f44d\u200d.<|>", max_size=8),
    st.sampled_from([*files.WRITTEN.split(" "), *files.special_tokens(), "I'LL", "HTTPServer", "12345", "中文English"]),
)
texts = st.lists(pieces, max_size=8).map("".join)


@pytest.fixture(scope="module", autouse=True)
def _no_copies() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")  # tiktoken keeps no copies of the files
        yield


@pytest.fixture(scope="module", params=list(PATTERNS))
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[HFTokenizer, Any]:
    """The converted tokenizer, and tiktoken's own with the same tokens."""
    folder = WRITERS[request.param](tmp_path_factory.mktemp("t") / "model")
    oracle = tiktoken.Encoding(
        "own", pat_str=PATTERNS[request.param], mergeable_ranks=files.ranks(), special_tokens=files.special_tokens()
    )
    return HFTokenizer(load_tokenizer(str(folder))), oracle


@given(texts)
@settings(max_examples=300, deadline=None)
@example("中文English混合")
@example("it'S 12345<|im_end|>\n\n <think>")
def test_ids_are_those_of_tiktoken(both: tuple[HFTokenizer, Any], text: str) -> None:
    tokenizer, oracle = both
    ids, _ = tokenizer.encode(text, special=False)
    assert ids == oracle.encode_ordinary(text)
    assert tokenizer.encode(text, special=True)[0] == oracle.encode(text, allowed_special="all")
    assert not tokenizer.token_table().structure & set(ids)


@given(texts)
@settings(max_examples=100, deadline=None)
def test_tokens_write_the_bytes_of_their_characters(both: tuple[HFTokenizer, Any], text: str) -> None:
    tokenizer, _ = both
    ids, offsets = tokenizer.encode(text, special=False)
    written = tokenizer.token_table().written
    assert b"".join(written[id_] for id_ in ids) == text.encode()
    assert tokenizer.decode(ids) == text
    assert all(written[id_] in text[start:end].encode() for id_, (start, end) in zip(ids, offsets, strict=True))


def test_special_tokens_and_templates_are_those_of_the_directory(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(files.write_kimi(tmp_path / "k")))
    known = files.special_tokens()
    assert {text: tokenizer.convert_tokens_to_ids(text) for text in known} == known
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.eos_token_id) == ("[BOS]", "[EOS]", known["[EOS]"])
    assert tokenizer.chat_template == CHATML
    assert tokenizer.name_or_path == str(tmp_path / "k")
    assert len(tokenizer) == max(known.values()) + 1
    assert tokenizer.decode([known["<think>"], known["[EOS]"]], skip_special_tokens=True) == "<think>"


def test_more_templates_are_read_by_name(tmp_path: Path) -> None:
    folder = files.write_kimi(tmp_path / "k")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    assert load_tokenizer(str(folder)).chat_template == {"default": CHATML, "tool_use": "tools"}


def test_ids_come_from_the_files_that_say_them(tmp_path: Path) -> None:
    first = len(files.ranks())
    folder = files.write_llama(
        tmp_path / "l", added_tokens_decoder=None, additional_special_tokens=None, eos_token=None
    )
    (folder / "added_tokens.json").write_text(json.dumps({"<think>": first + 2}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "bos_token_id": first}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": first + 1}))
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.convert_tokens_to_ids(["[BOS]", "<|im_end|>", "<think>"]) == [first, first + 1, first + 2]
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.decode([first, first + 1, first + 2], skip_special_tokens=True) == "<think>"


def test_files_of_the_hub_are_fetched_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, fetched = files.write_kimi(tmp_path / "k"), []

    def fetch(repository: str, name: str, **_: object) -> str | None:
        fetched.append((repository, name))
        return str(folder / name) if (folder / name).is_file() else None

    monkeypatch.setattr("kv_memory.engines.transformers.tiktoken_file.cached_file", fetch)
    assert load_tokenizer("maker/kimi").convert_tokens_to_ids("[EOS]") == files.special_tokens()["[EOS]"]
    assert ("maker/kimi", "tokenization_kimi.py") in fetched
    assert len(fetched) == len(set(fetched))


def test_a_model_is_read_and_its_tokens_retracted(tmp_path: Path) -> None:
    folder = files.write_kimi(tmp_path / "k", eos_token="<|im_end|>")
    size = max(files.special_tokens().values()) + 1
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen3Config(vocab_size=size, num_key_value_heads=2, head_dim=8, max_position_embeddings=512, **shape)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    memory = Memory(folder, device="cpu", heal="never")
    session = memory.session("s")
    talk = [
        {"role": "user", "id": "u", "content": "read 中文<|im_end|>"},
        {"role": "assistant", "content": "I'll read"},
        {"role": "user", "content": "then?"},
    ]
    session.chat(talk, max_tokens=2)
    branch = session.branches.latest
    assert branch is not None
    cells = memory.engine.tokens(branch.seq)
    assert cells.count(files.special_tokens()["<|im_end|>"]) == len(talk) + 1  # the forged one is none
    assert session.retract("u", eraser="recompute").tokens_erased == len(
        memory.engine.tokenizer.encode("read 中文<|im_end|>", special=False)[0]
    )


@pytest.mark.parametrize("kind", ["glm4", "glm5_next", "chatglm"])
def test_glm_cuts_text_as_llama_3_does(tmp_path: Path, kind: str) -> None:
    oracle = tiktoken.Encoding("l", pat_str=LLAMA_3, mergeable_ranks=files.ranks(), special_tokens={})
    tokenizer = HFTokenizer(load_tokenizer(str(files.write_llama(tmp_path / "g", kind))))
    assert tokenizer.encode("中文English I'll 12345", special=False)[0] == oracle.encode_ordinary(
        "中文English I'll 12345"
    )


def test_a_pattern_in_the_settings_is_taken_before_code(tmp_path: Path) -> None:
    folder = files.write_kimi(tmp_path / "k", pat_str=r"\S+|\s+")
    oracle = tiktoken.Encoding("w", pat_str=r"\S+|\s+", mergeable_ranks=files.ranks(), special_tokens={})
    text = "the then 123there"
    assert load_tokenizer(str(folder)).encode(text, add_special_tokens=False) == oracle.encode_ordinary(text)


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "copies"))
    folder = files.write_llama(tmp_path / "l")
    before = load_tokenizer(str(folder)).encode("the", add_special_tokens=False)
    swapped = {token: len(files.ranks()) - 1 - rank for token, rank in files.ranks().items()}
    files.write_ranks(folder / "tokenizer.model", swapped)
    after = load_tokenizer(str(folder)).encode("the", add_special_tokens=False)
    assert (before, after) == ([files.ranks()[b"the"]], [swapped[b"the"]])


CODES = {
    "class attribute": ('class T:\n    pat_str = "|".join([r"a+", """b"""])', "a+|b"),
    "local, compiled too": ('def f(self):\n    pat_str = "a" "b"\n    self.pat_str = re.compile(pat_str)', "ab"),
    "constant and keyword": ('PAT_STR = r"\\d" + "|x"\nE = Encoding(name="n", pat_str=PAT_STR)', "\\d|x"),
    "keyword alone": ('E = tiktoken.Encoding("n", pat_str="k")', "k"),
    "said twice": ('PAT_STR = "a"\nclass T:\n    pat_str: str = "a"', "a"),
}


@pytest.mark.parametrize("code", CODES)
def test_the_pattern_is_read_out_of_code(code: str) -> None:
    source, pattern = CODES[code]
    assert pattern_in(source, "t.py") == pattern


UNCLEAR = {
    "none": "x = 1",
    "two": 'pat_str = "a"\nPAT_STR = "b"',
    "call": "pat_str = read()",
    "format": 'pat_str = f"{a}"',
    "names": 'pat_str = "|".join(PARTS)',
    "grows": 'pat_str = "a"\npat_str += "b"',
    "changed": 'pat_str = "a"\npat_str = pat_str.replace("a", "b")',
    "no code": "pat_str = (",
    "deep": "pat_str = " + "(" * 5000,
    "null": 'pat_str = "a"\0',
}


@pytest.mark.parametrize("code", UNCLEAR)
def test_a_pattern_that_only_running_code_would_tell_is_refused(code: str) -> None:
    with pytest.raises(ModelError, match=f"{NOT_KNOWN}.*t.py.*tokenizer_config.json"):
        pattern_in(UNCLEAR[code], "t.py")


def _lacks_code(folder: Path) -> None:
    (folder / "tokenization_kimi.py").unlink()


def _names_another_repository(folder: Path) -> None:
    mapped = {"AutoTokenizer": ["other/repo--tokenization_kimi.T", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(files.settings(auto_map=mapped)))


def _is_of_an_unknown_family(folder: Path) -> None:
    _lacks_code(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(files.settings(auto_map=None)))


def _says_no_pattern(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(files.settings(pat_str="(")))


def _has_a_pattern_that_others_read_otherwise(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(files.settings(pat_str=r"\p{N}{1,3}+|\s+|[^\s\p{N}]+")))


def _lacks_ids(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(
        json.dumps(files.settings(additional_special_tokens=["<|im_middle|>"]))
    )


def _lacks_special_tokens(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))


def _gives_an_id_twice(folder: Path) -> None:
    added = files.settings()["added_tokens_decoder"]
    (folder / "tokenizer_config.json").write_text(
        json.dumps(files.settings(added_tokens_decoder=added | {"97": {"content": "<one more>"}}))
    )


def _has_gaps(folder: Path) -> None:
    files.write_ranks(folder / "tiktoken.model", {t: r + (r > 300) for t, r in files.ranks().items()})


def _is_cut_off(folder: Path) -> None:
    path = folder / "tiktoken.model"
    path.write_bytes(path.read_bytes()[:-4])


def _has_broken_settings(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_lacks_code, f"{NOT_KNOWN}.*tokenization_kimi.py is not there"),
        (_names_another_repository, f"{NOT_KNOWN}.*is not there"),
        (_is_of_an_unknown_family, f"{NOT_KNOWN}.*nothing in"),
        (_says_no_pattern, "pattern by which the tokenizer .* is none"),
        (_has_a_pattern_that_others_read_otherwise, "cannot be converted"),
        (_lacks_ids, "'<|im_middle|>' without its id"),
        (_lacks_special_tokens, "has no special tokens"),
        (_gives_an_id_twice, "the id 97 to '<one more>'"),
        (_has_gaps, "not a whole tiktoken file"),
        (_is_cut_off, "not a whole tiktoken file"),
        (_has_broken_settings, "tokenizer_config.json .* is not JSON"),
    ],
)
def test_what_cannot_be_known_is_refused(tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    folder = files.write_kimi(tmp_path / "k")
    spoil(folder)
    with pytest.raises(ModelError, match=said) as raised:
        load_tokenizer(str(folder))
    assert "\n" not in str(raised.value)


def test_a_tokenizer_json_beside_it_is_taken(tmp_path: Path) -> None:
    folder = files.write_kimi(tmp_path / "k")
    load_tokenizer(str(folder)).save_pretrained(tmp_path / "saved")
    (folder / "tokenizer.json").write_bytes((tmp_path / "saved" / "tokenizer.json").read_bytes())
    (folder / "tiktoken.model").write_text("broken")
    (folder / "tokenizer_config.json").write_text(json.dumps(files.settings(auto_map=None, tokenizer_class=None)))
    assert load_tokenizer(str(folder)).eos_token == "[EOS]"
