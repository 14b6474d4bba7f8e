//! Reads and writes pipes, FIFOs and terminals without a thread. A deadline or signal ends every wait.

use crate::files;
use crate::watchdog::{Watch, poll_for};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// A pipe that is ready takes this many bytes without blocking (`PIPE_BUF`).
const READY: usize = 4096;
/// How long a write still waits after the deadline or signal.
const PARTING: Duration = Duration::from_millis(500);

/// Reads a file to its end, but at most `limit` bytes. Waits for the writer of a FIFO. For the errors see [`read`].
pub fn read_file(path: &Path, limit: usize, watch: &Watch) -> io::Result<Vec<u8>> {
    read(files::open(path, File::options().read(true), OFlags::empty())?, limit, watch)
}

/// Reads to the end, but at most `limit` bytes.
///
/// # Errors
/// `TimedOut` after a deadline or signal; [`Watch::check`] then returns the failure to report.
pub fn read(source: impl AsFd, limit: usize, watch: &Watch) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    while bytes.len() < limit {
        if !watch.wait_for(source.as_fd(), PollFlags::IN) {
            return Err(io::Error::new(ErrorKind::TimedOut, "it did not end in time"));
        }
        let room = piece.len().min(limit - bytes.len());
        match rustix::io::read(&source, &mut piece[..room]) {
            Ok(0) => break,
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}

/// stdout or stderr. A deadline or signal ends a blocked write.
pub struct Pipe {
    descriptor: Box<dyn AsFd + Send>,
    /// The most bytes that one write takes.
    piece: usize,
    is_terminal: bool,
    watch: Option<Watch>,
}

impl Pipe {
    /// Without a watch, a blocked write ends after half a second.
    pub fn new(descriptor: impl AsFd + Send + 'static, watch: Option<Watch>) -> Self {
        let is_terminal = descriptor.as_fd().is_terminal();
        let kind = fstat(&descriptor).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let may_block = is_terminal || !matches!(kind, Ok(FileType::RegularFile | FileType::CharacterDevice));
        Self {
            descriptor: Box::new(descriptor),
            piece: if may_block { READY } else { usize::MAX },
            is_terminal,
            watch,
        }
    }

    pub const fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Waits until a write does not block; `TimedOut` if that takes too long after the deadline or signal.
    fn wait(&self) -> io::Result<()> {
        if let Some(watch) = &self.watch
            && watch.wait_for(self.as_fd(), PollFlags::OUT)
        {
            return Ok(());
        }
        let began = Instant::now();
        loop {
            let left = PARTING.saturating_sub(began.elapsed());
            let descriptor = PollFd::from_borrowed_fd(self.as_fd(), PollFlags::OUT);
            if poll_for(&mut [descriptor], Some(left)) {
                return Ok(());
            }
            if left.is_zero() {
                return Err(io::Error::new(ErrorKind::TimedOut, "nobody reads it"));
            }
        }
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            if self.piece != usize::MAX {
                self.wait()?;
            }
            match rustix::io::write(self.as_fd(), &bytes[..bytes.len().min(self.piece)]) {
                // Another process has made the descriptor non-blocking.
                Err(Errno::AGAIN) => self.wait()?,
                Err(Errno::INTR) => {}
                done => return done.map_err(Into::into),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, mknodat};
    use std::os::unix::net::UnixStream;
    use std::thread;

    #[test]
    fn a_file_is_read_to_its_end_or_to_the_limit() {
        let watch = Watch::without_signals().unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"some text").unwrap();
        let read = |limit| read_file(file.path(), limit, &watch).unwrap();
        assert_eq!(read(100), b"some text");
        assert_eq!(read(4), b"some");
    }

    #[test]
    fn a_fifo_is_read_until_its_writer_has_closed_it() {
        let watch = Watch::without_signals().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let fifo = files::open(&path, File::options().read(true), OFlags::empty()).unwrap();
        let writer = thread::spawn(move || std::fs::write(path, "late"));
        assert_eq!(read(&fifo, 100, &watch).unwrap(), b"late");
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn reading_an_idle_pipe_ends_at_the_deadline() {
        let watch = Watch::without_signals().unwrap();
        let (near, _far) = UnixStream::pair().unwrap();
        watch.arm(Duration::from_millis(10), "--timeout");
        assert_eq!(read(&near, 100, &watch).unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(watch.check().is_err());
    }
}
