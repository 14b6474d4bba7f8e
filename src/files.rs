//! Opens and creates files. Opening never blocks, not even a FIFO.

use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tempfile::NamedTempFile;

/// Opens a file. Opening a FIFO does not block.
pub fn open(path: &Path, options: &mut OpenOptions, flags: OFlags) -> io::Result<File> {
    let flags = (flags | OFlags::NONBLOCK).bits();
    options.custom_flags(i32::try_from(flags).unwrap_or_default()).open(path)
}

/// Opens a file for writing, but only a regular file.
pub fn open_regular(path: &Path, options: &mut OpenOptions, flags: OFlags) -> io::Result<File> {
    let file = open(path, options.write(true), flags)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Returns the folder of a file.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates a temporary file in the folder of `path`.
pub fn temporary_beside(path: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(".sortie-").tempfile_in(folder_of(path))
}
