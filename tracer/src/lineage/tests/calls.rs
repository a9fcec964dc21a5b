//! Whose call it was.

use proptest::prelude::*;

use super::super::blame::BLAMED;
use super::*;

/// When something is said in this millisecond: after what was forked in it.
fn said_at(at: u64) -> Nanos {
    Nanos(ms(at).0 + 2_000)
}

/// Pids from here on are agents' helpers and hooks.
const HOOK: u32 = 900;

impl World {
    /// It executes a program with arguments, and has these variables.
    fn runs(&mut self, pid: u32, line: &[&str], markers: &[&str]) -> &mut Self {
        let joined = |words: &[&str]| {
            words.iter().flat_map(|word| [word.as_bytes(), &[0]].concat()).collect::<Vec<u8>>()
        };
        let event = Event::Exec {
            at: ms(self.now),
            process: self.id(pid),
            exe: line.first().map_or(b"", |exe| exe.as_bytes()),
            args: &joined(line),
            truncated: false,
            markers: &joined(markers),
            markers_truncated: false,
            uid: None,
        };
        self.lineage.handle(event);
        self
    }

    /// It says something, maybe for an agent or for another process.
    fn says_for(
        &mut self,
        sender: u32,
        agent: Option<&str>,
        pid: Option<u32>,
        said: Said,
    ) -> &mut Self {
        let announcement = Announcement {
            sender,
            sent_at: said_at(self.now),
            at: None,
            agent: agent.map(str::to_owned),
            pid,
            session: None,
            said,
        };
        self.lineage.handle(Event::Announced(Box::new(announcement)));
        self
    }

    fn says(&mut self, sender: u32, said: Said) -> &mut Self {
        self.says_for(sender, None, None, said)
    }

    /// A call of the agent's begins.
    fn call(&mut self, agent: u32, id: &str) -> &mut Self {
        self.says(agent, start(id, None))
    }

    fn end_call(&mut self, agent: u32, id: &str) -> &mut Self {
        self.says(agent, end(id))
    }

    /// What is said of a process: its call, how sure.
    fn whose(&self, pid: u32) -> (Option<String>, Confidence) {
        let told = self.lineage.attribution(self.id(pid)).expect("it has an agent");
        (told.id, told.confidence)
    }

    fn candidates(&self, pid: u32) -> Vec<String> {
        self.lineage.attribution(self.id(pid)).expect("it has an agent").candidates
    }

    /// Forks, and the child executes a line.
    fn starts(&mut self, forker: u32, pid: u32, line: &[&str]) -> &mut Self {
        self.fork(forker, pid).runs(pid, line, &[])
    }
}

fn start(id: &str, command: Option<&str>) -> Said {
    Said::CallStart(CallStart {
        id: id.to_owned(),
        command: command.map(str::to_owned),
        ..CallStart::default()
    })
}

fn end(id: &str) -> Said {
    Said::CallEnd { id: id.to_owned(), status: CallStatus::Ok, background: None }
}

fn spawn(id: &str, thread: u32) -> Said {
    Said::Spawn { id: id.to_owned(), thread }
}

fn sure(id: &str, confidence: Confidence) -> (Option<String>, Confidence) {
    (Some(id.to_owned()), confidence)
}

/// A world whose command is Claude Code.
fn claude() -> World {
    let mut world = World::standard();
    world.runs(ROOT, &["/usr/bin/claude", "-p", "x"], &[]);
    world
}

/// What Claude Code gives its children.
const CLAUDE: [&str; 3] =
    ["CLAUDECODE=1", "CLAUDE_CODE_SESSION_ID=s-1", "AI_AGENT=claude-code_2-1-197_agent"];

#[test]
fn agent_session_and_direct_child_are_known_without_configuration() {
    let mut world = claude();
    world.at(5).fork(ROOT, 101).runs(101, &["/bin/bash", "-c", "npm run dev"], &CLAUDE);
    world.at(6).fork(101, 102).runs(102, &["node", "server.js"], &CLAUDE);
    assert_eq!(world.whose(102), (None, Confidence::None));
    let told = world.lineage.attribution(world.id(102)).unwrap();
    let child = told.child.unwrap();
    assert_eq!(
        (child.pid, child.name.as_slice(), child.at),
        (101, &b"bash"[..], Nanos(ms(5).0 + 101))
    );
    assert_eq!(told.summary.as_deref(), Some(&b"/bin/bash -c npm run dev"[..]));
    let agent = world.lineage.agent_told(world.lineage.invocation_of(world.id(102))).unwrap();
    assert_eq!(agent.name.as_deref(), Some("claude-code"));
    assert_eq!(agent.version.as_deref(), Some(&b"2.1.197"[..]));
    assert_eq!(agent.session_id.as_deref(), Some(&b"s-1"[..]));
}

#[test]
fn command_without_an_agent_has_no_tool_calls() {
    let mut world = World::standard();
    world.starts(ROOT, 101, &["node", "x"]);
    assert_eq!(world.lineage.attribution(world.id(101)), None);
}

#[test]
fn agent_that_no_rule_knows_is_known_by_the_session_that_it_gives() {
    let mut world = World::standard();
    world.starts(ROOT, 101, &["/opt/wrapped-agent", "-p"]);
    world.fork(101, 102).runs(102, &["/bin/bash", "-c", "x"], &CLAUDE);
    let agent = world.lineage.agent_told(world.lineage.invocation_of(world.id(102))).unwrap();
    assert_eq!((agent.pid, agent.name.as_deref()), (101, Some("claude-code")));
    assert!(agent.parent_invocation.is_some());
}

#[test]
fn agent_is_named_by_its_environment() {
    let mut world = World::standard();
    world.fork(ROOT, 101).runs(101, &["python3", "bot.py"], &["TRACER_AGENT=mybot"]);
    // Whom it starts inherits the variable, and is none.
    world.fork(101, 102).runs(102, &["sh", "-c", "x"], &["TRACER_AGENT=mybot"]);
    let agent = world.lineage.agent_told(world.lineage.invocation_of(world.id(102))).unwrap();
    assert_eq!((agent.pid, agent.name.as_deref()), (101, Some("mybot")));
    assert_eq!(world.whose(102), (None, Confidence::None));
}

#[test]
fn launcher_and_the_agent_that_it_starts_are_one_invocation() {
    let mut world = World::standard();
    world.runs(ROOT, &["node", "/usr/bin/codex", "exec"], &[]);
    world.starts(ROOT, 101, &["/x/codex-x86_64-unknown-linux-musl/codex", "exec"]);
    world.at(10).exit_status(ROOT, TRACER, 9);
    let variables = ["CODEX_SESSION_ID=c-1", "CODEX_TOOL_CALL_ID=call_7"];
    world.at(20).fork(101, 102).runs(102, &["/bin/bash", "-c", "sleep 9"], &variables);
    assert_eq!(world.whose(102), sure("call_7", Confidence::Exact));
    let agent = world.lineage.agent_told(world.lineage.invocation_of(world.id(102))).unwrap();
    assert_eq!((agent.pid, agent.parent_invocation), (ROOT, None));
    assert_eq!(agent.session_id.as_deref(), Some(&b"c-1"[..]));
}

#[test]
fn cookie_of_an_outer_call_says_nothing_of_a_nested_agent_s() {
    let mut world = claude();
    world.call(ROOT, "outer");
    let outer = ["TRACER_TOOL_CALL_ID=outer"];
    world.fork(ROOT, 101).runs(101, &["/usr/bin/codex", "exec"], &outer);
    world.fork(101, 102).runs(102, &["sh", "-c", "x"], &outer);
    let inner = ["TRACER_TOOL_CALL_ID=outer", "CODEX_TOOL_CALL_ID=inner"];
    world.fork(101, 103).runs(103, &["sh", "-c", "x"], &inner);
    assert_eq!(world.whose(101), sure("outer", Confidence::Exact));
    assert_eq!(world.whose(102), (None, Confidence::None));
    assert_eq!(world.whose(103), sure("inner", Confidence::Exact));
    let agent = world.lineage.agent_told(world.lineage.invocation_of(world.id(103))).unwrap();
    assert_eq!(agent.name.as_deref(), Some("codex"));
    assert_eq!(agent.parent_invocation, Some(world.id(ROOT).to_string()));
}

#[test]
fn announced_thread_and_no_other_forks_for_a_call() {
    let mut world = World::standard();
    world.call(ROOT, "a").call(ROOT, "b");
    world.at(1).says(ROOT, spawn("a", 7)).says(ROOT, spawn("b", 8));
    let forks = |world: &mut World, child, thread| {
        world.starts.insert(child, ms(world.now).0 + u64::from(child));
        let id = world.id(child);
        let pids = Pids { host: child, local: Some(child), namespace: child, level: 0 };
        let (at, forker) = (Nanos(id.start), world.id(ROOT));
        world.lineage.handle(Event::Fork {
            at,
            child: id,
            forker,
            parent: forker,
            pids,
            cgroup: None,
            thread: Some(thread),
            root: false,
        });
    };
    world.at(2);
    forks(&mut world, 101, 8);
    forks(&mut world, 102, 7);
    // One announcement, one fork.
    forks(&mut world, 103, 7);
    assert_eq!(world.whose(101), sure("b", Confidence::Exact));
    assert_eq!(world.whose(102), sure("a", Confidence::Exact));
    assert_eq!(world.whose(103), (None, Confidence::Ambiguous));
}

#[test]
fn call_that_is_resumed_is_open_again() {
    let mut world = World::standard();
    world.at(1).call(ROOT, "a");
    world.at(2).end_call(ROOT, "a");
    world.at(3).starts(ROOT, 101, &["x"]);
    world.at(4).call(ROOT, "a");
    world.at(5).starts(ROOT, 102, &["x"]);
    assert_eq!(world.whose(101), (None, Confidence::None));
    assert_eq!(world.whose(102), sure("a", Confidence::Probable));
}

#[test]
fn span_of_a_trace_is_a_cookie() {
    let mut world = World::standard();
    let span = SpanId::parse("00f067aa0ba902b7");
    let call = CallStart { id: "a".to_owned(), span, ..CallStart::default() };
    world.says(ROOT, Said::CallStart(call));
    let parent = |span: &str| format!("TRACEPARENT=00-4bf92f3577b34da6a3ce929d0e0e4736-{span}-01");
    world.fork(ROOT, 101).runs(101, &["x"], &[&parent("00f067aa0ba902b7")]);
    world.call(ROOT, "b");
    world.at(1).fork(ROOT, 102).runs(102, &["x"], &[&parent("1111111111111111")]);
    assert_eq!(world.whose(101), sure("a", Confidence::Exact));
    assert_eq!(world.whose(102), (None, Confidence::Ambiguous));
}

/// A hook of Claude Code: its agent starts a shell, that the hook, and both are gone again.
fn hook(world: &mut World, said: Said) {
    let shell = HOOK + u32::try_from(world.now).unwrap_or(0) * 2;
    world.starts(ROOT, shell, &["/bin/sh", "-c", "tracer hook claude-code"]);
    world.starts(shell, shell + 1, &["tracer", "hook", "claude-code"]);
    world.says_for(shell + 1, Some("claude-code"), None, said);
    world.exit(shell + 1, shell).free(shell + 1);
    world.exit(shell, ROOT).free(shell);
}

#[test]
fn command_in_the_arguments_is_strong_also_in_parallel_and_when_the_shell_executes_it() {
    let mut world = claude();
    hook(&mut world, start("a", Some("npm run dev")));
    hook(world.at(1), start("b", Some("npm run dev -- --port 3")));
    world.at(10).starts(ROOT, 101, &["bash", "-c", "x && eval 'npm run dev -- --port 3' && pwd"]);
    world.at(11).starts(ROOT, 102, &["bash", "-c", "npm run dev"]);
    // The shell becomes what it was told to run.
    world.at(12).runs(102, &["npm", "run", "dev"], &[]);
    world.at(13).starts(102, 103, &["node", "server.js"]);
    assert_eq!(world.whose(101), sure("b", Confidence::Strong));
    assert_eq!(world.whose(102), sure("a", Confidence::Strong));
    assert_eq!(world.whose(103), sure("a", Confidence::Strong));
}

#[test]
fn same_command_of_two_open_calls_is_ambiguous() {
    let mut world = claude();
    hook(&mut world, start("a", Some("make")));
    hook(world.at(1), start("b", Some("make")));
    world.at(10).starts(ROOT, 101, &["bash", "-c", "make"]);
    assert_eq!(world.whose(101), (None, Confidence::Ambiguous));
    assert_eq!(world.candidates(101), ["a", "b"]);
    // One after the other they are none of each other's.
    hook(world.at(20), end("a"));
    hook(world.at(21), end("b"));
    hook(world.at(22), start("c", Some("make")));
    world.at(30).starts(ROOT, 102, &["bash", "-c", "make"]);
    assert_eq!(world.whose(102), sure("c", Confidence::Strong));
}

#[test]
fn call_announced_after_its_process_was_forked_counts_all_the_same() {
    let mut world = claude();
    world.at(10).starts(ROOT, 101, &["bash", "-c", "make"]);
    let shell = HOOK;
    world.starts(ROOT, shell, &["sh", "-c", "tracer hook claude-code"]);
    let late = Announcement {
        sender: shell,
        sent_at: said_at(11),
        at: Some(ms(9)),
        agent: Some("claude-code".to_owned()),
        pid: None,
        session: None,
        said: start("a", Some("make")),
    };
    world.at(11).lineage.handle(Event::Announced(Box::new(late)));
    assert_eq!(world.whose(101), sure("a", Confidence::Strong));
}

#[test]
fn helper_of_the_agent_belongs_to_no_call_and_is_no_leak() {
    let mut world = claude();
    hook(&mut world, start("a", Some("sleep 5")));
    hook(world.at(1), start("read", None));
    world.at(2).starts(ROOT, 101, &["/usr/bin/git", "status"]);
    assert_eq!(world.whose(101), (None, Confidence::None));
    world.at(3).exit(101, ROOT).free(101);
    world.at(5).exit(ROOT, TRACER).free(ROOT);
    let outcome = world.until(3_000).outcome();
    assert_eq!(outcome.verdict, Verdict::Clean, "{:?}", outcome.findings);
    // Both calls are candidates for a leak: nobody said that they had ended.
    assert!(outcome.tool_calls.iter().all(|call| call.end.is_none()));
    assert_eq!(outcome.tool_calls.len(), 2);
}

#[test]
fn shared_shell_serves_the_call_that_is_open() {
    let mut world = World::standard();
    world.starts(ROOT, 101, &["/bin/bash"]);
    world.at(1).call(ROOT, "a");
    world.at(2).starts(101, 102, &["sleep", "9"]);
    world.at(3).end_call(ROOT, "a");
    world.at(4).call(ROOT, "b");
    world.at(5).starts(101, 103, &["sleep", "9"]);
    world.at(6).call(ROOT, "c");
    world.at(7).starts(101, 104, &["sleep", "9"]);
    world.at(8).end_call(ROOT, "b").end_call(ROOT, "c");
    world.at(9).starts(101, 105, &["sleep", "9"]);
    assert_eq!(world.whose(102), sure("a", Confidence::Probable));
    assert_eq!(world.whose(103), sure("b", Confidence::Probable));
    assert_eq!(world.whose(104), (None, Confidence::Ambiguous));
    assert_eq!(world.whose(105), (None, Confidence::None));
}

#[test]
fn what_is_forked_after_the_call_is_stale() {
    let mut world = claude();
    hook(&mut world, start("a", Some("serve &")));
    world.at(2).starts(ROOT, 101, &["bash", "-c", "serve &"]);
    world.at(3).starts(101, 102, &["serve"]);
    world.at(4).exit(101, ROOT).free(101);
    hook(world.at(5), end("a"));
    world.at(9).starts(102, 103, &["worker"]);
    assert_eq!(world.whose(102), sure("a", Confidence::Strong));
    assert_eq!(world.whose(103), sure("a", Confidence::Stale));
}

#[test]
fn what_a_declared_background_call_forks_later_is_its_own() {
    let mut world = claude();
    hook(&mut world, start("a", Some("serve")));
    world.at(2).starts(ROOT, 101, &["bash", "-c", "serve"]);
    let background = Some(Background::Task("bash_1".to_owned()));
    let said = Said::CallEnd { id: "a".to_owned(), status: CallStatus::Ok, background };
    hook(world.at(3), said);
    world.at(9_000).starts(101, 102, &["worker"]);
    world.until(20_000);
    assert_eq!(world.whose(102), sure("a", Confidence::Strong));
    assert!(!world.lineage.findings.has(world.id(101), FindingKind::OutlivedCall));
}

#[test]
fn daemon_that_forks_while_other_calls_are_open_is_ambiguous() {
    let mut world = World::standard();
    world.call(ROOT, "a").call(ROOT, "b");
    world.says(ROOT, Said::Background { id: "x".to_owned(), reason: None });
    let cookie = ["TRACER_TOOL_CALL_ID=a"];
    world.at(1).fork(ROOT, 101).runs(101, &["sh", "-c", "tmux new -d"], &cookie);
    world.at(2).fork(101, 102).runs(102, &["tmux"], &cookie);
    world.at(3).exit(101, ROOT).free(101);
    world.at(4).fork(102, 103).runs(103, &["bash"], &cookie);
    assert_eq!(world.whose(102), sure("a", Confidence::Exact));
    assert_eq!(world.whose(103), (None, Confidence::Ambiguous));
    assert_eq!(world.candidates(103), ["a", "b"]);
    // With both over it is nobody's for certain.
    world.at(5).end_call(ROOT, "a").end_call(ROOT, "b");
    world.at(6).fork(102, 104).runs(104, &["bash"], &cookie);
    assert_eq!(world.whose(104), sure("a", Confidence::Stale));
}

#[test]
fn forkserver_s_workers_are_not_the_call_s_that_started_it() {
    let mut world = World::standard();
    world.call(ROOT, "a");
    let program = "from multiprocessing.forkserver import main; main(3, 4, [])";
    let cookie = ["TRACER_TOOL_CALL_ID=a"];
    world.at(1).fork(ROOT, 101).runs(101, &["python3", "-c", program], &cookie);
    world.at(2).fork(101, 102);
    world.at(3).call(ROOT, "b");
    world.at(4).fork(101, 103);
    world.at(5).end_call(ROOT, "a");
    world.at(6).fork(101, 104);
    assert_eq!(world.whose(101), sure("a", Confidence::Exact));
    assert_eq!(world.whose(102), sure("a", Confidence::Probable));
    assert_eq!(world.whose(103), (None, Confidence::Ambiguous));
    assert_eq!(world.whose(104), sure("b", Confidence::Probable));
}

#[test]
fn worker_of_a_forkserver_may_work_for_other_calls_than_the_one_it_was_forked_in() {
    let mut world = World::standard();
    world.call(ROOT, "a");
    let program = "from multiprocessing.forkserver import main; main(3, 4, [])";
    world.at(1).fork(ROOT, 101).runs(101, &["python3", "-c", program], &[]);
    world.at(2).fork(101, 102);
    world.at(3).starts(102, 103, &["sh"]);
    world.at(4).call(ROOT, "b");
    world.at(5).starts(102, 104, &["sh"]);
    world.at(6).fork(102, 105).runs(105, &["sh"], &["TRACER_TOOL_CALL_ID=b"]);
    world.at(7).starts(105, 106, &["sleep", "9"]);
    world.at(8).end_call(ROOT, "a");
    world.at(9).starts(102, 107, &["sh"]);
    world.at(10).end_call(ROOT, "b");
    world.at(11).starts(102, 108, &["sh"]);
    assert_eq!(world.whose(103), sure("a", Confidence::Probable));
    assert_eq!(world.whose(104), (None, Confidence::Ambiguous));
    assert_eq!(world.candidates(104), ["a", "b"]);
    assert_eq!(world.whose(106), sure("b", Confidence::Exact));
    assert_eq!(world.whose(107), (None, Confidence::Ambiguous));
    assert_eq!(world.whose(108), sure("a", Confidence::Stale));
}

#[test]
fn strangers_and_wrong_claims_are_dropped() {
    let mut world = claude();
    world.says(77, start("x", None));
    world.starts(ROOT, 101, &["bash", "-c", "x"]);
    // For a process that is none of its ancestors, and for an agent that it does not descend from.
    world.says_for(101, None, Some(9_999), start("y", None));
    world.starts(ROOT, 102, &["sleep"]);
    world.says_for(101, None, Some(102), start("z", None));
    world.says_for(101, Some("no-such-agent"), None, start("w", None));
    // A lease for what another started.
    world.says(101, Said::Keep { ttl: 9, reason: String::new(), what: KeptByLease::Process(ROOT) });
    assert_eq!(world.lineage.stats.announcements_dropped, 5);
    assert_eq!(world.lineage.calls.iter().count(), 0);
}

#[test]
fn what_outlives_its_call_is_found_after_grace() {
    let mut world = claude();
    hook(&mut world, start("a", Some("serve &")));
    world.at(2).starts(ROOT, 101, &["bash", "-c", "serve &"]);
    world.at(3).starts(101, 102, &["serve"]);
    world.at(4).exit(101, ROOT).free(101);
    hook(world.at(5), end("a"));
    world.until(2_005);
    assert!(!world.lineage.findings.has(world.id(102), FindingKind::OutlivedCall));
    world.until(2_006);
    assert!(world.lineage.findings.is_open(world.id(102), FindingKind::OutlivedCall));
    world.at(3_000).exit(102, INIT).free(102);
    world.at(3_001).exit(ROOT, TRACER).free(ROOT);
    let outcome = world.until(9_000).outcome();
    let found = only(&outcome, FindingKind::OutlivedCall);
    assert_eq!(found.since, said_at(5));
    assert!(matches!(found.state, FindingState::Resolved(_)) && !found.counted);
    assert_eq!(outcome.verdict, Verdict::Clean);
}

/// An agent may end thousands at once, or one after the other.
#[test]
fn each_process_is_looked_at_once_for_all_calls_that_fall_due_together() {
    const PROCESSES: u32 = 10;
    let number = 500;
    for gap in [0, 1] {
        let mut world = World::standard();
        for call in 0..number {
            world.call(ROOT, &format!("call-{call}"));
        }
        for pid in 0..PROCESSES {
            let cookie = format!("TRACER_TOOL_CALL_ID=call-{pid}");
            world.at(1).fork(ROOT, 101 + pid).runs(101 + pid, &["serve"], &[&cookie]);
        }
        for call in 0..number {
            world.at(5 + gap * call).says(ROOT, end(&format!("call-{call}")));
        }
        let before = BLAMED.get();
        world.until(9_000);
        let blamed = BLAMED.get() - before;
        let found = |pid| world.lineage.findings.is_open(world.id(pid), FindingKind::OutlivedCall);
        assert!((101..101 + PROCESSES).all(found));
        // Once for each time that some fall due, and some more for each that is found.
        let times = if gap == 0 { 2 } else { 64 + 4 };
        let most = (times + 8) * PROCESSES;
        assert!(blamed <= most.try_into().unwrap(), "{blamed} of {most}");
    }
}

/// Of the agent, which goes on, nothing is said that is true only of its end.
#[test]
fn child_that_an_agent_leaves_when_its_call_ends_was_left_by_who_goes_on() {
    let mut world = World::standard();
    world.call(ROOT, "a");
    world.at(1).fork(ROOT, 101).runs(101, &["serve"], &["TRACER_TOOL_CALL_ID=a"]);
    world.at(5).says(ROOT, end("a"));
    world.until(2_006);
    let (id, now) = (world.id(101), said_at(2_006));
    let told = world.lineage.watched(id, FindingKind::OutlivedCall, now).expect("a finding");
    let cause = &told.finding.cause;
    assert_eq!(cause.code, CauseCode::CallEndedChildSurvived, "{cause:?}");
    assert!(cause.text.contains("left it running"), "{cause:?}");
}

#[test]
fn what_outlives_an_agent_s_child_is_found_without_any_announcement() {
    let mut world = claude();
    world.at(2).starts(ROOT, 101, &["bash", "-c", "serve &"]);
    world.at(3).starts(101, 102, &["serve"]);
    world.at(4).exit(101, ROOT).free(101);
    world.until(2_003);
    assert!(!world.lineage.findings.has(world.id(102), FindingKind::OutlivedCall));
    world.until(2_005);
    assert!(world.lineage.findings.is_open(world.id(102), FindingKind::OutlivedCall));
}

#[test]
fn lease_keeps_until_it_runs_out() {
    for (ttl, verdict) in [(3600, Verdict::Clean), (1, Verdict::Leaked)] {
        let mut world = World::standard();
        world.call(ROOT, "a");
        world.at(1).fork(ROOT, 101).runs(101, &["serve"], &["TRACER_TOOL_CALL_ID=a"]);
        let what = KeptByLease::Call("a".to_owned());
        world.at(2).says(ROOT, Said::Keep { ttl, reason: "preview".to_owned(), what });
        world.at(3).exit(ROOT, TRACER).free(ROOT);
        let outcome = world.until(5_000).outcome();
        assert_eq!(outcome.verdict, verdict, "{ttl}");
        let kept: Vec<_> = outcome.kept.iter().map(|kept| kept.rule.as_str()).collect();
        assert_eq!(kept, if ttl > 5 { &["lease: preview"][..] } else { &[] });
    }
}

/// What happens in a run with overlapping calls.
#[derive(Clone, Debug)]
enum Step {
    Begin,
    End(prop::sample::Index),
    /// The agent forks for an open call, which may be known from its command.
    Fork(prop::sample::Index, bool),
    /// What a call has started forks while the call is open, or after.
    Deeper(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => Just(Step::Begin),
        1 => any::<prop::sample::Index>().prop_map(Step::End),
        3 => (any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(call, told)| Step::Fork(call, told)),
        2 => any::<prop::sample::Index>().prop_map(Step::Deeper),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn windows_never_guess(steps in steps(), late in any::<bool>()) {
        let mut world = World::standard();
        let (mut calls, mut open): (u32, Vec<u32>) = (0, Vec::new());
        // Which call each process was started for.
        let mut truth: Vec<(u32, u32)> = Vec::new();
        let mut heard: Vec<Announcement> = Vec::new();
        let command = |call: u32| call.is_multiple_of(3).then(|| format!("run {call}"));
        for step in steps {
            let now = world.now + 1;
            world.at(now);
            let pid = 1_000 + u32::try_from(now).unwrap();
            let mut say = |world: &mut World, said| {
                let announcement = Announcement {
                    sender: ROOT,
                    sent_at: said_at(now),
                    at: Some(said_at(now)),
                    agent: None,
                    pid: None,
                    session: None,
                    said,
                };
                if late {
                    heard.push(announcement);
                } else {
                    world.lineage.handle(Event::Announced(Box::new(announcement)));
                }
            };
            match step {
                Step::Begin => {
                    calls += 1;
                    open.push(calls);
                    say(&mut world, start(&calls.to_string(), command(calls).as_deref()));
                }
                Step::End(which) if !open.is_empty() => {
                    let call = open.remove(which.index(open.len()));
                    say(&mut world, end(&call.to_string()));
                }
                Step::Fork(which, executes) if !open.is_empty() => {
                    let call = open[which.index(open.len())];
                    world.fork(ROOT, pid);
                    // One whose command is known is seen to carry it, or has not executed it yet.
                    match command(call) {
                        Some(command) if executes => {
                            world.runs(pid, &["bash", "-c", &command], &[]);
                        }
                        None if executes => {
                            world.runs(pid, &["tool"], &[]);
                        }
                        _ => {}
                    }
                    truth.push((pid, call));
                }
                Step::Deeper(which) if !truth.is_empty() => {
                    let (forker, call) = truth[which.index(truth.len())];
                    world.fork(forker, pid);
                    truth.push((pid, call));
                }
                _ => {}
            }
        }
        // The later the news, the other way round.
        world.at(world.now + 1);
        for mut announcement in heard.into_iter().rev() {
            announcement.sent_at = said_at(world.now);
            world.lineage.handle(Event::Announced(Box::new(announcement)));
        }
        for (pid, call) in truth {
            let Some(told) = world.lineage.attribution(world.id(pid)) else { continue };
            if told.confidence > Confidence::Ambiguous {
                prop_assert_eq!(told.id, Some(call.to_string()), "process {}", pid);
            } else if told.confidence == Confidence::Ambiguous {
                prop_assert!(told.candidates.contains(&call.to_string()), "process {}", pid);
            }
        }
    }
}

#[test]
fn months_of_calls_are_forgotten_but_for_those_that_left_something() {
    const CALLS: u64 = 20_000;
    let mut world = World::standard();
    world.lineage.tell_findings(64);
    world.runs(ROOT, &["/usr/bin/claude"], &[]);
    // One leaves a process; two at once leave one that may be of either.
    world.at(10).call(ROOT, "kept").at(11).fork(ROOT, 101).at(12).end_call(ROOT, "kept");
    world.at(20).call(ROOT, "either").call(ROOT, "or").at(21).fork(ROOT, 102);
    world.at(22).end_call(ROOT, "either").end_call(ROOT, "or");
    for number in 0..CALLS {
        let id = format!("call {number}");
        world.at(1_000 + number * 1_000).call(ROOT, &id).end_call(ROOT, &id);
        // What has ended is looked at when its time is up.
        world.lineage.handle_timeout(ms(world.now));
        while world.lineage.poll_output().is_some() {}
    }
    assert_eq!(world.whose(101), sure("kept", Confidence::Probable));
    assert_eq!(world.whose(102), (None, Confidence::Ambiguous));
    assert_eq!(world.candidates(102), ["either", "or"]);
    let known = world.lineage.calls.iter().count();
    assert!((3..10_000).contains(&known), "{known} are known");
    assert_eq!(world.lineage.calls.refused(), 0);
}

/// A world whose agent has so many open calls with different commands; `x 0` is the first.
fn crowd(agent: &str, calls: usize) -> World {
    let mut world = World::standard();
    world.runs(ROOT, &[agent], &[]);
    for number in 0..calls {
        let command = format!("x {number}");
        world.says(ROOT, start(&number.to_string(), Some(&command)));
    }
    world
}

#[test]
fn arguments_are_read_once_however_many_calls_are_open() {
    const CALLS: usize = 50_000;
    let mut world = crowd("/usr/bin/claude", CALLS);
    let long = format!("{} x 7", "word ".repeat(780));
    carried::work::READ.set(0);
    carried::work::COMPARED.set(0);
    for pid in 1_000..1_010 {
        world.at(u64::from(pid)).starts(ROOT, pid, &["/bin/true", &long]);
    }
    world.starts(ROOT, 1_010, &["bash", "-c", "eval 'x 7' && pwd"]);
    assert_eq!(carried::work::READ.get(), 11);
    assert_eq!(carried::work::COMPARED.get(), 1, "of {CALLS}");
    assert_eq!(world.whose(1_010), sure("7", Confidence::Strong));
    assert_eq!(world.whose(1_000), (None, Confidence::None));
    // To say whose one is reads its arguments once as well.
    carried::work::READ.set(0);
    assert_eq!(world.whose(1_001), (None, Confidence::None));
    assert_eq!(carried::work::READ.get(), 1);
}

#[test]
fn command_that_very_many_open_calls_have_is_ambiguous() {
    let mut world = claude();
    for number in 0..5_000 {
        world.says(ROOT, start(&number.to_string(), Some("make")));
    }
    carried::work::COMPARED.set(0);
    world.at(1).starts(ROOT, 101, &["bash", "-c", "make"]);
    assert_eq!(carried::work::COMPARED.get(), 0, "so many are not compared as it starts");
    assert_eq!(world.whose(101), (None, Confidence::Ambiguous));
    assert_eq!(world.candidates(101).len(), 5_000);
}

#[test]
fn command_in_the_midst_of_a_script_is_ambiguous_where_very_many_calls_are_open() {
    let script = ["bash", "-c", "( trap y EXIT; x 0 & )"];
    for (calls, whose) in
        [(1_024, sure("0", Confidence::Strong)), (1_025, (None, Confidence::Ambiguous))]
    {
        let mut world = crowd("/usr/bin/gemini", calls);
        carried::work::COMPARED.set(0);
        world.at(1).starts(ROOT, 101, &script);
        assert_eq!(world.whose(101), whose, "{calls}");
        assert!(carried::work::COMPARED.get() <= 1_024);
    }
}

#[test]
fn command_that_is_said_later_of_an_open_call_is_looked_for() {
    let mut world = claude();
    world.call(ROOT, "a").call(ROOT, "b");
    world.at(1).says(ROOT, start("b", Some("make")));
    world.at(2).starts(ROOT, 101, &["bash", "-c", "make"]).end_call(ROOT, "b");
    world.at(3).starts(101, 102, &["cc"]);
    assert_eq!(world.whose(102), sure("b", Confidence::Stale));
    world.at(4).starts(ROOT, 103, &["bash", "-c", "make"]);
    assert_eq!(world.whose(103), (None, Confidence::None));
}

#[test]
fn calls_that_have_not_ended_are_told_apart_from_very_many_that_have() {
    let mut world = crowd("/usr/bin/claude", 20_000);
    let except: Vec<_> = (0..10_000).map(|number| number.to_string()).collect();
    world.at(1).says(ROOT, Said::CallsEnd { except });
    assert_eq!(world.lineage.calls.open_now(agents::InvocationIndex::RUN).count(), 10_000);
}

/// What is known of calls, bytes: their texts, each once.
fn texts_of(world: &World) -> usize {
    let calls = world.lineage.calls.iter();
    calls.map(|(_, call)| call.id.len() + call.command.as_ref().map_or(0, |text| text.len())).sum()
}

/// The longest command that is announced to a core.
fn longest() -> String {
    "x".repeat(MAX_COMMAND)
}

#[test]
fn calls_take_so_many_bytes_and_what_does_not_fit_is_counted() {
    const CALLS: u64 = 8_000;
    let mut world = claude();
    for number in 0..CALLS {
        world.says(ROOT, start(&number.to_string(), Some(&longest())));
    }
    let known = u64::try_from(world.lineage.calls.iter().count()).unwrap();
    assert!((14 << 20..16 << 20).contains(&texts_of(&world)), "{}", texts_of(&world));
    let stats = world.lineage.stats();
    assert_eq!((stats.announcements, stats.announcements_dropped), (known, CALLS - known));
    assert_eq!(world.lineage.calls.refused(), CALLS - known);
    // One that is known ends all the same.
    world.at(1).end_call(ROOT, "0");
    assert_eq!(world.lineage.calls.open_now(agents::InvocationIndex::RUN).count() + 1, {
        usize::try_from(known).unwrap()
    });
}

#[test]
fn call_that_there_was_no_room_for_makes_no_other_seem_to_be_the_one() {
    let mut world = claude();
    world.call(ROOT, "a");
    for number in 0..4_000 {
        let id = format!("call {number}");
        world.says(ROOT, start(&id, Some(&longest()))).end_call(ROOT, &id);
    }
    assert!(world.lineage.calls.refused() > 0);
    // By its own word one call alone is open, and that is not so.
    world.at(1).fork(ROOT, 101);
    assert_eq!(world.whose(101), (None, Confidence::None));
}

#[test]
fn calls_that_ended_first_make_room_for_those_that_begin() {
    const CALLS: u64 = 8_000;
    let mut world = claude();
    // One has left a process, one is open.
    world.at(10).says(ROOT, start("kept", Some("serve &")));
    world.at(11).starts(ROOT, 101, &["bash", "-c", "serve &"]).at(12).end_call(ROOT, "kept");
    world.at(13).says(ROOT, start("open", Some("watch")));
    for number in 0..CALLS {
        let id = format!("call {number}");
        world.at(1_000 + number * 100).says(ROOT, start(&id, Some(&longest())));
        world.end_call(ROOT, &id);
        // What has ended is looked at when its time is up.
        world.until(world.now);
    }
    let stats = world.lineage.stats();
    assert_eq!(stats.announcements_dropped, 0);
    assert!(texts_of(&world) < 16 << 20);
    let known: Vec<_> = world.lineage.calls.iter().map(|(_, call)| &*call.id).collect();
    assert_eq!(known[..2], ["kept", "open"]);
    assert_eq!(*known.last().unwrap(), format!("call {}", CALLS - 1));
    assert_eq!(world.whose(101), sure("kept", Confidence::Strong));
    // A report says how many it does not list.
    let left_out = CALLS + 2 - u64::try_from(known.len()).unwrap();
    assert_eq!(world.lineage.calls.refused(), left_out);
    world.until(900_000).exit(101, INIT).free(101).exit(ROOT, TRACER).free(ROOT);
    let notes = world.until(990_000).outcome().notes;
    let told = format!("{left_out} tool calls were left out: more became known than are kept");
    assert!(notes.contains(&told), "{notes:?}");
}

#[test]
fn where_nothing_may_go_it_is_not_looked_for_at_each_call_that_is_refused() {
    let mut world = claude();
    for number in 0..4_000 {
        world.says(ROOT, start(&number.to_string(), Some(&longest())));
    }
    let known = world.lineage.calls.iter().count();
    // Each look would ask for the call of this one, and so read its arguments.
    world.at(1).starts(ROOT, 101, &["bash", "-c", "y"]);
    carried::work::READ.set(0);
    for number in 0..known {
        world.says(ROOT, start(&format!("more {number}"), Some(&longest())));
    }
    assert!(carried::work::READ.get() <= 2, "{} looks", carried::work::READ.get());
}

#[test]
fn runs_share_what_their_calls_may_take() {
    let shared = SharedRoom::default();
    let full = || {
        let mut world = claude();
        world.lineage.share_room(&shared);
        for number in 0..4_500 {
            world.says(ROOT, start(&number.to_string(), Some(&longest())));
        }
        world
    };
    let worlds: Vec<_> = (0..8).map(|_| full()).collect();
    let all: usize = worlds.iter().map(texts_of).sum();
    assert!((56 << 20..64 << 20).contains(&all), "{all}");
    // Who comes then is not left without any.
    let mut last = claude();
    last.lineage.share_room(&shared);
    last.says(ROOT, start("a", Some("make"))).at(1).starts(ROOT, 101, &["bash", "-c", "make"]);
    assert_eq!(last.whose(101), sure("a", Confidence::Strong));
}

/// A tracer was away, and who announced something meanwhile was heard by nobody.
#[test]
fn one_call_that_seems_to_be_open_alone_is_no_evidence_where_announcements_were_lost() {
    let mut world = claude();
    world.at(4).call(ROOT, "a").at(5).fork(ROOT, 101);
    assert_eq!(world.whose(101), sure("a", Confidence::Probable));
    world.lineage.handle(Event::AnnouncementsLost { at: ms(20), from: ms(10) });
    // Forked before that, and since.
    assert_eq!(world.whose(101), sure("a", Confidence::Probable));
    world.at(20).fork(ROOT, 102);
    assert_eq!((world.whose(102), world.candidates(102)), ((None, Confidence::None), vec![]));
    // Two that are known are told: it may be one of them.
    world.at(30).call(ROOT, "b").at(31).fork(ROOT, 103);
    assert_eq!(world.candidates(103), ["a", "b"]);
    // What names its call is believed.
    world.says(ROOT, start("c", Some("make test")));
    world.at(40).starts(ROOT, 104, &["/bin/bash", "-c", "make test"]);
    assert_eq!(world.whose(104), sure("c", Confidence::Strong));
    // Now the agent says that none is open any more.
    world.at(50).says(ROOT, Said::CallsEnd { except: Vec::new() });
    world.at(60).call(ROOT, "d").at(61).fork(ROOT, 105);
    assert_eq!(world.whose(105), sure("d", Confidence::Probable));
    assert_eq!(world.whose(102), (None, Confidence::None));
}
