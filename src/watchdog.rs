//! Turns the deadline and the signals into one cause to end: whichever comes first. From then on [`Watch::fd`] is
//! readable, so that a call that blocks in `poll` ends.
//!
//! One thread waits for both while the main thread blocks. It says at once what a signal does. It ends the process only
//! if the main thread is still stuck 10 s after a cause.

use crate::outcome::{Exit, Failure, Reason};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGALRM, SIGHUP, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long the main thread may take from a cause to its end, in ticks of [`TICK`]: 5 s for a cancel, and some for the
/// rest. A process that is stopped (SIGSTOP) for a while loses one tick by it, and no more.
const LAST_RESORT: u32 = 10;
/// See [`LAST_RESORT`].
const TICK: Duration = Duration::from_secs(1);
/// Signals that arrive this soon after the first one are part of it: `timeout(1)`, a closing terminal, make and GNU
/// parallel send two.
const SAME_SIGNAL: Duration = Duration::from_secs(2);

/// The signals that end the run, apart from SIGINT.
const SIGNALS: [(i32, &str); 8] = [
    (SIGTERM, "SIGTERM"),
    (SIGHUP, "SIGHUP"),
    (SIGQUIT, "SIGQUIT"),
    (SIGALRM, "SIGALRM"),
    (SIGVTALRM, "SIGVTALRM"),
    (SIGXCPU, "SIGXCPU"),
    (SIGUSR1, "SIGUSR1"),
    (SIGUSR2, "SIGUSR2"),
];
/// ctrlc takes this one.
const INTERRUPT: &str = "SIGINT";

/// Why everything must come to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The deadline has passed: its length, and the flag that set it.
    Deadline(Duration, &'static str),
    /// A signal, by name.
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

/// What a signal does at the moment. The commands set it, and the line about a signal says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnSignal {
    /// The command ends; it has started no run, or the run has ended.
    #[default]
    NothingToCancel,
    /// The run is cancelled.
    CancelRun,
    /// The run is left going (`--no-cancel`).
    LeaveRun,
    /// `sortie cancel` ends before the run does.
    StopWaiting,
}

impl OnSignal {
    /// Returns the line about the first signal. `ending`: the run is being ended already, for another cause.
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

    /// Returns the line about a signal that arrived [`SAME_SIGNAL`] or more after the first.
    fn later(self, name: &str) -> String {
        match self {
            Self::CancelRun => format!("{name} again: ending without waiting for the cancel"),
            _ => format!("{name} again: ending"),
        }
    }
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// The descriptor is ready.
    Descriptor,
    /// There is a cause.
    Cause,
    /// The time for the wait is over.
    Time,
}

/// Puts a line on stderr.
type Speaker = Arc<dyn Fn(&str) + Send + Sync>;

#[derive(Default)]
struct State {
    deadline: Option<(Instant, Cause)>,
    cause: Option<Cause>,
    /// The cause's descriptor is readable, and the ticks of [`LAST_RESORT`] count down.
    ticks_left: Option<u32>,
    on_signal: OnSignal,
    first_signal: Option<Instant>,
    later_signal: Option<&'static str>,
    /// When the last calls must be over, until their descriptor is readable.
    last_calls: Option<Instant>,
    /// The descriptor of the last calls is readable.
    last_calls_are_over: bool,
    /// Temporary files, which are deleted if the process exits early.
    unfinished: Vec<PathBuf>,
    speaker: Option<Speaker>,
    /// A line about a signal that arrived before there was a speaker.
    unsaid: Option<String>,
}

impl State {
    /// Returns the cause at this time.
    fn cause_at(&mut self, now: Instant) -> Option<Cause> {
        if self.cause.is_none() {
            self.cause = self.deadline.filter(|(at, _)| now >= *at).map(|(_, cause)| cause);
        }
        self.cause
    }

    /// Records a signal. Returns the line to say about it, if any.
    fn hear(&mut self, name: &'static str, now: Instant) -> Option<String> {
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
    /// Held from the moment a signal becomes the cause until the line about it is out.
    saying: Mutex<()>,
    /// A byte written here wakes the thread. It is readable once there is a cause.
    bell: UnixStream,
    /// Readable once the last calls must end.
    last_calls: UnixStream,
}

/// What the thread holds of the two pairs of sockets.
struct Thread {
    signals: SignalDelivery<UnixStream, SignalOnly>,
    interrupted: Arc<AtomicBool>,
    last_calls: UnixStream,
    /// Whether the thread ends the process if the main thread is stuck.
    ends_process: bool,
}

/// A handle on the cause. Clones share it.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
    /// For the calls that are made after a cause: their own deadline.
    last_calls: Option<(Option<Instant>, Duration)>,
}

impl Watch {
    /// Takes the signals and starts the thread. SIGINT and SIGHUP stay ignored where they were ignored at the start: in
    /// a shell's background job, and under nohup.
    ///
    /// # Errors
    /// `Internal` when the system denies a socket, a signal handler or a thread.
    pub fn start() -> Result<Self, Failure> {
        let is_ignored = |number: i32| number == SIGHUP && ignored_signals() & (1 << (number - 1)) != 0;
        let taken: Vec<_> =
            SIGNALS.iter().map(|(number, _)| *number).filter(|number| !is_ignored(*number)).collect();
        let (watch, thread) = Self::new(&taken).map_err(|error| missing("take the signals", &error))?;
        watch.take_interrupt(&thread.interrupted)?;
        watch.spawn(thread)
    }

    /// Starts the thread without taking signals and without ever ending the process: for tests, which share one.
    ///
    /// # Errors
    /// Those of [`Watch::start`].
    pub fn without_signals() -> Result<Self, Failure> {
        let (watch, thread) = Self::new(&[]).map_err(|error| missing("make a pair of sockets", &error))?;
        watch.spawn(thread)
    }

    fn new(taken: &[i32]) -> io::Result<(Self, Thread)> {
        let (ear, bell) = UnixStream::pair()?;
        let (far, last_calls) = UnixStream::pair()?;
        for end in [&ear, &bell, &far, &last_calls] {
            end.set_nonblocking(true)?;
        }
        let shared = Shared { state: Mutex::default(), saying: Mutex::default(), bell, last_calls };
        let signals = SignalDelivery::with_pipe(ear, shared.bell.try_clone()?, SignalOnly, taken)?;
        if !taken.is_empty() {
            // Safe Rust cannot ignore a signal. With a handler that does nothing, the write fails with EFBIG instead.
            signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        }
        let ends_process = !taken.is_empty();
        let thread = Thread { signals, interrupted: Arc::default(), last_calls: far, ends_process };
        Ok((Self { shared: Arc::new(shared), last_calls: None }, thread))
    }

    fn take_interrupt(&self, interrupted: &Arc<AtomicBool>) -> Result<(), Failure> {
        let (watch, interrupted) = (self.clone(), Arc::clone(interrupted));
        let taken = ctrlc::try_set_handler(move || {
            // Store the flag before the wake-up byte is written.
            interrupted.store(true, Ordering::Release);
            watch.ring();
        });
        match taken {
            // SIGINT was ignored when we were started, and stays so.
            Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(()),
            Err(ctrlc::Error::System(error)) => Err(missing("cannot take SIGINT", &error)),
            Err(error) => Err(Failure::new(Reason::Internal, format!("cannot take SIGINT: {error}"))),
        }
    }

    fn spawn(self, mut thread: Thread) -> Result<Self, Failure> {
        let watch = self.clone();
        thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || watch.keep(&mut thread))
            .map_err(|error| missing("cannot start the watchdog thread", &error))?;
        Ok(self)
    }

    /// Sets how the lines about signals are written. The speaker must not block for ever, and must not call
    /// [`Watch::cause`].
    pub fn speak_through(&self, speaker: impl Fn(&str) + Send + Sync + 'static) {
        let speaker: Speaker = Arc::new(speaker);
        let unsaid = {
            let mut state = self.state();
            state.speaker = Some(Arc::clone(&speaker));
            state.unsaid.take()
        };
        if let Some(line) = unsaid {
            speaker(&line);
        }
    }

    /// Sets what the line about a signal says from now on.
    pub fn on_signal_say(&self, what: OnSignal) {
        self.state().on_signal = what;
    }

    /// Sets the deadline, counted from now, and the flag that it comes from.
    pub fn arm(&self, limit: Duration, flag: &'static str) {
        // A deadline too far away to be a point in time is none.
        self.state().deadline = Instant::now().checked_add(limit).map(|at| (at, Cause::Deadline(limit, flag)));
        self.ring();
    }

    /// Returns a watch for the calls that are made at the end of a run. It ends after `limit`, or at once at a later
    /// signal: one that arrives 2 s or more after the first signal. The first signal does not end it. There is one such
    /// watch at a time: a new one takes the place of the one before.
    #[must_use]
    pub fn last_calls(&self, limit: Duration) -> Self {
        let until = Instant::now().checked_add(limit);
        let mut state = self.state();
        state.last_calls = until;
        if state.last_calls_are_over && state.later_signal.is_none() {
            state.last_calls_are_over = false;
            // Take the byte out that ended the watch before this one.
            let _ = (&self.shared.last_calls).read(&mut [0; 8]);
        }
        drop(state);
        self.ring();
        Self { shared: Arc::clone(&self.shared), last_calls: Some((until, limit)) }
    }

    /// Returns the name of the signal that arrived 2 s or more after the first, if any. Nothing is waited for then.
    pub fn later_signal(&self) -> Option<&'static str> {
        self.state().later_signal
    }

    /// Returns a descriptor that is readable once there is a cause, and stays readable. Poll it beside the descriptor that
    /// you wait for, and never read it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        if self.last_calls.is_some() { self.shared.last_calls.as_fd() } else { self.shared.bell.as_fd() }
    }

    /// Wakes the thread, so that it looks at the deadlines again. If the pipe is full, a wake-up is already pending.
    fn ring(&self) {
        let _ = (&self.shared.bell).write(&[0]);
    }

    /// Registers a temporary file to delete if the process exits early.
    pub fn remove_on_leaving(&self, path: &Path) {
        self.state().unfinished.push(path.to_owned());
    }

    /// Returns the cause, if there is one. The line about a signal has been written by then.
    pub fn cause(&self) -> Option<Cause> {
        let cause = self.peek();
        if matches!(cause, Some(Cause::Signal(_))) {
            drop(self.shared.saying.lock().unwrap_or_else(PoisonError::into_inner));
        }
        cause
    }

    /// Returns the cause without waiting for the line about it. The code that writes that line uses this.
    fn peek(&self) -> Option<Cause> {
        let mut state = self.state();
        let now = Instant::now();
        match self.last_calls {
            None => state.cause_at(now),
            Some((until, limit)) => {
                let is_over = until.is_some_and(|until| now >= until);
                let over = is_over.then_some(Cause::Deadline(limit, "the most for the last calls"));
                state.later_signal.map(Cause::Signal).or(over)
            }
        }
    }

    /// An error once there is a cause.
    ///
    /// # Errors
    /// The cause.
    pub fn check(&self) -> Result<(), Failure> {
        self.cause().map_or(Ok(()), |cause| Err(cause.into()))
    }

    /// Sleeps, unless there is a cause.
    ///
    /// # Errors
    /// The cause.
    pub fn sleep(&self, time: Duration) -> Result<(), Failure> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            poll_for(&mut [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN)], Some(self.cut(left)));
        }
    }

    /// Waits until `descriptor` is ready for what `flags` say, for no longer than `limit` and until a cause.
    pub fn wait_for(&self, descriptor: BorrowedFd<'_>, flags: PollFlags, limit: Option<Duration>) -> Ready {
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            if self.peek().is_some() {
                return Ready::Cause;
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let mut both =
                [PollFd::from_borrowed_fd(descriptor, flags), PollFd::from_borrowed_fd(self.fd(), PollFlags::IN)];
            poll_for(&mut both, Some(self.cut(left.unwrap_or(Duration::MAX))));
            if !both[0].revents().is_empty() {
                return Ready::Descriptor;
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ready::Time;
            }
        }
    }

    /// Cuts a time to what is left before the deadline, so that a wait ends even if the thread is late.
    fn cut(&self, time: Duration) -> Duration {
        let at = match self.last_calls {
            Some((until, _)) => until,
            None => self.state().deadline.map(|(at, _)| at),
        };
        at.map_or(time, |at| time.min(at.saturating_duration_since(Instant::now())))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's loop.
    fn keep(&self, thread: &mut Thread) {
        loop {
            let wait = self.next_wait();
            let woken = poll_for(&mut [PollFd::new(thread.signals.get_read(), PollFlags::IN)], wait);
            let is_tick = !woken && wait == Some(TICK);
            let mut signal = thread.interrupted.swap(false, Ordering::Acquire).then_some(INTERRUPT);
            for number in thread.signals.pending() {
                let name = SIGNALS.iter().find(|(known, _)| *known == number).map(|(_, name)| *name);
                signal = signal.or(name);
            }
            if let Some(name) = signal {
                self.announce(name);
            }
            self.wake(thread);
            if is_tick {
                self.count_down(thread.ends_process);
            }
        }
    }

    /// Returns how long the thread may wait for a signal; `None` if there is no deadline.
    fn next_wait(&self) -> Option<Duration> {
        let state = self.state();
        let now = Instant::now();
        let next = match (state.cause, state.ticks_left) {
            (None, _) => state.deadline.map(|(at, _)| at),
            // The main thread has seen the deadline pass before we did.
            (Some(_), None) => Some(now),
            (Some(_), Some(_)) => Some(now + TICK),
        };
        let alarm = [next, state.last_calls].into_iter().flatten().min();
        alarm.map(|at| at.saturating_duration_since(now))
    }

    /// Records the signal and says what it does.
    fn announce(&self, name: &'static str) {
        let saying = self.shared.saying.lock().unwrap_or_else(PoisonError::into_inner);
        let line = self.state().hear(name, Instant::now());
        if let Some(line) = line {
            self.say(line);
        }
        drop(saying);
    }

    fn say(&self, line: String) {
        let mut state = self.state();
        let Some(speaker) = state.speaker.clone() else {
            state.unsaid = Some(line);
            return;
        };
        // The speaker looks at the state.
        drop(state);
        speaker(&line);
    }

    /// Makes the descriptors readable whose time has come.
    fn wake(&self, thread: &Thread) {
        let now = Instant::now();
        let mut state = self.state();
        if state.cause_at(now).is_some() && state.ticks_left.is_none() {
            state.ticks_left = Some(LAST_RESORT);
            let _ = thread.signals.get_read().write(&[0]);
        }
        let is_over = state.later_signal.is_some() || state.last_calls.is_some_and(|at| now >= at);
        if is_over && !state.last_calls_are_over {
            state.last_calls_are_over = true;
            let _ = (&thread.last_calls).write(&[0]);
        }
        if is_over {
            state.last_calls = None;
        }
    }

    fn count_down(&self, ends_process: bool) {
        let mut state = self.state();
        let Some(left) = &mut state.ticks_left else { return };
        *left = left.saturating_sub(1);
        if *left == 0 && ends_process {
            drop(state);
            self.leave();
        }
    }

    /// Ends the process. Apart from this, only main does.
    fn leave(&self) -> ! {
        let unfinished = std::mem::take(&mut self.state().unfinished);
        for path in unfinished {
            let _ = std::fs::remove_file(path);
        }
        let what = match self.state().on_signal {
            OnSignal::NothingToCancel => "",
            _ => "; the run may still be going on",
        };
        self.say(format!("failed (internal): sortie is stuck and ends now{what}"));
        std::process::exit(Exit::Failed.code().into())
    }
}

/// Waits until a descriptor is ready. Returns false if none is: after `limit`, or when a signal interrupted the wait.
pub fn poll_for(descriptors: &mut [PollFd<'_>], limit: Option<Duration>) -> bool {
    // A limit that does not fit into a `timespec` is no limit.
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    let ready = poll(descriptors, limit.as_ref()).is_ok_and(|ready| ready > 0);
    if !ready {
        // After an error the returned events mean nothing.
        descriptors.iter_mut().for_each(PollFd::clear_revents);
    }
    ready
}

/// Says what the system denied, and what to do.
fn missing(doing: &str, error: &io::Error) -> Failure {
    let advice = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE) => "; allow more open files (ulimit -n)",
        _ if error.kind() == ErrorKind::WouldBlock => "; allow more processes and threads (ulimit -u)",
        _ => "",
    };
    Failure::new(Reason::Internal, format!("{doing}: {error}{advice}"))
}

/// Returns the mask of the signals that were ignored when this process was started; 0 without /proc.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
