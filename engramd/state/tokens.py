"""Tokens: issued, revoked. The secret itself is nowhere: a row has its digest."""

from __future__ import annotations

from ..shapes import NamedTuple
from .access import ADMIN, Access
from .outcome import Decision, Refused
from .view import TOKENS, State, Token, View

# Commands


class IssueToken(NamedTuple):
    """Issue a token under a name that was drawn for it.

    Attributes:
        agent: who issues it.
        grant: whom it is for, and what it allows.
    """

    agent: str
    name: str
    grant: Token


class RevokeToken(NamedTuple):
    """End a token."""

    agent: str
    name: str


# Events; none belongs to a context


class TokenIssued(NamedTuple):
    agent: str
    token: str
    holder: str
    digest: bytes
    rights: tuple[str, ...]
    contexts: tuple[str, ...]
    paths: tuple[str, ...]
    expires_at: int | None
    note: str


class TokenRevoked(NamedTuple):
    agent: str
    token: str


def decide_issue(view: View, command: IssueToken) -> Decision:
    grant = command.grant
    if ADMIN in grant.rights and (grant.contexts or grant.paths):
        return Refused(
            "invalid", "admin goes with no limit to contexts or paths: it may issue itself a token without one", {"field": "permissions"}
        )
    if view.get(TOKENS, command.name) is not None:
        return Refused("conflict", "a token of this name exists already; try again")
    return [TokenIssued(command.agent, command.name, *grant[:-1])]


def decide_revoke(view: View, command: RevokeToken) -> Decision:
    if view.get(TOKENS, command.name) is None:
        return Refused("not_found", f"there is no token {command.name!r}; those there are: engram token list", {"token": command.name})
    return [TokenRevoked(command.agent, command.name)]


def apply_issued(state: State, seq: int, ts: int, event: TokenIssued) -> None:
    grant = Token(event.holder, event.digest, event.rights, event.contexts, event.paths, event.expires_at, event.note, ts)
    state.put(TOKENS, event.token, grant)


def apply_revoked(state: State, seq: int, ts: int, event: TokenRevoked) -> None:
    state.delete(TOKENS, event.token)


def access_of(name: str, token: Token) -> Access:
    """What a token allows."""
    return Access(frozenset(token.rights), token.contexts, token.paths, name)
