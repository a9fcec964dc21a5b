//! What a node keeps of processes whose end is told late, or never.

mod burst;

use super::*;

const INIT: ProcessId = ProcessId { pid: 1, start: 1 };
const AGENT: &[u8] = b"/usr/bin/claude";

fn pids(id: ProcessId) -> Pids {
    Pids { host: id.pid, local: Some(id.pid), namespace: id.pid, level: 0 }
}

/// The agent's program, executed by this user.
fn exec(process: ProcessId, at: Nanos, uid: Option<u32>) -> Event<'static> {
    Event::Exec {
        at,
        process,
        exe: AGENT,
        args: b"claude\0",
        truncated: false,
        markers: b"",
        markers_truncated: false,
        uid,
    }
}

/// What is told of runs, in order: as whose, and whether they have ended.
fn told_of_runs(node: &mut Node, now: Nanos) -> Vec<(Option<u32>, bool)> {
    node.settle(now);
    let outputs = std::iter::from_fn(|| node.poll_output());
    let told = outputs.filter_map(|output| match output {
        Output::News(What::Opened(news)) => Some((news.uid, false)),
        Output::News(What::Ended(news)) => Some((news.uid, true)),
        _ => None,
    });
    told.collect()
}

/// A node with an agent's run of this root.
fn begin(node: &mut Node, root: ProcessId) -> RunId {
    let at = Nanos(root.start);
    node.handle(exec(root, at, Some(1000)), None);
    let (run, agent) = node.poll_agent().expect("an agent");
    let root = RecoveredProcess::forked(root, INIT, INIT, pids(root));
    let root = RecoveredProcess { root: true, exec_at: Some(at), ..root };
    let adoption =
        Adoption { at, processes: vec![root], programs: vec![agent], ..Adoption::default() };
    node.adopted(run, adoption);
    run
}

fn fork(node: &mut Node, run: RunId, parent: ProcessId, child: ProcessId) {
    let fork = Event::Fork {
        at: Nanos(child.start),
        child,
        forker: parent,
        parent,
        pids: pids(child),
        cgroup: None,
        thread: None,
        root: false,
    };
    node.handle(fork, Some(run));
}

fn exit(node: &mut Node, parent: ProcessId, process: ProcessId) {
    let at = Nanos(process.start + 1);
    let exit = Event::Exit { at, process, status: 0, parent, children_uncounted: false };
    node.handle(exit, None);
}

fn node() -> Node {
    Node::new(Config::default(), Rules::built_in())
}

#[test]
fn last_owner_of_a_pid_that_comes_round_is_known_no_more() {
    let mut node = node();
    let root = ProcessId { pid: 100, start: 10 };
    let run = begin(&mut node, root);
    for start in 20..5_000 {
        let child = ProcessId { pid: 200, start };
        fork(&mut node, run, root, child);
        exit(&mut node, root, child);
    }
    assert_eq!(node.whose.len(), 2);
    assert_eq!(node.run_of(ProcessId { pid: 200, start: 4_998 }), None);
    assert_eq!(node.run_of(ProcessId { pid: 200, start: 4_999 }), Some(run));
}

#[test]
fn last_owner_of_a_pid_that_comes_round_in_another_run_is_gone_from_its_own() {
    let mut node = node();
    let [one, other] = [100, 101].map(|pid| ProcessId { pid, start: 10 });
    let runs = [one, other].map(|root| begin(&mut node, root));
    let child = ProcessId { pid: 200, start: 20 };
    fork(&mut node, runs[0], one, child);
    exit(&mut node, one, child);
    let there = |node: &Node, run| node.lineage(run).map_or(0, |known| known.present().len());
    assert_eq!(there(&node, runs[0]), 2);
    let heir = ProcessId { pid: 200, start: 30 };
    fork(&mut node, runs[1], other, heir);
    assert_eq!((there(&node, runs[0]), there(&node, runs[1])), (1, 2));
    assert_eq!((node.run_of(child), node.run_of(heir)), (None, Some(runs[1])));
    // Late news of the first change nothing about the second.
    let late = Event::Reaped { at: Nanos(31), process: child, by: None, gone: true };
    node.handle(late, None);
    assert_eq!(node.run_of_pid(200), Some((heir, runs[1])));
}

#[test]
fn old_news_of_a_pid_do_not_displace_its_owner() {
    let mut node = node();
    let root = ProcessId { pid: 100, start: 10 };
    let run = begin(&mut node, root);
    let [child, heir] = [20, 30].map(|start| ProcessId { pid: 200, start });
    fork(&mut node, run, root, heir);
    fork(&mut node, run, root, child);
    assert_eq!(node.run_of_pid(200), Some((heir, run)));
    assert_eq!((node.run_of(child), node.run_of(heir)), (None, Some(run)));
}

#[test]
fn run_is_its_user_s_as_whom_its_root_began() {
    let mut node = node();
    let root = ProcessId { pid: 100, start: 10 };
    begin(&mut node, root);
    assert_eq!(told_of_runs(&mut node, Nanos(11)), [(Some(1000), false)]);
    node.handle(exec(root, Nanos(20), Some(0)), None);
    exit(&mut node, INIT, root);
    node.handle_timeout(Nanos(1 << 40));
    assert_eq!(told_of_runs(&mut node, Nanos(1 << 40)), [(Some(1000), true)]);
}

#[test]
fn next_daemon_is_told_whose_a_run_was_and_a_child_s_user_says_nothing() {
    let (root, child) = (ProcessId { pid: 100, start: 10 }, ProcessId { pid: 101, start: 20 });
    let is_known = |noted: &[Event<'_>], read: Option<u32>| {
        let mut node = node();
        let entry = RecoveredProcess::forked(root, INIT, INIT, pids(root));
        let processes = [
            RecoveredProcess { root: true, exec_at: Some(Nanos(30)), ..entry },
            RecoveredProcess::forked(child, root, root, pids(child)),
        ];
        let noted = noted.iter().filter_map(OwnedEvent::of).collect();
        let program =
            ProgramSeen { process: root, at: Nanos(30), uid: read, ..ProgramSeen::default() };
        node.adopted(
            7,
            Adoption {
                at: Nanos(40),
                story: story(&processes, noted),
                processes: processes.into(),
                programs: vec![program],
                ..Adoption::default()
            },
        );
        told_of_runs(&mut node, Nanos(41))
    };
    let noted = [
        exec(child, Nanos(25), Some(7)),
        exec(root, Nanos(26), Some(1000)),
        exec(root, Nanos(30), Some(0)),
    ];
    assert_eq!(is_known(&noted, Some(0)), [(Some(1000), false)]);
    assert_eq!(is_known(&noted[..1], Some(0)), [(Some(0), false)]);
    assert_eq!(is_known(&noted[..1], None), [(None, false)]);
}

#[test]
fn call_that_a_run_has_no_room_for_is_counted_as_refused() {
    let mut node = node();
    let root = ProcessId { pid: 70, start: 10 };
    begin(&mut node, root);
    let says = |node: &mut Node, number: usize| {
        let command = Some("x".repeat(lineage::MAX_COMMAND));
        node.announced(Announcement {
            sender: root.pid,
            sent_at: Nanos(100),
            at: None,
            agent: None,
            pid: None,
            session: None,
            said: lineage::Said::CallStart(lineage::CallStart {
                id: number.to_string(),
                command,
                ..lineage::CallStart::default()
            }),
        });
    };
    (0..3_000).for_each(|number| says(&mut node, number));
    assert_eq!(node.refused_announcements(), 0);
    (3_000..6_000).for_each(|number| says(&mut node, number));
    let refused = node.refused_announcements();
    assert!((2_000..3_000).contains(&refused), "{refused}");
}
