"""Which embedder an option names, and the two that are not built in.

builtin                 the embedded one
http:MODEL:DIM@URL      any endpoint that speaks OpenAI's /embeddings, whose vectors have DIM numbers; the key is in ENGRAM_EMBEDDER_KEY,
                        or in a file that nobody else can read, which ENGRAM_EMBEDDER_KEY_FILE names
local:PATH              a model in a directory: with model.onnx and tokenizer.json, run by onnxruntime; else one of sentence-transformers
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..protocol.errors import EngramError
from .embedder import Embedder, Floats, StaticEmbedder

BATCH = 64  # texts of one request
SECONDS = 30.0  # for one request
TRIES = 3
FIRST_PAUSE = 0.2  # seconds before the second try; each further one waits twice as long
BROKEN = 3  # failures in a row after which no request is made for a while
REST = 10.0  # seconds
MAX_TOKENS = 512  # of a text that an ONNX model is given
ONNX_BATCH = 16  # texts in one run of it
_HTTP = re.compile(r"http:([^@]+):([1-9][0-9]{0,4})@(https?://.+)")


def made(option: str, env: Mapping[str, str] = os.environ) -> Embedder:
    """The embedder that an option names.

    Raises:
        EngramError: `invalid` for an option that names none, `unavailable` when what it needs is not installed.
    """
    if option == "builtin":
        return StaticEmbedder()
    if match := _HTTP.fullmatch(option):
        return HttpEmbedder(match[1], int(match[2]), match[3], _key(env))
    if option.startswith("local:"):
        return _local(Path(option.removeprefix("local:")))
    raise EngramError("invalid", f"embedder {option!r}: must be builtin, http:MODEL:DIM@URL or local:PATH")


def _key(env: Mapping[str, str]) -> str | None:
    if key := env.get("ENGRAM_EMBEDDER_KEY"):
        return key.strip()
    name = env.get("ENGRAM_EMBEDDER_KEY_FILE")
    if not name:
        return None
    try:
        if stat.S_IMODE(os.stat(name).st_mode) & 0o077:
            raise EngramError("denied", f"{name} can be read by others; do: chmod 600 {name}")
        return Path(name).read_text().strip()
    except OSError as error:
        raise EngramError("invalid", f"ENGRAM_EMBEDDER_KEY_FILE {name}: {error.strerror}") from error


class HttpEmbedder:
    """Asks an endpoint. A request that fails is tried again; after several failures in a row none is made for a while.

    Args:
        pause: waits so many seconds between tries.
    """

    def __init__(self, model: str, dim: int, url: str, key: str | None, pause: Callable[[float], None] = time.sleep) -> None:
        try:
            import httpx
        except ImportError:
            raise EngramError("unavailable", "an embedder behind HTTP needs httpx: pip install 'engram[http]'") from None
        self.name, self.version, self.dim = f"http:{model}", url, dim
        self._model, self._url, self._pause = model, f"{url.rstrip('/')}/embeddings", pause
        if key and not (key.isascii() and key.isprintable()):  # which httpx would say, and the key with it
            raise EngramError("invalid", "the embedder's key must be one line of ASCII characters")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        try:
            read = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise EngramError("invalid", f"embedder {url!r}: {error}") from error
        if not read.host or (read.port or 0) > 65535:
            raise EngramError("invalid", f"embedder {url!r}: there can be no such host and port")
        self._client, self._failure = httpx.Client(timeout=SECONDS, headers=headers), httpx.HTTPError
        self._failures, self._rests_until = 0, 0.0

    def embed(self, texts: Sequence[str]) -> Floats:
        """One row for each text.

        Raises:
            EngramError: `unavailable` when the endpoint does not answer as it should.
        """
        if time.monotonic() < self._rests_until:
            raise EngramError(
                "unavailable", f"the embedder at {self._url} has failed {self._failures} times in a row; it is left alone for now"
            )
        out = np.zeros((len(texts), self.dim), np.float32)
        asked = [at for at, text in enumerate(texts) if text.strip()]
        for start in range(0, len(asked), BATCH):
            part = asked[start : start + BATCH]
            out[part] = self._ask([texts[at] for at in part])
        return _of_length_1(out)

    def _ask(self, texts: list[str]) -> Floats:
        said = ""
        for attempt in range(TRIES):
            if attempt:
                self._pause(FIRST_PAUSE * 2 ** (attempt - 1))
            try:
                answer = self._client.post(self._url, json={"model": self._model, "input": texts})
                answer.raise_for_status()
                rows = self._read(answer.json(), len(texts))
            except (self._failure, ValueError, KeyError, TypeError) as error:
                said = str(error) or type(error).__name__
                continue
            self._failures = 0
            return rows
        self._failures += 1
        if self._failures >= BROKEN:
            self._rests_until = time.monotonic() + REST
        raise EngramError("unavailable", f"the embedder at {self._url} does not answer as it should: {said.splitlines()[0]}")

    def _read(self, answer: Any, count: int) -> Floats:
        rows = np.zeros((count, self.dim), np.float32)
        missing = set(range(count))
        for item in answer["data"]:
            missing.remove(item["index"])
            if len(item["embedding"]) != self.dim:
                raise ValueError(f"an embedding has {len(item['embedding'])} numbers, and not {self.dim}")
            rows[item["index"]] = item["embedding"]
        if missing or not np.isfinite(rows).all():
            raise ValueError(f"{len(missing)} of {count} embeddings are missing" if missing else "an embedding is not of finite numbers")
        return rows


def _local(path: Path) -> Embedder:
    if not path.is_dir():
        raise EngramError("invalid", f"embedder local:{path}: there is no such directory")
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    model = next((file for file in (path / "model.onnx", path / "onnx" / "model.onnx") if file.is_file()), None)
    if model is not None and (path / "tokenizer.json").is_file():
        return OnnxEmbedder(model, path / "tokenizer.json")
    return SentenceEmbedder(path)


class OnnxEmbedder:
    """A model as an ONNX file with its tokenizer; nothing is fetched from anywhere.

    A text's vector is the model's `sentence_embedding`, if it gives one; else the mean of its first output over the text's tokens.

    Raises:
        EngramError: `unavailable` where onnxruntime or tokenizers are not installed, `invalid` for a model that they cannot load.
    """

    def __init__(self, model: Path, tokenizer: Path) -> None:
        try:
            import onnxruntime  # type: ignore[import-not-found, import-untyped, unused-ignore]
            import tokenizers  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise EngramError("unavailable", "a local ONNX model needs onnxruntime and tokenizers: pip install 'engram[local]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
            self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
            self._tokenizer.enable_truncation(MAX_TOKENS)
            self._tokenizer.enable_padding()
            self._takes = {taken.name for taken in self._session.get_inputs()}
            given = [output.name for output in self._session.get_outputs()]
            self._gives = "sentence_embedding" if "sentence_embedding" in given else given[0]
            self.dim = self._run(["dimensions"]).shape[1]
        except Exception as error:  # each library has its own
            raise EngramError("invalid", f"embedder local:{model.parent}: {str(error).splitlines()[0]}") from error
        self.name, self.version = "onnx", hashlib.sha256(model.read_bytes() + tokenizer.read_bytes()).hexdigest()

    def embed(self, texts: Sequence[str]) -> Floats:
        """One row for each text; see `Embedder`."""
        out = np.zeros((len(texts), self.dim), np.float32)
        asked = [at for at, text in enumerate(texts) if text.strip()]
        for start in range(0, len(asked), ONNX_BATCH):
            part = asked[start : start + ONNX_BATCH]
            out[part] = self._run([texts[at] for at in part])
        return _of_length_1(out)

    def _run(self, texts: list[str]) -> Floats:
        read = self._tokenizer.encode_batch(texts)
        mask = np.array([one.attention_mask for one in read], np.int64)
        ids, kinds = (np.array([getattr(one, name) for one in read], np.int64) for name in ("ids", "type_ids"))
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}
        found = self._session.run([self._gives], {name: feeds[name] for name in feeds if name in self._takes})[0]
        if found.ndim == 3:
            found = (found * mask[:, :, None]).sum(axis=1) / np.maximum(mask.sum(axis=1, keepdims=True), 1)
        made: Floats = found.astype(np.float32)
        return made


class SentenceEmbedder:
    """A sentence-transformers model in a directory; nothing is fetched from anywhere."""

    def __init__(self, path: Path) -> None:
        try:
            from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise EngramError(
                "unavailable",
                "a local model that is not ONNX needs sentence-transformers: pip install 'engram[sentence-transformers]'",
            ) from None
        self._model = SentenceTransformer(str(path), local_files_only=True)
        self.name, self.version = "local", str(path.resolve())
        self.dim = int(self._model.get_sentence_embedding_dimension())

    def embed(self, texts: Sequence[str]) -> Floats:
        """One row for each text; see `Embedder`."""
        rows: Floats = np.asarray(self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False), np.float32)
        rows[[not text.strip() for text in texts]] = 0
        return rows


def _of_length_1(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    norms[norms == 0] = 1
    made: Floats = (rows / norms).astype(np.float32)
    return made
