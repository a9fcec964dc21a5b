//! The formats, the reader over a fake `/proc`, and the reader over real processes.

use std::io::{Read as _, Write as _};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::fake::{FakeProc, stat_line, status_text};
use super::fields::lines;
use super::*;
use crate::lineage::model::ProcessId;

const TICK: u64 = 10_000_000;

#[test]
fn a_name_may_hold_anything_that_the_format_uses() {
    for comm in [
        &b"sh"[..],
        b"a b",
        b") R 1 1 1",
        b"((()))",
        b"line\nfeed",
        b"\xff\xfe\x1b[2J",
        b"",
        b"(sd-pam)",
        b"kworker/u8:3-events_unbound",
    ] {
        let stat = parse_stat(&stat_line(12, comm, 'S', 7, 3, 4711)).unwrap();
        assert_eq!(stat.comm, comm);
        assert_eq!((stat.pid, stat.state, stat.ppid), (12, 'S', 7));
        assert_eq!((stat.pgid, stat.sid), (Some(12), Some(12)));
        assert_eq!((stat.threads, stat.start_ticks), (3, 4711));
    }
}

#[test]
fn a_group_outside_of_the_namespace_is_not_known() {
    let line = b"12 (x) Z 0 0 -1 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 99 0 0";
    let stat = parse_stat(line).unwrap();
    assert_eq!((stat.ppid, stat.pgid, stat.sid), (0, None, None));
    assert!(stat.is_dead());
}

#[test]
fn a_bad_stat_says_which_item_is_wrong() {
    let whole = stat_line(12, b"x", 'S', 7, 3, 4711);
    let item = |line: &[u8]| {
        let wrong = parse_stat(line).unwrap_err();
        (wrong.item, wrong.expected)
    };
    assert_eq!(item(b""), ("comm", "a name in parentheses"));
    assert_eq!(item(b"12 )x( S"), ("comm", "a name in parentheses"));
    assert_eq!(item(b"twelve (x) S"), ("pid", "u32"));
    assert_eq!(item(b"12 (x)"), ("state", "text"));
    assert_eq!(item(b"12 (x) 5 7"), ("state", "a letter"));
    assert_eq!(item(b"12 (x) S -7"), ("ppid", "u32"));
    assert_eq!(item(b"12 (x) S 7 1 99999999999"), ("session", "u32"));
    assert_eq!(item(&whole[..40]), ("num_threads", "u32"));
}

#[test]
fn path_is_told_as_it_was_given_to_exec() {
    let folder = tempfile::tempdir().unwrap();
    let procfs = Procfs::of_host().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/bin/sh\nread line; echo; read line\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let link = folder.path().join("linked-cat");
    std::os::unix::fs::symlink("/bin/cat", &link).unwrap();
    for path in [script, link] {
        let mut command = Command::new(&path);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // `spawn` comes back in the midst of exec, when descriptors are closed.
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let _written = child.stdout.as_mut().unwrap().read(&mut [0]).unwrap();
        let dir = procfs.process(child.id()).unwrap();
        assert_eq!(dir.executed_path().unwrap().unwrap(), path.as_os_str().as_bytes());
        assert!(!dir.link("exe").unwrap().ends_with(path.file_name().unwrap().as_bytes()));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(dir.executed_path().is_err_and(|error| error.is_gone()));
    }
    // A thread of the kernel has executed nothing.
    let kernel_thread = procfs.pids().unwrap().into_iter().find_map(|pid| {
        let dir = procfs.process(pid).ok()?;
        dir.stat().is_ok_and(|stat| stat.is_kernel_thread).then_some(dir)
    });
    assert!(kernel_thread.is_none_or(|dir| !matches!(dir.executed_path(), Ok(Some(_)))));
}

#[test]
fn path_that_is_not_where_it_is_said_to_be_is_not_known() {
    let fake = FakeProc::new();
    let words = |address: u64| [3, 1, 31, address, 0, 0].map(u64::to_ne_bytes).concat();
    fake.task("12", 'S', 1, 7).file("12/mem", b"xx/bin/true\0...");
    let path = |address| {
        fake.file("12/auxv", words(address));
        fake.open().process(12).unwrap().executed_path().unwrap()
    };
    assert_eq!(path(2).as_deref(), Some(&b"/bin/true"[..]));
    // No end, nothing there, no address.
    for address in [12, 400, u64::MAX] {
        assert_eq!(path(address), None);
    }
}

#[test]
fn status_gives_what_is_there() {
    let status = parse_status(status_text(&[12, 1]).as_bytes()).unwrap();
    assert_eq!(
        status,
        Status {
            real_uid: Some(1000),
            effective_uid: Some(1001),
            only_uid: None,
            namespace_pids: vec![12, 1],
            rss_bytes: Some(1616 * 1024),
            caught: Some(0x4002),
            capabilities: Some(0x1ff_ffff_ffff),
            switches: Some(42),
        }
    );
    let of_one = parse_status(b"Uid:\t7\t7\t7\t7\n").unwrap();
    assert_eq!((of_one.effective_uid, of_one.only_uid), (Some(7), Some(7)));
    assert_eq!(parse_status(b"Name:\tx\nState:\tZ (zombie)\n").unwrap(), Status::default());
    let wrong = parse_status(b"Name:\tx\nSigCgt:\tnone\n").unwrap_err();
    assert_eq!((wrong.line, wrong.item, wrong.expected), (2, "SigCgt", "u64"));
    assert_eq!(wrong.found.as_deref(), Some(&b"none"[..]));
}

#[test]
fn the_cgroup_is_the_one_that_tells_most() {
    let path = |text: &str| {
        let cgroups = parse_cgroup(text.as_bytes()).unwrap();
        telling_path(&cgroups).map(|path| String::from_utf8(path.to_vec()).unwrap())
    };
    assert_eq!(path("0::/user.slice/a:b\n").as_deref(), Some("/user.slice/a:b"));
    assert_eq!(path("4:memory:/job\n0::/unit\n").as_deref(), Some("/unit"));
    assert_eq!(
        path("9:name=systemd:/\n8:pids:/\n4:cpu,memory:/job\n0::/\n").as_deref(),
        Some("/job")
    );
    assert_eq!(path("9:name=systemd:/s\n8:pids:/p\n0::/\n").as_deref(), Some("/s"));
    assert_eq!(path("2:rdma:/r\n0::/\n").as_deref(), Some("/r"));
    assert_eq!(path("9:name=systemd:/\n0::/\n").as_deref(), Some("/"));
    assert_eq!(path("3:cpuset:/\n").as_deref(), Some("/"));
    assert_eq!(path(""), None);
    let wrong = parse_cgroup(b"0::/\nx:y\n").unwrap_err();
    assert_eq!((wrong.line, wrong.item), (2, "hierarchy"));
}

#[test]
fn addresses_are_read_in_both_families() {
    let line = b"   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  \
                 1000        0 12345 1 0000000000000000 100 0 0 10 0";
    let socket = parse_inet_line(2, line).unwrap();
    if cfg!(target_endian = "little") {
        assert_eq!(socket.local.to_string(), "127.0.0.1:3000");
    }
    assert_eq!((socket.state, socket.inode), (InetState::Listening, 12345));
    let line = b"  1: 00000000000000000000000001000000:0035 \
                 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000 \
                 0 0 77 2 0000000000000000 0";
    let socket = parse_inet_line(2, line).unwrap();
    if cfg!(target_endian = "little") {
        assert_eq!(socket.local.to_string(), "[::1]:53");
    }
    assert_eq!((socket.state, socket.inode), (InetState::Unconnected, 77));
    let wrong = parse_inet_line(9, b"0: 0100007F 0:0 0A").unwrap_err();
    assert_eq!((wrong.line, wrong.item), (9, "local_address"));
}

#[test]
fn a_unix_name_may_hold_spaces() {
    let line = b"0000000000000000: 00000002 00000000 00010000 0001 01 31415 /run/my app.sock";
    let socket = parse_unix_line(2, line).unwrap();
    assert_eq!(socket, UnixSocket { listening: true, inode: 31415, name: b"/run/my app.sock" });
    let line = b"0000000000000000: 00000003 00000000 00000000 0001 03 27182";
    let socket = parse_unix_line(3, line).unwrap();
    assert_eq!(socket, UnixSocket { listening: false, inode: 27182, name: b"" });
}

#[test]
fn mounts_are_read_whatever_their_names() {
    let text =
        b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - nfs4 server:/ex\\134port rw\n\
                 37 35 0:50 / /tmp rw - tmpfs  rw,size=1k\n";
    let mounts = parse_mountinfo(text).unwrap();
    assert_eq!(mounts[0].describe(), b"nfs4 server:/ex\\port at /mnt 2");
    assert!(mounts[0].is_remote());
    assert_eq!(
        (mounts[1].source.as_slice(), mounts[1].super_options.as_slice()),
        (&b""[..], &b"rw,size=1k"[..])
    );
    assert!(!mounts[1].is_remote());
    let wrong = parse_mountinfo(b"36 35 98:0 / /mnt rw master:1\n").unwrap_err();
    assert_eq!((wrong.line, wrong.item), (1, "separator"));
}

#[test]
fn a_mount_covers_what_lies_below_it() {
    let mount = |point: &str| {
        parse_mountinfo_line(1, format!("1 0 0:1 / {point} rw - ext4 /dev/vda rw").as_bytes())
            .unwrap()
    };
    assert!(mount("/").covers(b"/"));
    assert!(mount("/").covers(b"/srv"));
    assert!(mount("/srv").covers(b"/srv"));
    assert!(mount("/srv").covers(b"/srv/x"));
    assert!(!mount("/srv").covers(b"/srvx"));
    assert!(!mount("/srv").covers(b"/"));
}

#[test]
fn fdinfo_and_syscall_are_read() {
    let info = parse_fdinfo(b"pos:\t0\nflags:\t0100001\nmnt_id:\t15\nino:\t9\n").unwrap();
    assert_eq!(info, FdInfo { flags: 0o100_001, mount: Some(15) });
    assert!(info.can_write());
    assert!(!parse_fdinfo(b"pos:\t0\nflags:\t02000000\n").unwrap().can_write());
    assert_eq!(parse_fdinfo(b"pos:\t0\n").unwrap_err().item, "flags");

    assert_eq!(parse_syscall(b"running\n").unwrap(), Syscall::Running);
    assert_eq!(parse_syscall(b"-1 0x7ffc 0x7f2d\n").unwrap(), Syscall::Outside);
    assert_eq!(
        parse_syscall(b"0 0x3 0x7fd2 0x20000 0x22 0xffffffff 0x0 0x7fff 0x7fd2\n").unwrap(),
        Syscall::Inside { number: 0, arguments: [3, 0x7fd2, 0x20000, 0x22, 0xffff_ffff, 0] }
    );
    assert_eq!(parse_syscall(b"0 0x3\n").unwrap_err().item, "argument");
}

#[test]
fn a_release_is_read_as_far_as_it_is_a_version() {
    assert_eq!(kernel_version(b"6.18.44-cloud"), Some((6, 18)));
    assert_eq!(kernel_version(b"5.10"), Some((5, 10)));
    assert_eq!(kernel_version(b"7.2-rc1+"), Some((7, 2)));
    assert_eq!(kernel_version(b"unknown"), None);
    assert_eq!(kernel_version(b""), None);
}

#[test]
fn start_ticks_follow_the_reader_s_time_namespace() {
    let fake = FakeProc::new();
    let start = 123_456_789_012;
    assert_eq!(fake.open().start_ticks(start), 12_345);

    fake.file("self/timens_offsets", "monotonic  0 0\nboottime  100 500000000\n")
        .link("self/ns/time", "time:[1]")
        .link("self/ns/time_for_children", "time:[1]");
    assert_eq!(fake.open().start_ticks(start), 12_345 + 10_050);

    fake.file("self/timens_offsets", "monotonic  0 0\nboottime  -20 0\n");
    assert_eq!(fake.open().start_ticks(start), 12_345 - 2_000);

    // Kernels before 5.11 shift the clock, but not the start time.
    fake.file("sys/kernel/osrelease", "5.10.0-28-amd64\n");
    assert_eq!(fake.open().start_ticks(start), 12_345);
    fake.remove("sys/kernel/osrelease");

    // The offsets are those of the children's namespace.
    fake.remove("self/ns/time_for_children").link("self/ns/time_for_children", "time:[2]");
    assert_eq!(fake.open().start_ticks(start), 12_345);
}

#[test]
fn the_clock_is_the_kernel_s_and_leads_to_the_calendar() {
    let clock = Procfs::of_host().unwrap().clock();
    let first = clock.now();
    let epoch = i128::from(clock.epoch_offset()) + i128::from(first.0);
    let real = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let apart = i128::try_from(real.as_nanos()).unwrap() - epoch;
    assert!(apart.abs() < 1_000_000_000, "{apart} ns apart");
    assert!(clock.now() >= first);
}

#[test]
fn only_processes_are_listed() {
    let fake = FakeProc::new();
    for name in ["12/stat", "7/stat", "self/stat", "sys/x", "4294967296/stat", "1x/stat"] {
        fake.file(name, "");
    }
    let mut pids = fake.open().pids().unwrap();
    pids.sort_unstable();
    assert_eq!(pids, [7, 12]);
    let own = std::process::id();
    assert!(Procfs::of_host().unwrap().pids().unwrap().contains(&own));
}

#[test]
fn an_error_names_file_line_item_and_type() {
    let fake = FakeProc::new();
    fake.file("12/stat", "12 (x) S seven").file("12/cgroup", "0::/a\nbad\n");
    let dir = fake.open().process(12).unwrap();
    let text = dir.stat().unwrap_err().to_string();
    assert!(text.starts_with("parse /"), "{text}");
    assert!(text.ends_with("/12/stat, line 1, item ppid: expected u32, found \"seven\""), "{text}");
    let text = dir.cgroups().unwrap_err().to_string();
    assert!(text.contains("/12/cgroup, line 2, item hierarchy: expected u32"), "{text}");
    let error = dir.status().unwrap_err();
    assert!(error.is_gone() && !error.is_denied());
    let text = error.to_string();
    assert!(text.contains("open /") && text.contains("/12/status: No such file"), "{text}");
}

#[test]
fn more_than_any_kernel_writes_is_refused() {
    let fake = FakeProc::new();
    fake.file("12/stat", stat_line(12, &[b'x'; 10_000], 'S', 1, 1, 1))
        .file("12/cmdline", [b'a'; 10_000])
        .file("12/net/unix", vec![b'u'; 600 << 10]);
    let dir = fake.open().process(12).unwrap();
    assert!(matches!(dir.stat(), Err(Error::TooLong { limit: 8192, .. })));
    assert_eq!(dir.arguments(4096).unwrap().len(), 4096);
    let endless = dir.unix_sockets(|_| ControlFlow::Continue(()));
    assert!(matches!(endless, Err(Error::TooLong { .. })));
}

#[test]
fn a_table_is_read_across_chunks_and_only_as_far_as_wanted() {
    let mut table = String::from("Num RefCount Protocol Flags Type St Inode Path\n");
    for inode in 1..=20_000 {
        table += &format!("0: 2 0 00010000 0001 01 {inode} /run/{inode}\nrest of a name\n");
    }
    table.truncate(table.len() - "\nrest of a name\n".len());
    let fake = FakeProc::new();
    fake.file("12/net/unix", table);
    let dir = fake.open().process(12).unwrap();
    let mut sum = 0;
    let mut last = Vec::new();
    dir.unix_sockets(|socket| {
        sum += socket.inode;
        last = socket.name.to_vec();
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!((sum, last.as_slice()), (20_000 * 20_001 / 2, &b"/run/20000"[..]));
    let mut seen = 0;
    dir.unix_sockets(|_| {
        seen += 1;
        if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert_eq!(seen, 3);
}

#[test]
fn mount_that_shows_most_of_the_cgroups_is_taken() {
    let of = |mounts: &[(&str, &str)]| {
        let proc = FakeProc::new();
        let lines =
            mounts.iter().map(|(root, at)| format!("1 0 0:9 {root} {at} rw - cgroup2 c rw\n"));
        proc.link("self", "11")
            .task("11", 'S', 1, 1)
            .file("11/mountinfo", lines.collect::<String>());
        let mount = proc.open().own().unwrap().mount_of_unified().unwrap();
        mount.map(|mount| String::from_utf8(mount.mount_point).unwrap())
    };
    assert_eq!(
        of(&[("/", "/own"), ("/../..", "/host"), ("/..", "/pod")]).as_deref(),
        Some("/host")
    );
    assert_eq!(of(&[("/a/b", "/part"), ("/", "/all"), ("/", "/again")]).as_deref(), Some("/all"));
    assert_eq!(of(&[]), None);
}

#[test]
fn cgroup_is_found_below_its_mount_and_nowhere_else() {
    let place = |root: &str, cgroup: &str| {
        let line = format!("1 0 0:1 {root} /sys/fs/cgroup rw - cgroup2 cgroup2 rw");
        let mount = parse_mountinfo_line(1, line.as_bytes()).unwrap();
        mount.place_of_cgroup(cgroup.as_bytes()).map(|place| place.to_str().unwrap().to_owned())
    };
    let found = |place: &str| Some(place.to_owned());
    assert_eq!(place("/", "/"), found("/sys/fs/cgroup/"));
    assert_eq!(place("/", "/a/b"), found("/sys/fs/cgroup/a/b"));
    assert_eq!(place("/top", "/top/a"), found("/sys/fs/cgroup/a"));
    for (root, cgroup) in [("/top", "/topmost/a"), ("/top", "/"), ("/..", "/"), ("/", "/../a")] {
        assert_eq!(place(root, cgroup), None, "{cgroup} below {root}");
    }
}

#[test]
fn the_deepest_and_latest_mount_holds_a_path() {
    let fake = FakeProc::new();
    fake.file(
        "12/mountinfo",
        "1 0 0:1 / / rw - ext4 /dev/vda rw\n\
         2 1 0:2 / /srv rw - nfs server:/srv rw\n\
         3 1 0:3 / /srv/a rw - tmpfs tmpfs rw\n\
         4 1 0:4 / /srv rw - cifs //server/srv rw\n",
    );
    let dir = fake.open().process(12).unwrap();
    let at = |path: &[u8]| dir.mount_of(path).unwrap().map(|mount| mount.id);
    assert_eq!(at(b"/srv/b"), Some(4));
    assert_eq!(at(b"/srv/a/b"), Some(3));
    assert_eq!(at(b"/home"), Some(1));
    assert_eq!(at(b"(unreachable)/x"), None);
    assert_eq!(dir.mount(2).unwrap().unwrap().source, b"server:/srv");
    assert_eq!(dir.mount(9).unwrap(), None);
}

#[test]
fn a_directory_stays_that_of_a_process_that_was_reaped() {
    let procfs = Procfs::of_host().unwrap();
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let dir = procfs.process(child.id()).unwrap();
    let stat = dir.stat().unwrap();
    assert_eq!((stat.pid, stat.ppid), (child.id(), std::process::id()));
    let id =
        ProcessId { pid: child.id(), start: (stat.start_ticks - procfs.start_ticks(0)) * TICK };
    let other = ProcessId { start: id.start + TICK, ..id };
    assert!(procfs.identify(child.id(), id).unwrap().is_some());
    assert!(procfs.identify(child.id(), other).unwrap().is_none());
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(dir.stat().unwrap_err().is_gone());
    assert!(dir.status().unwrap_err().is_gone());
    assert!(dir.link("exe").unwrap_err().is_gone());
    assert!(dir.descriptors(9, |_, _| {}).unwrap_err().is_gone());
    assert!(dir.threads(9).unwrap_err().is_gone());
    assert!(procfs.identify(child.id(), id).unwrap().is_none());
}

#[test]
fn this_process_reads_itself() {
    let procfs = Procfs::of_host().unwrap();
    let own = procfs.own().unwrap();
    let status = own.status().unwrap();
    assert_eq!(status.namespace_pids, [std::process::id()]);
    assert!(status.rss_bytes.is_some() && status.switches.is_some());
    assert!(own.namespace("pid").unwrap() > 0);
    assert!(own.threads(64).unwrap().contains(&std::process::id()));
    assert!(own.cgroups().unwrap().telling.is_some_and(|path| path.starts_with(b"/")));
    let mut linked = 0;
    let count = own.descriptors(2, |_, _| linked += 1).unwrap();
    assert!(linked <= 2 && count >= 2);
    assert_eq!(own.mount_of(b"/").unwrap().unwrap().mount_point, b"/");
}

proptest! {
    #[test]
    fn no_parser_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), number in 0usize..9) {
        let _ = parse_stat(&bytes);
        let _ = parse_status(&bytes);
        let _ = parse_cgroup(&bytes);
        let _ = parse_fdinfo(&bytes);
        let _ = parse_syscall(&bytes);
        let _ = parse_mountinfo(&bytes);
        let _ = parse_inet_line(number, &bytes);
        let _ = parse_unix_line(number, &bytes);
        let _ = kernel_version(&bytes);
        let _ = bracketed(&bytes);
        let _ = clock::boottime_offset(&bytes);
    }

    #[test]
    fn no_parser_panics_on_what_looks_right(
        text in "[0-9a-fA-Fx:() \n\t/\\\\-]{0,200}", at in 0usize..200,
    ) {
        let bytes = text.as_bytes();
        let _ = parse_stat(bytes);
        let _ = parse_status([b"SigCgt:", bytes, b"\nNSpid:", bytes].concat().as_slice());
        let _ = parse_syscall(bytes);
        let _ = parse_mountinfo(bytes);
        let _ = parse_inet_line(1, bytes);
        let _ = parse_unix_line(1, bytes);
        let whole = stat_line(12, bytes, 'S', 7, 1, 99);
        prop_assert_eq!(parse_stat(&whole).unwrap().comm, bytes);
        let _ = parse_stat(&whole[..at.min(whole.len())]);
    }

    #[test]
    fn lines_are_numbered_from_one(content in "[ab\n]{0,40}") {
        let parts: Vec<_> = lines(content.as_bytes()).collect();
        let expected: Vec<_> = content
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.as_bytes()))
            .collect();
        prop_assert_eq!(parts, expected);
    }
}
