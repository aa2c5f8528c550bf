"""Leases in the Python client: taking, renewing, losing and waiting, and the session that they may end with."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from commandline import Shell, until

from engram_cli import trio_client
from engram_cli.client import Client, EngramError, Lease
from engram_cli.core import Box, Lost


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    """A daemon for the tests that leave it alone."""
    with Shell() as made:
        made.daemon()
        yield made


@pytest.fixture
def alone() -> Iterator[Shell]:
    """Surroundings of one test."""
    with Shell() as made:
        yield made


@pytest.fixture
def client(shell: Shell) -> Client:
    return shell.client()


@contextmanager
def refused(code: str) -> Iterator[None]:
    """Expect an error with this code."""
    with pytest.raises(EngramError) as caught:
        yield
    assert caught.value.code == code, caught.value


def held(client: Client, resource: str) -> list[int]:
    """The tokens of the leases on a resource."""
    return [lock["token"] for lock in client.locks(resource) if "token" in lock]


def test_a_lease_is_held_for_the_length_of_a_block(client: Client) -> None:
    with client.lock("src/app.rs", "@block", ttl=30, reason="why") as lease:
        assert isinstance(lease, Lease)
        assert lease.resources == (os.path.realpath("src/app.rs"), "@block")
        assert (lease.mode, lease.ttl) == ("exclusive", 30)
        assert lease.expires_at is not None
        assert 20 < lease.left <= 30
        assert held(client, "@block") == [lease.token]
        with refused("locked"):
            client.lock("src/**")
    assert (held(client, "@block"), lease.left) == ([], 0)


def test_what_is_lost_is_said_at_the_latest_at_the_end(shell: Shell, client: Client) -> None:
    with refused("stale"), client.lock("@lost") as lease:
        assert shell.client("operator").steal("@lost") == [lease.token]
    with refused("stale"), client.lock("@lost") as lease:
        client.steal(token=lease.token)
        with refused("stale"):
            lease.renew()
        assert lease.left == 0
        lease.release()
    with pytest.raises(ZeroDivisionError), client.lock("@lost") as lease:
        raise ZeroDivisionError(client.steal("@lost"))
    with client.lock("@lost", ttl=0.1) as lease:
        until(lambda: lease.left == 0, "the end by our own clock")
        until(lambda: not held(client, "@lost"), "the end by the daemon's")
        with refused("stale"):
            lease.renew()


def test_a_renewal_gives_all_of_the_time_again(client: Client) -> None:
    with client.lock("@renewed", ttl=5) as lease:
        first = lease.expires_at
        until(lambda: lease.left < 4.9, "some time to pass")
        lease.renew()
        assert lease.left > 4.9
        assert lease.expires_at is not None
        assert first is not None
        assert lease.expires_at > first


def test_a_put_under_a_lease(client: Client) -> None:
    with client.lock("@fenced", "src") as lease:
        made = client.put("fenced", "one", fences=[lease])
        client.put("fenced", "two", fences=[("src/x", lease.token)], expect_seq=made.seq)
    with refused("stale"):
        client.put("fenced", "three", fences=[lease])
    lease = client.lock("@fenced")
    client.put("fenced", "three", fences=[lease], release=True)
    assert held(client, "@fenced") == []
    with refused("stale"):
        lease.release()
    assert [unit.text for unit in client.list("fenced")] == ["one", "two", "three"]


@pytest.mark.parametrize("resources", [[], [""], ["@"], ["a\udcff"]])
def test_what_cannot_be_locked(client: Client, resources: list[str]) -> None:
    with refused("invalid"):
        client.lock(*resources)


def test_pages_of_locks(client: Client) -> None:
    leases = [client.lock(f"@page{number}") for number in range(300)]
    assert [lock["token"] for lock in client.locks()][-300:] == [lease.token for lease in leases]
    for lease in leases:
        lease.release()


# Sessions


def test_every_client_has_a_session_of_its_own_unless_it_is_in_one(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = shell.client(), shell.client()
    assert one.owns_session
    assert one.session
    assert one.session != other.session
    monkeypatch.setenv("ENGRAM_SESSION", one.session)
    guest = shell.client()
    assert (guest.session, guest.owns_session) == (one.session, False)
    assert Client(opens_session=False).session == one.session
    monkeypatch.delenv("ENGRAM_SESSION")
    with Client(str(shell.socket), autostart=False, opens_session=False) as none:
        assert none.session is None
        with refused("invalid"):
            none.lock("@none", session=True)


def test_leases_of_a_session_end_with_it_and_not_with_a_guest(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, observer = shell.client(), shell.client()
    owner.connect()
    lease = owner.lock("@owner", session=True, ttl=0.1)
    assert (lease.expires_at, lease.left) == (None, math.inf)
    monkeypatch.setenv("ENGRAM_SESSION", owner.session or "")
    with shell.client() as guest:
        theirs = guest.lock("@guest", session=True, ttl=0.1)
        with refused("deadlock"):
            guest.lock("@owner", wait=True)
    assert held(observer, "@guest") == [theirs.token]
    owner.close()
    until(lambda: not held(observer, "@guest") and not held(observer, "@owner"), "the end of the session")


def test_a_session_goes_on_with_a_new_daemon(alone: Shell) -> None:
    daemon = alone.daemon()
    client = alone.client()
    bound, plain = client.lock("@bound", session=True, ttl=2), client.lock("@plain", ttl=60)
    daemon.end()
    alone.daemon()
    plain.renew()
    bound.renew()
    assert (bound.left, held(alone.client(), "@bound")) == (math.inf, [bound.token])
    until(lambda: next(iter(alone.client().locks("@bound")))["remaining"] is None, "the session to be known again")
    bound.release()
    plain.release()


# Waiting


def test_a_wait_ends_with_the_lease_or_in_vain(shell: Shell, client: Client) -> None:
    other = shell.client("other")
    lease = client.lock("@wait")
    with pytest.raises(EngramError, match="in vain") as caught:
        other.lock("@wait", wait=True, timeout=0.1)
    assert caught.value.code == "locked"
    granted: list[Lease] = []
    thread = threading.Thread(target=lambda: granted.append(other.lock("@wait", wait=True, ttl=30)))
    thread.start()
    until(lambda: any("number" in one for one in client.locks("@wait")), "the waiter")
    lease.release()
    thread.join(20)
    assert granted[0].token > lease.token
    assert granted[0].left > 15
    granted[0].release()


def test_a_wait_longer_than_the_lease_leaves_all_of_its_time(shell: Shell, client: Client) -> None:
    lease = client.lock("@long")
    timer = threading.Timer(0.6, shell.client("other").steal, kwargs={"token": lease.token})
    timer.start()
    with shell.client("other").lock("@long", wait=True, ttl=1) as later:
        assert later.left > 0.5, "it was granted at the end of the wait, and renewed since it might have been at the start"
    timer.join()


def test_a_wait_survives_its_daemon(alone: Shell) -> None:
    daemon = alone.daemon()
    lease = alone.client().lock("@wait")
    other, observer = alone.client("other"), alone.client("observer")
    granted: list[Lease] = []
    thread = threading.Thread(target=lambda: granted.append(other.lock("@wait", wait=True)))
    thread.start()
    until(lambda: any("number" in one for one in observer.locks("@wait")), "the waiter")
    daemon.process.terminate()
    daemon.wait()
    alone.daemon()
    until(lambda: any("number" in one for one in observer.locks("@wait")), "the waiter again")
    observer.unlock(lease.token)
    thread.join(20)
    assert held(observer, "@wait") == [granted[0].token]


def test_an_unlock_whose_answer_is_lost_counts_when_it_has_happened(alone: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is lost after the daemon has released: asked again, it knows the token no more."""
    alone.daemon()
    client = alone.client()
    lease = client.lock("@x")
    wait = client._wait

    def lose_the_answer(box: Box, deadline: float) -> dict[str, object]:
        monkeypatch.undo()
        wait(box, deadline)
        client.close()
        raise Lost

    client.connect()
    monkeypatch.setattr(client, "_wait", lose_the_answer)
    lease.release()
    assert held(client, "@x") == []
    with refused("stale"):
        client.unlock(lease.token)


def test_no_daemon_is_an_error_at_once(alone: Shell) -> None:
    client = alone.client()
    with refused("unavailable"):
        client.lock("@x", wait=True)


# trio


async def test_leases_of_the_trio_client(shell: Shell) -> None:
    observer = shell.client()
    async with trio_client.Client(str(shell.socket), agent="trio", autostart=False) as engram:
        async with await engram.lock("@trio", ttl=30) as lease:
            assert held(observer, "@trio") == [lease.token]
            await engram.put("trio", "x", fences=[lease])
            await lease.renew()
            assert lease.left > 15
            with refused("locked"):
                await engram.lock("@trio")
            with refused("deadlock"):
                await engram.lock("@trio", wait=True)
        assert held(observer, "@trio") == []
        with refused("stale"):
            async with await engram.lock("@trio") as lease:
                observer.steal("@trio")
        bound = await engram.lock("@trio", session=True, ttl=0.1)
        assert bound.left == math.inf
    until(lambda: not held(observer, "@trio"), "the end of the session")
