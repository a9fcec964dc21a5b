//! Calls that are open, for agents whose hooks are given no id of a call.
//!
//! One hook sees a call begin and another sees it end, and nothing but the call's tool and input
//! connects the two. They meet in a folder of the user's own: a file a call, without content,
//! whose name is the call's tool, input and id. It is there only while tracer listens.

use std::{
    fs::{self, DirBuilder, File},
    hash::{DefaultHasher, Hash, Hasher as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

/// What two hooks of the same call have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallKey {
    tool: u64,
    input: u64,
}

impl CallKey {
    /// The key of a call of this tool with this input, as it was written.
    #[must_use]
    pub fn of(tool: &str, input: &str) -> Self {
        Self { tool: hash(tool), input: hash((tool, input)) }
    }
}

/// The same in every process of one build, and that is enough: a call that an update of tracer
/// falls into is ended with its turn.
fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Knows which calls of a session are open.
pub trait OpenCalls {
    /// A new id, for a call that begins.
    fn begin(&mut self, session: &str, call: CallKey) -> String;
    /// The id of the call that ends: the last that began with this key, or else the only one open
    /// of this tool (another hook may have changed its input).
    fn end(&mut self, session: &str, call: CallKey) -> Option<String>;
    /// Nothing of the session is open any more.
    fn forget(&mut self, session: &str);
}

/// Files in a folder of the user's.
#[derive(Debug)]
pub struct OpenCallFiles {
    /// The folder. Nobody else may be able to write into it.
    folder: PathBuf,
    /// Whom the calls are announced to.
    listener: u64,
    /// Of the next call.
    id: String,
}

impl OpenCallFiles {
    /// Calls that are announced to this listener, kept below `runtime_folder`. `at` (ns of
    /// `CLOCK_BOOTTIME`) and `pid` are of the hook that asks: they make its call's id.
    #[must_use]
    pub fn new(runtime_folder: &Path, listener: &Path, at: u64, pid: u32) -> Self {
        let user = rustix::process::geteuid().as_raw();
        Self {
            folder: runtime_folder.join(format!("tracer-hooks-{user}")),
            listener: hash(listener),
            id: format!("gemini-{at:016x}-{pid}"),
        }
    }

    /// The session's folder, if the one that it is in is the user's alone.
    fn of_session(&self, session: &str) -> Option<PathBuf> {
        let about = fs::symlink_metadata(&self.folder).ok()?;
        let user = rustix::process::geteuid().as_raw();
        let own = about.is_dir() && about.uid() == user && about.mode() & 0o077 == 0;
        let name = format!("{:016x}", hash((self.listener, session)));
        own.then(|| self.folder.join(name))
    }

    fn remember(&self, session: &str, call: CallKey) -> Option<()> {
        let create = |folder: &Path| DirBuilder::new().mode(0o700).create(folder);
        let _ = create(&self.folder);
        let folder = self.of_session(session)?;
        let _ = create(&folder);
        let CallKey { tool, input } = call;
        let name = format!("{tool:016x}-{input:016x}-{}", self.id);
        File::create_new(folder.join(name)).ok().map(drop)
    }
}

/// The folder in which the user's runtime files are: `XDG_RUNTIME_DIR`, or else the one for
/// temporary files.
#[must_use]
pub fn runtime_folder() -> PathBuf {
    let set = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    set.filter(|path| path.is_absolute()).unwrap_or_else(std::env::temp_dir)
}

impl OpenCalls for OpenCallFiles {
    fn begin(&mut self, session: &str, call: CallKey) -> String {
        // Where that fails, the call is ended with its turn.
        let _ = self.remember(session, call);
        self.id.clone()
    }

    fn end(&mut self, session: &str, call: CallKey) -> Option<String> {
        let folder = self.of_session(session)?;
        let names = fs::read_dir(&folder).ok()?.flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let open: Vec<String> = names.collect();
        let claim = |name: &String| {
            // Whoever removes it has it.
            fs::remove_file(folder.join(name)).ok()?;
            name.splitn(3, '-').nth(2).map(str::to_owned)
        };
        let CallKey { tool, input } = call;
        let begun_with = |start: String| {
            let mut all: Vec<_> = open.iter().filter(|name| name.starts_with(&start)).collect();
            // Ids have the time at their start, in digits of one length.
            all.sort_unstable();
            all
        };
        let same = begun_with(format!("{tool:016x}-{input:016x}-"));
        if let Some(id) = same.iter().rev().find_map(|name| claim(name)) {
            return Some(id);
        }
        match begun_with(format!("{tool:016x}-"))[..] {
            [only] => claim(only),
            _ => None,
        }
    }

    fn forget(&mut self, session: &str) {
        if let Some(folder) = self.of_session(session) {
            let _ = fs::remove_dir_all(folder);
        }
        // Only where nothing of another session is in it.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Open calls without files.
#[cfg(test)]
#[derive(Default)]
pub(super) struct Fake {
    open: Vec<(String, CallKey, String)>,
    begun: u32,
}

#[cfg(test)]
impl OpenCalls for Fake {
    fn begin(&mut self, session: &str, call: CallKey) -> String {
        self.begun += 1;
        let id = format!("fake-{}", self.begun);
        self.open.push((session.to_owned(), call, id.clone()));
        id
    }

    fn end(&mut self, session: &str, call: CallKey) -> Option<String> {
        let of = |(of, key, _): &(String, CallKey, String)| of == session && *key == call;
        let at = self.open.iter().rposition(of)?;
        Some(self.open.remove(at).2)
    }

    fn forget(&mut self, session: &str) {
        self.open.retain(|(of, ..)| of != session);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn hook(folder: &Path, at: u64) -> OpenCallFiles {
        OpenCallFiles::new(folder, Path::new("/run/socket"), at, 7)
    }

    #[test]
    fn ending_call_is_found_by_another_hook() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (CallKey::of("shell", "{a}"), CallKey::of("shell", "{b}"));
        let first = hook(folder.path(), 1).begin("s", a);
        let second = hook(folder.path(), 2).begin("s", b);
        assert_eq!(hook(folder.path(), 3).end("s", a), Some(first));
        assert_eq!(hook(folder.path(), 4).end("s", b), Some(second));
        assert_eq!(hook(folder.path(), 5).end("s", b), None);
    }

    #[test]
    fn of_calls_with_the_same_input_the_last_ends_first() {
        let folder = tempfile::tempdir().unwrap();
        let call = CallKey::of("shell", "{}");
        // Times of different lengths in decimal digits.
        let begun: Vec<_> =
            [9, 10, 1 << 40].map(|at| hook(folder.path(), at).begin("s", call)).into();
        for id in begun.into_iter().rev() {
            assert_eq!(hook(folder.path(), 0).end("s", call), Some(id));
        }
    }

    #[test]
    fn changed_input_is_followed_only_where_one_call_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b, changed) =
            (CallKey::of("t", "a"), CallKey::of("t", "b"), CallKey::of("t", "changed"));
        let first = hook(folder.path(), 1).begin("s", a);
        assert_eq!(hook(folder.path(), 2).end("s", CallKey::of("u", "a")), None);
        assert_eq!(hook(folder.path(), 2).end("s", changed), Some(first));
        hook(folder.path(), 3).begin("s", a);
        hook(folder.path(), 4).begin("s", b);
        assert_eq!(hook(folder.path(), 5).end("s", changed), None);
    }

    #[test]
    fn sessions_and_listeners_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let call = CallKey::of("t", "a");
        hook(folder.path(), 1).begin("s", call);
        assert_eq!(hook(folder.path(), 2).end("other", call), None);
        let mut other = OpenCallFiles::new(folder.path(), Path::new("/run/other"), 2, 7);
        assert_eq!(other.end("s", call), None);
        other.forget("s");
        assert!(hook(folder.path(), 2).end("s", call).is_some());
    }

    #[test]
    fn forgotten_session_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let call = CallKey::of("t", "a");
        hook(folder.path(), 1).begin("s", call);
        hook(folder.path(), 2).forget("s");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn folder_that_others_can_write_into_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let call = CallKey::of("t", "a");
        hook(folder.path(), 1).begin("s", call);
        let own = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o770)).unwrap();
        assert_eq!(hook(folder.path(), 2).end("s", call), None);
        assert!(!hook(folder.path(), 3).begin("s", call).is_empty());
        fs::remove_dir_all(&own).unwrap();
        std::os::unix::fs::symlink("/tmp", &own).unwrap();
        hook(folder.path(), 4).begin("s", call);
        assert_eq!(hook(folder.path(), 5).end("s", call), None);
    }
}
