//! Sets the version that `--version` and the result record show: `0.2.0`, followed by `+1a2b3c4`
//! if the source is a git checkout.

#![allow(clippy::print_stdout, reason = "cargo reads a build script's stdout")]

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    let version = env!("CARGO_PKG_VERSION");
    println!("cargo::rerun-if-changed=src/build.rs");
    match commit() {
        Some(commit) => println!("cargo::rustc-env=SORTIE_VERSION={version}+{commit}"),
        None => println!("cargo::rustc-env=SORTIE_VERSION={version}"),
    }
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
