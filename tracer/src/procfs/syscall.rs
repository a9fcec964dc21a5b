//! `/proc/PID/syscall`: the system call in which a thread sleeps.

use super::error::Malformed;
use super::fields::{Fields, unsigned};

/// What a thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syscall {
    /// It runs, or was about to.
    Running,
    /// It sleeps outside any system call: in a page fault, or it is a kernel thread.
    Outside,
    /// It sleeps in a system call.
    Inside {
        /// Number of the call, on the thread's architecture.
        number: u64,
        /// Its arguments as they stood in the registers.
        arguments: [u64; 6],
    },
}

/// Reads `syscall`: `running`, or `-1 SP PC`, or the call's number, six arguments, SP and PC.
///
/// # Errors
/// Names the item that is missing or not a number.
pub fn parse_syscall(bytes: &[u8]) -> Result<Syscall, Malformed> {
    let mut fields = Fields::new(1, bytes.strip_suffix(b"\n").unwrap_or(bytes));
    let number = match fields.text("number")? {
        b"running" => return Ok(Syscall::Running),
        b"-1" => return Ok(Syscall::Outside),
        field => fields.as_number(Some(field), "number", 10)?,
    };
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        let field = fields.text("argument")?;
        *argument = field
            .strip_prefix(b"0x")
            .and_then(|digits| unsigned(digits, 16))
            .ok_or_else(|| fields.malformed("argument", "u64", Some(field)))?;
    }
    Ok(Syscall::Inside { number, arguments })
}
