//! The log of every process's life: JSON lines, one a process, in the order in which they ended.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::json::{ExitEntry, Writer, all_lossless, known};
use crate::{
    escape::{json_text, lossless, terminal},
    lineage::{Life, ProcessId, Reaper},
};

/// Why the log is not whole. Reads on after "failed to".
#[derive(Debug, thiserror::Error)]
#[error("write the log of processes {}: {reason}", terminal(path.as_os_str().as_encoded_bytes()))]
pub struct LogError {
    path: PathBuf,
    reason: io::Error,
}

/// A file that lives are written to as they end.
#[derive(Debug)]
pub struct LifeLog {
    path: PathBuf,
    file: BufWriter<File>,
    /// The first failure; nothing is written after it.
    failed: Option<io::Error>,
}

impl LifeLog {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn create(path: &Path) -> Result<Self, LogError> {
        match File::create(path) {
            Ok(file) => {
                Ok(Self { path: path.to_owned(), file: BufWriter::new(file), failed: None })
            }
            Err(reason) => Err(LogError { path: path.to_owned(), reason }),
        }
    }

    /// Writes one life. A failure is told by [`Self::finish`]. `epoch_offset`: what added to a
    /// boottime gives nanoseconds since the epoch.
    pub fn write(&mut self, life: &Life, epoch_offset: i64) {
        if self.failed.is_none() {
            self.failed = self.file.write_all(render(life, epoch_offset).as_bytes()).err();
        }
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// The first failure of all writing.
    pub fn finish(mut self) -> Result<(), LogError> {
        let result = self.failed.take().map_or_else(|| self.file.flush(), Err);
        result.map_err(|reason| LogError { path: self.path, reason })
    }
}

#[derive(Serialize)]
struct LifeEntry {
    id: String,
    pid: u32,
    /// Only where `pid` is not the initial PID namespace's.
    #[serde(skip_serializing_if = "Option::is_none")]
    host_pid: Option<u32>,
    namespace_pid: Option<u32>,
    forker: Option<String>,
    parent: Option<String>,
    last_parent: Option<String>,
    name: String,
    exe: Option<String>,
    args: Vec<String>,
    /// Only where it is so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    args_truncated: bool,
    start_time: Option<String>,
    start_ns: u64,
    exec_ns: Option<u64>,
    orphaned_ns: Option<u64>,
    exit_ns: Option<u64>,
    gone_ns: Option<u64>,
    exit: Option<ExitEntry>,
    reaped_by: Option<Reaper>,
}

/// One line, ending in a newline.
fn render(life: &Life, epoch_offset: i64) -> String {
    let Life {
        id,
        pids,
        forker,
        parent,
        last_parent,
        name,
        exe,
        args,
        args_truncated,
        exec_at,
        orphaned_at,
        exit,
        reaped_by,
        gone_at,
    } = life;
    let whose = |id: &ProcessId| (id.pid != 0).then(|| id.to_string());
    let entry = LifeEntry {
        id: id.to_string(),
        pid: pids.shown(),
        host_pid: known(pids.host).filter(|host| *host != pids.shown()),
        namespace_pid: known(pids.namespace),
        forker: whose(forker),
        parent: whose(parent),
        last_parent: whose(last_parent),
        name: lossless(name),
        exe: exe.as_deref().map(lossless),
        args: all_lossless(args),
        args_truncated: *args_truncated,
        start_time: Writer { epoch_offset }.time(crate::lineage::Nanos(id.start)),
        start_ns: id.start,
        exec_ns: exec_at.map(|at| at.0),
        orphaned_ns: orphaned_at.map(|at| at.0),
        exit_ns: exit.as_ref().map(|exit| exit.at.0),
        gone_ns: gone_at.map(|at| at.0),
        exit: exit.as_ref().map(ExitEntry::from),
        reaped_by: *reaped_by,
    };
    let json = serde_json::to_string(&entry).expect("structs with string keys always serialise");
    json_text(&json) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::{Exit, ExitStatus, Nanos, Pids};

    #[test]
    fn a_life_is_one_line_and_what_is_not_known_is_null() {
        let id = |pid, start| ProcessId { pid, start };
        let life = Life {
            id: id(7, 256),
            pids: Pids { host: 7, local: Some(7), namespace: 1, level: 1 },
            forker: id(6, 16),
            parent: id(5, 15),
            last_parent: id(1, 1),
            name: b"a\nb".to_vec(),
            args: vec![b"\xff".to_vec()],
            exit: Some(Exit {
                status: Some(ExitStatus::Code(3)),
                sender: None,
                oom: false,
                at: Nanos(512),
            }),
            reaped_by: Some(Reaper::Adopter),
            ..Life::default()
        };
        insta::assert_snapshot!(render(&life, 0));
        assert_eq!(render(&life, 0).matches('\n').count(), 1);
        let unborn: serde_json::Value = serde_json::from_str(&render(&Life::default(), 0)).unwrap();
        for key in ["namespace_pid", "forker", "exe", "exec_ns", "exit", "exit_ns", "reaped_by"] {
            assert_eq!(unborn.get(key), Some(&serde_json::Value::Null), "{key}");
        }
    }
}
