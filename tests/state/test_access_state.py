"""What a connection may do, as a pure decision; and issuing and revoking tokens."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engramd.state.access import GUEST, OWNER, RIGHTS, Access, matches
from engramd.state.machine import apply, decide
from engramd.state.outcome import Refused
from engramd.state.tokens import IssueToken, RevokeToken, TokenIssued, TokenRevoked, access_of
from engramd.state.view import TOKENS, MemoryState, Token

SMALL = st.text("ab/*?[", max_size=8)


@given(glob=SMALL, name=st.text("ab/[", max_size=10))
def test_globs_are_what_a_regular_expression_says(glob: str, name: str) -> None:
    naive = re.fullmatch("".join({"*": ".*", "?": "."}.get(char) or re.escape(char) for char in glob), name, re.S)
    assert matches(glob, name) == (naive is not None)


def test_a_glob_full_of_stars_is_quick() -> None:
    assert not matches("a*" * 60 + "b", "a" * 256)


def test_the_owner_may_everything_and_a_guest_no_administration() -> None:
    assert all(map(OWNER.may, RIGHTS))
    assert [right for right in RIGHTS if GUEST.may(right)] == ["read", "write", "lock"]


def test_contexts() -> None:
    access = Access(frozenset(["read"]), contexts=("build-*", "docs"))
    assert [name for name in ("build-", "build-1", "docs", "doc", "docs2", "a build-1", "") if access.sees(name)] == [
        "build-",
        "build-1",
        "docs",
    ]
    assert not access.names_contexts()
    assert Access(frozenset(), contexts=("a", "b")).names_contexts()
    assert Access(frozenset()).sees("anything")


@pytest.mark.parametrize(
    ("paths", "resource", "covered"),
    [
        (("/src",), "/src", True),
        (("/src",), "/src/a/b.c", True),
        (("/src",), "/src/*.c", True),
        (("/src",), "/srcs", False),
        (("/src",), "/", False),
        (("/src",), "/*", False),
        (("/src",), "/**/src", False),
        (("/src/*.c",), "/src/a.c", True),
        (("/src/*.c",), "/src/a.h", False),
        (("/src",), "@src", False),
        (("/",), "/anything", True),
        (("/",), "@name", False),
        (("@build-*",), "@build-1", True),
        (("@build-*",), "@deploy", False),
        (("@*",), "@a*", True),
        (("@a?",), "@*", False),
        (("@*",), "/a", False),
        (("/a", "/b"), "/b/c", True),
        ((), "@name", True),
    ],
)
def test_paths(paths: tuple[str, ...], resource: str, covered: bool) -> None:
    assert Access(frozenset(["lock"]), paths=paths).covers(resource) is covered


def test_only_what_overlaps_is_shown_of_a_lease() -> None:
    access = Access(frozenset(["read"]), paths=("/src",))
    assert access.touches(("/", "/src/a", "/etc")) == ("/", "/src/a")
    assert access.touches(("/etc",)) == ()


def test_events_of_no_context_are_for_who_has_no_limits() -> None:
    limited, paths, plain = (Access(frozenset(["read"]), *limits) for limits in ((("c",),), ((), ("/src",)), ()))
    assert [access.sees_event("lock_granted", None) for access in (limited, paths, plain, OWNER)] == [False, False, True, True]
    assert [access.sees_event("agent_present", None) for access in (limited, paths, plain, OWNER)] == [False, True, True, True]
    assert [access.sees_event("token_issued", None) for access in (limited, paths, plain, OWNER)] == [False, False, False, True]
    assert [access.sees_event("unit_put", "d") for access in (limited, paths, plain, OWNER)] == [False, True, True, True]


def grant(**changes: Any) -> Token:
    return Token("bob", b"digest", ("read", "write"), ("c",), ("/src",), 99, "note", 5)._replace(**changes)


def test_a_token_lives_from_its_issue_to_its_end() -> None:
    state = MemoryState()
    issue = IssueToken("owner", "name", grant())
    issued = decide(state, issue)
    assert issued == [TokenIssued("owner", "name", "bob", b"digest", ("read", "write"), ("c",), ("/src",), 99, "note")]
    apply(state, 1, 5, issued[0])
    assert state.get(TOKENS, "name") == grant()
    assert access_of("name", grant()) == Access(frozenset(("read", "write")), ("c",), ("/src",), "name")
    refused = decide(state, issue)
    assert isinstance(refused, Refused)
    assert refused.code == "conflict"
    revoked = decide(state, RevokeToken("owner", "name"))
    assert revoked == [TokenRevoked("owner", "name")]
    apply(state, 2, 6, revoked[0])
    assert state.get(TOKENS, "name") is None
    again = decide(state, RevokeToken("owner", "name"))
    assert isinstance(again, Refused)
    assert again.code == "not_found"


@pytest.mark.parametrize("limits", [{"contexts": ("c",), "paths": ()}, {"contexts": (), "paths": ("/src",)}])
def test_an_admin_cannot_be_limited(limits: dict[str, tuple[str, ...]]) -> None:
    refused = decide(MemoryState(), IssueToken("owner", "name", grant(rights=("admin",), **limits)))
    assert isinstance(refused, Refused)
    assert refused.code == "invalid"
    assert isinstance(decide(MemoryState(), IssueToken("owner", "name", grant(rights=("admin",), contexts=(), paths=()))), list)
