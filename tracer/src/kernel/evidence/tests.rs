//! Evidence from a `/proc` made by hand; from real processes in [`real`].

mod real;

use super::*;
use crate::lineage::model::{Blocked, Server, Sleeper};
use crate::procfs::fake::{FakeProc, stat_line, status_text};

/// Start of every process in the fake `/proc`: 4711 ticks.
const START: u64 = 47_110_000_000;

fn id(pid: u32) -> ProcessId {
    ProcessId { pid, start: START }
}

fn observe(
    procfs: &Procfs,
    pid: u32,
    id: ProcessId,
    streams: &CommandStreams,
    depth: Depth,
) -> Observation {
    Observer::new(procfs, streams).observe(pid, id, depth)
}

fn fake_observe(fake: &FakeProc, pid: u32) -> Observation {
    observe(&fake.open(), pid, id(pid), &CommandStreams::default(), Depth::Holdings)
}

#[test]
fn a_process_without_evidence_does_not_exist() {
    let fake = FakeProc::new();
    assert_eq!(fake_observe(&fake, 12), Observation::default());
    fake.task("12", 'S', 7, 4710);
    assert!(!fake_observe(&fake, 12).exists, "another process has the pid now");
    assert_eq!(sample(&fake.open(), 12, id(12)), None);
}

#[test]
fn what_cannot_be_read_is_not_known() {
    let fake = FakeProc::new();
    fake.file("12/stat", stat_line(12, b"a) S (b", 'S', 7, 1, 4711));
    let seen = fake_observe(&fake, 12);
    assert_eq!(
        seen,
        Observation {
            exists: true,
            state: Some('S'),
            comm: Some(b"a) S (b".to_vec()),
            pgid: Some(12),
            sid: Some(12),
            resources: Some(crate::lineage::model::Resources::default()),
            ..Observation::default()
        }
    );
    fake.file("12/stat", "12 (x) S");
    assert_eq!(fake_observe(&fake, 12), Observation { exists: true, ..Observation::default() });
}

#[test]
fn a_parent_is_init_only_of_its_own_namespace() {
    let fake = FakeProc::new();
    fake.task("12", 'S', 7, 4711)
        .task("7", 'S', 1, 100)
        .task("1", 'S', 0, 1)
        .file("12/status", status_text(&[12, 3]))
        .file("7/status", status_text(&[7, 1]))
        .file("1/status", status_text(&[1]));
    let parent = |fake: &FakeProc| fake_observe(fake, 12).parent.unwrap();
    assert_eq!(parent(&fake), ObservedParent { pid: 7, name: b"worker".to_vec(), is_init: true });
    // As after `unshare --fork`, which stays outside and is nobody's PID 1.
    fake.file("12/status", status_text(&[12, 1])).file("7/status", status_text(&[7]));
    assert!(!parent(&fake).is_init);
    fake.task("12", 'S', 1, 4711);
    assert_eq!((parent(&fake).pid, parent(&fake).is_init), (1, true));
    // PID 1 of an outer namespace is not this one's.
    fake.file("12/status", status_text(&[12, 3]));
    assert!(!parent(&fake).is_init);
    fake.task("12", 'S', 0, 4711);
    assert_eq!(fake_observe(&fake, 12).parent, None);
}

#[test]
fn a_zombie_holds_nothing() {
    let fake = FakeProc::new();
    fake.task("12", 'Z', 7, 4711).file("12/cmdline", "gone").link("12/fd/0", "pipe:[5]");
    let seen = fake_observe(&fake, 12);
    assert_eq!((seen.exists, seen.state, seen.resources), (true, Some('Z'), None));
    assert_eq!((seen.args, seen.caught), (None, Some(0x4002)));
}

#[test]
fn a_group_that_outlives_its_leader_still_holds_what_it_holds() {
    let fake = FakeProc::new();
    fake.task("12", 'Z', 7, 4711)
        .file("12/stat", stat_line(12, b"worker", 'Z', 7, 2, 4711))
        .task("12/task/12", 'Z', 7, 4711)
        .task("12/task/14", 'S', 7, 4720)
        .link("12/task/14/fd/3", "socket:[5]")
        .link("12/task/14/exe", "/usr/bin/x")
        .file("12/task/14/net/unix", "Num\n0: 2 0 00010000 0001 01 5 @abstract\n");
    let seen = fake_observe(&fake, 12);
    let held = seen.resources.unwrap();
    assert_eq!(held.rss_bytes, Some(1616 * 1024));
    assert_eq!((held.fds, held.listening), (Some(1), vec![b"unix @abstract".to_vec()]));
    assert_eq!((seen.state, seen.exe.unwrap()), (Some('Z'), b"/usr/bin/x".to_vec()));
}

#[test]
fn ports_are_found_by_the_socket_s_inode() {
    let fake = FakeProc::new();
    let v4 = |local: &str, state: &str, inode: u32| {
        format!("0: {local} 00000000:0000 {state} 0:0 00:0 0 1000 0 {inode} 1 0 100\n")
    };
    let ours: [&str; 2] = if cfg!(target_endian = "little") {
        ["0100007F:0BB8", "00000000:0050"]
    } else {
        ["7F000001:0BB8", "00000000:0050"]
    };
    let tcp = String::from("sl\n")
        + &v4(ours[0], "0A", 5)
        + &v4(ours[1], "0A", 6)
        + &v4(ours[1], "0A", 99)
        + &v4(ours[1], "01", 7)
        + "not a line\n";
    let udp = String::from("sl\n") + &v4(ours[0], "07", 8) + &v4(ours[0], "01", 9);
    fake.task("12", 'S', 7, 4711).file("12/net/tcp", tcp).file("12/net/udp", udp).file(
        "12/net/unix",
        "Num\n0: 2 0 00010000 0001 01 10 /run/a\nb.sock\n0: 2 0 00000000 0001 01 11 /run/c\n",
    );
    for inode in 5..=11 {
        fake.link(&format!("12/fd/{inode}"), format!("socket:[{inode}]"));
    }
    fake.link("12/fd/20", "socket:[5]").link("12/fd/21", "/etc/passwd");
    let held = fake_observe(&fake, 12).resources.unwrap();
    assert_eq!(held.fds, Some(9));
    let listening: Vec<_> = held.listening.iter().map(|at| String::from_utf8_lossy(at)).collect();
    assert_eq!(listening, ["0.0.0.0:80", "127.0.0.1:3000", "udp 127.0.0.1:3000", "unix /run/a"]);
}

#[test]
fn the_sockets_of_a_network_namespace_are_read_once() {
    let fake = FakeProc::new();
    let unix = "Num\n0: 2 0 00010000 0001 01 5 @a\n0: 2 0 00010000 0001 01 6 @b\n";
    for (pid, inode, net) in [(12, 5, 1), (13, 6, 1), (14, 6, 2)] {
        fake.task(&pid.to_string(), 'S', 7, 4711)
            .link(&format!("{pid}/fd/3"), format!("socket:[{inode}]"))
            .link(&format!("{pid}/ns/net"), format!("net:[{net}]"));
    }
    fake.file("12/net/unix", unix);
    let procfs = fake.open();
    let streams = CommandStreams::default();
    let mut observer = Observer::new(&procfs, &streams);
    let mut listening = |pid| {
        let seen = observer.observe(pid, id(pid), Depth::Holdings);
        seen.resources.unwrap().listening
    };
    assert_eq!(listening(12), [b"unix @a"]);
    assert_eq!(listening(13), [b"unix @b"]);
    assert_eq!(listening(14), Vec::<Vec<u8>>::new());
}

#[test]
fn only_a_write_end_keeps_a_reader_waiting() {
    let fake = FakeProc::new();
    fake.task("12", 'S', 7, 4711)
        .link("12/fd/0", "pipe:[5]")
        .file("12/fdinfo/0", "pos:\t0\nflags:\t00\nmnt_id:\t1\n")
        .link("12/fd/1", "pipe:[6]")
        .file("12/fdinfo/1", "pos:\t0\nflags:\t01\nmnt_id:\t1\n")
        .link("12/fd/2", "socket:[7]")
        .link("12/fd/3", "pipe:[8]");
    let observed = |links: &[(Stream, &str)]| {
        let links = links.iter().map(|(stream, link)| (*stream, link.as_bytes().to_vec()));
        let streams = CommandStreams { links: links.collect() };
        let seen = observe(&fake.open(), 12, id(12), &streams, Depth::Holdings);
        seen.resources.unwrap().streams
    };
    assert_eq!(observed(&[(Stream::Stdout, "pipe:[5]")]), []);
    assert_eq!(observed(&[(Stream::Stdout, "pipe:[6]")]), [Stream::Stdout]);
    assert_eq!(observed(&[(Stream::Stderr, "socket:[7]")]), [Stream::Stderr]);
    assert_eq!(
        observed(&[(Stream::Stdout, "pipe:[6]"), (Stream::Stderr, "pipe:[6]")]),
        [Stream::Stdout, Stream::Stderr]
    );
    assert_eq!(observed(&[(Stream::Stdout, "pipe:[9]")]), []);
}

#[test]
fn a_device_matters_unless_everybody_may_share_it() {
    let fake = FakeProc::new();
    fake.task("12", 'S', 7, 4711)
        .file(
            "12/mountinfo",
            "1 0 0:6 / /dev rw - devtmpfs dev rw\n2 0 0:7 / /dev/far rw - fuse.x far rw\n",
        )
        .link("12/fd/0", "/dev/null")
        .link("12/fd/1", "/dev/pts/3")
        .link("12/fd/2", "/dev/shm/x")
        .link("12/fd/3", "/dev/kmsg")
        .link("12/fd/4", "/dev/loop-control")
        .link("12/fd/5", "/dev/gone (deleted)")
        .link("12/fd/6", "/dev/far/null");
    // Whether the device itself exists depends on where the test runs.
    let present = std::fs::exists("/dev/loop-control").unwrap();
    let expected = if present { vec![b"/dev/loop-control".to_vec()] } else { vec![] };
    assert_eq!(fake_observe(&fake, 12).resources.unwrap().devices, expected);
}

#[test]
fn a_thread_in_state_d_waits_on_the_mount_of_its_descriptor() {
    let fake = FakeProc::new();
    let mounts = "1 0 0:1 / / rw - ext4 /dev/vda rw\n55 1 0:9 / /mnt rw - nfs server:/export rw\n";
    fake.task("12", 'D', 7, 4711)
        .file("12/cmdline", "must\0not\0be\0read")
        .task("12/task/12", 'D', 7, 4711)
        .file("12/task/12/wchan", "rpc_wait_bit_killable")
        .link("12/task/12/fd/3", "/mnt/file")
        .file("12/task/12/fdinfo/3", "pos:\t0\nflags:\t00\nmnt_id:\t55\n")
        .file("12/task/12/mountinfo", mounts)
        .link("12/task/12/cwd", "/mnt/deep/down");
    let syscall = |number: i64, first: u64| {
        fake.file(
            "12/task/12/syscall",
            format!("{number} {first:#x} 0x0 0x0 0x0 0x0 0x0 0x7fff 0x7fff\n"),
        );
        let seen = fake_observe(&fake, 12);
        assert_eq!((seen.state, seen.args), (Some('D'), None));
        seen.blocked.unwrap()
    };
    let nfs = Some(b"nfs server:/export at /mnt".to_vec());
    let blocked = syscall(libc::SYS_read, 3);
    assert_eq!(blocked.wchan, Some(b"rpc_wait_bit_killable".to_vec()));
    assert_eq!(blocked.mount, nfs);
    assert_eq!(syscall(libc::SYS_close, 4).mount, nfs, "the descriptor is gone already");
    assert_eq!(syscall(libc::SYS_openat, 0).mount, nfs, "by its working directory");
    assert_eq!(syscall(libc::SYS_clone, 3).mount, None);
    fake.remove("12/task/12/cwd").link("12/task/12/cwd", "/home");
    assert_eq!(syscall(libc::SYS_openat, 0).mount, None, "a local disk is no answer");
    fake.file("12/task/12/wchan", "0");
    assert_eq!(syscall(libc::SYS_openat, 0).wchan, None);
    assert_eq!(sample(&fake.open(), 12, id(12)), Some(BlockedThread { thread: 12, switches: 42 }));
}

#[test]
fn every_thread_in_state_d_is_told_with_its_stack_and_what_it_waits_for() {
    let fake = FakeProc::new();
    let mounts = "1 0 0:1 / / rw - ext4 /dev/vda rw\n\
                  55 1 0:53 / /mnt rw - fuse.sshfs user@host:/ rw\n";
    fake.task("12", 'S', 7, 4711).file("12/stat", stat_line(12, b"worker", 'S', 7, 4, 4711));
    for (thread, state, switches) in [(12, 'S', 1), (13, 'D', 900), (14, 'D', 5), (15, 'R', 2)] {
        let name = format!("12/task/{thread}");
        fake.task(&name, state, 7, 4711)
            .file(
                &format!("{name}/status"),
                format!("voluntary_ctxt_switches:\t{switches}\nnonvoluntary_ctxt_switches:\t0\n"),
            )
            .file(&format!("{name}/wchan"), format!("place_{thread}"));
    }
    fake.link("12/task/14/fd/3", "/mnt/file")
        .file("12/task/14/fdinfo/3", "pos:\t0\nflags:\t00\nmnt_id:\t55\n")
        .file("12/task/14/mountinfo", mounts)
        .file("12/task/14/syscall", "0 0x3 0x0 0x0 0x0 0x0 0x0 0x7fff 0x7fff\n")
        .file(
            "12/task/14/stack",
            "[<0>] request_wait_answer+0x12/0x345 [fuse]\n[<0>] vfs_read+0x1/0x2\nnonsense\n",
        );
    let blocked = fake_observe(&fake, 12).blocked.unwrap();
    let wanted = Blocked {
        wchan: Some(b"place_14".to_vec()),
        mount: Some(b"fuse.sshfs user@host:/ at /mnt".to_vec()),
        server: Some(Server::Fuse { connection: 53 }),
        file: Some(b"/mnt/file".to_vec()),
        thread: Some(14),
        stack: vec![b"request_wait_answer [fuse]".to_vec(), b"vfs_read".to_vec()],
        others: vec![Sleeper { thread: 13, wchan: Some(b"place_13".to_vec()), stack: vec![] }],
    };
    assert_eq!(blocked, wanted);
}

#[test]
fn a_socket_that_is_waited_for_is_told_with_both_ends() {
    let fake = FakeProc::new();
    fake.task("12", 'D', 7, 4711)
        .task("12/task/12", 'D', 7, 4711)
        .link("12/task/12/fd/3", "socket:[77]")
        .file(
            "12/task/12/syscall",
            format!("{} 0x3 0x0 0x0 0x0 0x0 0x0 0x7 0x7\n", libc::SYS_recvfrom),
        )
        .file(
            "12/task/12/net/tcp",
            "columns\n 0: 0100007F:9C40 0700000A:0801 01 0:0 0:0 0 0 0 77 1 0 20 4 30 10 -1\n",
        );
    let blocked = fake_observe(&fake, 12).blocked.unwrap();
    assert_eq!(blocked.file, Some(b"tcp 127.0.0.1:40000 to 10.0.0.7:2049".to_vec()));
    assert_eq!((blocked.mount, blocked.server), (None, None));
    fake.remove("12/task/12/net/tcp");
    fake.file("12/task/12/net/unix", "columns\n0: 2 0 0 1 3 77 /run/\x1b[31m\n");
    let blocked = fake_observe(&fake, 12).blocked.unwrap();
    assert_eq!(blocked.file, Some(b"unix /run/\x1b[31m".to_vec()));
    fake.remove("12/task/12/net/unix");
    assert_eq!(fake_observe(&fake, 12).blocked.unwrap().file, Some(b"socket:[77]".to_vec()));
}

#[test]
fn of_several_threads_the_one_that_never_wakes_is_sampled() {
    let fake = FakeProc::new();
    fake.task("12", 'S', 7, 4711).file("12/stat", stat_line(12, b"worker", 'S', 7, 4, 4711));
    for (thread, state, switches) in [(12, 'S', 1), (13, 'D', 900), (14, 'D', 5), (15, 'R', 2)] {
        let name = format!("12/task/{thread}");
        fake.task(&name, state, 7, 4711).file(
            &format!("{name}/status"),
            format!("voluntary_ctxt_switches:\t{switches}\nnonvoluntary_ctxt_switches:\t0\n"),
        );
    }
    let sampled = sample(&fake.open(), 12, id(12));
    assert_eq!(sampled, Some(BlockedThread { thread: 14, switches: 5 }));
    assert!(fake_observe(&fake, 12).blocked.is_some());
    fake.remove("12/task/14").remove("12/task/13");
    assert_eq!(sample(&fake.open(), 12, id(12)), None);
    assert_eq!(fake_observe(&fake, 12).blocked, None);
}

#[test]
fn less_is_read_when_only_who_it_is_matters() {
    let fake = FakeProc::new();
    fake.task("12", 'S', 7, 4711).file("12/cmdline", "a\0b\0").file("12/cgroup", "0::/x\n");
    let seen = observe(&fake.open(), 12, id(12), &CommandStreams::default(), Depth::Who);
    assert_eq!((seen.args.as_deref(), seen.resources), (Some(&b"a\0b\0"[..]), None));
    assert_eq!(seen.cgroup.as_deref(), Some(&b"/x"[..]));
}

#[test]
fn a_group_whose_threads_cannot_be_looked_at_is_not_taken_for_dead() {
    let fake = FakeProc::new();
    fake.task("12", 'Z', 7, 4711).file("12/stat", stat_line(12, b"worker", 'Z', 7, 2, 4711));
    // Threads are there, but the one that lives says nonsense.
    fake.task("12/task/12", 'Z', 7, 4711).file("12/task/13/stat", "13 (");
    assert_eq!(fake_observe(&fake, 12), Observation { exists: true, ..Observation::default() });
    fake.task("12/task/13", 'S', 7, 4711);
    let seen = fake_observe(&fake, 12);
    assert_eq!((seen.state, seen.resources.is_some()), (Some('Z'), true));
    fake.remove("12/task/13");
    assert_eq!(fake_observe(&fake, 12).resources, None);
}

/// Every file that a look reads, of a process that holds something.
const FILES: [&str; 15] = [
    "12/stat",
    "12/status",
    "12/cgroup",
    "12/cmdline",
    "12/mountinfo",
    "12/net/tcp",
    "12/net/tcp6",
    "12/net/udp",
    "12/net/unix",
    "12/fdinfo/1",
    "12/syscall",
    "12/wchan",
    "12/stack",
    "7/stat",
    "7/status",
];

fn whole() -> FakeProc {
    let fake = FakeProc::new();
    fake.task("12", 'D', 7, 4711)
        .task("7", 'S', 1, 100)
        .file("12/cgroup", "0::/a\n")
        .file("12/cmdline", "worker\0")
        .file("12/mountinfo", "9 0 0:1 / / rw - ext4 /dev/vda rw\n")
        .file("12/fdinfo/1", "pos:\t0\nflags:\t0100001\nmnt_id:\t9\n")
        .file("12/syscall", "0 0x1 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7f00\n")
        .file("12/wchan", "io_schedule")
        .file("12/stack", "[<0>] io_schedule+0x1/0x2\n")
        .link("12/exe", "/bin/worker")
        .link("12/cwd", "/")
        .link("12/fd/0", "socket:[5]")
        .link("12/fd/1", "/file")
        .link("12/ns/net", "net:[4026531993]");
    for table in ["tcp", "tcp6", "udp", "unix"] {
        fake.file(&format!("12/net/{table}"), "columns\n");
    }
    fake
}

#[test]
fn a_look_bears_any_file_missing() {
    for file in FILES {
        let fake = whole();
        fake.remove(file);
        let seen = fake_observe(&fake, 12);
        // Without its stat there is no process; whatever else is missing is not known.
        assert_eq!(seen.exists, file != "12/stat", "without {file}");
        assert_eq!(seen.state, (file != "12/stat").then_some('D'), "without {file}");
    }
}

proptest::proptest! {
    #[test]
    fn a_look_bears_any_content(
        file in 0..FILES.len(),
        content in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
    ) {
        let fake = whole();
        fake.file(FILES[file], content);
        // A process with a stat that is no stat is there all the same, unless the content happens
        // to be another one's.
        let seen = fake_observe(&fake, 12);
        proptest::prop_assert!(seen.exists);
    }

    #[test]
    fn a_look_bears_any_file_cut_short(file in 0..FILES.len(), part in 0_usize..100) {
        let fake = whole();
        let path = fake.path(FILES[file]);
        let content = std::fs::read(&path).unwrap();
        fake.file(FILES[file], &content[..content.len() * part / 100]);
        // A start time that is cut is another one's.
        let exists = fake_observe(&fake, 12).exists;
        proptest::prop_assert!(exists || FILES[file] == "12/stat");
    }
}
