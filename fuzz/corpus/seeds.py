#!/usr/bin/env python3
"""Writes the seeds: short lives for `records` and `core`, one file of each format for `procfs`,
one datagram and one hook's input of each type for `announcement`, and one frame of each kind for `tap`.
Whether records are of the version that tracer reads is tested: `tracer/tests/seeds.rs`."""

import json
import struct
from pathlib import Path

HERE = Path(__file__).parent


VERSION = 3
"""`tracer_common::RECORD_VERSION`"""


def header(kind, pid, start, at, flags=0):
    """`tracer_common::Header`"""
    return struct.pack("<BBHIQQ", kind, VERSION, flags, pid, start, at)


def fork(pid, start, forker, forker_start, at, root=0):
    """`tracer_common::ForkRecord`"""
    starts = struct.pack("<QQQ", forker_start, forker_start, 1)
    return header(1, pid, start, at, root) + starts + struct.pack("<8I", forker, forker, pid, pid, 0, 1, forker, 0)


def execed(pid, start, at):
    """`tracer_common::ExecRecord`"""
    exe, args, markers = b"/bin/sh", b"sh\0-c\0true\0", b"TRACER_AGENT=a\0"
    lengths = struct.pack("<QIIHHHH", 1, 0, 0, len(exe), len(args), len(markers), 0)
    return header(2, pid, start, at) + lengths + exe + args + markers


def exited(pid, start, parent, parent_start, at, status=0):
    return header(3, pid, start, at) + struct.pack("<QII", parent_start, parent, status)


def freed(pid, start, at):
    return header(4, pid, start, at)


def unreaped(pid, start, parent, parent_start, at):
    return header(8, pid, start, at) + struct.pack("<Q6I", parent_start, parent, 0, 0, 0, 0, 0)


def signalled(pid, start, sender, at):
    return header(6, pid, start, at) + struct.pack("<QII16s", 1, sender, 9, b"kill")


def batch(*records):
    return b"".join(struct.pack("<I", len(record)) + record for record in records)


MS = 1_000_000
RECORDS = {
    "clean": batch(
        fork(10, 100, 5, 1, 101, root=1), execed(10, 100, 102), fork(11, 200, 10, 100, 201),
        exited(11, 200, 10, 100, 300), freed(11, 200, 301), exited(10, 100, 5, 1, 400),
    ),
    "zombie": batch(
        fork(10, 100, 5, 1, 101, root=1), fork(11, 200, 10, 100, 201),
        exited(11, 200, 10, 100, 300), unreaped(11, 200, 10, 100, 5000 * MS),
        exited(10, 100, 5, 1, 5000 * MS + 1),
    ),
    "killed": batch(
        fork(10, 100, 5, 1, 101, root=1), fork(11, 200, 10, 100, 201), fork(12, 250, 11, 200, 251),
        signalled(11, 200, 10, 300), exited(11, 200, 10, 100, 301, status=9),
        header(7, 12, 250, 302), header(5, 11, 200, 303) + struct.pack("<QII", 100, 10, 0),
        freed(11, 200, 304), exited(10, 100, 5, 1, 400),
    ),
}


def step(kind, flags=0, who=0, other=0, third=0, at=0, rest=b""):
    """One step of `core`: see `Step` in fuzz_targets/core.rs."""
    return (bytes([kind, flags, who, other, third, 0, 0, 0]) + struct.pack(">H", at) + rest).ljust(16, b"\0")[:16]


CORE = {
    "life": step(0, 1, 1, 0, 0, 1) + step(0, 0x80, 2, 1, 1, 2) + step(2, 0, 2, 0, 0, 3)
    + step(3, 0, 2, 0, 1, 4) + step(5, 2, 2, 0, 0, 5) + step(3, 0, 1, 0, 0, 6),
    "orphan": step(0, 1, 1, 0, 0, 1) + step(0, 0x80, 2, 1, 1, 2) + step(0, 0x80, 3, 2, 2, 3)
    + step(3, 0, 2, 0, 1, 4) + step(8, 0x3F, 3, 1, 1, 5) + step(3, 0, 1, 0, 0, 6) + step(240, at=60000)
    + step(249) + step(248),
    "recovered": step(0, 1, 1, 0, 0, 1) + bytes([250, 0x16, 1, 1, 9, 5]) + b"\0\0\0\x09" + bytes(range(6))
    + bytes([250, 0, 1, 1, 0, 0]) + b"\0" * 10 + step(3, 0, 1, 0, 0, 6),
}



def btf():
    """A `task_struct` with one field of its own and one in an anonymous union, and a tracepoint."""
    names = [b"", b"task_struct", b"pid", b"tgid", b"btf_trace_sched_process_exit", b"int"]
    strings = b"\0".join(names) + b"\0"
    at = {name: strings.index(b"\0" + name + b"\0") + 1 for name in names[1:]} | {b"": 0}

    def kind(number, members=0):
        return number << 24 | members

    def one(name, info, size_or_type, *rest):
        return struct.pack(f"<{3 + len(rest)}I", at[name], info, size_or_type, *rest)

    types = (
        one(b"int", kind(1), 4, 32)
        + one(b"", kind(5, 1), 4, at[b"tgid"], 1, 0)
        + one(b"task_struct", kind(4, 2), 8, at[b"pid"], 1, 0, 0, 2, 32)
        + one(b"btf_trace_sched_process_exit", kind(8), 5)
        + one(b"", kind(2), 6)
        + one(b"", kind(13, 3), 0, 0, 7, 0, 7, 0, 1)
        + one(b"", kind(2), 3)
    )
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings


BTF = {"task": btf()}

PROCFS = {
    "stat": b"4203 (a (b) c) S 4200 4200 4200 0 -1 4194560 120 0 0 0 1 2 0 0 20 0 1 0 987654 9000000 300 "
    b"18446744073709551615 1 1 0 0 0 0 0 16781312 134217730 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
    "status": b"Name:\tpython3\nState:\tS (sleeping)\nTgid:\t4203\nPid:\t4203\nPPid:\t4200\n"
    b"VmRSS:\t   18636 kB\nNSpid:\t4203\t12\nSigCgt:\t0000000000004002\n"
    b"CapEff:\t000001ffffffffff\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n",
    "cgroup": b"9:name=systemd:/user.slice\n8:cpu,cpuacct:/\n0::/system.slice/agent.service\n",
    "mountinfo": b"36 35 98:0 /root /point rw,noatime master:1 - ext4 /dev/sda1 rw,errors=continue\n"
    b"40 36 0:44 / /mnt/with\\040space rw - nfs4 server:/export rw,vers=4.2\n"
    b"41 36 0:45 / /empty rw -  fuse.sshfs  rw\n",
    "syscall": b"0 0x3 0x7ffd00001000 0x400 0x0 0x0 0x0 0x7ffd00000ff0 0x7f0000001234\n",
    "fdinfo": b"pos:\t0\nflags:\t0100002\nmnt_id:\t29\nino:\t1044\n",
    "link": b"socket:[12345]",
    "release": b"6.18.0-rc1-amd64",
    "tcp": b"   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 12345 1\n",
    "tcp6": b"   1: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A "
    b"00000000:00000000 00:00000000 00000000     0 0 54321 1\n",
    "unix": b"0000000000000000: 00000002 00000000 00010000 0001 01 777 /run/x.sock\n"
    b"0000000000000000: 00000002 00000000 00010000 0001 01 778 @abstract\n",
}

MESSAGES = [
    {"type": "call_start", "at": 1, "agent": "claude-code", "pid": 7, "session": "s", "id": "a", "name": "Bash",
     "summary": "x", "command": "npm run dev", "span": "00f067aa0ba902b7", "background": "b1"},
    {"type": "spawn", "id": "a", "thread": 9},
    {"type": "background", "id": "a", "reason": "x"},
    {"type": "call_end", "id": "a", "status": "cancelled", "background": True},
    {"type": "calls_end", "except": ["a"]},
    {"type": "keep", "ttl": 1.5, "reason": "x", "process": 4},
    {"type": "findings", "tell": True},
]
ANSWER = {"v": 1, "findings": [{"id": 3, "kind": "outlived_call", "pid": 123, "name": "node", "args": ["node"],
          "listening": ["127.0.0.1:5173"], "tool_call": {"id": "a", "name": "Bash", "summary": "npm run dev",
          "confidence": "strong"}, "seconds": 12.5}], "more": 1}
CALL = {"session_id": "s", "tool_name": "Bash", "tool_input": {"command": "make", "run_in_background": True},
        "tool_use_id": "a"}
HOOKS = {
    "before": {**CALL, "hook_event_name": "PreToolUse"},
    "after": {**CALL, "hook_event_name": "PostToolUse", "tool_response": {"backgroundTaskId": "b1"}},
    "batch": {"session_id": "s", "hook_event_name": "PostToolBatch", "tool_calls": [CALL]},
    "stop": {"session_id": "s", "hook_event_name": "Stop", "background_tasks": [{"id": "b1", "type": "shell"}]},
    "gemini": {**CALL, "hook_event_name": "BeforeTool", "tool_name": "run_shell_command"},
}
ANNOUNCEMENT = {
    name: json.dumps(content).encode()
    for name, content in [
        *((message["type"], {"v": 1, **message}) for message in MESSAGES),
        ("answer", ANSWER),
        *HOOKS.items(),
    ]
}

def field(number, payload):
    """A field of Protocol Buffers: a number, or bytes."""
    if isinstance(payload, int):
        return bytes([number << 3]) + varint(payload)
    return bytes([number << 3 | 2]) + varint(len(payload)) + payload


def varint(number):
    rest, low = number >> 7, number & 0x7F
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def frame(number, payload=b""):
    message = field(number, payload)
    return struct.pack("<I", len(message)) + message


ID = field(1, 11) + field(2, 200)
# `Ask` and `Told` of tracer/src/tap/wire.rs.
TAP = {
    "asks": frame(1, 7) + frame(2) + frame(3) + frame(4) + frame(5, field(1, ID) + field(2, ID)) + frame(6, ID)
    + frame(7),
    "told": frame(1, field(1, b"TRACER_AGENT")) + frame(3, RECORDS["clean"]) + frame(4)
    + frame(5, field(1, 1) + field(5, 3)) + frame(6, field(1, field(1, ID)) + field(2, 1))
    + frame(7, field(1, b"")) + frame(8, field(1, 1)) + frame(3, RECORDS["zombie"]) + frame(9),
    "refused": frame(2, b"trace for another user"),
}

for folder, seeds in {"records": RECORDS, "core": CORE, "procfs": PROCFS, "btf": BTF,
                      "announcement": ANNOUNCEMENT, "tap": TAP}.items():
    (HERE / folder).mkdir(exist_ok=True)
    for name, content in seeds.items():
        (HERE / folder / name).write_bytes(content)
