//! What processes execute, from procfs: of those that had begun before anybody listened, or whose
//! record was lost.

use crate::{
    lineage::{Nanos, ProcessId, Rules},
    node::ProgramSeen,
    procfs::Procfs,
};

/// As much as the kernel side takes of a command line.
const MAX_ARGS: usize = tracer_common::MAX_ARGS;
/// As much of an environment as is looked at. The kernel side looks at 256 variables.
const MAX_ENVIRONMENT: usize = 64 << 10;

/// What a process executes now. `None`: it is gone, or a stranger's that cannot be read.
///
/// `exec_at` is when it executed that, as the kernel side has it. A process that has executed nothing
/// since its fork shows what its forker did.
pub(super) fn seen(
    procfs: &Procfs,
    rules: &Rules,
    process: ProcessId,
    local: Option<u32>,
    exec_at: Option<Nanos>,
) -> Option<ProgramSeen> {
    let (dir, _) = procfs.identify(local?, process).ok().flatten()?;
    let args = dir.arguments(MAX_ARGS).ok()?;
    // A path of a descriptor names no program: what it led to does.
    let is_name = |path: &Vec<u8>| !path.starts_with(b"/proc/") && !path.starts_with(b"/dev/fd/");
    let exe = dir.executed_path().ok().flatten().filter(is_name).unwrap_or_else(|| {
        let exe = dir.link("exe").unwrap_or_default();
        exe.strip_suffix(b" (deleted)").unwrap_or(&exe).to_vec()
    });
    let environment = dir.environment(MAX_ENVIRONMENT).unwrap_or_default();
    // Reads through one descriptor are about one process, but not about one program: it may have
    // executed another in between. Then a record of that comes behind.
    Some(ProgramSeen {
        process,
        at: exec_at.unwrap_or(Nanos(process.start)),
        truncated: args.len() >= MAX_ARGS,
        exe,
        args,
        markers: markers(&environment, rules.markers()),
        markers_truncated: environment.len() >= MAX_ENVIRONMENT,
        // Who may trace a host is in the initial user namespace itself.
        uid: dir.status().ok().and_then(|status| status.real_uid),
    })
}

/// The variables that rules ask for, and no other.
fn markers(environment: &[u8], wanted: &[Vec<u8>]) -> Vec<u8> {
    let mut kept = Vec::new();
    for variable in environment.split(|&byte| byte == 0) {
        let name = variable.split(|&byte| byte == b'=').next().unwrap_or_default();
        let fits = variable.len() < tracer_common::MAX_MARKER
            && kept.len() + variable.len() < tracer_common::MAX_MARKERS;
        if fits && name.len() < variable.len() && wanted.iter().any(|known| known == name) {
            kept.extend_from_slice(variable);
            kept.push(0);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variables_that_rules_ask_for_are_kept() {
        let wanted = [b"TRACER_AGENT".to_vec(), b"CLAUDECODE".to_vec()];
        let environment = b"PATH=/bin\0TRACER_AGENT=mine\0SECRET=TRACER_AGENT=x\0CLAUDECODE\0\0";
        assert_eq!(markers(environment, &wanted), b"TRACER_AGENT=mine\0");
    }

    #[test]
    fn long_variables_are_left_out() {
        let mut environment = b"A=".to_vec();
        environment.resize(tracer_common::MAX_MARKER, b'x');
        environment.extend(b"\0A=1\0");
        assert_eq!(markers(&environment, &[b"A".to_vec()]), b"A=1\0");
    }
}
