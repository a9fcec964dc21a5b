//! Groups by name.

use std::{ffi::CString, mem::MaybeUninit, ptr};

/// Bytes that the entry of a group, with the names of its members, is first given room for, and at most.
const ROOM: [usize; 2] = [16 << 10, 16 << 20];

/// The id of the group of this name, if there is one.
pub(super) fn id_of(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    let [mut room, most] = ROOM;
    loop {
        let mut buffer = vec![0_u8; room];
        let mut entry = MaybeUninit::<libc::group>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: every pointer is valid for the call, and the buffer's length is told.
        let error = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &raw mut found,
            )
        };
        match error {
            libc::ERANGE if room < most => room *= 8,
            libc::EINTR => {}
            _ if error != 0 || found.is_null() => return None,
            // SAFETY: found, so the entry was filled.
            _ => return Some(unsafe { entry.assume_init() }.gr_gid),
        }
    }
}
