//! What can be known of one process right now, for a finding that is about to open.
//!
//! Everything comes from procfs, through a directory that is bound to the process and whose start
//! time was compared with the identity asked for. A process that vanishes on the way, or that
//! another user owns, makes fields `None`; nothing here fails and nothing waits for the process,
//! not even for one that sleeps uninterruptibly on a dead server: links are read and never
//! followed, and memory ([`TaskDir::arguments`]) is read only while no thread is in state D.
//! A process can still make that one read wait if it maps its arguments from a file system that
//! does not answer. So observe where a wait hurts nobody.

mod blocked;
mod held;
mod ports;
#[cfg(test)]
mod tests;

use rustix::fs::{FileType, fstat};

use held::held;
use ports::Ports;

use crate::lineage::event::{BlockedThread, Observation, ObservedParent};
use crate::lineage::model::{ProcessId, Stream};
use crate::procfs::{Error, Procfs, Result, Stat, Status, TaskDir};

/// Most bytes of a command line that are taken.
const MAX_ARGUMENTS: usize = 4096;
/// Most threads of a process whose state is looked at, oldest first.
const MAX_THREADS: usize = 64;

/// How much to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Who it is: state, parent, names, paths, arguments. A tenth of a millisecond.
    Who,
    /// Also what it holds: memory, descriptors, sockets, devices, streams. Milliseconds for the
    /// first process with a socket, see [`Observer`].
    Holdings,
}

/// The pipes and sockets that COMMAND's standard output and error go to. Whoever reads them waits
/// until *every* process that holds them for writing is gone. Terminals and files have no such
/// readers and are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandStreams {
    /// Each stream with what its descriptor's link reads: `pipe:[7]`, `socket:[8]`, or the path of
    /// a named pipe.
    links: Vec<(Stream, Vec<u8>)>,
}

impl CommandStreams {
    /// The tracer's own, which COMMAND inherits.
    #[must_use]
    pub fn of_this_process(procfs: &Procfs) -> Self {
        let Some(own) = known(procfs.own()) else {
            return Self::default();
        };
        let streams = [
            (Stream::Stdout, rustix::stdio::stdout(), "fd/1"),
            (Stream::Stderr, rustix::stdio::stderr(), "fd/2"),
        ];
        let links = streams.into_iter().filter_map(|(stream, fd, link)| {
            let kind = FileType::from_raw_mode(fstat(fd).ok()?.st_mode);
            matches!(kind, FileType::Fifo | FileType::Socket).then_some(())?;
            Some((stream, known(own.link(link))?))
        });
        Self { links: links.collect() }
    }

    /// The streams that a descriptor with this link is one end of.
    fn matching(&self, link: &[u8]) -> impl Iterator<Item = Stream> {
        self.links.iter().filter(move |(_, own)| own == link).map(|(stream, _)| *stream)
    }
}

/// Looks at processes, one after the other.
///
/// What it has read of a network namespace serves the next process too, so make a new one for
/// each batch of questions: it answers as of its first look.
#[derive(Debug)]
pub struct Observer<'a> {
    procfs: &'a Procfs,
    streams: &'a CommandStreams,
    ports: Ports,
}

impl<'a> Observer<'a> {
    /// An observer that has seen nothing yet.
    #[must_use]
    pub fn new(procfs: &'a Procfs, streams: &'a CommandStreams) -> Self {
        Self { procfs, streams, ports: Ports::default() }
    }

    /// Looks at process `id`, whose pid in the mount's PID namespace is `pid`.
    ///
    /// `exists` is `false` where that process has been reaped by the end of the look. Where procfs
    /// hides it (`hidepid`) it exists, with nothing known. `state` is the leader's: it may be `Z`
    /// while other threads live; then, and only then, `resources` is there beside a `Z`. `blocked`
    /// is there when any thread is in state D. `waits` is not procfs's to know.
    pub fn observe(&mut self, pid: u32, id: ProcessId, depth: Depth) -> Observation {
        match self.procfs.identify(pid, id) {
            Ok(None) => Observation::default(),
            Ok(Some((dir, stat))) => self.look(&dir, &stat, depth),
            Err(error) => {
                log::debug!("failed to {error}");
                Observation { exists: true, ..Observation::default() }
            }
        }
    }

    fn look(&mut self, dir: &TaskDir, stat: &Stat, depth: Depth) -> Observation {
        let status = known(dir.status()).unwrap_or_default();
        // A leader that exited before its group has let go of memory and files; another thread's
        // directory shows them.
        let deputy = match living_thread(dir, stat) {
            Ok(deputy) => deputy,
            Err(error) if error.is_gone() => None,
            Err(error) => {
                log::debug!("failed to {error}");
                return Observation { exists: true, ..Observation::default() };
            }
        };
        let living = if stat.is_dead() { deputy.as_ref() } else { Some(dir) };
        let asleep = if living.is_some() { blocked_threads(dir, stat) } else { Vec::new() };
        let cgroups = known(dir.cgroups()).unwrap_or_default();
        let mut seen = Observation {
            exists: true,
            parent: parent(self.procfs, dir, stat, &status),
            caught: status.caught,
            cgroup: cgroups.telling,
            home: cgroups.unified.and_then(|path| self.procfs.home(path)),
            ..Observation::default()
        };
        if let Some(living) = living {
            seen.exe = known(living.link("exe"));
            seen.cwd = known(living.link("cwd"));
            if asleep.is_empty() {
                seen.args = known(living.arguments(MAX_ARGUMENTS)).filter(|args| !args.is_empty());
            }
            if depth == Depth::Holdings {
                let rss = match &deputy {
                    Some(deputy) => known(deputy.status()).and_then(|status| status.rss_bytes),
                    None => status.rss_bytes,
                };
                seen.resources = Some(held(living, rss, self.streams, &mut self.ports));
            }
        }
        seen.blocked = blocked::blocked(&asleep);
        let last = match dir.stat() {
            Ok(last) => last,
            Err(error) if error.is_gone() => return Observation::default(),
            Err(_) => stat.clone(),
        };
        if last.is_dead() && !stat.is_dead() {
            // The leader died meanwhile: what was found missing says nothing. It dies only once.
            return self.look(dir, &last, depth);
        }
        if last.is_dead() && last.threads <= 1 {
            seen.resources = None;
            seen.blocked = None;
        }
        seen.state = Some(last.state);
        seen.comm = Some(last.comm);
        seen.pgid = last.pgid;
        seen.sid = last.sid;
        seen
    }
}

/// Whether a thread of process `id` is in uninterruptible sleep now, and which: of several the one
/// that was switched least often, because one that never wakes stays the same while busy ones
/// overtake it. `None` also where the process is gone. Three system calls where the process has
/// one thread and is not in state D.
#[must_use]
pub fn sample(procfs: &Procfs, pid: u32, id: ProcessId) -> Option<BlockedThread> {
    let (dir, stat) = known(procfs.identify(pid, id)).flatten()?;
    blocked_threads(&dir, &stat).into_iter().map(|(_, thread)| thread).next()
}

/// Its threads in uninterruptible sleep, the one that was switched least often first.
fn blocked_threads(dir: &TaskDir, stat: &Stat) -> Vec<(TaskDir, BlockedThread)> {
    let threads = match stat.threads {
        0 | 1 if stat.is_blocked() => vec![stat.pid],
        0 | 1 => return Vec::new(),
        _ => known(dir.threads(MAX_THREADS)).unwrap_or_default(),
    };
    let mut asleep: Vec<_> = threads
        .into_iter()
        .filter_map(|thread| {
            let task = known(dir.thread(thread))?;
            known(task.stat()).filter(Stat::is_blocked)?;
            let switches = known(task.status())?.switches?;
            Some((task, BlockedThread { thread, switches }))
        })
        .collect();
    asleep.sort_by_key(|(_, blocked)| blocked.switches);
    asleep
}

/// A thread that lives on although the leader is dead; `None` where the leader lives or nobody.
///
/// # Errors
/// It cannot be said: some thread could not be looked at.
fn living_thread(dir: &TaskDir, stat: &Stat) -> Result<Option<TaskDir>> {
    if !stat.is_dead() || stat.threads <= 1 {
        return Ok(None);
    }
    for thread in dir.threads(MAX_THREADS)? {
        let found = dir.thread(thread).and_then(|task| Ok((task.stat()?, task)));
        match found {
            Ok((stat, task)) if !stat.is_dead() => return Ok(Some(task)),
            Ok(_) => {}
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The parent at this moment. `None`: outside of the mount's PID namespace (pid 0), or not known.
fn parent(procfs: &Procfs, dir: &TaskDir, stat: &Stat, status: &Status) -> Option<ObservedParent> {
    /// A process may be orphaned while it is looked at, more than once hardly.
    const ATTEMPTS: usize = 3;
    let mut pid = stat.ppid;
    for _ in 0..ATTEMPTS {
        if pid == 0 {
            return None;
        }
        let parent = procfs.process(pid).and_then(|dir| Ok((dir.stat()?, dir.status()?)));
        // Still the parent after it was read, so it was not somebody else under the same pid.
        let now = known(dir.stat())?.ppid;
        if now == pid {
            let (stat, parent) = known(parent)?;
            let is_init = is_init(pid, &parent.namespace_pids, &status.namespace_pids);
            return Some(ObservedParent { pid, name: stat.comm, is_init });
        }
        pid = now;
    }
    None
}

/// Whether `parent`, whose pids are `parent_pids`, is PID 1 of its child's own PID namespace. Its
/// namespace is the child's or an ancestor of that, so with equal depth they are the same; no need
/// for `ns/pid`, which only few may read. A kernel without PID namespaces lists no pids.
fn is_init(parent: u32, parent_pids: &[u32], child_pids: &[u32]) -> bool {
    parent_pids.last().unwrap_or(&parent) == &1 && parent_pids.len() == child_pids.len()
}

/// What was read, unless it was not. That a process is gone or somebody else's is everyday; that
/// procfs says what no kernel should is worth a line in the log.
fn known<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            if matches!(error, Error::Malformed { .. } | Error::TooLong { .. }) {
                log::warn!("failed to {error}");
            }
            None
        }
    }
}
