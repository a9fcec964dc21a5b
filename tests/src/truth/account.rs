//! The account: a file that every process of a plan maps and writes into what it does, with plain
//! stores to memory, so that it costs next to nothing and outlives any death. A slot a process.

use std::fs::File;
use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::thread::futex;
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::proc;
use crate::sys::{self, LIFE_SECONDS, Pid};

/// Longest wait of one process for another, on a slow machine so much longer. They end by themselves
/// after that time.
pub const PATIENCE: Duration = Duration::from_secs(LIFE_SECONDS as u64);
/// A time for which the machine does not run somebody who is ready is told from here, on a slow one
/// from so much more: a third of the thresholds, which grow alike.
pub const STALL: Duration = Duration::from_millis(100);
/// Stalls that there is room for.
const STALLS: usize = 256;

/// Who reaps, beside the processes of the plan: the supervisor that tracer runs under.
pub const OUTSIDE: u32 = u32::MAX;

/// How far a process has come; only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It runs, and has told its pids.
    Born = 1,
    /// It has come to where it waits for its end.
    Ready = 2,
}

/// What one process did and what was done to it. Zero: has not happened. Times are nanoseconds of
/// `CLOCK_BOOTTIME`.
#[derive(Debug)]
#[repr(C)]
pub struct Slot {
    /// Pid as the outside sees it.
    pub pid: AtomicI32,
    /// Pid in its own PID namespace.
    pub own_pid: AtomicI32,
    /// Pid that its forker's clone returned.
    pub made_pid: AtomicI32,
    /// Its parent, as the outside sees it, when it last looked: after an adoption.
    pub adopter: AtomicI32,
    stage: AtomicU32,
    /// Who reaped it: number of the process plus 1, or [`OUTSIDE`].
    pub reaper: AtomicU32,
    /// Status that the reaper got.
    pub status: AtomicI32,
    /// A signal that it should have been spared, if it got one.
    pub signalled: AtomicU32,
    /// Field `starttime` of its `/proc/PID/stat`, clock ticks: with the pid it names one process.
    pub start_ticks: AtomicU64,
    /// Just before the forking call.
    pub made_before: AtomicU64,
    /// Just after it, in the child.
    pub born: AtomicU64,
    /// Just after it, in the forker.
    pub made_after: AtomicU64,
    /// Just before its last exec.
    pub exec_before: AtomicU64,
    /// First thing after it.
    pub exec_after: AtomicU64,
    /// Just before what ends it: its own exit or signal, or somebody's kill.
    pub end_before: AtomicU64,
    /// When somebody saw that it was dead.
    pub dead_seen: AtomicU64,
    /// When it saw that it had been adopted.
    pub adopted_seen: AtomicU64,
    /// Just before the wait that reaped it.
    pub reap_before: AtomicU64,
    /// Just after it.
    pub reap_after: AtomicU64,
}

/// The whole account: a head, then the slots.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    base: NonNull<u8>,
    slots: usize,
}

// SAFETY: what it points to are atomics, mapped to the end of the process.
unsafe impl Send for Account {}
// SAFETY: the same.
unsafe impl Sync for Account {}

/// What the supervisor tells.
#[derive(Debug)]
#[repr(C)]
pub struct Head {
    /// Its pid.
    pub outside: AtomicI32,
    /// Pid of tracer.
    pub tracer: AtomicI32,
    /// When it had seen tracer's end.
    pub judged: AtomicU64,
    /// Times, from and to, in which the machine did not run it although it was ready.
    stalls: [[AtomicU64; 2]; STALLS],
}

impl Head {
    /// Tells a stall.
    pub fn stalled(&self, from: u64, to: u64) {
        let free = self.stalls.iter().find(|stall| stall[0].load(SeqCst) == 0);
        if let Some([start, end]) = free {
            end.store(to, SeqCst);
            start.store(from, SeqCst);
        }
    }

    /// Whether the machine stalled between these times.
    #[must_use]
    pub fn has_stalled(&self, from: u64, to: u64) -> bool {
        self.stalls.iter().any(|[start, end]| {
            let start = start.load(SeqCst);
            start != 0 && start <= to && end.load(SeqCst) >= from
        })
    }
}

impl Account {
    /// Creates the file, of zeros.
    ///
    /// # Errors
    /// It cannot be written or mapped.
    pub fn create(path: &Path, slots: usize) -> io::Result<Self> {
        let length = size_of::<Head>() + slots * size_of::<Slot>();
        File::create_new(path)?.set_len(u64::try_from(length).expect("a length is a u64"))?;
        Self::open(path)
    }

    /// Maps the file.
    ///
    /// # Errors
    /// It cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let length = usize::try_from(file.metadata()?.len()).expect("it fits into memory");
        let slots = (length - size_of::<Head>()) / size_of::<Slot>();
        // SAFETY: a new mapping, of a file that nobody makes shorter, that is never unmapped.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )?
        };
        Ok(Self { base: NonNull::new(base.cast()).expect("mmap never gives null"), slots })
    }

    /// How many processes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots == 0
    }

    /// The head.
    #[must_use]
    pub fn head(&self) -> &'static Head {
        // SAFETY: at the start of a mapping that is aligned to a page and never unmapped; zeros
        // are a valid Head.
        unsafe { self.base.cast().as_ref() }
    }

    /// A process's slot.
    #[must_use]
    pub fn slot(&self, id: usize) -> &'static Slot {
        assert!(id < self.slots, "no process {id} in the account");
        let offset = size_of::<Head>() + id * size_of::<Slot>();
        // SAFETY: within the mapping.
        let slot = unsafe { self.base.add(offset) };
        // SAFETY: aligned as both sizes are multiples of 8, never unmapped; zeros are a valid Slot.
        unsafe { slot.cast().as_ref() }
    }
}

impl Slot {
    /// Comes to a stage and wakes who waits for it.
    pub fn reach(&self, stage: Stage) {
        self.stage.fetch_max(stage as u32, SeqCst);
        futex::wake(&self.stage, futex::Flags::empty(), u32::MAX >> 1).expect("a word of ours");
    }

    /// Waits until it has come to a stage.
    pub fn until(&self, stage: Stage) {
        let deadline = Instant::now() + PATIENCE * sys::slowness();
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        loop {
            let now = self.stage.load(SeqCst);
            if now >= stage as u32 {
                return;
            }
            assert!(Instant::now() < deadline, "waited in vain for {stage:?}");
            // Whatever ends the wait, the word tells.
            let _woken = futex::wait(&self.stage, futex::Flags::empty(), now, Some(&second));
        }
    }

    /// Somebody sees that it is dead: the first one tells most.
    pub fn seen_dead(&self) {
        // Others were there before: nothing to add.
        let _first = self.dead_seen.compare_exchange(0, now(), SeqCst, SeqCst);
    }

    /// Tells pid and start of the calling process, as `/proc` has them.
    pub fn tell_identity(&self) {
        let own = proc::stat(outer_pid()).expect("the stat of who reads it");
        self.pid.store(own.pid, SeqCst);
        self.start_ticks.store(own.start_ticks, SeqCst);
        self.born.store(now(), SeqCst);
    }

    /// Whether who told its identity here runs, sleeps or is stopped: neither dead nor gone.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        proc::stat(self.pid.load(SeqCst)).is_some_and(|stat| {
            stat.start_ticks == self.start_ticks.load(SeqCst) && !matches!(stat.state, 'Z' | 'X')
        })
    }

    /// Whether it has been reaped, as far as anyone said.
    #[must_use]
    pub fn is_reaped(&self) -> bool {
        self.reaper.load(SeqCst) != 0
    }
}

/// Now, on the clock of all times here, ns.
#[must_use]
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let nanos = now.tv_sec * 1_000_000_000 + now.tv_nsec;
    u64::try_from(nanos).expect("boottime is positive")
}

/// Pid of the calling process in the namespace of the mounted `/proc`, whatever its own is.
#[must_use]
pub fn outer_pid() -> Pid {
    let mut link = [0; 16];
    // SAFETY: a NUL-terminated path and a buffer of this length.
    let length =
        unsafe { libc::readlink(c"/proc/self".as_ptr(), link.as_mut_ptr().cast(), link.len()) };
    let link = usize::try_from(length).ok().and_then(|length| link.get(..length));
    let pid = link.and_then(|link| std::str::from_utf8(link).ok()?.parse().ok());
    pid.expect("/proc/self links to a pid")
}

/// Pid of its parent there.
#[must_use]
pub fn outer_parent() -> Pid {
    let stat = std::fs::read("/proc/self/stat").expect("read /proc/self/stat");
    let stat = String::from_utf8_lossy(&stat);
    let (_, tail) = stat.rsplit_once(')').expect("a stat line has a name");
    let ppid = tail.split_whitespace().nth(1).and_then(|pid| pid.parse().ok());
    ppid.expect("a parent's pid")
}
