"""What is announced about a call, and how it is put into a datagram."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tracer
from conftest import DEADLINE, Listener
from tracer import _calls, _wire
from tracer._spawn import announce


def test_call_is_announced_with_all_that_is_known_of_it(listener: Listener) -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with tracer.tool_call(
        "shell",
        id="call_1",
        summary="make all",
        command="make all",
        background="task 7",
        agent="my-agent",
        session="s-1",
        span="00f067aa0ba902b7",
    ):
        pass
    start, end = listener.messages()
    assert before <= start.fields.pop("at") <= end.fields.pop("at") <= end.received
    assert start.fields == {
        "v": 1,
        "type": "call_start",
        "id": "call_1",
        "name": "shell",
        "summary": "make all",
        "command": "make all",
        "background": "task 7",
        "agent": "my-agent",
        "session": "s-1",
        "span": "00f067aa0ba902b7",
    }
    assert end.fields == {"v": 1, "type": "call_end", "id": "call_1", "agent": "my-agent", "session": "s-1"}
    assert (start.sender, end.sender) == (os.getpid(), os.getpid())


def test_nothing_is_said_of_what_is_not_known(listener: Listener) -> None:
    with tracer.tool_call("shell", id="call_1"):
        pass
    start, _ = listener.messages()
    assert sorted(start.fields) == ["at", "id", "name", "type", "v"]


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (None, None),
        (ValueError, "error"),
        (SystemExit, "error"),
        (asyncio.CancelledError, "cancelled"),
        (KeyboardInterrupt, "cancelled"),
        (GeneratorExit, "cancelled"),
    ],
)
def test_exception_passes_and_decides_the_status(
    listener: Listener, raised: type[BaseException] | None, status: str | None
) -> None:
    if raised is None:
        with tracer.tool_call("shell"):
            pass
    else:
        with pytest.raises(raised), tracer.tool_call("shell"):
            raise raised
    (end,) = listener.messages("call_end")
    assert end.fields.get("status") == status


def test_id_is_made_where_none_is_given(listener: Listener) -> None:
    with tracer.tool_call("shell") as first, tracer.tool_call("shell") as second:
        pass
    assert first.id != second.id
    assert listener.ids("call_start") == [first.id, second.id]
    assert listener.ids("call_end") == [second.id, first.id]


def test_call_can_fail_without_an_exception(listener: Listener) -> None:
    with tracer.tool_call("shell") as call:
        call.fail()
    (end,) = listener.messages("call_end")
    assert end.fields["status"] == "error"


def test_call_entered_again_is_added_to_and_ends_once(listener: Listener) -> None:
    with tracer.tool_call("shell", id="call_1"), tracer.tool_call("shell", id="call_1", summary="make"):
        assert tracer.environment() == {"TRACER_TOOL_CALL_ID": "call_1"}
    assert [message.type for message in listener.messages()] == ["call_start", "call_start", "call_end"]
    assert listener.messages()[1].fields["summary"] == "make"


def test_current_is_the_innermost_call(listener: Listener) -> None:
    assert tracer.current() is None
    with tracer.tool_call("outer") as outer:
        with tracer.tool_call("inner") as inner:
            assert tracer.current() is inner
        assert tracer.current() is outer
        with tracer.outside_calls():
            assert tracer.current() is None
            assert tracer.environment() == {}
        assert tracer.environment() == {"TRACER_TOOL_CALL_ID": outer.id}
    assert tracer.current() is None


def test_decorated_function_is_a_call_each_time(listener: Listener) -> None:
    @tracer.tool_call("add", summary="adds")
    def add(a: int, b: int) -> int:
        """Adds."""
        assert tracer.current() is not None
        return a + b

    @tracer.tool_call("add_later")
    async def add_later(a: int, b: int) -> int:
        assert tracer.current() is not None
        return a + b

    assert (add(1, b=2), add(3, 4), add.__name__, add.__doc__) == (3, 7, "add", "Adds.")
    assert asyncio.run(add_later(1, b=2)) == 3
    starts = listener.messages("call_start")
    assert [start.fields["name"] for start in starts] == ["add", "add", "add_later"]
    assert len({start.fields["id"] for start in starts}) == 3
    assert len(listener.messages("call_end")) == 3


def test_async_with(listener: Listener) -> None:
    async def agent() -> None:
        async with tracer.tool_call("shell", id="call_1") as call:
            await asyncio.sleep(0)
            assert tracer.current() is call

    asyncio.run(agent())
    assert [message.type for message in listener.messages()] == ["call_start", "call_end"]


def test_call_left_in_another_context_is_current_in_none(listener: Listener) -> None:
    call = tracer.tool_call("shell")

    async def elsewhere() -> None:
        assert tracer.current() is call
        call.__exit__(None, None, None)
        assert tracer.current() is None

    def enter_only() -> None:
        call.__enter__()
        asyncio.run(elsewhere())

    contextvars.copy_context().run(enter_only)
    assert len(listener.messages("call_end")) == 1


def test_calls_that_follow_from_each_other_are_not_all_remembered(listener: Listener) -> None:
    async def step(number: int) -> int:
        with tracer.tool_call("step"):
            if number:
                return await asyncio.create_task(step(number - 1))
            scope, depth = _calls._scope.get(), 0
            while scope is not None:
                scope, depth = scope.outer, depth + 1
            return depth

    assert asyncio.run(step(20)) == 2


def test_block_outside_of_calls_may_be_left_anywhere(listener: Listener) -> None:
    def lines() -> Iterator[None]:
        with tracer.outside_calls():
            yield

    generator = lines()
    contextvars.copy_context().run(next, generator)
    del generator


def test_background_and_keep_speak_of_the_current_call(listener: Listener) -> None:
    tracer.background("of no call")
    tracer.keep(60, "of no call")
    with tracer.tool_call("serve", id="call_1") as call:
        tracer.background("a server")
        tracer.keep(59.5, "a cache")
        call.background()
        call.keep(10, "another")
    tracer.keep(300, "a daemon", process=4321)
    told = [message.fields for message in listener.messages() if not message.type.startswith("call_")]
    for fields in told:
        del fields["at"], fields["v"]
    assert told == [
        {"type": "background", "id": "call_1", "reason": "a server"},
        {"type": "keep", "id": "call_1", "ttl": 60, "reason": "a cache"},
        {"type": "background", "id": "call_1"},
        {"type": "keep", "id": "call_1", "ttl": 10, "reason": "another"},
        {"type": "keep", "process": 4321, "ttl": 300, "reason": "a daemon"},
    ]


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf")])
def test_lease_of_no_duration_is_none(listener: Listener, ttl: float) -> None:
    tracer.keep(ttl, "never", process=1)
    with tracer.tool_call("serve"):
        tracer.keep(ttl, "never")
    assert listener.messages("keep") == []


BOUNDS = [("name", 128), ("summary", 1024), ("session", 128), ("agent", 128)]


@pytest.mark.parametrize(("field", "bound"), BOUNDS)
@pytest.mark.parametrize("character", ["a", "\u00e9", "\u20ac", "\U0001f600"])
@pytest.mark.parametrize("times", [0.5, 1, 8, 1000])
def test_text_is_cut_to_its_bound_between_characters(
    field: str, bound: int, character: str, times: float
) -> None:
    size = len(character.encode())
    data = _wire.encode({"type": "call_start", field: character * int(bound * times / size)})
    assert data is not None
    fitting = character * min(int(bound * times / size), bound // size)
    assert json.loads(data) == {"v": 1, "type": "call_start", field: fitting}


@pytest.mark.parametrize("size", [0, 1, 1 << 10, 60_000, 1 << 16, 1 << 20])
def test_command_is_whole_or_left_out(size: int) -> None:
    command = "\u20ac" * (size // 3) + "a" * (size % 3)
    data = _wire.encode({"type": "call_start", "id": "x", "summary": "s" * 5000, "command": command})
    assert data is not None
    assert len(data) <= 65_536
    assert json.loads(data).get("command") == (command if size <= 60_000 else None)


def test_command_that_is_no_unicode_is_left_out() -> None:
    data = _wire.encode({"type": "call_start", "command": "cat \udcff", "name": "a\ud800b"})
    assert data is not None
    assert json.loads(data.decode()) == {"v": 1, "type": "call_start", "name": "a?b"}


def test_control_characters_fit_however_they_are_escaped() -> None:
    worst = "\x01" * 5000
    fields = {name: worst for name, _ in BOUNDS}
    data = _wire.encode({"type": "call_start", "id": "x" * 128, "reason": worst, **fields})
    assert data is not None
    assert len(data) <= 65_536


@pytest.mark.parametrize("id", ["a", "x" * 128, "toolu_01ABC", "\u20ac" * 42])
def test_usable_id_stays(id: str) -> None:
    assert _wire.usable_id(id) == id


@pytest.mark.parametrize(
    ("id", "other"),
    [
        ("", "x" * 129),
        ("x" * 129, "x" * 130),
        ("\u20ac" * 43, "\u20ac" * 44),
        ("a\0b", "a\0c"),
        ("a\ud800", "a\ud801"),
        ("\udcff", "?"),
    ],
)
def test_id_that_cannot_be_one_is_replaced_by_its_own(id: str, other: str) -> None:
    made = _wire.usable_id(id)
    assert made == _wire.usable_id(id) != _wire.usable_id(other)
    assert 1 <= len(made.encode()) <= 128
    assert "\0" not in made
    os.fsencode(made)


def test_any_string_gets_through(listener: Listener) -> None:
    for text in ["", "\0", "\ud800", "\udcff\udcfe", "\n\x1b[31m", "x" * 200_000, "\U0010ffff" * 70_000]:
        with tracer.tool_call(text, id=text, summary=text, command=text, session=text, agent=text) as call:
            tracer.background(text)
            tracer.keep(1, text)
            assert listener.ids("call_start")[-1] == call.id
    assert max(message.size for message in listener.messages()) <= 65_536
    assert len(listener.messages()) == 7 * 4


def test_without_listener_nothing_is_done(no_listener: None) -> None:
    with tracer.tool_call("shell", id="call_1") as call:
        assert not tracer.active()
        assert tracer.current() is None
        assert tracer.environment() == {}
        tracer.background("nobody hears")
        call.keep(1, "nobody hears")
        tracer.keep(1, "nobody hears", process=1)
    assert call.id == "call_1"


@pytest.mark.parametrize("value", [None, "", "/run/tracer.sock"])
def test_listener_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv(_wire.SOCKET_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(_wire.SOCKET_VARIABLE, value)
    assert _wire.listener() == (value or None)
    assert tracer.active() == bool(value)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert _wire.listener() == (value or None)


@pytest.mark.parametrize("path", ["missing/socket", "file", ".", "x" * 5000, "\udcff", "closed"])
def test_unreachable_listener_is_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as closed:
        closed.bind(str(tmp_path / "closed"))
    monkeypatch.setenv(_wire.SOCKET_VARIABLE, str(tmp_path / path))
    with tracer.tool_call("shell"):
        tracer.background()
    assert not _wire._Late.messages


def test_listener_may_change_between_calls(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracer.tool_call("first", id="1"):
        monkeypatch.delenv(_wire.SOCKET_VARIABLE)
        with tracer.tool_call("second", id="2"):
            pass
    assert [(message.type, message.fields["id"]) for message in listener.messages()] == [
        ("call_start", "1"),
        ("call_end", "1"),
    ]


def test_full_queue_neither_blocks_nor_loses_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        monkeypatch.setenv(_wire.SOCKET_VARIABLE, str(tmp_path / "deaf"))
        fill(deaf)
        # What makes a socket wait that was not born non-blocking.
        socket.setdefaulttimeout(DEADLINE * 2)
        try:
            agent = threading.Thread(target=_fifty_calls, daemon=True)
            agent.start()
            agent.join(DEADLINE)
            assert not agent.is_alive()
        finally:
            socket.setdefaulttimeout(None)
        # None of the 50 forks, which nobody could tell apart any more.
        assert len(_wire._Late.messages) == 102

        told = drain(deaf)
        while _wire._Late.messages:
            _wire._send_late()
            told += drain(deaf)
        with tracer.tool_call("last", id="last"):
            pass
        told += drain(deaf)
    expected = [("call_start", "first")]
    for number in range(50):
        expected += [("call_start", str(number)), ("call_end", str(number))]
    expected += [("call_end", "first"), ("call_start", "last"), ("call_end", "last")]
    assert [(fields["type"], fields["id"]) for fields in told] == expected
    times = [fields["at"] for fields in told]
    assert times == sorted(times)


def test_what_came_late_is_sent_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        monkeypatch.setenv(_wire.SOCKET_VARIABLE, str(tmp_path / "deaf"))
        fill(deaf)
        with tracer.tool_call("shell", id="1"):
            drain(deaf)
        told = drain(deaf)
    assert [(fields["type"], fields["id"]) for fields in told] == [("call_start", "1"), ("call_end", "1")]


def fill(deaf: socket.socket) -> None:
    """Sends empty messages until no more are taken."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(BlockingIOError):
        while True:
            sender.sendto(b"{}", socket.MSG_DONTWAIT, deaf.getsockname())


def drain(deaf: socket.socket) -> list[dict[str, Any]]:
    """Takes all that is in the queue."""
    messages = []
    with contextlib.suppress(BlockingIOError):
        while True:
            messages.append(json.loads(deaf.recv(1 << 17, socket.MSG_DONTWAIT)))
    return [message for message in messages if message]


def _fifty_calls() -> None:
    with tracer.tool_call("first", id="first"):
        for number in range(50):
            with tracer.tool_call("shell", id=str(number)):
                announce()


def test_late_messages_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        monkeypatch.setenv(_wire.SOCKET_VARIABLE, str(tmp_path / "deaf"))
        for _ in range(1_000):
            with tracer.tool_call("shell"):
                pass
        assert len(_wire._Late.messages) == _wire._Late.messages.maxlen
    (tmp_path / "deaf").unlink()
    with tracer.tool_call("shell"):
        pass
    assert not _wire._Late.messages
