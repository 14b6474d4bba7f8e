//! `--record`: writes the events to a file that `--rehearse` can play.

use crate::agent::sse::Frame;
use crate::outcome::{Failure, Reason};
use crate::watchdog::Watch;
use anyhow::{Context, Result, ensure};
use rustix::fs::OFlags;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Only the owner may read the file, because the agent's text may be secret.
const MODE: u32 = 0o600;

/// A recording. The first event creates the file or empties an older one.
pub struct Recording {
    path: PathBuf,
    file: Option<BufWriter<File>>,
}

impl Recording {
    /// Checks that the file can be written or created. The content of an older file stays, and no new file stays
    /// behind.
    pub fn prepare(path: &Path, watch: &Watch) -> Result<Self> {
        let doing = || format!("--record {}", path.display());
        match File::options().write(true).custom_flags(non_blocking()).open(path) {
            Ok(file) => check(&file).with_context(doing)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                ensure!(path.file_name().is_some(), "{}: this is not a file name", doing());
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                let made = tempfile::Builder::new()
                    .prefix(".sortie-")
                    .tempfile_in(folder.unwrap_or(Path::new(".")))
                    .with_context(doing)?;
                watch.remove_on_leaving(made.path());
            }
            Err(error) => return Err(error).with_context(doing),
        }
        Ok(Self { path: path.to_owned(), file: None })
    }

    pub fn write(&mut self, frame: &Frame<'_>) -> Result<(), Failure> {
        self.try_write(frame).map_err(|error| self.failure(&error))
    }

    fn try_write(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            empty => empty.insert(BufWriter::new(create(&self.path)?)),
        };
        if let Some(id) = frame.id {
            writeln!(file, "id: {id}")?;
        }
        writeln!(file, "event: {}", frame.event)?;
        frame.data.split('\n').try_for_each(|line| writeln!(file, "data: {line}"))?;
        file.write_all(b"\n")
    }

    pub fn finish(mut self) -> Result<(), Failure> {
        let flushed = self.file.as_mut().map_or(Ok(()), Write::flush);
        flushed.map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &io::Error) -> Failure {
        Failure::new(Reason::Output, format!("cannot write the recording to {}: {error}", self.path.display()))
    }
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    let file = options.write(true).create(true).mode(MODE).custom_flags(non_blocking()).open(path)?;
    check(&file)?;
    file.set_len(0)?;
    Ok(file)
}

/// Checks that it is a regular file. An older file may be readable by others, so the permissions are set too.
fn check(file: &File) -> io::Result<()> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    file.set_permissions(Permissions::from_mode(MODE))
}

/// Without this flag, opening a FIFO would block until somebody reads it.
fn non_blocking() -> i32 {
    i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default()
}
