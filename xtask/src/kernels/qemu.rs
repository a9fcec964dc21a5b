//! A virtual machine: a kernel and an image in, lines out.
//!
//! By software emulation only: whether `/dev/kvm` works differs from host to host, a boot takes a
//! few seconds either way.

use std::{
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Result;

/// The program, in Debian's package `qemu-system-x86`.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// Memory of a machine. Its files are in memory, too.
const MEMORY: &str = "3G";

/// Processors of a machine.
pub(crate) const PROCESSORS: usize = 2;

/// Where the program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Qemu {
    /// In `PATH`.
    Installed,
    /// In a folder that packages were unpacked into.
    Unpacked(PathBuf),
}

impl Qemu {
    /// The one that was unpacked into this folder, if one was.
    pub(crate) fn unpacked(folder: &Path) -> Option<Self> {
        let is_there = folder.join("usr/bin").join(PROGRAM).is_file();
        is_there.then(|| Self::Unpacked(folder.to_owned()))
    }

    fn command(&self) -> Command {
        let Self::Unpacked(folder) = self else { return Command::new(PROGRAM) };
        let mut command = Command::new(folder.join("usr/bin").join(PROGRAM));
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        let libraries = libraries.map(|place| folder.join(place));
        let [modules, _] = &libraries;
        command.env("QEMU_MODULE_DIR", modules.join("qemu"));
        let paths: Vec<_> = libraries.iter().map(|path| path.as_os_str()).collect();
        command.env("LD_LIBRARY_PATH", paths.join(OsStr::new(":")));
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(folder.join(firmware));
        }
        command
    }
}

/// A machine that still has to be started.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    /// What runs it.
    pub(crate) qemu: &'a Qemu,
    /// The kernel.
    pub(crate) image: &'a Path,
    /// The initramfs; its `/init` is the first process.
    pub(crate) initramfs: &'a Path,
    /// Where the kernel's messages go.
    pub(crate) console: PathBuf,
}

impl Machine<'_> {
    /// The command that runs the machine until it switches itself off. The guest's second serial
    /// line is its standard output.
    pub(crate) fn command(&self) -> Result<Command> {
        let Self { qemu, image, initramfs, console } = self;
        // Made first: an error of qemu's own would say less.
        File::create(console)?;
        let mut command = qemu.command();
        command
            // All processors of the guest in one thread. In several, a processor of the guest may
            // execute an instruction that another has replaced a while ago, and the kernel, which
            // replaces its own when a hook is attached, then dies of it ("Oops: int3").
            .args(["-accel", "tcg,thread=single", "-machine", "pc", "-m", MEMORY])
            // The newest instructions, without five-level page tables, which only cost time.
            .args(["-cpu", "max,la57=off", "-smp", &PROCESSORS.to_string()])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .arg("-serial")
            .arg(option("file:", console))
            .args(["-chardev", "stdio,id=results,signal=off", "-serial", "chardev:results"])
            .arg("-kernel")
            .arg(image)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", &command_line()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        Ok(command)
    }
}

/// The kernel's command line; what follows the dashes are arguments of the first process.
fn command_line() -> String {
    let options = [
        "console=ttyS0",
        "rdinit=/init",
        // End at once, which -no-reboot makes the end of qemu.
        "panic=-1",
        // The emulated processor's random numbers will do: nobody else has any this early.
        "random.trust_cpu=on",
        // The emulated timer may be late in the boot's check of it.
        "no_timer_check",
        // The watchdog of clocks would find the emulated counter of cycles late on a busy host, and
        // turn to a clock that is slow to read.
        "tsc=reliable",
        // Emulated processors stand still whenever the host has other things to do.
        "rcupdate.rcu_cpu_stall_suppress=1",
        "nowatchdog",
        // What guards against other users of the processor only costs time here.
        "mitigations=off",
        "-- guest",
    ];
    options.join(" ")
}

fn option(prefix: &str, path: &Path) -> std::ffi::OsString {
    // qemu takes a doubled comma for one.
    let path = path.to_string_lossy().replace(',', ",,");
    format!("{prefix}{path}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacked_one_runs_with_its_own_libraries_and_firmware() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Qemu::unpacked(folder.path()), None);
        let program = folder.path().join("usr/bin").join(PROGRAM);
        std::fs::create_dir_all(program.parent().unwrap()).unwrap();
        std::fs::write(&program, "").unwrap();
        let qemu = Qemu::unpacked(folder.path()).unwrap();
        let command = qemu.command();
        assert_eq!(command.get_program(), program);
        let libraries = command.get_envs().find(|(name, _)| *name == "LD_LIBRARY_PATH");
        let libraries = libraries.and_then(|(_, value)| value).unwrap().to_string_lossy();
        let places: Vec<_> = libraries.split(':').map(Path::new).collect();
        assert!(places.iter().all(|place| place.starts_with(folder.path())), "{places:?}");
        assert_eq!(command.get_args().filter(|argument| *argument == "-L").count(), 2);
    }

    #[test]
    fn commas_in_paths_do_not_end_an_option() {
        assert_eq!(option("file:", Path::new("/a,b/c")), "file:/a,,b/c");
    }

    #[test]
    fn first_process_is_told_that_it_is_a_guest() {
        assert!(command_line().ends_with(" -- guest"));
    }
}
