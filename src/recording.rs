//! `--record`: writes the events to a file that `--rehearse` can play.

use crate::agent::sse::Frame;
use crate::files;
use crate::outcome::{Failure, Reason};
use anyhow::{Context, Result, ensure};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions, Permissions};
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
    pub fn prepare(path: &Path) -> Result<Self> {
        let doing = || format!("--record {}", path.display());
        match open(path, &mut File::options()) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                ensure!(path.file_name().is_some(), "{}: this is not a file name", doing());
                files::temporary_beside(path).map(drop)
            }
            opened => opened.map(drop),
        }
        .with_context(doing)?;
        Ok(Self { path: path.to_owned(), file: None })
    }

    pub fn write(&mut self, frame: &Frame<'_>) -> Result<(), Failure> {
        self.try_write(frame).map_err(|error| self.failure(&error))
    }

    fn try_write(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            empty => {
                let file = open(&self.path, File::options().create(true).mode(MODE))?;
                file.set_len(0)?;
                empty.insert(BufWriter::new(file))
            }
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

/// Opens the file to write it. An older file may be readable by others, so the permissions are set too.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = files::open_regular(path, options, OFlags::empty())?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    Ok(file)
}
