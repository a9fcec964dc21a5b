//! Many findings at once, of processes with much to tell.

use super::*;
use crate::{
    lineage::{FindingState, Observation},
    report::json::Writer,
};

const ROOT: ProcessId = ProcessId { pid: 100, start: 10 };
/// Ancestors of each that leaks.
const DEPTH: u32 = 64;
const SECOND: u64 = 1_000_000_000;

/// A run of so many forkers, each the next one's child, and the last of them.
fn chain(node: &mut Node) -> (RunId, ProcessId) {
    let run = begin(node, ROOT);
    let args = vec![b'x'; 4096];
    let mut last = ROOT;
    for generation in 1..DEPTH {
        let start = ROOT.start + u64::from(generation);
        let child = ProcessId { pid: ROOT.pid + generation, start };
        fork(node, run, last, child);
        let at = Nanos(child.start);
        let exec = Event::Exec {
            at,
            process: child,
            exe: b"/bin/sh",
            args: &args,
            truncated: true,
            markers: b"",
            markers_truncated: false,
            uid: None,
        };
        node.handle(exec, None);
        last = child;
    }
    (run, last)
}

/// So many children of a process that have just begun.
fn children(node: &mut Node, run: RunId, parent: ProcessId, number: u32) -> Vec<ProcessId> {
    let child = |n| ProcessId { pid: 1000 + n, start: 1000 + u64::from(n) };
    let children: Vec<_> = (0..number).map(child).collect();
    children.iter().for_each(|child| fork(node, run, parent, *child));
    children
}

/// Lets what is due at `now` be looked at: everybody is in this state. What is found waits to be polled.
fn look(node: &mut Node, now: Nanos, state: char) {
    node.settle(Nanos(SECOND));
    node.handle_timeout(now);
    node.settle(now);
    let outputs: Vec<_> = std::iter::from_fn(|| node.poll_output()).collect();
    for output in outputs {
        let Output::Ask { run, question } = output else { continue };
        let lineage::Output::Observe { process, .. } = question else { continue };
        let seen = Observation { exists: true, state: Some(state), ..Observation::default() };
        node.answered(run, Event::Observed { at: now, process, observation: Box::new(seen) });
    }
    node.settle(now);
}

/// The next that is told of a finding.
fn told(node: &mut Node) -> Option<FindingNews> {
    std::iter::from_fn(|| node.poll_output()).find_map(|output| match output {
        Output::News(What::Finding(news)) => Some(*news),
        _ => None,
    })
}

#[test]
fn each_of_many_findings_is_made_when_it_is_asked_for() {
    let mut node = node();
    let (run, parent) = chain(&mut node);
    let dead = children(&mut node, run, parent, 100);
    dead.iter().for_each(|child| exit(&mut node, parent, *child));
    let now = Nanos(10 * SECOND);
    look(&mut node, now, 'Z');
    let first = told(&mut node).expect("news");
    assert_eq!((first.change, first.finding.state), (Change::Opened, FindingState::Open));
    // None of the others is there yet: each is told as it is by then.
    for child in &dead {
        let by = Some(parent);
        node.handle(Event::Reaped { at: now, process: *child, by, gone: true }, None);
    }
    let others: Vec<_> = std::iter::from_fn(|| told(&mut node)).collect();
    assert!(others.iter().all(|news| news.finding.state == FindingState::Resolved(now)));
    assert!(others.iter().all(|news| news.change == Change::Opened));
    node.settle(now);
    let last = std::iter::from_fn(|| told(&mut node));
    let last: Vec<_> = last.map(|news| (news.key(), news.change)).collect();
    assert_eq!(last, [(first.key(), Change::Resolved)]);
}

#[test]
fn finding_below_many_ancestors_with_long_arguments_is_small() {
    let mut node = node();
    let (run, parent) = chain(&mut node);
    let dead = children(&mut node, run, parent, 1);
    exit(&mut node, parent, dead[0]);
    look(&mut node, Nanos(10 * SECOND), 'Z');
    let news = told(&mut node).expect("news");
    let ancestors = &news.finding.lineage;
    assert_eq!(ancestors.len(), usize::try_from(DEPTH).unwrap());
    assert!(!ancestors[0].args_truncated && ancestors[0].args == [b"claude"]);
    assert!(ancestors[1..].iter().all(|one| one.args_truncated && one.args[0].len() >= 128));
    assert_eq!(news.finding.process.args, [vec![b'x'; 4096]]);
    let line = serde_json::to_vec(&Writer { epoch_offset: 0 }.finding(&news.finding)).unwrap();
    assert!(line.len() < 64 << 10, "{} bytes", line.len());
}

#[test]
fn withdrawn_finding_says_whom_it_was_of_and_under_whom() {
    let mut node = node();
    let (run, parent) = chain(&mut node);
    let survivor = children(&mut node, run, parent, 1)[0];
    exit(&mut node, INIT, ROOT);
    let now = Nanos(10 * SECOND);
    look(&mut node, now, 'S');
    let all: Vec<_> = std::iter::from_fn(|| told(&mut node)).collect();
    let is_its = |news: &&FindingNews| news.finding.process.id == survivor;
    let opened = all.iter().find(is_its).expect("it was found");
    // It had ended in time, which is told late.
    exit(&mut node, parent, survivor);
    node.settle(now);
    let withdrawn = told(&mut node).expect("news");
    assert_eq!((withdrawn.key(), withdrawn.change), (opened.key(), Change::Withdrawn));
    let told = |news: &FindingNews| {
        let finding = &news.finding;
        let args = (finding.process.exe.clone(), finding.process.args.clone());
        let pids = finding.lineage.iter().map(|one| one.pid).collect::<Vec<_>>();
        (args, pids, finding.tool_call.clone())
    };
    assert_eq!(told(&withdrawn), told(opened));
}
