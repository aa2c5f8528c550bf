"""A reader that follows sees everything once and in order, whatever becomes of the daemon meanwhile."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import pytest
from commandline import PATIENCE, Shell, until

from engram_cli.client import Client, EngramError

CONTEXT = "work"


class Writers:
    """Threads that put one unit after the other, and repeat what they do not know the outcome of."""

    def __init__(self, shell: Shell, count: int) -> None:
        self.acknowledged: dict[str, int] = {}
        self._shell = shell
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=[f"writer {number}"], daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _write(self, name: str) -> None:
        number = 0
        with Client(str(self._shell.socket), agent=name, autostart=False, timeout=PATIENCE) as client:
            while not self._enough.is_set():
                text = f"{name} {number}"
                try:
                    made = client.put(CONTEXT, text, dedupe=text)
                except EngramError as error:
                    if error.code not in ("unavailable", "outcome_unknown"):
                        raise
                    self._enough.wait(0.02)
                    continue
                self.acknowledged[text] = made.seq
                number += 1

    def expect(self, more: int) -> None:
        """Wait until so many more puts were acknowledged."""
        wanted = len(self.acknowledged) + more
        until(lambda: len(self.acknowledged) >= wanted, f"{more} more puts")

    def stop(self) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def restart(shell: Shell) -> None:
    shell.run("daemon", "restart")


def kill_and_use(shell: Shell) -> None:
    """No warning; the next command starts the daemon again."""
    shell.kill_daemon()
    shell.put(CONTEXT, "by the command that started it")


@pytest.mark.parametrize("interrupt", [restart, kill_and_use])
def test_readers_go_on_without_gap_or_repeat(alone: Shell, interrupt: Callable[[Shell], None]) -> None:
    alone.put(CONTEXT, "first")
    writers = Writers(alone, 3)
    try:
        writers.expect(20)
        readers = [alone.reader("--after", "0", CONTEXT), alone.reader("--json", "--after", "0"), alone.reader("--events", "--after", "0")]
        for _ in range(2):
            writers.expect(50)
            interrupt(alone)
        writers.expect(50)
    finally:
        writers.stop()
    listed = alone.ok("list", CONTEXT)
    for reader in readers[:2]:
        reader.expect_lines(len(listed.lines))
    last = listed.seqs[-1]
    readers[2].expect(lambda lines: any(line.startswith(f"{last}\t") for line in lines), "the last unit")  # presence may be told after it
    assert readers[0].lines == listed.lines
    assert [unit["seq"] for unit in readers[1].objects] == listed.seqs
    assert [int(line.split("\t")[0]) for line in readers[2].lines][:last] == list(range(1, last + 1))
    texts = dict(zip(listed.texts, listed.seqs, strict=True))
    assert {text: texts[text] for text in writers.acknowledged} == writers.acknowledged
    written = [text for text in listed.texts if text.startswith("writer")]
    assert len(set(written)) == len(written)
    assert all(reader.process.poll() is None and not reader.errors for reader in readers)


def test_a_reader_never_starts_a_daemon_and_gives_up_when_told_to(served: Shell) -> None:
    served.client().put(CONTEXT, "x")
    patient = served.reader(CONTEXT)
    impatient = served.reader(CONTEXT, "--timeout", "0.7")
    for reader in (patient, impatient):
        reader.expect_lines(1)
    served.kill_daemon()
    assert impatient.wait() == 124
    assert "0.7 s" in impatient.errors[0]
    assert served.daemon_pid() is None
    assert patient.process.poll() is None
    patient.signal(signal.SIGINT)
    assert patient.wait() == -signal.SIGINT


def test_a_reader_that_has_seen_nothing_yet_goes_on_too(served: Shell) -> None:
    served.put("other", "x")
    reader = served.reader("-n", "0", CONTEXT)
    served.kill_daemon()
    served.daemon()
    served.put(CONTEXT, "first")
    assert reader.expect_lines(1)[0].endswith("\tfirst")


def test_a_slow_reader_gets_everything_in_the_end(served: Shell) -> None:
    client = served.client()
    client.put(CONTEXT, "first")
    reader = served.reader("--after", "0", "--json", CONTEXT)
    reader.expect_lines(1)
    reader.signal(signal.SIGSTOP)
    for start in range(0, 3000, 500):  # 6 MB, more than anyone keeps in memory for it
        client.put_many(CONTEXT, [{"text": f"{start + number} {'x' * 2000}"} for number in range(500)])
    reader.signal(signal.SIGCONT)
    reader.expect_lines(3001)
    assert [int(unit["text"].split()[0]) for unit in reader.objects[1:]] == list(range(3000))
