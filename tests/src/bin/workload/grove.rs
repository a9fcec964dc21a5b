//! Random trees of processes ([`tracer_tests::grove`]): COMMAND that grows them, and what is around.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use tracer_tests::grove::{Grove, Id, Manner, Place, ROOT};
use tracer_tests::sys;
use tracer_tests::truth::account::{Account, Slot, Stage};

use crate::args::Args;

/// Most that a supervisor starts.
const MOST_WORKERS: usize = 10_000;

/// The trees of `seed=N` and the `trees=N` following ones, their account and the FIFO `lives=PATH`,
/// which all that must end hold open for writing, and nobody else.
struct Play<'a> {
    args: &'a Args,
    grove: Grove,
    account: Account,
}

impl<'a> Play<'a> {
    fn new(args: &'a Args) -> Self {
        let number = |key| u64::try_from(args.number(key).expect("a number")).expect("positive");
        let (first, count) = (number("seed"), number("trees"));
        let grove = Grove::new(first..first + count);
        let path = Path::new(args.get("account").expect("account=FILE"));
        let account = Account::open(path).expect("the account can be mapped");
        assert_eq!(account.len(), grove.slots(), "processes in the account");
        Self { args, grove, account }
    }

    /// A member, from its fork on.
    fn member(&self, tree: usize, id: Id) -> i32 {
        let Some(keeps) = self.grove.trees[tree].members[id].executes else {
            return self.live(tree, id);
        };
        let mut command = Command::new("/proc/self/exe");
        command.arg("grove-member").args(
            ["account", "lives", "seed", "trees"]
                .map(|key| format!("{key}={}", self.args.get(key).expect("it is there"))),
        );
        command.args([format!("tree={tree}"), format!("id={id}")]).env_remove("TRACER_KEEP");
        if keeps {
            command.env("TRACER_KEEP", "1");
        }
        panic!("exec: {}", command.exec())
    }

    /// A member, from when it runs the program that it runs.
    fn live(&self, tree: usize, id: Id) -> i32 {
        let member = self.grove.trees[tree].members[id];
        let slot = self.account.slot(self.grove.member(tree, id));
        slot.tell_identity();
        self.take_place(tree, member.place);
        if member.is_subreaper {
            sys::become_subreaper();
        }
        take_sigterm(member.manner);
        if member.kept {
            note_signals(self.grove.member(tree, id), self.account);
        }
        slot.reach(Stage::Born);
        let members = self.grove.trees[tree].members.iter().enumerate();
        for (child, _) in members.filter(|(_, child)| child.forker == Some(id)) {
            sys::fork(|| self.member(tree, child));
        }
        slot.reach(Stage::Ready);
        self.go_on(member.manner, slot)
    }

    fn take_place(&self, tree: usize, place: Place) {
        let group_of = |slot: &Slot| {
            slot.until(Stage::Born);
            sys::join_group(slot.pid.load(SeqCst));
        };
        match place {
            Place::Inherited => {}
            Place::Session => sys::setsid(),
            Place::Group => sys::join_group(0),
            Place::InnocentsGroup(id) => group_of(self.account.slot(self.grove.innocent(tree, id))),
            Place::MembersGroup(id) => group_of(self.account.slot(self.grove.member(tree, id))),
        }
    }

    fn go_on(&self, manner: Manner, slot: &Slot) -> i32 {
        match manner {
            Manner::Dies | Manner::Ignores | Manner::Stays => sys::pause_for_ever(),
            Manner::Slow(milliseconds, has_helper) => {
                sys::until_signal(libc::SIGTERM);
                let span = Duration::from_millis(milliseconds);
                if has_helper {
                    let helper = sys::fork(|| {
                        take_sigterm(Manner::Dies);
                        thread::sleep(span);
                        0
                    });
                    sys::wait_for(helper);
                }
                thread::sleep(span);
                0
            }
            Manner::Supervises { .. } => {
                for _ in 0..MOST_WORKERS {
                    let worker = sys::fork(|| {
                        take_sigterm(Manner::Dies);
                        sys::pause_for_ever()
                    });
                    sys::wait_for(worker);
                }
                0
            }
            Manner::Rises(more) => rises(more),
            Manner::Ends(milliseconds) => {
                self.account.slot(ROOT).until(Stage::Ready);
                thread::sleep(Duration::from_millis(milliseconds));
                0
            }
            Manner::Leaves => 0,
            Manner::Stops => {
                sys::kill(sys::own_pid(), libc::SIGSTOP);
                sys::pause_for_ever()
            }
            Manner::Works => works(slot),
        }
    }

    /// Nobody goes before all are there.
    fn until_all_are_ready(&self) {
        (ROOT + 1..self.account.len()).for_each(|id| self.account.slot(id).until(Stage::Ready));
    }
}

/// Sets what SIGTERM does; its forker had its own way.
fn take_sigterm(manner: Manner) {
    let ignores = matches!(manner, Manner::Ignores | Manner::Supervises { ignores: true });
    let action = if ignores { libc::SIG_IGN } else { libc::SIG_DFL };
    sys::set_action(libc::SIGTERM, action, 0);
    let waits = matches!(manner, Manner::Slow(..) | Manner::Rises(_));
    sys::hold_back(libc::SIGTERM, waits);
}

fn rises(more: u32) -> i32 {
    sys::until_signal(libc::SIGTERM);
    if more > 0 {
        sys::fork(|| rises(more - 1));
    }
    0
}

/// Notes in its account when a child did not end well.
fn works(slot: &Slot) -> ! {
    fork_and_reap(|status| slot.signalled.store(status.unsigned_abs(), SeqCst))
}

/// Forks and reaps for ever, and tells the status of a child that did not end well: somebody ended it.
pub(crate) fn fork_and_reap(mut tell: impl FnMut(i32)) -> ! {
    const WELL: i32 = 7;
    loop {
        let child = sys::fork(|| WELL);
        let status = sys::wait_for(child);
        if status != WELL << 8 {
            tell(status);
        }
        thread::sleep(Duration::from_millis(50) * sys::slowness());
    }
}

/// Address of the slot that signals are noted in.
static NOTED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn note(signal: i32) {
    let slot = NOTED.load(SeqCst) as *const Slot;
    // SAFETY: set before the handler was, to a slot, which is mapped for ever.
    unsafe { (*slot).signalled.store(signal.unsigned_abs(), SeqCst) };
}

/// Survives every signal that can be survived, and tells of it.
pub(crate) fn note_signals(slot: usize, account: Account) {
    NOTED.store(std::ptr::from_ref(account.slot(slot)).addr(), SeqCst);
    let handler: extern "C" fn(i32) = note;
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGCONT] {
        sys::set_action(signal, handler as *const () as libc::sighandler_t, libc::SA_RESTART);
    }
}

/// Grows the trees and ends once all of them, and all innocents, are there.
pub(crate) fn root(args: &Args) -> i32 {
    let play = Play::new(args);
    hold_open(args);
    let slot = play.account.slot(ROOT);
    slot.tell_identity();
    for (number, tree) in play.grove.trees.iter().enumerate() {
        let members = tree.members.iter().enumerate();
        for (id, _) in members.filter(|(_, member)| member.forker.is_none()) {
            sys::fork(|| play.member(number, id));
        }
    }
    play.until_all_are_ready();
    slot.reach(Stage::Ready);
    0
}

/// A member that has executed this program: `tree=N id=N`.
pub(crate) fn executed(args: &Args) -> i32 {
    let play = Play::new(args);
    let number = |key| usize::try_from(args.number(key).expect("a number")).expect("positive");
    let (tree, id) = (number("tree"), number("id"));
    if !play.grove.trees[tree].members[id].kept {
        hold_open(args);
    }
    play.live(tree, id)
}

/// Until the end of the process and of all that it forks.
fn hold_open(args: &Args) {
    let lives = File::options().write(true).open(args.get("lives").expect("lives=FIFO"));
    std::mem::forget(lives.expect("the test reads from it"));
}

/// What is around tracer: leads a session, adopts and reaps. Forks the innocents, then what follows
/// `--`, and ends with the status of that.
pub(crate) fn around(args: &Args) -> i32 {
    sys::setsid();
    let play = Play::new(args);
    for (tree, places) in play.grove.trees.iter().map(|tree| &tree.innocents).enumerate() {
        for (id, place) in places.iter().enumerate() {
            sys::fork(|| {
                let number = play.grove.innocent(tree, id);
                let slot = play.account.slot(number);
                slot.tell_identity();
                note_signals(number, play.account);
                play.take_place(tree, *place);
                slot.reach(Stage::Born);
                slot.reach(Stage::Ready);
                // One of each tree will do: all of them would keep the machine busy.
                if id == 0 { works(slot) } else { sys::pause_for_ever() }
            });
        }
    }
    sys::become_subreaper();
    let (program, rest) = args.command();
    let command: Vec<&OsStr> = rest;
    let child = sys::fork(|| {
        sys::unbound_life();
        sys::exec(program, &command)
    });
    loop {
        let (pid, status) = sys::wait_for_any();
        if pid == child {
            return if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 125 };
        }
    }
}
