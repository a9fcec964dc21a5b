//! Inside of the virtual machine: the first process, which makes the kernel's file systems
//! available, has the suite run by a child, and switches the machine off.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use rustix::{
    fs::OFlags,
    mount::{MountFlags, mount},
    process::{Pid, WaitOptions, wait},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};

/// Where the image has the suite.
pub(crate) const SUITE: &str = "/suite.json";

/// Where the image has a module for loop devices, if it has one.
pub(crate) const LOOP_MODULE: &str = "/loop.ko";

/// Programs are looked for here, in the guest and when its image is made.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The serial line that qemu hands to the host as its standard output.
const RESULTS: &str = "/dev/ttyS1";

/// The file systems that the tests and tracer look into: type, place.
const MOUNTS: [(&str, &str); 9] = [
    ("devtmpfs", "/dev"),
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/run"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("bpf", "/sys/fs/bpf"),
    ("tracefs", "/sys/kernel/tracing"),
];

/// The directories of [`MOUNTS`] that no other file system brings.
pub(crate) const PLACES: [&str; 7] = ["/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/var/tmp"];

/// Is the first process of the guest. Returns only when it cannot even switch off.
pub(crate) fn main() -> Result<()> {
    if let Err(error) = prepare().and_then(|()| serve()) {
        // The console; the host shows its end when a suite has not come to its own.
        eprintln!("xtask in the guest: {error:#}");
    }
    switch_off()
}

fn prepare() -> Result<()> {
    for (kind, place) in MOUNTS {
        // Some places are directories that the file system before has to make.
        let made = fs::create_dir_all(place);
        let mounted = mount(kind, place, kind, MountFlags::empty(), None);
        if let Err(error) = made.and(mounted.map_err(io::Error::from)) {
            // An older kernel may lack one: what needs it says so itself.
            eprintln!("xtask in the guest: no {kind} at {place}: {error}");
        }
    }
    for (link, target) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        std::os::unix::fs::symlink(target, Path::new("/dev").join(link)).context(link)?;
    }
    // Children of the root group may then have limits of their own.
    if let Err(error) = fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory +pids") {
        eprintln!("xtask in the guest: no control of memory: {error}");
    }
    if Path::new(LOOP_MODULE).exists()
        && let Err(error) = load_module(Path::new(LOOP_MODULE))
    {
        eprintln!("xtask in the guest: no loop devices: {error}");
    }
    bring_loopback_up().context("cannot bring up the loopback interface")
}

/// Runs the suite, and reaps what is left to the first process meanwhile.
fn serve() -> Result<()> {
    let results = File::options().write(true).open(RESULTS).context(RESULTS)?;
    make_raw(&results)?;
    let xtask = std::env::current_exe().context("/proc/self/exe")?;
    let suite = Command::new(xtask)
        .args(["run-suite", SUITE])
        .env_clear()
        .envs([("PATH", PATH), ("HOME", "/root"), ("TERM", "dumb"), ("LANG", "C.UTF-8")])
        .stdin(Stdio::null())
        .stdout(results)
        .spawn()
        .context("cannot start the suite")?;
    let suite = i32::try_from(suite.id()).ok().and_then(Pid::from_raw).context("no pid")?;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((dead, _))) if dead == suite => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait"),
        }
    }
}

/// Bytes leave the line as they are.
fn make_raw(line: &File) -> Result<()> {
    let mut settings = tcgetattr(line).context("tcgetattr")?;
    settings.make_raw();
    tcsetattr(line, OptionalActions::Now, &settings).context("tcsetattr")
}

/// `finit_module(2)`: the kernel decompresses the module itself where it is compressed.
fn load_module(path: &Path) -> io::Result<()> {
    /// `MODULE_INIT_COMPRESSED_FILE` of `linux/module.h`.
    const COMPRESSED: libc::c_int = 4;
    let module = File::open(path)?;
    let magic = fs::read(path)?;
    let flags = if magic.starts_with(b"\x7fELF") { 0 } else { COMPRESSED };
    // SAFETY: an open descriptor, a NUL-terminated string of parameters, and flags.
    let loaded =
        unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), c"".as_ptr(), flags) };
    if loaded == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `ip link set lo up`, without ip.
fn bring_loopback_up() -> Result<()> {
    let socket: OwnedFd = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: ifreq is plain data for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    let up = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING)?;
    request.ifr_ifru.ifru_flags = up;
    // SAFETY: an open socket and a valid request, which the call only reads.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}

fn switch_off() -> Result<()> {
    // Everything told has left: the line is drained when it is closed.
    if let Ok(results) = rustix::fs::open(RESULTS, OFlags::WRONLY, rustix::fs::Mode::empty()) {
        let _drained = rustix::termios::tcdrain(results);
    }
    rustix::system::reboot(rustix::system::RebootCommand::PowerOff).context("cannot switch off")
}
