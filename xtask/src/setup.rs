//! `cargo xtask setup`: brings a BPF toolchain and the programs that tests run, once.
//!
//! Each thing installed is said in a line with its reason. Tools go below `target/tools` of the
//! checkout; the record that `tracer/build.rs` reads is written last, so that it never promises
//! what is not there.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    command::{Root, cargo, find_program, output_of, run_quietly},
    host::{self, Host, SYSTEM_RUSTC},
    kernels::qemu::{PROGRAM, Qemu},
    plan::{self, Linker, Package, Plan, Route},
    toolchain::{BPF_LINKER, NIGHTLY, Origin, RECORD, Rustc, Toolchain},
};

/// Makes sure of everything and reports what there is.
pub(crate) fn setup(root: &Path) -> Result<()> {
    let Toolchain { rustc_version, .. } = ensure(root)?;
    eprintln!("setup: ready: {rustc_version}; bpf-linker {BPF_LINKER}");
    Ok(())
}

/// Makes sure of everything in the workspace at `root`, and is silent where all is there.
pub(crate) fn ensure(root: &Path) -> Result<Toolchain> {
    let recorded = Toolchain::load(root);
    if let Ok(toolchain) = recorded {
        install_tools(&host::missing_tools());
        return Ok(toolchain);
    }

    let mut host = Host::probe();
    let mut routes = plan::routes(&host);
    // Package lists may be absent (a container image) or old: look again before giving up on the
    // first choice.
    let first_choice_is_closed = routes.first().is_some_and(|(_, plan)| plan.is_err());
    if first_choice_is_closed && host.apt.is_some() && host.root != Root::No {
        eprintln!("setup: apt-get update, to learn which packages there are");
        update_lists(host.root)?;
        host = Host::probe();
        routes = plan::routes(&host);
    }
    install_tools(&host.missing_tools);
    let toolchain = take_first(routes, host.root, root)?;
    write_record(&toolchain, root)?;
    Ok(toolchain)
}

/// Makes sure of what `cargo xtask kernels` boots virtual machines with; nothing else needs it.
///
/// Where qemu cannot be installed, because a package of the host is in its way, it is unpacked into
/// `target/tools`.
pub(crate) fn ensure_virtual_machines(root: &Path) -> Result<Qemu> {
    if env::consts::ARCH != "x86_64" {
        bail!("Debian's cloud kernels are run on x86_64 only, this is {}", env::consts::ARCH);
    }
    let beside = root.join("target/tools/qemu");
    let mut qemu = Qemu::unpacked(&beside).unwrap_or(Qemu::Installed);
    for tool in &plan::MACHINE_TOOLS {
        let is_qemu = tool.place == PROGRAM;
        if tool.is_there() || is_qemu && qemu != Qemu::Installed {
            continue;
        }
        match install_for("virtual machines", &[Package::new(tool.package, tool.why)]) {
            Ok(()) if tool.is_there() => {}
            Ok(()) => bail!("{} is installed, and there is still no {}", tool.package, tool.place),
            Err(error) if is_qemu => {
                eprintln!("setup: {} cannot be installed here, so it is unpacked", tool.package);
                unpack(tool.package, &beside).with_context(|| format!("{error:#}"))?;
                let unpacked = Qemu::unpacked(&beside);
                qemu = unpacked.with_context(|| format!("{} has no {PROGRAM}", tool.package))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(qemu)
}

/// Unpacks a Debian package, and those that it needs and that are not installed, into a folder.
fn unpack(package: &str, folder: &Path) -> Result<()> {
    let archives = tempfile::tempdir()?;
    fs::create_dir_all(archives.path().join("partial"))?;
    let cache = format!("Dir::Cache::archives={}", archives.path().display());
    // Nothing is installed or removed. What apt fetches as a user of its own could not be put there.
    let fetch = ["-o", &cache, "-o", "APT::Sandbox::User=root", "--download-only", "--yes"];
    let mut command = apt_get(Root::probe(), &fetch)?;
    command.args(["--quiet", "--no-install-recommends", "install", package]);
    run_quietly(&mut command)?;
    // What has that name is whole.
    let new = folder.with_extension("new");
    fs::create_dir_all(&new)?;
    for entry in fs::read_dir(archives.path())? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "deb") {
            run_quietly(Command::new("dpkg").arg("-x").arg(path).arg(&new))?;
        }
    }
    Ok(fs::rename(new, folder)?)
}

/// Makes sure of what compiles libFuzzer; only `cargo xtask fuzz` needs it.
pub(crate) fn ensure_cpp_compiler() -> Result<()> {
    if env::var_os("CXX").is_some() || find_program("c++").is_some() {
        return Ok(());
    }
    install_for("fuzz targets", &[Package::new("g++", "compiles libFuzzer")])
}

/// Installs what only `what` needs, or says why not.
fn install_for(what: &str, packages: &[Package]) -> Result<()> {
    let names: Vec<_> = packages.iter().map(|package| package.name.as_str()).collect();
    let names = names.join(" ");
    let root = Root::probe();
    if find_program("apt-get").is_none() {
        bail!("{what} need Debian's {names}, and there is no apt here");
    }
    if root == Root::No {
        bail!("{what} need {names}; install them as root, or run cargo xtask as root");
    }
    install_packages(packages, root)
}

/// Follows the routes until one leads to a toolchain.
fn take_first(routes: Vec<Route>, as_root: Root, root: &Path) -> Result<Toolchain> {
    let mut failures = Vec::new();
    for (origin, plan) in routes {
        let name = match origin {
            Origin::Debian => "the distribution's rustc with a core library for BPF",
            Origin::Nightly => "a nightly Rust from rustup",
        };
        let outcome =
            plan.map_err(|reason| anyhow!(reason)).and_then(|plan| follow(&plan, as_root, root));
        match outcome {
            Ok(toolchain) => return Ok(toolchain),
            Err(failure) => failures.push(format!("  - {name}: {failure:#}")),
        }
    }
    bail!(
        "no BPF toolchain can be had on this host; tried:\n{}\nmend one of these and run `cargo \
         xtask setup` again",
        failures.join("\n")
    )
}

/// Installs what `plan` says.
fn follow(plan: &Plan, as_root: Root, root: &Path) -> Result<Toolchain> {
    let Plan { origin, packages, linker } = plan;
    install_packages(packages, as_root)?;
    let (rustc, cargo, cargo_args) = match origin {
        Origin::Debian => (PathBuf::from(SYSTEM_RUSTC), None, Vec::new()),
        Origin::Nightly => {
            let (rustc, cargo) = install_nightly()?;
            let cargo_args = vec!["-Z".to_owned(), "build-std=core".to_owned()];
            (rustc, Some(cargo), cargo_args)
        }
    };
    let version = match origin {
        Origin::Debian => host::bpf_rustc(&rustc)
            .with_context(|| format!("{} has no core library for BPF", rustc.display()))?,
        Origin::Nightly => {
            Rustc::ask(&rustc).map_err(|problem| anyhow!("the BPF toolchain {problem}"))?
        }
    };
    let linker = match linker {
        Linker::Ready(path) => path.clone(),
        Linker::Build(llvm) if llvm.major < version.llvm => bail!(
            "{version} is newer than LLVM {}, which bpf-linker would be built with",
            llvm.major
        ),
        Linker::Build(llvm) => build_linker(llvm, root)?,
    };
    Ok(Toolchain {
        origin: *origin,
        rustc,
        rustc_version: version.to_string(),
        cargo,
        linker,
        cargo_args,
    })
}

/// Installs what tests need, or says what is missing where it cannot: a build does not need it.
fn install_tools(missing: &[Package]) {
    if missing.is_empty() {
        return;
    }
    let root = Root::probe();
    if find_program("apt-get").is_some() && root != Root::No {
        match install_packages(missing, root) {
            Ok(()) => return,
            Err(error) => eprintln!("setup: {error:#}"),
        }
    }
    for Package { name, why } in missing {
        eprintln!("setup: {name} is missing ({why}); install it before you run the tests");
    }
}

fn install_packages(packages: &[Package], as_root: Root) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    for Package { name, why } in packages {
        eprintln!("setup: apt package {name}: {why}");
    }
    let install = || {
        let mut command = apt_get(as_root, &["install", "--yes", "--quiet"])?;
        command
            // Never at the price of something that the user has installed.
            .args(["--no-install-recommends", "--no-remove"])
            .args(packages.iter().map(|package| &package.name));
        run_quietly(&mut command)
    };
    install().or_else(|_| {
        // Old package lists name files that the mirror has replaced since.
        update_lists(as_root)?;
        install()
    })
}

/// One broken source of many makes it fail; what the others offer may well do.
fn update_lists(as_root: Root) -> Result<()> {
    if let Err(error) = run_quietly(&mut apt_get(as_root, &["update", "--quiet"])?) {
        eprintln!("setup: going on with the package lists at hand: {error:#}");
    }
    Ok(())
}

/// `apt-get` that asks nothing and waits for another one to finish.
fn apt_get(as_root: Root, arguments: &[&str]) -> Result<Command> {
    let mut command = as_root.command(Path::new("env"))?;
    command
        .args(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", "apt-get"])
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(arguments);
    Ok(command)
}

/// Makes sure of the pinned nightly and returns its rustc and cargo.
fn install_nightly() -> Result<(PathBuf, PathBuf)> {
    let which = |program| {
        output_of(Command::new("rustup").args(["which", "--toolchain", NIGHTLY, program]))
            .map(|path| PathBuf::from(path.trim()))
    };
    let has_sources = which("rustc")
        .and_then(|rustc| output_of(Command::new(rustc).args(["--print", "sysroot"])))
        .is_some_and(|sysroot| {
            Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").exists()
        });
    if !has_sources {
        eprintln!(
            "setup: {NIGHTLY} with rust-src, by rustup: compiles the kernel programs and Rust's \
             core library for BPF; your default toolchain stays"
        );
        run_quietly(Command::new("rustup").args([
            "toolchain",
            "install",
            NIGHTLY,
            "--no-self-update",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ]))?;
    }
    which("rustc").zip(which("cargo")).with_context(|| {
        format!("rustup installed {NIGHTLY} but does not find its rustc and cargo")
    })
}

/// Builds the pinned bpf-linker with `llvm` into `target/tools`; cargo does it once.
fn build_linker(llvm: &host::Llvm, root: &Path) -> Result<PathBuf> {
    let tools = root.join("target/tools");
    let linker = tools.join("bin/bpf-linker");
    let build = tools.join("bpf-linker-build");
    let host::Llvm { major, prefix } = llvm;

    let mut command = cargo();
    command
        .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked"])
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{major}"))
        .arg("--root")
        .arg(&tools)
        .arg("--target-dir")
        .arg(&build)
        // bpf-linker's build finds libLLVM.so by this one.
        .env("LLVM_PREFIX", prefix)
        .env_remove("RUSTFLAGS");
    if !host::is_pinned_linker(&linker) {
        eprintln!(
            "setup: bpf-linker {BPF_LINKER} into target/tools, built with LLVM {major} (about a \
             minute): links the kernel programs"
        );
        // Where there is one that does not start, its LLVM has gone.
        command.arg("--force");
    }
    run_quietly(&mut command)?;
    // Nothing needs it again; a leftover would only take room.
    if let Err(error) = fs::remove_dir_all(&build)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("setup: cannot remove {}: {error}", build.display());
    }
    if !host::is_pinned_linker(&linker) {
        bail!("{} was built but does not start", linker.display());
    }
    Ok(linker)
}

/// Replaces the record as a whole, so that a build at the same time never reads half of it.
fn write_record(toolchain: &Toolchain, root: &Path) -> Result<()> {
    let record = root.join(RECORD);
    let next = record.with_extension(format!("{}", std::process::id()));
    record
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(&next, toolchain.to_string()))
        .and_then(|()| fs::rename(&next, &record))
        .with_context(|| format!("cannot write {}", record.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_is_written_whole_and_leaves_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let toolchain = Toolchain {
            origin: Origin::Debian,
            rustc: SYSTEM_RUSTC.into(),
            rustc_version: "rustc 1.96.0, LLVM 22".to_owned(),
            cargo: None,
            linker: "/tools/bin/bpf-linker".into(),
            cargo_args: Vec::new(),
        };
        for _ in 0..2 {
            write_record(&toolchain, root.path()).unwrap();
        }
        let record = fs::read_to_string(root.path().join(RECORD)).unwrap();
        assert_eq!(Toolchain::parse(&record), Ok(toolchain));
        let tools = root.path().join("target/tools");
        assert_eq!(fs::read_dir(tools).unwrap().count(), 1);
    }

    #[test]
    fn host_with_no_route_is_told_each_one() {
        let routes = vec![
            (Origin::Debian, Err("there is no apt".to_owned())),
            (Origin::Nightly, Err("rustup is not installed".to_owned())),
        ];
        let error = take_first(routes, Root::No, Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("there is no apt"), "{error}");
        assert!(error.contains("rustup is not installed"), "{error}");
        assert!(error.contains("cargo xtask setup"), "{error}");
    }
}
