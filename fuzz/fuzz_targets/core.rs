//! Any sequence of events, however senseless: the core neither panics nor hangs, and what it found
//! can be told in every report.
//!
//! The input is a sequence of steps of 16 bytes: which event, whom it is about, when. Few processes,
//! so that they meet.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer::lineage::{
    BlockedThread, Config, Event, FindingKind, Lineage, Nanos, Observation, ObservedParent, Pids,
    Policy, ProcessId, Reading, RecoveredProcess, Resources,
};
use tracer_common::WaitCounts;

mod told;

/// One step's bytes.
struct Step<'a>(&'a [u8]);

impl Step<'_> {
    fn byte(&self, place: usize) -> u8 {
        self.0.get(place).copied().unwrap_or_default()
    }

    fn bit(&self, place: u8) -> bool {
        self.byte(1) >> place & 1 == 1
    }

    /// Eight pids, four starts.
    fn id(&self, place: usize) -> ProcessId {
        let byte = self.byte(place);
        ProcessId { pid: u32::from(byte & 7), start: u64::from(byte >> 3 & 3) }
    }

    fn at(&self) -> Nanos {
        let wide = u64::from(self.byte(8)) << 8 | u64::from(self.byte(9));
        Nanos(if wide == 0xffff { u64::MAX } else { wide * 1_000_000 })
    }

    fn pids(&self, pid: u32) -> Pids {
        Pids { host: pid, local: self.bit(7).then_some(pid), namespace: pid, level: 0 }
    }

    /// Up to five processes that the table holds.
    fn recovered(&self) -> Vec<RecoveredProcess> {
        (0..usize::from(self.byte(5) % 6))
            .map(|place| RecoveredProcess {
                id: self.id(10 + place),
                forker: self.id(2),
                parent: self.id(3),
                pids: self.pids(self.id(10 + place).pid),
                cgroup: None,
                root: self.bit(0),
                exec_at: self.bit(1).then(|| self.at()),
                exit: self.bit(2).then(|| (self.at(), self.byte(4).into())),
                reaped: self.bit(3),
                unreaped: self.bit(4),
                oom: self.bit(5),
                signal: self.bit(6).then(|| (self.at(), self.byte(4).into(), self.id(5), vec![])),
                waits: None,
            })
            .collect()
    }

    fn observation(&self) -> Observation {
        let states = [None, Some('S'), Some('Z'), Some('D'), Some('R')];
        Observation {
            exists: self.bit(0),
            state: states[usize::from(self.byte(3)) % states.len()],
            parent: self.bit(1).then(|| ObservedParent {
                pid: u32::from(self.byte(4) & 7),
                name: self.0.to_vec(),
                is_init: self.bit(2),
            }),
            caught: self.bit(3).then_some(u64::MAX),
            sid: self.bit(4).then_some(2),
            resources: self.bit(5).then(Resources::default),
            ..Observation::default()
        }
    }

    fn event(&self) -> Event<'_> {
        let (at, process) = (self.at(), self.id(2));
        match self.byte(0) % 11 {
            0 | 1 => Event::Fork {
                at,
                child: process,
                forker: self.id(3),
                parent: self.id(4),
                pids: self.pids(process.pid),
                cgroup: None,
                thread: Some(u32::from(self.bit(1))),
                root: self.bit(0),
            },
            2 => Event::Exec {
                at,
                process,
                exe: self.0,
                args: self.0,
                truncated: self.bit(0),
                markers: self.0,
                markers_truncated: self.bit(1),
                uid: None,
            },
            3 => Event::Exit {
                at,
                process,
                status: self.byte(3).into(),
                parent: self.id(4),
                children_uncounted: self.bit(0),
            },
            4 => Event::Unreaped {
                at,
                process,
                parent: self.id(4),
                waits: Some(WaitCounts::default()),
                not_yet: self.bit(0),
            },
            5 => {
                let by = self.bit(0).then(|| self.id(4));
                Event::Reaped { at, process, by, gone: self.bit(1) }
            }
            6 => Event::Signal {
                at,
                target: process,
                signal: self.byte(3).into(),
                sender: self.id(4),
                sender_name: self.0,
            },
            7 => Event::Oom { at, process },
            8 => Event::Observed { at, process, observation: Box::new(self.observation()) },
            9 => {
                let thread = BlockedThread { thread: 1, switches: self.byte(3).into() };
                Event::Sampled { at, blocked: vec![(process, thread)] }
            }
            _ => Event::Bystander {
                pid: u32::from(self.byte(3) & 7),
                start_ticks: u64::from(self.byte(4)),
                name: self.0,
            },
        }
    }

    /// Everything that is read after a loss.
    fn reading(&self) -> Reading {
        let mut reading = Reading::new(self.at(), self.recovered());
        reading.tracked = self.byte(6).into();
        reading.dropped = self.byte(7).into();
        reading.dropped_unreaped = u64::from(self.byte(7) & 3);
        reading.failed = u64::from(self.byte(6) & 1);
        reading
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut lineage = Lineage::new(Config { tell_lives: true, ..Config::default() });
    // Records go on while the table is read.
    let mut under_way: Option<Reading> = None;
    for step in bytes.chunks(16).map(Step) {
        match step.byte(0) {
            250.. => match under_way.take() {
                Some(reading) => reading.into_events().for_each(|event| lineage.handle(event)),
                None => under_way = Some(step.reading()),
            },
            249 => lineage.look_for_the_last_time(),
            248 => lineage.end_grace(),
            240..248 => lineage.handle_timeout(step.at()),
            _ => {
                let event = step.event();
                if let Some(reading) = &mut under_way {
                    reading.note(&event);
                }
                lineage.handle(event);
            }
        }
        let _ = lineage.next_deadline();
        while lineage.poll_output().is_some() {}
    }
    lineage.end_grace();
    let policy = Policy { fail_on: &FindingKind::ALL, strict: true, allow: &|_| None };
    told::tell(&lineage.outcome(Nanos(u64::MAX), &[], 0, policy));
});
