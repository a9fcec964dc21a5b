//! The workloads by themselves, without tracer: each really makes the process state that the
//! other tests rely on. What the kernel and `CPython` do here is what reports are measured by.

use std::time::Duration;

use serde_json::json;
use tracer_tests::cgroup::Cgroup;
use tracer_tests::frozen::FreezableFs;
use tracer_tests::{Finished, Run, Running, proc, skip, sys};

fn alone(args: &[&str]) -> Running {
    Run::workload(args.iter().copied()).alone().start()
}

#[track_caller]
fn ends_well(running: Running) -> Finished {
    let finished = running.finish();
    finished.expect_code(0);
    finished
}

#[test]
fn python_parent_that_never_polls_leaves_a_zombie_standing() {
    for ending in ["os_exit", "normally"] {
        let running = Run::python("never_waits.py", &[ending]).alone().start();
        let zombie = running.fact("zombie").pid;
        let parent = running.held("standing").pid;
        let stat = proc::stat(zombie).expect("it stands");
        assert_eq!((stat.state, stat.ppid), ('Z', parent));
        running.release("standing");
        ends_well(running);
    }
}

#[test]
fn cpython_reaps_a_forgotten_child_when_it_ends_normally_and_not_in_os_exit() {
    // Below a subreaper that does not reap, what the parent left unreaped stays to be seen.
    for (ending, left) in [("os_exit", Some('Z')), ("normally", None)] {
        let workload = tracer_tests::binary::workload();
        let around = [workload.as_os_str(), "subreaper".as_ref(), "--".as_ref()];
        let running = Run::python("never_waits.py", &[ending]).alone().under(around).start();
        let zombie = running.fact("zombie").pid;
        let parent = running.held("standing").pid;
        let adopter = running.fact("around").pid;
        sys::signal_pidfd(&sys::open_pidfd(adopter).unwrap(), libc::SIGSTOP);
        running.release("standing");
        sys::until_dead(parent);
        assert_eq!(proc::state(zombie), left, "{ending}");
        sys::signal_pidfd(&sys::open_pidfd(adopter).unwrap(), libc::SIGCONT);
        ends_well(running);
    }
}

#[test]
fn children_of_a_parent_that_waits_for_another_stay_zombies() {
    let running = alone(&["waits-for-others"]);
    let parent = running.fact("parent");
    running.held("standing");
    let stat = proc::stat(running.fact("zombie").pid).expect("it stands");
    assert_eq!((stat.state, stat.ppid), ('Z', parent.pid));
    assert!(proc::is_alive(parent.pid_of("other")));
    running.release("standing");
    ends_well(running);
}

#[test]
fn five_hundred_zombies_stand_at_once() {
    let running = alone(&["never-waits", "children=500"]);
    let parent = running.held("standing").pid;
    let children = proc::children(parent);
    assert_eq!(children.len(), 500);
    assert!(children.iter().all(|&child| proc::state(child) == Some('Z')));
    running.release("standing");
    ends_well(running);
}

#[test]
fn children_vanish_when_their_parent_ignores_sigchld() {
    for how in ["how=ignore", "how=nocldwait"] {
        let running = alone(&["ignores-sigchld", how]);
        running.held("standing");
        let parent = running.fact("parent");
        assert_eq!(proc::state(parent.pid_of("child")), None);
        running.release("standing");
        ends_well(running);
    }
}

#[test]
fn clone_parent_makes_a_sibling() {
    let running = alone(&["clone-parent"]);
    running.held("standing");
    let (parent, forker) = (running.fact("parent").pid, running.fact("forker").pid);
    let zombie = running.fact("zombie");
    assert_eq!(zombie.pid_of("ppid"), parent);
    assert_ne!(parent, forker);
    let stat = proc::stat(zombie.pid).expect("it stands");
    assert_eq!((stat.state, stat.ppid), ('Z', parent));
    running.release("standing");
    ends_well(running);
}

#[test]
fn a_fork_by_any_thread_is_the_whole_process_s_child() {
    let running = alone(&["thread-forks"]);
    let parent = running.held("standing").pid;
    let stat = proc::stat(running.fact("zombie").pid).expect("it stands");
    assert_eq!((stat.state, stat.ppid), ('Z', parent));
    running.release("standing");
    ends_well(running);
}

#[test]
fn a_child_stays_with_its_process_when_the_thread_that_forked_it_ends() {
    let running = alone(&["thread-forks", "thread=ends"]);
    let child = running.held("child").pid;
    let parent = running.fact("thread-gone").pid;
    assert_eq!(proc::ppid(child), Some(parent), "handed to another thread, not orphaned");
    running.release("child");
    running.held("standing");
    assert_eq!(proc::state(child), Some('Z'));
    running.release("standing");
    ends_well(running);
}

#[test]
fn a_group_without_its_leader_looks_like_a_zombie_and_lives() {
    let running = alone(&["leader-exits-first", "reaped=yes"]);
    let group = running.held("leader-gone").pid;
    let stat = proc::stat(group).expect("it lives");
    assert_eq!((stat.state, stat.threads), ('Z', 2), "procfs cannot be taken at its word here");
    assert!(!sys::dies_within(&sys::open_pidfd(group).unwrap(), Duration::ZERO));
    running.release("leader-gone");
    let finished = ends_well(running);
    assert_eq!(finished.fact("parent").number("code"), 4, "the last thread ended the group");
}

#[test]
fn status_of_a_group_whose_threads_all_ended_alone_is_the_last_thread_s() {
    let running = alone(&["leader-exits-first", "reaped=yes", "last=thread"]);
    running.held("leader-gone");
    running.release("leader-gone");
    // do_exit() of 5.17 and later makes the last thread's code the group's
    // (synchronize_group_exit in kernel/exit.c); before, the leader's code was reported.
    let code = ends_well(running).fact("parent").number("code");
    assert!(code == 5 || code == 9, "{code}");
}

#[test]
fn exec_from_a_thread_keeps_the_leader_s_pid() {
    let running = alone(&["thread-execs"]);
    running.held("standing");
    let parent = running.fact("parent");
    let executed = running.fact("executed").pid;
    assert_eq!(executed, parent.pid_of("child"));
    let stat = proc::stat(executed).expect("it stands");
    assert_eq!((stat.state, stat.ppid), ('Z', parent.pid));
    running.release("standing");
    ends_well(running);
}

#[test]
fn a_vfork_parent_sleeps_uninterruptibly_until_its_child_is_gone() {
    let running = alone(&["vfork-holds"]);
    running.held("standing");
    let stuck = running.fact("stuck").pid;
    proc::until_state(stuck, 'D');
    match proc::names_wchan() {
        Ok(()) => println!("it sleeps in {:?}", proc::wchan(stuck).expect("the kernel names it")),
        Err(reason) => skip(&format!("where it sleeps: {reason}")),
    }
    running.release("standing");
    let finished = ends_well(running);
    proc::until_state(stuck, 'D');
    drop(finished);
}

#[test]
fn a_vfork_child_may_end_without_exec() {
    let running = alone(&["vfork-zombie"]);
    let parent = running.held("standing").pid;
    let stat = proc::stat(running.fact("zombie").pid).expect("it stands");
    assert_eq!((stat.state, stat.ppid), ('Z', parent));
    running.release("standing");
    ends_well(running);
}

#[test]
fn a_writer_to_a_frozen_file_system_cannot_be_killed() {
    let mut file_system = match FreezableFs::mount() {
        Ok(file_system) => file_system,
        Err(reason) => return skip(&reason),
    };
    let file = format!("file={}", file_system.path().join("file").display());
    let running = alone(&["writes", &file]);
    let writer = running.held("write").pid;
    file_system.freeze();
    running.release("write");
    proc::until_state(writer, 'D');
    let pidfd = sys::open_pidfd(writer).unwrap();
    sys::signal_pidfd(&pidfd, libc::SIGKILL);
    assert!(!sys::dies_within(&pidfd, Duration::from_millis(200)));
    drop(file_system);
    assert!(sys::dies_within(&pidfd, sys::PATIENCE));
    running.release("standing");
    ends_well(running);
}

#[test]
fn daemons_leave_session_and_parent() {
    for how in ["how=both", "how=setsid", "how=fork"] {
        let running = alone(&["double-fork", how]);
        let (daemon, root) = (running.fact("daemon").pid, running.fact("root").pid);
        let finished = ends_well(running);
        let stat = proc::stat(daemon).expect("it lives");
        assert_ne!(stat.ppid, root, "{how}");
        assert_eq!(stat.sid == own_session(), how == "how=fork", "{how}");
        assert!(proc::is_alive(daemon), "{how}");
        drop(finished);
        proc::until("the guard's kill", || (!proc::is_alive(daemon)).then_some(()));
    }
}

fn own_session() -> sys::Pid {
    proc::stat(sys::own_pid()).expect("oneself").sid
}

#[test]
fn a_shell_s_child_outlives_it_however_it_ends() {
    for ending in ["ending=killed", "ending=itself"] {
        let running = alone(&["leaves-shell-child", ending]);
        let shell = running.fact("root").pid_of("shell");
        running.held("leaving");
        let grandchild = running.fact("grandchild").pid;
        assert_eq!(proc::state(shell), None);
        assert!(proc::is_alive(grandchild));
        running.release("leaving");
        ends_well(running);
    }
}

#[test]
fn a_timeout_of_subprocess_run_kills_the_shell_alone() {
    let running = Run::python("timeout_kills_shell.py", &[]).alone().start();
    let grandchild = running.fact("grandchild").pid;
    let finished = ends_well(running);
    assert_ne!(finished.fact("timed-out").pid, 0);
    assert!(proc::is_alive(grandchild));
}

#[test]
fn the_nearest_subreaper_adopts() {
    let running = alone(&["subreaper-inside"]);
    let finished = ends_well(running);
    let adopted = finished.fact("adopted");
    let subreaper = finished.fact("subreaper").pid;
    assert_eq!(adopted.pid_of("ppid"), subreaper);
    assert_eq!(proc::ppid(adopted.pid), Some(subreaper));
}

#[test]
fn an_orphan_is_adopted_while_the_root_lives() {
    let running = alone(&["orphan"]);
    let orphan = running.fact("orphan");
    running.held("leaving");
    assert_ne!(orphan.pid_of("ppid"), orphan.pid_of("middle"));
    assert_eq!(proc::state(orphan.pid_of("middle")), None);
    running.release("orphan");
    sys::until_dead(orphan.pid);
    running.release("leaving");
    ends_well(running);
}

#[test]
fn a_server_that_was_asked_to_end_keeps_its_port() {
    let finished = ends_well(alone(&["slow-shutdown"]));
    let port = finished.fact("server").number("port");
    let port = u16::try_from(port).unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
}

#[test]
fn an_adopter_that_does_not_reap_keeps_the_dead_orphan() {
    let running = alone(&["init", "as=subreaper"]);
    let init = running.held("standing").pid;
    let stat = proc::stat(running.fact("zombie").pid).expect("it stands");
    assert_eq!((stat.state, stat.ppid), ('Z', init));
    assert_eq!(proc::state(running.fact("parent").pid), None);
    running.release("standing");
    ends_well(running);
}

#[test]
fn members_of_a_pid_namespace_have_two_pids() {
    let running = Run::workload(["init"]).alone().under(["unshare", "-pf"]).start();
    running.held("standing");
    for (name, own_pid) in [("init", 1), ("zombie", 3)] {
        let fact = running.fact(name);
        assert_eq!(fact.own_pid, own_pid, "{name} as it sees itself");
        assert_eq!(proc::namespace_pids(fact.pid), [fact.pid, own_pid], "{name}");
    }
    running.release("standing");
    ends_well(running);
}

#[test]
fn the_kernel_kills_and_reaps_a_namespace_whose_init_ends() {
    let running = Run::workload(["never-waits"]).alone().under(["unshare", "-pf"]).start();
    running.held("standing");
    let zombie = running.fact("zombie").pid;
    assert_eq!(proc::state(zombie), Some('Z'));
    running.release("standing");
    ends_well(running);
    // zap_pid_ns_processes() waits in the dying init's name: no act of that program.
    assert_eq!(proc::state(zombie), None);
}

#[test]
fn a_pid_can_be_given_out_again_at_once() {
    let running = alone(&["pid-again"]);
    let first = running.fact("first").pid;
    running.held("between");
    assert_eq!(proc::state(first), None);
    running.release("between");
    let second = running.fact("second").pid;
    let _guard = ends_well(running);
    assert_eq!(first, second);
    assert!(proc::is_alive(second));
}

#[test]
fn a_small_pid_max_in_a_namespace_makes_pids_come_round() {
    if let Err(reason) = proc::per_namespace_pid_max() {
        return skip(&reason);
    }
    let before = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    let running =
        Run::workload(["pids-wrap"]).alone().under(["unshare", "-pf", "--mount-proc"]).start();
    let first = running.fact("first");
    running.held("first-zombie");
    running.release("first-zombie");
    let second = running.fact("second-dead").pid_of("pid");
    running.held("standing");
    running.release("standing");
    ends_well(running);
    assert_eq!(first.own_pid, second, "the pid in the namespace came again");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap(), before);
}

#[test]
fn the_oom_killer_takes_the_one_in_the_small_cgroup() {
    let cgroup = match Cgroup::with_memory(48 << 20) {
        Ok(cgroup) => cgroup,
        Err(reason) => return skip(&reason),
    };
    let argument = format!("cgroup={}", cgroup.path().display());
    let finished = alone(&["hog", &argument]).finish();
    use std::os::unix::process::ExitStatusExt as _;
    assert_eq!(finished.status.signal(), Some(libc::SIGKILL), "{finished:#}");
    assert_eq!(cgroup.oom_kills(), 1);
}

#[test]
fn signals_are_told_with_their_sender() {
    let running = alone(&["signals"]);
    let _ready = running.fact("ready");
    running.signal(libc::SIGTERM);
    let term = running.fact("signal-15");
    assert_eq!(term.pid_of("sender"), sys::own_pid());
    assert_eq!(term.details["from_kernel"], json!(false));
    ends_well(running);
}

#[test]
fn ctrl_c_comes_from_the_kernel() {
    let running = Run::workload(["signals", "until=2"]).alone().on_terminal().start();
    let _ready = running.fact("ready");
    running.type_in(b"\x03");
    assert_eq!(running.fact("signal-2").details["from_kernel"], json!(true));
    ends_well(running);
}

#[test]
fn every_well_behaved_python_way_ends_well() {
    let ways = [
        "fork_pool",
        "spawn_pool",
        "forkserver_pool",
        "subprocess_run",
        "threads",
        "executor",
        "asyncio",
        "double_fork",
    ];
    for way in ways {
        ends_well(Run::python("well_behaved.py", &[way]).alone().start());
    }
}

#[test]
fn every_process_that_told_something_is_killed_with_its_test() {
    let running = alone(&["double-fork"]);
    let daemon = sys::open_pidfd(running.fact("daemon").pid).unwrap();
    let finished = ends_well(running);
    assert!(!sys::dies_within(&daemon, Duration::ZERO));
    drop(finished);
    assert!(sys::dies_within(&daemon, sys::PATIENCE));
}
