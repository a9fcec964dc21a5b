//! What is not used goes back to the kernel, so that resident memory is what is used, and not what was
//! used at most.

/// Gives back what is free now: reading the kernel's types takes tens of megabytes, once. Only glibc
/// keeps it otherwise.
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

/// Lets go of the program's own pages: most were for starting, as reading the kernel's types and the
/// configuration. They lie in the page cache all the same, and come back from there as they are needed.
/// How many bytes may have had pages.
pub(crate) fn let_go_of_program() -> usize {
    let mut bytes = 0_usize;
    // SAFETY: the callback fits, and gets a place to count in.
    unsafe { libc::dl_iterate_phdr(Some(let_go_of_segments), (&raw mut bytes).cast()) };
    bytes
}

/// Of the first object that is shown, which is the program (`man 3 dl_iterate_phdr`).
unsafe extern "C" fn let_go_of_segments(
    info: *mut libc::dl_phdr_info,
    _: libc::size_t,
    bytes: *mut libc::c_void,
) -> libc::c_int {
    let page = rustix::param::page_size();
    // SAFETY: valid for as long as the callback runs.
    let info = unsafe { &*info };
    // SAFETY: there are so many, and they stay for as long as the program does.
    let segments =
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    for segment in segments {
        // What is written to differs from the file.
        if segment.p_type != libc::PT_LOAD || segment.p_flags & libc::PF_W != 0 {
            continue;
        }
        let (Ok(base), Ok(at), Ok(len)) = (
            usize::try_from(info.dlpi_addr),
            usize::try_from(segment.p_vaddr),
            usize::try_from(segment.p_memsz),
        ) else {
            continue;
        };
        let start = (base + at) & !(page - 1);
        let len = (base + at + len) - start;
        // SAFETY: a segment of the program that nobody writes to: its pages are those of the file, from
        // which the kernel reads them again.
        let let_go = unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_DONTNEED) };
        if let_go == 0 {
            // SAFETY: what `let_go_of_program` has passed on.
            unsafe { *bytes.cast::<usize>() += len };
        }
    }
    // No further object.
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_goes_on_without_the_pages_that_it_let_go_of() {
        assert!(let_go_of_program() > 1 << 20);
        assert!(let_go_of_program() > 1 << 20);
    }
}
