"""What a task's text is to a policy: a vector from a small frozen encoder that lies on this machine.

An encoder is named by `language_encoder=`: a plug-in's name (`wordllama`), or a folder with a table of token vectors.
Nothing is ever downloaded. Its digest tells one table from another, so that no policy acts with a table that it was
not trained with. Shapes: N texts, V tokens, D numbers of a text's vector.
"""

from __future__ import annotations

import abc
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from understudy.errors import UserError
from understudy.files import home, parse_json
from understudy.plugins import plug_in_errors
from understudy.registry import text_encoders

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from understudy.spec.parts import Language

TELLS = "language"
"""Where an environment tells its task's text: this key of a reset's info, or this attribute of the environment."""
TABLES = ("embeddings", "embedding.weight")
"""Names of a table of token vectors in a safetensors file: Model2Vec's, WordLlama's."""
ELSEWHERE = "text_encoders"
"""Folder below UNDERSTUDY_HOME whose folders are named by their tables' digests."""
LONGEST = 512
"""Tokens of a text that count, at most: Model2Vec's `max_length`."""


class TextEncoder(abc.ABC):
    """Vectors of texts, always the same for the same text; `width` numbers each."""

    width: int
    digest: str
    """Hash of everything that the vectors depend on."""

    @abc.abstractmethod
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return vectors [N, D] float32 of mean square 1, zeros for a text without a known word."""


def scaled(vectors_ND: np.ndarray) -> np.ndarray:
    """Return vectors scaled to a mean square of 1, as z-scored states have it; zeros stay zeros."""
    lengths_N1 = np.linalg.norm(vectors_ND.astype(np.float32), axis=1, keepdims=True)
    unit_ND = np.divide(vectors_ND, lengths_N1, out=np.zeros_like(vectors_ND, np.float32), where=lengths_N1 > 0)
    return unit_ND * np.float32(math.sqrt(vectors_ND.shape[1]))


class TokenTable(TextEncoder):
    """The mean of the vectors of a text's tokens, whatever their order: static embeddings.

    As WordLlama's `embed(texts, norm=True)` and Model2Vec's `encode` (with `normalize`) but for the length of the
    result: no special tokens are added; unknown ones, where `skips` names their number, are left out as Model2Vec does.
    """

    def __init__(self, table_VD: np.ndarray, tokenizer: Path, skips: int | None = None) -> None:
        """Take a table and the file of its tokenizer (`tokenizer.json`); UserError for one that cannot be read."""
        self._table = np.ascontiguousarray(table_VD, np.float32)
        self._tokenizer, self._skips = _tokenizer(tokenizer), skips
        self.width = int(table_VD.shape[1])
        digest = hashlib.blake2b(self._table.tobytes(), digest_size=16)
        digest.update(tokenizer.read_bytes())
        digest.update(str(skips).encode())
        self.digest = digest.hexdigest()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the scaled means of the tokens' vectors [N, D]."""
        means = [self._mean(self._tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
        return scaled(np.stack(means)) if means else np.zeros((0, self.width), np.float32)

    def _mean(self, tokens: list[int]) -> np.ndarray:
        kept = np.asarray([token for token in tokens if token != self._skips][:LONGEST], np.int64)
        rows_TD = self._table[np.minimum(kept, len(self._table) - 1)]
        return rows_TD.mean(axis=0, dtype=np.float32) if len(rows_TD) else np.zeros(self.width, np.float32)


def read_table(weights: Path) -> np.ndarray:
    """Return the table of token vectors [V, D] of a safetensors file, as float32; UserError where it holds none.

    Of Model2Vec's files with a table for groups of tokens, it is unfolded: `mapping` [V] and `weights` [V].
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        held = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{weights}: cannot be read as safetensors: {error}") from None
    table = next((held[name] for name in TABLES if name in held), None)
    if table is None or table.ndim != 2 or not table.size:
        raise UserError(
            f"{weights}: has no table of token vectors [tokens, numbers] named {' or '.join(TABLES)}; it holds"
            f" {', '.join(f'{name} {list(part.shape)}' for name, part in held.items()) or 'nothing'}"
        )
    table = table.astype(np.float32)
    if "mapping" in held:
        table = table[held["mapping"].astype(np.int64)]
    if "weights" in held:
        table = table * held["weights"].astype(np.float32)[:, None]
    if not np.isfinite(table).all():
        raise UserError(f"{weights}: its token vectors hold NaN or infinity")
    return table


def read_folder(folder: Path) -> TokenTable:
    """Return the encoder of a folder in Model2Vec's layout: `model.safetensors` and `tokenizer.json`."""
    weights, tokenizer = folder / "model.safetensors", folder / "tokenizer.json"
    for file in (weights, tokenizer):
        if not file.is_file():
            raise UserError(
                f"language_encoder={folder}: has no {file.name}; a folder holds model.safetensors, with a table of"
                " token vectors, and tokenizer.json (Model2Vec's layout)"
            )
    return TokenTable(read_table(weights), tokenizer, skips=_unknown_token(tokenizer))


def _unknown_token(tokenizer: Path) -> int | None:
    """Return the number of the token for what a vocabulary has not, if there is one."""
    try:
        model: Any = parse_json(tokenizer.read_bytes())["model"]
        name, words = model.get("unk_token"), model.get("vocab")
        if isinstance(words, Mapping) and name is not None:
            return cast("Mapping[str, int]", words).get(name)
        return cast("int | None", model.get("unk_id"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{tokenizer}: is no tokenizer of the package tokenizers") from None


def _tokenizer(file: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UserError(
            "texts are split by the package tokenizers, which is not installed:"
            " pip install 'understudy-learn[language]'"
        ) from None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001  (of no narrower type)
        raise UserError(f"{file}: is no tokenizer of the package tokenizers: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


# ---- encoders by name or place ----


def is_place(encoder: str) -> bool:
    """Return whether the value of `language_encoder` is a folder's path, not a plug-in's name."""
    return "/" in encoder or "\\" in encoder or encoder.startswith((".", "~"))


def open_encoder(encoder: str, table: str | None = None) -> TextEncoder:
    """Return the encoder of that name or folder, opened once in a process.

    `table` is the digest that it must have; a folder that is not there is then looked for by it in ELSEWHERE below
    UNDERSTUDY_HOME. UserError in one line for what is not there, is damaged or is another.
    """
    if is_place(encoder):
        folder = _place(Path(encoder), table)
        found = _of_folder(folder, _stamp(folder))
    else:
        found = _registered(encoder)
    if table is not None and found.digest != table:
        raise UserError(
            f"language_encoder={encoder}: its table of token vectors is another ({found.digest[:12]}) than the one that"
            f" was trained with ({table[:12]}): put that one there"
        )
    return found


def _place(folder: Path, table: str | None) -> Path:
    """Return a folder, or where it lies on a machine that has it elsewhere."""
    elsewhere = home() / ELSEWHERE / (table or "")
    return elsewhere if table and not folder.is_dir() and elsewhere.is_dir() else folder


def _stamp(folder: Path) -> tuple[tuple[int, int], ...]:
    """Return what tells that a folder's files are others than before."""
    if not folder.is_dir():
        raise UserError(
            f"language_encoder={folder}: no folder there; give one with model.safetensors and tokenizer.json, or one of"
            f" {', '.join(text_encoders.names())}"
        )
    return tuple((file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(folder.iterdir()))


@functools.lru_cache(maxsize=4)
def _of_folder(folder: Path, stamp: tuple[tuple[int, int], ...]) -> TokenTable:
    return read_folder(folder)


def _registered(name: str) -> TextEncoder:
    return _made(name, text_encoders.get(name))


@functools.lru_cache(maxsize=4)
def _made(name: str, factory: Any) -> TextEncoder:
    what = f"text encoder {name!r} ({text_encoders.origin(name)})"
    with plug_in_errors(factory):
        made = factory()
        if not isinstance(made, TextEncoder):
            raise UserError(f"{what} gives a {type(made).__name__}, not a TextEncoder")
        tried = np.asarray(made.embed(["pick up the cup", ""]))
    if tried.shape != (2, made.width) or tried.dtype != np.float32 or not np.isfinite(tried).all():
        raise UserError(
            f"{what}: embed() of 2 texts must return finite float32 vectors {[2, made.width]}, not {tried.dtype}"
            f" {list(tried.shape)}"
        )
    return made


# ---- what policies are told ----


@dataclass(frozen=True)
class Told:
    """How a policy is told its task: the encoder of its training, and a text in place of the environment's."""

    encoder: str
    table: str | None = None
    text: str | None = None

    @classmethod
    def of(cls, language: Language) -> Told | None:
        """Return it of an algorithm's settings; None where policies are told no text."""
        place = language.language_encoder
        return None if place is None else cls(place, language.language_table, language.eval_language)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the texts' vectors [N, D]."""
        return open_encoder(self.encoder, self.table).embed(texts)

    def chosen(self, told: str | None) -> str:
        """Return the text that acting goes by, where the environment tells this one; UserError where there is none."""
        text = told if self.text is None else self.text
        if text is None:
            raise UserError(
                "the policy goes by a task's text and is told none (an environment tells it as info['language'] of its"
                " reset): eval_language='pick up the cup', say"
            )
        return text

    def vector(self, told: str | None) -> np.ndarray:
        """Return the vector [D] of the text that acting goes by."""
        return self.embed([self.chosen(told)])[0]


def text_of(info: Mapping[str, Any], env: Any = None) -> str | None:
    """Return the task's text that a reset's `info` or else the environment tells; None where neither does.

    UserError for anything but a text.
    """
    text = info.get(TELLS, getattr(getattr(env, "unwrapped", env), TELLS, None))
    if text is not None and not isinstance(text, str):
        raise UserError(f"an environment's {TELLS} is a text, not a {type(text).__name__}")
    return text
