//! Killing, as far as the kernel side does it: see `tracer-ebpf/src/doom.rs`.

use aya::{
    Btf, Ebpf, Pod,
    maps::{HashMap, MapData, MapError},
    programs::{
        BtfTracePoint, FEntry, ProgramError, fentry::FEntryLinkId, tp_btf::BtfTracePointLinkId,
    },
};
use tracer_common::{CALL_SEND_SIGNAL_TASK, FATE_DOOMED, FATE_KEPT, Fate};

use super::btf::KernelBtf;
use crate::lineage::{Lot, ProcessId};

/// How far the kernel side reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// It does nothing: user space is alone.
    Nothing,
    /// The forker gets its signal when the child is there already.
    Forker,
    /// The fork of a doomed process fails.
    Fork,
    /// The child of a doomed process is dead before it runs.
    Child,
}

const FORK: (&str, &str) = ("tracer_doom_fork", "sched_process_fork");
const CLONE: (&str, &str) = ("tracer_doom_clone", "kernel_clone");
/// The kernel function that signals any task, 6.13+ (`kernel/trace/bpf_trace.c`).
const SEND_SIGNAL_TASK: &str = "bpf_send_signal_task";

#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct FateValue(Fate);
// SAFETY: repr(C), integers only, no padding.
unsafe impl Pod for FateValue {}

/// The map of fates, and what of the programs can be had.
pub(super) struct Doom {
    fates: HashMap<MapData, u32, FateValue>,
    can_signal_children: bool,
    loaded: Vec<&'static str>,
    /// How far it reaches; `None`: it is not attached.
    reach: Option<Reach>,
    fork: Option<BtfTracePointLinkId>,
    clone: Option<FEntryLinkId>,
}

impl Doom {
    pub(super) fn new(map: aya::maps::Map, can_signal_children: bool) -> Result<Self, MapError> {
        let fates = HashMap::try_from(map)?;
        Ok(Self {
            fates,
            can_signal_children,
            loaded: Vec::new(),
            reach: None,
            fork: None,
            clone: None,
        })
    }

    /// Loads what this kernel takes of the programs. None of them is needed.
    pub(super) fn load(&mut self, ebpf: &mut Ebpf, btf: &Btf) {
        let forks = load(ebpf, FORK.0, |program: &mut BtfTracePoint| program.load(FORK.1, btf));
        let clones = load(ebpf, CLONE.0, |program: &mut FEntry| program.load(CLONE.1, btf));
        self.loaded.extend(forks.then_some(FORK.0));
        self.loaded.extend(clones.then_some(CLONE.0));
    }

    /// Whether anything of it was loaded: else there is nobody to decide for.
    pub(super) fn is_ready(&self) -> bool {
        !self.loaded.is_empty()
    }

    /// Attaches the programs, unless they are; tells how far they reach.
    pub(super) fn attach(&mut self, ebpf: &mut Ebpf) -> Reach {
        if let Some(reach) = self.reach {
            return reach;
        }
        let has = |name| self.loaded.contains(&name);
        let (fork, clone) = (&mut self.fork, &mut self.clone);
        let forks = has(FORK.0)
            && with(ebpf, FORK.0, |program: &mut BtfTracePoint| {
                *fork = Some(program.attach()?);
                Ok(())
            });
        let clones = has(CLONE.0)
            && with(ebpf, CLONE.0, |program: &mut FEntry| {
                *clone = Some(program.attach()?);
                Ok(())
            });
        let reach = match (forks, clones) {
            (true, _) if self.can_signal_children => Reach::Child,
            (_, true) => Reach::Fork,
            (true, false) => Reach::Forker,
            (false, false) => Reach::Nothing,
        };
        log::debug!("the kernel side reaches: {reach:?}");
        self.reach = Some(reach);
        reach
    }

    /// Detaches the programs and forgets everybody.
    pub(super) fn rest(&mut self, ebpf: &mut Ebpf) -> Result<(), MapError> {
        if self.reach.take().is_none() {
            return Ok(());
        }
        if let Some(link) = self.fork.take() {
            with(ebpf, FORK.0, |program: &mut BtfTracePoint| program.detach(link));
        }
        if let Some(link) = self.clone.take() {
            with(ebpf, CLONE.0, |program: &mut FEntry| program.detach(link));
        }
        // Nobody adds to it any more.
        for pid in self.fates.keys().collect::<Result<Vec<_>, _>>()? {
            self.fates.remove(&pid)?;
        }
        Ok(())
    }

    /// Decides what becomes of a process and of all that it forks from now on.
    pub(super) fn decide(&mut self, id: ProcessId, lot: Lot) -> Result<(), MapError> {
        let fate = match lot {
            Lot::Kept => FATE_KEPT,
            Lot::Doomed => FATE_DOOMED,
        };
        self.fates.insert(id.pid, FateValue(Fate { start: id.start, fate, reserved: 0 }), 0)
    }
}

fn load<'e, P>(
    ebpf: &'e mut Ebpf,
    name: &str,
    load: impl FnOnce(&mut P) -> Result<(), ProgramError>,
) -> bool
where
    &'e mut P: TryFrom<&'e mut aya::programs::Program, Error = ProgramError>,
    P: 'e,
{
    with(ebpf, name, load)
}

/// Does something with a program; `false`, with a line in the debug log: it cannot be done.
fn with<'e, P>(
    ebpf: &'e mut Ebpf,
    name: &str,
    act: impl FnOnce(&mut P) -> Result<(), ProgramError>,
) -> bool
where
    &'e mut P: TryFrom<&'e mut aya::programs::Program, Error = ProgramError>,
    P: 'e,
{
    let Some(program) = ebpf.program_mut(name).and_then(|program| program.try_into().ok()) else {
        log::error!("no program {name} in the kernel object");
        return false;
    };
    let done = act(program);
    if let Err(error) = &done {
        log::debug!("{name} is not to be had: {error}");
    }
    done.is_ok()
}

/// The object with the call of `bpf_send_signal_task()` in its place, or an instruction that fails
/// where this kernel has none; and whether it has.
///
/// The instruction is BPF's (`Documentation/bpf/standardization/instruction-set.rst`): a call by BTF
/// id, the source register 2 (`BPF_PSEUDO_KFUNC_CALL`), in the place of a call of a helper.
pub(super) fn with_kernel_function(object: &[u8], kernel: &KernelBtf) -> (Vec<u64>, bool) {
    const CALL: u8 = 0x85;
    const CALL_BY_BTF_ID: u8 = 0x20;
    /// `r0 = -1`
    const FAILS: u64 = u64::from_ne_bytes([0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    let instruction = |second: u8, immediate: u32| {
        let [a, b, c, d] = immediate.to_ne_bytes();
        u64::from_ne_bytes([CALL, second, 0, 0, a, b, c, d])
    };
    let function = kernel.function(SEND_SIGNAL_TASK);
    let wanted = instruction(0, CALL_SEND_SIGNAL_TASK);
    let call = function.map_or(FAILS, |id| instruction(CALL_BY_BTF_ID, id));
    // Instructions are aligned in the file as they are in memory.
    let words = object.chunks(8).map(|bytes| {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(bytes) {
            *to = *from;
        }
        match u64::from_ne_bytes(word) {
            word if word == wanted => call,
            word => word,
        }
    });
    (words.collect(), function.is_some())
}
