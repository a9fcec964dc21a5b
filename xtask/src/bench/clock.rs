//! Clocks of this machine and of other processes.

use std::{io, time::Duration};

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};

/// Now, by the clock of tracer's events.
pub(crate) fn boot_time() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), nanos)
}

/// CPU time that a process has used, all its threads, the dead ones too, and none of its children:
/// exact, where `/proc/PID/stat` counts in ticks of 10 ms. Also of a zombie.
///
/// # Errors
/// It is gone.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let mut clock = 0;
    // SAFETY: clock is a valid place to write to.
    let error = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error)).context("find the CPU clock of a process");
    }
    // SAFETY: timespec is plain data for which zero is valid.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: time is a valid place to write to.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error()).context("read the CPU clock of a process");
    }
    let nanos = u32::try_from(time.tv_nsec).context("CPU time")?;
    Ok(Duration::new(u64::try_from(time.tv_sec).context("CPU time")?, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_of_a_process_is_its_own_and_outlasts_it() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"])
            .spawn()
            .unwrap();
        let pid = child.id();
        let id = rustix::process::WaitId::Pid(rustix::process::Pid::from_child(&child));
        let options =
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(id, options).unwrap();
        assert!(cpu_time(pid).unwrap() > Duration::from_micros(100));
        child.wait().unwrap();
        assert!(cpu_time(pid).is_err());
    }
}
