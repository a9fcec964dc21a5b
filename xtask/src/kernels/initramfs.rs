//! An initramfs: files of this host at their own places, as a cpio archive in the "newc" format
//! (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::command::output_of;

/// Links followed on the way to one file before they are called a circle; the kernel's own limit.
const MAX_LINKS: usize = 40;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// What lies at a path of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    Link(PathBuf),
    /// A file of the host.
    Host {
        path: PathBuf,
        permissions: u32,
        /// Seconds since 1970: Python trusts a compiled module only with its source's time.
        modified: u32,
    },
    /// A file made here.
    Made(Vec<u8>),
    Device {
        major: u32,
        minor: u32,
    },
}

/// An archive in the making.
#[derive(Debug, Default)]
pub(crate) struct Initramfs {
    entries: BTreeMap<PathBuf, Entry>,
    /// Programs and libraries whose own libraries are still to be added.
    dynamic: BTreeSet<PathBuf>,
}

impl Initramfs {
    /// An empty directory, with those above it.
    pub(crate) fn directory(&mut self, path: impl AsRef<Path>) {
        for folder in path.as_ref().ancestors().filter(|folder| folder.parent().is_some()) {
            self.entries.entry(folder.to_owned()).or_insert(Entry::Directory);
        }
    }

    /// A file with this content; no directory on its way may be a link.
    pub(crate) fn file(&mut self, path: impl AsRef<Path>, content: impl Into<Vec<u8>>) {
        self.put(path.as_ref(), Entry::Made(content.into()));
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: impl AsRef<Path>, target: impl Into<PathBuf>) {
        self.put(path.as_ref(), Entry::Link(target.into()));
    }

    /// A character device.
    pub(crate) fn device(&mut self, path: impl AsRef<Path>, major: u32, minor: u32) {
        self.put(path.as_ref(), Entry::Device { major, minor });
    }

    /// A file of the host, or a whole tree, at its own place, with the links on its way and the
    /// libraries it loads.
    pub(crate) fn host(&mut self, path: &Path) -> Result<()> {
        let real = self.follow(path).with_context(|| format!("cannot add {}", path.display()))?;
        self.real(&real, &real, &|_| true)
    }

    /// A tree of the host without what `wanted` refuses (paths of the host).
    pub(crate) fn host_tree(&mut self, path: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<()> {
        let real = self.follow(path).with_context(|| format!("cannot add {}", path.display()))?;
        self.real(&real, &real, wanted)
    }

    /// A file of the host at another place.
    pub(crate) fn host_as(&mut self, path: &Path, at: &Path) -> Result<()> {
        let real = fs::canonicalize(path).with_context(|| format!("no {}", path.display()))?;
        self.real(&real, at, &|_| true)
    }

    fn put(&mut self, path: &Path, entry: Entry) {
        if let Some(folder) = path.parent() {
            self.directory(folder);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Adds the directories and links on the way to `path`, and returns it free of links.
    fn follow(&mut self, path: &Path) -> Result<PathBuf> {
        let mut done = PathBuf::from("/");
        let mut left: Vec<PathBuf> = parts(path);
        let mut links = 0;
        while let Some(part) = left.pop() {
            if part == Path::new("..") {
                done.pop();
                continue;
            }
            let next = done.join(&part);
            let about =
                fs::symlink_metadata(&next).with_context(|| format!("no {}", next.display()))?;
            if about.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    bail!("links go in a circle");
                }
                let target = fs::read_link(&next)?;
                if target.is_absolute() {
                    done = PathBuf::from("/");
                }
                left.extend(parts(&target));
                self.link(&next, target);
            } else {
                if about.is_dir() {
                    self.directory(&next);
                }
                done = next;
            }
        }
        Ok(done)
    }

    /// Adds what lies at `path`, which no link leads through, as `at`.
    fn real(&mut self, path: &Path, at: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<()> {
        let about = fs::symlink_metadata(path).with_context(|| format!("no {}", path.display()))?;
        if about.is_symlink() {
            self.link(at, fs::read_link(path)?);
        } else if about.is_dir() {
            self.directory(at);
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                if wanted(&entry.path()) {
                    self.real(&entry.path(), &at.join(entry.file_name()), wanted)?;
                }
            }
        } else if about.is_file() {
            let modified = u32::try_from(about.mtime()).unwrap_or(0);
            let permissions = about.mode() & 0o7777;
            let known = Entry::Host { path: path.to_owned(), permissions, modified };
            self.put(at, known);
            self.needs_of(path)?;
        }
        Ok(())
    }

    /// Notes what a file needs in order to run: its libraries, or its interpreter.
    fn needs_of(&mut self, path: &Path) -> Result<()> {
        match head(path)? {
            Head::Elf => {
                self.dynamic.insert(path.to_owned());
            }
            Head::Script(interpreter) if interpreter.exists() => {
                if !self.entries.contains_key(&interpreter) {
                    self.host(&interpreter)?;
                }
            }
            Head::Script(_) | Head::Other => {}
        }
        Ok(())
    }

    /// Adds the shared libraries of everything so far, and theirs.
    pub(crate) fn libraries(&mut self) -> Result<()> {
        let mut asked = BTreeSet::new();
        loop {
            let new: Vec<_> = self.dynamic.difference(&asked).cloned().collect();
            if new.is_empty() {
                return Ok(());
            }
            for program in new {
                // ldd fails for what is static: then there is nothing to add.
                let listed = output_of(Command::new("ldd").arg(&program)).unwrap_or_default();
                for library in libraries_in(&listed)
                    .with_context(|| format!("{} cannot start here either", program.display()))?
                {
                    if !self.entries.contains_key(&library) {
                        self.host(&library)?;
                    }
                }
                asked.insert(program);
            }
        }
    }

    /// Writes the archive.
    pub(crate) fn write(&self, to: &Path) -> Result<()> {
        let mut out =
            BufWriter::new(File::create(to).with_context(|| format!("no {}", to.display()))?);
        for (number, (path, entry)) in self.entries.iter().enumerate() {
            let content = match entry {
                Entry::Host { path, .. } => {
                    fs::read(path).with_context(|| format!("cannot read {}", path.display()))?
                }
                Entry::Made(content) => content.clone(),
                Entry::Link(target) => target.as_os_str().as_encoded_bytes().to_vec(),
                Entry::Directory | Entry::Device { .. } => Vec::new(),
            };
            let name = path.strip_prefix("/").unwrap_or(path);
            let inode = u32::try_from(number + 1).context("too many files")?;
            write_member(&mut out, inode, name, entry, &content)?;
        }
        write_member(&mut out, 0, Path::new("TRAILER!!!"), &Entry::Made(Vec::new()), &[])?;
        out.flush().with_context(|| format!("cannot write {}", to.display()))
    }
}

/// The parts of a path, last first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let named = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut parts: Vec<_> = named.collect();
    parts.reverse();
    parts
}

/// What kind of file the kernel takes this for.
enum Head {
    Elf,
    Script(PathBuf),
    Other,
}

fn head(path: &Path) -> Result<Head> {
    let mut head = [0; 256];
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let length = io::Read::read(&mut file, &mut head)?;
    let head = &head[..length];
    if head.starts_with(b"\x7fELF") {
        return Ok(Head::Elf);
    }
    let Some(line) = head.strip_prefix(b"#!") else {
        return Ok(Head::Other);
    };
    let line = String::from_utf8_lossy(line.split(|&byte| byte == b'\n').next().unwrap_or(line));
    Ok(line.split_whitespace().next().map_or(Head::Other, |program| Head::Script(program.into())))
}

/// Paths in the output of ldd: `libc.so.6 => /lib/libc.so.6 (0x...)`, `/lib64/ld.so (0x...)`.
fn libraries_in(listed: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in listed.lines() {
        if line.contains("not found") {
            bail!("a library is missing: {}", line.trim());
        }
        let place = line.split_once("=> ").map_or(line, |(_, place)| place).trim();
        if let Some((path, _address)) = place.split_once(" (0x")
            && path.starts_with('/')
        {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

/// One member: a header of thirteen numbers in hexadecimal, the name, the content, each padded to
/// four bytes.
fn write_member(
    out: &mut impl Write,
    inode: u32,
    name: &Path,
    entry: &Entry,
    content: &[u8],
) -> Result<()> {
    let (mode, modified, major, minor) = match entry {
        Entry::Directory => (DIRECTORY | 0o755, 0, 0, 0),
        Entry::Link(_) => (LINK | 0o777, 0, 0, 0),
        Entry::Host { permissions, modified, .. } => (REGULAR | permissions, *modified, 0, 0),
        Entry::Made(_) => (REGULAR | 0o644, 0, 0, 0),
        Entry::Device { major, minor } => (CHARACTER_DEVICE | 0o600, 0, *major, *minor),
    };
    let name = name.as_os_str().as_encoded_bytes();
    let size = u32::try_from(content.len()).context("a file of 4 GiB does not fit")?;
    let name_size = u32::try_from(name.len() + 1).context("a name too long")?;
    let numbers = [inode, mode, 0, 0, 1, modified, size, 0, 0, major, minor, name_size, 0];
    let mut header = b"070701".to_vec();
    for number in numbers {
        write!(header, "{number:08X}")?;
    }
    header.extend(name);
    header.push(0);
    for bytes in [&header[..], content] {
        out.write_all(bytes)?;
        out.write_all(&[0; 3][..padding(bytes.len())])?;
    }
    Ok(())
}

fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_padded_to_four_bytes() {
        for (length, expected) in [(0, 0), (1, 3), (2, 2), (3, 1), (4, 0), (109, 3)] {
            assert_eq!(padding(length), expected, "{length}");
        }
    }

    #[test]
    fn member_is_written_as_the_kernel_reads_it() {
        let mut out = Vec::new();
        let entry = Entry::Made(b"hello".to_vec());
        write_member(&mut out, 7, Path::new("etc/greeting"), &entry, b"hello").unwrap();
        let header = "070701\
                      00000007000081A4000000000000000000000001\
                      0000000000000005000000000000000000000000000000000000000D00000000";
        let mut expected = header.as_bytes().to_vec();
        // 110 bytes of header and 13 of name leave 1 of padding, 5 of content leave 3.
        expected.extend(b"etc/greeting\0\0hello\0\0\0");
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected));
    }

    #[test]
    fn links_on_the_way_are_kept_and_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        fs::write(root.join("usr/lib/thing.1"), "content").unwrap();
        std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
        std::os::unix::fs::symlink("thing.1", root.join("usr/lib/thing")).unwrap();
        let mut image = Initramfs::default();
        image.host(&root.join("lib/thing")).unwrap();
        let at = |path: &str| image.entries.get(&root.join(path));
        assert_eq!(at("lib"), Some(&Entry::Link("usr/lib".into())));
        assert_eq!(at("usr/lib"), Some(&Entry::Directory));
        assert_eq!(at("usr/lib/thing"), Some(&Entry::Link("thing.1".into())));
        assert!(matches!(at("usr/lib/thing.1"), Some(Entry::Host { .. })));
        assert!(image.host(&root.join("nothing")).is_err());
    }

    #[test]
    fn links_in_a_circle_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("link", &link).unwrap();
        let error = Initramfs::default().host(&link).unwrap_err();
        assert!(format!("{error:#}").contains("circle"), "{error:#}");
    }

    #[test]
    fn libraries_are_read_from_ldd() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                      \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f12)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f34)\n\tstatically linked\n";
        let found = libraries_in(listed).unwrap();
        assert_eq!(
            found,
            [
                Path::new("/lib/x86_64-linux-gnu/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert!(libraries_in("\tlibz.so.1 => not found\n").is_err());
    }

    #[test]
    fn program_brings_its_libraries() {
        let mut image = Initramfs::default();
        image.host(&std::env::current_exe().unwrap()).unwrap();
        image.libraries().unwrap();
        let has = |name: &str| image.entries.keys().any(|path| path.ends_with(name));
        assert!(has("libc.so.6"), "{:?}", image.entries.keys());
    }

    #[test]
    fn directories_come_before_what_is_in_them_and_the_trailer_last() {
        let folder = tempfile::tempdir().unwrap();
        let mut image = Initramfs::default();
        image.file("/etc/greeting", "hello");
        image.device("/dev/console", 5, 1);
        image.link("/bin", "usr/bin");
        let archive = folder.path().join("archive");
        image.write(&archive).unwrap();
        let bytes = fs::read(&archive).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let names = ["bin\0", "dev\0", "dev/console\0", "etc\0", "etc/greeting\0", "TRAILER!!!\0"];
        let places: Vec<_> = names.iter().map(|name| text.find(name).expect(name)).collect();
        assert!(places.is_sorted(), "{places:?}");
        assert_eq!(text.matches("070701").count(), names.len());
        assert_eq!(bytes.len() % 4, 0);
    }
}
