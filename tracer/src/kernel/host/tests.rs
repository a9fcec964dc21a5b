//! The verdict on hosts that lack one thing each.

use super::checks::{INITIAL_PID_NAMESPACE, INITIAL_USER_NAMESPACE};
use super::*;

const ROOT: u64 = 0x1ff_ffff_ffff;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_RESOURCE: u64 = 1 << 24;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

fn good() -> Host {
    Host {
        release: b"6.12.1-amd64".to_vec(),
        btf: Ok(5_515_236),
        lockdown: Ok(b"[none] integrity confidentiality\n".to_vec()),
        status: Some(Status {
            effective_uid: Some(0),
            namespace_pids: vec![4711],
            capabilities: Some(ROOT),
            ..Status::default()
        }),
        pid: 4711,
        mounts: mounts(
            "1 0 0:1 / /proc rw - proc proc rw\n2 0 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
             3 0 0:3 / /sys/kernel/tracing rw - tracefs tracefs rw\n",
        ),
        user_namespace: Some(INITIAL_USER_NAMESPACE),
        pid_namespace: Some(INITIAL_PID_NAMESPACE),
        init: Some(Init { name: b"systemd".to_vec(), exe: None }),
        cgroup_writable: true,
        memory_limits: Vec::new(),
        memlock: Some(8 << 20),
    }
}

fn mounts(text: &str) -> Vec<Mount> {
    parse_mountinfo(text.as_bytes()).unwrap()
}

fn with_capabilities(mut host: Host, mask: u64, uid: u32) -> Host {
    let status = host.status.as_mut().unwrap();
    status.capabilities = Some(mask);
    status.effective_uid = Some(uid);
    host
}

/// What is not as it should be.
fn wrong(host: &Host) -> Vec<Check> {
    host.checks().into_iter().filter(|check| check.status != CheckStatus::Ok).collect()
}

/// The only check that is not as it should be: name, status and all its text.
fn only(host: &Host) -> (String, CheckStatus, String) {
    let wrong = wrong(host);
    assert_eq!(wrong.len(), 1, "{wrong:#?}");
    (wrong[0].name.clone(), wrong[0].status, wrong[0].sentence())
}

#[test]
fn nothing_is_wrong_with_a_good_host() {
    assert_eq!(wrong(&good()), []);
    let found: Vec<_> =
        good().checks().into_iter().map(|check| (check.name, check.found)).collect();
    let found = |name: &str| found.iter().find(|(one, _)| one == name).unwrap().1.clone();
    assert_eq!(found("BTF"), "/sys/kernel/btf/vmlinux (5.5 MB)");
    assert_eq!(found("cgroup v2"), "/sys/fs/cgroup (writable): --cgroup works");
    assert_eq!(found("kernel"), "6.12.1-amd64");
}

#[test]
fn a_kernel_may_be_too_old() {
    for (release, old) in [("5.9.16", true), ("4.18.0-553.el8", true), ("5.10.0-28", false)] {
        let mut host = good();
        host.release = release.as_bytes().to_vec();
        let lacks = wrong(&host).iter().any(|check| check.name == "kernel");
        assert_eq!(lacks, old, "{release}");
    }
}

#[test]
fn a_user_is_told_to_use_sudo_and_a_container_s_root_is_not() {
    let user = with_capabilities(good(), 0, 1000);
    let lacking: Vec<_> =
        wrong(&user).into_iter().map(|check| (check.name, check.status)).collect();
    assert_eq!(
        lacking,
        [
            ("CAP_BPF".to_owned(), CheckStatus::Lack),
            ("CAP_PERFMON".to_owned(), CheckStatus::Lack),
            ("CAP_SYS_PTRACE".to_owned(), CheckStatus::Note),
        ]
    );
    assert_eq!(
        wrong(&user)[0].sentence(),
        "CAP_BPF: not held; run it as root: sudo tracer run -- COMMAND (or once: sudo setcap \
         cap_bpf,cap_perfmon,cap_sys_ptrace+ep \"$(command -v tracer)\")"
    );
    let root = with_capabilities(good(), ROOT & !BPF & !SYS_ADMIN, 0);
    let (name, _, text) = only(&root);
    assert_eq!(name, "CAP_BPF");
    assert!(text.contains("--cap-add BPF") && !text.contains("sudo"), "{text}");
}

#[test]
fn cap_sys_admin_stands_for_the_newer_capabilities() {
    let host = with_capabilities(good(), ROOT & !BPF & !PERFMON, 0);
    assert_eq!(wrong(&host), []);
    let host = with_capabilities(good(), ROOT & !SYS_ADMIN, 0);
    assert_eq!(wrong(&host), []);
}

#[test]
fn evidence_of_others_is_good_to_have_only() {
    let host = with_capabilities(good(), ROOT & !SYS_PTRACE, 0);
    let (name, status, text) = only(&host);
    assert_eq!((name.as_str(), status), ("CAP_SYS_PTRACE", CheckStatus::Note));
    assert!(text.contains("no evidence of other users' processes"), "{text}");
}

#[test]
fn locked_memory_counts_only_below_5_11() {
    let mut host = with_capabilities(good(), ROOT & !SYS_RESOURCE, 0);
    assert_eq!(wrong(&host), []);
    host.release = b"5.10.0-28-amd64".to_vec();
    let (name, status, text) = only(&host);
    assert_eq!((name.as_str(), status), ("CAP_SYS_RESOURCE", CheckStatus::Lack));
    assert!(text.contains("8.3 MB") && text.contains("ulimit -l unlimited"), "{text}");
    host.memlock = None;
    assert_eq!(wrong(&host), []);
}

#[test]
fn root_of_a_user_namespace_is_no_root() {
    let mut host = good();
    host.user_namespace = Some(4_026_532_000);
    let (name, status, _) = only(&host);
    assert_eq!((name.as_str(), status), ("user namespace", CheckStatus::Lack));
}

#[test]
fn a_foreign_procfs_is_told_from_none_and_from_the_own() {
    let mut host = good();
    host.status.as_mut().unwrap().namespace_pids = vec![4711, 1];
    let (name, _, text) = only(&host);
    assert_eq!(name, "procfs");
    assert!(text.contains("another PID namespace") && text.contains("mount -t proc"), "{text}");
    host.status = None;
    let check = wrong(&host).into_iter().find(|check| check.name == "procfs").unwrap();
    assert_eq!(check.status, CheckStatus::Lack);
}

#[test]
fn only_confidentiality_locks_out() {
    for (text, name) in [
        ("none [integrity] confidentiality", None),
        ("none integrity [confidentiality]", Some("lockdown")),
    ] {
        let mut host = good();
        host.lockdown = Ok(text.as_bytes().to_vec());
        assert_eq!(wrong(&host).first().map(|check| check.name.as_str()), name);
    }
    let mut host = good();
    host.lockdown = Err(Errno::NOENT);
    assert_eq!(wrong(&host), []);
    host.lockdown = Err(Errno::ACCESS);
    assert_eq!(only(&host).1, CheckStatus::Note);
}

#[test]
fn without_btf_nothing_can_be_traced() {
    let mut host = good();
    host.btf = Err(Errno::NOENT);
    let (name, status, text) = only(&host);
    assert_eq!((name.as_str(), status), ("BTF", CheckStatus::Lack));
    assert!(text.contains("CONFIG_DEBUG_INFO_BTF"), "{text}");
}

#[test]
fn what_tracer_can_do_without_is_only_noted() {
    let mut host = good();
    host.pid_namespace = Some(4_026_532_000);
    assert_eq!(only(&host).1, CheckStatus::Note);

    let mut host = good();
    host.init = Some(Init { name: b"my\x1bapp".to_vec(), exe: Some(b"/srv/my app".to_vec()) });
    let (name, status, text) = only(&host);
    assert_eq!((name.as_str(), status), ("PID 1", CheckStatus::Note));
    assert!(!text.contains('\x1b'), "{text}");
    host.init = Some(Init { name: b"sh".to_vec(), exe: Some(b"/sbin/docker-init".to_vec()) });
    assert_eq!(wrong(&host), []);
    host.init = None;
    host.pid = 1;
    host.status.as_mut().unwrap().namespace_pids = vec![1];
    assert_eq!(wrong(&host), []);

    let mut host = good();
    host.mounts = mounts("1 0 0:1 / /proc rw - proc proc rw\n");
    assert_eq!(only(&host).0, "cgroup v2");

    let mut host = good();
    host.memory_limits = vec![
        MemoryLimit { cgroup: b"/a".to_vec(), bytes: 1 << 40 },
        MemoryLimit { cgroup: b"/a/b".to_vec(), bytes: 64 << 20 },
    ];
    let (name, status, text) = only(&host);
    assert_eq!((name.as_str(), status), ("memory", CheckStatus::Note));
    assert!(text.contains("67.1 MB by cgroup /a/b"), "{text}");
}

#[test]
fn what_becomes_of_a_cgroup_of_ones_own_is_told() {
    let told = |host: &Host| {
        let check = host.checks().into_iter().find(|check| check.name == "cgroup v2");
        check.expect("it is looked at").found
    };
    let mut host = good();
    host.release = b"5.10.0-28-amd64".to_vec();
    assert_eq!(
        told(&host),
        "/sys/fs/cgroup (writable): --cgroup works, without cgroup.kill (Linux 5.14)"
    );
    host.cgroup_writable = false;
    assert_eq!(told(&host), "/sys/fs/cgroup (read-only to this process): --cgroup has no effect");
    host.mounts = mounts("1 0 0:1 / /proc rw - proc proc rw\n");
    assert!(told(&host).contains("--cgroup has no effect"), "{}", told(&host));
}

#[test]
fn hidepid_hides_nothing_from_cap_sys_ptrace() {
    let mut host = good();
    host.mounts.extend(mounts("9 0 0:1 / /proc rw - proc proc rw,hidepid=invisible\n"));
    assert_eq!(wrong(&host), []);
    let host = with_capabilities(host, ROOT & !SYS_PTRACE, 0);
    assert!(wrong(&host).iter().any(|check| check.name == "hidepid"));
}

#[test]
fn a_hook_counts_as_it_is_required() {
    let hook = |outcome: Result<(), &str>, required| {
        let outcome = outcome.map_err(str::to_owned);
        Check::from(HookCheck { name: "tp_btf/x".to_owned(), outcome, required }).status
    };
    assert_eq!(hook(Ok(()), true), CheckStatus::Ok);
    assert_eq!(hook(Err("no such tracepoint"), true), CheckStatus::Lack);
    assert_eq!(hook(Err("no such function"), false), CheckStatus::Note);
}

#[test]
fn memory_limits_are_found_from_the_own_cgroup_upwards() {
    let root = tempfile::TempDir::new().unwrap();
    let at = |name: &str| root.path().join(name);
    std::fs::create_dir_all(at("job/step")).unwrap();
    std::fs::write(at("memory.max"), "max\n").unwrap();
    std::fs::write(at("job/memory.max"), "1048576\n").unwrap();
    std::fs::write(at("job/step/memory.max"), "2097152\n").unwrap();
    let point = root.path().display();
    let mount = mounts(&format!("1 0 0:1 /top {point} rw - cgroup2 cgroup2 rw\n"));
    let limits: Vec<_> = memory::limits(&mount, b"0::/top/job/step\n")
        .into_iter()
        .map(|limit| limit.bytes)
        .collect();
    assert_eq!(limits, [2_097_152, 1_048_576]);
    assert_eq!(memory::limits(&mount, b"0::/elsewhere\n"), []);
    let v1 = mounts(&format!("1 0 0:1 / {point} rw - cgroup cgroup rw,memory\n"));
    std::fs::write(at("memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
    std::fs::write(at("job/memory.limit_in_bytes"), "4096\n").unwrap();
    assert_eq!(memory::limits(&v1, b"4:memory:/job\n0::/\n").len(), 1);
}

#[test]
fn this_host_gives_an_answer_to_everything() {
    let host = Host::read();
    assert!(kernel_is_readable(&host));
    let checks = host.checks();
    assert!(checks.iter().all(|check| !check.name.is_empty() && !check.found.is_empty()));
    let lacks = checks.iter().find(|check| check.status == CheckStatus::Lack);
    assert_eq!(first_obstacle().as_ref(), lacks);
    assert!(lacks.is_none_or(|check| check.remedy.is_some()));
}

fn kernel_is_readable(host: &Host) -> bool {
    crate::procfs::kernel_version(&host.release).is_some()
}
