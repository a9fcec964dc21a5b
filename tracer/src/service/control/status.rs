//! How a process does, for watchdogs: running, dead and unreaped, or gone. Nothing here ever waits for a
//! process, which would take its exit status from its parent.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::procfs::{Procfs, Stat};

/// The contract `tracer.status/1`. What is not known is `null`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Status {
    /// `tracer.status/1`.
    pub schema: String,
    /// The pid that was asked about.
    pub pid: u32,
    /// How it does.
    pub state: State,
    /// Its identity, as contracts spell it.
    pub id: Option<String>,
    /// When it started, in clock ticks, as field 22 of `/proc/PID/stat` has it.
    pub start_ticks: Option<u64>,
    /// The kernel's short name of it.
    pub name: Option<String>,
    /// Who has to reap it.
    pub parent: Option<Named>,
    /// How it ended, as in `tracer.report/1`.
    pub exit: Option<Value>,
    /// When it died.
    pub died_at: Option<String>,
    /// For how long it has been dead and unreaped.
    pub unreaped_seconds: Option<f64>,
    /// Its parent died without having reaped it.
    pub left_by_parent: Option<bool>,
    /// The outermost agent's run that it belongs to.
    pub invocation: Option<String>,
    /// Who says so: `daemon`, or `procfs`, which knows less.
    pub source: String,
}

/// A process by pid and name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Named {
    /// Its pid.
    pub pid: u32,
    /// Its name, where that is known.
    pub name: Option<String>,
}

/// How a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It lives: at least one of its threads does.
    Running,
    /// It is dead, and nobody has reaped it.
    Zombie,
    /// There is no such process (any more).
    Gone,
}

/// What procfs says of a pid.
#[derive(Debug)]
pub(crate) enum Look {
    /// It lives.
    Running(Stat),
    /// It is dead and unreaped.
    Zombie(Stat),
    /// There is none, or another since.
    Gone,
    /// procfs does not show it: why.
    Hidden(String),
}

/// Looks at whoever has this pid, and started then, if that is said.
pub(crate) fn look(procfs: &Procfs, pid: u32, start_ticks: Option<u64>) -> Look {
    let found = procfs.process(pid).and_then(|dir| dir.stat());
    match found {
        Ok(stat) if start_ticks.is_some_and(|ticks| ticks != stat.start_ticks) => Look::Gone,
        // The leader may have ended before the rest of its group.
        Ok(stat) if stat.is_dead() && stat.threads <= 1 => Look::Zombie(stat),
        Ok(stat) => Look::Running(stat),
        Err(error) if error.is_gone() && !procfs.hides(pid) => Look::Gone,
        Err(error) if error.is_gone() => {
            Look::Hidden(format!("look at pid {pid}: /proc hides it (hidepid)"))
        }
        Err(error) => Look::Hidden(error.to_string()),
    }
}

impl Status {
    /// What a look at procfs gives alone. `Err`: it cannot be told, and why.
    ///
    /// # Errors
    /// procfs hides the process, or cannot be read.
    pub fn of_procfs(procfs: &Procfs, pid: u32, start_ticks: Option<u64>) -> Result<Self, String> {
        Self::of_look(procfs, pid, look(procfs, pid, start_ticks), "procfs")
    }

    pub(crate) fn of_look(
        procfs: &Procfs,
        pid: u32,
        look: Look,
        source: &str,
    ) -> Result<Self, String> {
        let (state, stat) = match look {
            Look::Running(stat) => (State::Running, Some(stat)),
            Look::Zombie(stat) => (State::Zombie, Some(stat)),
            Look::Gone => (State::Gone, None),
            Look::Hidden(reason) => return Err(reason),
        };
        let text = |name: &[u8]| crate::escape::lossless(name);
        let parent = stat.as_ref().filter(|stat| stat.ppid != 0).map(|stat| {
            let parent = procfs.process(stat.ppid).and_then(|dir| dir.stat());
            Named { pid: stat.ppid, name: parent.ok().map(|parent| text(&parent.comm)) }
        });
        Ok(Self {
            schema: "tracer.status/1".to_owned(),
            pid,
            state,
            id: None,
            start_ticks: stat.as_ref().map(|stat| stat.start_ticks),
            name: stat.as_ref().map(|stat| text(&stat.comm)),
            parent,
            exit: None,
            died_at: None,
            unreaped_seconds: None,
            left_by_parent: None,
            invocation: None,
            source: source.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::fake::{FakeProc, stat_line};

    #[test]
    fn states_are_told_apart_by_start_and_threads() {
        let fake = FakeProc::new();
        fake.task("1", 'S', 0, 1).task("12", 'S', 1, 700).task("13", 'Z', 12, 800);
        fake.file("14/stat", stat_line(14, b"leader", 'Z', 12, 3, 900));
        let procfs = fake.open();
        let of = |pid, ticks| Status::of_procfs(&procfs, pid, ticks).unwrap();
        assert_eq!(of(12, None).state, State::Running);
        assert_eq!(of(12, Some(700)).state, State::Running);
        assert_eq!(of(12, Some(701)).state, State::Gone);
        let zombie = of(13, None);
        assert_eq!((zombie.state, zombie.start_ticks), (State::Zombie, Some(800)));
        let parent = Named { pid: 12, name: Some("worker".to_owned()) };
        assert_eq!(zombie.parent, Some(parent));
        assert_eq!((zombie.exit, zombie.unreaped_seconds), (None, None));
        assert_eq!(of(14, None).state, State::Running);
        let gone = of(15, None);
        assert_eq!((gone.state, gone.start_ticks, gone.parent), (State::Gone, None, None));
    }
}
