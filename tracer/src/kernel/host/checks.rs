//! The verdict on each answer, without touching the host.

use rustix::io::Errno;

use super::{BTF, Check, CheckStatus, Host, OLDEST_KERNEL};
use crate::escape;
use crate::procfs::{Mount, kernel_version};

/// Inode number of the initial PID namespace (`PROC_PID_INIT_INO`, `include/linux/proc_ns.h`).
pub(super) const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// Inode number of the initial user namespace (`PROC_USER_INIT_INO`).
pub(super) const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Least memory that a cgroup should grant: maps and ring buffer, which the kernel accounts to
/// the loader, and tracer itself, with room for COMMAND.
const COMFORTABLE_MEMORY: u64 = 128 << 20;

/// The first kernel with `cgroup.kill`.
const CGROUP_KILL: (u32, u32) = (5, 14);

/// Numbers of include/uapi/linux/capability.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Capability {
    SysPtrace = 19,
    SysAdmin = 21,
    SysResource = 24,
    Perfmon = 38,
    Bpf = 39,
}

impl Capability {
    fn name(self) -> &'static str {
        match self {
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysResource => "CAP_SYS_RESOURCE",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }
}

/// Every check, required ones first.
pub(super) fn all(host: &Host) -> Vec<Check> {
    let mut checks = vec![kernel(host), procfs(host), user_namespace(host)];
    checks.extend([Capability::Bpf, Capability::Perfmon].map(|cap| needed(host, cap)));
    checks.extend(locked_memory(host));
    checks.extend([btf(host), lockdown(host)]);
    checks.extend([
        evidence_of_others(host),
        pid_namespace(host),
        init(host),
        hidden_processes(host),
        cgroup(host),
        memory(host),
        tracefs(host),
    ]);
    checks
}

fn kernel(host: &Host) -> Check {
    let name = "kernel";
    let release = escape::terminal(&host.release);
    let (major, minor) = OLDEST_KERNEL;
    match kernel_version(&host.release) {
        Some(version) if version < OLDEST_KERNEL => Check::lack(
            name,
            format!("{release} is older than {major}.{minor}"),
            format!("boot kernel {major}.{minor} or newer (`uname -r` shows the running one)"),
        ),
        Some(_) => Check::ok(name, release),
        None => Check::note(name, format!("{release} is no version that tracer can read")),
    }
}

/// Whether `/proc` speaks of the PID namespace that tracer lives in. `NSpid` lists a process's
/// pids from the namespace of the mount downwards, so in one's own it has a single entry.
fn procfs(host: &Host) -> Check {
    let name = "procfs";
    let remedy = "mount the one of this PID namespace: mount -t proc proc /proc";
    match &host.status {
        None => Check::lack(name, "nothing at /proc about this process", remedy),
        Some(status) => match status.namespace_pids.as_slice() {
            [] => Check::ok(name, "/proc"),
            [pid] if *pid == host.pid => Check::ok(name, "/proc, of this PID namespace"),
            _ => Check::lack(name, "/proc belongs to another PID namespace", remedy),
        },
    }
}

/// `bpf()` counts capabilities of the initial user namespace only (`bpf_capable`).
fn user_namespace(host: &Host) -> Check {
    let name = "user namespace";
    match host.user_namespace {
        Some(INITIAL_USER_NAMESPACE) => Check::ok(name, "the initial one"),
        None => Check::note(name, "not known"),
        Some(_) => Check::lack(
            name,
            "not the initial one, so that the kernel does not let its root load BPF programs",
            "run tracer outside of it: as the host's root, or in a container without user \
             namespace (not rootless, no --userns)",
        ),
    }
}

fn holds(host: &Host, capability: Capability) -> Option<bool> {
    let mask = host.status.as_ref()?.capabilities?;
    Some(mask >> (capability as u32) & 1 == 1)
}

fn is_root(host: &Host) -> bool {
    host.status.as_ref().is_some_and(|status| status.effective_uid == Some(0))
}

/// What gives a process its capabilities: sudo, or, where root lacks them, its container.
fn grant(host: &Host) -> String {
    let resource = kernel_version(&host.release).is_some_and(|version| version < (5, 11));
    if is_root(host) {
        let resource = if resource { " --cap-add SYS_RESOURCE" } else { "" };
        format!(
            "start its container with --cap-add BPF --cap-add PERFMON --cap-add SYS_PTRACE\
             {resource}, or --privileged"
        )
    } else {
        let resource = if resource { ",cap_sys_resource" } else { "" };
        format!(
            "run it as root: sudo tracer run -- COMMAND (or once: sudo setcap \
             cap_bpf,cap_perfmon,cap_sys_ptrace{resource}+ep \"$(command -v tracer)\")"
        )
    }
}

/// A capability without which no program loads. `CAP_SYS_ADMIN` contains both.
fn needed(host: &Host, capability: Capability) -> Check {
    let name = capability.name();
    match (holds(host, capability), holds(host, Capability::SysAdmin)) {
        (Some(true), _) => Check::ok(name, "held"),
        (Some(false), Some(true)) => Check::ok(name, "not held, CAP_SYS_ADMIN stands for it"),
        (Some(false), _) => Check::lack(name, "not held", grant(host)),
        (None, _) => Check::note(name, "not known"),
    }
}

/// Without it procfs keeps to itself what other users' processes hold.
fn evidence_of_others(host: &Host) -> Check {
    let name = Capability::SysPtrace.name();
    match holds(host, Capability::SysPtrace) {
        Some(true) => Check::ok(name, "held"),
        Some(false) => Check::note(name, "not held, no evidence of other users' processes")
            .with_remedy(grant(host)),
        None => Check::note(name, "not known"),
    }
}

/// Before 5.11 maps count against `RLIMIT_MEMLOCK`, which only `CAP_SYS_RESOURCE` may raise; from
/// then on against the memory cgroup.
fn locked_memory(host: &Host) -> Option<Check> {
    let name = Capability::SysResource.name();
    let counts = kernel_version(&host.release).is_some_and(|version| version < (5, 11));
    if !counts {
        return None;
    }
    Some(match (host.memlock, holds(host, Capability::SysResource)) {
        (None, _) => Check::ok(name, "not needed: no limit on locked memory"),
        (_, Some(true)) => Check::ok(name, "held"),
        (Some(limit), Some(false)) => Check::lack(
            name,
            format!("not held, and below 5.11 locked memory is limited ({})", bytes(limit)),
            format!("{}, or lift the limit first: ulimit -l unlimited", grant(host)),
        ),
        (Some(_), None) => Check::note(name, "not known"),
    })
}

fn btf(host: &Host) -> Check {
    let name = "BTF";
    match host.btf {
        Ok(size) => Check::ok(name, format!("{BTF} ({})", bytes(size))),
        Err(Errno::NOENT) => Check::lack(
            name,
            format!("no {BTF}"),
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, as distributions' are, and mount \
             sysfs: mount -t sysfs sysfs /sys",
        ),
        Err(error) => Check::lack(name, format!("{BTF}: {error}"), "make it readable"),
    }
}

/// In confidentiality mode the kernel refuses `bpf_probe_read_kernel` (`LOCKDOWN_BPF_READ_KERNEL`
/// in include/linux/security.h). The mode in force stands in brackets.
fn lockdown(host: &Host) -> Check {
    let name = "lockdown";
    match &host.lockdown {
        Ok(modes) => {
            let mode = modes
                .split(u8::is_ascii_whitespace)
                .find_map(|mode| mode.strip_prefix(b"[")?.strip_suffix(b"]"));
            match mode {
                Some(b"confidentiality") => Check::lack(
                    name,
                    "confidentiality mode forbids BPF to read kernel memory",
                    "boot with lockdown=integrity or without lockdown (kernel command line; \
                     secure boot may force it)",
                ),
                Some(mode) => Check::ok(name, escape::terminal(mode)),
                None => Check::note(name, "not known"),
            }
        }
        Err(Errno::NOENT) => Check::ok(name, "none that /sys/kernel/security shows"),
        Err(_) => Check::note(name, "not known: may not be read"),
    }
}

fn pid_namespace(host: &Host) -> Check {
    let name = "PID namespace";
    match host.pid_namespace {
        Some(INITIAL_PID_NAMESPACE) => Check::ok(name, "the initial one"),
        Some(inode) => Check::note(
            name,
            format!(
                "a container's ({inode}): processes outside of it are followed but have no \
                 evidence, and pids are this container's"
            ),
        ),
        None => Check::note(name, "not known"),
    }
}

/// Programs that are made to be PID 1 and reap what they adopt.
const INITS: [&[u8]; 17] = [
    b"systemd",
    b"init",
    b"tini",
    b"tini-static",
    b"docker-init",
    b"podman-init",
    b"dumb-init",
    b"catatonit",
    b"runit",
    b"runit-init",
    b"s6-svscan",
    b"s6-linux-init",
    b"openrc-init",
    b"dinit",
    b"pause",
    b"conmon",
    b"tracer",
];

fn init(host: &Host) -> Check {
    let name = "PID 1";
    let Some(init) = &host.init else {
        return if host.pid == 1 {
            Check::ok(name, "tracer itself, which reaps")
        } else {
            Check::note(name, "not known")
        };
    };
    let shown = escape::terminal(&init.name);
    let program = init.exe.as_deref().and_then(|exe| exe.rsplit(|byte| *byte == b'/').next());
    let known = |name: &[u8]| INITS.contains(&name);
    if known(&init.name) || program.is_some_and(known) {
        Check::ok(name, shown)
    } else {
        Check::note(
            name,
            format!(
                "{shown} is no init that tracer knows: it may reap orphans late or never, and \
                 is then reported for it"
            ),
        )
    }
}

/// `hidepid` hides other users' processes from whoever may not trace them.
fn hidden_processes(host: &Host) -> Check {
    let name = "hidepid";
    let options = host
        .mounts
        .iter()
        .rfind(|mount| mount.mount_point == b"/proc")
        .map_or(&b""[..], |mount| &mount.super_options);
    let hidden = options
        .split(|byte| *byte == b',')
        .filter_map(|option| option.strip_prefix(b"hidepid="))
        .any(|value| !matches!(value, b"0" | b"off"));
    match (hidden, holds(host, Capability::SysPtrace)) {
        (false, _) => Check::ok(name, "off"),
        (true, Some(true)) => Check::ok(name, "on, CAP_SYS_PTRACE sees through it"),
        (true, _) => Check::note(name, "on: other users' processes have no evidence")
            .with_remedy("grant CAP_SYS_PTRACE, or: mount -o remount,hidepid=0 /proc"),
    }
}

/// The cgroup v2 mount, if any.
pub(super) fn unified_cgroup(mounts: &[Mount]) -> Option<&Mount> {
    mounts.iter().rfind(|mount| mount.fs_type == b"cgroup2")
}

fn cgroup(host: &Host) -> Check {
    let name = "cgroup v2";
    let Some(mount) = unified_cgroup(&host.mounts) else {
        return Check::note(
            name,
            "not mounted: processes are named without their cgroup's id, and --cgroup has no effect",
        );
    };
    let point = escape::terminal(&mount.mount_point);
    let hybrid = if host.mounts.iter().any(|mount| mount.fs_type == b"cgroup") {
        ", hybrid: controllers are in v1"
    } else {
        ""
    };
    if !host.cgroup_writable {
        let found = format!("{point} (read-only to this process{hybrid}): --cgroup has no effect");
        return Check::ok(name, found);
    }
    let kills = kernel_version(&host.release).is_none_or(|version| version >= CGROUP_KILL);
    let kill = if kills { "" } else { ", without cgroup.kill (Linux 5.14)" };
    Check::ok(name, format!("{point} (writable{hybrid}): --cgroup works{kill}"))
}

fn memory(host: &Host) -> Check {
    let name = "memory";
    match host.memory_limits.iter().min_by_key(|limit| limit.bytes) {
        None => Check::ok(name, "no limit by a cgroup"),
        Some(limit) => {
            let text =
                format!("{} by cgroup {}", bytes(limit.bytes), escape::terminal(&limit.cgroup));
            if limit.bytes < COMFORTABLE_MEMORY {
                let text = format!("{text}: tracer's maps count against it, beside COMMAND");
                Check::note(name, text)
            } else {
                Check::ok(name, text)
            }
        }
    }
}

fn tracefs(host: &Host) -> Check {
    let name = "tracefs";
    match host.mounts.iter().find(|mount| mount.fs_type == b"tracefs") {
        Some(mount) => Check::ok(name, escape::terminal(&mount.mount_point)),
        None => Check { status: CheckStatus::Ok, ..Check::note(name, "not mounted, not needed") },
    }
}

/// `5.5 MB`.
fn bytes(count: u64) -> String {
    let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    match units.into_iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => {
            let tenths = count / (unit / 10);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{count} B"),
    }
}
