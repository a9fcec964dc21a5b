//! Being on time on a machine whose CPUs all work: what comes late finds less to see.

/// Nice value of the thread that empties the ring: what it misses is lost.
pub(crate) const READER: i32 = -20;
/// Nice value of those that decide and look: a zombie that is looked at late may be gone.
pub(crate) const JUDGES: i32 = -10;
/// Those that answer who asks how tracer does: also while judges have much to do, but a flood of
/// questions must not take the machine.
pub(crate) const ANSWERS: i32 = -5;

/// Raises the calling thread to this nice value, where that is allowed.
///
/// Linux gives each thread its own (`man 2 setpriority`, "C library/kernel differences"), which the
/// threads and processes that it starts inherit: COMMAND must not.
pub(crate) fn raise(nice: i32) {
    if let Err(error) = rustix::process::setpriority_process(None, nice) {
        let thread = std::thread::current();
        log::debug!("failed to raise the priority of {}: {error}", thread.name().unwrap_or("?"));
    }
}
