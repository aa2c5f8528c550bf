"""Tokens: who a connection is, the operations on tokens, and the end of connections whose token has ended."""

from __future__ import annotations

import hmac
import math
import pwd
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import trio

from ..protocol.connection import Id
from ..protocol.errors import EngramError
from ..protocol.messages import GRANTS
from ..protocol.schema import invalid
from ..protocol.times import parse_duration
from ..protocol.tokens import new_token, read_token
from ..state.access import ACT_AS, GUEST, OWNER, Access
from ..state.outcome import Refused
from ..state.tokens import IssueToken, RevokeToken, TokenRevoked, access_of
from ..state.view import TOKENS, Token
from ..storage.log import Appended
from .peer import Origin, Peer

if TYPE_CHECKING:
    from .committer import Result
    from .engine import Engine

LOOK = 5.0  # seconds after which the wall clock is looked at again: it may be set, and stands still for nobody
LONGEST = 100 * 365 * 86_400_000_000  # microseconds
PAGE = 100
_UNKNOWN = b"\0" * 32  # what a secret is compared with where there is no token of that name


class Tokens:
    """Who may come in, and who has.

    Args:
        required: also on the Unix socket.
        users: names of other users who may use the Unix socket.
    """

    def __init__(self, engine: Engine, required: bool = False, users: Sequence[str] = ()) -> None:
        self._engine = engine
        self._required = required
        self._users = frozenset(users)
        self._bearers: dict[str, set[Peer]] = {}
        self._changed = trio.Event()

    # At the door

    def admits(self, origin: Origin) -> bool:
        """Whether somebody from there may speak at all. Only the kernel's word counts."""
        return origin.is_owner or origin.is_network or (origin.uid is not None and _user(origin.uid) in self._users)

    def identify(self, origin: Origin, said: dict[str, Any]) -> tuple[str, Access]:
        """Who has greeted, and what they may do.

        Raises:
            EngramError: `denied`.
        """
        if "token" in said:
            return self._bearer(said["token"], said.get("agent"))
        if origin.is_network:
            raise EngramError("denied", "a token is needed here: set ENGRAM_TOKEN or ENGRAM_TOKEN_FILE; to get one: engram token issue")
        if self._required:
            raise EngramError("denied", "this daemon asks for a token here too (auth.require_token): set ENGRAM_TOKEN or ENGRAM_TOKEN_FILE")
        if origin.is_owner:
            return said["agent"], OWNER
        user = _user(origin.uid)
        if said["agent"] != user:
            raise EngramError("denied", f"the user {user} acts as {user} here, and as no other agent; a token could allow it", agent=user)
        return user, GUEST

    def _bearer(self, text: str, agent: str | None) -> tuple[str, Access]:
        name, digest = read_token(text)
        row = self._engine.log.durable.get(TOKENS, name)
        if not hmac.compare_digest(digest, _UNKNOWN if row is None else row.digest) or row is None:
            raise EngramError("denied", "the token is not valid: it was revoked, or is of another daemon")
        if _is_over(row, self._engine.committer.now()):
            raise expired(name)
        access = access_of(name, row)
        if agent not in (None, row.holder) and not access.may(ACT_AS):
            raise EngramError("denied", f"the token {name} is {row.holder}'s, and cannot act as {agent}", agent=row.holder)
        return agent or row.holder, access

    # Those who are in

    def arrived(self, peer: Peer) -> None:
        """A connection was greeted."""
        if peer.token is not None:
            self._bearers.setdefault(peer.token, set()).add(peer)
            self._changed.set()

    def left(self, peer: Peer) -> None:
        """A connection has ended."""
        bearers = self._bearers.get(peer.token or "")
        if bearers is not None:
            bearers.discard(peer)
            if not bearers:
                del self._bearers[peer.token or ""]

    def bearers(self, name: str) -> int:
        """How many connections there are with a token."""
        return len(self._bearers.get(name, ()))

    def follow(self, events: Sequence[Appended]) -> None:
        """Take in what is on disk: a token that was revoked ends its connections."""
        for appended in events:
            if isinstance(appended.event, TokenRevoked):
                self._dismiss(appended.event.token, EngramError("denied", f"the token {appended.event.token} was revoked"))

    def _dismiss(self, name: str, because: EngramError) -> None:
        for peer in list(self._bearers.get(name, ())):
            peer.dismiss(because)

    async def run(self) -> None:
        """End the connections of tokens that expire, until cancelled."""
        while True:
            self._changed = trio.Event()
            now, soonest = self._engine.committer.now(), math.inf
            for name in list(self._bearers):
                row = self._engine.log.durable.get(TOKENS, name)
                if row is None or _is_over(row, now):
                    self._dismiss(name, expired(name))
                elif row.expires_at is not None:
                    soonest = min(soonest, (row.expires_at - now) / 1e6)
            with trio.move_on_after(min(soonest, LOOK) if self._bearers else math.inf):
                await self._changed.wait()


def expired(name: str) -> EngramError:
    """The error of a token whose time is over."""
    return EngramError("denied", f"the token {name} has expired; ask for a new one", token=name)


def _is_over(token: Token, now: int) -> bool:
    return token.expires_at is not None and token.expires_at <= now


def _user(uid: int | None) -> str:
    try:
        return pwd.getpwuid(-1 if uid is None else uid).pw_name
    except (KeyError, OverflowError):
        return f"uid-{uid}"


# Operations


def issue(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Issue a token; its text is in the answer, once it is on disk, and nowhere else."""
    now, text = engine.committer.now(), new_token()
    name, digest = read_token(text)
    lasts = fields.get("expires")
    micros = lasts if lasts is None or isinstance(lasts, int) else parse_duration(lasts)
    if micros is not None and not 0 < micros <= LONGEST:
        raise invalid("expires", "must be more than nothing, and at most 100 years")
    rights = tuple(right for right in GRANTS if right in fields["permissions"])
    contexts, paths = (tuple(dict.fromkeys(fields.get(limit, ()))) for limit in ("contexts", "paths"))
    expires_at = None if micros is None else now + micros
    grant = Token(fields["agent"], digest, rights, contexts, paths, expires_at, fields.get("note", ""), now)

    def answer(_: Result) -> None:
        peer.answer(request_id, {"token": text, "info": _describe(engine, name, grant)})

    engine.submit(peer, request_id, IssueToken(peer.agent, name, grant), now, answer)


def revoke(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """End a token, and its connections."""
    name = fields["token"]
    connections = engine.tokens.bearers(name)

    def answer(result: Result) -> None:
        assert not isinstance(result, Refused), "refusals are answered for us"
        peer.answer(request_id, {"connections": connections})

    engine.submit(peer, request_id, RevokeToken(peer.agent, name), engine.committer.now(), answer)


def list_(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Describe a page of tokens, by name."""
    found: list[dict[str, Any]] = []
    for key, row in engine.log.durable.scan(TOKENS, after=fields["after"].encode() if "after" in fields else None):
        if len(found) == PAGE:
            peer.answer(request_id, {"tokens": found, "next": found[-1]["token"]})
            return
        found.append(_describe(engine, key.decode(), row))
    peer.answer(request_id, {"tokens": found, "next": None})


def inspect(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Describe a token."""
    row = engine.log.durable.get(TOKENS, fields["token"])
    if row is None:
        raise EngramError("not_found", f"there is no token {fields['token']!r}; those there are: engram token list", token=fields["token"])
    peer.answer(request_id, {"info": _describe(engine, fields["token"], row)})


def _describe(engine: Engine, name: str, row: Token) -> dict[str, Any]:
    return {
        "token": name,
        "agent": row.holder,
        "permissions": list(row.rights),
        "contexts": list(row.contexts),
        "paths": list(row.paths),
        "issued_at": row.issued_at,
        "expires_at": row.expires_at,
        "expired": _is_over(row, engine.committer.now()),
        "note": row.note,
        "connections": engine.tokens.bearers(name),
    }
