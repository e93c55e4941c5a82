"""The tokenizer of a model that comes as a tiktoken file: converted, without running code of the model's."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import AddedToken, Regex
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter, bytes_to_unicode
from transformers.utils import cached_file

from kv_memory.engines.transformers.split_pattern import SETTING, known_pattern, pattern_in, unknown_pattern
from kv_memory.errors import ModelError

_NAMES = ("tiktoken.model", "tokenizer.model")
_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")
_SETTINGS, _SPECIAL, _TEMPLATE, _MORE_TEMPLATES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "additional_chat_templates",
)
_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
_LISTED = ("additional_special_tokens", "extra_special_tokens")
_PROBE = (
    "It's 1234567 o'clock, I'LL say: naïve ǅ e\u0301 Straße \u017f\u212a, CamelCase HTTPServer\n\n  \tdef f(x):  # "
    "中文English混合 漢字ひらがなカタカナー한국어 ١٢٣ ½ ²\u00a0\u2003 \r\n\r\n...!?'' "
    "\U0001f44d\U0001f3fd\u200d\U0001f525 \u0e01\u0e31 end   "
)
"""Text in which patterns differ: the converted tokenizer has to cut it as tiktoken does."""


class _Files:
    """The files of a model directory or hub repository."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._found: dict[str, Path | None] = {}

    def find(self, name: str) -> Path | None:
        """Return the path of a file; None where there is none. One of the hub is fetched, and asked for once."""
        if name not in self._found:
            self._found[name] = self._path(name)
        return self._found[name]

    def _path(self, name: str) -> Path | None:
        folder = Path(self.name)
        if folder.is_dir():
            return folder / name if (folder / name).is_file() else None
        found = cached_file(
            self.name, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
        return None if found is None else Path(found)

    def json(self, name: str) -> dict[str, Any]:
        """Return a file of settings; none are set where there is no such file. Raises ModelError where it is broken."""
        path = self.find(name)
        if path is None:
            return {}
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"The {name} of {self.name} is not JSON ({error}); copy it again.") from error
        if not isinstance(read, dict):
            raise ModelError(f"The {name} of {self.name} is not an object of settings; copy it again.")
        return read

    def tokenizer_code(self) -> Iterator[tuple[str, Path | None]]:
        """Yield the names and paths of the files that hold the model's own tokenizer class."""
        for settings in (_SETTINGS, "config.json"):
            mapped = self.json(settings).get("auto_map") or {}
            classes = mapped.get("AutoTokenizer") if isinstance(mapped, dict) else mapped
            named = [said for said in (classes if isinstance(classes, list) else [classes]) if isinstance(said, str)]
            for said in named:
                module = said.rpartition(".")[0]
                yield f"{module}.py", self.find(f"{module}.py") if module.isidentifier() else None
            if named:
                return
        folder = Path(self.name)
        yield from ((path.name, path) for path in sorted(folder.glob("tokenization_*.py")) if folder.is_dir())


def load_converted(name: str) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of a directory or hub id that has a tiktoken file; None where it has another, or a
    tokenizer.json too.

    Raises ModelError where the file is broken, or where the directory does not say how text is cut before it is merged
    or which ids the special tokens have.
    """
    files = _Files(name)
    if files.find("tokenizer.json") is not None:
        return None
    path = next((path for path in map(files.find, _NAMES) if path is not None and _is_tiktoken(path)), None)
    if path is None:
        return None
    ranks = _read(path)
    backend = _converted(path, ranks, _pattern(files))
    _add_tokens(backend, _special_tokens(files, ranks), len(ranks), name)
    tokenizer = _with_settings(backend, files)
    tokenizer.name_or_path = name
    return tokenizer


def _is_tiktoken(path: Path) -> bool:
    """Return whether a file begins as one of ranks does: the name tokenizer.model is SentencePiece's too."""
    with path.open("rb") as file:
        return _LINE.match(file.read(4096)) is not None


def _read(path: Path) -> dict[bytes, int]:
    """Return the rank of each token. Raises ModelError where there are gaps, or a byte has none."""
    from tiktoken.load import load_tiktoken_bpe

    # NOTE: tiktoken keeps a copy of each file by its path, and takes an old one where no digest is given.
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        ranks: dict[bytes, int] = load_tiktoken_bpe(str(path), expected_hash=digest)
    except ValueError as error:
        raise ModelError(f"{path} is not a whole tiktoken file ({error}); copy it again.") from error
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise ModelError(f"{path} is not a whole tiktoken file: ranks or bytes are missing in it; copy it again.")
    return ranks


def _pattern(files: _Files) -> str:
    """Return how text is cut: as the settings say, the model's code, or its family. Raises ModelError."""
    said = files.json(_SETTINGS).get(SETTING)
    if isinstance(said, str):
        return said
    found = set()
    for name, path in files.tokenizer_code():
        if path is None:
            raise unknown_pattern(f"{files.name}, whose {name} is not there,")
        found.add(pattern_in(path.read_text(encoding="utf-8", errors="replace"), name))
    known = known_pattern(files.json("config.json"))
    if not found and known is not None:
        return known
    if len(found) != 1:
        raise unknown_pattern(files.name)
    return found.pop()


def _converted(path: Path, ranks: Mapping[bytes, int], pattern: str) -> FastTokenizer:
    """Return the tokenizer of these ranks. Raises ModelError where it would not cut text as tiktoken does."""
    backend: FastTokenizer = TikTokenConverter(vocab_file=str(path), pattern=_checked(pattern, path)).converted()
    spelling = bytes_to_unicode()
    if backend.get_vocab() != {"".join(spelling[byte] for byte in token): rank for token, rank in ranks.items()}:
        raise ModelError(f"{path} changed while it was being read; load the model again.")
    return backend


def _checked(pattern: str, path: Path) -> str:
    """Return the pattern. Raises ModelError where tokenizers, which has another library for it, reads it otherwise."""
    from tiktoken import Encoding

    try:
        found = Split(Regex(pattern), behavior="isolated").pre_tokenize_str(_PROBE)
        cut = [piece.encode() for piece, _ in found]
        ranks = {bytes([byte]): byte for byte in range(256)}
        ranks |= {piece: 256 + i for i, piece in enumerate(dict.fromkeys(cut)) if len(piece) > 1}
        oracle = Encoding(path.name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        same = oracle.encode_ordinary(_PROBE) == [ranks[piece] for piece in cut]  # each piece is one token
    except Exception as error:  # neither library raises anything more special
        raise ModelError(f"The pattern by which the tokenizer {path} cuts text is none ({error}).") from error
    if not same:
        raise ModelError(
            f"The tokenizer {path} cuts text by a pattern that cannot be converted: its tokens would be others than "
            "the model was trained with; add the model's tokenizer.json."
        )
    return pattern


def _special_tokens(files: _Files, ranks: Mapping[bytes, int]) -> dict[int, AddedToken]:
    """Return the tokens beside the ranks, by id. Raises ModelError for one whose id is not said."""
    settings, found = files.json(_SETTINGS), {}
    for id_, said in (settings.get("added_tokens_decoder") or {}).items():
        found[int(id_)] = _token(said)
    named = [(key, _token(said)) for key, said in _named({**files.json(_SPECIAL), **settings})]
    special = {token.content for _, token in named}
    for text, id_ in files.json("added_tokens.json").items():
        found.setdefault(int(id_), AddedToken(text, special=text in special, normalized=False))
    known = {token.content for token in found.values()}
    ids = {**files.json("config.json"), **files.json("generation_config.json")}
    for key, token in named:
        id_ = ids.get(f"{key}_id")
        if token.content in known or token.content.encode() in ranks:
            continue
        if not isinstance(id_, int) or id_ in found:
            raise ModelError(
                f"The tokenizer of {files.name} names the special token {token.content!r} without its id; add it to "
                f"added_tokens_decoder in {_SETTINGS}."
            )
        found[id_] = token
        known.add(token.content)
    if not found:
        raise ModelError(
            f"The tokenizer of {files.name} has no special tokens, which end turns; copy the model's {_SETTINGS} too, "
            "which lists them as added_tokens_decoder."
        )
    return found


def _named(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the special tokens that settings name, each with its key."""
    for key in _NAMED:
        if settings.get(key):
            yield key, settings[key]
    for key in _LISTED:
        listed = settings.get(key) or ()
        yield from ((key, said) for said in (listed.values() if isinstance(listed, dict) else listed))


def _token(said: Any) -> AddedToken:
    """Return a token as settings describe it: its text, or an object."""
    if not isinstance(said, dict):
        return AddedToken(str(said), special=True, normalized=False)
    flags = {key: bool(said[key]) for key in ("lstrip", "rstrip", "single_word") if key in said}
    return AddedToken(str(said["content"]), special=bool(said.get("special", True)), normalized=False, **flags)


def _add_tokens(backend: FastTokenizer, tokens: Mapping[int, AddedToken], first: int, name: str) -> None:
    """Add tokens to a vocabulary of ids below `first`; ids that none has are reserved, as Kimi and Llama do it."""
    free = range(first, max(tokens) + 1)
    reserved = {id_: AddedToken(f"<|reserved_token_{id_}|>", special=True, normalized=False) for id_ in free}
    backend.add_tokens([tokens.get(id_, reserved[id_]) for id_ in free])
    backend.add_tokens([token for id_, token in tokens.items() if id_ < first])
    for id_, token in tokens.items():
        if backend.token_to_id(token.content) != id_:
            raise ModelError(
                f"The tokenizer of {name} gives the id {id_} to {token.content!r}, which is not free or has another; "
                f"correct added_tokens_decoder in {_SETTINGS}."
            )


def _with_settings(backend: FastTokenizer, files: _Files) -> PreTrainedTokenizerBase:
    """Return the tokenizer with the directory's chat templates and settings, read as beside a tokenizer.json."""
    dropped = ("auto_map", "tokenizer_class", "added_tokens_decoder", SETTING)
    settings = {key: value for key, value in files.json(_SETTINGS).items() if key not in dropped}
    with TemporaryDirectory() as made:
        folder = Path(made)
        backend.save(str(folder / "tokenizer.json"))
        (folder / _SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
        for name in (_SPECIAL, _TEMPLATE):
            if (path := files.find(name)) is not None:
                (folder / name).write_bytes(path.read_bytes())
        for path in sorted((Path(files.name) / _MORE_TEMPLATES).glob("*.jinja")):
            (folder / _MORE_TEMPLATES).mkdir(exist_ok=True)
            (folder / _MORE_TEMPLATES / path.name).write_bytes(path.read_bytes())
        read: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(made)
    return read
