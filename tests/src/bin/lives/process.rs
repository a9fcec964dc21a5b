//! The calls that a plan's processes make: which pid names whom, forks of all kinds, waits of all
//! kinds, each with its account.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tracer_tests::sys::{self, Pid};
use tracer_tests::truth::account::{self, PATIENCE, Slot, Stage as Point, now};
use tracer_tests::truth::plan::{How, Id, Via};

use crate::{Stage, play};

impl Stage {
    pub(crate) fn slot(&self, id: Id) -> &'static Slot {
        self.account.slot(id)
    }

    /// The pid by which `me` names another process.
    pub(crate) fn pid(&self, me: Id, of: Id) -> Pid {
        let (slot, node) = (self.slot(of), &self.plan.nodes[of]);
        if node.forker == me {
            return slot.made_pid.load(SeqCst);
        }
        slot.until(Point::Born);
        if node.namespace == self.plan.nodes[me].namespace {
            return slot.own_pid.load(SeqCst);
        }
        // The first of a namespace within this one: its forker, who is here too, knows its pid here.
        play::patiently("a forker to tell a pid", || {
            let pid = slot.made_pid.load(SeqCst);
            (pid != 0).then_some(pid)
        })
    }

    /// Which child, own or adopted, `me` has just reaped under this pid.
    fn reaped_id(&self, me: Id, pid: Pid) -> Option<Id> {
        let nodes = &self.plan.nodes;
        let here = nodes[me].namespace;
        let named = |&id: &Id| {
            let (slot, node) = (self.slot(id), &nodes[id]);
            !slot.is_reaped()
                && !node.vanishes
                && id != 0
                && (node.namespace == here && slot.own_pid.load(SeqCst) == pid
                    || nodes[node.forker].namespace == here && slot.made_pid.load(SeqCst) == pid)
        };
        (0..nodes.len()).find(named)
    }

    fn account_for(&self, me: Id, id: Id, before: u64, status: i32) {
        let slot = self.slot(id);
        slot.status.store(status, SeqCst);
        slot.reap_before.store(before, SeqCst);
        slot.reap_after.store(now(), SeqCst);
        slot.reaper.store(u32::try_from(me + 1).expect("plans are small"), SeqCst);
    }

    /// Forks `id`.
    pub(crate) fn spawn(&'static self, id: Id) {
        let slot = self.slot(id);
        slot.made_before.store(now(), SeqCst);
        let body = || play::forked(self, id);
        let pid = match self.plan.nodes[id].via {
            Via::Fork => sys::fork(body),
            Via::Vfork => sys::clone(libc::CLONE_VM | libc::CLONE_VFORK, body),
            Via::Clone { flags, signal } => raw_clone(flags | signal, body),
        };
        slot.made_pid.store(pid, SeqCst);
        slot.made_after.store(now(), SeqCst);
    }

    /// Waits for these children and reaps them.
    pub(crate) fn collect(&self, me: Id, ids: &[Id], how: How) {
        match how {
            How::Any | How::Meanwhile => {
                while ids.iter().any(|&id| !self.slot(id).is_reaped()) {
                    self.reap_whoever_comes(me, how);
                }
            }
            How::Each => ids.iter().for_each(|&id| self.collect_one(me, id)),
            How::Threads => std::thread::scope(|scope| {
                for &id in ids {
                    scope.spawn(move || self.collect_one(me, id));
                }
            }),
            How::Pidfd => ids.iter().for_each(|&id| self.collect_by_pidfd(me, id)),
            How::Polling => {
                for &id in ids {
                    let pid = self.pid(me, id);
                    let before = now();
                    let mut reaped = wait(pid, libc::WNOHANG).expect("waitpid(WNOHANG)");
                    if reaped.0 == 0 {
                        self.until_dead(me, id);
                        reaped = wait(pid, libc::WNOHANG).expect("waitpid(WNOHANG)");
                    }
                    self.account_for(me, id, before, reaped.1);
                }
            }
        }
    }

    fn reap_whoever_comes(&self, me: Id, how: How) {
        let before = now();
        match wait(-1, 0) {
            Ok((pid, status)) => {
                // A forker may not have got to telling the pid by now.
                let id = play::patiently("a pid of the plan", || self.reaped_id(me, pid));
                self.account_for(me, id, before, status);
            }
            // The first are yet to be made.
            Err(_) if how == How::Meanwhile => std::thread::sleep(Duration::from_micros(300)),
            Err(error) => panic!("waitpid(-1): {error}"),
        }
    }

    fn collect_one(&self, me: Id, id: Id) {
        let pid = self.pid(me, id);
        let before = now();
        let (_, status) = wait(pid, 0).expect("waitpid");
        self.account_for(me, id, before, status);
    }

    fn collect_by_pidfd(&self, me: Id, id: Id) {
        let pidfd = sys::open_pidfd(self.pid(me, id)).expect("pidfd_open of a child");
        let before = now();
        let fd = pidfd.as_raw_fd().unsigned_abs();
        let info = wait_id(libc::P_PIDFD, fd, libc::WEXITED).expect("waitid(P_PIDFD)");
        // SAFETY: what waitid filled in for a child that ended.
        let status = unsafe { info.si_status() };
        let word = if info.si_code == libc::CLD_EXITED { status << 8 } else { status };
        self.account_for(me, id, before, word);
    }

    /// Waits until there is no child, as who ignores SIGCHLD does.
    pub(crate) fn until_none(&self, me: Id) {
        loop {
            let before = now();
            match wait(-1, 0) {
                Ok((pid, status)) => {
                    let id = self.reaped_id(me, pid).expect("a child of the plan");
                    self.account_for(me, id, before, status);
                }
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return,
                Err(error) => panic!("waitpid(-1): {error}"),
            }
        }
    }

    /// Sees it dead, without waiting for it as a parent does.
    pub(crate) fn until_dead(&self, me: Id, id: Id) {
        until_dead(self.pid(me, id));
        self.slot(id).seen_dead();
    }

    /// Sees it dead by a wait that leaves it as it is.
    pub(crate) fn until_dead_no_wait(&self, me: Id, id: Id) {
        let pid = self.pid(me, id).unsigned_abs();
        wait_id(libc::P_PID, pid, libc::WEXITED | libc::WNOWAIT).expect("waitid(WNOWAIT)");
        self.slot(id).seen_dead();
    }

    /// Executes this program anew, to go on with a step.
    pub(crate) fn exec(&self, id: Id, step: usize) -> ! {
        let [path, seed, size] = &self.arguments;
        let (id_text, step) = (OsString::from(id.to_string()), OsString::from(step.to_string()));
        let args: [&OsStr; 6] = [OsStr::new("play"), path, seed, size, &id_text, &step];
        self.slot(id).exec_before.store(now(), SeqCst);
        sys::exec(OsStr::new("/proc/self/exe"), &args)
    }

    /// Tells pids and time of a process that has just been made.
    pub(crate) fn born(&self, id: Id) {
        let slot = self.slot(id);
        slot.born.store(now(), SeqCst);
        slot.pid.store(account::outer_pid(), SeqCst);
        slot.own_pid.store(sys::own_pid(), SeqCst);
        slot.reach(Point::Born);
    }
}

/// `clone` as the kernel has it, without memory in common: like fork. For processes of one thread.
fn raw_clone(flags: i32, body: impl FnOnce() -> i32) -> Pid {
    // SAFETY: without CLONE_VM the child has a copy of memory and goes on with a copy of this stack.
    let made = unsafe { libc::syscall(libc::SYS_clone, i64::from(flags), 0, 0, 0, 0) };
    if made == 0 {
        sys::bound_life();
        sys::exit_now(body());
    }
    assert!(made != -1, "clone({flags:#x}): {}", io::Error::last_os_error());
    Pid::try_from(made).expect("the kernel hands out pids of 32 bits")
}

/// `waitpid`, also for children that send another signal than SIGCHLD or none.
pub(crate) fn wait(pid: Pid, options: i32) -> io::Result<(Pid, i32)> {
    let mut status = 0;
    loop {
        // SAFETY: status is a valid place for the call's whole time.
        let made = unsafe { libc::waitpid(pid, &raw mut status, options | libc::__WALL) };
        let error = io::Error::last_os_error();
        match made {
            -1 if error.kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(error),
            made => return Ok((made, status)),
        }
    }
}

fn wait_id(kind: libc::idtype_t, id: u32, options: i32) -> io::Result<libc::siginfo_t> {
    loop {
        // SAFETY: siginfo_t is plain data for which zero is valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: info is a valid place for the call's whole time.
        let made = unsafe { libc::waitid(kind, id, &raw mut info, options | libc::__WALL) };
        let error = io::Error::last_os_error();
        match made {
            0 => return Ok(info),
            _ if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
    }
}

/// Waits until it is dead, be it that it is gone already: pids do not come round so quickly.
pub(crate) fn until_dead(pid: Pid) {
    match sys::open_pidfd(pid) {
        Ok(pidfd) => assert!(sys::dies_within(&pidfd, PATIENCE), "process {pid} lives on"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESRCH), "pidfd_open: {error}"),
    }
}
