//! Bytes from the ring buffer to [`Event`]s, without copying.

use thiserror::Error;
use tracer_common::{
    EXEC_ARGS_TRUNCATED, EXEC_MARKERS_TRUNCATED, EXIT_CHILDREN_UNCOUNTED, ExecRecord, ExitRecord,
    FORK_ROOT, ForkRecord, Header, RECORD_VERSION, RecordKind, ReleaseRecord, SignalRecord,
    UNREAPED_NOT_YET, UNREAPED_WAITS_UNKNOWN, UnreapedRecord,
};

use crate::lineage::{Event, Nanos, Pids, ProcessId, RecoveredProcess};

/// A record that cannot be read. It comes from our own kernel programs, so this is a defect or
/// damage, and is counted as a lost record.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// Shorter than its kind demands.
    #[error("decode a record of {len} bytes: {needed} needed")]
    Truncated {
        /// Bytes that are there.
        len: usize,
        /// Bytes that it needs.
        needed: usize,
    },
    /// Another layout version.
    #[error("decode a record of version {0}: this is version {RECORD_VERSION}")]
    Version(u8),
    /// A kind that this version does not have.
    #[error("decode a record of kind {0}: no such kind")]
    Kind(u8),
}

/// A type that any bytes make a valid value of.
///
/// # Safety
/// `repr(C)`, integers only, no padding.
unsafe trait Plain: Copy {}
// SAFETY: see the definition.
unsafe impl Plain for Header {}
// SAFETY: see the definition.
unsafe impl Plain for ForkRecord {}
// SAFETY: see the definition.
unsafe impl Plain for ExecRecord {}
// SAFETY: see the definition.
unsafe impl Plain for ExitRecord {}
// SAFETY: see the definition.
unsafe impl Plain for ReleaseRecord {}
// SAFETY: see the definition.
unsafe impl Plain for SignalRecord {}
// SAFETY: see the definition.
unsafe impl Plain for UnreapedRecord {}

fn read<T: Plain>(bytes: &[u8]) -> Result<T, RecordError> {
    let needed = size_of::<T>();
    if bytes.len() < needed {
        return Err(RecordError::Truncated { len: bytes.len(), needed });
    }
    // SAFETY: long enough, and `Plain` allows any bytes and unaligned is asked for.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

fn id(pid: u32, start: u64) -> ProcessId {
    ProcessId { pid, start }
}

/// Decodes one record; strings borrow from it.
///
/// # Errors
/// The record is truncated, of another version or of no known kind.
pub fn decode(bytes: &[u8]) -> Result<Event<'_>, RecordError> {
    let header: Header = read(bytes)?;
    if header.version != RECORD_VERSION {
        return Err(RecordError::Version(header.version));
    }
    let kind = RecordKind::from_wire(header.kind).ok_or(RecordError::Kind(header.kind))?;
    let at = Nanos(header.at);
    let process = id(header.pid, header.start);
    Ok(match kind {
        RecordKind::Fork => fork(&read(bytes)?),
        RecordKind::Exec => return exec(bytes),
        RecordKind::Exit => {
            let ExitRecord { header, parent_start, parent, status } = read(bytes)?;
            Event::Exit {
                at,
                process,
                status,
                parent: id(parent, parent_start),
                children_uncounted: header.flags & EXIT_CHILDREN_UNCOUNTED != 0,
            }
        }
        RecordKind::Free => Event::Reaped { at, process, by: None, gone: true },
        RecordKind::Release => {
            let ReleaseRecord { header: _, reaper_start, reaper, reserved: _ } = read(bytes)?;
            let by = (reaper != 0).then(|| id(reaper, reaper_start));
            Event::Reaped { at, process, by, gone: false }
        }
        RecordKind::Signal => {
            let SignalRecord { header: _, sender_start, sender, signal, sender_name } =
                read(bytes)?;
            let name_len = sender_name.iter().position(|&byte| byte == 0).unwrap_or(16);
            let from = size_of::<SignalRecord>() - sender_name.len();
            Event::Signal {
                at,
                target: process,
                signal,
                sender: id(sender, sender_start),
                sender_name: bytes.get(from..from + name_len).unwrap_or_default(),
            }
        }
        RecordKind::Oom => Event::Oom { at, process },
        RecordKind::Unreaped => {
            let UnreapedRecord { header, parent_start, parent, waits } = read(bytes)?;
            let not_yet = header.flags & UNREAPED_NOT_YET != 0;
            let waits = (header.flags & UNREAPED_WAITS_UNKNOWN == 0).then_some(waits);
            Event::Unreaped { at, process, parent: id(parent, parent_start), waits, not_yet }
        }
    })
}

/// The invocation that a fork's child belongs to.
#[must_use]
pub fn invocation(bytes: &[u8]) -> Option<u32> {
    let header: Header = read(bytes).ok()?;
    let is_fork = RecordKind::from_wire(header.kind) == Some(RecordKind::Fork);
    is_fork.then(|| read::<ForkRecord>(bytes).ok().map(|fork| fork.invocation))?
}

/// The cgroup (v2) that a fork's child or an exec's process is in, and whether it was born there.
#[must_use]
pub fn cgroup(bytes: &[u8]) -> Option<(ProcessId, u64, bool)> {
    let header: Header = read(bytes).ok()?;
    let (cgroup, is_born) = match RecordKind::from_wire(header.kind)? {
        RecordKind::Fork => (read::<ForkRecord>(bytes).ok()?.cgroup, true),
        RecordKind::Exec => (read::<ExecRecord>(bytes).ok()?.cgroup, false),
        _ => return None,
    };
    (cgroup != 0).then(|| (id(header.pid, header.start), cgroup, is_born))
}

/// The real and the effective user of an exec's process from then on, in the initial user namespace.
#[must_use]
pub fn users(bytes: &[u8]) -> Option<(u32, u32)> {
    let header: Header = read(bytes).ok()?;
    let is_exec = RecordKind::from_wire(header.kind) == Some(RecordKind::Exec);
    is_exec.then(|| read::<ExecRecord>(bytes).ok().map(|exec| (exec.uid, exec.euid)))?
}

/// An exec's record with other strings. `None`: `bytes` is none, or the strings are too long.
#[must_use]
pub fn with_strings(bytes: &[u8], exe: &[u8], args: &[u8], markers: &[u8]) -> Option<Vec<u8>> {
    users(bytes)?;
    let [exe_len, args_len, markers_len] =
        [exe, args, markers].map(|text| u16::try_from(text.len()));
    let record = ExecRecord {
        exe_len: exe_len.ok()?,
        args_len: args_len.ok()?,
        markers_len: markers_len.ok()?,
        ..read(bytes).ok()?
    };
    Some([bytes_of(&record), exe, args, markers].concat())
}

/// The record that the fork of a process would have been, by what its entry tells: as the root.
#[must_use]
pub fn fork_of(root: &RecoveredProcess) -> Vec<u8> {
    let RecoveredProcess { id, forker, parent, pids, cgroup, .. } = root;
    let record = ForkRecord {
        header: Header {
            kind: RecordKind::Fork as u8,
            version: RECORD_VERSION,
            flags: FORK_ROOT,
            pid: id.pid,
            start: id.start,
            at: id.start,
        },
        forker_start: forker.start,
        parent_start: parent.start,
        cgroup: cgroup.unwrap_or(0),
        forker: forker.pid,
        parent: parent.pid,
        local_pid: pids.local.unwrap_or(0),
        namespace_pid: pids.namespace,
        namespace_level: pids.level,
        invocation: 0,
        thread: 0,
        reserved: 0,
    };
    bytes_of(&record).to_vec()
}

fn bytes_of<T: Plain>(record: &T) -> &[u8] {
    let from = std::ptr::from_ref(record).cast::<u8>();
    // SAFETY: a plain value's own bytes: integers only, no padding.
    unsafe { std::slice::from_raw_parts(from, size_of::<T>()) }
}

fn fork(record: &ForkRecord) -> Event<'static> {
    let ForkRecord {
        header,
        forker_start,
        parent_start,
        cgroup,
        forker,
        parent,
        local_pid,
        namespace_pid,
        namespace_level,
        invocation: _,
        thread,
        reserved: _,
    } = *record;
    Event::Fork {
        at: Nanos(header.at),
        child: id(header.pid, header.start),
        forker: id(forker, forker_start),
        parent: id(parent, parent_start),
        pids: Pids {
            host: header.pid,
            local: (local_pid != 0).then_some(local_pid),
            namespace: namespace_pid,
            level: namespace_level,
        },
        cgroup: (cgroup != 0).then_some(cgroup),
        thread: (thread != 0).then_some(thread),
        root: header.flags & FORK_ROOT != 0,
    }
}

fn exec(bytes: &[u8]) -> Result<Event<'_>, RecordError> {
    let record: ExecRecord = read(bytes)?;
    let ExecRecord { header, cgroup: _, uid, euid: _, exe_len, args_len, markers_len, reserved: _ } =
        record;
    let lengths = [exe_len, args_len, markers_len].map(usize::from);
    let needed = size_of::<ExecRecord>() + lengths.iter().sum::<usize>();
    let truncated = RecordError::Truncated { len: bytes.len(), needed };
    let mut rest = &bytes[size_of::<ExecRecord>()..];
    let mut take = |len| {
        let (taken, behind) = rest.split_at_checked(len).ok_or(truncated)?;
        rest = behind;
        Ok(taken)
    };
    let [exe, args, markers] = lengths.map(&mut take);
    Ok(Event::Exec {
        at: Nanos(header.at),
        process: id(header.pid, header.start),
        exe: exe?,
        args: args?,
        truncated: header.flags & EXEC_ARGS_TRUNCATED != 0,
        markers: markers?,
        markers_truncated: header.flags & EXEC_MARKERS_TRUNCATED != 0,
        uid: Some(uid),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: RecordKind) -> Header {
        Header { kind: kind as u8, version: RECORD_VERSION, flags: 0, pid: 7, start: 1, at: 2 }
    }

    fn bytes<T: Plain>(record: &T) -> Vec<u8> {
        bytes_of(record).to_vec()
    }

    #[test]
    fn every_kind_needs_all_its_bytes() {
        for kind in RecordKind::ALL {
            let mut record = bytes(&header(kind));
            record.resize(128, 0);
            assert!(decode(&record).is_ok(), "{kind:?}");
            assert!(decode(&record[..23]).is_err(), "{kind:?}");
        }
        let fork = bytes(&ForkRecord { header: header(RecordKind::Fork), ..Default::default() });
        assert!(decode(&fork).is_ok());
        assert!(matches!(
            decode(&fork[..fork.len() - 1]),
            Err(RecordError::Truncated { needed: 80, .. })
        ));
    }

    #[test]
    fn exec_strings_follow_with_their_lengths() {
        let record = ExecRecord {
            header: header(RecordKind::Exec),
            exe_len: 3,
            args_len: 4,
            ..Default::default()
        };
        let mut record = bytes(&record);
        record.extend(b"exeargs");
        let Ok(Event::Exec { exe, args, .. }) = decode(&record) else { panic!("no exec") };
        assert_eq!((exe, args), (&b"exe"[..], &b"args"[..]));
        assert!(decode(&record[..record.len() - 1]).is_err());
    }

    #[test]
    fn exec_is_told_with_other_strings_and_all_else_as_it_was() {
        let record = ExecRecord {
            header: Header { flags: EXEC_ARGS_TRUNCATED, ..header(RecordKind::Exec) },
            cgroup: 5,
            uid: 1000,
            exe_len: 3,
            args_len: 6,
            ..Default::default()
        };
        let before = [bytes(&record), b"exesecret".to_vec()].concat();
        assert_eq!(users(&before), Some((1000, 0)));
        let after = with_strings(&before, b"e", b"", b"A=1\0").unwrap();
        assert!(!after.windows(6).any(|window| window == b"secret"));
        let Ok(Event::Exec { exe, args, truncated, markers, uid, .. }) = decode(&after) else {
            panic!()
        };
        assert_eq!((exe, args, truncated, markers), (&b"e"[..], &b""[..], true, &b"A=1\0"[..]));
        assert_eq!(uid, Some(1000));
        assert_eq!((users(&after), cgroup(&after)), (users(&before), cgroup(&before)));
        assert_eq!(with_strings(&before, &[7; 1 << 16], b"", b""), None);
        assert_eq!(with_strings(&bytes(&header(RecordKind::Free)), b"", b"", b""), None);
    }

    #[test]
    fn entry_tells_its_fork() {
        let (id, above) = (id(7, 70), id(3, 30));
        let pids = Pids { host: 7, local: Some(6), namespace: 2, level: 1 };
        let entry = RecoveredProcess {
            cgroup: Some(9),
            ..RecoveredProcess::forked(id, above, above, pids)
        };
        let fork = Event::Fork {
            at: Nanos(70),
            child: id,
            forker: above,
            parent: above,
            pids,
            cgroup: Some(9),
            thread: None,
            root: true,
        };
        assert_eq!(decode(&fork_of(&entry)), Ok(fork));
    }

    #[test]
    fn sender_names_end_at_their_nul() {
        let mut name = [0; 16];
        name[..4].copy_from_slice(b"kill");
        let record = SignalRecord {
            header: header(RecordKind::Signal),
            signal: 9,
            sender_name: name,
            ..Default::default()
        };
        let record = bytes(&record);
        let Ok(Event::Signal { sender_name, .. }) = decode(&record) else { panic!("no signal") };
        assert_eq!(sender_name, b"kill");
    }

    #[test]
    fn foreign_versions_and_kinds_are_refused() {
        let mut record = bytes(&header(RecordKind::Free));
        record[0] = 99;
        assert_eq!(decode(&record), Err(RecordError::Kind(99)));
        record[1] = 9;
        assert_eq!(decode(&record), Err(RecordError::Version(9)));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }

        #[test]
        fn no_strings_make_it_panic(kind in 0_u8..10, rest: Vec<u8>) {
            let mut record = vec![kind, RECORD_VERSION];
            record.extend(rest);
            let _ = decode(&record);
        }
    }
}
