//! The `COUNTS` map: what the kernel programs count, summed over all CPUs.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{
    maps::{Map, MapData, MapError},
    util::nr_cpus,
};
use tracer_common::COUNTERS;

/// `BPF_MAP_LOOKUP_ELEM` of `include/uapi/linux/bpf.h`.
const LOOKUP_ELEM: libc::c_long = 1;

/// The map. Read without a descriptor more: aya's own type opens a file of `/sys` for each value,
/// to know how many CPUs there are.
#[derive(Debug)]
pub(super) struct Counters {
    /// Kept, because programs name it by its descriptor until they are loaded.
    map: MapData,
    /// CPUs that the kernel could ever have: so many values stand behind each key.
    cpus: usize,
}

/// `union bpf_attr`, the part for single elements.
#[repr(C)]
struct ElemAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Counters {
    pub(super) fn new(map: Map) -> Result<Self, MapError> {
        let Map::PerCpuArray(map) = map else {
            return Err(MapError::IoError(io::ErrorKind::InvalidInput.into()));
        };
        let cpus = nr_cpus().map_err(|(_, error)| MapError::IoError(error))?;
        Ok(Self { map, cpus })
    }

    /// Every counter, by its number.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn read(&self) -> io::Result<[u64; COUNTERS as usize]> {
        let mut sums = [0; COUNTERS as usize];
        let mut values = vec![0_u64; self.cpus];
        for (key, sum) in (0..COUNTERS).zip(&mut sums) {
            let attr = ElemAttr {
                map_fd: u32::try_from(self.map.fd().as_fd().as_raw_fd()).unwrap_or(u32::MAX),
                padding: 0,
                key: (&raw const key) as u64,
                value: values.as_mut_ptr() as u64,
                flags: 0,
            };
            // SAFETY: a key of the map's size, room for a value of 8 bytes for every possible CPU,
            // both alive during the call; the attribute's size is told.
            let result = unsafe {
                libc::syscall(libc::SYS_bpf, LOOKUP_ELEM, &raw const attr, size_of::<ElemAttr>())
            };
            if result < 0 {
                return Err(io::Error::last_os_error());
            }
            *sum = values.iter().sum();
        }
        Ok(sums)
    }
}
