//! Checks that a file that the command writes is not also read, or written for another purpose. Files are compared by
//! device and inode, because one file can have many names.

use crate::cli::{Cli, Command};
use crate::files::folder_of;
use crate::rehearsal::Outcome;
use anyhow::{Result, bail};
use rustix::fs::{FileType, fstat};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The most symbolic links that are followed to a file that does not exist yet.
const MAX_LINKS: usize = 40;

/// A regular file, independent of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Identity {
    /// A file that exists: its device and inode.
    There(u64, u64),
    /// A file that does not exist yet: its folder's device and inode, and its name.
    NotYet(u64, u64, OsString),
}

/// A use of a file: the flag that names the file, for an error, and the file.
type Use = (&'static str, Option<Identity>);

/// Checks that each file that the command writes has no other use.
pub fn check(cli: &Cli) -> Result<()> {
    let Some(follow) = cli.command.follow() else { return Ok(()) };
    let written = [("--result-file", &follow.result_file), ("--record", &follow.record)];
    let mut others = read_by(cli);
    others.push(("stdout", of_descriptor(io::stdout())));
    others.push(("stderr", of_descriptor(io::stderr())));
    for (flag, path) in written {
        let Some(path) = path else { continue };
        let identity = of_path(path);
        let same = others.iter().find(|(_, other)| identity.is_some() && *other == identity);
        if let Some((other, _)) = same {
            bail!("{flag} {}: this is also the file of {other}; give another file", path.display());
        }
        others.push((flag, identity));
    }
    Ok(())
}

/// Returns the files that the command reads.
fn read_by(cli: &Cli) -> Vec<Use> {
    let mut uses = Vec::new();
    let mut read = |flag, path: &OsStr| {
        uses.push((flag, if path == "-" { of_descriptor(io::stdin()) } else { of_path(Path::new(path)) }));
    };
    cli.common.files().for_each(|(flag, path)| read(flag, path.as_ref()));
    std::env::var_os("SORTIE_TOKEN_FILE").iter().for_each(|path| read("SORTIE_TOKEN_FILE", path));
    let recording = cli.common.rehearse.iter().filter(|outcome| outcome.parse::<Outcome>().is_err());
    recording.for_each(|path| read("--rehearse", path.as_ref()));
    if let Command::Run(run) = &cli.command {
        run.prompt_file.iter().for_each(|path| read("--prompt-file", path.as_ref()));
        run.prompt.iter().filter(|prompt| *prompt == "-").for_each(|stdin| read("the prompt -", stdin.as_ref()));
        run.system_prompt_file.iter().for_each(|path| read("--system-prompt-file", path.as_ref()));
        run.images.iter().for_each(|path| read("--image", path.as_ref()));
        let contexts = run.context_file.iter().filter_map(|argument| argument.split_once('='));
        contexts.for_each(|(_, path)| read("--context-file", path.as_ref()));
    }
    uses
}

/// Returns `None` if the path is not a regular file and cannot become one.
fn of_path(path: &Path) -> Option<Identity> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        if let Ok(there) = path.metadata() {
            return there.is_file().then(|| Identity::There(there.dev(), there.ino()));
        }
        let folder = folder_of(&path);
        if let Ok(target) = path.read_link() {
            path = folder.join(target);
            continue;
        }
        let folder: Metadata = folder.metadata().ok()?;
        return Some(Identity::NotYet(folder.dev(), folder.ino(), path.file_name()?.to_owned()));
    }
    None
}

fn of_descriptor(descriptor: impl AsFd) -> Option<Identity> {
    let there = fstat(descriptor).ok()?;
    let is_file = FileType::from_raw_mode(there.st_mode) == FileType::RegularFile;
    // The types of these fields differ between systems.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    is_file.then_some(Identity::There(there.st_dev as u64, there.st_ino as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_the_same_under_each_of_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "").unwrap();
        fs::write(path("other"), "").unwrap();
        fs::hard_link(path("file"), path("hard")).unwrap();
        symlink("file", path("soft")).unwrap();
        let file = of_path(&path("file"));
        assert!(file.is_some());
        assert_eq!(of_path(&path("hard")), file);
        assert_eq!(of_path(&path("soft")), file);
        assert_eq!(of_path(&path("./soft")), file);
        assert_eq!(of_descriptor(fs::File::open(path("file")).unwrap()), file);
        assert_ne!(of_path(&path("other")), file);
    }

    #[test]
    fn a_file_that_does_not_exist_yet_is_known_by_its_folder_and_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("sub")).unwrap();
        symlink("new", path("soft")).unwrap();
        symlink("circle", path("circle")).unwrap();
        let new = of_path(&path("new"));
        assert!(new.is_some());
        assert_eq!(of_path(&path("sub/../new")), new);
        assert_eq!(of_path(&path("soft")), new);
        assert_ne!(of_path(&path("sub/new")), new);
        for none in ["sub", "circle", "no/such/folder", ".."] {
            assert_eq!(of_path(&path(none)), None, "{none}");
        }
    }
}
