//! Marker variables of the environment at exec: those of agents and tool calls, by exact name.
//!
//! Nothing else of an environment is kept or sent on: it holds secrets. Each variable is copied into
//! the scratch to be looked at, behind the strings that the record has so far, and the next one
//! overwrites it there unless it is a marker.

use core::ptr;

use aya_ebpf::{
    helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user_str},
    macros::map,
    maps::Array,
};
use tracer_common::{
    MARKER_NAME_LEN, MARKER_NAMES, MAX_ARGS, MAX_MARKER, MAX_MARKERS, MAX_VARIABLES, MarkerFilter,
    MarkerName,
};

use crate::{
    emit::{self, ExecScratch, bounded},
    task::constant,
};

/// What to look for. User space fills it before the programs are attached.
#[map]
static MARKERS: Array<MarkerName> = Array::with_max_entries(MARKER_NAMES, 0);

/// Which variables are looked up in [`MARKERS`]; set at load. All zero: none.
#[unsafe(no_mangle)]
static MARKER_FILTER: MarkerFilter = MarkerFilter { bits: [0; 4] };

/// Most bytes that are read at once. A longer variable is read in several goes.
const READ: usize = 4096;

/// How far the look at an environment has come.
#[repr(C)]
pub(crate) struct Scan {
    /// Bytes of strings that the record has so far.
    strings: u64,
    /// Bytes of markers among them.
    markers: u64,
    /// 1 where what comes next is the rest of a variable.
    is_rest: u32,
    /// 1 where a marker was left out.
    truncated: u32,
}

/// What was found.
pub(crate) struct Markers {
    /// Their bytes.
    pub(crate) len: usize,
    /// There may be more.
    pub(crate) truncated: bool,
}

/// Copies the markers between `from` and `to` of the current address space behind `strings` bytes
/// of the scratch's strings.
///
/// # Safety
/// `scratch` came from [`emit::exec_scratch`] in the same program.
#[inline(always)]
pub(crate) unsafe fn scan(
    scratch: *mut ExecScratch,
    strings: usize,
    from: u64,
    to: u64,
) -> Markers {
    // SAFETY: the scratch is this program's own.
    let scan = unsafe { &raw mut (*scratch).scan };
    // SAFETY: the same. Written field by field, see `procs::Blank`.
    unsafe {
        ptr::write_volatile(&raw mut (*scan).strings, strings as u64);
        ptr::write_volatile(&raw mut (*scan).markers, 0);
        ptr::write_volatile(&raw mut (*scan).is_rest, 0);
        ptr::write_volatile(&raw mut (*scan).truncated, 0);
    }
    let mut at = from;
    let mut seen = 0;
    while seen < MAX_VARIABLES && at < to {
        let len = tracer_scan_variable(at);
        if len == 0 {
            break;
        }
        at = at.wrapping_add(len);
        seen += 1;
    }
    // SAFETY: the same.
    let (len, truncated) = unsafe {
        (
            ptr::read_volatile(&raw const (*scan).markers),
            ptr::read_volatile(&raw const (*scan).truncated),
        )
    };
    Markers { len: len as usize, truncated: truncated != 0 || at < to }
}

/// Looks at the variable at this address; returns how many bytes to go on from there, 0 if it cannot
/// be read. A global function: the verifier checks it once instead of 256 times.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tracer_scan_variable(at: u64) -> u64 {
    let Some(scratch) = emit::exec_scratch() else { return 0 };
    // SAFETY: the scratch is this program's own.
    let scan = unsafe { &raw mut (*scratch).scan };
    // SAFETY: the same.
    let (strings, markers, is_rest) = unsafe {
        (
            ptr::read_volatile(&raw const (*scan).strings) as usize,
            ptr::read_volatile(&raw const (*scan).markers) as usize,
            ptr::read_volatile(&raw const (*scan).is_rest),
        )
    };
    // SAFETY: below half of the strings' room, of which READ is a quarter.
    let place = unsafe {
        (&raw mut (*scratch).strings).cast::<u8>().add(bounded::<{ 2 * MAX_ARGS - 1 }>(strings))
    };
    // SAFETY: `place` has room for READ bytes, and the helper checks the source.
    let len = unsafe { bpf_probe_read_user_str(place.cast(), READ as u32, at as *const _) };
    if len <= 0 {
        return 0;
    }
    let len = len as usize;
    let is_cut = len >= READ;
    // SAFETY: the scratch is this program's own.
    unsafe { ptr::write_volatile(&raw mut (*scan).is_rest, u32::from(is_cut)) };
    // Cut or not: what stands at the end is a NUL that the helper may have put there.
    let step = if is_cut { READ as u64 - 1 } else { len as u64 };
    if is_rest != 0 {
        return step;
    }
    // SAFETY: READ bytes lie there; bytes of an earlier use behind `len` harm nobody.
    let first = unsafe { place.cast::<u32>().read_unaligned() };
    let (word, bit) = MarkerFilter::place(first);
    if filter(word) & bit == 0 || !is_marker(place) {
        return step;
    }
    let fits = len <= MAX_MARKER && markers + len <= MAX_MARKERS;
    // SAFETY: the scratch is this program's own.
    unsafe {
        if fits {
            ptr::write_volatile(&raw mut (*scan).strings, (strings + len) as u64);
            ptr::write_volatile(&raw mut (*scan).markers, (markers + len) as u64);
        } else {
            ptr::write_volatile(&raw mut (*scan).truncated, 1);
        }
    }
    step
}

/// A word of [`MARKER_FILTER`]. By branches: the verifier wants constant places in read-only data.
#[inline(always)]
fn filter(word: u32) -> u64 {
    let bits = &MARKER_FILTER.bits;
    match word {
        0 => constant(&bits[0]),
        1 => constant(&bits[1]),
        2 => constant(&bits[2]),
        _ => constant(&bits[3]),
    }
}

/// Whether the variable at this place of the scratch has the name of a marker.
#[inline(always)]
fn is_marker(place: *const u8) -> bool {
    const WORDS: usize = MARKER_NAME_LEN / 8;
    let mut name = [0_u64; WORDS];
    // SAFETY: READ bytes lie there, more than that.
    unsafe {
        bpf_probe_read_kernel(name.as_mut_ptr().cast(), MARKER_NAME_LEN as u32, place.cast());
    }
    let mut index = 0;
    while index < MARKER_NAMES {
        let Some(wanted) = MARKERS.get(index) else { return false };
        if wanted.mask[0] == 0 {
            return false;
        }
        let mut differs = 0;
        let mut word = 0;
        while word < WORDS {
            differs |= (name[word] ^ wanted.name[word]) & wanted.mask[word];
            word += 1;
        }
        if differs == 0 {
            return true;
        }
        index += 1;
    }
    false
}
