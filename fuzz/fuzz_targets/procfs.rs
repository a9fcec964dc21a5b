//! Any bytes as any file of procfs: refused, or parsed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer::procfs;

fuzz_target!(|bytes: &[u8]| {
    let _ = procfs::parse_stat(bytes);
    let _ = procfs::parse_status(bytes);
    let _ = procfs::parse_syscall(bytes);
    let _ = procfs::parse_fdinfo(bytes);
    let _ = procfs::kernel_version(bytes);
    let _ = procfs::bracketed(bytes);
    if let Ok(cgroups) = procfs::parse_cgroup(bytes) {
        let _ = procfs::telling_path(&cgroups);
    }
    for mount in procfs::parse_mountinfo(bytes).into_iter().flatten() {
        let _ = (mount.is_remote(), mount.describe(), mount.covers(bytes));
    }
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let _ = procfs::parse_inet_line(number, line);
        let _ = procfs::parse_unix_line(number, line);
    }
});
