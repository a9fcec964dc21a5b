//! The kernel's own lists of BPF programs, maps and links, through bpf(2): what is loaded, whoever
//! holds it.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;

use crate::proc;
use crate::sys::Pid;

/// A kind of BPF object that has ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A program.
    Program,
    /// A map.
    Map,
    /// A link: a program's attachment.
    Link,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Program, Self::Map, Self::Link];

    /// Commands of bpf(2), `enum bpf_cmd` in `linux/bpf.h`: next id, descriptor by id.
    fn commands(self) -> (libc::c_long, libc::c_long) {
        match self {
            Self::Program => (11, 13),
            Self::Map => (12, 14),
            Self::Link => (31, 30),
        }
    }

    fn fdinfo_key(self) -> &'static str {
        match self {
            Self::Program => "prog_id:",
            Self::Map => "map_id:",
            Self::Link => "link_id:",
        }
    }
}

const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// Ids of all objects of a kind that the kernel has.
#[must_use]
pub fn ids(kind: Kind) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut attr = Attr::default();
    // start_id, next_id
    while bpf(kind.commands().0, &mut attr).is_ok() {
        found.insert(attr.words[1]);
        attr = Attr::default();
        attr.words[0] = found.last().copied().unwrap_or(0);
    }
    found
}

/// Name of a program; `None` when it is gone.
#[must_use]
pub fn program_name(id: u32) -> Option<String> {
    let info = program_info(&open(Kind::Program, id)?).ok()?;
    let name = &info[64..80];
    let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    Some(String::from_utf8_lossy(&name[..length]).into_owned())
}

/// How often and for how long a program ran, while [`count_runs`] was on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Times it ran.
    pub count: u64,
    /// Time in it, ns, and a part of what it takes to read the clock around it.
    pub nanos: u64,
}

/// What a program ran so far; `None` when it is gone.
#[must_use]
pub fn runs(id: u32) -> Option<Runs> {
    let info = program_info(&open(Kind::Program, id)?).ok()?;
    Some(Runs { nanos: number(&info, 192), count: number(&info, 200) })
}

/// Has the kernel count the runs of every program while this descriptor is open: the statistics
/// of `kernel.bpf_stats_enabled`, without anything to put back.
///
/// # Errors
/// Privilege is lacking, or the kernel is older than 5.8.
pub fn count_runs() -> io::Result<OwnedFd> {
    const ENABLE_STATS: libc::c_long = 32;
    // type: BPF_STATS_RUN_TIME is 0.
    let fd = bpf(ENABLE_STATS, &mut Attr::default())?;
    // SAFETY: the call has just opened this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A program that does nothing, attached as tracer's are: what the statistics say of it is what
/// they cost themselves.
#[derive(Debug)]
pub struct EmptyProgram {
    program: OwnedFd,
    _link: OwnedFd,
}

impl EmptyProgram {
    /// Loads it and attaches it to a tracepoint as a raw one.
    ///
    /// # Errors
    /// Privilege is lacking, or there is no such tracepoint.
    pub fn attach(tracepoint: &str) -> io::Result<Self> {
        const PROG_LOAD: libc::c_long = 5;
        const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
        const PROG_TYPE_RAW_TRACEPOINT: u32 = 17;
        // r0 = 0; exit
        let instructions: [u64; 2] = [0xb7, 0x95];
        let license = c"GPL";
        let mut attr = Attr::default();
        attr.words[0] = PROG_TYPE_RAW_TRACEPOINT;
        attr.words[1] = 2;
        attr.words[2..4].copy_from_slice(&split(instructions.as_ptr() as u64));
        attr.words[4..6].copy_from_slice(&split(license.as_ptr() as u64));
        let program = bpf(PROG_LOAD, &mut attr)?;
        // SAFETY: the call has just opened this descriptor for us.
        let program = unsafe { OwnedFd::from_raw_fd(program) };
        let name = CString::new(tracepoint)?;
        let mut attr = Attr::default();
        attr.words[..2].copy_from_slice(&split(name.as_ptr() as u64));
        attr.words[2] = program.as_raw_fd().cast_unsigned();
        let link = bpf(RAW_TRACEPOINT_OPEN, &mut attr)?;
        // SAFETY: the call has just opened this descriptor for us.
        let link = unsafe { OwnedFd::from_raw_fd(link) };
        Ok(Self { program, _link: link })
    }

    /// What it ran so far.
    ///
    /// # Errors
    /// The kernel refuses to say.
    pub fn runs(&self) -> io::Result<Runs> {
        let info = program_info(&self.program)?;
        Ok(Runs { nanos: number(&info, 192), count: number(&info, 200) })
    }
}

/// `struct bpf_prog_info` up to `run_cnt`: type, id, tag, two lengths, two pointers, `load_time`,
/// uid, number of maps, pointer, name at 64; `run_time_ns` at 192, `run_cnt` at 200.
fn program_info(program: &OwnedFd) -> io::Result<[u8; 208]> {
    let mut info = [0_u8; 208];
    let [low, high] = split(info.as_mut_ptr() as u64);
    let mut attr = Attr::default();
    attr.words[0] = program.as_raw_fd().cast_unsigned();
    attr.words[1] = 208;
    attr.words[2] = low;
    attr.words[3] = high;
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

fn number(info: &[u8; 208], at: usize) -> u64 {
    u64::from_ne_bytes(std::array::from_fn(|byte| info[at + byte]))
}

/// Whether the kernel still has this object.
#[must_use]
pub fn exists(kind: Kind, id: u32) -> bool {
    open(kind, id).is_some()
}

/// Ids of the objects of a kind that this process holds open.
#[must_use]
pub fn held_by(pid: Pid, kind: Kind) -> BTreeSet<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts.filter_map(|text| id_in(&text, kind)).collect()
}

/// Ids of everything that this process holds in the kernel.
#[must_use]
pub fn all_held_by(pid: Pid) -> Vec<(Kind, u32)> {
    let of = |kind| held_by(pid, kind).into_iter().map(move |id| (kind, id));
    Kind::ALL.into_iter().flat_map(of).collect()
}

/// These are what a tracer at work has in the kernel.
#[track_caller]
pub fn expect_loaded(objects: &[(Kind, u32)]) {
    let of = |wanted| objects.iter().filter(move |(kind, _)| *kind == wanted).map(|(_, id)| *id);
    let named = of(Kind::Program).filter_map(program_name);
    assert!(named.filter(|name| name.starts_with("tracer_")).count() > 0, "{objects:?}");
    for kind in Kind::ALL {
        assert!(of(kind).count() > 0, "tracer holds no {kind:?}: {objects:?}");
    }
}

/// Waits until the kernel has let go of these.
#[track_caller]
pub fn expect_gone(objects: &[(Kind, u32)]) {
    for &(kind, id) in objects {
        // The kernel frees them some time after the last descriptor is closed.
        let gone = || (!exists(kind, id)).then_some(());
        proc::until(&format!("the end of {kind:?} {id}"), gone);
    }
}

/// Whether a pinned map whose keys are words has this one.
///
/// # Errors
/// It cannot be opened or read.
pub fn has_key(pinned: &Path, key: u32) -> io::Result<bool> {
    Ok(value(pinned, key)?.is_some())
}

/// What a pinned map whose keys are words has for this one.
///
/// # Errors
/// It cannot be opened or read.
pub fn value(pinned: &Path, key: u32) -> io::Result<Option<Vec<u8>>> {
    let map = open_pinned(pinned)?;
    let mut value = vec![0_u8; MOST];
    let mut attr = element(&map, &key, value.as_mut_ptr() as u64);
    match bpf(MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives it this value, of which as much is taken as one has.
///
/// # Errors
/// It cannot be opened or written.
pub fn put(pinned: &Path, key: u32, value: &[u8]) -> io::Result<()> {
    let map = open_pinned(pinned)?;
    let mut whole = vec![0_u8; MOST];
    whole[..value.len()].copy_from_slice(value);
    bpf(MAP_UPDATE_ELEM, &mut element(&map, &key, whole.as_ptr() as u64)).map(drop)
}

/// More than any value of tracer's.
const MOST: usize = 4096;

fn open_pinned(pinned: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pinned.as_os_str().as_bytes())?;
    let mut attr = Attr::default();
    [attr.words[0], attr.words[1]] = split(path.as_ptr() as u64);
    let fd = bpf(OBJ_GET, &mut attr)?;
    // SAFETY: the call has just opened this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What commands about an element are told: the map, the key, the value.
fn element(map: &OwnedFd, key: &u32, value: u64) -> Attr {
    let mut attr = Attr::default();
    attr.words[0] = map.as_raw_fd().cast_unsigned();
    [attr.words[2], attr.words[3]] = split(ptr::from_ref(key) as u64);
    [attr.words[4], attr.words[5]] = split(value);
    attr
}

fn id_in(fdinfo: &str, kind: Kind) -> Option<u32> {
    // A link's text also names its program; it is no program for that.
    let is_link = fdinfo.contains(Kind::Link.fdinfo_key());
    let line = fdinfo.lines().find_map(|line| line.strip_prefix(kind.fdinfo_key()))?;
    (is_link == (kind == Kind::Link)).then(|| line.trim().parse().ok())?
}

fn open(kind: Kind, id: u32) -> Option<OwnedFd> {
    let mut attr = Attr::default();
    attr.words[0] = id;
    let fd = bpf(kind.commands().1, &mut attr).ok()?;
    // SAFETY: the call has just opened this descriptor for us.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `union bpf_attr`, as far as the commands here use it, in words of 32 bits.
#[repr(C, align(8))]
#[derive(Default)]
struct Attr {
    words: [u32; 32],
}

fn bpf(command: libc::c_long, attr: &mut Attr) -> io::Result<i32> {
    // SAFETY: attr is a valid attribute union of the given size, zero beyond what is set.
    let made = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<Attr>()) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::try_from(made).expect("bpf(2) returns 32 bits"))
}

fn split(address: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = address.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}
