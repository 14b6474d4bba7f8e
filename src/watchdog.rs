//! Watches for the deadline and for signals. The first of them is the [`Cause`] that ends the command. From then on
//! [`Watch::poll_fd`] is readable, so that every blocking call returns from its `poll`.
//!
//! The watchdog thread waits for both while the main thread blocks. When a signal arrives, the thread prints at once
//! what the signal does. It ends the process only if the main thread is still stuck 10 s later.

use crate::outcome::{Exit, Failure, Reason};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGALRM, SIGHUP, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use signal_hook::low_level::signal_name;
use std::io::{self, ErrorKind, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How many ticks the main thread has from the deadline or signal to its end: 5 s for a cancel, and some time for the
/// rest. They are ticks because a process that is stopped (SIGSTOP) then loses only one of them.
const LAST_RESORT: u32 = 10;
const TICK: Duration = Duration::from_secs(1);
/// Signals that arrive this soon after the first count as one: `timeout(1)`, a closing terminal, make and GNU
/// parallel send two.
const SAME_SIGNAL: Duration = Duration::from_secs(2);

/// The signals that end the run, except SIGINT.
const SIGNALS: [i32; 8] = [SIGTERM, SIGHUP, SIGQUIT, SIGALRM, SIGVTALRM, SIGXCPU, SIGUSR1, SIGUSR2];
/// The ctrlc crate handles this one.
const INTERRUPT: &str = "SIGINT";

/// Why the command must end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The deadline has passed. The length, and the flag that set it.
    Deadline(Duration, &'static str),
    /// A signal has arrived. Its name.
    Signal(&'static str),
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Deadline(limit, flag) => {
                let limit = humantime::format_duration(limit);
                Self::new(Reason::Timeout, format!("not done within {limit} ({flag})"))
            }
            Cause::Signal(name) => Self::new(Reason::Interrupted, format!("interrupted by {name}")),
        }
    }
}

/// What a signal does at this moment, for the line that is printed when it arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnSignal {
    /// The command has started no run, or the run has ended.
    #[default]
    NothingToCancel,
    CancelRun,
    /// `--no-cancel`.
    LeaveRun,
    /// `sortie cancel` stops waiting for the end of the run.
    StopWaiting,
}

impl OnSignal {
    /// Returns the line about the first signal. `ending`: the command was already ending, because of the deadline.
    fn first(self, name: &str, ending: bool) -> String {
        let what = match (self, ending) {
            (Self::NothingToCancel, _) => "no run to cancel; ending",
            (Self::CancelRun, false) => "cancelling the run, 5 s at most; again to leave it",
            (Self::CancelRun, true) => "the run is being cancelled; again to leave it",
            (Self::LeaveRun, _) => "ending; the run is left going (--no-cancel)",
            (Self::StopWaiting, _) => "no longer waiting for the cancelled run to stop",
        };
        format!("{name}: {what}")
    }

    /// Returns the line about a later signal.
    fn later(self, name: &str) -> String {
        match self {
            Self::CancelRun => format!("{name} again: ending without waiting for the cancel"),
            _ => format!("{name} again: ending"),
        }
    }
}

/// Prints a line about a signal. It must not block for long, and not call [`Watch::cause`].
type Speaker = Box<dyn Fn(&str) + Send + Sync>;

#[derive(Default)]
struct State {
    /// The thread's part, until it is started.
    thread: Option<Thread>,
    deadline: Option<(Instant, Cause)>,
    cause: Option<Cause>,
    /// Counts down from [`LAST_RESORT`] after the deadline or a signal.
    ticks_left: Option<u32>,
    on_signal: OnSignal,
    first_signal: Option<Instant>,
    later_signal: Option<&'static str>,
}

impl State {
    fn cause_at(&mut self, now: Instant) -> Option<Cause> {
        if self.cause.is_none() {
            self.cause = self.deadline.filter(|(at, _)| now >= *at).map(|(_, cause)| cause);
        }
        self.cause
    }

    /// Notes a signal and returns the line to print about it, if any.
    fn note_signal(&mut self, name: &'static str, now: Instant) -> Option<String> {
        match self.first_signal {
            None => {
                self.first_signal = Some(now);
                let ending = self.cause_at(now).is_some();
                self.cause.get_or_insert(Cause::Signal(name));
                Some(self.on_signal.first(name, ending))
            }
            Some(first) if now.saturating_duration_since(first) < SAME_SIGNAL => None,
            Some(_) if self.later_signal.is_some() => None,
            Some(_) => {
                self.later_signal = Some(name);
                Some(self.on_signal.later(name))
            }
        }
    }
}

struct Shared {
    state: Mutex<State>,
    /// Held from the moment when a signal becomes the cause until the line about it is printed.
    saying: Mutex<()>,
    speaker: Speaker,
    /// A byte written here wakes the thread. It is readable after the deadline or a signal.
    cause_fd: UnixStream,
    /// Readable after a later signal.
    later_fd: UnixStream,
}

/// The thread's ends of the two pairs of sockets.
struct Thread {
    signals: SignalDelivery<UnixStream, SignalOnly>,
    later_end: UnixStream,
    /// The thread may end the process if the main thread is stuck.
    ends_process: bool,
}

/// A handle on the watchdog. Clones share it.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
    /// Only for the last calls: their own deadline, and its length.
    last_calls: Option<(Instant, Duration)>,
}

impl Watch {
    /// Installs the signal handlers. SIGINT and SIGHUP stay ignored if they were ignored at the start: in a shell's
    /// background job, and under nohup. A signal takes effect once the thread is started.
    pub fn new(speaker: impl Fn(&str) + Send + Sync + 'static) -> Result<Self, Failure> {
        let is_ignored = |number: i32| number == SIGHUP && ignored_signals() & (1 << (number - 1)) != 0;
        let taken: Vec<_> = SIGNALS.into_iter().filter(|number| !is_ignored(*number)).collect();
        let watch =
            Self::with_signals(&taken, Box::new(speaker)).map_err(|error| missing("handle the signals", &error))?;
        watch.take_interrupt()?;
        Ok(watch)
    }

    /// Starts a watchdog for tests: it handles no signals and never ends the process.
    pub fn without_signals() -> Result<Self, Failure> {
        let watch = Self::with_signals(&[], Box::new(|_| {}))
            .map_err(|error| missing("create a pair of sockets", &error))?;
        watch.start(None)?;
        Ok(watch)
    }

    /// Starts the thread. The deadline, if there is one, comes from a flag.
    pub fn start(&self, deadline: Option<(Duration, &'static str)>) -> Result<(), Failure> {
        let thread = {
            let mut state = self.state();
            state.deadline = deadline.and_then(|(limit, flag)| at(limit, flag));
            state.thread.take()
        };
        let Some(mut thread) = thread else { return Ok(()) };
        let keeper = self.clone();
        let spawned = thread::Builder::new().name("watchdog".into()).spawn(move || keeper.keep(&mut thread));
        spawned.map(drop).map_err(|error| missing("start the watchdog thread", &error))
    }

    fn with_signals(taken: &[i32], speaker: Speaker) -> io::Result<Self> {
        let (cause_end, cause_fd) = UnixStream::pair()?;
        let (later_end, later_fd) = UnixStream::pair()?;
        for end in [&cause_end, &cause_fd, &later_end, &later_fd] {
            end.set_nonblocking(true)?;
        }
        let signals = SignalDelivery::with_pipe(cause_end, cause_fd.try_clone()?, SignalOnly, taken)?;
        if !taken.is_empty() {
            // Safe Rust cannot ignore a signal. A handler has the same effect: the write fails with EFBIG.
            signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        }
        let thread = Thread { signals, later_end, ends_process: !taken.is_empty() };
        let state = Mutex::new(State { thread: Some(thread), ..State::default() });
        let shared = Shared { state, saying: Mutex::default(), speaker, cause_fd, later_fd };
        Ok(Self { shared: Arc::new(shared), last_calls: None })
    }

    fn take_interrupt(&self) -> Result<(), Failure> {
        let watch = self.clone();
        // ctrlc calls this on a thread of its own.
        let taken = ctrlc::try_set_handler(move || {
            watch.announce(INTERRUPT);
            watch.wake_thread();
        });
        match taken {
            // With MultipleHandlers, SIGINT was ignored at the start, and stays ignored.
            Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(()),
            Err(ctrlc::Error::System(error)) => Err(missing("handle SIGINT", &error)),
            Err(error) => Err(Failure::new(Reason::Internal, format!("cannot handle SIGINT: {error}"))),
        }
    }

    pub fn on_signal_say(&self, what: OnSignal) {
        self.state().on_signal = what;
    }

    /// Sets the deadline of a command whose thread runs already. It comes from this flag.
    pub fn arm(&self, limit: Duration, flag: &'static str) {
        self.state().deadline = at(limit, flag);
        self.wake_thread();
    }

    /// Returns the watch for the last calls, which cancel a run or read lost text. It ends after `limit`, or at a later
    /// signal: one that comes 2 s or more after the first.
    #[must_use]
    pub fn last_calls(&self, limit: Duration) -> Self {
        // The main thread is not stuck, so the current tick begins anew.
        self.wake_thread();
        Self { shared: Arc::clone(&self.shared), last_calls: Some((Instant::now() + limit, limit)) }
    }

    /// Returns the signal that came 2 s or more after the first.
    pub fn later_signal(&self) -> Option<&'static str> {
        self.state().later_signal
    }

    /// Returns a descriptor for `poll` that is readable after the deadline or a signal; for the last calls, only after
    /// a later signal. [`Watch::cut`] bounds a `poll` by the deadline.
    pub fn poll_fd(&self) -> PollFd<'_> {
        let descriptor = if self.last_calls.is_some() { &self.shared.later_fd } else { &self.shared.cause_fd };
        PollFd::new(descriptor, PollFlags::IN)
    }

    /// Wakes the thread. If the pipe is full, a wake-up is already pending.
    fn wake_thread(&self) {
        let _ = (&self.shared.cause_fd).write(&[0]);
    }

    /// Returns the cause. If it is a signal, waits until the line about it is printed.
    pub fn cause(&self) -> Option<Cause> {
        let cause = self.peek();
        if matches!(cause, Some(Cause::Signal(_))) {
            drop(self.shared.saying.lock().unwrap_or_else(PoisonError::into_inner));
        }
        cause
    }

    /// Returns the cause without that wait, because printing the line itself asks for the cause.
    fn peek(&self) -> Option<Cause> {
        let mut state = self.state();
        let now = Instant::now();
        match self.last_calls {
            None => state.cause_at(now),
            Some((until, limit)) => {
                let over = Cause::Deadline(limit, "the limit of the last calls");
                state.later_signal.map(Cause::Signal).or((now >= until).then_some(over))
            }
        }
    }

    /// Fails after the deadline or a signal.
    pub fn check(&self) -> Result<(), Failure> {
        self.cause().map_or(Ok(()), |cause| Err(cause.into()))
    }

    /// Sleeps. Fails at once when the deadline passes or a signal arrives.
    pub fn sleep(&self, time: Duration) -> Result<(), Failure> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            poll_for(&mut [self.poll_fd()], Some(self.cut(left)));
        }
    }

    /// Waits until `descriptor` is ready for `flags`. Returns false after the deadline or a signal.
    pub fn wait_for(&self, descriptor: BorrowedFd<'_>, flags: PollFlags) -> bool {
        loop {
            if self.peek().is_some() {
                return false;
            }
            let mut both = [PollFd::from_borrowed_fd(descriptor, flags), self.poll_fd()];
            poll_for(&mut both, Some(self.cut(Duration::MAX)));
            if !both[0].revents().is_empty() {
                return true;
            }
        }
    }

    /// Cuts a time at the watch's deadline, so that the wait ends even if the thread is late.
    pub fn cut(&self, time: Duration) -> Duration {
        let at = match self.last_calls {
            Some((until, _)) => Some(until),
            None => self.state().deadline.map(|(at, _)| at),
        };
        at.map_or(time, |at| time.min(at.saturating_duration_since(Instant::now())))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The watchdog thread's loop.
    fn keep(&self, thread: &mut Thread) {
        loop {
            let wait = self.next_wait();
            let woken = poll_for(&mut [PollFd::new(thread.signals.get_read(), PollFlags::IN)], wait);
            let is_tick = !woken && wait == Some(TICK);
            for name in thread.signals.pending().filter_map(signal_name) {
                self.announce(name);
            }
            self.make_readable(thread);
            if is_tick {
                self.count_down(thread.ends_process);
            }
        }
    }

    /// Returns how long the thread may sleep.
    fn next_wait(&self) -> Option<Duration> {
        let state = self.state();
        let now = Instant::now();
        match (state.cause, state.ticks_left) {
            (None, _) => state.deadline.map(|(at, _)| at.saturating_duration_since(now)),
            // The main thread has noticed the deadline first.
            (Some(_), None) => Some(Duration::ZERO),
            (Some(_), Some(_)) => Some(TICK),
        }
    }

    /// Takes a signal and prints the line about it.
    fn announce(&self, name: &'static str) {
        let saying = self.shared.saying.lock().unwrap_or_else(PoisonError::into_inner);
        // The speaker locks the state too.
        let line = self.state().note_signal(name, Instant::now());
        if let Some(line) = line {
            (self.shared.speaker)(&line);
        }
        drop(saying);
    }

    /// Makes the due descriptors readable.
    fn make_readable(&self, thread: &Thread) {
        let mut state = self.state();
        if state.cause_at(Instant::now()).is_some() && state.ticks_left.is_none() {
            state.ticks_left = Some(LAST_RESORT);
            let _ = thread.signals.get_read().write(&[0]);
        }
        if state.later_signal.is_some() {
            // If the pipe is full, it is readable.
            let _ = (&thread.later_end).write(&[0]);
        }
    }

    fn count_down(&self, ends_process: bool) {
        let mut state = self.state();
        let Some(left) = &mut state.ticks_left else { return };
        *left = left.saturating_sub(1);
        if *left == 0 && ends_process {
            drop(state);
            self.exit_stuck();
        }
    }

    /// Ends the process. Only this function does so, apart from the end of `main`. It deletes no temporary file: if the
    /// main thread is stuck in a file system, this thread would be stuck there too.
    fn exit_stuck(&self) -> ! {
        let what = match self.state().on_signal {
            OnSignal::NothingToCancel => "",
            _ => "; the run may still be going on",
        };
        (self.shared.speaker)(&format!("failed (internal): sortie is stuck, and exits{what}"));
        std::process::exit(Exit::Failed.code().into())
    }
}

/// Returns a deadline. One beyond the range of `Instant` never comes.
fn at(limit: Duration, flag: &'static str) -> Option<(Instant, Cause)> {
    Instant::now().checked_add(limit).map(|at| (at, Cause::Deadline(limit, flag)))
}

/// Waits until one of the descriptors is ready. Returns false after `limit`, or if a signal has interrupted the wait.
pub fn poll_for(descriptors: &mut [PollFd<'_>], limit: Option<Duration>) -> bool {
    // A limit beyond the range of `Timespec` is no limit.
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    let ready = poll(descriptors, limit.as_ref()).is_ok_and(|ready| ready > 0);
    if !ready {
        // After an error, the returned events mean nothing.
        descriptors.iter_mut().for_each(PollFd::clear_revents);
    }
    ready
}

/// Makes the failure for something that the system denied.
fn missing(doing: &str, error: &io::Error) -> Failure {
    let advice = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE) => "; allow more open files (ulimit -n)",
        _ if error.kind() == ErrorKind::WouldBlock => "; allow more processes and threads (ulimit -u)",
        _ => "",
    };
    Failure::new(Reason::Internal, format!("cannot {doing}: {error}{advice}"))
}

/// Returns the mask of the signals that are ignored; 0 if the system does not tell.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
