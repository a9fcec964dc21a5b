//! Ordinary processes that leak on purpose, each subcommand in one way.
//!
//! `workload NAME key=value ... [-- COMMAND...]`. Every one tells the test what it truly did
//! (`tracer_tests::facts`), ends by itself after two minutes, and waits for others by pipes,
//! pidfds and the test's rendezvous, never by time. Run by hand it prints its facts and nothing
//! holds it.

mod args;
mod attack;
mod calls;
mod doomed;
mod grove;
mod hostile;
mod namespaces;
mod outage;
mod rails;
mod signals;
mod silent;
mod simple;
mod spawner;
mod storm;
mod stuck;
mod survivors;
mod threads;
mod zombies;

use args::Args;

fn main() {
    tracer_tests::sys::bound_life();
    let args = Args::from_environment();
    let run = match args.name() {
        "answers-no-reads" => silent::answers_no_reads,
        "attack" => attack::attack,
        "await" => simple::wait,
        "babbles" => calls::babbles,
        "bomb" => doomed::bomb,
        "burst" => zombies::burst,
        "chain" => doomed::chain,
        "clone-parent" => zombies::clone_parent,
        "churn" => storm::churn,
        "double-fork" => survivors::double_fork,
        "exit" => simple::exit,
        "freezes" => stuck::freezes,
        "given-to-tracer" => hostile::given_to_tracer,
        "grove" => grove::root,
        "grove-around" => grove::around,
        "grove-member" => grove::executed,
        "hog" => signals::hog,
        "ignores-sigchld" => zombies::ignores_sigchld,
        "ends-as-ignored-child-dies" => zombies::ends_as_ignored_child_dies,
        "init" => namespaces::init,
        "is-busy" => rails::is_busy,
        "keeps-server" => survivors::keeps_server,
        "killed-before-wait" => zombies::killed_before_wait,
        "leader-exits-first" => threads::leader_exits_first,
        "leaves-busy" => rails::leaves_busy,
        "leaves-server" => doomed::leaves_server,
        "leaves-shell-child" => survivors::leaves_shell_child,
        "leaves-supervisor" => doomed::leaves_supervisor,
        "leaves-target" => rails::leaves_target,
        "named-thread-forks" => threads::named_thread_forks,
        "never-waits" => zombies::never_waits,
        "orphan" => survivors::orphan,
        "orphans-die-reaped" => namespaces::orphans_die_reaped,
        "parallel-calls" => calls::parallel_calls,
        "outage" => outage::outage,
        "outlives-briefly" => survivors::outlives_briefly,
        "pid-again" => hostile::pid_again,
        "pid-goes-to-a-kept-one" => rails::pid_goes_to_a_kept_one,
        "pid-taken" => hostile::pid_taken,
        "pids-wrap" => hostile::pids_wrap,
        "program-renamed" => hostile::program_renamed,
        "reads-terminal" => signals::reads_terminal,
        "reads" => silent::reads,
        "send" => signals::send,
        "signals" => signals::record,
        "shared-shell" => spawner::shared_shell,
        "shared-spawner" => spawner::shared_spawner,
        "sleep" => simple::sleep,
        "slow-shutdown" => survivors::slow_shutdown,
        "storm" => storm::storm,
        "subreaper" => survivors::subreaper_around,
        "subreaper-inside" => survivors::subreaper_inside,
        "swaps" => rails::swaps,
        "takes-pid" => rails::takes_pid,
        "thread-execs" => threads::thread_execs,
        "thread-forks" => threads::thread_forks,
        "vfork-execs" => stuck::vfork_execs,
        "vfork-holds" => stuck::vfork_holds,
        "vfork-zombie" => stuck::vfork_zombie,
        "waits-late" => zombies::waits_late,
        "waits-for-others" => zombies::waits_for_others,
        "writes" => stuck::writes,
        "without-capabilities" => simple::without_capabilities,
        other => panic!("no workload is called {other:?}"),
    };
    let code = run(&args);
    // Like os._exit: nothing of the standard library cleans up behind a workload's back.
    tracer_tests::sys::exit_now(code);
}
