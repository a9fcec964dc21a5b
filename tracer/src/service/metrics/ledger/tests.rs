use proptest::prelude::*;

use super::*;
use crate::{
    lineage::{Action, Finding, FindingState, Receipt, Remedy},
    report::sample,
};

const AGENT: AgentLabel = AgentLabel::UNNAMED;
const CAUSE: CauseCode = CauseCode::AgentExitedWithoutCleanup;

/// News of a finding of the process with this pid, which was just made: a server's, of 19.1 MB and
/// with port 3000.
fn opened(pid: u32, kind: FindingKind) -> FindingNews {
    let server = sample::four_leaks().findings.swap_remove(0);
    let process = sample::process(pid, &["node"]);
    let resources = server.resources.clone().filter(|_| kind != FindingKind::Zombie);
    let since = Nanos(u64::from(pid));
    FindingNews {
        invocation: "1-1".to_owned(),
        change: Change::Opened,
        uid: None,
        gone_at: None,
        kept_by: None,
        finding: Finding { kind, process, resources, since, ..server },
    }
}

fn changed(mut news: FindingNews, change: Change) -> FindingNews {
    news.change = change;
    match change {
        Change::Opened | Change::Changed | Change::Withdrawn => {}
        Change::Resolved => news.finding.state = FindingState::Resolved(Nanos(9)),
        Change::Gone => news.gone_at = Some(Nanos(9)),
    }
    news
}

fn told(all: impl IntoIterator<Item = FindingNews>) -> Ledger {
    let mut ledger = Ledger::default();
    for news in all {
        ledger.tell(&news, AGENT);
    }
    ledger
}

fn open(ledger: &Ledger, kind: FindingKind) -> u64 {
    ledger.sums.open.get(&(kind, AGENT, CAUSE)).copied().unwrap_or(0)
}

fn total(ledger: &Ledger, kind: FindingKind) -> u64 {
    ledger.sums.total.get(&(kind, AGENT, CAUSE)).copied().unwrap_or(0)
}

#[test]
fn finding_stands_until_it_is_put_right_or_gone_and_counts_once() {
    use FindingKind::{Survivor, Zombie};
    let zombie = opened(7, Zombie);
    let survivor = opened(8, Survivor);
    let mut ledger = told([zombie.clone(), survivor.clone()]);
    assert_eq!((open(&ledger, Zombie), open(&ledger, Survivor)), (1, 1));
    ledger.tell(&changed(zombie, Change::Resolved), AGENT);
    ledger.tell(&changed(survivor.clone(), Change::Changed), AGENT);
    assert_eq!((open(&ledger, Zombie), open(&ledger, Survivor)), (0, 1));
    ledger.tell(&changed(survivor, Change::Gone), AGENT);
    assert_eq!((open(&ledger, Zombie), open(&ledger, Survivor)), (0, 0));
    assert_eq!((total(&ledger, Zombie), total(&ledger, Survivor)), (1, 1));
    assert_eq!(ledger.sums.resolved, BTreeMap::from([((Zombie, AGENT), 1)]));
}

#[test]
fn zombie_that_stands_longest_is_the_oldest() {
    let zombies = [30, 10, 20].map(|pid| opened(pid, FindingKind::Zombie));
    let mut ledger = told(zombies.clone());
    assert_eq!(ledger.oldest_zombie(), Some(Nanos(10)));
    let [third, first, second] = zombies;
    ledger.tell(&changed(first, Change::Resolved), AGENT);
    assert_eq!(ledger.oldest_zombie(), Some(Nanos(20)));
    ledger.tell(&changed(second, Change::Withdrawn), AGENT);
    ledger.tell(&changed(third, Change::Gone), AGENT);
    assert_eq!(ledger.oldest_zombie(), None);
}

#[test]
fn process_holds_what_it_holds_once_whatever_is_found_of_it() {
    let [orphan, survivor] =
        [FindingKind::Orphan, FindingKind::Survivor].map(|kind| opened(7, kind));
    let mut ledger = told([orphan.clone(), survivor.clone()]);
    let held = Held { processes: 1, memory: 19_100_000, ports: 1 };
    assert_eq!(ledger.sums.held[&AGENT], held);
    ledger.tell(&changed(orphan, Change::Gone), AGENT);
    assert_eq!(ledger.sums.held[&AGENT], held);
    ledger.tell(&changed(survivor, Change::Gone), AGENT);
    assert_eq!(ledger.sums.held[&AGENT], Held::default());
}

#[test]
fn port_that_several_processes_of_a_run_hold_is_one_and_of_another_run_another() {
    let server = |pid, run: &str| FindingNews {
        invocation: run.to_owned(),
        ..opened(pid, FindingKind::Survivor)
    };
    let mut ledger = told([server(1, "a"), server(2, "a"), server(3, "b")]);
    assert_eq!(ledger.sums.held[&AGENT].ports, 2);
    ledger.tell(&changed(server(1, "a"), Change::Gone), AGENT);
    assert_eq!(ledger.sums.held[&AGENT].ports, 2);
    ledger.tell(&changed(server(2, "a"), Change::Gone), AGENT);
    assert_eq!(ledger.sums.held[&AGENT].ports, 1);
}

#[test]
fn sockets_of_the_file_system_are_no_ports() {
    let listening = [&b"unix /run/x.sock"[..], b"udp 0.0.0.0:53", b"[::]:80", b"[::]:80"];
    let listening = listening.map(<[u8]>::to_vec).to_vec();
    let resources = Resources { listening, ..Resources::default() };
    assert_eq!(ports("1-1", &resources).len(), 2);
    let many = (0..1000).map(|port| format!("[::]:{port}").into_bytes()).collect();
    let resources = Resources { listening: many, ..Resources::default() };
    assert_eq!(ports("1-1", &resources).len(), MOST_PORTS);
}

#[test]
fn zombies_and_the_stuck_hold_nothing_for_nothing() {
    let ledger = told([opened(1, FindingKind::Zombie), opened(2, FindingKind::Stuck)]);
    assert_eq!(ledger.sums.held.get(&AGENT), None);
    assert_eq!(ledger.leaking().count(), 0);
    let ledger = told([opened(3, FindingKind::OutlivedCall)]);
    assert_eq!(ledger.leaking().map(|(.., local)| local).collect::<Vec<_>>(), [3]);
}

#[test]
fn what_is_kept_counts_when_it_is_kept_no_more() {
    let news = opened(7, FindingKind::Survivor);
    let kept = FindingNews { kept_by: Some("a lease".to_owned()), ..news.clone() };
    let mut ledger = told([kept]);
    assert_eq!((open(&ledger, news.finding.kind), total(&ledger, news.finding.kind)), (0, 0));
    ledger.tell(&changed(news.clone(), Change::Changed), AGENT);
    assert_eq!((open(&ledger, news.finding.kind), total(&ledger, news.finding.kind)), (1, 1));
}

#[test]
fn what_was_done_counts_once_however_often_it_is_told() {
    let [orphan, survivor] =
        [FindingKind::Orphan, FindingKind::Survivor].map(|kind| opened(7, kind));
    let mut ledger = told([orphan.clone(), survivor.clone()]);
    let receipt = |at, result| Receipt {
        process: survivor.finding.process.id,
        kind: Some(FindingKind::Survivor),
        remedy: Remedy::Kill,
        decided_by: "rule".to_owned(),
        decided_at: Nanos(1),
        dry_run: false,
        signals: Vec::new(),
        result,
        reason: None,
        at: Nanos(at),
        ports: Vec::new(),
    };
    let with = |news: &FindingNews, at, result, change| {
        let mut news = changed(news.clone(), change);
        news.finding.action =
            Some(Action { receipt: receipt(at, result), exit: None, reaped: None });
        news
    };
    let (still_there, ended) = (ActionResult::StillThere, ActionResult::Ended);
    for news in [
        with(&survivor, 5, still_there, Change::Changed),
        with(&orphan, 5, still_there, Change::Changed),
        with(&orphan, 6, ended, Change::Gone),
        with(&survivor, 6, ended, Change::Gone),
        // It is gone, and known for a while.
        with(&survivor, 6, ended, Change::Changed),
    ] {
        ledger.tell(&news, AGENT);
    }
    let expected = BTreeMap::from([((still_there, AGENT), 1), ((ended, AGENT), 1)]);
    assert_eq!(ledger.sums.actions, expected);
}

#[test]
fn of_what_is_gone_little_is_kept_and_it_does_not_count_again() {
    let pids = 1..=u32::try_from(MOST_GONE).unwrap() + 100;
    let gone = |pid| changed(opened(pid, FindingKind::Zombie), Change::Gone);
    let mut ledger = told(pids.clone().map(|pid| opened(pid, FindingKind::Zombie)));
    pids.clone().for_each(|pid| ledger.tell(&gone(pid), AGENT));
    assert_eq!((ledger.processes.len(), ledger.gone.len()), (MOST_GONE, MOST_GONE));
    let before = total(&ledger, FindingKind::Zombie);
    // Of one that is remembered, and of one that is not.
    ledger.tell(&changed(gone(*pids.end()), Change::Changed), AGENT);
    ledger.tell(&changed(gone(1), Change::Changed), AGENT);
    assert_eq!(total(&ledger, FindingKind::Zombie), before);
    assert_eq!(ledger.processes.len(), MOST_GONE);
}

#[test]
fn more_than_are_kept_are_counted_as_left_out() {
    let mut ledger = Ledger::default();
    let mut news = opened(1, FindingKind::Zombie);
    for pid in 1..=u32::try_from(MOST_PROCESSES).unwrap() + 3 {
        news.finding.process.id.pid = pid;
        ledger.tell(&news, AGENT);
    }
    assert_eq!(open(&ledger, FindingKind::Zombie), u64::try_from(MOST_PROCESSES).unwrap());
    assert_eq!(total(&ledger, FindingKind::Zombie), u64::try_from(MOST_PROCESSES).unwrap() + 3);
    assert_eq!(ledger.sums.left_out, 3);
    // Once there is room, what stands of them is kept, and does not count again.
    news.finding.process.id.pid = 1;
    ledger.tell(&changed(news.clone(), Change::Gone), AGENT);
    news.finding.process.id.pid = u32::try_from(MOST_PROCESSES).unwrap() + 1;
    ledger.tell(&changed(news, Change::Changed), AGENT);
    assert_eq!(open(&ledger, FindingKind::Zombie), u64::try_from(MOST_PROCESSES).unwrap());
    assert_eq!(total(&ledger, FindingKind::Zombie), u64::try_from(MOST_PROCESSES).unwrap() + 3);
}

fn any_news() -> impl Strategy<Value = FindingNews> {
    let changes =
        [Change::Opened, Change::Changed, Change::Resolved, Change::Gone, Change::Withdrawn];
    let what = (
        1_u32..6,
        prop::sample::select(FindingKind::ALL.to_vec()),
        prop::sample::select(changes.to_vec()),
    );
    (what, any::<[bool; 3]>(), 0..3).prop_map(|((pid, kind, change), flags, ports)| {
        let [is_gone, is_kept, has_resources] = flags;
        let mut news = changed(opened(pid, kind), change);
        if is_gone {
            news.gone_at = Some(Nanos(9));
        }
        news.kept_by = is_kept.then(|| "rule".to_owned());
        let listening = (0..ports).map(|port| format!("[::]:{port}").into_bytes()).collect();
        let held = Resources { listening, rss_bytes: Some(100), ..Resources::default() };
        news.finding.resources = has_resources.then_some(held);
        news
    })
}

proptest! {
    #[test]
    fn sums_are_those_of_what_is_kept(all in prop::collection::vec(any_news(), 0..60)) {
        let ledger = told(all);
        let mut again = Ledger::default();
        for (&id, entry) in &ledger.processes {
            again.put_on(id, entry);
        }
        let nonzero = |ledger: &Ledger| {
            let open = ledger.sums.open.iter().filter(|(_, number)| **number > 0);
            let held = ledger.sums.held.iter().filter(|(_, held)| **held != Held::default());
            let (open, held): (Vec<_>, Vec<_>) = (open.map(|(k, v)| (*k, *v)).collect(), held.map(|(k, v)| (*k, *v)).collect());
            (open, held)
        };
        prop_assert_eq!(nonzero(&ledger), nonzero(&again));
        prop_assert_eq!(&ledger.zombies, &again.zombies);
        prop_assert_eq!(&ledger.ports, &again.ports);
        let over = ledger.processes.values().filter(|entry| entry.is_over).count();
        prop_assert_eq!(over, ledger.over);
        let listed = |id: &ProcessId| ledger.gone.contains(id);
        prop_assert!(ledger.processes.iter().all(|(id, entry)| !entry.is_over || listed(id)));
    }
}
