//! A server of the FUSE protocol (`include/uapi/linux/fuse.h`), written out by hand: one file, of which
//! no read is ever answered.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;

use rustix::event::{PollFd, PollFlags, poll};
use serde_json::Value;
use tracer_tests::{facts, sys};

use crate::args::Args;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

const ROOT: u64 = 1;
const FILE: u64 = 2;
/// `FOPEN_DIRECT_IO`: who reads waits for the server itself, not for a page.
const DIRECT: u32 = 1;
/// The version of the protocol that is spoken.
const VERSION: (u32, u32) = (7, 31);
/// Larger than any request of this kernel: `FUSE_MIN_READ_BUFFER` is 8 KiB.
const REQUEST: usize = 1 << 20;

/// Mounts at `at`, says `mounted` or why not, then `asked` for each request to read. Unmounts and ends at
/// the end of standard input.
pub(crate) fn answers_no_reads(args: &Args) -> i32 {
    // Its life is bounded by its standard input.
    sys::unbound_life();
    let at = args.get("at").expect("at=FOLDER");
    let mut device = match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(device) => device,
        Err(error) => {
            println!("/dev/fuse: {error}");
            return 1;
        }
    };
    if let Err(error) = mount(&device, at) {
        println!("mount: {error}");
        return 1;
    }
    println!("mounted");
    let input = std::io::stdin();
    let mut request = vec![0; REQUEST];
    loop {
        let mut wanted = [PollFd::new(&input, PollFlags::IN), PollFd::new(&device, PollFlags::IN)];
        match poll(&mut wanted, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.expect("poll"),
        };
        if !wanted[0].revents().is_empty() {
            break;
        }
        // ENODEV: somebody has given up the connection.
        let Ok(length) = device.read(&mut request) else { break };
        if let Some(answer) = answer(&request[..length]) {
            // Who asked may have been killed meanwhile.
            let _answered = device.write(&answer);
        }
    }
    sys::detach_mount(at);
    0
}

fn mount(device: &File, at: &str) -> std::io::Result<()> {
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let text = |text: &str| CString::new(text).expect("no NUL");
    let (source, at, kind, options) = (text("silent"), text(at), text("fuse"), text(&options));
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    // SAFETY: NUL-terminated strings, alive here.
    let mounted = unsafe {
        libc::mount(source.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast())
    };
    if mounted == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// `struct fuse_in_header`: length, opcode, unique, nodeid, ...
fn answer(request: &[u8]) -> Option<Vec<u8>> {
    let node = u64::from_ne_bytes(request[16..24].try_into().expect("eight bytes"));
    let body = match number(request, 4) {
        INIT => Ok(init(number(request, 44))),
        LOOKUP if request[40..].starts_with(b"file\0") => Ok(entry()),
        LOOKUP => Err(libc::ENOENT),
        GETATTR => Ok([vec![0; 16], attributes(node)].concat()),
        // `struct fuse_open_out`: a handle of two words, flags.
        OPEN => Ok([0, 0, DIRECT, 0].map(u32::to_ne_bytes).concat()),
        READ => {
            println!("asked");
            return None;
        }
        FORGET | INTERRUPT | BATCH_FORGET => return None,
        _ => Err(libc::ENOSYS),
    };
    let (body, error) = match body {
        Ok(body) => (body, 0),
        Err(error) => (Vec::new(), -error),
    };
    let length = u32::try_from(16 + body.len()).expect("answers are short");
    let mut answer = length.to_ne_bytes().to_vec();
    answer.extend(error.to_ne_bytes());
    answer.extend(&request[8..16]);
    answer.extend(body);
    Some(answer)
}

/// `struct fuse_init_out`. `minor`: what the kernel speaks.
fn init(minor: u32) -> Vec<u8> {
    let mut out = vec![0; 64];
    out[..4].copy_from_slice(&VERSION.0.to_ne_bytes());
    out[4..8].copy_from_slice(&VERSION.1.min(minor).to_ne_bytes());
    // max_write
    out[20..24].copy_from_slice(&4096_u32.to_ne_bytes());
    out
}

/// `struct fuse_entry_out` of the file: a node, a generation, four times of validity, attributes.
fn entry() -> Vec<u8> {
    let mut out = FILE.to_ne_bytes().to_vec();
    out.resize(40, 0);
    out.extend(attributes(FILE));
    out
}

/// `struct fuse_attr`.
fn attributes(node: u64) -> Vec<u8> {
    let mode = if node == ROOT { libc::S_IFDIR | 0o755 } else { libc::S_IFREG | 0o644 };
    let mut out = vec![0; 88];
    out[..8].copy_from_slice(&node.to_ne_bytes());
    out[8..16].copy_from_slice(&4096_u64.to_ne_bytes());
    out[60..64].copy_from_slice(&mode.to_ne_bytes());
    // nlink
    out[64..68].copy_from_slice(&1_u32.to_ne_bytes());
    out
}

/// Leaves a process of which each of `threads=N` threads reads `file`. Holds at `standing`.
pub(crate) fn reads(args: &Args) -> i32 {
    let path = args.get("file").expect("file=PATH");
    let threads = args.number("threads").unwrap_or(1);
    sys::fork(|| {
        sys::detach_streams();
        facts::tell("reader", &Value::Null);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut file =
                        File::open(path).unwrap_or_else(|error| panic!("{path}: {error}"));
                    // An error once the connection is given up.
                    let _read = file.read(&mut [0; 16]);
                });
            }
        });
        0
    });
    facts::until_told("reader");
    facts::hold("standing");
    0
}
