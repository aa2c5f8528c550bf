"""Tokenizers from files: what can be read counts, and what cannot says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engramd.protocol.errors import EngramError
from engramd.search.tokenizers import opened

WORDS = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "lock": 1}, "unk_token": "[UNK]"},
}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngramError) as refused:
        opened(tmp_path / "tokenizer.json")
    assert (refused.value.code, refused.value.message) == ("invalid", f"tokenizer {tmp_path}/tokenizer.json: No such file or directory")


@pytest.mark.parametrize("name", ["tokenizer.json", "cl100k_base.tiktoken", "other.tiktoken"])
def test_a_file_that_is_none_or_a_library_that_is_missing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("nonsense")
    with pytest.raises(EngramError) as refused:
        opened(tmp_path / name)
    assert refused.value.code in ("invalid", "unavailable")
    assert str(tmp_path / name) in refused.value.message


def test_a_tokenizer_counts(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(WORDS))
    made = opened(path)
    assert made.count("the lock , the lock") == 5
    assert made.name.startswith("tokenizers:")
    path.write_text(json.dumps({**WORDS, "version": "1.0", "model": {**WORDS["model"], "vocab": {"[UNK]": 0}}}))
    assert opened(path).name != made.name
