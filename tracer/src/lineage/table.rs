//! Who is who: every process of the invocation that still matters, and how they hang together.
//!
//! Two relations, which differ under `CLONE_PARENT` and after an adoption:
//!
//! ```text
//!   forker ---- who called fork. Never changes. Lineage follows it.
//!   parent ---- who gets SIGCHLD and has to wait. Changes when the parent dies.
//! ```
//!
//! An entry goes when its process is reaped, nobody that it forked has an entry, and no finding
//! needs it.

use std::rc::Rc;

use hashbrown::HashMap;
use tracer_common::WaitCounts;

use super::{
    agents::InvocationIndex,
    calls::CallIndex,
    event::BlockedThread,
    markers::Markers,
    model::{ExitStatus, Nanos, Pids, ProcessId},
    store::{Links, Store},
};

/// What a process executes, shared with the children it forks until they execute their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Program {
    /// Path as given to exec.
    pub(crate) exe: Box<[u8]>,
    /// NUL-separated arguments.
    pub(crate) args: Box<[u8]>,
    /// The arguments were cut.
    pub(crate) truncated: bool,
}

impl Program {
    /// Last component of the path; of the first argument where the path is a link in `/proc`,
    /// as when a program executes itself under another name. No longer than a file's name can be.
    pub(crate) fn name(&self) -> &[u8] {
        /// `NAME_MAX`: the argument may be any.
        const MOST: usize = 255;
        let path = if self.exe.starts_with(b"/proc/") {
            self.args.split(|&byte| byte == 0).next().unwrap_or_default()
        } else {
            &self.exe
        };
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        name.get(..MOST).unwrap_or(name)
    }

    /// What an interpreter was told to run.
    pub(crate) fn interpreted(&self) -> Interpreted<'_> {
        const INTERPRETERS: [&[u8]; 5] = [b"node", b"nodejs", b"bun", b"deno", b"python"];
        let name = self.name();
        let version = |rest: &[u8]| rest.iter().all(|&byte| byte.is_ascii_digit() || byte == b'.');
        let is_one =
            INTERPRETERS.iter().any(|known| name.strip_prefix(*known).is_some_and(version));
        if !is_one {
            return Interpreted::default();
        }
        let mut args = self.args.split(|&byte| byte == 0).skip(1);
        while let Some(arg) = args.next() {
            match arg {
                b"-m" if name.starts_with(b"python") => {
                    return Interpreted { module: args.next(), script: None };
                }
                // A program in the arguments, or what an option asks for: no script.
                b"-c" | b"-e" | b"-p" | b"--eval" | b"--print" => return Interpreted::default(),
                b"-r" | b"--require" | b"--import" | b"--loader" | b"-W" | b"-X" => {
                    args.next();
                }
                b"run" | b"x" if !name.starts_with(b"python") && !name.starts_with(b"node") => {}
                _ if arg.starts_with(b"-") => {}
                _ => return Interpreted { script: Some(arg), module: None },
            }
        }
        Interpreted::default()
    }

    /// A shell that was given no command: it reads what to do from its input, for whoever writes
    /// there.
    pub(crate) fn is_shell_on_its_input(&self) -> bool {
        let mut args = self.args.split(|&byte| byte == 0).skip(1).filter(|arg| !arg.is_empty());
        self.is_shell()
            && !self.truncated
            && args.all(|arg| {
                let is_option = arg.starts_with(b"-") || arg.starts_with(b"+");
                // Of short options the letters count together: `-lc`.
                is_option && (arg.starts_with(b"--") || !arg.contains(&b'c'))
            })
    }

    /// Whether it is a shell, by its name.
    pub(crate) fn is_shell(&self) -> bool {
        const SHELLS: [&[u8]; 10] =
            [b"ash", b"bash", b"busybox", b"csh", b"dash", b"fish", b"ksh", b"mksh", b"sh", b"zsh"];
        SHELLS.contains(&self.name())
    }
}

/// What an interpreter runs, by its arguments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Interpreted<'a> {
    /// Path of a file.
    pub(crate) script: Option<&'a [u8]>,
    /// Name of a module.
    pub(crate) module: Option<&'a [u8]>,
}

/// A signal that could end a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SignalSent {
    pub(crate) at: Nanos,
    pub(crate) signal: u32,
    pub(crate) sender: ProcessId,
    pub(crate) sender_name: Box<[u8]>,
}

/// A process's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) at: Nanos,
    /// `None`: its exit record was lost.
    pub(crate) status: Option<ExitStatus>,
}

/// What became of a dead process's exit status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reap {
    /// It stands: a zombie, or its reap is not known yet.
    #[default]
    Pending,
    /// Its parent died without having taken it: it is the adopter's.
    Left(Nanos),
    /// Gone by its own parent's hand.
    ByParent,
    /// Gone by an adopter's hand.
    ByAdopter,
}

/// Set on [`Entry::flags`]: executed a program itself.
pub(crate) const EXECED: u16 = 1;
/// Chosen by the OOM killer.
pub(crate) const OOM: u16 = 2;
/// It forked after the root had exited.
pub(crate) const FORKED_AFTER_ROOT: u16 = 4;
/// Gone from the kernel.
pub(crate) const GONE: u16 = 8;
/// Its parent had more children than the kernel side looks at: whether that reaped it is unknown.
pub(crate) const UNCOUNTED: u16 = 16;
/// It should be a zombie, and could not be looked at.
pub(crate) const UNSEEN: u16 = 32;
/// Its end has not been told, and it was gone when it was looked at.
pub(crate) const VANISHED: u16 = 64;
/// It was gone when it was looked at, long after its time was up.
pub(crate) const LATE: u16 = 128;

/// The kernel told that its dying parent had not reaped it.
pub(crate) const TOLD_UNREAPED: u16 = 256;
/// It forks for whoever asks it: whose call it was started by says nothing of what it forks.
pub(crate) const SPAWNER: u16 = 512;
/// tracer ends it.
pub(crate) const DOOMED: u16 = 1024;

/// Set on [`Entry::wanted`], why an observation was asked for: it may be an unreaped zombie of
/// its own parent.
pub(crate) const WANT_ZOMBIE: u8 = 1;
/// It may be a zombie that its adopter does not reap.
pub(crate) const WANT_INIT_ZOMBIE: u8 = 2;
/// It may be a survivor.
pub(crate) const WANT_SURVIVOR: u8 = 4;
/// It is an orphan: who adopted it?
pub(crate) const WANT_ORPHAN: u8 = 8;
/// It may be stuck.
pub(crate) const WANT_STUCK: u8 = 16;
/// The kernel side has no entry for it: does it live?
pub(crate) const WANT_ENTRY: u8 = 32;
/// It may have outlived its tool call.
pub(crate) const WANT_OUTLIVED: u8 = 64;
/// SIGKILL has not ended it: what does it sleep in?
pub(crate) const WANT_UNKILLABLE: u8 = 128;

/// One process.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: ProcessId,
    /// Who forked it; of its ancestors the nearest that is kept, see [`Table::shorten`].
    pub(crate) forker: ProcessId,
    /// Generations left out between `forker` and it.
    pub(crate) elided: u32,
    /// Its parent now, as far as is known.
    pub(crate) parent: ProcessId,
    /// Its first parent, the one that should have waited.
    pub(crate) first_parent: ProcessId,
    pub(crate) pids: Pids,
    pub(crate) program: Rc<Program>,
    pub(crate) flags: u16,
    /// When it last executed a program, as far as was told.
    pub(crate) exec_at: Nanos,
    /// Why an observation is awaited; 0 if none is.
    pub(crate) wanted: u8,
    pub(crate) end: Option<End>,
    pub(crate) reap: Reap,
    /// When its first parent died while it lived.
    pub(crate) orphaned_at: Option<Nanos>,
    /// What its environment says; until its own exec its forker's.
    pub(crate) markers: Option<Rc<Markers>>,
    /// What it executed first, where it executed something else after that.
    pub(crate) launched: Option<Rc<Program>>,
    /// The invocation whose agent it is.
    pub(crate) agent: Option<InvocationIndex>,
    /// The tool call that it was forked for, as its forking thread announced.
    pub(crate) announced: Option<CallIndex>,
    /// The tool call whose command its arguments carried.
    pub(crate) carried: Option<CallIndex>,
    pub(crate) signal: Option<Box<SignalSent>>,
    pub(crate) waits: Option<Box<WaitCounts>>,
    pub(crate) blocked: Option<Box<(BlockedThread, Nanos)>>,
    pub(crate) links: Links,
    /// Entries whose forker it is, plus findings that name it.
    pub(crate) holds: u32,
}

impl Entry {
    /// One that lives.
    pub(crate) fn new(id: ProcessId, forker: ProcessId, parent: ProcessId, pids: Pids) -> Self {
        Self {
            id,
            forker,
            elided: 0,
            parent,
            first_parent: parent,
            pids,
            program: Rc::default(),
            flags: 0,
            exec_at: Nanos(0),
            wanted: 0,
            end: None,
            reap: Reap::Pending,
            orphaned_at: None,
            markers: None,
            launched: None,
            agent: None,
            announced: None,
            carried: None,
            signal: None,
            waits: None,
            blocked: None,
            links: Links::default(),
            holds: 0,
        }
    }

    /// Whether it has not died.
    pub(crate) fn is_alive(&self) -> bool {
        self.end.is_none()
    }

    /// What it executed first of all since it was forked.
    pub(crate) fn first_program(&self) -> &Program {
        self.launched.as_deref().unwrap_or(&self.program)
    }

    /// Whether a flag is set.
    pub(crate) fn is(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// All entries.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: Store,
    live: u64,
    /// Entries of processes that are gone from the kernel, kept for their descendants.
    gone: usize,
    /// How many such entries the last [`Table::shorten`] left.
    gone_after_shortening: usize,
    forgotten: Forgotten,
}

/// The start times of those that were let go last, by the lowest bits of their pids. `PROCS` may
/// still have one, if the record of a child's fork was lost: it must not be taken for another.
#[derive(Debug, Default)]
struct Forgotten {
    /// A power of two of them, as long as there are any.
    starts: Vec<u64>,
    /// How many were noted.
    noted: usize,
}

impl Forgotten {
    /// As many as `PROCS` has entries, unless asked for more. A power of two.
    const MOST: usize = 1 << 16;
    /// A power of two.
    const FIRST: usize = 1 << 6;

    fn slot(&self, id: ProcessId) -> usize {
        id.pid as usize & (self.starts.len().wrapping_sub(1))
    }

    fn note(&mut self, id: ProcessId) {
        if self.noted >= self.starts.len() && self.starts.len() < Self::MOST {
            // Which pid each was of is not known to the last bit: what was noted is found no more.
            let slots = (2 * self.starts.len()).max(Self::FIRST);
            self.starts = vec![0; slots];
            self.noted = 0;
        }
        let slot = self.slot(id);
        if let Some(start) = self.starts.get_mut(slot) {
            *start = id.start;
            self.noted += 1;
        }
    }

    fn has(&self, id: ProcessId) -> bool {
        self.starts.get(self.slot(id)) == Some(&id.start)
    }
}

impl Table {
    pub(crate) fn get(&self, id: ProcessId) -> Option<&Entry> {
        self.entries.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: ProcessId) -> Option<&mut Entry> {
        self.entries.get_mut(id)
    }

    /// How many live.
    pub(crate) fn live(&self) -> u64 {
        self.live
    }

    /// Everyone with an entry, in no order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Everyone alive, oldest first.
    pub(crate) fn alive(&self) -> Vec<ProcessId> {
        let mut alive: Vec<_> =
            self.entries.iter().filter(|entry| entry.is_alive()).map(|entry| entry.id).collect();
        alive.sort_unstable_by_key(ProcessId::by_birth);
        alive
    }

    /// Everyone alive that was forked at this time or later, oldest first.
    pub(crate) fn alive_since(&self, start: u64) -> Vec<ProcessId> {
        let such = |entry: &&Entry| entry.is_alive() && entry.id.start >= start;
        let mut alive: Vec<_> = self.entries.iter().filter(such).map(|entry| entry.id).collect();
        alive.sort_unstable_by_key(ProcessId::by_birth);
        alive
    }

    /// Whether everyone with an entry is gone from the kernel.
    pub(crate) fn all_gone(&self) -> bool {
        self.entries.len() == self.gone
    }

    /// How many are such.
    pub(crate) fn count(&self, such: impl Fn(&Entry) -> bool) -> u64 {
        let count = self.entries.iter().filter(|entry| such(entry)).count();
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Everyone with an entry, oldest first.
    pub(crate) fn ids(&self) -> Vec<ProcessId> {
        let mut ids: Vec<_> = self.entries.iter().map(|entry| entry.id).collect();
        ids.sort_unstable_by_key(ProcessId::by_birth);
        ids
    }

    /// The last process that had this pid in the tracer's PID namespace, if it still has an entry.
    pub(crate) fn last_owner(&self, local: u32) -> Option<ProcessId> {
        self.entries.last_owner(local)
    }

    /// The live process with this pid in the tracer's PID namespace.
    pub(crate) fn by_local_pid(&self, pid: u32) -> Option<ProcessId> {
        self.last_owner(pid).filter(|&id| self.get(id).is_some_and(Entry::is_alive))
    }

    /// Whether it had an entry and was let go, as far as is remembered.
    pub(crate) fn was_forgotten(&self, id: ProcessId) -> bool {
        self.forgotten.has(id)
    }

    /// Enters a live process; `false` if it is known already.
    pub(crate) fn insert(
        &mut self,
        id: ProcessId,
        forker: ProcessId,
        parent: ProcessId,
        pids: Pids,
    ) -> bool {
        if self.entries.contains(id) {
            return false;
        }
        let mut entry = Entry::new(id, forker, parent, pids);
        if let Some(forker) = self.get_mut(forker) {
            forker.holds += 1;
            entry.program = Rc::clone(&forker.program);
            entry.markers.clone_from(&forker.markers);
        }
        self.entries.insert(entry);
        self.live += 1;
        true
    }

    /// Records an end. The first time it says so; a later one only corrects the status.
    pub(crate) fn end(&mut self, id: ProcessId, at: Nanos, status: Option<ExitStatus>) -> bool {
        let Some(entry) = self.entries.get_mut(id) else { return false };
        match &mut entry.end {
            Some(end) => {
                end.status = status.or(end.status);
                false
            }
            None => {
                entry.end = Some(End { at, status });
                entry.blocked = None;
                self.live -= 1;
                true
            }
        }
    }

    /// Makes `parent` the parent of `id`.
    pub(crate) fn reparent(&mut self, id: ProcessId, parent: ProcessId) {
        self.entries.reparent(id, parent);
    }

    /// Those whose parent it is now, in the order in which they became its children.
    pub(crate) fn children(&self, id: ProcessId) -> Vec<ProcessId> {
        self.entries.children(id)
    }

    /// Keeps an entry until [`Table::release`]. `false`: there is none.
    pub(crate) fn hold(&mut self, id: ProcessId) -> bool {
        self.entries.get_mut(id).is_some_and(|entry| {
            entry.holds += 1;
            true
        })
    }

    /// Undoes one [`Table::hold`].
    pub(crate) fn release(&mut self, id: ProcessId) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.holds = entry.holds.saturating_sub(1);
        }
        self.forget(id);
    }

    /// It is gone from the kernel.
    pub(crate) fn mark_gone(&mut self, id: ProcessId) {
        if let Some(entry) = self.entries.get_mut(id)
            && !entry.is(GONE)
        {
            entry.flags |= GONE;
            self.gone += 1;
        }
    }

    /// Removes the entry of a process that is gone.
    fn take_out(&mut self, id: ProcessId) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        self.gone -= 1;
        self.forgotten.note(id);
        Some(entry)
    }

    /// Drops an entry that nobody needs, and then perhaps its forker's, and so on upwards.
    pub(crate) fn forget(&mut self, mut id: ProcessId) {
        while let Some(entry) = self.entries.get(id) {
            if !entry.is(GONE) || entry.holds > 0 || entry.wanted != 0 {
                return;
            }
            let Some(entry) = self.take_out(id) else { return };
            id = entry.forker;
            if let Some(forker) = self.entries.get_mut(id) {
                forker.holds = forker.holds.saturating_sub(1);
            }
        }
    }

    /// Leaves out the middle of long lines of dead ancestors, where each forked only the next: a
    /// process that forks its successor and ends, again and again, would else fill memory with its
    /// past. The first and the last [`KEPT_GENERATIONS`] stay.
    ///
    /// Does so only once so many dead are held that the look at every entry is paid for by the
    /// forks since the last one.
    pub(crate) fn shorten(&mut self) {
        if self.gone < 2 * self.gone_after_shortening + SHORTEN_FROM {
            return;
        }
        let ids = self.ids();
        let below = self.lines_below(&ids);
        let mut depths = HashMap::with_capacity(ids.len());
        for &id in &ids {
            let Some(entry) = self.entries.get(id) else { continue };
            let depth = depths.get(&entry.forker).map_or(0, |depth: &u32| depth + 1) + entry.elided;
            depths.insert(id, depth);
            if depth < KEPT_GENERATIONS || !entry.is(GONE) || entry.wanted != 0 || entry.holds != 1
            {
                continue;
            }
            if let Some(&Below { forked: 1, nearest, child }) = below.get(&id)
                && nearest > KEPT_GENERATIONS
            {
                self.leave_out(id, child);
            }
        }
        self.gone_after_shortening = self.gone;
    }

    /// What hangs below each entry. `ids` are all, oldest first.
    fn lines_below(&self, ids: &[ProcessId]) -> HashMap<ProcessId, Below> {
        let mut lines: HashMap<ProcessId, Below> = HashMap::with_capacity(ids.len());
        // A forker is older than what it forked.
        for &id in ids.iter().rev() {
            let Some(entry) = self.entries.get(id) else { continue };
            let own = lines.get(&id);
            // Who lives, or is held by more than its descendants, is told of: its ancestors matter.
            let told = !entry.is(GONE) || own.is_none_or(|own| own.forked < entry.holds);
            let distance = match own {
                Some(own) if !told => own.nearest.saturating_add(1),
                _ => 0,
            };
            let above = lines.entry(entry.forker);
            let above = above.or_insert(Below { forked: 0, nearest: u32::MAX, child: id });
            above.forked += 1;
            above.nearest = above.nearest.min(distance.saturating_add(1));
        }
        lines
    }

    /// Takes `id` out of the line between its forker and `child`.
    fn leave_out(&mut self, id: ProcessId, child: ProcessId) {
        let Some(entry) = self.take_out(id) else { return };
        if let Some(child) = self.entries.get_mut(child) {
            // The hold that it had on its forker is the child's now.
            child.forker = entry.forker;
            child.elided = child.elided.saturating_add(entry.elided).saturating_add(1);
        }
    }
}

/// Generations kept at either end of a long line of ancestors.
pub(crate) const KEPT_GENERATIONS: u32 = 32;
/// The dead that are held anyway before any is left out.
const SHORTEN_FROM: usize = 4096;

/// What hangs below an entry.
#[derive(Clone, Copy)]
struct Below {
    /// Entries whose forker it is.
    forked: u32,
    /// Generations down to the next descendant that lives or that a finding names.
    nearest: u32,
    /// One of those that it forked.
    child: ProcessId,
}
