//! `--result-file`: checked before anything is sent, and written at the end.
//!
//! The record is written to a temporary file in the same folder, which is then renamed, so that a reader never finds
//! half a record. If that is impossible (a bind mount, a read-only or sticky folder), the file is written in place.

use crate::files::{folder_of, open_regular, temporary_beside};
use crate::outcome::Report;
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::OFlags;
use std::fs::{File, FileType, Metadata};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// The sticky bit of a folder's mode: a file in it can be renamed or removed only by its owner or the folder's.
const STICKY: u32 = 0o1000;

pub struct ResultFile {
    /// The path that was given.
    name: PathBuf,
    /// The path without symbolic links.
    path: PathBuf,
}

impl ResultFile {
    /// Checks that the record can be written in one of the two ways. No new file stays behind. A symbolic link is
    /// followed, and stays. An existing file must be a regular file.
    pub fn prepare(name: &Path) -> Result<Self> {
        let doing = || format!("--result-file {}", name.display());
        ensure!(!name.as_os_str().as_encoded_bytes().ends_with(b"/"), "{}: it names a folder", doing());
        let there = match std::fs::symlink_metadata(name) {
            Ok(_) => Some(name.metadata().with_context(doing)?),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(doing),
        };
        if let Some(there) = &there {
            // A rename would replace a FIFO or a device with a file.
            ensure!(!there.is_dir(), "{}: it is a folder", doing());
            let kind = kind(there.file_type());
            ensure!(there.is_file(), "{}: it is {kind}, not a regular file; -o json writes to stdout", doing());
        }
        let path = if there.is_some() { name.canonicalize().with_context(doing)? } else { name.to_owned() };
        let file = Self { name: name.to_owned(), path };
        file.prove(there.as_ref()).with_context(doing)?;
        Ok(file)
    }

    fn prove(&self, there: Option<&Metadata>) -> Result<()> {
        let temporary = self.make_temporary();
        let Some(there) = there else { return temporary.map(drop) };
        match (temporary, self.open(false)) {
            (_, Ok(_)) => Ok(()),
            // The file cannot be written, but it can be replaced.
            (Ok(_), Err(error)) if self.may_replace(there, &error) => Ok(()),
            (_, Err(error)) => Err(error.into()),
        }
    }

    /// Returns whether a rename may replace a file that cannot be opened for writing. It cannot if the file is
    /// immutable or on a read-only file system, or if the folder is sticky and both belong to others.
    fn may_replace(&self, there: &Metadata, error: &io::Error) -> bool {
        let user = rustix::process::geteuid();
        let is_ours = |file: &Metadata| user.is_root() || file.uid() == user.as_raw();
        let folder = folder_of(&self.path).metadata();
        let is_held =
            folder.is_ok_and(|folder| folder.mode() & STICKY != 0 && !is_ours(&folder) && !is_ours(there));
        error.raw_os_error() == Some(rustix::io::Errno::ACCESS.raw_os_error()) && !is_held
    }

    /// Creates the temporary file, in the same folder so that the rename stays on one file system.
    fn make_temporary(&self) -> Result<NamedTempFile> {
        ensure!(self.path.file_name().is_some(), "this is not a file name");
        temporary_beside(&self.path)
            .with_context(|| format!("cannot create a file in {}", folder_of(&self.path).display()))
    }

    /// Opens the file to write it in place, but not a link or a FIFO that has replaced it meanwhile.
    fn open(&self, truncate: bool) -> io::Result<File> {
        open_regular(&self.path, File::options().truncate(truncate), OFlags::NOFOLLOW)
    }

    /// Writes the record. It may be called again with a later record.
    ///
    /// # Errors
    /// The record could not be written. The old content is unchanged, unless the file was written in place.
    pub fn write(&self, record: &Report) -> Result<()> {
        self.try_write(record).with_context(|| format!("cannot write the result to {}", self.name.display()))
    }

    fn try_write(&self, record: &Report) -> Result<()> {
        let replaced = match self.make_temporary() {
            Ok(temporary) => {
                // If this fails, for example on a full disk, the file is not written in place either.
                fill(temporary.as_file(), record)?;
                temporary.persist(&self.path).map(drop).map_err(|failed| failed.error.into())
            }
            Err(error) => Err(error),
        };
        replaced.or_else(|error| self.open(true).map_err(|_| error).and_then(|file| fill(&file, record)))
    }
}

fn fill(file: &File, record: &Report) -> Result<()> {
    // The record may be large, so it is written in pieces.
    let mut json = BufWriter::new(file);
    serde_json::to_writer(&mut json, record)?;
    json.write_all(b"\n")?;
    json.flush()?;
    drop(json);
    match file.sync_all() {
        Err(error) if error.kind() != ErrorKind::InvalidInput => bail!(error),
        _ => Ok(()),
    }
}

fn kind(kind: FileType) -> &'static str {
    if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}
