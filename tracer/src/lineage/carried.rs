//! Which commands the arguments of a program carry: read once, however many calls they are compared
//! with.

use std::borrow::Cow;

/// The texts in arguments that a call's command may be.
///
/// As any word a command would be found where it is not meant: `pwd` and `true` are in every line of
/// Claude Code's.
#[derive(Debug)]
pub(crate) struct Texts<'a> {
    /// Each argument, and the word after `eval` in one that is itself a command line: trimmed, sorted.
    whole: Vec<Cow<'a, [u8]>>,
    /// Where an agent writes a command in the midst of an argument: what follows each separator there,
    /// to the argument's end, sorted.
    behind: Option<Vec<&'a [u8]>>,
}

impl<'a> Texts<'a> {
    /// Those of NUL-separated arguments but the first. `is_embedded`: a command may stand between
    /// separators in the midst of one.
    pub(crate) fn of(args: &'a [u8], is_embedded: bool) -> Self {
        #[cfg(test)]
        work::READ.set(work::READ.get() + 1);
        let args = || args.split(|&byte| byte == 0).skip(1);
        let mut whole = Vec::new();
        for arg in args() {
            whole.push(Cow::Borrowed(arg.trim_ascii()));
            whole.extend(evaluated(arg).into_iter().map(Cow::Owned));
        }
        whole.retain(|text| !text.is_empty());
        whole.sort_unstable();
        whole.dedup();
        let behind = is_embedded.then(|| {
            let mut behind: Vec<_> = args().flat_map(behind_separators).collect();
            behind.sort_unstable();
            behind
        });
        Self { whole, behind }
    }

    /// Those that are a command as a whole.
    pub(crate) fn whole(&self) -> impl Iterator<Item = &[u8]> {
        self.whole.iter().map(AsRef::as_ref)
    }

    /// Whether a command may also stand in the midst of one.
    pub(crate) fn are_embedding(&self) -> bool {
        self.behind.is_some()
    }

    /// Whether the text of a command is one of them.
    pub(crate) fn carry(&self, command: &str) -> bool {
        #[cfg(test)]
        work::COMPARED.set(work::COMPARED.get() + 1);
        let command = command.trim().as_bytes();
        let is_whole = || self.whole.binary_search_by(|text| text.as_ref().cmp(command)).is_ok();
        !command.is_empty() && (is_whole() || self.embed(command))
    }

    fn embed(&self, part: &[u8]) -> bool {
        let behind = self.behind.as_deref().unwrap_or_default();
        // Those that begin with it stand together.
        let from = behind.partition_point(|text| *text < part);
        let begin = behind.iter().skip(from).take_while(|text| text.starts_with(part));
        begin.into_iter().any(|text| text.get(part.len()).is_none_or(is_separator))
    }
}

/// The words after each `eval` of a command line.
fn evaluated(line: &[u8]) -> Vec<Vec<u8>> {
    let mut words = shlex::bytes::Shlex::new(line);
    let mut evaluated = Vec::new();
    while let Some(word) = words.next() {
        if matches!(word.as_slice(), b"eval" | b"\\eval")
            && let Some(word) = words.next()
        {
            evaluated.push(word.trim_ascii().to_vec());
        }
    }
    evaluated
}

/// What begins at a text's own beginning, and behind each separator of a shell in it.
fn behind_separators(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let behind = text.iter().enumerate().filter(|(_, byte)| is_separator(byte));
    std::iter::once(text).chain(behind.filter_map(|(at, _)| text.get(at + 1..)))
}

fn is_separator(byte: &u8) -> bool {
    byte.is_ascii_whitespace() || b"();&|{}".contains(byte)
}

/// What was done in a test's thread.
#[cfg(test)]
pub(super) mod work {
    use std::cell::Cell;

    thread_local! {
        /// Arguments that were read.
        pub(in crate::lineage) static READ: Cell<usize> = const { Cell::new(0) };
        /// Commands that they were compared with.
        pub(in crate::lineage) static COMPARED: Cell<usize> = const { Cell::new(0) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn args(args: &[&str]) -> Vec<u8> {
        args.iter().flat_map(|arg| [arg.as_bytes(), &[0]].concat()).collect()
    }

    fn carries(args: &[u8], command: &str, is_embedded: bool) -> bool {
        Texts::of(args, is_embedded).carry(command)
    }

    /// The same, said plainly: each argument is looked through for the one command.
    fn plainly_carries(args: &[u8], command: &str, is_embedded: bool) -> bool {
        let command = command.trim().as_bytes();
        let is_evaluated = |line| {
            let mut words = shlex::bytes::Shlex::new(line);
            while let Some(word) = words.next() {
                if matches!(word.as_slice(), b"eval" | b"\\eval")
                    && words.next().is_some_and(|word| word.trim_ascii() == command)
                {
                    return true;
                }
            }
            false
        };
        let is_held = |text: &[u8]| {
            text.windows(command.len()).enumerate().any(|(at, window)| {
                let before = at.checked_sub(1).and_then(|before| text.get(before));
                window == command
                    && before.is_none_or(is_separator)
                    && text.get(at + command.len()).is_none_or(is_separator)
            })
        };
        !command.is_empty()
            && args.split(|&byte| byte == 0).skip(1).any(|arg| {
                arg.trim_ascii() == command || is_evaluated(arg) || is_embedded && is_held(arg)
            })
    }

    /// What Claude Code 2.1.330 makes of a command, after its quoting.
    fn claude(quoted: &str) -> Vec<u8> {
        let line = format!(
            "source /x/snapshot.sh 2>/dev/null || true && \\builtin shopt -u extglob 2>/dev/null || true && {{ \\builtin unalias -- 'which'; }} >/dev/null 2>&1 || true && eval {quoted} < /dev/null && pwd -P >| /tmp/claude-1-cwd"
        );
        args(&["/bin/bash", "-c", &line])
    }

    #[test]
    fn command_is_the_whole_argument_or_the_word_after_eval() {
        for (given, command, found) in [
            (args(&["bash", "-c", "npm run dev"]), "npm run dev", true),
            (args(&["bash", "-c", "npm run dev"]), "npm run", false),
            (args(&["ls"]), "ls", false),
            (args(&["bash", "-c", "x"]), " ", false),
            (claude("'npm run dev'"), "npm run dev", true),
            (claude("'npm run dev'"), "npm run", false),
            (claude("pwd"), "pwd", true),
            (claude("'npm run dev'"), "pwd", false),
            (claude("'npm run dev'"), "true", false),
            (
                claude(r#"'printf '"'"'%s\n'"'"' "$HOME" `x`'"#),
                r#"printf '%s\n' "$HOME" `x`"#,
                true,
            ),
            (claude("'cat <<'\"'\"'X'\"'\"'\nhere $d\nX'"), "cat <<'X'\nhere $d\nX", true),
        ] {
            assert_eq!(carries(&given, command, false), found, "{command:?}");
        }
    }

    #[test]
    fn command_in_the_midst_of_a_script_stands_between_separators() {
        let given = args(&["bash", "-c", "shopt -u x; ( trap y EXIT; sleep 9 & )"]);
        assert!(carries(&given, "sleep 9", true));
        assert!(!carries(&given, "leep 9", true));
        assert!(!carries(&given, "sleep 9", false));
    }

    proptest! {
        /// Texts of few letters, so that commands are often found, and nearly found.
        #[test]
        fn reading_the_arguments_once_finds_what_looking_for_each_command_finds(
            args in "[ab ;'\0]{0,8}(eval [ab '\0]{0,6}){0,2}",
            commands in prop::collection::vec("[ab ;']{0,4}", 1..8),
            is_embedded in any::<bool>(),
        ) {
            let texts = Texts::of(args.as_bytes(), is_embedded);
            for command in commands {
                let plainly = plainly_carries(args.as_bytes(), &command, is_embedded);
                prop_assert_eq!(texts.carry(&command), plainly, "{:?}", command);
            }
        }
    }
}
