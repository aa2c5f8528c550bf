"""Embedders: the built-in one, one behind HTTP, and which one an option names."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from naive import Ledger, find

from engramd.protocol.errors import EngramError
from engramd.search import embedders
from engramd.search.embedder import StaticEmbedder, quantise
from engramd.search.embedders import HttpEmbedder, made
from engramd.search.index import Index


def test_the_built_in_embedder_knows_what_is_alike(embedder: StaticEmbedder) -> None:
    rows = embedder.embed(["open a file for reading", "read from a file", "the weather in spring", "", "日本", "\x00 …"])
    assert (rows.shape, rows.dtype) == ((6, 384), np.float32)
    assert np.linalg.norm(rows, axis=1).tolist() == pytest.approx([1, 1, 1, 0, 0, 0], abs=1e-6)
    assert rows[0] @ rows[1] > 0.5 > 0.3 > rows[0] @ rows[2]


def test_the_built_in_embedder_adds_whole_numbers(embedder: StaticEmbedder) -> None:
    words = ["parse", "getUserName", "naïve", "deadbeefcafebabe" * 20, "parse", "42"]
    one, other = embedder.sums([" ".join(words)])[0], embedder.sums([" ".join(reversed(words))])[0]
    assert one.tolist() == other.tolist() == np.rint(one).tolist(), "the order of words changes nothing at all"
    assert quantise(one[None])[0, :8].tolist() == GOLDEN, "the same numbers on every machine"


GOLDEN = [2, 58, 13, -10, -35, 44, 37, -4]


def test_quantised_rows_keep_their_direction() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 384))
    small = quantise(rows).astype(float)
    cosines = (rows * small).sum(axis=1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(small, axis=1)
    assert cosines.min() > 0.9998
    assert np.abs(small).max(axis=1).tolist() == [127] * 50
    assert not quantise(np.zeros((1, 4))).any()


class Endpoint:
    """An endpoint that speaks `/embeddings`, on this machine.

    Attributes:
        faults: what it answers instead, in turn: a status, or a body.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[str | None] = []
        self.faults: list[int | bytes] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                endpoint.asked.append(asked)
                endpoint.headers.append(self.headers["authorization"])
                fault = endpoint.faults.pop(0) if endpoint.faults else 200
                rows = [{"index": at, "embedding": [len(text), 1.0, 0.0]} for at, text in enumerate(asked["input"])]
                body = fault if isinstance(fault, bytes) else json.dumps({"data": rows[::-1]}).encode()
                self.send_response(fault if isinstance(fault, int) else 200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.server.shutdown()
    made.thread.join()
    made.server.server_close()


def test_an_endpoint_is_asked_in_batches(endpoint: Endpoint) -> None:
    asked = HttpEmbedder("m", 3, endpoint.url, "secret")
    rows = asked.embed(["a" * size for size in range(1, 101)] + ["  "])
    assert rows[99].tolist() == pytest.approx([100 / 10001**0.5 * 1.0, 1 / 10001**0.5, 0], rel=1e-3)
    assert not rows[100].any()
    assert [len(one["input"]) for one in endpoint.asked] == [64, 36]
    assert (endpoint.asked[0]["model"], endpoint.headers[0]) == ("m", "Bearer secret")


def test_a_failing_endpoint_is_tried_again_and_then_left_alone(endpoint: Endpoint) -> None:
    pauses: list[float] = []
    asked = HttpEmbedder("m", 3, endpoint.url, None, pauses.append)
    endpoint.faults = [500, b"no json"]
    assert asked.embed(["a"]).any()
    assert pauses == [0.2, 0.4]
    endpoint.faults = [503] * 9
    for _ in range(3):
        with pytest.raises(EngramError, match="does not answer"):
            asked.embed(["a"])
    count = len(endpoint.asked)
    with pytest.raises(EngramError, match="left alone"):
        asked.embed(["a"])
    assert len(endpoint.asked) == count


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 0, "embedding": [1, 2, 3]}],
        [{"index": 0, "embedding": [1, 2, 3]}] * 2,
        [{"index": 0, "embedding": [1, 2, 3]}, {"index": 2, "embedding": [1, 2, 3]}],
        [{"index": 0, "embedding": [1, 2, 3]}, {"index": -1, "embedding": [1, 2, 3]}],
        [{"index": 0, "embedding": [1, 2, 3]}, {"index": [1], "embedding": [1, 2, 3]}],
        [{"index": 0, "embedding": [1, 2, 3]}, {"index": 1, "embedding": [1, 2]}],
        [{"index": 0, "embedding": [1, 2, 3]}, {"index": 1, "embedding": 7}],
        [{"index": 0, "embedding": [1, 2, 3]}, {"index": 1, "embedding": [[1, 2], 3, 4]}],
        [{"index": 0, "embedding": [1, 2, 3]}, {"index": 1, "embedding": [1, 2, float("nan")]}],
        [{"index": 0, "embedding": [1, 2, 3]}, {"index": 1, "embedding": [1, 2, float("inf")]}],
        [{"index": 0, "embedding": [1, 2, 3]}, {"index": 1, "embedding": [1, 2, "x"]}],
        {"0": 1},
        None,
    ],
)
def test_an_endpoint_that_answers_nonsense_is_as_one_that_does_not(endpoint: Endpoint, data: object) -> None:
    asked = HttpEmbedder("m", 3, endpoint.url, None, lambda _: None)
    endpoint.faults = [json.dumps({"data": data}).encode()] * 3
    with pytest.raises(EngramError, match="does not answer as it should") as caught:
        asked.embed(["a", "b"])
    assert caught.value.code == "unavailable"


def test_while_the_endpoint_is_away_nothing_is_lost(endpoint: Endpoint, tmp_path: Path, ledger: Ledger) -> None:
    asked = HttpEmbedder("m", 3, endpoint.url, None, lambda _: None)
    index = Index(tmp_path / "search", asked)
    endpoint.faults = [500] * 3
    seq = ledger.put("a daemon")
    index.absorb(ledger.events, ledger.last)
    assert (index.stuck, index.wants_flush) == (True, False)
    index.flush()  # as a worker does that ends
    assert index.flushed_docs == 0, "texts without vectors would never get them"
    assert [hit.seq for hit in find(index, ledger, "daemon", mode="keyword").hits] == [seq]
    index.do_chore()
    assert not index.stuck
    assert [hit.seq for hit in find(index, ledger, "monedas", mode="semantic").hits] == [seq]
    index.close()


def test_which_embedder_an_option_names(tmp_path: Path) -> None:
    assert made("builtin").name == "engram-static"
    remote = made("http:text-3:1536@https://example.org/v1", {"ENGRAM_EMBEDDER_KEY": "k"})
    assert (remote.name, remote.dim, remote.version) == ("http:text-3", 1536, "https://example.org/v1")
    for option in (
        "magic",
        "http:m@https://x",
        "http:m:3@ftp://x",
        "http:m:3@http://a:x",
        "http:m:3@http://a:99999999",
        f"local:{tmp_path / 'none'}",
    ):
        with pytest.raises(EngramError) as caught:
            made(option)
        assert caught.value.code == "invalid", option
    key = tmp_path / "key"
    key.write_text("secret\n")
    key.chmod(0o644)
    with pytest.raises(EngramError, match="chmod 600"):
        made("http:m:3@http://localhost", {"ENGRAM_EMBEDDER_KEY_FILE": str(key)})
    key.chmod(0o600)
    assert embedders._key({"ENGRAM_EMBEDDER_KEY_FILE": str(key)}) == "secret"
    assert embedders._key({"ENGRAM_EMBEDDER_KEY": "secret\n"}) == "secret"
    for secret in ("two\nlines", "schlüssel"):
        with pytest.raises(EngramError, match="one line of ASCII") as caught:
            made("http:m:3@http://localhost", {"ENGRAM_EMBEDDER_KEY": secret})
        assert secret not in caught.value.message


def test_an_onnx_model_in_a_directory(tmp_path: Path, ledger: Ledger) -> None:
    """With a model that is made here: each token's row of a table, as a transformer gives one row for each token."""
    onnx, tokenizers = pytest.importorskip("onnx"), pytest.importorskip("tokenizers")
    pytest.importorskip("onnxruntime")
    table = np.array([[0, 0, 0], [9, 9, 9], [1, 0, 0], [0, 2, 0], [0, 1, 0]], np.float32)
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
        "rows",
        [helper.make_tensor_value_info("input_ids", kinds.INT64, ["b", "n"])],
        [helper.make_tensor_value_info("last_hidden_state", kinds.FLOAT, ["b", "n", 3])],
        [onnx.numpy_helper.from_array(table, "table")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "model.onnx")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 1, "[UNK]": 0, "daemon": 2, "server": 3, "process": 4}, "[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    asked = made(f"local:{tmp_path}")
    assert (asked.name, asked.dim, len(asked.version)) == ("onnx", 3, 64)
    rows = asked.embed(["daemon process", "", "server", "nothing known", *["daemon"] * 40])
    assert rows[0].tolist() == pytest.approx([0.5**0.5, 0.5**0.5, 0])
    assert (rows[1].tolist(), rows[2].tolist(), rows[3].tolist(), rows[43].tolist()) == ([0] * 3, [0, 1, 0], [0] * 3, [1, 0, 0])
    index = Index(tmp_path / "search", asked)
    wanted = [ledger.put("server"), ledger.put("daemon")][0]
    index.absorb(ledger.events, ledger.last)
    assert [hit.seq for hit in find(index, ledger, "process", mode="semantic").hits] == [wanted]
    index.close()
    (tmp_path / "model.onnx").write_bytes(b"rubbish")
    with pytest.raises(EngramError) as caught:
        made(f"local:{tmp_path}")
    assert caught.value.code == "invalid"


def test_another_embedder_makes_the_index_anew(tmp_path: Path, embedder: StaticEmbedder, endpoint: Endpoint, ledger: Ledger) -> None:
    ledger.put("a daemon")
    index = Index(tmp_path / "search", embedder, "h", 9)
    index.absorb(ledger.events, ledger.last)
    index.flush()
    index.close()
    for other, history, last, kept in ((embedder, "h", 9, 1), (embedder, "h", 0, 0), (embedder, "other", 9, 0)):
        index = Index(tmp_path / "search", other, history, last)
        assert (len(index), index.covers) == (kept, kept), (history, last)
        index.absorb(ledger.events, ledger.last)
        index.flush()
        index.close()
    index = Index(tmp_path / "search", HttpEmbedder("m", 3, endpoint.url, None), "other", 9)
    assert len(index) == 0
    index.close()
