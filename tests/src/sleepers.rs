//! Many processes alive at once.
//!
//! They share the memory of their parent, as a vfork'd child does. Copies would share every page
//! with thousands of others instead, and the kernel would spend minutes on the lists that say who
//! maps a page (`unlink_anon_vmas`, mm/rmap.c): a cost of the load's, not of what surrounds it.

use std::io::{self, PipeWriter};
use std::os::fd::{AsRawFd as _, IntoRawFd as _};

use crate::sys;

/// Bytes of a child's stack, for two system calls.
const STACK: usize = 16 << 10;

/// Children that sleep until told, or until their parent is gone.
#[derive(Debug)]
pub struct Sleepers {
    /// They live while somebody holds this.
    life: PipeWriter,
    pids: Vec<sys::Pid>,
    /// Theirs, until they are gone.
    _stacks: Vec<u8>,
}

impl Sleepers {
    /// Forks so many.
    #[must_use]
    pub fn fork(count: usize) -> Self {
        let (end, life) = io::pipe().expect("pipe");
        // Never freed: nobody knows when the last child has read it.
        let ends: *mut [i32; 2] = Box::leak(Box::new([end.into_raw_fd(), life.as_raw_fd()]));
        let mut stacks = vec![0_u8; count * STACK];
        let pids = stacks.chunks_exact_mut(STACK).map(|stack| start(ends, stack)).collect();
        Self { life, pids, _stacks: stacks }
    }

    /// Ends and reaps them all, each by its pid: a wait for any child looks at every one of them
    /// each time that one ends, which is minutes of kernel time for some ten thousand.
    pub fn end(self) {
        drop(self.life);
        for pid in self.pids {
            sys::wait_for(pid);
        }
    }
}

fn start(ends: *mut [i32; 2], stack: &mut [u8]) -> sys::Pid {
    let top = stack.as_mut_ptr_range().end;
    let flags = libc::CLONE_VM | libc::SIGCHLD;
    // SAFETY: the child has a stack of its own that outlives it, reads the numbers of the ends,
    // which are never freed, and touches no other memory.
    let pid = unsafe { libc::clone(sleep_until_told, top.cast(), flags, ends.cast()) };
    assert!(pid != -1, "clone: {}", io::Error::last_os_error());
    pid
}

/// Only system calls: the memory is the parent's.
extern "C" fn sleep_until_told(ends: *mut libc::c_void) -> i32 {
    // SAFETY: what `start` has passed on.
    let [end, life] = unsafe { *ends.cast::<[i32; 2]>() };
    // SAFETY: the child's own copy of the descriptor, of which nothing else in it knows.
    unsafe { libc::close(life) };
    let mut byte = 0_u8;
    // SAFETY: byte is a valid place for the call's whole time.
    unsafe { libc::read(end, (&raw mut byte).cast(), 1) };
    sys::exit_now(0)
}
