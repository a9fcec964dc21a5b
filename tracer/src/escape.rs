//! Bytes that a process chose, made safe to show.
//!
//! A name, an argument or a path may hold anything: terminal escape sequences, newlines, invalid
//! UTF-8. Two ways out, and no third: [`lossless`] for machines, [`terminal`] for people. JSON may
//! end on a terminal too, so [`json_text`] goes over it at the end.
//! [`command_line`] and [`label`] are [`terminal`] for a whole command and for a process.
//!
//! A sink with a syntax of its own (XML, Markdown, GitHub's annotations) takes what these give,
//! which holds no control character any more, and escapes its own syntax on top.

/// Longest name in a [`label`], in characters.
const LABEL_NAME: usize = 40;

/// Escapes for JSON: what is valid UTF-8 stays, each other byte becomes `\xNN`.
///
/// It can be undone: `\x` occurs in the result only where it stands for a byte, because a
/// backslash before an `x` is written as a byte too (`\x5c`).
#[must_use]
pub fn lossless(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(&chunk.valid().replace("\\x", "\\x5cx"));
        for byte in chunk.invalid() {
            Unit::Byte(*byte).push_to(&mut out);
        }
    }
    out
}

/// [`lossless`] for text that is kept as it is and may be shown on a terminal: whatever [`is_hostile`]
/// becomes bytes too. It is undone likewise.
#[must_use]
pub fn lossless_line(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for c in lossless(bytes).chars() {
        if is_hostile(c) {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                Unit::Byte(byte).push_to(&mut out);
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Escapes in ready JSON, as `\uNNNN`, whatever [`is_hostile`]: it may be shown on a terminal. Only
/// strings can hold such characters, and a parser gets the same strings. Newlines stay, which only
/// ever stand between values.
#[must_use]
pub fn json_text(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || !is_hostile(c) {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            out.push_str(&format!("\\u{unit:04x}"));
        }
    }
    out
}

/// Escapes for people: one line that no terminal, log viewer or reader is fooled by.
///
/// Invalid UTF-8 becomes `\xNN`; control characters become `\n`, `\t`, `\x1b` and the like;
/// characters that are invisible or change the order of others become `\u{202e}` and the like.
/// A backslash stays itself, so escaping twice is escaping once.
#[must_use]
pub fn terminal(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for unit in units(bytes) {
        unit.push_to(&mut out);
    }
    out
}

/// [`terminal`], cut to at most `max_chars` characters (at least 1), the last of them `…` where
/// something is missing. Never cuts through an escape.
#[must_use]
pub fn terminal_short(bytes: &[u8], max_chars: usize) -> String {
    let max_chars = max_chars.max(1);
    let mut out = String::new();
    let mut chars = 0;
    // Length of what still leaves room for the ellipsis.
    let mut room = 0;
    for unit in units(bytes) {
        let before = out.len();
        unit.push_to(&mut out);
        chars += out[before..].chars().count();
        if chars > max_chars {
            out.truncate(room);
            out.push('…');
            break;
        }
        if chars < max_chars {
            room = out.len();
        }
    }
    out
}

/// A command as one would type it: arguments quoted for a shell where they must be, with
/// `$'...'` where they hold what [`terminal`] escapes.
#[must_use]
pub fn command_line(args: &[Vec<u8>]) -> String {
    let words: Vec<String> = args.iter().map(|word| shell_word(word)).collect();
    words.join(" ")
}

/// [`command_line`], cut to at most `max_chars` characters (at least 1), the last of them `…`
/// where something is missing.
#[must_use]
pub fn command_line_short(args: &[Vec<u8>], max_chars: usize) -> String {
    let mut out = String::new();
    for word in args {
        // What is longer in bytes need not be in characters; a quarter as long as its bytes it
        // is at least.
        if out.len() > max_chars.saturating_mul(4) {
            break;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&shell_word(word));
    }
    shorten(out, max_chars)
}

/// How sentences name a process: `python3[4200]`. The name is quoted where it is no plain word
/// and cut where it is very long.
#[must_use]
pub fn label(name: &[u8], pid: u32) -> String {
    let name = if name.is_empty() { "?".to_owned() } else { shell_word(name) };
    format!("{}[{pid}]", shorten(name, LABEL_NAME))
}

/// Whether a character is never shown as it is: controls (C0, DEL, C1), and what Unicode calls
/// format, separator or default-ignorable characters (bidirectional overrides, zero width,
/// variation selectors, tags, fillers), and noncharacters.
#[must_use]
pub fn is_hostile(c: char) -> bool {
    // General categories Cf, Zl and Zp and the property Default_Ignorable_Code_Point of
    // Unicode 17 (DerivedGeneralCategory.txt, DerivedCoreProperties.txt).
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    c.is_control()
        || matches!(u32::from(c),
            0xad | 0x34f | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x890..=0x891 | 0x8e2
            | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x180b..=0x180f
            | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f
            | 0x3164 | 0xfdd0..=0xfdef | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff0..=0xfffb
            | 0x110bd | 0x110cd | 0x13430..=0x1343f | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a
            | 0xe0000..=0xe0fff)
        || u32::from(c) & 0xfffe == 0xfffe
}

/// A character, or a byte that is part of none.
#[derive(Clone, Copy)]
enum Unit {
    Char(char),
    Byte(u8),
}

impl Unit {
    fn is_hostile(self) -> bool {
        match self {
            Self::Char(c) => is_hostile(c),
            Self::Byte(_) => true,
        }
    }

    fn push_to(self, out: &mut String) {
        match self {
            Self::Char(c) if !is_hostile(c) => out.push(c),
            Self::Char('\n') => out.push_str("\\n"),
            Self::Char('\r') => out.push_str("\\r"),
            Self::Char('\t') => out.push_str("\\t"),
            Self::Char(c) if c.is_ascii() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            Self::Char(c) => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            Self::Byte(byte) => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
}

fn units(bytes: &[u8]) -> impl Iterator<Item = Unit> {
    bytes.utf8_chunks().flat_map(|chunk| {
        let valid = chunk.valid().chars().map(Unit::Char);
        valid.chain(chunk.invalid().iter().copied().map(Unit::Byte))
    })
}

fn shorten(text: String, max_chars: usize) -> String {
    if text.chars().count() <= max_chars.max(1) {
        return text;
    }
    text.chars().take(max_chars.saturating_sub(1)).chain(['…']).collect()
}

/// One argument as a POSIX shell reads it, or bash where it holds hostile units.
fn shell_word(word: &[u8]) -> String {
    if units(word).any(Unit::is_hostile) {
        return ansi_c_quoted(word);
    }
    let text = terminal(word);
    // A leading colon is quoted because `::` at the start of a line is a command to GitHub's
    // runner.
    let bare = |c: char| c.is_alphanumeric() || "_-./:=@%+,".contains(c);
    if !text.is_empty() && !text.starts_with(':') && text.chars().all(bare) {
        text
    } else if text.contains('\'') && !text.contains(['"', '$', '`', '\\', '!']) {
        format!("\"{text}\"")
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// `$'...'` as bash, zsh and ksh read it.
fn ansi_c_quoted(word: &[u8]) -> String {
    let mut out = String::from("$'");
    for unit in units(word) {
        match unit {
            Unit::Char(c @ ('\'' | '\\')) => out.extend(['\\', c]),
            Unit::Char(c) if is_hostile(c) && !c.is_ascii_control() => {
                let code = u32::from(c);
                out.push_str(&match u16::try_from(code) {
                    Ok(code) => format!("\\u{code:04x}"),
                    Err(_) => format!("\\U{code:08x}"),
                });
            }
            unit => unit.push_to(&mut out),
        }
    }
    out.push('\'');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Undoes [`lossless`].
    fn unescape(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("\\x") {
            out.extend_from_slice(&rest.as_bytes()[..at]);
            out.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).expect("two hex digits"));
            rest = &rest[at + 4..];
        }
        out.extend_from_slice(rest.as_bytes());
        out
    }

    fn args(words: &[&[u8]]) -> Vec<Vec<u8>> {
        words.iter().map(|word| word.to_vec()).collect()
    }

    #[test]
    fn json_text_is_shown_as_it_is_and_parses_to_the_same() {
        let text = "a\u{7f}\u{9b}31m\u{202e}\u{e0001}é\"\\\n";
        let json = serde_json::to_string_pretty(&[text, text]).unwrap();
        let shown = json_text(&json);
        assert!(shown.contains(r"a\u007f\u009b31m\u202e\udb40\udc01é"), "{shown}");
        assert!(!shown.chars().any(|c| c != '\n' && is_hostile(c)), "{shown:?}");
        assert_eq!(serde_json::from_str::<[String; 2]>(&shown).unwrap(), [text, text]);
    }

    #[test]
    fn lossless_keeps_text_and_marks_invalid_bytes() {
        assert_eq!(lossless("naïve\n\u{202e}".as_bytes()), "naïve\n\u{202e}");
        assert_eq!(lossless(b"a\xffb\xc3"), "a\\xffb\\xc3");
        assert_eq!(lossless(b"C:\\new \\x41"), "C:\\new \\x5cx41");
        assert_eq!(lossless(b"\\\xff"), "\\\\xff");
    }

    #[test]
    fn lossless_line_leaves_nothing_to_interpret() {
        let text = "naïve\n\u{202e}\u{1b}[31m".as_bytes();
        assert_eq!(lossless_line(text), "naïve\\x0a\\xe2\\x80\\xae\\x1b[31m");
        assert_eq!(lossless_line(b"a\xffb C:\\new \\x41"), "a\\xffb C:\\new \\x5cx41");
    }

    #[test]
    fn terminal_leaves_nothing_to_interpret() {
        assert_eq!(terminal(b"\x1b[31mred\x07\x7f"), "\\x1b[31mred\\x07\\x7f");
        assert_eq!(terminal(b"a\nb\tc\rd"), "a\\nb\\tc\\rd");
        assert_eq!(
            terminal("\u{9b}31m \u{202e}x\u{200d}".as_bytes()),
            "\\u{9b}31m \\u{202e}x\\u{200d}"
        );
        assert_eq!(terminal(b"caf\xe9"), "caf\\xe9");
        assert_eq!(terminal("café 日本 ✓".as_bytes()), "café 日本 ✓");
    }

    #[test]
    fn short_forms_end_in_an_ellipsis_and_keep_escapes_whole() {
        assert_eq!(terminal_short(b"abcdef", 6), "abcdef");
        assert_eq!(terminal_short(b"abcdef", 5), "abcd…");
        assert_eq!(terminal_short(b"ab\x1bcd", 5), "ab…");
        assert_eq!(terminal_short(b"ab\x1b", 6), "ab\\x1b");
        assert_eq!(terminal_short(b"ab", 0), "…");
        assert_eq!(command_line_short(&args(&[b"sleep", b"600"]), 9), "sleep 600");
        assert_eq!(command_line_short(&args(&[b"sleep", b"600"]), 8), "sleep 6…");
    }

    #[test]
    fn arguments_are_quoted_only_where_they_must_be() {
        let shown = |words: &[&[u8]]| command_line(&args(words));
        assert_eq!(
            shown(&[b"python3", b"-m", b"http.server", b"3000"]),
            "python3 -m http.server 3000"
        );
        assert_eq!(shown(&[b"sh", b"-c", b"sleep 1 & wait"]), "sh -c 'sleep 1 & wait'");
        assert_eq!(shown(&[b"sh", b"-c", b"echo 'x'"]), "sh -c \"echo 'x'\"");
        assert_eq!(shown(&[b"sh", b"-c", b"echo '$x'"]), "sh -c 'echo '\\''$x'\\'''");
        assert_eq!(shown(&[b"a", b"", b"\n"]), "a '' $'\\n'");
        assert_eq!(shown(&[b"\xff'\\", "\u{202e}".as_bytes()]), "$'\\xff\\'\\\\' $'\\u202e'");
    }

    #[test]
    fn labels_are_plain_words() {
        assert_eq!(label(b"python3", 42), "python3[42]");
        assert_eq!(label(b"", 42), "?[42]");
        assert_eq!(label(b"Web Content", 42), "'Web Content'[42]");
        assert_eq!(label(b"::error::", 42), "'::error::'[42]");
        assert_eq!(label(&[b'a'; 100], 42).chars().count(), LABEL_NAME + "[42]".len());
    }

    #[test]
    fn bash_reads_a_command_line_back() {
        let words = args(&[
            b"plain",
            b"two words",
            b"it's",
            b"it's $HOME \"x\" `id` \\ !",
            b"\x1b[31m\n\t\x01\x7f'\\",
            b"\xff1\xfe",
            "\u{202e}\u{85}1\u{e0041}f".as_bytes(),
            b"",
            b"::1",
            b"~",
            b"#",
        ]);
        let script = format!("printf '%s\\0' {}", command_line(&words));
        let output = std::process::Command::new("bash")
            .args(["-c", &script])
            .env("LC_ALL", "C.UTF-8")
            .output();
        // Not every machine has bash.
        let Ok(output) = output else { return };
        let read: Vec<&[u8]> = output.stdout.split(|byte| *byte == 0).collect();
        assert_eq!(read[..read.len() - 1], words.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn lossless_can_be_undone(bytes: Vec<u8>) {
            prop_assert_eq!(unescape(&lossless(&bytes)), &bytes[..]);
            let line = lossless_line(&bytes);
            prop_assert!(!line.chars().any(is_hostile));
            prop_assert_eq!(unescape(&line), bytes);
        }

        #[test]
        fn lossless_can_be_undone_around_backslashes(bytes in "[\\\\x5cf\u{e9}]{0,12}".prop_map(String::into_bytes), cut in 0_usize..12) {
            let bytes = &bytes[..cut.min(bytes.len())];
            prop_assert_eq!(unescape(&lossless(bytes)), bytes);
        }

        #[test]
        fn terminal_is_one_harmless_line(bytes: Vec<u8>, text: String) {
            for bytes in [bytes.as_slice(), text.as_bytes()] {
                let shown = terminal(bytes);
                prop_assert!(!shown.chars().any(is_hostile));
                prop_assert_eq!(terminal(shown.as_bytes()), shown);
            }
        }

        #[test]
        fn short_forms_keep_their_limit(bytes: Vec<u8>, max in 1_usize..40) {
            let shown = terminal_short(&bytes, max);
            prop_assert!(shown.chars().count() <= max);
            prop_assert_eq!(terminal(&bytes).chars().count() <= max, shown == terminal(&bytes));
        }

        #[test]
        fn short_command_line_is_the_long_one_cut(words: Vec<Vec<u8>>, max in 1_usize..60) {
            prop_assert_eq!(command_line_short(&words, max), shorten(command_line(&words), max));
        }

        #[test]
        fn command_lines_are_harmless(words: Vec<Vec<u8>>, text: Vec<String>) {
            let text: Vec<Vec<u8>> = text.into_iter().map(String::into_bytes).collect();
            for words in [words, text] {
                prop_assert!(!command_line(&words).chars().any(is_hostile));
            }
        }
    }
}
