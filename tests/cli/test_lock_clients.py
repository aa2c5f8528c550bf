"""Leases as the Python clients hold them: what was granted to nobody is given back, and what is over is known to be."""

from __future__ import annotations

import math
import os
import signal

import pytest
import trio
from commandline import Shell, until
from trio.testing import MockClock
from wire import Gate, Serve

from engram_cli import calls, trio_client
from engram_cli.client import Client, EngramError
from engram_cli.core import Asking
from engram_cli.lease import Term
from engramd.protocol.connection import Answer, Item


@pytest.fixture
def daemon(alone: Shell) -> int:
    """The process of a daemon that may be stopped."""
    alone.daemon()
    pid = alone.daemon_pid()
    assert pid is not None
    return pid


def quick(shell: Shell) -> Client:
    return Client(str(shell.socket), agent="me", autostart=False, timeout=0.3)


def test_a_lock_that_is_granted_after_its_time_is_given_back(alone: Shell, daemon: int) -> None:
    with quick(alone) as client:
        client.connect()
        os.kill(daemon, signal.SIGSTOP)
        try:
            with pytest.raises(EngramError, match="no answer came in time"):
                client.lock("@x")
        finally:
            os.kill(daemon, signal.SIGCONT)
        client.timeout = None
        until(lambda: not list(client.locks()), "the release")
        kinds = [event.kind for event in client.tail(after=0, follow=False, events=True).events()]
        assert kinds[:2] == ["lock_granted", "lock_released"]


def test_a_lock_whose_first_renewal_fails_is_given_back(alone: Shell, daemon: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(lease: Term) -> bool:
        os.kill(daemon, signal.SIGSTOP)
        return True

    monkeypatch.setattr(Term, "is_doubtful", property(stop))
    with quick(alone) as client:
        try:
            with pytest.raises(EngramError) as caught:
                client.lock("@x", wait=True, timeout=60)
        finally:
            os.kill(daemon, signal.SIGCONT)
        assert caught.value.code == "timeout", "it is not asked for again"
        client.timeout = None
        until(lambda: not list(client.locks()), "the release")


def test_a_release_that_comes_too_late_is_the_end(shell: Shell, name: str) -> None:
    with shell.client() as client:
        lease = client.lock(f"@{name}")
        client.steal(f"@{name}")
        with pytest.raises(EngramError, match="taken away"):
            lease.release()
        assert lease.left == 0
        with client.lock(f"@{name}") as again:
            client.steal(f"@{name}")
            with pytest.raises(EngramError, match="taken away"):
                again.release()  # and not once more at the end of the block


def test_a_put_may_depend_on_a_lease_on_many_resources(shell: Shell, name: str) -> None:
    with shell.client() as client, client.lock(*(f"@{name} {number}" for number in range(100))) as lease:
        client.put(name, "guarded", fences=[lease])
        assert calls.put(name, "x", fences=[lease]).fields["fences"] == [{"resource": lease.resources[0], "token": lease.token}]


@pytest.mark.parametrize("code", ["timeout", "denied"])
def test_a_wait_without_an_end_fails_with_what_went_wrong(code: str) -> None:
    error = EngramError(code, "the daemon does not take what is sent")
    with pytest.raises(EngramError) as caught:
        Asking({"wait": True}, None, 0.0).failed(error, math.inf, reached=True)
    assert caught.value is error


# The trio client


def client_of(serve: Serve, gate: Gate | None = None) -> trio_client.Client:
    server = serve(gate=gate) if gate else serve()

    class InMemory(trio_client.Client):
        async def _open(self, start: bool) -> tuple[trio.abc.Stream, int | None]:
            await trio.lowlevel.checkpoint()
            return server.open().stream, 7

    return InMemory("/nowhere", agent="me", autostart=False)


async def test_a_grant_that_arrives_in_the_moment_of_the_cancel_is_given_back(serve: Serve, autojump_clock: MockClock) -> None:
    async with client_of(serve) as client:
        await client.connect()
        assert client._link is not None
        conversation = client._link.conversation
        keep = conversation.keep
        with trio.CancelScope() as scope:

            def cancel_and_keep(message: Answer | Item) -> bool:
                scope.cancel()
                return keep(message)

            conversation.keep = cancel_and_keep  # type: ignore[method-assign]
            await client.lock("@x")
        assert scope.cancelled_caught
        conversation.keep = keep  # type: ignore[method-assign]
        await trio.sleep(1)
        assert [lock async for lock in client.locks()] == []
        kinds = [event.kind async for event in client.tail(after=0, follow=False, events=True).events()]
        assert kinds == ["lock_granted", "lock_released", "live"]


async def test_a_lock_whose_first_renewal_is_cancelled_is_given_back(
    serve: Serve, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(serve) as client:
        with trio.CancelScope() as scope:
            monkeypatch.setattr(Term, "is_doubtful", property(lambda lease: scope.cancel() is None))
            await client.lock("@x")
        assert scope.cancelled_caught
        await trio.sleep(1)
        assert [lock async for lock in client.locks()] == []
