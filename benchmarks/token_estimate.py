"""How far the built-in estimate of tokens is from what real tokenizers count, by kind of text.

    python -m benchmarks.token_estimate FILE...

Each FILE is a `tokenizer.json` of the `tokenizers` library, or a `.tiktoken` file of ranks (whose pattern is taken to be that of its name,
cl100k or o200k). Prints, for each kind of text and file: the estimate divided by the real count, over texts of about a kilobyte; the
whole, and the tenth and the ninetieth percentile of single texts.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import random
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from engramd.search.tokenizers import opened
from engramd.state.sizes import estimate

from .options import run_main

CHARS = 1000
TEXTS = 150  # of a kind

CHINESE = """解析器在遇到空文件时返回空列表，这样调用方就不需要检查文件是否存在。
昨天的部署失败了，因为数据库的连接池已经用完，我们把上限提高到了两百。
请先运行全部测试，然后再合并这个分支；如果有一个失败，就把日志贴到这里。
守护进程在写入磁盘之后才会回答客户端，所以已经确认的数据不会丢失。
这个函数的性能瓶颈在于每次循环都重新编译正则表达式，把它移到外面就好了。
用户反馈说搜索结果的顺序不稳定，我怀疑是浮点数求和的次序造成的。
我已经阅读了设计文档，下一步是把锁的超时时间改成可以配置的选项。"""
JAPANESE = """パーサーは空のファイルに対して空のリストを返すようになりました。
昨日のデプロイは失敗しました。データベースの接続が足りなかったためです。
すべてのテストを実行してから、このブランチをマージしてください。
デーモンはディスクに書き込んだ後でだけクライアントに応答するので、確認されたデータは失われません。
この関数が遅いのは、ループのたびに正規表現をコンパイルし直しているからです。
検索結果の順番が安定しないという報告がありました。浮動小数点の足し算の順序が原因だと思います。
設計書を読みました。次はロックのタイムアウトを設定できるようにします。"""
RUSSIAN = """Парсер теперь возвращает пустой список, если файл пуст.
Вчерашнее развёртывание не удалось: закончились соединения с базой данных.
Сначала запустите все тесты, а потом сливайте эту ветку.
Демон отвечает клиенту только после записи на диск, поэтому подтверждённые данные не теряются."""
EMOJI = """✅ build passed 🎉 all 214 tests green 🟢
❌ deploy failed 🔥 rolling back ⏪ see thread 🧵👇
👩‍💻 working on the parser 🚧 don't touch 🙏🏽
🚀 shipped 1.4 🥳🥳🥳 thanks team ❤️ 🇪🇺🇯🇵"""


def pieces(text: str) -> Iterator[str]:
    """A long text in parts of about a kilobyte, cut at the ends of lines."""
    part = ""
    for line in text.splitlines(keepends=True):
        part += line
        if len(part) >= CHARS:
            yield part
            part = ""


def sources() -> list[str]:
    """Modules of the standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return [path.read_text(errors="replace") for path in sorted(root.glob("*.py")) if path.stat().st_size > 4000][:100]


def prose(rng: random.Random) -> Iterator[str]:
    """Documentation of the standard library, without code."""
    for source in sources():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)) and len(text) > 300:
                yield text[:CHARS]


def code(rng: random.Random) -> Iterator[str]:
    """Python."""
    for source in sources():
        yield from pieces(source)


def shuffled(lines: str) -> Callable[[random.Random], Iterator[str]]:
    """Texts of some lines in random order."""

    def texts(rng: random.Random) -> Iterator[str]:
        for _ in range(TEXTS):
            chosen = lines.splitlines(keepends=True)
            rng.shuffle(chosen)
            yield "".join(line if line.endswith("\n") else line + "\n" for line in chosen)

    return texts


def jsons(rng: random.Random) -> Iterator[str]:
    """Work units as JSON lines."""
    words = " ".join(sources()[:5]).split()
    for _ in range(TEXTS):
        lines = []
        for _ in range(4):
            text = " ".join(rng.choices(words, k=12))
            unit = {
                "id": f"{rng.getrandbits(128):032x}",
                "seq": rng.randrange(10**6),
                "ts": "2026-01-02T03:04:05.678901Z",
                "type": "message",
            }
            lines.append(json.dumps({**unit, "meta": {"path": "src/parser.py"}, "text": text, "relationships": []}))
        yield "\n".join(lines) + "\n"


def logs(rng: random.Random) -> Iterator[str]:
    """Lines of logs with times, hashes, addresses and numbers."""
    for _ in range(TEXTS):
        lines = []
        for _ in range(10):
            sha = hashlib.sha1(str(rng.random()).encode()).hexdigest()
            host, took, level = (
                f"10.0.{rng.randrange(256)}.{rng.randrange(256)}",
                rng.random() * 1000,
                rng.choice(("INFO", "WARN", "ERROR")),
            )
            lines.append(
                f"2026-01-02 03:04:05,{rng.randrange(1000):03} {level} [{host}:{rng.randrange(65536)}] commit {sha} took {took:.3f} ms"
            )
        yield "\n".join(lines) + "\n"


def paths(rng: random.Random) -> Iterator[str]:
    """Paths of files."""
    found = [str(path) for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))]
    for _ in range(TEXTS):
        yield "\n".join(rng.choices(found, k=14)) + "\n"


def blobs(rng: random.Random) -> Iterator[str]:
    """Base64."""
    for _ in range(TEXTS):
        yield base64.encodebytes(rng.randbytes(700)).decode()


def hexes(rng: random.Random) -> Iterator[str]:
    """Hexadecimal digits."""
    for _ in range(TEXTS):
        yield "\n".join(rng.randbytes(32).hex() for _ in range(14)) + "\n"


KINDS: dict[str, Callable[[random.Random], Iterator[str]]] = {
    "English prose": prose,
    "Python": code,
    "JSON lines": jsons,
    "logs with hashes": logs,
    "paths": paths,
    "base64": blobs,
    "hashes": hexes,
    "Chinese": shuffled(CHINESE),
    "Japanese": shuffled(JAPANESE),
    "Russian": shuffled(RUSSIAN),
    "emoji": shuffled(EMOJI),
}


def texts_of(kind: str) -> list[str]:
    """The texts of a kind, always the same on one version of Python."""
    rng = random.Random(7)
    found = list(KINDS[kind](rng))
    rng.shuffle(found)
    return found[:TEXTS]


def main(files: list[str]) -> None:
    """Print the table."""
    print("| kind of text | " + " | ".join(Path(file).name for file in files) + " |")
    print("|---" * (len(files) + 1) + "|")
    counters = [opened(Path(file)).count for file in files]
    for kind in KINDS:
        texts = texts_of(kind)
        guesses, cells = [estimate(text) for text in texts], []
        for count in counters:
            real = [count(text) for text in texts]
            each = sorted(guess / one for guess, one in zip(guesses, real, strict=True))
            cells.append(f"{sum(guesses) / sum(real):.2f} ({each[len(each) // 10]:.2f} to {each[-len(each) // 10]:.2f})")
        print(f"| {kind} | " + " | ".join(cells) + " |")
    text = "".join(sources())
    size, began = estimate(text), time.perf_counter()
    estimate(text)
    print(f"\nestimating 32,000 tokens takes {(time.perf_counter() - began) / size * 32e6:.2f} ms")


if __name__ == "__main__":
    run_main("benchmarks.token_estimate", lambda: main(sys.argv[1:]))
