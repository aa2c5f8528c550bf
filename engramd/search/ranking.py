"""From a query to hits: what is asked of the parts, and how what they answer becomes one order."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import query as queries
from . import tokens
from .columns import distinct
from .index import EVERYTHING, Index, Mask, Wanted, all_of
from .keyword import Scorer, idf
from .keyword import Wanted as Term
from .query import Query
from .snippets import Snippet, snippet

KEYWORD, SEMANTIC, WHOLE = 0.45, 0.35, 0.2  # shares of a hybrid score: the parts, and having all that was asked for (docs/adr/0021)
NEAR = 0.6  # cosine of the best text beyond which meaning counts more, and words as much less (docs/adr/0025):
NEARER = 1.2  # by so many times what it is beyond
MOST_MOVED = 0.25  # and at most this
LEAST_COSINE = 0.2  # a text that is less like the query, and has none of its words, is no hit
DEPTH = 128  # units that each part gives to the beginning of an order
DEEP = 1024  # the same, where more hits are asked for
DEEPER = 8  # so many times deeper each part is asked where that was not enough
MAX_CHECKED = 2048  # units whose text is compared with phrases for one page
STEP_TEXTS = 64  # texts asked for at once
MEMORY = 32  # searches whose order is remembered
MEMORY_DOCS = 1_000_000  # in all of them; the last one is remembered even if it has more
PREFIX_TERMS = 8  # hashes that the start of one may stand for

Floats = NDArray[np.float32]
Docs = NDArray[np.int64]


@dataclass(frozen=True)
class Request:
    """A search, as the daemon asks for it.

    Attributes:
        wanted: which units.
        start: how many of the order to pass over.
        depth: how deep a hybrid order goes; 0 lets this page decide, and later ones must repeat it.
    """

    query: str
    mode: str = "hybrid"
    wanted: Wanted = EVERYTHING
    limit: int = 20
    start: int = 0
    depth: int = 0
    min_score: float | None = None


class Hit(NamedTuple):
    """A unit that was found. `rank` is its place in the whole order, from 1; `seq` is that of the entry by which it fits."""

    seq: int
    rank: int
    score: float
    keyword: float
    semantic: float
    snippet: Snippet


class Page(NamedTuple):
    """Hits in order; `reached` is how much of the order was looked at, `more` whether there is more of it."""

    hits: list[Hit]
    reached: int
    more: bool
    depth: int


class Order(NamedTuple):
    """Docs, best first, with their scores and those of the parts; and the most that what is not in it can score, 0 if there is nothing."""

    docs: Docs
    scores: Floats
    keyword: Floats
    semantic: Floats
    rest: float

    def and_then(self, other: Order) -> Order:
        """This order, and behind it what another has besides."""
        at = np.flatnonzero(~np.isin(other.docs, self.docs))
        docs = np.concatenate([self.docs, other.docs[at]])
        scores, keyword, semantic = (np.concatenate([ours, theirs[at]]) for ours, theirs in zip(self[1:4], other[1:4], strict=True))
        return Order(docs, scores, keyword, semantic, other.rest)

    def over(self, least: float) -> Order:
        """What of it scores at least so much."""
        at = np.flatnonzero(self.scores >= least)
        scores, keyword, semantic = (part[at] for part in self[1:4])
        return Order(self.docs[at], scores, keyword, semantic, self.rest if self.rest >= least else 0.0)


Texts = Sequence[str | None]


class Memory:
    """The orders of the last searches. Who asks for the next page goes on in the order that the first was of, whatever was put since."""

    def __init__(self) -> None:
        self._orders: OrderedDict[Any, tuple[Order, int]] = OrderedDict()

    def order(self, key: Any, count: int, depth: int, make: Callable[[int], Order]) -> Order:
        """The order of a search, at least `count` long if there is so much. It begins with what parts give that are asked `depth` deep,
        and goes on with what they give when asked deeper; what is remembered of it stands."""
        order, depth = self._orders.pop(key, (None, depth))
        while order is None or (len(order.docs) < count and order.rest > 0):
            order, depth = make(depth) if order is None else order.and_then(make(depth)), depth * DEEPER
        self._orders[key] = order, depth
        while len(self._orders) > MEMORY or (len(self._orders) > 1 and self._docs() > MEMORY_DOCS):
            self._orders.popitem(last=False)
        return order

    def _docs(self) -> int:
        return sum(len(order.docs) for order, _ in self._orders.values())


def search(index: Index, request: Request, memory: Memory | None = None) -> Generator[list[int], Texts, Page]:
    """Find a page of hits. Yields seqs of entries whose units' texts it must be sent: None for one that is no more; at least one text,
    and where they are large perhaps not all. The index may absorb more in the meantime.

    Raises:
        EngramError: `invalid` for a query that cannot be read.
    """
    query = queries.parse(request.query)
    depth = min(request.depth, DEEP) or (DEPTH if request.start + request.limit < DEPTH else DEEP)
    request = replace(request, wanted=request.wanted._replace(upto=min(request.wanted.upto, index.covers)))
    ranked = _Ranking(index, query)

    def make(depth: int) -> Order:
        nonlocal ranked
        if ranked.covers != index.covers:
            ranked = _Ranking(index, query)
        order = ranked.order(request.mode, _mask(index, request.wanted, query), depth)
        return order if request.min_score is None else order.over(request.min_score)

    key, memory = _key(request, depth), memory or Memory()
    phrases, not_phrases = ([_Phrase(phrase) for phrase in some if len(phrase) > 1] for some in (query.phrases, query.not_phrases))
    checks = phrases or not_phrases
    hits: list[Hit] = []
    at, last, more = request.start, request.start + MAX_CHECKED, True
    while more and at < last and len(hits) < request.limit:
        stop = min(last, at + (STEP_TEXTS if checks else min(STEP_TEXTS, request.limit - len(hits))))
        order = memory.order(key, stop + 1, depth, make)
        seqs = [index.entry(int(doc), request.wanted) for doc in order.docs[at:stop]]
        texts = (yield seqs) if seqs else []
        for place, seq, text in zip(range(at, stop), seqs, texts, strict=False):
            at = place + 1
            if text is None or not all(phrase.is_in(text) for phrase in phrases) or any(phrase.is_in(text) for phrase in not_phrases):
                continue
            score, keyword, semantic = (float(part[place]) for part in order[1:4])
            hits.append(Hit(seq, at, score, keyword, semantic, snippet(text, ranked.weights)))
            if len(hits) == request.limit:
                break
        more = at < len(order.docs)
    return Page(hits, at, more, depth)


def _key(request: Request, depth: int) -> Any:
    """What tells an order from others."""
    wanted = request.wanted
    filters = tuple(wanted.contexts), tuple(wanted.agents), tuple(wanted.types), tuple(wanted.meta), wanted.related_to
    return request.query, request.mode, depth, request.min_score, filters, wanted.first, wanted.last, wanted.upto


class _Phrase:
    """Words next to each other, to be looked for in texts."""

    def __init__(self, atoms: tuple[str, ...]) -> None:
        self._atoms = atoms
        self._look = re.compile("[^0-9A-Za-z]*".join(map(re.escape, atoms)), re.IGNORECASE)

    def is_in(self, text: str) -> bool:
        """Whether a text has it. Most have not, and are not read word by word."""
        if text.isascii() and not self._look.search(text):
            return False
        atoms, size = tokens.atoms(text), len(self._atoms)
        return any(atoms[at] == self._atoms[0] and tuple(atoms[at : at + size]) == self._atoms for at in range(len(atoms) - size + 1))


def _mask(index: Index, wanted: Wanted, query: Query) -> Mask | None:
    """Which docs may be found at all; None for all."""
    parts = [index.fitting(_fields(query.fields))] if query.fields else []
    parts += [~index.fitting(_fields([field])) for field in query.not_fields]
    for phrase in query.phrases:
        parts += [index.having(atom.encode()) for atom in set(phrase)]
    parts += [~index.having(phrase[0].encode()) for phrase in query.not_phrases if len(phrase) == 1]
    base = index.mask(wanted)
    if base is not None:
        parts.append(base)
    return all_of(parts) if parts else None


def _fields(fields: Sequence[tuple[str, str]]) -> Wanted:
    """What a query's fields ask for: as options do, one of the types, one of the agents, all of the labels."""
    labels = [value.partition("=") for name, value in fields if name == "meta"]
    return Wanted(
        types=[value for name, value in fields if name == "type"],
        agents=[value for name, value in fields if name == "agent"],
        meta=[(key, label) for key, _, label in labels],
    )


class _Ranking:
    """The order that a query gives.

    Attributes:
        covers: of the index as it was.
        weights: the terms that were looked for and what each counts, for snippets.
    """

    def __init__(self, index: Index, query: Query) -> None:
        self._index = index
        self.covers = index.covers
        self._text = query.words
        self._asked = [_meant(index, term, times) for term, times in _terms(index, query.words)]
        weights: dict[str, float] = {}
        for asked in self._asked:
            for term, weight in asked.terms.items():
                weights[term] = max(weights.get(term, 0.0), weight)
        self._most = max(sum(asked.most for asked in self._asked), 1e-9)
        wanted = [Term(term.encode(), weight) for term, weight in weights.items()]
        self._scorer = Scorer(index.postings, index.lengths, index.mean, len(index), wanted)
        self.weights = {term: weight * part for (term, weight), part in zip(weights.items(), self._scorer.idf, strict=True)}

    def order(self, mode: str, mask: Mask | None, depth: int) -> Order:
        """The order of what the parts find that are asked so deep."""
        if mask is not None and not mask.any():
            nothing = np.zeros(0, np.float32)
            return Order(np.zeros(0, np.int64), nothing, nothing, nothing, 0.0)
        if mode == "keyword":
            found = self._scorer.best(depth, mask)
            scores = found.scores / np.float32(self._most)
            return Order(found.docs, scores, scores, np.zeros(len(scores), np.float32), _last(scores, depth))
        vectors = self._index.vectors
        near = vectors.nearest(self._vector, depth, mask, LEAST_COSINE)
        if mode == "semantic":
            return Order(near.docs, near.cosines, np.zeros(len(near.docs), np.float32), near.cosines, _last(near.cosines, depth))
        found = self._scorer.best(depth, mask)
        docs = distinct(np.concatenate([found.docs, near.docs]))
        looked = self._scorer.of(docs)
        keyword = looked.scores / np.float32(self._most)
        semantic = _known(docs, near.docs, near.cosines)
        other = np.isnan(semantic)
        semantic[other] = vectors.of(self._vector, docs[other])
        shares = shares_of(float(near.cosines[0]) if len(near.cosines) else 0.0)
        scores = fuse(keyword, semantic, self._has_all(looked.has), shares)
        ranks = np.lexsort((-docs, -scores))
        worst = _last(found.scores / np.float32(self._most), depth)
        rest = shares[0] * worst + shares[1] * _last(near.cosines, depth) + WHOLE * (worst > 0)
        return Order(docs[ranks], scores[ranks], keyword[ranks], semantic[ranks], rest)

    @cached_property
    def _vector(self) -> Floats:
        vector: Floats = self._index.embedder.embed([self._corrected()])[0]
        return vector

    def _has_all(self, has: Mask) -> Mask:
        """Which docs have every term of the query, or one that it may stand for, where `has` says which have which."""
        row_of = {term: row for row, term in enumerate(self.weights)}
        out = np.ones(has.shape[1], np.bool_)
        for asked in self._asked:
            rows = [row_of[term] for term in asked.terms]
            out &= has[rows].any(axis=0) if rows else False
        return out

    def _corrected(self) -> str:
        """The query's text with the words that nobody has ever used replaced by those that they most likely stand for."""
        instead = {asked.term: max(asked.terms, key=lambda term: asked.terms[term]) for asked in self._asked if asked.stands_for}
        if not instead:
            return self._text
        words = []
        for chunk in tokens.chunks(self._text):
            atoms = tokens.read(chunk).atoms
            words.append(" ".join(instead.get(atom, atom) for atom in atoms) if instead.keys() & set(atoms) else chunk)
        return " ".join(words)


def shares_of(nearest: float) -> tuple[float, float]:
    """What words and meaning count, where the best text is so near: one that says nearly the same in other words is to be found by that."""
    moved = min(NEARER * max(nearest - NEAR, 0.0), MOST_MOVED)
    return KEYWORD - moved, SEMANTIC + moved


def fuse(keyword: Floats, semantic: Floats, whole: NDArray[np.bool_], shares: tuple[float, float]) -> Floats:
    """One score from those of the parts, for docs of which `whole` says whether they have all that was asked for."""
    scores: Floats = (np.float32(shares[0]) * keyword + np.float32(shares[1]) * np.maximum(semantic, 0)).astype(np.float32)
    scores += np.float32(WHOLE) * whole.astype(np.float32)
    return scores


def _known(docs: Docs, found: Docs, scores: Floats) -> Floats:
    """The scores of docs that were found, and NaN for the others. `docs` is sorted and has all that were found."""
    out = np.full(len(docs), np.nan, np.float32)
    out[np.searchsorted(docs, found)] = scores
    return out


def _last(scores: Floats, depth: int) -> float:
    """The most that can score what a part would find if asked deeper."""
    return float(scores[-1]) if len(scores) == depth else 0.0


class _Asked(NamedTuple):
    """A term of the query, and what is looked for.

    Attributes:
        terms: what is looked for with its weight: the term itself, or if nobody has ever used it those that it may stand for.
        most: the most that a text can score by it.
    """

    term: str
    terms: dict[str, float]
    most: float

    @property
    def stands_for(self) -> bool:
        """Whether something else is looked for in its place."""
        return bool(self.terms) and self.term not in self.terms


def _terms(index: Index, words: str) -> Iterator[tuple[str, int]]:
    """The terms of a query that count, and how often each occurs. Whole chunks that nobody has ever used count by their atoms alone."""
    counts, _ = tokens.count(words)
    atoms = set(tokens.atoms(words))
    for term, times in counts.items():
        if term in atoms or index.having_count(term.encode()):
            yield term, times


def _meant(index: Index, term: str, times: int) -> _Asked:
    docs, having = len(index), index.having_count(term.encode())
    if having:
        return _Asked(term, {term: float(times)}, times * idf(docs, having))
    alike = dict(_alike(index, term))
    if not alike:
        return _Asked(term, {}, times * idf(docs, 0))
    most = max(similarity * idf(docs, index.having_count(other.encode())) for other, similarity in alike.items())
    return _Asked(term, {other: times * similarity for other, similarity in alike.items()}, times * most)


def _alike(index: Index, term: str) -> Iterator[tuple[str, float]]:
    """Terms that one which is nowhere may stand for, and how much each counts."""
    started = index.starting(term, PREFIX_TERMS) if tokens.is_hash(term) else []
    for other in started:
        yield other, 0.9
    for variant in [] if started else index.vocabulary.variants(term):
        yield variant.word, variant.similarity**2


def request_of(fields: dict[str, Any]) -> Request:
    """A request as it travels from the daemon."""
    wanted = Wanted(**{**fields.pop("wanted", {})})
    return Request(wanted=wanted._replace(meta=[(key, value) for key, value in wanted.meta]), **fields)
