//! What processes choose that deceives whoever reads it, and what may come out of it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use serde_json::Value;

/// A program's name that no terminal, label or workflow command should see as it is.
pub const HOSTILE_NAME: &[u8] = b"\x1b[2Jevil\xff|`<\n::x";

/// Arguments that try every sink.
#[must_use]
pub fn hostile_arguments() -> Vec<OsString> {
    let all: [&[u8]; 12] = [
        b"invalid \xff\xfe\xc3 UTF-8",
        b"newline\ncarriage\rreturn\ttab\x08\x7f",
        b"\x1b[31mred\x1b[0m \x1b]0;title\x07 \xc2\x9b31m",
        "right \u{202e}ot tfel \u{2066}\u{200b}".as_bytes(),
        b"]]></failure><script>alert(1)</script>&amp;<!--",
        b"| table | `code` **bold** [link](http://example.com) ```",
        b"\n::error::injected\n::stop-commands::x",
        b"\\xff \\x5c \\n a backslash of its own",
        b"",
        b"'quoted' \"twice\" $(substituted) %0A::error::encoded",
        b"'); DROP TABLE findings; --\" OR '1'='1",
        b"\"} 1\n# TYPE injected gauge\ninjected{a=\"",
    ];
    all.iter().map(|bytes| OsString::from_vec(bytes.to_vec())).collect()
}

/// Undoes the escape of JSON and of the history: `\xNN` is a byte.
#[must_use]
#[track_caller]
pub fn unescaped(text: &Value) -> Vec<u8> {
    let mut rest = text.as_str().expect("a text");
    let mut bytes = Vec::new();
    while let Some(at) = rest.find("\\x") {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        bytes.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).expect("two hex digits"));
        rest = &rest[at + 4..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// Of each of a list.
#[must_use]
#[track_caller]
pub fn all_unescaped(texts: &Value) -> Vec<Vec<u8>> {
    texts.as_array().expect("a list").iter().map(unescaped).collect()
}

/// Nothing that a terminal or a reader of text is fooled by, other than line ends.
#[track_caller]
pub fn assert_harmless(what: &str, text: &[u8]) {
    let text = std::str::from_utf8(text).unwrap_or_else(|error| panic!("{what}: {error}"));
    let bad = |c: &char| {
        (c.is_control() && *c != '\n')
            || matches!(*c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let found: Vec<_> = text.chars().filter(bad).collect();
    assert!(found.is_empty(), "{what} holds {found:?}:\n{text:?}");
    for line in text.lines().filter(|line| line.starts_with("::")) {
        let own = ["::error title=tracer", "::warning title=tracer"];
        assert!(own.iter().any(|start| line.starts_with(start)), "{what}: {line}");
    }
}
