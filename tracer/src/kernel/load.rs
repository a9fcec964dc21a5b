//! Loads the kernel programs, attaches them, and takes them away again.
//!
//! Everything hangs on descriptors of this process, so that the kernel drops programs, links and maps
//! with it, also when it is killed; but for what [`Probes::attach_pinned`] pins, to outlive it.

mod whole_host;

use std::{
    error::Error,
    fs::{self, File},
    io,
    ops::RangeInclusive,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use aya::{
    Btf, Ebpf, EbpfLoader, Endianness, Pod,
    maps::{Array, Map, MapData, MapError, RingBuf},
    programs::{BtfTracePoint, FEntry, ProgramError},
};
use thiserror::Error;
use tracer_common::{
    COUNTERS, Control, Counter, MARKER_NAMES, MarkerFilter, MarkerName, Offsets, RecordKind,
    Settings, SocketOffsets,
};

use super::{
    btf::{BtfError, KernelBtf},
    counters::Counters,
    doom::{self, Doom, Reach},
    host::HookCheck,
    misses::Misses,
    pins::{Found, PinError, Pins},
    position,
    procs::ProcsMap,
    run_times::LoadedProgram,
    sockets::SocketsError,
};
use crate::{
    lineage::{Lot, ProcessId},
    memory,
    procfs::kernel_version,
};

/// The kernel programs, built by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer.bpf.o"));

/// A hook: its program in the object and the tracepoint's name.
struct Hook {
    program: &'static str,
    tracepoint: &'static str,
}

/// The hooks without which nothing can be said.
const HOOKS: [Hook; 7] = [
    Hook { program: "tracer_fork", tracepoint: "sched_process_fork" },
    Hook { program: "tracer_exec", tracepoint: "sched_process_exec" },
    Hook { program: "tracer_exit", tracepoint: "sched_process_exit" },
    Hook { program: "tracer_free", tracepoint: "sched_process_free" },
    Hook { program: "tracer_wait", tracepoint: "sched_process_wait" },
    Hook { program: "tracer_signal", tracepoint: "signal_generate" },
    Hook { program: "tracer_oom", tracepoint: "mark_victim" },
];
/// The hooks without which a process or its end goes unseen, once more, for kernels that may preempt
/// the first: see the head of `tracer-ebpf/src/main.rs`.
const AGAIN: [Again; 3] = [
    Again {
        tracepoint: "sched_process_fork",
        programs: ["tracer_fork_again", "tracer_fork_last"],
        made_up: Counter::ForkMadeUp,
        left: Some(Counter::ForkLeft),
    },
    Again {
        tracepoint: "sched_process_exit",
        programs: ["tracer_exit_again", "tracer_exit_last"],
        made_up: Counter::ExitMadeUp,
        left: None,
    },
    Again {
        tracepoint: "sched_process_free",
        programs: ["tracer_free_again", "tracer_free_last"],
        made_up: Counter::FreeMadeUp,
        left: None,
    },
];

/// A hook's further programs, and what they and the first count of each other.
struct Again {
    tracepoint: &'static str,
    programs: [&'static str; 2],
    /// Events that these took in.
    made_up: Counter,
    /// Events that one left to the next.
    left: Option<Counter>,
}

impl Again {
    /// The names of all programs of the hook.
    fn all(&self) -> impl Iterator<Item = &'static str> {
        let first = HOOKS.iter().filter(|hook| hook.tracepoint == self.tracepoint);
        first.map(|hook| hook.program).chain(self.programs)
    }

    fn hooks(&self) -> impl Iterator<Item = Hook> {
        let tracepoint = self.tracepoint;
        self.programs.into_iter().map(move |program| Hook { program, tracepoint })
    }
}
/// The hook that tells a reap at once, where fentry attaches.
const RELEASE: Hook = Hook { program: "tracer_release", tracepoint: "release_task" };

/// The maps that programs share with those of another daemon before or after.
const SHARED: [&str; 5] = ["PROCS", "CONTROL", "COUNTS", "RECORDS", "MARKERS"];

/// Why the kernel side could not be set up.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The kernel's types lack something.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The kernel's types are not to aya's liking.
    #[error("parse the kernel's type information: {0}")]
    AyaBtf(#[source] aya::BtfError),
    /// The object could not be loaded: maps refused, memory lacking.
    #[error("load the kernel programs: {}{}", chain(.0.as_ref()), advice(.0.as_ref()))]
    Object(#[source] Box<aya::EbpfError>),
    /// One hook is refused.
    #[error("attach to {hook}: {reason}")]
    Hook {
        /// Name of the tracepoint.
        hook: &'static str,
        /// What the kernel said; the verifier's last words, if it was that.
        reason: String,
    },
    /// The object lacks a program or map that it should hold.
    #[error("find {0} in the kernel object: built from other sources?")]
    Missing(&'static str),
    /// A map could not be used.
    #[error("use map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// The programs' counters cannot be read.
    #[error("read map COUNTS: {0}")]
    Counters(#[source] io::Error),
    /// The kernel's own account of a program is not to be had.
    #[error("read the kernel's account of a program in /proc/self/fdinfo: {}{}", .0, advice(.0))]
    Missed(#[source] io::Error),
    /// A variable's name that the kernel side cannot look for.
    #[error(
        "look for the environment variable {name:?}: names have 3 to 39 bytes, and there are at most {MARKER_NAMES}"
    )]
    Marker {
        /// Its name.
        name: String,
    },
    /// What was there before the hooks cannot be entered.
    #[error("list the processes that are there (iter/task): {}", chain(.0.as_ref()))]
    Snapshot(#[source] Box<dyn Error + Send + Sync>),
    /// A process cannot be put into an invocation, or not be let go of.
    #[error("change the entry of a process (BPF_PROG_TEST_RUN): {}", chain(.0))]
    Tag(#[source] ProgramError),
    /// What lists sockets is refused.
    #[error(transparent)]
    Sockets(#[from] SocketsError),
    /// What is to outlive the daemon cannot be pinned, or not be taken over.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The own PID namespace is not to be seen.
    #[error("read /proc/self/ns/pid: {0}")]
    Namespace(#[source] io::Error),
}

/// How to load.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions<'a> {
    /// Processes that can be tracked at once.
    pub max_processes: u32,
    /// Bytes of the ring buffer: a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Names of the environment variables that are taken at exec; no other is.
    pub markers: &'a [Vec<u8>],
    /// Follow every process of the host, and tell of those that [`Probes::tag`] puts into an invocation and
    /// of their descendants; else of what the tracer's own next fork begins.
    pub whole_host: bool,
    /// Be ready to kill: [`Probes::doom`].
    pub kills: bool,
    /// Log the kernel programs' diagnostics.
    pub log: bool,
}

/// Default of [`LoadOptions::max_processes`].
pub const DEFAULT_MAX_PROCESSES: u32 = 65_536;
/// Default of [`LoadOptions::ring_bytes`]: half a second of the machine's full fork rate.
pub const DEFAULT_RING_BYTES: u32 = 8 << 20;

/// What [`LoadOptions::max_processes`] may be.
pub const MAX_PROCESSES_RANGE: RangeInclusive<u32> = 16..=1 << 24;

/// Whether [`LoadOptions::ring_bytes`] may be so many.
#[must_use]
pub fn is_ring_size(bytes: u64) -> bool {
    bytes.is_power_of_two() && (4096..=1 << 30).contains(&bytes)
}

/// What the programs counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records that did not fit the ring, all kinds.
    pub dropped: u64,
    /// Those of [`RecordKind::Unreaped`] among them.
    pub dropped_unreaped: u64,
    /// Those of [`RecordKind::Fork`] among them.
    pub dropped_forks: u64,
    /// Updates of `PROCS` that failed, and events that the kernel did not run a program for.
    pub failed: u64,
    /// Processes that `PROCS` had no room for, which are among those.
    pub refused: u64,
    /// Processes seen to start: entered into `PROCS`, or refused for want of room.
    pub tracked: u64,
}

/// The attached programs.
pub struct Probes {
    ebpf: Ebpf,
    control: Array<MapData, ControlValue>,
    counters: Counters,
    procs: ProcsMap,
    ring: Option<RingBuf<MapData>>,
    ring_bytes: u32,
    /// Misses at attach: programs are entered from the moment they are attached.
    attached: bool,
    missed: u64,
    /// Of each vital hook.
    misses: Vec<Misses>,
    hooks: Vec<HookCheck>,
    doom: Doom,
    /// What outlives this process.
    pins: Option<Pins>,
}

/// What became of what an earlier daemon had left pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inheritance {
    /// There was nothing.
    None,
    /// It went on tracing meanwhile, and is taken over.
    TakenOver,
    /// It could not be used, for this reason, and was replaced.
    Replaced(String),
}

impl std::fmt::Debug for Probes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probes")
            .field("attached", &self.attached)
            .field("hooks", &self.hooks)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct OffsetsValue(Offsets);
#[derive(Clone, Copy)]
#[repr(transparent)]
struct SocketOffsetsValue(SocketOffsets);
#[derive(Clone, Copy)]
#[repr(transparent)]
struct SettingsValue(Settings);
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct ControlValue(Control);
#[derive(Clone, Copy)]
#[repr(transparent)]
struct FilterValue(MarkerFilter);
#[derive(Clone, Copy)]
#[repr(transparent)]
struct MarkerValue(MarkerName);

// SAFETY: repr(C), integers only, no padding.
unsafe impl Pod for OffsetsValue {}
// SAFETY: repr(C), integers only, no padding.
unsafe impl Pod for SocketOffsetsValue {}
// SAFETY: repr(C), integers only, no padding.
unsafe impl Pod for SettingsValue {}
// SAFETY: repr(C), integers only, no padding.
unsafe impl Pod for ControlValue {}
// SAFETY: repr(C), integers only, no padding.
unsafe impl Pod for FilterValue {}
// SAFETY: repr(C), integers only, no padding.
unsafe impl Pod for MarkerValue {}

impl Probes {
    /// Loads everything and attaches every hook.
    ///
    /// # Errors
    /// Privilege, BTF, a field, a map or a required hook is lacking. The optional hook is not.
    pub fn attach(options: LoadOptions<'_>) -> Result<Self, LoadError> {
        let (mut probes, btf) = Self::load(options, None)?;
        probes.attach_all(&btf, options)?;
        drop(btf);
        memory::give_back();
        Ok(probes)
    }

    /// The same, pinned below the folder `at` of a BPF file system so that the kernel goes on tracing
    /// when this process ends; or, where another has pinned it there that has ended, takes that over.
    ///
    /// # Errors
    /// As [`Probes::attach`]; nothing can be pinned there; another process uses it.
    pub fn attach_pinned(
        options: LoadOptions<'_>,
        at: &Path,
    ) -> Result<(Self, Inheritance), LoadError> {
        let (mut pins, found) = Pins::open(at)?;
        let unfit = match found {
            Found::Nothing => None,
            Found::Other(reason) => Some(reason),
            Found::Ours => match Self::unfit(&pins, options)? {
                None => {
                    Self::read_again(&pins, options.ring_bytes)?;
                    let (mut probes, btf) = Self::load(options, Some(&pins))?;
                    probes.load_snapshot(&btf)?;
                    let first = HOOKS.iter().map(|hook| hook.program);
                    pins.open_programs(first.chain(AGAIN.iter().flat_map(Again::all)))?;
                    probes.pins = Some(pins);
                    probes.open_misses()?;
                    probes.attached = true;
                    drop(btf);
                    memory::give_back();
                    return Ok((probes, Inheritance::TakenOver));
                }
                reason => reason,
            },
        };
        pins.begin_anew()?;
        let (mut probes, btf) = Self::load(options, Some(&pins))?;
        probes.pins = Some(pins);
        probes.attach_all(&btf, options)?;
        if let Some(pins) = &mut probes.pins {
            pins.complete()?;
        }
        drop(btf);
        memory::give_back();
        Ok((probes, unfit.map_or(Inheritance::None, Inheritance::Replaced)))
    }

    /// Removes what is pinned below this folder, so that nothing is left of tracer in the kernel. `false`:
    /// there was nothing.
    ///
    /// # Errors
    /// Another process uses it, or it cannot be removed.
    pub fn unpin(at: &Path) -> Result<bool, LoadError> {
        Ok(Pins::remove_all(at)?)
    }

    /// Why what is pinned cannot be taken over.
    fn unfit(pins: &Pins, options: LoadOptions<'_>) -> Result<Option<String>, LoadError> {
        let LoadOptions { max_processes, ring_bytes, markers, .. } = options;
        let again = AGAIN.iter().flat_map(Again::hooks).filter(|_| may_preempt_hooks());
        let programs = HOOKS.iter().map(|hook| hook.program).chain(again.map(|hook| hook.program));
        let programs: Vec<_> = programs.collect();
        if let Some(missing) = pins.missing(&SHARED, &programs) {
            return Ok(Some(format!("{missing} is not there")));
        }
        for (map, wanted) in [("PROCS", max_processes), ("RECORDS", ring_bytes)] {
            let entries = pins.max_entries(map)?;
            if entries != wanted {
                return Ok(Some(format!(
                    "{map} has room for {entries}, and {wanted} is asked for"
                )));
            }
        }
        let control = Self::pinned_control(pins)?;
        if control.pid_namespace != own_pid_namespace()? {
            return Ok(Some("it was pinned from another PID namespace".to_owned()));
        }
        if control.markers != digest(markers) {
            return Ok(Some("rules ask for other environment variables".to_owned()));
        }
        Ok(None)
    }

    fn pinned_control(pins: &Pins) -> Result<Control, LoadError> {
        let control = pins.map("CONTROL")?;
        let control = Array::<_, ControlValue>::try_from(Map::Array(control))
            .and_then(|control| control.get(&0, 0));
        let failed = |source| LoadError::Map { map: "CONTROL", source: Box::new(source) };
        let ControlValue(control) = control.map_err(failed)?;
        Ok(control)
    }

    /// Has the ring buffer tell once more what the daemon before had read and not dealt with.
    fn read_again(pins: &Pins, ring_bytes: u32) -> Result<(), LoadError> {
        let processed = Self::pinned_control(pins)?.processed;
        let ring = pins.map("RECORDS")?;
        match position::go_back(ring.fd().as_fd(), ring_bytes.into(), processed) {
            Ok(Some(bytes)) => log::debug!("{bytes} bytes of records are read again"),
            Ok(None) => {
                log::warn!("what the daemon before had read last is lost; the rest is in PROCS");
            }
            Err(error) => log::warn!("failed to read again what was read last: {error}"),
        }
        Ok(())
    }

    /// Notes up to where records have been dealt with: a place that a batch ends at.
    ///
    /// # Errors
    /// The kernel refuses the update.
    pub fn processed(&mut self, end: u64) -> Result<(), LoadError> {
        self.set_control(|before| Control { processed: end, ..before })
    }

    fn attach_all(&mut self, btf: &Btf, options: LoadOptions<'_>) -> Result<(), LoadError> {
        let probes = self;
        if options.whole_host {
            probes.prepare_snapshot(btf)?;
        }
        for hook in &HOOKS {
            probes.attach_tracepoint(hook, btf)?;
            probes.hooks.push(HookCheck {
                name: format!("tp_btf/{}", hook.tracepoint),
                outcome: Ok(()),
                required: true,
            });
        }
        if may_preempt_hooks() {
            for hook in AGAIN.iter().flat_map(Again::hooks) {
                probes.attach_tracepoint(&hook, btf)?;
            }
        }
        probes.attach_release(btf);
        probes.open_misses()?;
        probes.attached = true;
        if options.whole_host {
            probes.take_snapshot()?;
        }
        Ok(())
    }

    /// Tries every hook and tells which of them attach.
    ///
    /// # Errors
    /// What comes before any hook: BTF, maps.
    pub fn check(options: LoadOptions<'_>) -> Result<Vec<HookCheck>, LoadError> {
        let (mut probes, btf) = Self::load(options, None)?;
        for hook in &HOOKS {
            let outcome = probes.attach_tracepoint(hook, &btf);
            probes.hooks.push(HookCheck {
                name: format!("tp_btf/{}", hook.tracepoint),
                outcome: outcome.map_err(|error| error.to_string()),
                required: true,
            });
        }
        probes.attach_release(&btf);
        Ok(probes.hooks)
    }

    fn load(options: LoadOptions<'_>, pins: Option<&Pins>) -> Result<(Self, Btf), LoadError> {
        let LoadOptions { max_processes, ring_bytes, markers, whole_host, kills, log } = options;
        let (filter, names) = wanted_markers(markers)?;
        raise_memlock();
        let kernel = KernelBtf::of_running_kernel()?;
        let offsets = OffsetsValue(kernel.offsets()?);
        let socket_offsets =
            if whole_host { kernel.socket_offsets()? } else { SocketOffsets::default() };
        let exit = kernel.tracepoint_arguments("btf_trace_sched_process_exit")?;
        let oom = kernel.tracepoint_arguments("btf_trace_mark_victim")?;
        let settings = SettingsValue(Settings {
            pid_namespace: own_pid_namespace()?,
            tracer_pid: std::process::id(),
            exit_has_group_dead: u32::from(exit.len() > 1),
            oom_has_pid: u32::from(oom.first() == Some(&false)),
            hooks_repeat: u32::from(may_preempt_hooks()),
            log: u32::from(log),
            whole_host: u32::from(whole_host),
            reserved: 0,
        });
        let btf = Btf::parse(kernel.bytes(), Endianness::default()).map_err(LoadError::AyaBtf)?;
        let ready = kills.then(|| doom::with_kernel_function(OBJECT, &kernel));
        let (object, can_signal_children) = match &ready {
            Some((words, can)) => (bytes_of(words), *can),
            None => (OBJECT, false),
        };
        drop(kernel);
        let mut loader = EbpfLoader::new();
        if let Some(pins) = pins {
            for map in SHARED {
                loader.map_pin_path(map, pins.path(map));
            }
        }
        let mut ebpf = loader
            .btf(Some(&btf))
            .override_global("OFFSETS", &offsets, true)
            .override_global("SOCKET_OFFSETS", &SocketOffsetsValue(socket_offsets), true)
            .override_global("SETTINGS", &settings, true)
            .override_global("MARKER_FILTER", &FilterValue(filter), true)
            .map_max_entries("PROCS", max_processes)
            .map_max_entries("RECORDS", ring_bytes)
            .map_max_entries("FATES", if kills { max_processes } else { 1 })
            .load(object)
            .map_err(|error| LoadError::Object(Box::new(error)))?;
        let failed = |source| LoadError::Map { map: "MARKERS", source: Box::new(source) };
        let wanted = ebpf.map_mut("MARKERS").ok_or(LoadError::Missing("MARKERS"))?;
        let mut wanted = Array::try_from(wanted).map_err(failed)?;
        for (index, name) in (0..).zip(names) {
            wanted.set(index, MarkerValue(name), 0).map_err(failed)?;
        }
        let mut control = Array::try_from(take(&mut ebpf, "CONTROL")?)
            .map_err(|source| LoadError::Map { map: "CONTROL", source: Box::new(source) })?;
        note_for_successors(&mut control, markers)?;
        let counters = Counters::new(take(&mut ebpf, "COUNTS")?)
            .map_err(|source| LoadError::Map { map: "COUNTS", source: Box::new(source) })?;
        let ring = RingBuf::try_from(take(&mut ebpf, "RECORDS")?)
            .map_err(|source| LoadError::Map { map: "RECORDS", source: Box::new(source) })?;
        let procs = ProcsMap::new(take(&mut ebpf, "PROCS")?)
            .map_err(|source| LoadError::Map { map: "PROCS", source: Box::new(source) })?;
        let failed = |source| LoadError::Map { map: "FATES", source: Box::new(source) };
        let mut doom = Doom::new(take(&mut ebpf, "FATES")?, can_signal_children).map_err(failed)?;
        if kills {
            doom.load(&mut ebpf, &btf);
        }
        let probes = Self {
            ebpf,
            control,
            counters,
            procs,
            ring: Some(ring),
            ring_bytes,
            attached: false,
            missed: 0,
            misses: Vec::new(),
            hooks: Vec::new(),
            doom,
            pins: None,
        };
        Ok((probes, btf))
    }

    fn attach_tracepoint(&mut self, hook: &Hook, btf: &Btf) -> Result<(), LoadError> {
        let program: &mut BtfTracePoint = self
            .ebpf
            .program_mut(hook.program)
            .and_then(|program| program.try_into().ok())
            .ok_or(LoadError::Missing(hook.program))?;
        let attached = program.load(hook.tracepoint, btf).and_then(|()| program.attach());
        let link = attached.map_err(|error| LoadError::Hook {
            hook: hook.tracepoint,
            reason: reason(hook.tracepoint, error),
        })?;
        if let Some(pins) = &mut self.pins {
            let error = |source| LoadError::Hook {
                hook: hook.tracepoint,
                reason: reason(hook.tracepoint, source),
            };
            pins.add_link(hook.program, program.take_link(link).map_err(error)?.into())?;
            let path = pins.path(hook.program);
            program.pin(&path).map_err(|source| PinError::Pin { path, source })?;
        }
        Ok(())
    }

    fn attach_release(&mut self, btf: &Btf) {
        let program = self
            .ebpf
            .program_mut(RELEASE.program)
            .and_then(|program| <&mut FEntry>::try_from(program).ok());
        let outcome = match program {
            Some(program) => program
                .load(RELEASE.tracepoint, btf)
                .and_then(|()| program.attach())
                .and_then(|link| match &mut self.pins {
                    // Told as a hook that is not there, where it cannot be pinned.
                    Some(pins) => {
                        let link = program.take_link(link)?;
                        if let Err(error) = pins.add_link(RELEASE.program, link.into()) {
                            log::warn!("failed to {error}");
                        }
                        Ok(())
                    }
                    None => Ok(()),
                })
                .map_err(|error| reason(RELEASE.tracepoint, error)),
            None => Err(LoadError::Missing(RELEASE.program).to_string()),
        };
        if let Err(reason) = &outcome {
            log::debug!("fentry/{} does not attach: {reason}", RELEASE.tracepoint);
        }
        let name = format!("fentry/{}", RELEASE.tracepoint);
        self.hooks.push(HookCheck { name, outcome, required: false });
    }

    /// The object, for aya-log.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The ring buffer; the first call gets it.
    pub fn take_ring(&mut self) -> Option<RingBuf<MapData>> {
        self.ring.take()
    }

    /// How many bytes the ring buffer holds.
    #[must_use]
    pub fn ring_bytes(&self) -> u32 {
        self.ring_bytes
    }

    /// The map of all processes.
    #[must_use]
    pub fn procs(&self) -> &ProcsMap {
        &self.procs
    }

    /// Makes the tracer's next fork the root of invocation `number`.
    ///
    /// # Errors
    /// The kernel refuses the update.
    pub fn arm(&mut self, number: u32) -> Result<(), LoadError> {
        self.set_armed(number)
    }

    /// No fork came of it after all.
    ///
    /// # Errors
    /// The kernel refuses the update.
    pub fn disarm(&mut self) -> Result<(), LoadError> {
        self.set_armed(0)
    }

    fn set_armed(&mut self, armed: u32) -> Result<(), LoadError> {
        self.set_control(|before| Control { armed, ..before })
    }

    fn control(&self) -> Result<Control, LoadError> {
        let failed = |source| LoadError::Map { map: "CONTROL", source: Box::new(source) };
        let ControlValue(control) = self.control.get(&0, 0).map_err(failed)?;
        Ok(control)
    }

    fn set_control(&mut self, change: impl FnOnce(Control) -> Control) -> Result<(), LoadError> {
        let failed = |source| LoadError::Map { map: "CONTROL", source: Box::new(source) };
        let before = self.control()?;
        self.control.set(0, ControlValue(change(before)), 0).map_err(failed)
    }

    /// Decides what becomes of a process and of all that it forks from now on, also before user space
    /// knows of it. Tells how far the kernel side reaches.
    ///
    /// # Errors
    /// The kernel refuses the update.
    pub fn doom(&mut self, process: ProcessId, lot: Lot) -> Result<Reach, LoadError> {
        if !self.doom.is_ready() {
            // Not loaded for killing, or this kernel has nothing for it: user space is alone.
            return Ok(Reach::Nothing);
        }
        let decided = self.doom.decide(process, lot);
        decided.map_err(|source| LoadError::Map { map: "FATES", source: Box::new(source) })?;
        Ok(self.doom.attach(&mut self.ebpf))
    }

    /// The same for one who goes on alone where the kernel side refuses.
    pub(crate) fn decide(&mut self, process: ProcessId, lot: Lot) {
        match self.doom(process, lot) {
            Ok(reach) => log::debug!("{process:?} is {lot:?}; the kernel side: {reach:?}"),
            Err(error) => log::warn!("failed to {error}"),
        }
    }

    /// Whether the kernel side is ready to kill: [`LoadOptions::kills`], and it has a way to.
    pub(crate) fn may_kill(&self) -> bool {
        self.doom.is_ready()
    }

    /// Nobody is doomed any more: the kernel side forgets them all, and forks cost what they did before.
    pub(crate) fn spare_all(&mut self) {
        if let Err(error) = self.doom.rest(&mut self.ebpf) {
            log::warn!("failed to forget who was doomed: {error}");
        }
    }

    /// What was lost, as far as this daemon or one before it has made up for that: see [`Probes::make_up`].
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn made_up(&self) -> Result<Counts, LoadError> {
        let Control { dropped, dropped_unreaped, dropped_forks, failed, .. } = self.control()?;
        Ok(Counts { dropped, dropped_unreaped, dropped_forks, failed, ..Counts::default() })
    }

    /// Notes for the next daemon what has been made up for.
    ///
    /// # Errors
    /// The kernel refuses the update.
    pub fn make_up(&mut self, counts: Counts) -> Result<(), LoadError> {
        let Counts { dropped, dropped_unreaped, dropped_forks, failed, .. } = counts;
        self.set_control(|before| Control {
            dropped,
            dropped_unreaped,
            dropped_forks,
            failed,
            ..before
        })
    }

    /// What was counted so far.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn counts(&self) -> Result<Counts, LoadError> {
        let sums = self.counters.read().map_err(LoadError::Counters)?;
        let missed = if self.attached { self.lost_events(&sums)? } else { self.missed };
        Ok(Counts {
            dropped: RecordKind::ALL.into_iter().map(|kind| sums[kind as usize]).sum(),
            dropped_unreaped: sums[RecordKind::Unreaped as usize],
            dropped_forks: sums[RecordKind::Fork as usize],
            failed: sums[Counter::InsertFailed as usize]
                + sums[Counter::RemoveFailed as usize]
                + missed,
            refused: sums[Counter::InsertFailed as usize],
            tracked: sums[Counter::Tracked as usize] + sums[Counter::InsertFailed as usize],
        })
    }

    /// Opens the kernel's own count of what it did not run a program for.
    fn open_misses(&mut self) -> Result<(), LoadError> {
        for again in &AGAIN {
            let first = HOOKS.iter().find(|hook| hook.tracepoint == again.tracepoint);
            let Some(first) = first.and_then(|hook| self.fdinfo(hook.program)) else { continue };
            let further = again.programs.into_iter().filter_map(|program| self.fdinfo(program));
            let further = further.collect::<io::Result<Vec<_>>>();
            self.misses.push(Misses {
                first: first.map_err(LoadError::Missed)?,
                further: further.map_err(LoadError::Missed)?,
                made_up: again.made_up,
                left: again.left,
            });
        }
        Ok(())
    }

    /// The hooks' programs, to ask what they cost.
    ///
    /// # Errors
    /// The kernel's account of one cannot be opened.
    pub fn programs(&self) -> Result<Vec<LoadedProgram>, LoadError> {
        let again = AGAIN.iter().flat_map(Again::hooks);
        let names = HOOKS.iter().map(|hook| hook.program).chain(again.map(|hook| hook.program));
        let opened = names.chain([RELEASE.program]).filter_map(|name| {
            Some(self.fdinfo(name)?.map(|fdinfo| LoadedProgram { name, fdinfo }))
        });
        opened.collect::<io::Result<_>>().map_err(LoadError::Missed)
    }

    /// What the kernel says of a program that is loaded.
    fn fdinfo(&self, program: &str) -> Option<io::Result<File>> {
        let own = self.ebpf.program(program)?.fd();
        let Ok(own) = own else {
            // One that runs may be pinned, and not of this object.
            return self.pins.as_ref()?.fdinfo(program);
        };
        Some(File::open(format!("/proc/self/fdinfo/{}", own.as_fd().as_raw_fd())))
    }

    /// How many events the kernel may have run no program for.
    fn lost_events(&self, sums: &[u64; COUNTERS as usize]) -> Result<u64, LoadError> {
        let lost = self.misses.iter().map(|misses| misses.lost(sums));
        lost.sum::<io::Result<u64>>().map_err(LoadError::Missed)
    }

    /// Detaches every program. Records already in the ring stay readable, `PROCS` and the
    /// counters too.
    ///
    /// # Errors
    /// What was missed so far cannot be read.
    pub fn detach(&mut self) -> Result<(), LoadError> {
        if !std::mem::take(&mut self.attached) {
            return Ok(());
        }
        let sums = self.counters.read().map_err(LoadError::Counters)?;
        self.missed = self.lost_events(&sums)?;
        for (name, program) in self.ebpf.programs_mut() {
            // Dropping a program's links detaches it; one that never loaded has none.
            let unloaded = match program {
                aya::programs::Program::BtfTracePoint(program) => program.unload(),
                aya::programs::Program::FEntry(program) => program.unload(),
                _ => Ok(()),
            };
            match unloaded {
                Ok(()) | Err(ProgramError::NotLoaded) => {}
                Err(error) => log::warn!("failed to detach {name}: {error}"),
            }
        }
        Ok(())
    }
}

/// Notes in a map that may be pinned what the programs were told as constants.
fn note_for_successors(
    control: &mut Array<MapData, ControlValue>,
    markers: &[Vec<u8>],
) -> Result<(), LoadError> {
    let failed = |source| LoadError::Map { map: "CONTROL", source: Box::new(source) };
    let ControlValue(before) = control.get(&0, 0).map_err(failed)?;
    let pid_namespace = own_pid_namespace()?;
    let noted = Control { pid_namespace, markers: digest(markers), ..before };
    control.set(0, ControlValue(noted), 0).map_err(failed)
}

/// Of the names of variables, in any order.
fn digest(markers: &[Vec<u8>]) -> u64 {
    let mut names: Vec<_> = markers.iter().collect();
    names.sort_unstable();
    // Fixed, not seeded: the next daemon compares it.
    let mut first = crc32fast::Hasher::new();
    let mut second = crc32fast::Hasher::new_with_initial(!0);
    for name in names {
        for hasher in [&mut first, &mut second] {
            hasher.update(name);
            hasher.update(b"=");
        }
    }
    u64::from(first.finalize()) << 32 | u64::from(second.finalize())
}

/// Whether the hooks of tracepoints may be preempted: see the head of `tracer-ebpf/src/main.rs`. In
/// 6.18 they may not, in 7.2 they may. The kernel's types do not tell (`tracepoint_srcu` is a
/// variable); where it is not so, a second program costs a little time and does no harm.
fn may_preempt_hooks() -> bool {
    let release = rustix::system::uname();
    kernel_version(release.release().to_bytes()).is_none_or(|version| version > (6, 18))
}

/// Why a program was refused, in one line. The verifier's whole log, megabytes at worst, goes to
/// the debug log.
fn reason(hook: &str, error: ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            log::debug!("the verifier's log for {hook}:\n{log}");
            // The last lines are statistics; the reason stands before them.
            let is_statistic = |line: &&str| {
                ["verification time", "stack depth", "processed "]
                    .iter()
                    .any(|start| line.starts_with(start))
            };
            let last = log.lines().rfind(|line| !line.is_empty() && !is_statistic(line));
            match last {
                Some(last) => format!("{io_error}; the verifier says: {last}"),
                None => io_error.to_string(),
            }
        }
        error => format!("{}{}", chain(&error), advice(&error)),
    }
}

/// An error and its causes, each said once: some errors tell their cause themselves.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut said = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| (*cause).source()) {
        let text = cause.to_string();
        if !said.contains(&text) {
            said.push_str(": ");
            said.push_str(&text);
        }
    }
    said
}

/// What to do about an error that ends in one of these of the kernel's.
fn advice(error: &(dyn Error + 'static)) -> &'static str {
    let last = std::iter::successors(Some(error), |error| (*error).source())
        .find_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error());
    match last {
        Some(libc::ENOMEM | libc::E2BIG) => {
            "; lower --max-processes, or raise the memory limit of tracer's cgroup"
        }
        Some(libc::EMFILE) => "; raise the limit on open files: ulimit -n 1024",
        _ => "",
    }
}

/// The same memory, byte by byte.
fn bytes_of(words: &[u64]) -> &[u8] {
    // SAFETY: any byte of a u64 is initialised, and a byte has no alignment.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
    ebpf.take_map(name).ok_or(LoadError::Missing(name))
}

/// Inode number of the PID namespace that this process's children get and its `kill` speaks.
/// The names as the kernel side wants them.
fn wanted_markers(names: &[Vec<u8>]) -> Result<(MarkerFilter, Vec<MarkerName>), LoadError> {
    let mut filter = MarkerFilter::default();
    let most = usize::try_from(MARKER_NAMES).unwrap_or(usize::MAX);
    let wanted = names.iter().enumerate().map(|(index, name)| {
        let wanted = MarkerName::new(name).filter(|_| index < most && filter.admit(name));
        let shown = || String::from_utf8_lossy(name).into_owned();
        wanted.ok_or_else(|| LoadError::Marker { name: shown() })
    });
    let wanted = wanted.collect::<Result<_, _>>()?;
    Ok((filter, wanted))
}

fn own_pid_namespace() -> Result<u32, LoadError> {
    let inode = fs::metadata("/proc/self/ns/pid").map_err(LoadError::Namespace)?.ino();
    u32::try_from(inode)
        .map_err(|_| LoadError::Namespace(io::Error::other("inode number above 32 bits")))
}

/// Below 5.11 maps count against `RLIMIT_MEMLOCK` (rlimit-based accounting was replaced by memory
/// cgroups in v5.11); later the limit is not looked at, and raising it may be refused in peace.
fn raise_memlock() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    if let Err(error) = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }) {
        log::debug!("failed to raise RLIMIT_MEMLOCK: {error}");
    }
}
