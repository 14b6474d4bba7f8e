//! `--result-file`: proven writable before anything is sent, written all at once at the end, private to the user.

use crate::outcome::Record;
use crate::watchdog::Watch;
use anyhow::{Context, Result, ensure};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Where the record goes.
pub struct ResultFile {
    /// As it was given.
    name: PathBuf,
    /// Where that leads.
    path: PathBuf,
    watch: Watch,
}

impl ResultFile {
    /// Checks the path, and that a file can be made beside it; none stays there until the end. A symbolic link is
    /// followed, so that the file it leads to is written and the link stays; what is there must be a regular file.
    ///
    /// # Errors
    /// Why the record could not be written there.
    pub fn prepare(name: &Path, watch: Watch) -> Result<Self> {
        let doing = || format!("--result-file {}", name.display());
        let path = match std::fs::symlink_metadata(name) {
            Ok(_) => {
                // A rename would put a file in the place of a FIFO or a device.
                let path = name.canonicalize().with_context(doing)?;
                ensure!(path.metadata().with_context(doing)?.is_file(), "{}: it is not a regular file", doing());
                path
            }
            Err(error) if error.kind() == ErrorKind::NotFound => name.to_owned(),
            Err(error) => return Err(error).with_context(doing),
        };
        ensure!(!name.as_os_str().as_encoded_bytes().ends_with(b"/"), "{}: it names a folder", doing());
        let file = Self { name: name.to_owned(), path, watch };
        file.make_temporary().with_context(doing)?;
        Ok(file)
    }

    /// Beside it, so that the rename stays on one file system; gone when it is dropped.
    fn make_temporary(&self) -> Result<NamedTempFile> {
        ensure!(self.path.file_name().is_some(), "it names no file");
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let made = tempfile::Builder::new().prefix(".sortie-").tempfile_in(folder);
        let made = made.with_context(|| format!("write in {}", folder.display()))?;
        self.watch.remove_on_leaving(made.path());
        Ok(made)
    }

    /// Writes the record; may be called again with a later one.
    ///
    /// # Errors
    /// Why it could not be written; what was there before is untouched then.
    pub fn write(&self, record: &Record<'_>) -> Result<()> {
        let doing = || format!("write the result to {}", self.name.display());
        let temporary = self.make_temporary().with_context(doing)?;
        // In pieces: the record may be large.
        let mut json = BufWriter::new(temporary.as_file());
        serde_json::to_writer(&mut json, record).with_context(doing)?;
        json.write_all(b"\n").and_then(|()| json.flush()).with_context(doing)?;
        drop(json);
        temporary.as_file().sync_all().with_context(doing)?;
        temporary.persist(&self.path).map_err(|failed| failed.error).with_context(doing)?;
        Ok(())
    }
}
