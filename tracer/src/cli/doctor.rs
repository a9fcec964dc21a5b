//! `tracer doctor`: what this host has, and lacks, a line a check.

use std::io::{self, Write};

use crate::kernel::host::{Check, CheckStatus, HookCheck, Host};

/// Columns of the longest common check's name, `CAP_SYS_PTRACE`, so that what was found lines up.
const NAME_WIDTH: usize = 14;

/// Prints every check to `out` and says whether `tracer run` can work here.
///
/// `hooks` tries to attach every kernel program; it is called only where nothing required is
/// lacking, because then every one of them would fail for that one reason.
///
/// # Errors
/// `out` cannot be written.
pub(super) fn doctor(
    out: &mut dyn Write,
    hooks: impl FnOnce() -> Vec<HookCheck>,
) -> io::Result<bool> {
    report(out, Host::read().checks(), hooks)
}

fn report(
    out: &mut dyn Write,
    mut checks: Vec<Check>,
    hooks: impl FnOnce() -> Vec<HookCheck>,
) -> io::Result<bool> {
    let lacking =
        |checks: &[Check]| checks.iter().filter(|check| check.status == CheckStatus::Lack).count();
    if lacking(&checks) == 0 {
        checks.extend(hooks().into_iter().map(Check::from));
    } else {
        checks.push(Check {
            name: "hooks".to_owned(),
            status: CheckStatus::Note,
            found: "not tried, for what is lacking above".to_owned(),
            remedy: None,
        });
    }
    for check in &checks {
        line(out, check)?;
    }
    match lacking(&checks) {
        0 => writeln!(out, "tracer run works here")?,
        1 => writeln!(out, "tracer run cannot work here: 1 thing is lacking")?,
        count => writeln!(out, "tracer run cannot work here: {count} things are lacking")?,
    }
    Ok(lacking(&checks) == 0)
}

fn line(out: &mut dyn Write, check: &Check) -> io::Result<()> {
    let Check { name, status, found, remedy } = check;
    write!(out, "{:<4} {name:<NAME_WIDTH$} {found}", status.as_str())?;
    match remedy {
        Some(remedy) => writeln!(out, ": {remedy}"),
        None => writeln!(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, status: CheckStatus, found: &str, remedy: Option<&str>) -> Check {
        let (name, found) = (name.to_owned(), found.to_owned());
        Check { name, status, found, remedy: remedy.map(str::to_owned) }
    }

    fn printed(checks: Vec<Check>, hooks: Vec<HookCheck>) -> (String, bool) {
        let mut out = Vec::new();
        let works = report(&mut out, checks, || hooks).unwrap();
        (String::from_utf8(out).unwrap(), works)
    }

    #[test]
    fn every_check_and_hook_is_a_line() {
        let btf = check("BTF", CheckStatus::Ok, "/sys/kernel/btf/vmlinux (5.5 MB)", None);
        let hooks = vec![
            HookCheck { name: "tp_btf/sched_process_fork".into(), outcome: Ok(()), required: true },
            HookCheck {
                name: "fentry/release_task".into(),
                outcome: Err("not in\nBTF".into()),
                required: false,
            },
        ];
        let (text, works) = printed(vec![btf], hooks);
        assert!(works);
        assert_eq!(
            text,
            "ok   BTF            /sys/kernel/btf/vmlinux (5.5 MB)\n\
             ok   tp_btf/sched_process_fork attaches\n\
             note fentry/release_task not in\\nBTF; tracer works without it\n\
             tracer run works here\n"
        );
    }

    #[test]
    fn hooks_are_not_tried_where_they_cannot_attach() {
        let lack = check("CAP_BPF", CheckStatus::Lack, "not held", Some("sudo tracer run"));
        let note = check("tracefs", CheckStatus::Note, "not mounted", None);
        let mut out = Vec::new();
        let works =
            report(&mut out, vec![lack, note], || unreachable!("nothing to attach")).unwrap();
        assert!(!works);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "lack CAP_BPF        not held: sudo tracer run\n\
             note tracefs        not mounted\n\
             note hooks          not tried, for what is lacking above\n\
             tracer run cannot work here: 1 thing is lacking\n"
        );
    }

    #[test]
    fn a_required_hook_that_does_not_attach_is_lacking() {
        let hook =
            HookCheck { name: "tp_btf/x".into(), outcome: Err("gone".into()), required: true };
        let (text, works) = printed(Vec::new(), vec![hook]);
        assert!(!works);
        assert!(text.starts_with("lack tp_btf/x       gone: "), "{text}");
    }
}
