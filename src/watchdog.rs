//! The deadline and the signals become one cause, the first that comes; whoever blocks is woken. A thread waits for
//! both, so that the main thread may block. It is also the last resort: a second signal, or a main thread that does not
//! come to its end after a cause, ends the process here, with 1.

use crate::outcome::{Exit, Failure, Reason};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// How long the main thread may take from a cause to its end: 5 s for a cancel, and some for the rest.
const LAST_RESORT: Duration = Duration::from_secs(10);
/// How soon a cause is noticed while the main thread waits for a call to be answered.
const GLANCE: Duration = Duration::from_millis(50);

/// Why everything must come to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The time is over: its length, and the flag that set it.
    Deadline(Duration, &'static str),
    /// No event came for so long (`--idle-timeout`).
    Idle(Duration),
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
            Cause::Idle(limit) => {
                let limit = humantime::format_duration(limit);
                Self::new(Reason::IdleTimeout, format!("no event for {limit} (--idle-timeout)"))
            }
            Cause::Signal(name) => Self::new(Reason::Interrupted, format!("interrupted by {name}")),
        }
    }
}

/// Called, on the watchdog's thread, when a cause comes.
type Waker = Box<dyn Fn() + Send>;

#[derive(Default)]
struct State {
    deadline: Option<(Instant, Cause)>,
    idle: Option<(Instant, Cause)>,
    /// When the thread looks next by itself.
    alarm: Option<Instant>,
    cause: Option<Cause>,
    wakers: Vec<Waker>,
    /// Half written files, removed by whoever leaves at once.
    unfinished: Vec<PathBuf>,
}

impl State {
    /// What comes first, if nothing else does.
    fn next(&self) -> Option<(Instant, Cause)> {
        [self.deadline, self.idle].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A handle on the cause. Clones share it.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
    /// Wakes the thread when the deadline changes; `None` where there is no thread.
    bell: Option<Arc<UnixStream>>,
    /// Both ends of a pipe into which the thread writes a byte once there is a cause; `None` where there is no thread.
    alert: Option<Arc<(UnixStream, UnixStream)>>,
}

impl Watch {
    /// Takes the signals and starts the thread. A signal that is ignored at the start stays so: SIGHUP under nohup,
    /// SIGINT in a shell's background job.
    ///
    /// # Errors
    /// When the system denies a socket pair, a signal handler or a thread.
    pub fn start() -> io::Result<Self> {
        let (ear, bell) = UnixStream::pair()?;
        let signal = Arc::new(AtomicUsize::new(0));
        let ignored = ignored_signals();
        for (number, _) in SIGNALS {
            if ignored & (1 << (number - 1)) == 0 {
                // In this order: the number is known when the bell rings.
                signal_hook::flag::register_usize(number, Arc::clone(&signal), number.unsigned_abs() as usize)?;
                signal_hook::low_level::pipe::register(number, bell.try_clone()?)?;
            }
        }
        let alert = Some(Arc::new(UnixStream::pair()?));
        let watch = Self { bell: Some(Arc::new(bell)), alert, ..Self::quiet() };
        let thread = watch.clone();
        thread::Builder::new().name("watchdog".into()).spawn(move || thread.keep(&ear, &signal))?;
        Ok(watch)
    }

    /// No signals and no thread: the deadline is seen when somebody looks. For the short time after a cause.
    pub fn quiet() -> Self {
        let shared = Shared { state: Mutex::default(), changed: Condvar::new() };
        Self { shared: Arc::new(shared), bell: None, alert: None }
    }

    /// A quiet watch with a deadline, and what it is for.
    pub fn until(limit: Duration, what: &'static str) -> Self {
        let watch = Self::quiet();
        watch.arm(limit, what);
        watch
    }

    /// Sets the deadline, from now, and the flag that it comes from.
    pub fn arm(&self, limit: Duration, flag: &'static str) {
        // A deadline too far away to be a point in time is none.
        self.state().deadline = Instant::now().checked_add(limit).map(|at| (at, Cause::Deadline(limit, flag)));
        self.ring();
    }

    /// Sets when the run has been silent for too long: `limit` after `since`; `None` while nobody listens to it.
    pub fn arm_idle(&self, idle: Option<(Instant, Duration)>) {
        let at = idle.and_then(|(since, limit)| Some((since.checked_add(limit)?, Cause::Idle(limit))));
        let mut state = self.state();
        let too_late = at.is_some_and(|(at, _)| state.alarm.is_none_or(|alarm| at < alarm));
        state.idle = at;
        drop(state);
        if too_late {
            self.ring();
        }
    }

    /// Has the thread look at its times anew.
    fn ring(&self) {
        if let Some(bell) = &self.bell {
            // A full pipe rings too.
            let _ = (&**bell).write(&[0]);
        }
    }

    /// Has `waker` called when a cause comes.
    pub fn on_cause(&self, waker: impl Fn() + Send + 'static) {
        self.state().wakers.push(Box::new(waker));
    }

    /// Names a file that nobody wants unless we come to our end.
    pub fn remove_on_leaving(&self, path: &Path) {
        self.state().unfinished.push(path.to_owned());
    }

    /// Returns a descriptor that becomes readable once there is a cause, and stays so; `None` where there is no thread
    /// that could tell.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.alert.as_ref().map(|alert| alert.0.as_fd())
    }

    /// The cause, if there is one.
    pub fn cause(&self) -> Option<Cause> {
        let mut state = self.state();
        if state.cause.is_none() {
            state.cause = state.next().filter(|(at, _)| Instant::now() >= *at).map(|(_, cause)| cause);
        }
        state.cause
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
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            let state = self.state();
            let until = state.next().map_or(end, |(at, _)| at.min(end));
            let left = until.saturating_duration_since(now);
            drop(self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Runs what may block without end (a name look-up, a connect) on a thread of its own, and leaves it there when a
    /// cause comes.
    ///
    /// # Errors
    /// The cause; `Internal` if no thread could be had or it panicked.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let (sender, receiver) = mpsc::channel();
        let internal = |what: &str| Failure::new(Reason::Internal, format!("wait for the server: {what}"));
        thread::Builder::new()
            .name("call".into())
            .spawn(move || {
                // Nobody may be waiting any more.
                let _ = sender.send(work());
            })
            .map_err(|error| internal(&error.to_string()))?;
        loop {
            match receiver.recv_timeout(GLANCE) {
                Ok(done) => return Ok(done),
                Err(mpsc::RecvTimeoutError::Timeout) => self.check()?,
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(internal("the thread panicked")),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_alarm(&self) -> Option<Instant> {
        let mut state = self.state();
        state.alarm = state.next().map(|(at, _)| at);
        state.alarm
    }

    /// The thread.
    fn keep(&self, mut ear: &UnixStream, signal: &AtomicUsize) {
        let mut leave_at: Option<Instant> = None;
        loop {
            let wait = leave_at
                .or_else(|| self.next_alarm())
                .map(|at| at.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
            // Without a bound on the read we would still hear the bell.
            let _ = ear.set_read_timeout(wait);
            let _ = ear.read(&mut [0]);
            let number = signal.swap(0, Ordering::Relaxed);
            let name = SIGNALS.iter().find(|(known, _)| known.unsigned_abs() as usize == number);
            let cause = name.map(|(_, name)| Cause::Signal(name));
            if let Some(at) = leave_at {
                if cause.is_some() || Instant::now() >= at {
                    self.leave();
                }
            } else if let Some(cause) = cause.or_else(|| self.cause()) {
                leave_at = Some(Instant::now() + LAST_RESORT);
                let wakers = {
                    let mut state = self.state();
                    state.cause.get_or_insert(cause);
                    std::mem::take(&mut state.wakers)
                };
                self.shared.changed.notify_all();
                if let Some(alert) = &self.alert {
                    let _ = (&alert.1).write(&[0]);
                }
                for wake in wakers {
                    wake();
                }
            }
        }
    }

    /// The one place, beside the end of main, where the process ends.
    fn leave(&self) -> ! {
        for path in &self.state().unfinished {
            let _ = std::fs::remove_file(path);
        }
        std::process::exit(Exit::Failed.code().into())
    }
}

const SIGNALS: [(i32, &str); 3] = [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM"), (SIGHUP, "SIGHUP")];

/// The mask of the signals that this process was started with ignored; 0 where the system does not tell.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
