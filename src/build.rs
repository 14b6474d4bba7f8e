//! Sets the version that `--version` and the result record show: `0.2.0`, followed by `+1a2b3c4`
//! if the source is a git checkout. Links the unwinder of panics statically.

#![allow(clippy::print_stdout, reason = "cargo reads a build script's stdout")]

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let version = env!("CARGO_PKG_VERSION");
    println!("cargo::rerun-if-changed=src/build.rs");
    match commit() {
        Some(commit) => println!("cargo::rustc-env=SORTIE_VERSION={version}+{commit}"),
        None => println!("cargo::rustc-env=SORTIE_VERSION={version}"),
    }
    if let Some(folder) = unwinder() {
        println!("cargo::rustc-link-search=native={}", folder.display());
        println!("cargo::rustc-link-lib=static:-bundle=gcc_eh");
    }
}

/// Returns the folder of GCC's static unwinder, if the linker is GCC or finds its libraries. Without it, each start loads
/// `libgcc_s.so` for that, which takes a fifteenth of the time of a short run.
fn unwinder() -> Option<PathBuf> {
    let set = |name: &str| env::var(name).unwrap_or_default();
    // For another machine, the linker may name a library of this one. A static binary has the unwinder anyway.
    let is_native = set("HOST") == set("TARGET") && set("CARGO_CFG_TARGET_OS") == "linux";
    if !is_native || set("CARGO_CFG_TARGET_ENV") != "gnu" || set("CARGO_CFG_TARGET_FEATURE").contains("crt-static")
    {
        return None;
    }
    let linker = env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into());
    let output = Command::new(linker).arg("-print-file-name=libgcc_eh.a").output().ok()?;
    let library = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end());
    // GCC repeats the bare name of a library that it does not have.
    library.is_file().then(|| library.parent().map(Path::to_owned)).flatten()
}

/// Returns the first seven digits of the checked-out commit.
///
/// Only a repository at the root of the package counts. A package that was unpacked inside another
/// repository, as `cargo package` does it, has no commit.
fn commit() -> Option<String> {
    let root = env::var_os("CARGO_MANIFEST_DIR")?;
    let root = Path::new(&root);
    if !root.join(".git").exists() {
        return None;
    }
    let head = git(root, &["rev-parse", "--symbolic-full-name", "HEAD"])?;
    for name in ["HEAD", &head, "packed-refs"] {
        // Cargo runs the script at each build if a file that is named here is missing.
        let file = root.join(git(root, &["rev-parse", "--git-path", name])?);
        if file.exists() {
            println!("cargo::rerun-if-changed={}", file.display());
        }
    }
    git(root, &["rev-parse", "--short=7", "HEAD"])
}

/// Returns what git prints, without the newline at its end, or `None` if git is missing or fails.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    // A git hook that runs cargo may set these for another repository.
    git.env_remove("GIT_DIR").env_remove("GIT_WORK_TREE").env_remove("GIT_INDEX_FILE");
    let output = git.arg("-C").arg(root).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}
