//! Many children alive at once.

use std::io::{self, PipeReader, PipeWriter, Read as _};

use tracer_tests::sys;

use crate::loops::fork_one;

/// Children that sleep until told, or until their parent is gone.
#[derive(Debug)]
pub(crate) struct Children {
    /// They live while somebody holds this.
    life: PipeWriter,
    pids: Vec<sys::Pid>,
}

impl Children {
    pub(crate) fn fork(count: usize) -> Self {
        let (end, life) = io::pipe().expect("pipe");
        let pids = (0..count).map(|_| fork_one(|| sleep_until_told(&end, &life))).collect();
        Self { life, pids }
    }

    /// Ends and reaps them all, each by its pid: a wait for any child looks at every one of them
    /// each time that one ends, which is minutes of kernel time for some ten thousand.
    pub(crate) fn end(self) {
        drop(self.life);
        for pid in self.pids {
            sys::wait_for(pid);
        }
    }
}

fn sleep_until_told(mut end: &PipeReader, life: &PipeWriter) {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the child's copy of the descriptor, which it never uses again: it ends by _exit.
    unsafe { libc::close(life.as_raw_fd()) };
    let _ = end.read(&mut [0]);
}
