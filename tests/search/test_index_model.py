"""The index against the plain truth: random logs, absorbed in random pieces, with writes, crashes, merges and erasures in between."""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from naive import Ledger, drive, feed, find

from engramd.protocol.errors import EngramError
from engramd.protocol.framing import encode
from engramd.search import index as index_module
from engramd.search import keyword, postings, ranking
from engramd.search.embedder import StaticEmbedder
from engramd.search.index import Index, Wanted
from engramd.storage.leveldb import Damage
from engramd.storage.records import UNIT_REMOVED, UNITS_TRIMMED

WORDS = ["daemon", "lock", "logFile", "x.py", "broken", "pipe", "42", "日本", "socket", "the"]
CONTEXTS, AGENTS, KINDS, LABELS = ["c", "d", "c\x01"], ["a", "b"], ["message", "error"], [("k", "v"), ("k", "w")]
EMBEDDER = StaticEmbedder()

texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
some = lambda options: st.lists(st.sampled_from(options), max_size=2, unique=True)  # noqa: E731


class Machine(RuleBasedStateMachine):
    """A log, and an index that follows it."""

    @initialize()
    def begin(self) -> None:
        self.bits, self.size = postings.SEGMENT_BITS, postings.SEGMENT
        postings.SEGMENT_BITS, postings.SEGMENT = 3, 8
        self.directory = Path(tempfile.mkdtemp(prefix="engram-test-"))
        self.ledger = Ledger()
        self.index = self.open()

    def open(self) -> Index:
        return Index(self.directory, EMBEDDER, "0123456789ab", max(self.ledger.last, 1))

    def teardown(self) -> None:
        self.index.close()
        shutil.rmtree(self.directory)
        postings.SEGMENT_BITS, postings.SEGMENT = self.bits, self.size

    @rule(text=texts, context=st.sampled_from(CONTEXTS), agent=st.sampled_from(AGENTS), kind=st.sampled_from(KINDS), data=st.data())
    def put(self, text: str, context: str, agent: str, kind: str, data: Any) -> None:
        meta = dict(data.draw(some(LABELS)))
        seqs = [unit.seq for unit in self.ledger.units]
        targets = [seq.to_bytes(16) for seq in data.draw(some(seqs))] if seqs else []
        self.ledger.put(text, context, agent, kind, meta, targets)

    @rule(words=st.lists(texts, min_size=5, max_size=20))
    def put_many(self, words: list[str]) -> None:
        for text in words:
            self.ledger.put(text)

    @precondition(lambda self: self.ledger.units)
    @rule(data=st.data(), context=st.sampled_from(CONTEXTS))
    def move(self, data: Any, context: str) -> None:
        unit = data.draw(st.sampled_from(self.ledger.units))
        if context in unit.places:
            self.ledger.remove(unit, context)
        else:
            self.ledger.add(unit, context)

    @rule(part=st.floats(0, 1))
    def absorb_a_part(self, part: float) -> None:
        upto = self.index.covers + round((self.ledger.last - self.index.covers) * part)
        self.index.absorb([event for event in self.ledger.events if event[0] <= upto], upto)

    @rule()
    def flush(self) -> None:
        self.index.flush()

    @precondition(lambda self: self.index.has_chores)
    @rule()
    def chore(self) -> None:
        self.index.do_chore()

    @rule()
    def crash(self) -> None:
        self.index.close()
        self.index = self.open()

    @precondition(lambda self: len(self.index))
    @rule(data=st.data())
    def erase(self, data: Any) -> None:
        units = data.draw(st.lists(st.sampled_from(self.ledger.units), min_size=1, max_size=4, unique_by=lambda unit: unit.seq))
        there = [unit for unit in units if self.index.doc_of(unit.seq) is not None]
        assert self.index.erase([unit.seq for unit in units]) == len(there)
        for unit in there:
            unit.text, unit.meta, unit.targets, unit.places = "", {}, [], {}

    @precondition(lambda self: self.ledger.units)
    @rule(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=4, unique=True), data=st.data(), limit=st.integers(1, 30))
    def search(self, words: list[str], data: Any, limit: int) -> None:
        feed(self.index, self.ledger)
        first = data.draw(st.integers(0, self.ledger.last))
        wanted = Wanted(
            contexts=data.draw(some(CONTEXTS)),
            agents=data.draw(some(AGENTS)),
            types=data.draw(some(KINDS)),
            meta=tuple(data.draw(some(LABELS))),
            related_to=data.draw(st.none() | st.sampled_from([unit.seq.to_bytes(16) for unit in self.ledger.units])),
            first=first,
            last=data.draw(st.integers(first, self.ledger.last + 1) | st.just(2**62)),
        )
        fitting = {unit.seq: unit for unit in self.ledger.fitting(wanted)}
        expected = self.ledger.keyword(" ".join(words), wanted)
        page = find(self.index, self.ledger, " ".join(words), mode="keyword", wanted=wanted, limit=limit)
        by_entry = {entry: unit.seq for unit in self.ledger.units for entry in unit.places.values()}
        assert [hit.score for hit in page.hits] == pytest.approx([score for score, _ in expected[:limit]], rel=1e-5)
        assert {by_entry[hit.seq] for hit in page.hits} <= {seq for _, seq in expected}
        assert page.more == (len(expected) > limit)
        hybrid = find(self.index, self.ledger, " ".join(words), wanted=wanted, limit=100)
        assert {by_entry[hit.seq] for hit in hybrid.hits} <= fitting.keys()
        assert {seq for _, seq in expected[: limit if hybrid.more else None]} <= {by_entry[hit.seq] for hit in hybrid.hits}
        for hit in hybrid.hits:
            entry = [
                place for context, place in fitting[by_entry[hit.seq]].places.items() if not wanted.contexts or context in wanted.contexts
            ]
            assert hit.seq in entry
            assert wanted.first <= hit.seq <= wanted.last

    @invariant()
    def what_is_counted_is_what_is_there(self) -> None:
        if hasattr(self, "index"):
            assert len(self.index) == sum(unit.seq <= self.index.covers for unit in self.ledger.units)


TestIndex = Machine.TestCase
TestIndex.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("count", [1, 3, 10, 50])
@pytest.mark.parametrize("filtered", [False, True])
def test_skipping_common_terms_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, open_index: Any, ledger: Ledger, count: int, filtered: bool
) -> None:
    monkeypatch.setattr(postings, "SEGMENT_BITS", 6)
    monkeypatch.setattr(postings, "SEGMENT", 64)
    rng = np.random.default_rng(count)
    for number in range(400):
        common = ["the", "of", "a"][: rng.integers(1, 4)] * int(rng.integers(1, 4))
        ledger.put(" ".join([*common, *(["rare"] if number % 40 == 0 else []), *(["seldom"] if number % 15 == 0 else [])]))
    index = open_index()
    feed(index, ledger)
    mask = np.arange(400) % 3 == 0 if filtered else None
    wanted = [keyword.Wanted(term, 1.0) for term in (b"the", b"of", b"rare", b"a", b"seldom")]
    scorer = keyword.Scorer(index.postings, index.lengths, index.mean, len(index), wanted)
    everything = scorer.best(400, mask)
    best = scorer.best(count, mask)
    assert best.docs.tolist() == everything.docs[:count].tolist()
    assert best.scores.tolist() == everything.scores[:count].tolist() == scorer.of(best.docs).scores.tolist()


def test_an_entry_that_was_taken_out_before_it_was_absorbed_is_hidden(open_index: Any, ledger: Ledger) -> None:
    """Retention removes removals, too: such an entry comes with a removal of the same seq."""
    hidden, seen = ledger.put("daemon one"), ledger.put("daemon two")
    ledger.events.insert(1, (hidden, UNIT_REMOVED, encode({"entry": hidden})))
    index = open_index()
    feed(index, ledger)
    assert [hit.seq for hit in find(index, ledger, "daemon", mode="keyword").hits] == [seen]
    assert find(index, ledger, "daemon", mode="keyword", wanted=Wanted(last=hidden)).hits == []


def test_pages_meet_without_gap_or_repeat(open_index: Any, ledger: Ledger) -> None:
    for number in range(60):
        ledger.put(f"daemon {number} " + "lock " * (number % 7))
    index = open_index()
    feed(index, ledger)
    for mode in ("keyword", "semantic", "hybrid"):
        whole = find(index, ledger, "daemon lock", mode=mode, limit=60)
        seen, start = [], 0
        while True:
            page = find(index, ledger, "daemon lock", mode=mode, limit=7, start=start, depth=whole.depth)
            seen += page.hits
            start = page.reached
            if not page.more:
                break
        assert [hit.seq for hit in seen] == [hit.seq for hit in whole.hits]
        assert len(seen) == 60


@pytest.mark.parametrize("mode", ["keyword", "semantic", "hybrid"])
def test_an_order_goes_on_to_the_last_that_fits(open_index: Any, ledger: Ledger, mode: str) -> None:
    seqs = {ledger.put(f"daemon {'lock ' * (number % 7)}") for number in range(700)}
    index = open_index()
    feed(index, ledger)
    seen: list[ranking.Hit] = []
    start, depth = 0, 0
    while True:
        page = find(index, ledger, "daemon", mode=mode, limit=90, start=start, depth=depth)
        seen, start, depth = seen + page.hits, page.reached, page.depth
        if not page.more:
            break
    assert (len(seen), {hit.seq for hit in seen}) == (700, seqs)
    worst = seen[-1].score
    for least in (seen[30].score, worst, worst + 1e-6, 1.0):
        fitting = [hit for hit in seen if hit.score >= least]
        page = find(index, ledger, "daemon", mode=mode, limit=1000, min_score=least)
        assert ({hit.seq for hit in page.hits}, page.more) == ({hit.seq for hit in fitting}, False)


@pytest.mark.parametrize("mode", ["keyword", "semantic", "hybrid"])
def test_a_phrase_is_found_however_many_fit_better(open_index: Any, ledger: Ledger, mode: str) -> None:
    for number in range(700):
        ledger.put(f"pipe broken {number}")
    wanted = ledger.put("a much longer text that has the phrase broken pipe far from its beginning, and so is found last of all")
    index = open_index()
    feed(index, ledger)
    page = find(index, ledger, '"broken pipe"', mode=mode)
    assert ([hit.seq for hit in page.hits], page.more) == ([wanted], False)


def test_what_comes_while_texts_are_asked_for_is_not_in_the_order(open_index: Any, ledger: Ledger) -> None:
    """The worker absorbs between two steps of a search, which may then have to be asked deeper."""
    for number in range(400):
        ledger.put(f"pipe broken {number}")
    wanted = ledger.put("a text that has the phrase broken pipe")
    index = open_index()
    feed(index, ledger)

    def texts(seqs: Sequence[int]) -> list[str | None]:
        ledger.put("another broken pipe")
        feed(index, ledger)
        return ledger.texts(seqs[:7])  # and never all that were asked for

    page = drive(ranking.search(index, ranking.Request('"broken pipe"')), texts)
    assert ([hit.seq for hit in page.hits], page.more) == ([wanted], False)


def test_the_nearer_the_best_text_the_more_meaning_counts(open_index: Any, ledger: Ledger) -> None:
    near = ledger.put("a person is slicing an onion with a knife")
    for number in range(30):
        ledger.put(f"someone who is peeling a potato {number}")
    index = open_index()
    feed(index, ledger)
    page = find(index, ledger, "someone who is cutting onions", limit=40)
    shares = ranking.shares_of(max(hit.semantic for hit in page.hits))
    assert page.hits[0].seq == near
    assert shares[1] > ranking.SEMANTIC
    assert sum(shares) == pytest.approx(ranking.KEYWORD + ranking.SEMANTIC)
    for hit in page.hits:
        assert hit.score == pytest.approx(shares[0] * hit.keyword + shares[1] * hit.semantic, abs=1e-5)
    assert ranking.shares_of(0.6) == (ranking.KEYWORD, ranking.SEMANTIC) == ranking.shares_of(0)


def test_types_and_agents_of_a_query_are_alternatives(open_index: Any, ledger: Ledger) -> None:
    seqs = [ledger.put("a daemon", type=type, agent=agent) for type in ("message", "error", "system") for agent in ("a", "b")]
    index = open_index()
    feed(index, ledger)

    def found(query: str) -> list[int]:
        return sorted(hit.seq for hit in find(index, ledger, query).hits)

    assert found("daemon type:message type:error") == seqs[:4]
    assert found("daemon type:message type:error agent:b") == [seqs[1], seqs[3]]
    assert found("daemon -type:message -type:error") == seqs[4:]


def test_phrases_and_exclusions(open_index: Any, ledger: Ledger) -> None:
    texts = ["broken pipe again", "pipe broken", "a broken  PIPE!", "broken_pipe draft", "pipe dream", "broken window"]
    seqs = {text: ledger.put(text) for text in texts}
    index = open_index()
    feed(index, ledger)

    def found(query: str) -> set[str]:
        hits = {hit.seq for hit in find(index, ledger, query, mode="keyword").hits}
        return {text for text, seq in seqs.items() if seq in hits}

    assert found('"broken pipe"') == {texts[0], texts[2], texts[3]}
    assert found('"broken pipe" -draft') == {texts[0], texts[2]}
    assert found("broken pipe") == set(texts)
    assert found('pipe -"broken pipe"') == {texts[1], texts[4]}
    assert found("pipe -broken") == {texts[4]}


@given(st.lists(st.sampled_from(["a", "B", "aB", "_", " ", "-", "1", "abc", "é", "日本", "."]), max_size=12).map("".join), st.data())
def test_a_phrase_is_looked_for_quickly_and_rightly(text: str, data: st.DataObject) -> None:
    atoms = ranking.tokens.atoms(text + " a b")
    start = data.draw(st.integers(0, len(atoms) - 2))
    phrase = tuple(atoms[start : start + data.draw(st.integers(2, 4))])
    there = ranking.tokens.atoms(text)
    expected = any(tuple(there[at : at + len(phrase)]) == phrase for at in range(len(there)))
    assert ranking._Phrase(phrase).is_in(text) == expected


def test_a_page_of_few_matches_says_that_there_is_more(open_index: Any, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "MAX_CHECKED", 100)
    for _ in range(250):
        ledger.put("pipe broken")
    wanted = ledger.put("a much longer text that has the phrase broken pipe far from its beginning, and so is found last of all")
    index = open_index()
    feed(index, ledger)
    start, pages, hits = 0, 0, []
    while True:
        page = find(index, ledger, '"broken pipe"', mode="keyword", start=start)
        pages, start = pages + 1, page.reached
        hits += page.hits
        if not page.more:
            break
    assert ([hit.seq for hit in hits], pages) == ([wanted], 3)


def test_what_was_erased_is_nowhere_on_disk(open_index: Any, ledger: Ledger, tmp_path: Path) -> None:
    ledger.put("the launch code is swordfishes")
    ledger.put("another text")
    index = open_index()
    feed(index, ledger)
    row = bytes(index.vectors._rows()[0].tobytes())
    assert index.erase([1, 99]) == 1
    assert not index.erase([99])
    assert find(index, ledger, "swordfishes").hits == []
    assert index.vocabulary.variants("swordfishe") == []
    index = open_index()
    assert find(index, ledger, "swordfishes").hits == []
    assert row not in (tmp_path / "search" / "vectors").read_bytes()
    for file in (path for path in (tmp_path / "search").rglob("*") if path.is_file()):
        assert b"swordfish" not in file.read_bytes(), file
    assert list(index._store.prefixed(b"w", None)) == [(b"another", b""), (b"text", b"")]
    assert not [key for key, _ in index._store.prefixed(b"p") if b"swordfish" in key]


@pytest.mark.parametrize("least", ["vectors", "index"])
def test_a_disk_that_refuses_writes_costs_no_index(tmp_path: Path, ledger: Ledger, least: str) -> None:
    """A limit on the size of files stands for a full disk: writes are refused, and nothing is damaged."""
    directory = tmp_path / "search"
    index = Index(directory, EMBEDDER)
    for number in range(20):
        ledger.put(f"daemon {number}")
    feed(index, ledger)
    index.flush()
    ledger.put("one more")
    if least == "index":  # the log file of the store is not to grow, the vectors are
        feed(index, ledger)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((directory / "vectors").stat().st_size if least == "vectors" else 1, hard))
    try:
        with pytest.raises(EngramError, match="refused") as caught:
            (index.flush if least == "index" else partial(feed, index, ledger))()
        assert (caught.value.code, isinstance(caught.value, Damage)) == ("storage", False)
        index.close()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
        with pytest.raises(EngramError, match="File too large") as caught:
            Index(directory, EMBEDDER)
        assert not isinstance(caught.value, Damage)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    index = Index(directory, EMBEDDER)
    assert len(index) == 20
    feed(index, ledger)
    assert len(find(index, ledger, "daemon", mode="keyword").hits) == 20
    index.close()


def test_a_damaged_vector_is_noticed_wherever_it_is(open_index: Any, ledger: Ledger, tmp_path: Path) -> None:
    index = open_index()
    for number in range(6):
        ledger.put(f"daemon {number}")
        feed(index, ledger)
        index.flush()
    index.erase([2])
    index.close()
    path = tmp_path / "search" / "vectors"
    whole = path.read_bytes()

    def look() -> None:
        index = Index(tmp_path / "search", EMBEDDER, "0123456789ab")
        try:
            while index.has_chores:
                index.do_chore()
        finally:
            index.close()

    look()
    for row in (0, 3, 5):
        at = row * EMBEDDER.dim
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(Damage, match="damaged"):
            look()


def test_what_retention_removed_is_hidden_and_wears_the_index_out(open_index: Any, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "WORN", 2)
    seqs = [ledger.put(f"daemon {number}") for number in range(6)]
    index = open_index()
    feed(index, ledger)
    for number, seq in enumerate(seqs[:4], 1):
        assert not index.is_worn
        ledger.last += 1
        body = encode({"context": "c", "entries": [[seq, seq.to_bytes(16)]], "removed": [seq]})
        index.absorb([(ledger.last, UNITS_TRIMMED, body)], ledger.last)
        assert {hit.seq for hit in find(index, ledger, "daemon").hits} == set(seqs[number:])
        if number == 2:
            index.flush()
            index = open_index()
    assert index.is_worn
