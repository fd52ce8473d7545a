"""WordLlama's table of 32,000 token vectors of 256 numbers, from the package of that name, which holds its weights.

The vectors are those of its own `WordLlama.load().embed(texts, norm=True)`, times 16; its code is not imported.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from understudy.errors import UserError
from understudy.language import TokenTable, read_table
from understudy.registry import text_encoders

WEIGHTS = "weights/l2_supercat_256.safetensors"
TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"


@text_encoders.register("wordllama")
def wordllama() -> TokenTable:
    """Return the encoder; UserError, with what to install, where the package or its files are not here."""
    spec = find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "language_encoder=wordllama: the package wordllama is not installed, which holds the table: pip install"
            " 'understudy-learn[language]', or give a folder with model.safetensors and tokenizer.json"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    for name in (WEIGHTS, TOKENIZER):
        if not (folder / name).is_file():
            raise UserError(f"language_encoder=wordllama: {folder / name} is missing: install wordllama==0.4.0.post1")
    return TokenTable(read_table(folder / WEIGHTS), folder / TOKENIZER)
