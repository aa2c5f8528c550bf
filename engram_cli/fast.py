"""The quick way through regular command lines of the hot verbs: what a command costs is what Python costs to start.

`read` understands a line only from the generated table, and gives up on anything unusual. Whatever this module gives up on, Typer and the
full client carry out: the whole line, or what is left of it. It therefore imports nothing but built-in modules, speaks the wire with a
small codec of its own (golden frames pin it to cbor2), lets the daemon write units out, and leaves through `os._exit`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os
import sys
import time

from engramd.protocol.address import endpoint, is_network
from engramd.protocol.resources import resource

from . import LITERAL_DASH, LOST, WITH_COMMAND, settings
from .table import VERBS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, TypeVar

    T = TypeVar("T")

GREETING_SECONDS = 0.25  # a daemon that is slower is left to the full client, which waits longer and explains
MAX_ANSWER = 256 * 1024 * 1024
MAX_INPUT = 16 * 1024 * 1024
CREDIT_STEP = 256 * 1024
COMPLETION_SECONDS = 1.0  # nobody waits longer for a TAB


class GiveUp(Exception):
    """The rest is for the full program: the verb's values say what is left to do."""


class Failed(Exception):
    """The daemon answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        self.error = error


def main() -> None:
    """Run one command line and exit."""
    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
    if _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:  # a job in the background keeps ignoring it
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    _hold_standard_streams()
    if sys.argv[1:2] == ["__complete"]:
        leave(complete(sys.argv[2:]))
    call = read(sys.argv[1:])
    if call is None or (call[1]["timeout"] is not None and not call[1].get("wait")) or call[1]["color"] not in ("auto", "always", "never"):
        from .__main__ import main as full

        full()
        return
    verb, values = call
    settings.verbose = values["verbose"]
    try:
        leave(_VERBS[verb](values))
    except Failed as failed:
        leave(report(failed.error))
    except (GiveUp, UnicodeEncodeError):
        from .__main__ import finish

        finish(verb, values)


def _hold_standard_streams() -> None:
    """Give the number of a standard stream that is closed to something on which its use still fails, or a socket would get it."""
    for fd, name, mode, flags in ((0, "stdin", "r", os.O_WRONLY), (1, "stdout", "w", os.O_RDONLY), (2, "stderr", "w", os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115  (open for life)


def leave(code: int) -> NoReturn:
    """Exit without tearing the interpreter down, which costs more than most commands; coverage needs the long way."""
    if "COVERAGE_PROCESS_START" in os.environ:
        sys.exit(code)
    os._exit(code)


def complete(arguments: list[str]) -> int:
    """Print the names of a KIND (contexts, agents, consumers, locks) that start with PREFIX, for the shells' completions, and return 0.

    Whatever is wrong, there is nothing to offer: no daemon is started, no error is printed, and after COMPLETION_SECONDS it is over.
    """
    _signal.signal(_signal.SIGALRM, lambda *_: os._exit(0))
    _signal.setitimer(_signal.ITIMER_REAL, COMPLETION_SECONDS)
    try:
        kind, prefix = arguments
        connection = Connection({"agent_name": None, "socket": None, "token_file": None}, None)
        found = connection.ask("names", {"kind": kind, "prefix": prefix, "limit": 1000})["names"]
        rest = memoryview("".join([f"{name}\n" for name in found if name.isprintable()]).encode())
        while rest:
            rest = rest[os.write(1, rest) :]
    except Exception:
        pass
    return 0


def report(error: dict[str, Any]) -> int:
    """Say what went wrong and return the exit code."""
    from engramd.protocol.errors import EngramError

    from . import output

    return output.report(EngramError.from_wire(error))


# The command line


def read(arguments: list[str]) -> tuple[str, dict[str, Any]] | None:
    """The verb and the value of each of its parameters, as Typer would give them; None for a line that is not regular."""
    verb = VERBS.get(arguments[0]) if arguments else None
    if verb is None:
        return None
    options, positionals, defaults = verb
    values: dict[str, Any] = dict(defaults)
    words: list[str] = []
    rest = iter(arguments[1:])
    for word in rest:
        if word == "--":
            if arguments[0] in WITH_COMMAND:
                return None
            words += [LITERAL_DASH if literal == "-" else literal for literal in rest]
        elif word[:1] != "-" or word == "-":
            words.append(word)
        elif not _option(word, rest, options, values):
            return None
    for name, required, many in positionals:
        if required and not words:
            return None
        if many:
            values[name], words = words or None, []
        elif words:
            values[name] = words.pop(0)
    return None if words else (arguments[0], values)


def _option(word: str, rest: Any, options: dict[str, tuple[str, str, int]], values: dict[str, Any]) -> bool:
    name, equals, value = word.partition("=") if word[:2] == "--" else (word, "", "")
    target, kind, least = options.get(name, ("", "", 0))
    if kind == "flag":
        values[target] = True
        return not equals
    if not equals:
        value = next(rest, "-")
        if value[:1] == "-":
            return False
    if kind == "int":
        if not (value.isascii() and value.isdigit() and len(value) < 19 and int(value) >= least):
            return False
        values[target] = int(value)
    elif kind == "list":
        values[target] = [*(values[target] or ()), value]
    else:
        values[target] = value
    return bool(kind)


# The wire


def encode(value: Any) -> bytes:
    """CBOR (RFC 8949) of what requests hold: maps, lists, text, bytes, integers from 0, booleans."""
    if isinstance(value, str):
        data = value.encode()
        return _head(0x60, len(data)) + data
    if isinstance(value, bytes):
        return _head(0x40, len(value)) + value
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return _head(0x00, value)
    if isinstance(value, dict):
        return _head(0xA0, len(value)) + b"".join([encode(key) + encode(member) for key, member in value.items()])
    return _head(0x80, len(value)) + b"".join([encode(member) for member in value])


def _head(major: int, count: int) -> bytes:
    if count < 24:
        return bytes((major | count,))
    size = 0 if count < 1 << 8 else 1 if count < 1 << 16 else 2 if count < 1 << 32 else 3
    return bytes((major | 24 + size,)) + count.to_bytes(1 << size, "big")


def decode(data: bytes) -> Any:
    """The value of a CBOR item that a daemon sends: definite lengths, no tags, no floats. Raises ValueError or IndexError for others."""
    return _decode(data, 0)[0]


def _decode(data: bytes, at: int) -> tuple[Any, int]:
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        if info not in _SIMPLE:
            raise ValueError("not an item of an answer")
        return _SIMPLE[info], at
    count = info
    if info > 23:
        size = 1 << (info - 24)
        count = int.from_bytes(data[at : at + size], "big")
        at += size
    if major == 0:
        return count, at
    if major == 1:
        return -1 - count, at
    if major == 2:
        return data[at : at + count], at + count
    if major == 3:
        return data[at : at + count].decode(), at + count
    if major == 4:
        items = []
        for _ in range(count):
            item, at = _decode(data, at)
            items.append(item)
        return items, at
    members = {}
    for _ in range(count):
        key, at = _decode(data, at)
        if major != 5 or not isinstance(key, str):
            raise ValueError("not an item of an answer")
        members[key], at = _decode(data, at)
    return members, at


_SIMPLE = {20: False, 21: True, 22: None}


_LOST = (OSError, EOFError, ValueError, IndexError, KeyError, RecursionError)  # the connection ended, or what came is no answer


class Connection:
    """A greeted connection to a daemon of this user.

    Args:
        patience: seconds that each step up to the greeting may take; None means no limit.

    Raises:
        GiveUp: there is none, or it does not greet in time.
    """

    def __init__(self, values: dict[str, Any], patience: float | None = GREETING_SECONDS) -> None:
        if values["socket"] == "":
            raise GiveUp
        where = _setting(lambda: endpoint(values["socket"] or settings.socket()))
        if is_network(where):
            raise GiveUp
        hello = {"id": 0, "op": "hello", "version": [1, 0], "client": "engram"}
        settings.token_file = values["token_file"]
        token: str | None = _setting(settings.token)
        if token is not None:
            hello["token"] = token
        if (agent := _agent(values, token)) is not None:
            hello["agent"] = agent
        if values.get("follow"):  # it is there as long as it reads
            hello["presence"] = True
        if session := os.environ.get("ENGRAM_SESSION"):
            hello["session"] = session
        self._buffer = b""
        self.received = 0
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._socket.settimeout(patience)
        try:
            self._socket.connect(where)
            if hasattr(_socket, "SO_PEERCRED"):
                credentials = self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
                if int.from_bytes(credentials[4:8], sys.byteorder) != os.getuid():
                    raise GiveUp
            self._send(hello)
            greeting = self.receive()
            if not greeting.get("ok"):
                raise GiveUp
            self.max_payload: int = greeting["result"]["limits"]["max_payload"]
        except _LOST as error:
            raise GiveUp from error
        self._socket.settimeout(None)

    def ask(self, op: str, fields: dict[str, Any], repeatable: bool = True) -> dict[str, Any]:
        """The result of a request.

        Raises:
            Failed: the daemon's error, or `outcome_unknown` when the connection ends before the answer to what may not be asked again.
            GiveUp: it ends before the answer to what may, or the daemon is being replaced.
        """
        self.send(op, fields)
        try:
            answer = self.receive()
        except _LOST as error:
            if repeatable:
                settings.resumed = True
                raise GiveUp from error
            from engramd.protocol.doubt import in_doubt

            raise Failed({"code": "outcome_unknown", "message": in_doubt(op, LOST)}) from error
        if not answer["ok"]:
            code, details = answer["error"]["code"], answer["error"]["details"]
            if code == "unavailable" or (code == "busy" and "retry_after" in details):  # nothing was done: it is tried again
                raise GiveUp
            raise Failed(answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def send(self, op: str, fields: dict[str, Any]) -> None:
        """Send a request, or a notice on the stream that has the same id; every id is 1, since answers are awaited one by one."""
        self._send({"id": 1, "op": op, **fields})

    def _send(self, message: dict[str, Any]) -> None:
        body = encode(message)
        try:
            self._socket.sendall(len(body).to_bytes(4, "big") + body, getattr(_socket, "MSG_NOSIGNAL", 0))
        except BrokenPipeError:
            pass  # what the daemon said before it hung up matters more

    def receive(self) -> dict[str, Any]:
        """The next frame's message. Raises EOFError when the daemon hangs up."""
        while True:
            frame = self._cut()
            if frame is not None:
                message: dict[str, Any] = decode(frame)
                self.received += 4 + len(frame)
                return message
            data = self._socket.recv(1 << 18)
            if not data:
                raise EOFError
            self._buffer += data

    def wait(self) -> None:
        """Wait for more to arrive. When whoever reads the output has gone, die of SIGPIPE at once, as `tail -f` does."""
        import select

        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(1, 0)
        if any(fd == 1 and events & select.POLLERR for fd, events in poll.poll()):
            os.kill(os.getpid(), _signal.SIGPIPE)

    def at_hand(self) -> bool:
        """Whether a whole frame has arrived already."""
        return len(self._buffer) >= 4 and len(self._buffer) - 4 >= int.from_bytes(self._buffer[:4], "big")

    def _cut(self) -> bytes | None:
        if not self.at_hand():
            return None
        end = 4 + int.from_bytes(self._buffer[:4], "big")
        frame, self._buffer = self._buffer[4:end], self._buffer[end:]
        return frame


def write(data: bytes, op: str = "", result: Any = None) -> None:
    """Write all of it to standard output; with what has changed something, if anything has, and its result."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(1, rest) :]
    except OSError as error:
        from .done import unwritten, words

        os.write(2, f"{unwritten(error, words(op, result) if op else '')}\n".encode())
        leave(1)


# The verbs


def _put(values: dict[str, Any]) -> int:
    text, file = values["text"], values["file"]
    if (text is None) == (file is None):
        raise GiveUp
    fields: dict[str, Any] = {"context": _context(values), "type": values["type"]}
    if values["meta"]:
        fields["meta"] = _labels(values["meta"])
    edges = [_edge(edge) for edge in values["rel"] or ()]
    if values["reply_to"] is not None:
        edges.append({"type": "responds_to", "target": values["reply_to"]})
    if edges:
        fields["relationships"] = edges
    for name in ("dedupe", "expect_seq"):
        if values[name] is not None:
            fields[name] = values[name]
    if values["fence"]:
        fields["fences"] = [_fence(fence) for fence in values["fence"]]
    if values["release"]:
        if not values["fence"]:
            raise GiveUp
        fields["release"] = True
    encode(fields)  # text that no UTF-8 can hold gives up before anything is read
    if file is not None or text == "-":
        fields["payload"] = _file(file) if file is not None else _read(0)
        values.update(file=None, text=fields["payload"])  # it may be a pipe, which gives it once only
    else:
        fields["payload"] = os.fsencode("-" if text == LITERAL_DASH else text)
    connection = Connection(values)
    if len(fields["payload"]) > connection.max_payload:
        raise GiveUp
    made = connection.ask("put", fields, repeatable="dedupe" in fields)
    name = made["id"].hex()
    shown = f"{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:]}"
    if values["json"]:
        deduped = "true" if made["deduped"] else "false"
        shown = f'{{"id": "{shown}", "seq": {made["seq"]}, "ts": "{_moment(made["ts"])}", "deduped": {deduped}}}'
    write(shown.encode() + b"\n", "put", made)
    return 0


def _get(values: dict[str, Any]) -> int:
    form = "json" if values["json"] else "raw"
    if form == "raw":
        _need_pipe(values)
    connection = Connection(values)
    several = len(values["ids"]) > 1
    while values["ids"]:
        try:
            write(connection.ask("get", {"ids": values["ids"][:1], "form": form})["text"])
        except Failed as failed:
            if failed.error["code"] not in ("not_found", "trimmed", "redacted") or not several:
                raise
            values["missing"] = report(failed.error)
        del values["ids"][0]
    return int(values.get("missing", 0))


def _list(values: dict[str, Any]) -> int:
    if not values["json"]:
        _need_pipe(values)
    fields = {"context": _context(values), "form": "json" if values["json"] else "line", **_filters(values)}
    if values["reverse"]:
        fields["reverse"] = True
    left = values["limit"]
    connection = Connection(values)
    while True:
        page = connection.ask("list", fields if left is None else {**fields, "limit": min(left, 1000)})
        write(page["text"])
        if left is not None:
            left -= page["text"].count(b"\n")
        if page["next"] is None or left == 0:
            return 0
        fields["after"] = values["after"] = page["next"]
        values["limit"] = left


def _tail(values: dict[str, Any]) -> int:
    if values["events"] or values["kind"] or not values["consumer"] is values["ack"] is values["prefetch"] is None:
        raise GiveUp
    if not values["json"]:
        _need_pipe(values)
    fields: dict[str, Any] = {"contexts": [_named(name) for name in values["contexts"] or ()], "form": "json" if values["json"] else "line"}
    fields.update(_filters(values))
    starts = [name for name in ("since", "after") if values[name] is not None]
    if len(starts) + (values["number"] is not None) > 1:
        raise GiveUp
    if not starts:
        fields["last"] = 10 if values["number"] is None else values["number"]
    fields["follow"] = values["follow"]
    connection = Connection(values)
    connection.send("tail", fields)
    return _stream(connection, values)


def _stream(connection: Connection, values: dict[str, Any]) -> int:
    """Print items until the stream ends. When the daemon goes away, the full client waits for it, and goes on after the last item."""
    connection.received = 0
    texts: list[bytes] = []
    while True:
        try:
            message = connection.receive()
        except _LOST as error:
            write(b"".join(texts))
            settings.resumed = True
            raise GiveUp from error
        if "event" not in message:
            break
        texts.append(message["event"].get("text", b""))
        values.update(number=None, since=None, after=message["event"]["cursor"])
        if not connection.at_hand():
            write(b"".join(texts))
            texts.clear()
            if values["follow"]:
                connection.wait()
        if connection.received > CREDIT_STEP:
            connection.send("credit", {"bytes": connection.received})
            connection.received = 0
    write(b"".join(texts))
    if message["ok"]:
        return 0
    if message["error"]["code"] == "unavailable":
        settings.resumed = True
        raise GiveUp
    raise Failed(message["error"])


def _lock(values: dict[str, Any]) -> int:
    busy_code, timeout = values["busy_code"], values["timeout"]
    if values["json"] or values["grace"] is not None or (busy_code or 0) > 255 or (values["shared"] and values["slots"] is not None):
        raise GiveUp
    fields: dict[str, Any] = {"resources": [_resource(path) for path in values["paths"]]}
    for name in ("ttl", "slots", "reason"):
        if values[name] is not None:
            fields[name] = values[name]
    if values["shared"] or values["slots"] is not None:
        fields["mode"] = "shared" if values["shared"] else "slots"
    if values["session"]:
        if not os.environ.get("ENGRAM_SESSION"):
            raise GiveUp
        fields["session"] = True
    if values["wait"]:
        fields["wait"] = True
        if timeout is not None:
            fields["timeout"] = timeout
    encode(fields)
    connection, began = Connection(values), time.monotonic()
    try:
        granted = connection.ask("lock", fields)
    except Failed as failed:
        if busy_code is None or failed.error["code"] not in ("locked", "deadlock", "busy"):
            raise
        report(failed.error)
        return int(busy_code)
    except GiveUp:
        if timeout is not None:  # the rest of the wait is for the full program
            from engramd.protocol.times import parse_duration

            values["timeout"] = f"{max(0.0, parse_duration(timeout) / 1e6 - (time.monotonic() - began)):.3f}"
        raise
    write(b"%d\n" % granted["token"], "lock", granted)
    os.write(2, how_long(granted).encode() + b"\n")
    return 0


def how_long(granted: dict[str, Any]) -> str:
    """What the holder of a lease has to know."""
    token, ends = granted["token"], granted["expires_at"]
    several = len(granted["resources"])
    what = f"{several} resources held" if several > 1 else "held"
    if ends is None:
        return f"engram: {what} as long as the session; to release: engram unlock {token}"
    return f"engram: {what} until {_moment(ends)}; to renew: engram renew {token}; to release: engram unlock {token}"


def _unlock(values: dict[str, Any]) -> int:
    tokens = values["tokens"]
    if values["force"] or values["json"]:
        raise GiveUp
    for token in tokens:
        _token(token)
    several = len(tokens) > 1
    connection = Connection(values)
    while tokens:
        try:
            connection.ask("unlock", {"token": _token(tokens[0])}, repeatable=False)
        except Failed as failed:
            if failed.error["code"] != "stale" or not several:
                raise
            values["missing"] = report(failed.error)
        del tokens[0]
    return int(values.get("missing", 0))


def _renew(values: dict[str, Any]) -> int:
    if values["json"]:
        raise GiveUp
    renewed = Connection(values).ask("renew", {"token": _token(values["token"])})
    ends = renewed["expires_at"]
    write((WITH_SESSION if ends is None else _moment(ends)).encode() + b"\n", "renew", renewed)
    return 0


WITH_SESSION = "with its session"  # when a lease ends that has no deadline


def _moment(ts: int) -> str:
    """An instant as RFC 3339 in UTC with microseconds."""
    seconds, micros = divmod(ts, 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{micros:06}Z"


def _resource(path: str) -> str:
    """A PATH argument as a resource in normal form."""
    if not path:
        raise GiveUp
    try:
        return resource(path)
    except (OSError, ValueError) as error:
        raise GiveUp from error


def _fence(fence: str) -> dict[str, Any]:
    path, _, token = fence.rpartition(":")
    return {"resource": _resource(path), "token": _token(token)}


def _token(typed: str) -> int:
    if not (typed.isascii() and typed.isdigit() and len(typed) < 19 and int(typed)):
        raise GiveUp
    return int(typed)


def _need_pipe(values: dict[str, Any]) -> None:
    """Text for people on a terminal is the full program's work."""
    if values["color"] != "auto" or os.isatty(1):
        raise GiveUp


def _context(values: dict[str, Any]) -> str:
    return _named(values["context"])


def _named(name: str) -> str:
    return _setting(lambda: settings.context("-" if name == LITERAL_DASH else name))


def _agent(values: dict[str, Any], token: str | None = None) -> str | None:
    """Who acts, if that is said anywhere: with a token nobody need say it."""
    agent: str | None = values["agent_name"]
    if agent is None:
        agent = _setting(settings.agent if token is None else lambda: settings.default("agent"))
    return agent


def _me(values: dict[str, Any]) -> str:
    """Who acts. What only a token says, the full client asks the daemon for."""
    settings.token_file = values["token_file"]
    agent = _agent(values, _setting(settings.token))
    if agent is None:
        raise GiveUp
    return agent


def _setting(look_up: Callable[[], T]) -> T:
    """A setting; what is wrong with one is for the full program to say."""
    try:
        return look_up()
    except Exception as error:
        raise GiveUp from error


def _labels(given: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for label in given:
        key, equals, value = label.partition("=")
        if not equals or not key:
            raise GiveUp
        if labels.setdefault(key, value) != value:
            raise GiveUp
    return labels


def _edge(edge: str) -> dict[str, str]:
    kind, colon, target = edge.partition(":")
    if not colon or not target:
        raise GiveUp
    return {"type": kind, "target": target}


def _filters(values: dict[str, Any]) -> dict[str, Any]:
    found = {name: values[name] for name in ("agent", "type", "since", "until", "after", "related_to") if values[name] is not None}
    if values["meta"]:
        found["meta"] = _labels(values["meta"])
    if values["to"] is not None:
        if "to" in found.get("meta", {}):
            raise GiveUp
        found["meta"] = {**found.get("meta", {}), "to": _me(values) if values["to"] == "me" else values["to"]}
    return found


def _file(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise GiveUp from error
    try:
        return _read(fd)
    finally:
        os.close(fd)


def _read(fd: int) -> bytes:
    """Everything up to the end, or one byte more than any daemon takes."""
    parts, size = [], 0
    try:
        while size <= MAX_INPUT and (data := os.read(fd, 1 << 20)):
            parts.append(data)
            size += len(data)
    except OSError as error:
        raise GiveUp from error
    return b"".join(parts)


_VERBS: dict[str, Callable[[dict[str, Any]], int]] = {
    "put": _put,
    "get": _get,
    "list": _list,
    "tail": _tail,
    "lock": _lock,
    "unlock": _unlock,
    "renew": _renew,
}
