//! Between what the core takes in and the messages of [`wire`].

use std::time::Duration;

use tracer_common::WaitCounts;

use super::{
    Ending, Input, Opening, Settlement,
    reader::Reason,
    wire::{self, Kind},
};
use crate::lineage::{
    Blocked, BlockedThread, Config, Event, Home, Nanos, Observation, ObservedParent, OwnCgroup,
    Pids, ProcessId, RecoveredProcess, Resources, Server, Sleeper, Stream,
};

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

impl From<&Opening> for Kind {
    fn from(opening: &Opening) -> Self {
        let Opening { tracer_version, kernel_release, epoch_offset, command, config, rules } =
            opening;
        // Lives are told while the run is watched, not when it is judged again.
        let Config { grace, zombie_after, init_zombie_after, stuck_after, tell_lives: _ } = *config;
        Self::Opening(wire::Opening {
            tracer_version: tracer_version.clone(),
            kernel_release: kernel_release.clone(),
            epoch_offset: *epoch_offset,
            command: command.clone(),
            grace: nanos(grace),
            zombie_after: nanos(zombie_after),
            init_zombie_after: nanos(init_zombie_after),
            stuck_after: nanos(stuck_after),
            rules: rules.clone(),
        })
    }
}

pub(super) fn opening(opening: wire::Opening) -> Opening {
    let wire::Opening {
        tracer_version,
        kernel_release,
        epoch_offset,
        command,
        grace,
        zombie_after,
        init_zombie_after,
        stuck_after,
        rules,
    } = opening;
    let config = Config {
        grace: Duration::from_nanos(grace),
        zombie_after: Duration::from_nanos(zombie_after),
        init_zombie_after: Duration::from_nanos(init_zombie_after),
        stuck_after: Duration::from_nanos(stuck_after),
        tell_lives: false,
    };
    Opening { tracer_version, kernel_release, epoch_offset, command, config, rules }
}

impl From<&Ending> for Kind {
    fn from(ending: &Ending) -> Self {
        match ending {
            Ending::Settled(Settlement { status, interrupted, at, epoch_offset }) => {
                Self::Settled(wire::Settled {
                    at: at.0,
                    status: *status,
                    interrupted: interrupted.map(u32::from),
                    epoch_offset: *epoch_offset,
                })
            }
            Ending::Refused { status, message } => Self::Refused(wire::Refused {
                status: u32::from(*status),
                message: message.clone(),
            }),
        }
    }
}

fn byte(what: &'static str, value: u32) -> Result<u8, Reason> {
    u8::try_from(value).map_err(|_| Reason::Value { what, value: u64::from(value) })
}

pub(super) fn settled(settled: &wire::Settled) -> Result<Ending, Reason> {
    let wire::Settled { at, status, interrupted, epoch_offset } = *settled;
    let interrupted = interrupted.map(|signal| byte("signal", signal)).transpose()?;
    Ok(Ending::Settled(Settlement { status, interrupted, at: Nanos(at), epoch_offset }))
}

pub(super) fn refused(refused: wire::Refused) -> Result<Ending, Reason> {
    let wire::Refused { status, message } = refused;
    Ok(Ending::Refused { status: byte("exit status", status)?, message })
}

/// Gives the records of an input, in order: one, but for a table of processes.
pub(super) fn kinds(input: &Input<'_>, mut give: impl FnMut(Kind)) {
    if let Input::Event(Event::Recovered { processes, .. }) = input {
        processes.iter().for_each(|process| give(Kind::RecoveredProcess(process.into())));
    }
    give(match input {
        Input::Timeout(now) => Kind::Timeout(wire::Timeout { now: now.0 }),
        Input::EndGrace => Kind::EndGrace(wire::EndGrace {}),
        Input::LastLook => Kind::LastLook(wire::LastLook {}),
        Input::Event(event) => kind(event),
    });
}

fn kind(event: &Event<'_>) -> Kind {
    match *event {
        Event::Fork { at, child, forker, parent, pids, cgroup, thread, root } => {
            Kind::Fork(wire::Fork {
                at: at.0,
                child: Some(child.into()),
                forker: Some(forker.into()),
                parent: Some(parent.into()),
                pids: Some(pids.into()),
                cgroup,
                root,
                thread,
            })
        }
        Event::Exec { at, process, exe, args, truncated, markers, markers_truncated, uid } => {
            Kind::Exec(wire::Exec {
                at: at.0,
                process: Some(process.into()),
                exe: exe.to_vec(),
                args: args.to_vec(),
                truncated,
                markers: markers.to_vec(),
                markers_truncated,
                uid,
            })
        }
        Event::Announced(ref announcement) => {
            // Strings and numbers alone: that does not fail.
            let json = serde_json::to_vec(announcement).unwrap_or_default();
            Kind::Announced(wire::Announced { json, refused: 0 })
        }
        Event::InCgroup { process, is_born, ref path } => Kind::InCgroup(wire::InCgroup {
            process: Some(process.into()),
            is_born,
            path: path.to_vec(),
        }),
        Event::InPod { process, ref labels } => {
            Kind::InPod(wire::InPod { process: Some(process.into()), labels: (**labels).clone() })
        }
        Event::CleanedUp(ref news) => {
            // The same.
            let json = serde_json::to_vec(news).unwrap_or_default();
            Kind::CleanedUp(wire::CleanedUp { json })
        }
        Event::OwnCgroup(ref own) => Kind::OwnCgroup((&**own).into()),
        Event::AnnouncementsRefused(refused) => {
            Kind::Announced(wire::Announced { json: Vec::new(), refused })
        }
        Event::AnnouncementsLost { at, from } => {
            Kind::AnnouncementsLost(wire::AnnouncementsLost { at: at.0, from: from.0 })
        }
        Event::Exit { at, process, status, parent, children_uncounted } => Kind::Exit(wire::Exit {
            at: at.0,
            process: Some(process.into()),
            status,
            parent: Some(parent.into()),
            children_uncounted,
        }),
        Event::Unreaped { at, process, parent, waits, not_yet } => Kind::Unreaped(wire::Unreaped {
            at: at.0,
            process: Some(process.into()),
            parent: Some(parent.into()),
            waits: waits.map(Into::into),
            not_yet,
        }),
        Event::Reaped { at, process, by, gone } => Kind::Reaped(wire::Reaped {
            at: at.0,
            process: Some(process.into()),
            by: by.map(Into::into),
            gone,
        }),
        Event::Signal { at, target, signal, sender, sender_name } => Kind::Signal(wire::Signal {
            at: at.0,
            target: Some(target.into()),
            signal,
            sender: Some(sender.into()),
            sender_name: sender_name.to_vec(),
        }),
        Event::Oom { at, process } => {
            Kind::Oom(wire::Oom { at: at.0, process: Some(process.into()) })
        }
        Event::Observed { at, process, ref observation } => Kind::Observed(wire::Observed {
            at: at.0,
            process: Some(process.into()),
            observation: Some((&**observation).into()),
        }),
        Event::Sampled { at, ref blocked } => Kind::Sampled(wire::Sampled {
            at: at.0,
            blocked: blocked.iter().map(Into::into).collect(),
        }),
        Event::Bystander { pid, start_ticks, name } => {
            Kind::Bystander(wire::Bystander { pid, start_ticks, name: name.to_vec() })
        }
        Event::Recovered { at, ref processes, tracked, dropped, dropped_unreaped, failed } => {
            Kind::Recovered(wire::Recovered {
                at: at.0,
                tracked,
                dropped,
                dropped_unreaped,
                failed,
                processes: processes.len() as u64,
            })
        }
    }
}

/// The input that a record is, except a table of processes.
pub(super) fn input(kind: &Kind) -> Result<Input<'_>, Reason> {
    let event = match kind {
        Kind::Timeout(wire::Timeout { now }) => return Ok(Input::Timeout(Nanos(*now))),
        Kind::EndGrace(wire::EndGrace {}) => return Ok(Input::EndGrace),
        Kind::LastLook(wire::LastLook {}) => return Ok(Input::LastLook),
        Kind::Fork(wire::Fork { at, child, forker, parent, pids, cgroup, root, thread }) => {
            Event::Fork {
                at: Nanos(*at),
                child: id(child),
                forker: id(forker),
                parent: id(parent),
                pids: pids.as_ref().map(Pids::from).unwrap_or_default(),
                cgroup: *cgroup,
                thread: *thread,
                root: *root,
            }
        }
        Kind::Exec(wire::Exec {
            at,
            process,
            exe,
            args,
            truncated,
            markers,
            markers_truncated,
            uid,
        }) => Event::Exec {
            at: Nanos(*at),
            process: id(process),
            exe,
            args,
            truncated: *truncated,
            markers,
            markers_truncated: *markers_truncated,
            uid: *uid,
        },
        Kind::Announced(wire::Announced { json, refused }) if json.is_empty() => {
            Event::AnnouncementsRefused(*refused)
        }
        Kind::Announced(wire::Announced { json, refused: _ }) => {
            let announcement = serde_json::from_slice(json);
            Event::Announced(announcement.map_err(|_| Reason::Announcement)?)
        }
        Kind::AnnouncementsLost(wire::AnnouncementsLost { at, from }) => {
            Event::AnnouncementsLost { at: Nanos(*at), from: Nanos(*from) }
        }
        Kind::InPod(wire::InPod { process, labels }) => {
            Event::InPod { process: id(process), labels: labels.clone().into() }
        }
        Kind::InCgroup(wire::InCgroup { process, is_born, path }) => {
            let path = path.as_slice().into();
            Event::InCgroup { process: id(process), is_born: *is_born, path }
        }
        Kind::CleanedUp(wire::CleanedUp { json }) => {
            Event::CleanedUp(serde_json::from_slice(json).map_err(|_| Reason::CleanupNews)?)
        }
        Kind::OwnCgroup(own) => Event::OwnCgroup(Box::new(own.into())),
        Kind::Exit(wire::Exit { at, process, status, parent, children_uncounted }) => Event::Exit {
            at: Nanos(*at),
            process: id(process),
            status: *status,
            parent: id(parent),
            children_uncounted: *children_uncounted,
        },
        Kind::Unreaped(wire::Unreaped { at, process, parent, waits, not_yet }) => Event::Unreaped {
            at: Nanos(*at),
            process: id(process),
            parent: id(parent),
            waits: waits.as_ref().map(WaitCounts::from),
            not_yet: *not_yet,
        },
        Kind::Reaped(wire::Reaped { at, process, by, gone }) => Event::Reaped {
            at: Nanos(*at),
            process: id(process),
            by: by.is_some().then(|| id(by)),
            gone: *gone,
        },
        Kind::Signal(wire::Signal { at, target, signal, sender, sender_name }) => Event::Signal {
            at: Nanos(*at),
            target: id(target),
            signal: *signal,
            sender: id(sender),
            sender_name,
        },
        Kind::Oom(wire::Oom { at, process }) => Event::Oom { at: Nanos(*at), process: id(process) },
        Kind::Observed(wire::Observed { at, process, observation }) => Event::Observed {
            at: Nanos(*at),
            process: id(process),
            observation: Box::new(observe(observation.as_ref())?),
        },
        Kind::Sampled(wire::Sampled { at, blocked }) => {
            Event::Sampled { at: Nanos(*at), blocked: blocked.iter().map(Into::into).collect() }
        }
        Kind::Bystander(wire::Bystander { pid, start_ticks, name }) => {
            Event::Bystander { pid: *pid, start_ticks: *start_ticks, name }
        }
        Kind::Opening(_)
        | Kind::Settled(_)
        | Kind::Refused(_)
        | Kind::RecoveredProcess(_)
        | Kind::Recovered(_) => return Err(Reason::Misplaced("this is no input by itself")),
    };
    Ok(Input::Event(event))
}

/// A table of processes, whose parts came before.
pub(super) fn recovered(
    recovered: &wire::Recovered,
    parts: Vec<RecoveredProcess>,
) -> Result<Input<'static>, Reason> {
    let wire::Recovered { at, tracked, dropped, dropped_unreaped, failed, processes } = *recovered;
    if processes != parts.len() as u64 {
        return Err(Reason::Misplaced("a table of processes with another number of them"));
    }
    Ok(Input::Event(Event::Recovered {
        at: Nanos(at),
        processes: parts,
        tracked,
        dropped,
        dropped_unreaped,
        failed,
    }))
}

impl From<ProcessId> for wire::Id {
    fn from(id: ProcessId) -> Self {
        let ProcessId { pid, start } = id;
        Self { pid, start }
    }
}

/// What is absent was zero.
pub(crate) fn id(id: &Option<wire::Id>) -> ProcessId {
    id.as_ref().map_or_else(ProcessId::default, |wire::Id { pid, start }| ProcessId {
        pid: *pid,
        start: *start,
    })
}

impl From<&OwnCgroup> for wire::OwnCgroup {
    fn from(own: &OwnCgroup) -> Self {
        let OwnCgroup { path, cpu_user, cpu_system, memory_peak, pids_peak, unknown, left } =
            own.clone();
        let (cpu_user, cpu_system) = (cpu_user.map(nanos), cpu_system.map(nanos));
        Self { path, cpu_user, cpu_system, memory_peak, pids_peak, unknown, left }
    }
}

impl From<&wire::OwnCgroup> for OwnCgroup {
    fn from(own: &wire::OwnCgroup) -> Self {
        let wire::OwnCgroup { path, cpu_user, cpu_system, memory_peak, pids_peak, unknown, left } =
            own.clone();
        let [cpu_user, cpu_system] =
            [cpu_user, cpu_system].map(|time| time.map(Duration::from_nanos));
        Self { path, cpu_user, cpu_system, memory_peak, pids_peak, unknown, left }
    }
}

impl From<Pids> for wire::Pids {
    fn from(pids: Pids) -> Self {
        let Pids { host, local, namespace, level } = pids;
        Self { host, local, namespace, level }
    }
}

impl From<&wire::Pids> for Pids {
    fn from(pids: &wire::Pids) -> Self {
        let wire::Pids { host, local, namespace, level } = *pids;
        Self { host, local, namespace, level }
    }
}

impl From<WaitCounts> for wire::Waits {
    fn from(waits: WaitCounts) -> Self {
        let WaitCounts { any, this_child, others, last_other, after_death } = waits;
        Self { any, this_child, others, last_other, after_death }
    }
}

impl From<&wire::Waits> for WaitCounts {
    fn from(waits: &wire::Waits) -> Self {
        let wire::Waits { any, this_child, others, last_other, after_death } = *waits;
        Self { any, this_child, others, last_other, after_death }
    }
}

impl From<&(ProcessId, BlockedThread)> for wire::BlockedThread {
    fn from((process, blocked): &(ProcessId, BlockedThread)) -> Self {
        let BlockedThread { thread, switches } = *blocked;
        Self { process: Some((*process).into()), thread, switches }
    }
}

impl From<&wire::BlockedThread> for (ProcessId, BlockedThread) {
    fn from(blocked: &wire::BlockedThread) -> Self {
        let wire::BlockedThread { process, thread, switches } = blocked;
        (id(process), BlockedThread { thread: *thread, switches: *switches })
    }
}

impl From<&Observation> for wire::Observation {
    fn from(observation: &Observation) -> Self {
        let Observation {
            exists,
            state,
            comm,
            pgid,
            sid,
            parent,
            exe,
            cwd,
            cgroup,
            home,
            args,
            caught,
            resources,
            blocked,
            waits,
        } = observation.clone();
        Self {
            exists,
            state: state.map(u32::from),
            comm,
            pgid,
            sid,
            parent: parent.map(|ObservedParent { pid, name, is_init }| wire::ObservedParent {
                pid,
                name,
                is_init,
            }),
            exe,
            cwd,
            cgroup,
            args,
            caught,
            resources: resources.map(Into::into),
            blocked: blocked.map(|blocked| Box::new(blocked.into())),
            waits: waits.map(Into::into),
            home: home.map(|Home { id, path }| wire::Home { id, path }),
        }
    }
}

fn observe(observation: Option<&wire::Observation>) -> Result<Observation, Reason> {
    let wire::Observation {
        exists,
        state,
        comm,
        pgid,
        sid,
        parent,
        exe,
        cwd,
        cgroup,
        args,
        caught,
        resources,
        blocked,
        waits,
        home,
    } = observation.cloned().unwrap_or_default();
    let letter = |value| {
        char::from_u32(value).ok_or(Reason::Value { what: "state letter", value: u64::from(value) })
    };
    Ok(Observation {
        exists,
        state: state.map(letter).transpose()?,
        comm,
        pgid,
        sid,
        parent: parent.map(|wire::ObservedParent { pid, name, is_init }| ObservedParent {
            pid,
            name,
            is_init,
        }),
        exe,
        cwd,
        cgroup,
        home: home.map(|wire::Home { id, path }| Home { id, path }),
        args,
        caught,
        resources: resources.map(held).transpose()?,
        blocked: blocked.map(|blocked| (*blocked).into()),
        waits: waits.as_ref().map(WaitCounts::from),
    })
}

impl From<Blocked> for wire::Blocked {
    fn from(blocked: Blocked) -> Self {
        let Blocked { wchan, mount, server, file, thread, stack, others } = blocked;
        let server = server.map(|server| match server {
            Server::Fuse { connection } => {
                wire::Server { fuse_connection: Some(connection), is_remote: false }
            }
            Server::Remote => wire::Server { fuse_connection: None, is_remote: true },
            Server::Local => wire::Server { fuse_connection: None, is_remote: false },
        });
        let others = others
            .into_iter()
            .map(|Sleeper { thread, wchan, stack }| wire::Sleeper { thread, wchan, stack })
            .collect();
        Self { wchan, mount, server, file, thread, stack, others }
    }
}

impl From<wire::Blocked> for Blocked {
    fn from(blocked: wire::Blocked) -> Self {
        let wire::Blocked { wchan, mount, server, file, thread, stack, others } = blocked;
        let server =
            server.map(|wire::Server { fuse_connection, is_remote }| match fuse_connection {
                Some(connection) => Server::Fuse { connection },
                None if is_remote => Server::Remote,
                None => Server::Local,
            });
        let others = others
            .into_iter()
            .map(|wire::Sleeper { thread, wchan, stack }| Sleeper { thread, wchan, stack })
            .collect();
        Self { wchan, mount, server, file, thread, stack, others }
    }
}

impl From<Resources> for wire::Resources {
    fn from(resources: Resources) -> Self {
        let Resources { rss_bytes, fds, listening, devices, streams } = resources;
        let descriptor = |stream: &Stream| match stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        };
        let streams = streams.iter().map(descriptor).collect();
        Self { rss_bytes, fds, listening, devices, streams }
    }
}

fn held(resources: wire::Resources) -> Result<Resources, Reason> {
    let wire::Resources { rss_bytes, fds, listening, devices, streams } = resources;
    let stream = |descriptor: &u32| match descriptor {
        1 => Ok(Stream::Stdout),
        2 => Ok(Stream::Stderr),
        other => Err(Reason::Value { what: "standard stream", value: u64::from(*other) }),
    };
    let streams = streams.iter().map(stream).collect::<Result<_, _>>()?;
    Ok(Resources { rss_bytes, fds, listening, devices, streams })
}

impl From<&RecoveredProcess> for wire::RecoveredProcess {
    fn from(process: &RecoveredProcess) -> Self {
        let RecoveredProcess {
            id,
            forker,
            parent,
            pids,
            cgroup,
            root,
            exec_at,
            exit,
            reaped,
            unreaped,
            oom,
            signal,
            waits,
        } = process;
        Self {
            id: Some((*id).into()),
            forker: Some((*forker).into()),
            parent: Some((*parent).into()),
            pids: Some((*pids).into()),
            cgroup: *cgroup,
            root: *root,
            exec_at: exec_at.map(|at| at.0),
            exit: exit.map(|(at, status)| wire::RecoveredExit { at: at.0, status }),
            reaped: *reaped,
            unreaped: *unreaped,
            oom: *oom,
            signal: signal.as_ref().map(|(at, signal, sender, name)| wire::RecoveredSignal {
                at: at.0,
                signal: *signal,
                sender: Some((*sender).into()),
                sender_name: name.clone(),
            }),
            waits: waits.map(Into::into),
        }
    }
}

pub(crate) fn recovered_process(process: wire::RecoveredProcess) -> RecoveredProcess {
    let wire::RecoveredProcess {
        id: own,
        forker,
        parent,
        pids,
        cgroup,
        root,
        exec_at,
        exit,
        reaped,
        unreaped,
        oom,
        signal,
        waits,
    } = process;
    RecoveredProcess {
        id: id(&own),
        forker: id(&forker),
        parent: id(&parent),
        pids: pids.as_ref().map(Pids::from).unwrap_or_default(),
        cgroup,
        root,
        exec_at: exec_at.map(Nanos),
        exit: exit.map(|wire::RecoveredExit { at, status }| (Nanos(at), status)),
        reaped,
        unreaped,
        oom,
        signal: signal.map(|wire::RecoveredSignal { at, signal, sender, sender_name }| {
            (Nanos(at), signal, id(&sender), sender_name)
        }),
        waits: waits.as_ref().map(WaitCounts::from),
    }
}
