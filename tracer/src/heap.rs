//! What is freed goes back to the kernel, so that resident memory is what is used, and not what was
//! used at most. Only glibc keeps it otherwise; elsewhere these do nothing.

/// Gives back what is free now: reading the kernel's types takes tens of megabytes, once.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer; glibc locks what it touches.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has blocks from 128 KiB on go back as soon as they are freed, from now on. glibc does so only until
/// the first of them is: it then takes ever larger ones from its heap (`M_MMAP_THRESHOLD`, `man 3
/// mallopt`), where whatever small block comes to lie above them keeps them.
pub(crate) fn give_back_what_is_large() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer; glibc locks what it touches.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
    }
}
