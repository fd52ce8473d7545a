"""Encoders of task texts: tables of token vectors in folders and in the package wordllama, and what is wrong with them.

Shapes: N texts, V tokens, D numbers of a vector.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from understudy.errors import UserError
from understudy.language import is_place, open_encoder, read_table, scaled

WORDS = ("[UNK]", "go", "to", "the", "left", "right")
TEXTS = ["go to the left", "Go right", "jump", "", "left left right"]
NEEDS_TOKENIZERS = pytest.mark.skipif(
    importlib.util.find_spec("tokenizers") is None, reason="the package tokenizers is not installed (extra `language`)"
)
NEEDS_WORDLLAMA = pytest.mark.skipif(
    importlib.util.find_spec("wordllama") is None, reason="the package wordllama is not installed (extra `language`)"
)


def table(words: int = len(WORDS), width: int = 4) -> np.ndarray:
    """Return token vectors [V, D]."""
    return np.random.default_rng(0).normal(size=(words, width)).astype(np.float32)


def folder(path: Path, **tensors: np.ndarray) -> Path:
    """Write an encoder's folder in Model2Vec's layout: a tokenizer of whole words, and a table."""
    path.mkdir(parents=True, exist_ok=True)
    model = {"type": "WordLevel", "vocab": {word: place for place, word in enumerate(WORDS)}, "unk_token": "[UNK]"}
    parts: dict[str, Any] = dict.fromkeys(("truncation", "padding", "post_processor", "decoder"))
    steps = {"normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}}
    document = {"version": "1.0", "added_tokens": [], **parts, **steps, "model": model}
    (path / "tokenizer.json").write_text(json.dumps(document))
    save_file(tensors or {"embeddings": table()}, path / "model.safetensors")
    return path


@NEEDS_TOKENIZERS
def test_a_texts_vector_is_the_scaled_mean_of_its_known_tokens(tmp_path) -> None:
    encoder = open_encoder(str(folder(tmp_path)))
    vectors, rows = encoder.embed(TEXTS), table()
    assert (vectors.shape, vectors.dtype, encoder.width) == ((5, 4), np.float32, 4)
    for vector, places in zip(vectors, ([1, 2, 3, 4], [1, 5], [], [], [4, 4, 5]), strict=True):
        mean = rows[places].mean(axis=0) if places else np.zeros(4)
        wanted = mean / np.linalg.norm(mean) * 2 if places else mean
        np.testing.assert_allclose(vector, wanted, atol=1e-6)
    assert np.square(vectors[0]).mean() == pytest.approx(1.0, abs=1e-6)
    assert encoder.embed([]).shape == (0, 4)


@NEEDS_TOKENIZERS
def test_a_table_of_groups_of_tokens_is_unfolded(tmp_path) -> None:
    rows, mapping = table(3), np.array([0, 1, 2, 1, 2, 0])
    weights = np.linspace(0.5, 1.5, 6)
    whole = rows[mapping] * weights[:, None].astype(np.float32)
    grouped = folder(tmp_path / "grouped", embeddings=rows, mapping=mapping, weights=weights)
    plain = folder(tmp_path / "plain", embeddings=whole.astype(np.float32))
    first, second = open_encoder(str(grouped)), open_encoder(str(plain))
    np.testing.assert_array_equal(first.embed(TEXTS), second.embed(TEXTS))
    assert first.digest == second.digest


@NEEDS_TOKENIZERS
def test_the_digest_tells_tables_apart_and_a_folder_is_read_again_when_it_changes(tmp_path) -> None:
    first = open_encoder(str(folder(tmp_path)))
    assert open_encoder(str(tmp_path), first.digest) is first
    folder(tmp_path, **{"embedding.weight": table() + 1, "other": table(1)})
    second = open_encoder(str(tmp_path))
    assert second.digest != first.digest
    with pytest.raises(UserError, match=r"its table of token vectors is another \(\w{12}\) than the one"):
        open_encoder(str(tmp_path), first.digest)


@NEEDS_TOKENIZERS
def test_a_folder_that_lies_elsewhere_is_found_by_its_digest(tmp_path, monkeypatch) -> None:
    digest = open_encoder(str(folder(tmp_path / "there"))).digest
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    with pytest.raises(UserError, match="no folder there"):
        open_encoder(str(tmp_path / "gone"), digest)
    (tmp_path / "home/text_encoders").mkdir(parents=True)
    (tmp_path / "home/text_encoders" / digest).symlink_to(tmp_path / "there")
    assert open_encoder(str(tmp_path / "gone"), digest).digest == digest


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"weights": table()}, r"has no table of token vectors .* named embeddings or embedding.weight; it holds weig"),
        ({"embeddings": np.zeros(3, np.float32)}, "has no table of token vectors"),
        ({"embeddings": np.full((6, 4), np.nan, np.float32)}, "its token vectors hold NaN or infinity"),
    ],
)
def test_a_file_without_a_usable_table_is_refused(tmp_path, tensors, said) -> None:
    with pytest.raises(UserError, match=said):
        read_table(folder(tmp_path, **tensors) / "model.safetensors")


def test_a_folder_that_is_no_encoder_is_refused_by_name(tmp_path) -> None:
    with pytest.raises(UserError, match=r"/nowhere: no folder there; give one with .* or one of .*wordllama"):
        open_encoder(str(tmp_path / "nowhere"))
    for name in ("tokenizer.json", "model.safetensors"):
        (folder(tmp_path / name) / name).unlink()
        with pytest.raises(UserError, match=f"has no {name}; a folder holds"):
            open_encoder(str(tmp_path / name))
    (folder(tmp_path / "damaged") / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        open_encoder(str(tmp_path / "damaged"))
    (folder(tmp_path / "words") / "tokenizer.json").write_text("[]")
    with pytest.raises(UserError, match="is no tokenizer of the package tokenizers"):
        open_encoder(str(tmp_path / "words"))


def test_missing_packages_are_a_line_that_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"tokenizers, which is not installed: pip install 'understudy-learn\[lang"):
        open_encoder(str(folder(tmp_path)))
    monkeypatch.setattr("understudy.envs.text_encoders.wordllama.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"wordllama is not installed.*pip install 'understudy-learn\[language\]'"):
        open_encoder("wordllama")


def test_a_value_with_a_slash_or_a_dot_is_a_folder_and_others_are_names() -> None:
    assert all(map(is_place, ("/data/potion", "./potion", "~/potion", "a/b")))
    assert not is_place("wordllama")


def test_vectors_are_scaled_to_a_mean_square_of_one_and_zeros_stay() -> None:
    vectors = scaled(np.array([[3.0, 4.0], [0.0, 0.0]], np.float16))
    np.testing.assert_allclose(vectors, [[0.6 * 2**0.5, 0.8 * 2**0.5], [0, 0]], atol=1e-6)


@pytest.mark.slow
@NEEDS_WORDLLAMA
def test_vectors_are_those_of_wordllamas_own_code() -> None:
    package: Any = importlib.import_module("wordllama")
    inference: Any = importlib.import_module("wordllama.inference")
    root = Path(package.__file__).parent
    tokenizer = package.WordLlama.load_tokenizer(root / "tokenizers/l2_supercat_tokenizer_config.json")
    theirs = inference.WordLlamaInference(read_table(root / "weights/l2_supercat_256.safetensors"), tokenizer)
    texts = ["pass on the left", "Pass on the right!", "go round the left side", "lève le cube 🧊", "拿起方块"]
    ours = open_encoder("wordllama")
    np.testing.assert_allclose(ours.embed(texts), theirs.embed(texts, norm=True) * 16, atol=1e-5)
    assert ours.width == 256
    assert ours.digest == "ae19c1f00e7e0ed63cb2fc48465fdba1"
    similar = ours.embed(["go left", "turn to the left", "turn to the right"]) / 16
    assert similar[0] @ similar[1] > similar[0] @ similar[2]
