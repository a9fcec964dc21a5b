//! Secrets in arguments: found by what they are called or look like, and left out of everything that
//! is kept or told, recordings too.
//!
//! Whoever can read `/proc` can read them all the same; a report goes further than that.

use std::{borrow::Cow, sync::OnceLock};

use regex::bytes::{Captures, Regex};
use thiserror::Error;

/// What stands in the place of a secret.
const REDACTED: &[u8] = b"[redacted]";

/// Names of options, variables and headers whose value is a secret, at the end of a longer name too.
const NAMED: &str = r"(?:api[-_.]?key|access[-_.]?key|secret[-_.]?key|private[-_.]?key|client[-_.]?secret|secret|token|passw(?:or)?d|passphrase|credentials?|auth[-_.]?key|bearer)";

/// Tokens that say themselves what they are: of model providers, forges, clouds, chat, and JWT.
const SHAPED: &str = r"(?:\b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}|\bgh[opsur]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bglpat-[A-Za-z0-9_-]{16,}|\bxox[a-z]-[A-Za-z0-9-]{10,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[0-9A-Za-z_-]{30,}|\bnpm_[A-Za-z0-9]{30,}|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*)";

/// A pattern is none.
#[derive(Debug, Error)]
#[error("use the pattern {pattern:?} to leave out secrets: {source}")]
pub struct PatternError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub source: Box<regex::Error>,
}

/// Leaves out secrets.
#[derive(Debug)]
pub struct Redactor {
    /// `None`: leaves out nothing.
    own: Option<Own>,
    /// Patterns of users.
    more: Vec<Regex>,
}

/// The patterns that come with tracer. Every line is looked at, and few hold a secret.
#[derive(Clone, Debug)]
struct Own {
    /// Fits whatever one of the exact patterns fits, alone or with more around it.
    any: Regex,
    /// Made when they are needed: that takes a good part of what a short run takes.
    exact: OnceLock<Exact>,
}

#[derive(Clone, Debug)]
struct Exact {
    patterns: [Regex; 4],
    /// An option or header whose value is the next argument.
    asks_for_next: Regex,
}

impl Own {
    fn new() -> Self {
        let shaped = SHAPED.replace(r"\b", "");
        let any = Exact::compile(&format!("(?i:{NAMED}|basic)|://|{shaped}"));
        Self { any, exact: OnceLock::new() }
    }

    /// The exact patterns, where they may have something to say.
    fn exact(&self, text: &[u8]) -> Option<&Exact> {
        self.any.is_match(text).then(|| self.exact.get_or_init(Exact::new))
    }
}

impl Exact {
    /// What is added here must also be in [`Own::any`].
    fn new() -> Self {
        // `--api-key=x`, `API_KEY=x`, `password: x`, and `--api-key x` within one argument; the value
        // ends where a word does, or its quotes.
        let value = r#"(?:"(?P<quoted>[^"]+)"|'(?P<single>[^']+)'|(?P<secret>[^\s"'&;|]+))"#;
        let patterns = [
            format!(r"(?i)\b[\w.-]*{NAMED}(?:\s*[=:]\s*|\s+){value}"),
            r"(?i)\b(?:bearer|basic)\s+(?P<secret>[A-Za-z0-9._~+/=-]{8,})".to_owned(),
            r"://[^/\s:@]*:(?P<secret>[^/\s@]+)@".to_owned(),
            format!("(?P<secret>{SHAPED})"),
        ];
        Self {
            patterns: patterns.map(|pattern| Self::compile(&pattern)),
            asks_for_next: Self::compile(&format!(r"(?i)^-{{1,2}}[\w.-]*{NAMED}$")),
        }
    }

    fn compile(pattern: &str) -> Regex {
        Regex::new(pattern).expect("a test makes every one")
    }
}

impl Redactor {
    /// Leaves out nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { own: None, more: Vec::new() }
    }

    /// Leaves out what looks like a secret, and what fits these regular expressions: all of it, or,
    /// where they have a group `secret`, that.
    ///
    /// # Errors
    /// One of them is no regular expression.
    pub fn with(more: &[String]) -> Result<Self, PatternError> {
        let compile = |pattern: &String| {
            Regex::new(pattern).map_err(|source| PatternError {
                pattern: pattern.to_owned(),
                source: Box::new(source),
            })
        };
        Ok(Self {
            own: Some(Own::new()),
            more: more.iter().map(compile).collect::<Result<_, _>>()?,
        })
    }

    /// One text, as a summary or a command line.
    #[must_use]
    pub fn text<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        let exact = self.own.as_ref().and_then(|own| own.exact(text));
        let own = exact.into_iter().flat_map(|exact| &exact.patterns);
        let mut text = Cow::Borrowed(text);
        for pattern in own.chain(&self.more) {
            if let Cow::Owned(clean) = pattern.replace_all(&text, cut) {
                text = Cow::Owned(clean);
            }
        }
        text
    }

    /// The same of a string.
    #[must_use]
    pub fn string(&self, text: String) -> String {
        match self.text(text.as_bytes()) {
            Cow::Borrowed(_) => text,
            Cow::Owned(clean) => String::from_utf8_lossy(&clean).into_owned(),
        }
    }

    /// Leaves out of NUL-separated arguments what is to be left out.
    pub fn clean(&self, args: &mut Vec<u8>) {
        if let Some(clean) = self.arguments(args) {
            *args = clean;
        }
    }

    /// NUL-separated arguments; `None` where nothing is to be left out.
    #[must_use]
    pub fn arguments(&self, args: &[u8]) -> Option<Vec<u8>> {
        let exact = self.own.as_ref()?.exact(args);
        if exact.is_none() && self.more.is_empty() {
            return None;
        }
        let mut clean = Vec::with_capacity(args.len());
        let (mut is_value, mut changed) = (false, false);
        for (index, arg) in args.split(|&byte| byte == 0).enumerate() {
            if index > 0 {
                clean.push(0);
            }
            // An option that has none is followed by another.
            if is_value && !arg.is_empty() && !arg.starts_with(b"-") {
                clean.extend_from_slice(REDACTED);
                changed = true;
            } else {
                let told = self.text(arg);
                changed |= matches!(told, Cow::Owned(_));
                clean.extend_from_slice(&told);
            }
            is_value = exact.is_some_and(|exact| exact.asks_for_next.is_match(arg));
        }
        changed.then_some(clean)
    }

    /// A command line, a word each.
    #[must_use]
    pub fn line(&self, words: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        match self.arguments(&words.join(&0)) {
            Some(clean) => clean.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect(),
            None => words,
        }
    }
}

/// What a pattern found without the secret in it.
fn cut(found: &Captures<'_>) -> Vec<u8> {
    let Some(whole) = found.get(0) else { return Vec::new() };
    let secret = ["secret", "quoted", "single"].iter().find_map(|name| found.name(name));
    let secret = secret.unwrap_or(whole);
    let bytes = whole.as_bytes();
    let (from, to) = (secret.start() - whole.start(), secret.end() - whole.start());
    [&bytes[..from], REDACTED, &bytes[to..]].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(words: &[&str]) -> String {
        let redactor = Redactor::with(&["internal-(?P<secret>[0-9]+)".to_owned()]).unwrap();
        let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        String::from_utf8(redactor.line(words).join(&b'|')).unwrap()
    }

    #[test]
    fn secrets_are_left_out_and_the_rest_stays() {
        for (words, told) in [
            (&["curl", "--api-key", "s3cr3t", "-v"][..], "curl|--api-key|[redacted]|-v"),
            (&["x", "--api-key=s3cr3t"], "x|--api-key=[redacted]"),
            (&["x", "--openai-api-key", "s3cr3t"], "x|--openai-api-key|[redacted]"),
            (&["x", "--no-token", "--next"], "x|--no-token|--next"),
            (&["env", "MY_API_KEY=s3cr3t", "A=b"], "env|MY_API_KEY=[redacted]|A=b"),
            (
                &["sh", "-c", "curl -H 'Authorization: Bearer abcdefgh12345' http://x"],
                "sh|-c|curl -H 'Authorization: Bearer [redacted]' http://x",
            ),
            (&["sh", "-c", "DB_PASSWORD='a b' run; ls"], "sh|-c|DB_PASSWORD='[redacted]' run; ls"),
            (&["sh", "-c", "run --token s3cr3t && ls"], "sh|-c|run --token [redacted] && ls"),
            (&["psql", "postgres://me:s3cr3t@host/db"], "psql|postgres://me:[redacted]@host/db"),
            (&["x", "sk-abcdefghijklmnop0123"], "x|[redacted]"),
            (&["x", "ghp_abcdefghijklmnopqrstuvwx"], "x|[redacted]"),
            (&["x", "internal-12345"], "x|internal-[redacted]"),
            // Nothing that is one.
            (&["node", "server.js", "--port", "3000"], "node|server.js|--port|3000"),
            (&["git", "commit", "-m", "Add tokens"], "git|commit|-m|Add tokens"),
            (&["cargo", "test", "tokenizer"], "cargo|test|tokenizer"),
            (&["x", "", "--key"], "x||--key"),
        ] {
            assert_eq!(line(words), told, "{words:?}");
        }
    }

    #[test]
    fn without_it_nothing_is_left_out() {
        assert_eq!(Redactor::none().arguments(b"x\0--api-key\0s3cr3t\0"), None);
    }

    #[test]
    fn wrong_pattern_is_named() {
        let error = Redactor::with(&["(".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("\"(\""), "{error}");
    }

    /// What the exact patterns say of each argument, whether one is needed or not.
    fn by_exact_patterns(args: &[u8], more: &[String]) -> Vec<u8> {
        let Exact { patterns, asks_for_next } = Exact::new();
        let more: Vec<_> = more.iter().map(|pattern| Regex::new(pattern).unwrap()).collect();
        let mut is_value = false;
        let mut told = Vec::new();
        for arg in args.split(|&byte| byte == 0) {
            let mut clean = arg.to_vec();
            if is_value && !arg.is_empty() && !arg.starts_with(b"-") {
                clean = REDACTED.to_vec();
            } else {
                for pattern in patterns.iter().chain(&more) {
                    clean = pattern.replace_all(&clean, cut).into_owned();
                }
            }
            is_value = asks_for_next.is_match(arg);
            told.push(clean);
        }
        told.join(&0)
    }

    /// Arguments of the pieces that secrets are made of.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let named = "--|-|(?i:api[-_.]?key|toKen|\u{212a}ey|\u{17f}ecret|pa\u{17f}sword|passwd|passphrase|bearer|ba\u{17f}ic|auth_key)|credentials";
        let shaped =
            "sk-|ghp_|github_pat_|glpat-|xoxb-|AKIA|AIza|npm_|eyJ|[A-Z0-9]{16}|[a-z0-9]{8}[.]";
        let others = "\u{0}|\u{0}|=|: | |://|@|[\"']|[a-z-]{1,9}|\u{e4}|me:";
        let piece = prop_oneof![
            named.prop_map(String::into_bytes),
            shaped.prop_map(String::into_bytes),
            others.prop_map(String::into_bytes),
            others.prop_map(String::into_bytes),
            Just(vec![0xff]),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn every_argument_gets_what_the_exact_patterns_say(args in pieces(), is_own: bool) {
            let more = if is_own { vec!["^me(?P<secret>.)$".to_owned()] } else { Vec::new() };
            let told = Redactor::with(&more).unwrap().arguments(&args);
            prop_assert_eq!(told.as_ref().unwrap_or(&args), &by_exact_patterns(&args, &more));
        }

        #[test]
        fn number_of_arguments_stays(words in prop::collection::vec("[a-z=: '\"-]{0,12}", 1..6)) {
            let redactor = Redactor::with(&[]).unwrap();
            let words: Vec<Vec<u8>> = words.into_iter().map(String::into_bytes).collect();
            prop_assert_eq!(redactor.line(words.clone()).len(), words.len());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let redactor = Redactor::with(&[]).unwrap();
            let _ = redactor.arguments(&bytes);
        }
    }
}
