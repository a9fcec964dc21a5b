//! Names of signals.

/// The name of a signal as `signal(7)` spells it: `SIGKILL`, `SIGRTMIN+2`.
#[must_use]
pub fn name(signal: u8) -> String {
    /// Kernel numbers of Linux on x86-64, aarch64, riscv64 and s390x; the C library takes the
    /// first two real-time signals for itself and counts from 34.
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    match signal {
        1..=31 => format!("SIG{}", NAMES[usize::from(signal - 1)]),
        32 | 33 => format!("SIG{signal}"),
        34 => "SIGRTMIN".to_owned(),
        35..=64 => format!("SIGRTMIN+{}", signal - 34),
        _ => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn names_agree_with_the_c_library() {
        for (number, expected) in [
            (libc::SIGHUP, "SIGHUP"),
            (libc::SIGKILL, "SIGKILL"),
            (libc::SIGTERM, "SIGTERM"),
            (libc::SIGCHLD, "SIGCHLD"),
            (libc::SIGSYS, "SIGSYS"),
            (libc::SIGRTMIN(), "SIGRTMIN"),
            (libc::SIGRTMIN() + 2, "SIGRTMIN+2"),
        ] {
            assert_eq!(name(u8::try_from(number).unwrap()), expected);
        }
        assert_eq!(name(0), "signal 0");
        assert_eq!(name(200), "signal 200");
    }
}
