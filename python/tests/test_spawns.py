"""Whose a spawned process is: announced by the thread that forks it, and a cookie in its environment."""

from __future__ import annotations

import asyncio
import contextvars
import multiprocessing
import os
import pty
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any, Callable

import pytest

import tracer
from conftest import DEADLINE, Children, Listener, in_threads, python
from tracer import _spawn

CALLS = [f"call_{number}" for number in range(16)]
COOKIE = "TRACER_TOOL_CALL_ID"


def fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def fork_in_a_terminal() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(terminal)


def posix_spawn() -> None:
    os.waitpid(os.posix_spawn("/bin/true", ["true"], os.environ), 0)


def posix_spawnp() -> None:
    os.waitpid(os.posix_spawnp("true", ["true"], os.environ), 0)


def missing_program() -> None:
    with pytest.raises(OSError, match="missing"):
        subprocess.run(["/missing"], check=False)


def process(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=time.time)
    child.start()
    child.join()
    child.close()


WAYS: dict[str, Callable[[], object]] = {
    "Popen": lambda: subprocess.run(["/bin/true"], check=True),
    "Popen by posix_spawn": lambda: subprocess.run(["/bin/true"], check=True, close_fds=False),
    "Popen without the program": missing_program,
    "check_output": lambda: subprocess.check_output("true", shell=True),
    "os.system": lambda: os.system("true"),
    "os.popen": lambda: os.popen("true").close(),
    "os.spawnv": lambda: os.spawnv(os.P_WAIT, "/bin/true", ["true"]),
    "os.spawnlp": lambda: os.spawnlp(os.P_WAIT, "true", "true"),
    "os.posix_spawn": posix_spawn,
    "os.posix_spawnp": posix_spawnp,
    "os.fork": fork,
    "pty.fork": fork_in_a_terminal,
    "multiprocessing fork": lambda: process("fork"),
    "multiprocessing spawn": lambda: process("spawn"),
    "asyncio": lambda: asyncio.run(run_async("true")),
}


async def run_async(*command: str) -> None:
    child = await asyncio.create_subprocess_exec(*command)
    await child.wait()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("way", WAYS)
def test_spawn_is_announced_however_it_is_done(listener: Listener, way: str) -> None:
    WAYS[way]()  # multiprocessing starts its resource tracker now, which is no call's.
    assert listener.messages() == []
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with tracer.tool_call("shell", id="call_1"):
        WAYS[way]()
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    WAYS[way]()
    start, spawn, end = listener.messages()
    assert (start.type, end.type) == ("call_start", "call_end")
    assert before <= spawn.fields.pop("at") <= after
    assert spawn.fields == {"v": 1, "type": "spawn", "id": "call_1", "thread": threading.get_native_id()}
    assert spawn.sender == os.getpid()


def test_announcement_precedes_the_child(listener: Listener) -> None:
    print_time = "import time; print(time.clock_gettime_ns(time.CLOCK_BOOTTIME))"
    with tracer.tool_call("python"):
        said = subprocess.check_output([sys.executable, "-c", print_time])
    (spawn,) = listener.messages("spawn")
    assert spawn.fields["at"] < int(said)


def test_helpers_of_multiprocessing_belong_to_no_call(listener: Listener) -> None:
    told = python(
        """
        import multiprocessing, time, tracer

        if __name__ == "__main__":
            for method in ["spawn", "forkserver"]:
                with tracer.tool_call(method, id=method):
                    child = multiprocessing.get_context(method).Process(target=time.time)
                    child.start()
                    child.join()
        """
    )
    assert told == ""
    # One for the process, none for the resource tracker and the fork server.
    assert listener.ids("spawn") == ["spawn"]


@pytest.mark.parametrize("script", ["echo $TRACER_TOOL_CALL_ID"])
@pytest.mark.parametrize(
    "env",
    [
        None,
        {},
        {"PATH": "/bin"},
        {b"PATH": b"/bin"},
        {b"PATH": b"/bin", "A": "b"},
        os.environ,
        os.environb,
    ],
    ids=["None", "empty", "str", "bytes", "mixed", "environ", "environb"],
)
def test_cookie_joins_any_environment(listener: Listener, env: Mapping[Any, Any] | None, script: str) -> None:
    given = None if env is None else dict(env)
    with tracer.tool_call("shell", id="call_1"):
        by_name = subprocess.check_output(["/bin/sh", "-c", script], env=env)
        by_position = subprocess.Popen(
            ["/bin/sh", "-c", script], -1, None, None, subprocess.PIPE, None, None, True, False, None, env
        )
        assert COOKIE not in os.environ
    assert by_name == by_position.communicate()[0] == b"call_1\n"
    assert (None if env is None else dict(env)) == given
    assert subprocess.check_output(["/bin/sh", "-c", script], env=env) == b"\n"


def test_rest_of_the_environment_is_the_same(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environb, b"BYTES", b"\xff\xfe")
    alone = subprocess.check_output("env", env=os.environ)
    with tracer.tool_call("shell", id="call_1"):
        inside = subprocess.check_output("env")
    cookie = b"TRACER_TOOL_CALL_ID=call_1\n"
    assert cookie in inside
    assert sorted(inside.replace(cookie, b"").splitlines()) == sorted(alone.splitlines())


def test_cookie_has_the_bytes_of_the_id_in_any_locale(listener: Listener) -> None:
    said = python(
        """
        import subprocess, sys, tracer
        with tracer.tool_call("shell", id="\\u20ac\\u00e9"):
            said = subprocess.check_output(["/bin/sh", "-c", "echo $TRACER_TOOL_CALL_ID"])
        print(sys.getfilesystemencoding(), said)
        """,
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )
    encoding, cookie = said.split()
    assert encoding == "ascii"
    assert cookie == repr("\u20ac\u00e9\n".encode())
    assert listener.ids("spawn") == ["\u20ac\u00e9"]


@pytest.mark.parametrize("key", [COOKIE, COOKIE.encode()], ids=["str", "bytes"])
def test_inherited_cookie_is_replaced_and_a_chosen_one_stays(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, key: str | bytes
) -> None:
    monkeypatch.setenv(COOKIE, "of-the-outer-agent")
    script = ["/bin/sh", "-c", "echo $TRACER_TOOL_CALL_ID"]

    def env(value: str) -> dict[Any, Any]:
        return {key: value if isinstance(key, str) else value.encode()}

    with tracer.tool_call("shell", id="call_1"):
        assert subprocess.check_output(script, env=env("of-the-outer-agent")) == b"call_1\n"
        assert subprocess.check_output(script) == b"call_1\n"
        assert listener.ids("spawn") == ["call_1", "call_1"]
        assert subprocess.check_output(script, env=env("chosen")) == b"chosen\n"


@pytest.mark.parametrize("env", [{"A=B": "c"}, {"A": None}, ["A=b"], 7, {"A": "b\0c"}])
def test_what_is_wrong_with_an_environment_is_said_as_ever(listener: Listener, env: Any) -> None:
    with pytest.raises(Exception) as alone:  # noqa: PT011
        subprocess.run(["/bin/true"], env=env, check=False)
    with pytest.raises(Exception) as inside, tracer.tool_call("shell"):  # noqa: PT011
        subprocess.run(["/bin/true"], env=env, check=False)
    assert (type(inside.value), str(inside.value)) == (type(alone.value), str(alone.value))


def test_calls_in_parallel_threads(listener: Listener, children: Children) -> None:
    def call(id: str) -> None:
        with tracer.tool_call("shell", id=id):
            for _ in range(3):
                children.run(id)

    in_threads([partial(call, id) for id in CALLS])
    assert len(children.all) == 48
    children.check(listener)


def test_calls_in_parallel_tasks(listener: Listener, children: Children) -> None:
    async def call(id: str) -> None:
        async with tracer.tool_call("shell", id=id):
            await children.run_async(id)
            await asyncio.gather(children.run_async(id), children.run_async(id))

    async def agent() -> None:
        await asyncio.gather(*map(call, CALLS))

    asyncio.run(agent())
    assert len(children.all) == 48
    children.check(listener)


def test_calls_in_parallel_tasks_hand_work_to_threads(listener: Listener, children: Children) -> None:
    async def call(id: str, pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        async with tracer.tool_call("shell", id=id):
            await asyncio.gather(
                asyncio.to_thread(children.run, id),
                loop.run_in_executor(None, children.run, id),
                loop.run_in_executor(pool, children.run, id),
            )

    async def agent() -> None:
        with ThreadPoolExecutor(2) as pool:
            await asyncio.gather(*[call(id, pool) for id in CALLS])

    asyncio.run(agent())
    assert len(children.all) == 48
    children.check(listener)


def test_call_hands_work_to_a_loop_in_another_thread(listener: Listener, children: Children) -> None:
    loop = asyncio.new_event_loop()

    def call(id: str) -> None:
        with tracer.tool_call("shell", id=id):
            asyncio.run_coroutine_threadsafe(children.run_async(id), loop).result(DEADLINE)

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        in_threads([partial(call, id) for id in CALLS])
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE)
        loop.close()
    children.check(listener)


def test_pool_thread_belongs_to_the_call_only_for_its_work(listener: Listener, children: Children) -> None:
    with ThreadPoolExecutor(1) as pool:
        with tracer.tool_call("shell", id="call_1"):
            pool.submit(children.run, "call_1").result(DEADLINE)
        assert pool.submit(tracer.current).result(DEADLINE) is None
        pool.submit(children_alone).result(DEADLINE)
        with tracer.tool_call("shell", id="call_2"):
            pool.submit(children.run, "call_2").result(DEADLINE)
    children.check(listener)


def test_pool_thread_is_its_own_between_two_works(listener: Listener) -> None:
    seen: list[object] = []
    release, called = threading.Event(), threading.Event()

    def done(_: object) -> None:
        seen.append(tracer.current())
        called.set()

    with ThreadPoolExecutor(1, initializer=lambda: seen.append(tracer.current())) as pool:
        with tracer.tool_call("shell", id="call_1"):
            work = pool.submit(release.wait, DEADLINE)
        work.add_done_callback(done)
        release.set()
        assert called.wait(DEADLINE)
    assert seen == [None, None]


def children_alone() -> None:
    said = subprocess.check_output(["/bin/sh", "-c", "echo ${TRACER_TOOL_CALL_ID-none}"])
    assert said == b"none\n"


def test_thread_started_in_a_call_belongs_to_it(listener: Listener, children: Children) -> None:
    class OwnRun(threading.Thread):
        def run(self) -> None:
            children.run("call_1")

    with tracer.tool_call("shell", id="call_1"):
        threads = [
            threading.Thread(target=children.run, args=("call_1",)),
            threading.Timer(0, children.run, args=("call_1",)),
            OwnRun(),
        ]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert "run" not in vars(thread)
    assert len(children.all) == 3
    children.check(listener)


def test_thread_that_cannot_start_fails_as_ever(listener: Listener) -> None:
    thread = threading.Thread(target=list)
    thread.start()
    thread.join(DEADLINE)
    with tracer.tool_call("shell"), pytest.raises(RuntimeError, match="once"):
        thread.start()
    assert "run" not in vars(thread)


def test_bound_function_takes_its_call_along(listener: Listener, children: Children) -> None:
    work: queue.Queue[Callable[[], object] | None] = queue.Queue()

    def worker() -> None:
        while True:
            job = work.get()
            if job is None:
                return
            job()

    def call(id: str) -> None:
        with tracer.tool_call("shell", id=id):
            work.put(tracer.bound(partial(children.run, id)))

    with tracer.tool_call("first"), tracer.outside_calls():
        thread = threading.Thread(target=worker)
        thread.start()
    in_threads([partial(call, id) for id in CALLS])
    work.put(None)
    thread.join(DEADLINE)
    assert len(children.all) == 16
    children.check(listener)


def test_bound_function_of_no_call_runs_in_none(listener: Listener) -> None:
    job = tracer.bound(tracer.current)
    with tracer.tool_call("shell"):
        assert job() is None


def test_bound_coroutine_function_takes_its_call_along(listener: Listener, children: Children) -> None:
    with tracer.tool_call("shell", id="call_1"):
        job = tracer.bound(children.run_async)
    with tracer.tool_call("shell", id="call_2") as call:

        async def agent() -> None:
            assert await job("call_1") == "call_1"
            assert tracer.current() is call

        asyncio.run(agent())
    children.check(listener)


def test_bound_function_looks_like_itself(listener: Listener) -> None:
    with tracer.tool_call("shell"):
        job = tracer.bound(children_alone)
        again = tracer.bound(job)
    assert (job.__name__, again.__name__) == ("children_alone", "children_alone")
    assert again.__wrapped__ is job  # type: ignore[attr-defined]


def test_shared_pool_of_another_kind_takes_bound_functions(listener: Listener, children: Children) -> None:
    def call(id: str, pool: ThreadPool) -> None:
        with tracer.tool_call("shell", id=id):
            pool.apply(tracer.bound(children.run), (id,))

    with ThreadPool(4) as pool:
        in_threads([partial(call, id, pool) for id in CALLS])
    assert len(children.all) == 16
    children.check(listener)


def cookie_of_a_child() -> str:
    said = subprocess.check_output(["/bin/sh", "-c", "echo ${TRACER_TOOL_CALL_ID-none}"])
    return said.decode().strip()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_process_of_a_shared_pool_takes_bound_functions(listener: Listener, method: str) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        with tracer.tool_call("shell", id="call_1"):
            first = pool.submit(tracer.bound(cookie_of_a_child)).result(DEADLINE)
        with tracer.tool_call("shell", id="call_2"):
            second = pool.submit(tracer.bound(cookie_of_a_child)).result(DEADLINE)
        # A copy of the parent's context is no call of the child.
        unbound = pool.submit(cookie_of_a_child).result(DEADLINE)
    assert (first, second, unbound) == ("call_1", "call_2", "none")
    # The worker is not the agent, and announces nothing.
    assert {message.sender for message in listener.messages()} == {os.getpid()}


def speak_of_the_call() -> int:
    tracer.background("a server")
    return os.getpid()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_worker_process_speaks_for_the_agent_whose_call_it_is(listener: Listener) -> None:
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, mp_context=context) as pool, tracer.tool_call("shell", id="call_1"):
        worker = pool.submit(tracer.bound(speak_of_the_call)).result(DEADLINE)
    (background,) = listener.messages("background")
    assert background.sender == worker
    assert (background.fields["id"], background.fields["pid"]) == ("call_1", os.getpid())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_forked_child_does_not_speak_for_the_call(listener: Listener) -> None:
    with tracer.tool_call("shell", id="call_1"):
        pid = os.fork()
        if pid == 0:
            try:
                assert tracer.current() is None
                subprocess.run(["/bin/true"], check=True)
                tracer.background("says the child")
            except BaseException:
                os._exit(1)
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert [message.type for message in listener.messages()] == ["call_start", "spawn", "call_end"]
    assert {message.sender for message in listener.messages()} == {os.getpid()}


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_forked_child_announces_its_own_calls(listener: Listener) -> None:
    with tracer.tool_call("shell", id="call_1"):
        pid = os.fork()
        if pid == 0:
            try:
                with tracer.tool_call("inner", id="call_2"):
                    subprocess.run(["/bin/true"], check=True)
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
    told = [(message.sender, message.type, message.fields["id"]) for message in listener.messages()]
    assert told == [
        (os.getpid(), "call_start", "call_1"),
        (os.getpid(), "spawn", "call_1"),
        (pid, "call_start", "call_2"),
        (pid, "spawn", "call_2"),
        (pid, "call_end", "call_2"),
        (os.getpid(), "call_end", "call_1"),
    ]


def test_generator_does_not_leave_its_call_behind(listener: Listener) -> None:
    def lines() -> Generator[str, None, None]:
        with tracer.tool_call("lines"):
            yield "first"
            yield "second"

    context = contextvars.copy_context()
    generator = lines()
    assert context.run(next, generator) == "first"
    generator.close()
    assert tracer.current() is None
    (end,) = listener.messages("call_end")
    assert end.fields["status"] == "cancelled"


def test_nothing_is_changed_where_nobody_listens(no_listener: None) -> None:
    python(
        """
        import subprocess, sys, threading, tracer
        from concurrent.futures import ThreadPoolExecutor

        before = subprocess.Popen.__init__, threading.Thread.start, ThreadPoolExecutor.submit
        tracer.install()
        with tracer.tool_call("shell"):
            subprocess.run(["true"])
        assert before == (subprocess.Popen.__init__, threading.Thread.start, ThreadPoolExecutor.submit)
        assert not tracer._spawn._State.done
        """
    )


def test_what_is_changed_can_be_chosen(listener: Listener) -> None:
    said = python(
        """
        import subprocess, threading, tracer
        tracer.install(environment=False, threads=False)
        script = ["/bin/sh", "-c", "echo ${TRACER_TOOL_CALL_ID-none}"]
        with tracer.tool_call("shell", id="call_1"):
            print(subprocess.check_output(script))
            thread = threading.Thread(target=subprocess.run, args=(["true"],))
            thread.start()
            thread.join()
            print(tracer.environment())
        """
    )
    assert said.splitlines() == ["b'none\\n'", "{'TRACER_TOOL_CALL_ID': 'call_1'}"]
    assert listener.ids("spawn") == ["call_1"]


def test_everything_is_installed_once(listener: Listener) -> None:
    python(
        """
        import subprocess, sys, threading, tracer

        hooks = []
        add, sys.addaudithook = sys.addaudithook, lambda hook: (hooks.append(hook), add(hook))
        together = threading.Barrier(16)

        def call():
            together.wait()
            with tracer.tool_call("shell"):
                subprocess.run(["true"], check=True)

        threads = [threading.Thread(target=call) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(hooks) == 1
        """
    )


def test_interpreter_may_end_inside_of_a_call(listener: Listener) -> None:
    python(
        """
        import atexit, subprocess, sys, threading, tracer

        class Late:
            def __del__(self):
                with tracer.tool_call("too late"):
                    subprocess.run(["/bin/true"])

        late = Late()
        atexit.register(subprocess.run, ["true"])
        call = tracer.tool_call("last", id="call_1").__enter__()
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        sys.exit(0)
        """
    )
    assert "call_1" in listener.ids("spawn")


def test_python_that_was_told_to_warn_finds_nothing_to_warn_of(listener: Listener) -> None:
    said = python(
        """
        import gc, subprocess, tracer
        for _ in range(3):
            with tracer.tool_call("shell"):
                subprocess.run(["true"])
        gc.collect()
        print("done")
        """,
        env={"PYTHONDEVMODE": "1"},
    )
    assert said == "done\n"


def test_uvloop(listener: Listener, children: Children) -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")

    async def call(id: str) -> None:
        async with tracer.tool_call("shell", id=id):
            await children.run_async(id)
            shell = await asyncio.create_subprocess_shell("test $TRACER_TOOL_CALL_ID = " + id)
            assert await shell.wait() == 0

    async def agent() -> None:
        await asyncio.gather(*map(call, CALLS))

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(agent())
    finally:
        loop.close()
    assert [child for child in children.all if child.cookie != child.call] == []
    assert sorted(listener.ids("spawn")) == sorted(CALLS * 2)


def test_audit_hook_looks_at_forks_only() -> None:
    assert "os.fork" in _spawn.FORKS
    assert "open" not in _spawn.FORKS
