//! Storms of processes for tests that want more than tracer can take in at once.

use crate::sys;

/// Children of each wave of a storm.
pub const CHILDREN: u32 = 400;

/// Waves of a storm: its 8,000 processes, on a slow machine fewer, make many times the records that
/// a ring of one page holds.
#[must_use]
pub fn waves() -> u32 {
    (20 / sys::slowness()).max(2)
}

/// A storm as arguments of the workload, with so many `zombies` or `daemons` among its processes.
#[must_use]
pub fn with(amounts: &[(&str, u32)]) -> Vec<String> {
    let fixed = [("children", CHILDREN), ("waves", waves())];
    let numbers = fixed.iter().chain(amounts).map(|(name, number)| format!("{name}={number}"));
    std::iter::once("storm".to_owned()).chain(numbers).collect()
}
