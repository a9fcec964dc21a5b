//! `/proc/PID/status`: the fields of a process, or of one thread below `task/`, by name.

use super::error::Malformed;
use super::fields::{Fields, lines};

/// What tracer takes from `status`. A field that the kernel did not write is `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Real user id, in the reader's user namespace.
    pub real_uid: Option<u32>,
    /// Effective user id, in the reader's user namespace.
    pub effective_uid: Option<u32>,
    /// The user whose it is in every way, if it is one's: real, effective, saved and for files.
    pub only_uid: Option<u32>,
    /// Its pids, from the PID namespace of the mount down to its own, innermost one.
    pub namespace_pids: Vec<u32>,
    /// Resident memory, bytes.
    pub rss_bytes: Option<u64>,
    /// Signals it catches: bit N-1 is signal N.
    pub caught: Option<u64>,
    /// Effective capabilities, as a mask.
    pub capabilities: Option<u64>,
    /// Voluntary and involuntary context switches of this thread (of the leader, in a process's
    /// `status`), together.
    pub switches: Option<u64>,
}

/// Reads `status`. Names there are escaped by the kernel, so a process cannot forge a line.
///
/// # Errors
/// Names the field that is there and cannot be read.
pub fn parse_status(bytes: &[u8]) -> Result<Status, Malformed> {
    let mut status = Status::default();
    for (number, line) in lines(bytes) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let mut fields = Fields::new(number, value);
        match name {
            b"Uid" => {
                let real: u32 = fields.number("Uid", 10)?;
                let effective = fields.number("Uid", 10)?;
                let (saved, files): (u32, u32) =
                    (fields.number("Uid", 10)?, fields.number("Uid", 10)?);
                status.real_uid = Some(real);
                status.effective_uid = Some(effective);
                let is_one = [effective, saved, files] == [real; 3];
                status.only_uid = is_one.then_some(real);
            }
            b"NSpid" => {
                while let Some(field) = fields.next() {
                    status.namespace_pids.push(fields.as_number(Some(field), "NSpid", 10)?);
                }
            }
            b"VmRSS" => {
                let kib: u64 = fields.number("VmRSS", 10)?;
                status.rss_bytes = kib.checked_mul(1024);
            }
            b"SigCgt" => status.caught = Some(fields.number("SigCgt", 16)?),
            b"CapEff" => status.capabilities = Some(fields.number("CapEff", 16)?),
            b"voluntary_ctxt_switches" | b"nonvoluntary_ctxt_switches" => {
                let more: u64 = fields.number("ctxt_switches", 10)?;
                status.switches = Some(status.switches.unwrap_or(0).wrapping_add(more));
            }
            _ => {}
        }
    }
    Ok(status)
}
