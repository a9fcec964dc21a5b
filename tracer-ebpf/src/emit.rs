//! The way out: records into the ring buffer, and the counters of what did not fit.

use core::mem::size_of;

use aya_ebpf::{
    helpers::{bpf_ktime_get_boot_ns, generated::bpf_probe_read_user},
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use tracer_common::{
    COUNTERS, Counter, ExecRecord, Header, MAX_ARGS, MAX_EXE, RECORD_VERSION, RecordKind,
};

use crate::{
    environment::Scan,
    procs,
    task::{Group, setting},
};

/// The notification: what changed, in order. User space sets its size at load.
#[map]
static RECORDS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// See [`Counter`].
#[map]
static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);

/// Room to build an [`ExecRecord`] with its strings in: the stack has 512 bytes. One a CPU is
/// enough: a program is not entered again on the same CPU while it runs (`prog->active`).
#[map]
static EXEC_SCRATCH: PerCpuArray<ExecScratch> = PerCpuArray::with_max_entries(1, 0);

/// An exec record being built. `strings` is longer than its use, so that the verifier sees a
/// bound that holds for every length it believes possible.
#[repr(C)]
pub(crate) struct ExecScratch {
    pub(crate) record: ExecRecord,
    pub(crate) strings: [u8; STRINGS],
    /// Behind what is sent.
    pub(crate) scan: Scan,
}

const STRINGS: usize = 4 * MAX_ARGS;

/// Now, in the clock of every record.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: no argument, no failure.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Adds one to a counter: the drops of a kind of record, or a [`Counter`].
#[inline(always)]
fn count(counter: u32) {
    let Some(value) = COUNTS.get_ptr_mut(counter) else { return };
    if setting!(hooks_repeat) == 0 {
        // SAFETY: this CPU's own slot of the map, and no other program runs here meanwhile.
        unsafe { *value += 1 };
    } else {
        // SAFETY: a value of the map, aligned.
        unsafe { procs::atomic_add_wide(value, 1) };
    }
}

/// Adds one to a [`Counter`].
#[inline(always)]
pub(crate) fn count_of(counter: Counter) {
    count(counter as u32);
}

/// A header for `kind` about `group`.
#[inline(always)]
pub(crate) fn header(kind: RecordKind, group: Group, at: u64, flags: u16) -> Header {
    Header {
        kind: kind as u8,
        version: RECORD_VERSION,
        flags,
        pid: group.pid,
        start: group.start,
        at,
    }
}

/// Sends a record of fixed size, or counts it as dropped.
///
/// Wakes the reader only if it has read everything else ("adaptive notification",
/// `Documentation/bpf/ringbuf.rst`), so a reader that sleeps between two reads is woken once.
#[inline(always)]
pub(crate) fn send<R: 'static>(kind: RecordKind, record: R) {
    match RECORDS.reserve::<R>(0) {
        Some(mut slot) => {
            slot.write(record);
            slot.submit(0);
        }
        None => count(kind as u32),
    }
}

/// This CPU's scratch.
#[inline(always)]
pub(crate) fn exec_scratch() -> Option<*mut ExecScratch> {
    EXEC_SCRATCH.get_ptr_mut(0)
}

/// Copies `len` bytes of the current address space behind `exe_len` bytes of the scratch's
/// strings.
///
/// # Safety
/// `scratch` came from [`exec_scratch`] in the same program.
#[inline(always)]
pub(crate) unsafe fn read_arguments(
    scratch: *mut ExecScratch,
    exe_len: usize,
    from: u64,
    len: usize,
) -> bool {
    let exe_len = bounded::<{ 2 * MAX_EXE - 1 }>(exe_len);
    let len = bounded::<{ 2 * MAX_ARGS - 1 }>(len);
    // SAFETY: `exe_len + len` is below STRINGS, and the helper checks the source.
    unsafe {
        let to = (&raw mut (*scratch).strings).cast::<u8>().add(exe_len);
        bpf_probe_read_user(to.cast(), len as u32, from as *const _) == 0
    }
}

/// Sends the scratch with `strings` bytes of its strings, or counts it as dropped.
///
/// # Safety
/// `scratch` came from [`exec_scratch`] in the same program, and its record is filled.
#[inline(always)]
pub(crate) unsafe fn send_exec(scratch: *mut ExecScratch, strings: usize) {
    let len = size_of::<ExecRecord>() + bounded::<{ 4 * MAX_ARGS - 1 }>(strings);
    // SAFETY: STRINGS is the bound's, so `len` bytes lie within the scratch.
    let bytes = unsafe { core::slice::from_raw_parts(scratch.cast::<u8>(), len) };
    if RECORDS.output::<[u8]>(bytes, 0).is_err() {
        count(RecordKind::Exec as u32);
    }
}

/// `value & MASK`, where the mask is one less than a power of two.
///
/// In assembly, because LLVM drops a mask that it can prove redundant and then leaves the
/// verifier, which cannot prove it, without a bound.
#[inline(always)]
pub(crate) fn bounded<const MASK: usize>(value: usize) -> usize {
    let mut value = value;
    // SAFETY: one arithmetic instruction.
    unsafe {
        core::arch::asm!(
            "{value} &= {mask}",
            value = inout(reg) value,
            mask = const MASK,
            options(pure, nomem, nostack),
        );
    }
    value
}
