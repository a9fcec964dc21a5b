//! Outcomes built by hand for the tests of all sinks.

use std::time::Duration;

use proptest::prelude::*;

use crate::lineage::model::{
    Adopter, Agent, Ancestor, Attribution, Blocked, Cause, CauseCode, Confidence, DirectChild,
    Exit, ExitStatus, Finding, FindingKind, FindingState, Invocation, Kept, Nanos, Outcome,
    OwnCgroup, Parent, Pids, Process, ProcessId, Resources, Sender, Server, Sleeper, Source, Stats,
    Stream, ToolCall, Verdict, Waits,
};

/// Start of every sample run, boot time.
const START: u64 = 1_000_000_000_000;
/// End of COMMAND.
const END: u64 = START + 1_300_000_000;
/// End of the grace period.
const JUDGED: u64 = END + 2_000_000_000;
/// The boot was at 2026-03-01T12:00:00Z.
const BOOT: i64 = 1_772_366_400_000_000_000;

fn words(args: &[&str]) -> Vec<Vec<u8>> {
    args.iter().map(|arg| arg.as_bytes().to_vec()).collect()
}

pub(crate) fn exited(code: u8) -> Exit {
    Exit { status: Some(ExitStatus::Code(code)), sender: None, oom: false, at: Nanos(END) }
}

pub(crate) fn killed(signal: u8, sender: Option<(&str, u32)>) -> Exit {
    let sender = sender.map(|(name, pid)| Sender { pid, name: name.into() });
    Exit { status: Some(ExitStatus::Signal(signal)), sender, oom: false, at: Nanos(END) }
}

/// A cgroup that the kubelet and containerd have systemd make.
const IN_A_POD: &str = "/kubepods.slice/kubepods-burstable.slice\
/kubepods-burstable-pod7d7d1f3b_0a6f_4c3f_9a6b_2f1e0d9c8b7a.slice\
/cri-containerd-4fa6e0f0c6786287e131c3852c58a2e01cc697a68231826813597e4994f1d6e2.scope";

pub(crate) fn process(pid: u32, args: &[&str]) -> Process {
    let name = args.first().map_or("", |arg| arg.rsplit('/').next().unwrap_or_default());
    Process {
        id: ProcessId { pid, start: START + u64::from(pid) * 1000 },
        pids: Pids { host: pid, local: Some(pid), namespace: pid, level: 0 },
        ppid: Some(4200),
        pgid: Some(4200),
        sid: Some(4000),
        name: name.into(),
        exe: Some(format!("/usr/bin/{name}").into_bytes()),
        args: words(args),
        args_truncated: false,
        cwd: Some(b"/srv/app".to_vec()),
        state: Some('S'),
        cgroup: Some(b"/user.slice".to_vec()),
        pod: None,
    }
}

pub(crate) fn ancestor(pid: u32, args: &[&str], exit: Option<Exit>) -> Ancestor {
    let Process { name, args, .. } = process(pid, args);
    Ancestor { pid, name, args, args_truncated: false, exit }
}

fn agent() -> Ancestor {
    ancestor(4200, &["python3", "leaky_agent.py"], Some(exited(0)))
}

fn finding(id: u32, kind: FindingKind, process: Process, code: CauseCode) -> Finding {
    Finding {
        id,
        kind,
        state: FindingState::Open,
        counted: true,
        process,
        lineage: vec![agent()],
        lineage_elided: 0,
        parent: Some(Parent {
            pid: 4200,
            name: b"python3".to_vec(),
            exit: Some(exited(0)),
            waits: None,
        }),
        adopter: None,
        exit: None,
        cause: Cause { code, text: "python3[4200] ended and left it.".into(), hint: String::new() },
        agent: None,
        tool_call: None,
        resources: None,
        blocked: None,
        action: None,
        since: Nanos(END),
        until: Nanos(JUDGED),
    }
}

/// Nothing was left.
pub(crate) fn clean() -> Outcome {
    Outcome {
        verdict: Verdict::Clean,
        invocation: Invocation {
            id: "1000000000000-4200".into(),
            parent: None,
            agent: None,
            command: words(&["python3", "leaky_agent.py"]),
            root: process(4200, &["python3", "leaky_agent.py"]),
            started_at: Nanos(START),
            exit: Some(exited(0)),
            cgroup: None,
        },
        findings: Vec::new(),
        kept: Vec::new(),
        cleanup: None,
        on_request: Vec::new(),
        agents: Vec::new(),
        tool_calls: Vec::new(),
        stats: Stats { processes: 14, events: 61, peak_live: 6, ..Stats::default() },
        notes: Vec::new(),
        judged_at: Nanos(JUDGED),
        epoch_offset: BOOT,
    }
}

/// The same in a cgroup of its own.
pub(crate) fn in_cgroup() -> Outcome {
    let mut outcome = clean();
    outcome.invocation.cgroup = Some(OwnCgroup {
        path: b"/ci/tracer-1-2-3".to_vec(),
        cpu_user: Some(Duration::from_micros(1_250_000)),
        cpu_system: Some(Duration::from_millis(450)),
        memory_peak: Some(45 << 20),
        pids_peak: Some(7),
        ..OwnCgroup::default()
    });
    outcome
}

fn leaked(findings: Vec<Finding>) -> Outcome {
    Outcome { verdict: Verdict::Leaked, findings, ..clean() }
}

fn init() -> Option<Adopter> {
    Some(Adopter { pid: 1, name: b"systemd".to_vec(), is_init: true })
}

fn parent(pid: u32, name: &str, exit: Option<Exit>) -> Option<Parent> {
    Some(Parent { pid, name: name.into(), exit, waits: None })
}

fn server() -> Finding {
    let server = process(4203, &["python3", "-m", "http.server", "3000"]);
    Finding {
        resources: Some(Resources {
            rss_bytes: Some(19_100_000),
            fds: Some(5),
            listening: words(&["127.0.0.1:3000"]),
            devices: Vec::new(),
            streams: vec![Stream::Stdout],
        }),
        adopter: init(),
        cause: Cause {
            code: CauseCode::AgentExitedWithoutCleanup,
            text: "python3[4200] exited while it ran and sent it no signal".into(),
            hint: "Keep the Popen object and call terminate() and wait() before exiting.".into(),
        },
        ..finding(1, FindingKind::Survivor, server, CauseCode::AgentExitedWithoutCleanup)
    }
}

fn grandchild() -> Finding {
    let shell = killed(9, Some(("python3", 4200)));
    Finding {
        lineage: vec![
            agent(),
            ancestor(4205, &["sh", "-c", "sleep 600 & wait"], Some(shell.clone())),
        ],
        parent: parent(4205, "sh", Some(shell)),
        adopter: init(),
        cause: Cause {
            code: CauseCode::ShellDiedChildSurvived,
            text: "the signal that ended sh[4205] did not reach it".into(),
            hint: "Start the shell in its own session and signal the process group.".into(),
        },
        resources: Some(Resources {
            rss_bytes: Some(900_000),
            fds: Some(3),
            streams: vec![Stream::Stdout, Stream::Stderr],
            ..Resources::default()
        }),
        ..finding(3, FindingKind::Survivor, process(4206, &["sleep", "600"]), CauseCode::Daemonized)
    }
}

fn zombie(id: u32, pid: u32) -> Finding {
    let waits = Waits { any: 0, this_child: 0, others: 2, last_other: Some(4203), after_death: 0 };
    Finding {
        process: Process { state: Some('Z'), cwd: None, ..process(pid, &["true"]) },
        exit: Some(Exit { at: Nanos(START + 100_000_000), ..exited(0) }),
        parent: Some(Parent {
            pid: 4200,
            name: b"python3".to_vec(),
            exit: Some(exited(0)),
            waits: Some(waits),
        }),
        cause: Cause {
            code: CauseCode::ParentWaitsForOthers,
            text: "python3[4200] waited for pid 4203 only, never for it".into(),
            hint: "Call Popen.wait() for every child, or waitpid(-1) in a loop.".into(),
        },
        since: Nanos(START + 100_000_000),
        until: Nanos(END),
        ..finding(id, FindingKind::Zombie, process(pid, &["true"]), CauseCode::ParentWaitsForOthers)
    }
}

fn daemon() -> Finding {
    let args = ["python3", "leaky_agent.py"];
    Finding {
        lineage: vec![agent(), ancestor(4212, &args, Some(exited(0)))],
        parent: parent(4212, "python3", Some(exited(0))),
        adopter: init(),
        cause: Cause {
            code: CauseCode::Daemonized,
            text: "it called setsid and its parent exited: a daemon".into(),
            hint: "Run it in the foreground, or allow it with --allow".into(),
        },
        ..finding(5, FindingKind::Survivor, process(4214, &args), CauseCode::Daemonized)
    }
}

/// A server on a port, a `sh -c` grandchild (an orphan first), a zombie, a daemon.
pub(crate) fn four_leaks() -> Outcome {
    let orphan = Finding { id: 2, kind: FindingKind::Orphan, counted: false, ..grandchild() };
    leaked(vec![server(), orphan, grandchild(), zombie(4, 4210), daemon()])
}

/// Children of one parent that it never waits for.
pub(crate) fn zombies(number: u32) -> Outcome {
    leaked((1..=number).map(|id| zombie(id, 5000 + id)).collect())
}

/// Alike servers, each of a shell of its own.
pub(crate) fn servers(number: u32) -> Outcome {
    let server = |id| {
        let shell = ancestor(6000 + id, &["sh", "-c", "node server.js"], Some(exited(143)));
        Finding {
            id,
            process: process(7000 + id, &["node", "server.js"]),
            parent: parent(shell.pid, "sh", shell.exit.clone()),
            lineage: vec![agent(), shell],
            resources: Some(Resources {
                rss_bytes: Some(100 << 20),
                fds: Some(20),
                listening: words(&[&format!("127.0.0.1:{}", 3000 + id)]),
                devices: words(&["/dev/nvidia0"]),
                streams: if id == 1 { vec![Stream::Stderr] } else { Vec::new() },
            }),
            ..server()
        }
    };
    leaked((1..=number).map(server).collect())
}

/// Zombies that their parent reaped late.
pub(crate) fn resolved(number: u32) -> Outcome {
    let mut outcome = zombies(number);
    outcome.verdict = Verdict::Clean;
    for finding in &mut outcome.findings {
        finding.state = FindingState::Resolved(Nanos(END));
        finding.counted = false;
    }
    outcome
}

/// Stuck on a mount, in a PID namespace, at the end of a deep lineage; COMMAND was killed;
/// one was kept; events were lost.
pub(crate) fn odd() -> Outcome {
    let stuck = Process {
        pids: Pids { host: 90_001, local: Some(812), namespace: 7, level: 2 },
        args_truncated: true,
        state: Some('D'),
        cgroup: Some(IN_A_POD.into()),
        ..process(90_001, &["kubectl", "cp", "pod:/x", "/mnt/x"])
    };
    let end = Exit { oom: true, ..killed(9, None) };
    let agent = ancestor(4200, &["claude"], Some(end.clone()));
    let shells = (0..30).map(|n| Ancestor {
        args_truncated: n == 29,
        ..ancestor(800 - n, &["bash", "-c", "..."], None)
    });
    let deep: Vec<Ancestor> = std::iter::once(agent.clone()).chain(shells).collect();
    let hidden = Process {
        pids: Pids { host: 90_002, local: None, namespace: 9, level: 3 },
        ..process(90_002, &["redis-server"])
    };
    let root = process(4200, &["claude"]);
    Outcome {
        verdict: Verdict::Inconclusive,
        invocation: Invocation {
            root,
            command: words(&["claude", "-p", "fix it"]),
            exit: Some(end),
            ..clean().invocation
        },
        findings: vec![
            Finding {
                lineage: deep,
                lineage_elided: 3,
                parent: None,
                counted: false,
                blocked: Some(Blocked {
                    wchan: Some(b"rpc_wait_bit_killable".to_vec()),
                    mount: Some(b"nfs server:/export at /mnt".to_vec()),
                    server: Some(Server::Remote),
                    file: Some(b"/mnt/data".to_vec()),
                    thread: Some(96),
                    stack: words(&["rpc_wait_bit_killable [sunrpc]", "nfs_file_write [nfs]"]),
                    others: vec![Sleeper {
                        thread: 97,
                        wchan: Some(b"folio_wait_bit".to_vec()),
                        stack: Vec::new(),
                    }],
                }),
                cause: Cause {
                    code: CauseCode::BlockedInKernel,
                    text: "it sleeps uninterruptibly in the kernel in rpc_wait_bit_killable".into(),
                    hint: "no signal ends it before the kernel lets go".into(),
                },
                ..finding(1, FindingKind::Stuck, stuck, CauseCode::BlockedInKernel)
            },
            Finding {
                lineage: vec![agent],
                adopter: Some(Adopter { pid: 80, name: b"tini".to_vec(), is_init: false }),
                counted: false,
                ..finding(2, FindingKind::Orphan, hidden, CauseCode::AgentKilled)
            },
        ],
        kept: vec![Kept {
            kind: FindingKind::Survivor,
            process: process(4300, &["/usr/bin/sccache", "--server"]),
            rule: "sccache".into(),
        }],
        stats: Stats {
            processes: 4000,
            events: 9000,
            dropped: 12,
            unseen: 1,
            peak_live: 300,
            ..Stats::default()
        },
        notes: vec!["12 records were lost and 1 process came and went unseen".into()],
        ..clean()
    }
}

/// A claude-code session.
fn claude() -> Agent {
    Agent {
        invocation: "1000000000000-4200".into(),
        parent_invocation: None,
        name: Some("claude-code".into()),
        version: Some(b"2-1-197".to_vec()),
        session_id: Some(b"5e55-10f".to_vec()),
        pid: 4200,
    }
}

/// As of this call's, if any.
pub(crate) fn attribution(id: Option<&str>, confidence: Confidence) -> Attribution {
    Attribution {
        id: id.map(str::to_owned),
        name: id.map(|_| "Bash".to_owned()),
        summary: Some(b"npm run dev".to_vec()),
        confidence,
        source: Source::Command,
        candidates: Vec::new(),
        child: Some(DirectChild {
            pid: 4201,
            name: b"bash".to_vec(),
            args: words(&["/bin/bash", "-c", "npm run dev"]),
            at: Nanos(START + 5_000_000),
        }),
    }
}

/// What the tool calls of an agent left: the second call's between the first's, one that may be
/// either's, one that no call is known of, one that outlived its call.
pub(crate) fn blamed() -> Outcome {
    let left = |id, pid, kind, tool_call| Finding {
        agent: Some(claude()),
        tool_call: Some(tool_call),
        ..finding(id, kind, process(pid, &["node", "server.js"]), CauseCode::Daemonized)
    };
    let ambiguous = Attribution {
        candidates: vec!["toolu_1".into(), "toolu_2".into()],
        source: Source::Window,
        ..attribution(None, Confidence::Ambiguous)
    };
    let unknown =
        Attribution { source: Source::DirectChild, ..attribution(None, Confidence::None) };
    let survivor = FindingKind::Survivor;
    let call = |id: &str, end| ToolCall {
        invocation: "1000000000000-4200".into(),
        id: id.into(),
        name: Some("Bash".into()),
        summary: Some("npm run dev".into()),
        session_id: Some("5e55-10f".into()),
        started_at: Some(Nanos(START + 4_000_000)),
        end,
        background: None,
        processes: vec![4210],
    };
    let ended = Some((Nanos(START + 9_000_000), "ok"));
    Outcome {
        tool_calls: vec![call("toolu_1", ended), call("toolu_2", None)],
        agents: vec![claude()],
        ..leaked(vec![
            left(1, 4210, survivor, attribution(Some("toolu_1"), Confidence::Strong)),
            left(2, 4211, survivor, attribution(Some("toolu_2"), Confidence::Exact)),
            left(3, 4212, FindingKind::Zombie, attribution(Some("toolu_1"), Confidence::Stale)),
            left(4, 4213, survivor, ambiguous),
            left(5, 4214, survivor, unknown),
            Finding {
                counted: false,
                ..left(
                    6,
                    4215,
                    FindingKind::OutlivedCall,
                    attribution(Some("toolu_1"), Confidence::Probable),
                )
            },
        ])
    }
}

/// What a process may be called to harm whoever reads of it.
pub(crate) const HOSTILE: [&[u8]; 10] = [
    b"\x1b[2J\x1b]0;owned\x07",
    b"a\nb\r\n::error::owned",
    b"::set-output name=x::y%0A",
    b"\xff\xfe\xc3",
    b"]]></failure><x a='\"&amp;",
    b"a|b`c``d|\\|<img src=x>",
    b"![x](http://evil.example/x) @octocat #1 *b* _i_ $x$ ~~s~~",
    "\u{202e}gnp.exe\u{200b}\u{2028}\u{85}\u{fffe}".as_bytes(),
    b"</code></summary>```\n# owned",
    b"",
];

/// Every name, argument, path and sentence is hostile.
pub(crate) fn hostile() -> Outcome {
    spoilt(four_leaks(), &HOSTILE.map(<[u8]>::to_vec))
}

/// `outcome` with everything a process chooses replaced by `bytes` in turn.
fn spoilt(mut outcome: Outcome, bytes: &[Vec<u8>]) -> Outcome {
    let mut turn = bytes.iter().cycle().cloned();
    let mut next = || turn.next().unwrap_or_default();
    let mut spoil = |process: &mut Process| {
        process.name = next();
        process.exe = Some(next());
        process.args = vec![next(), next(), next()];
        process.cwd = Some(next());
        process.cgroup = Some(next());
    };
    spoil(&mut outcome.invocation.root);
    for finding in &mut outcome.findings {
        spoil(&mut finding.process);
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    for finding in &mut outcome.findings {
        for ancestor in &mut finding.lineage {
            (ancestor.name, ancestor.args) = (next(), vec![next(), next()]);
        }
        let sender = Sender { pid: 9, name: next() };
        finding.exit = Some(Exit { sender: Some(sender), ..killed(15, None) });
        finding.parent = Some(Parent { pid: 8, name: next(), exit: None, waits: None });
        finding.adopter = Some(Adopter { pid: 7, name: next(), is_init: true });
        finding.blocked = Some(Blocked {
            wchan: Some(next()),
            mount: Some(next()),
            server: Some(Server::Fuse { connection: 53 }),
            file: Some(next()),
            thread: Some(6),
            stack: vec![next(), next()],
            others: vec![Sleeper { thread: 5, wchan: Some(next()), stack: vec![next()] }],
        });
        (finding.cause.text, finding.cause.hint) = (text(next()), text(next()));
        if let Some(agent) = &mut finding.agent {
            (agent.name, agent.version) = (Some(text(next())), Some(next()));
            agent.session_id = Some(next());
        }
        if let Some(call) = &mut finding.tool_call {
            (call.id, call.name) = (call.id.as_ref().map(|_| text(next())), Some(text(next())));
            (call.summary, call.candidates) = (Some(next()), vec![text(next())]);
            if let Some(child) = &mut call.child {
                (child.name, child.args) = (next(), vec![next(), next()]);
            }
        }
        let resources = finding.resources.get_or_insert_default();
        (resources.listening, resources.devices) = (vec![next(), next()], vec![next()]);
    }
    let process = outcome.invocation.root.clone();
    outcome.kept = vec![Kept { kind: FindingKind::Orphan, process, rule: text(next()) }];
    outcome.notes = vec![text(next())];
    outcome.invocation.command = vec![next(), next()];
    outcome.invocation.exit =
        Some(Exit { sender: Some(Sender { pid: 6, name: next() }), ..killed(9, None) });
    outcome
}

/// Any bytes in any place of several outcomes.
pub(crate) fn any_outcome() -> impl Strategy<Value = Outcome> {
    let bytes = prop_oneof![
        any::<Vec<u8>>(),
        any::<String>().prop_map(String::into_bytes),
        prop::sample::select(HOSTILE.map(<[u8]>::to_vec).to_vec()),
        "[`|\\\\\\]\\[<>&:%,#@\n'\"]{0,8}".prop_map(String::into_bytes),
    ];
    let base = prop_oneof![
        Just(four_leaks()),
        Just(zombies(7)),
        Just(servers(5)),
        Just(resolved(2)),
        Just(odd()),
        Just(blamed())
    ];
    (base, prop::collection::vec(bytes, 1..20)).prop_map(|(base, bytes)| spoilt(base, &bytes))
}
