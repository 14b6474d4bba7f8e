//! The descriptors that we did not open ourselves: writing to them never blocks beyond a cause to end.

use crate::watchdog::Watch;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::time::{Duration, Instant};

/// A pipe that says it is ready takes at least so much at once (`PIPE_BUF`); more might block.
const READY: usize = 4096;
/// How long a write still waits once there is a cause to end.
const PARTING: Duration = Duration::from_millis(500);

/// A descriptor that is written to without ever blocking beyond a cause to end.
pub struct Pipe {
    file: File,
    /// How much may be written when it is ready.
    piece: usize,
    is_terminal: bool,
    watch: Watch,
}

impl Pipe {
    /// stdout, or stderr.
    ///
    /// # Errors
    /// When it cannot be duplicated or examined.
    pub fn new(descriptor: BorrowedFd<'_>, watch: Watch) -> io::Result<Self> {
        let is_terminal = descriptor.is_terminal();
        let file = File::from(descriptor.try_clone_to_owned()?);
        let kind = file.metadata()?.file_type();
        let may_block = is_terminal || kind.is_fifo() || kind.is_socket();
        Ok(Self { file, piece: if may_block { READY } else { usize::MAX }, is_terminal, watch })
    }

    /// Whether a person reads it.
    pub const fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Waits until it takes a piece; `TimedOut` if it still does not, a moment after a cause to end.
    fn wait(&self) -> io::Result<()> {
        let slice = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let mut parting: Option<Instant> = None;
        loop {
            let mut descriptors = [PollFd::new(&self.file, PollFlags::OUT)];
            match poll(&mut descriptors, Some(&slice)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            if self.watch.cause().is_some() && parting.get_or_insert_with(Instant::now).elapsed() > PARTING {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads it"));
            }
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            if self.piece != usize::MAX {
                self.wait()?;
            }
            match self.file.write(&bytes[..bytes.len().min(self.piece)]) {
                // Somebody else made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
