//! `/proc/PID/stat`: one line about a thread group, or about one thread below `task/`.

use super::error::Malformed;
use super::fields::Fields;

/// What tracer takes from `stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Pid in the PID namespace of the mount; below `task/`, the thread's id.
    pub pid: u32,
    /// The leader's, or this thread's, name. Any bytes but NUL.
    pub comm: Vec<u8>,
    /// State letter of the leader, or of this thread: `R`, `S`, `D`, `Z`, ... A leader that has
    /// exited before its group shows `Z` while other threads live.
    pub state: char,
    /// The parent's pid; 0 where it has none in this PID namespace.
    pub ppid: u32,
    /// Process group; `None` where it is not visible in this PID namespace.
    pub pgid: Option<u32>,
    /// Session; `None` where it is not visible in this PID namespace.
    pub sid: Option<u32>,
    /// Whether it is a thread of the kernel.
    pub is_kernel_thread: bool,
    /// Threads of the group, dead leader included.
    pub threads: u32,
    /// When the task was created, in clock ticks of `CLOCK_BOOTTIME` as the reader's time
    /// namespace sees it ([`super::Procfs::start_ticks`]).
    pub start_ticks: u64,
}

/// `include/linux/sched.h`
const PF_KTHREAD: u32 = 0x0020_0000;

impl Stat {
    /// Whether the leader, or this thread, has exited.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Whether it is in uninterruptible sleep, killable or not.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.state == 'D'
    }
}

/// Reads `stat`. The name stands unescaped in parentheses and may itself hold spaces, parentheses
/// and line feeds; after the *last* `)` only numbers follow, so that is where the name ends.
///
/// # Errors
/// Names the item that is missing or not a number.
pub fn parse_stat(bytes: &[u8]) -> Result<Stat, Malformed> {
    let open = bytes.iter().position(|byte| *byte == b'(');
    let close = bytes.iter().rposition(|byte| *byte == b')');
    let (before, comm, after) = match (open, close) {
        (Some(open), Some(close)) if open < close => {
            (&bytes[..open], &bytes[open + 1..close], &bytes[close + 1..])
        }
        _ => {
            return Err(Malformed::new(1, "comm", "a name in parentheses", Some(bytes)));
        }
    };
    let pid = Fields::new(1, before).number("pid", 10)?;
    let after = after.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut fields = Fields::new(1, after);
    let state = match fields.text("state")? {
        [letter] if letter.is_ascii_alphabetic() => char::from(*letter),
        other => return Err(fields.malformed("state", "a letter", Some(other))),
    };
    let ppid = fields.number("ppid", 10)?;
    let pgid = visible(&mut fields, "pgrp")?;
    let sid = visible(&mut fields, "session")?;
    // tty_nr, tpgid.
    fields.skip(2);
    let flags: u32 = fields.number("flags", 10)?;
    // minflt to itrealvalue, but for num_threads.
    fields.skip(10);
    let threads = fields.number("num_threads", 10)?;
    fields.skip(1);
    let start_ticks = fields.number("starttime", 10)?;
    let is_kernel_thread = flags & PF_KTHREAD != 0;
    let comm = comm.to_vec();
    Ok(Stat { pid, comm, state, ppid, pgid, sid, is_kernel_thread, threads, start_ticks })
}

/// A process group or session: 0 where its leader is in an outer PID namespace, -1 where the task
/// was just being reaped.
fn visible(fields: &mut Fields<'_>, item: &'static str) -> Result<Option<u32>, Malformed> {
    match fields.text(item)? {
        b"0" | b"-1" => Ok(None),
        field => fields.as_number(Some(field), item, 10).map(Some),
    }
}
