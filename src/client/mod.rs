//! The agent server's calls, with their retries. This folder is the only place that knows the HTTP crate.

mod address;
mod calls;
mod connection;
mod exchange;
mod fault;
mod headers;
mod place;
mod proxy;
mod quote;
mod race;
mod retry;
mod secret;
mod stream;
mod tls;
mod token;
mod wait;
mod word;

pub use address::Address;
pub use calls::new_key;
pub use headers::{Headers, MAX_HEADERS};
pub use secret::Secret;
pub use stream::{EventStream, Heard, Silence};
pub use token::{MAX_TOKEN, Token};
pub use word::{Between, CallError, Refusal, Word};

use crate::console::Console;
use crate::watchdog::Watch;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a client is made from.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the server is.
    pub server: Address,
    /// Sent with every call, if there is one.
    pub token: Option<Token>,
    /// Sent with every call, for a gateway in front.
    pub headers: Headers,
    /// Bound on the look-up of the name, and on the connect.
    pub connect_timeout: Duration,
    /// Longest time without contact.
    pub retry_timeout: Duration,
}

/// A client of one server.
pub struct Client {
    options: Options,
    agent: ureq::Agent,
    watch: Watch,
    console: Console,
    shared: Arc<Shared>,
}

/// What all clients of one command have in common.
struct Shared {
    /// The server itself has answered a call.
    heard: AtomicBool,
    /// When it last did.
    contact: Mutex<Instant>,
    credentials: Mutex<Credentials>,
    /// As `/v1/health` told it.
    server_version: Mutex<Option<String>>,
}

/// What opens the server, and a gateway in front of it.
#[derive(Clone, PartialEq, Eq)]
struct Credentials {
    token: Option<Token>,
    headers: Headers,
}

impl Client {
    /// A client whose waiting ends with `watch`, and which tells of its retries on `console`.
    pub fn new(options: Options, watch: Watch, console: Console) -> Self {
        let credentials = Credentials { token: options.token.clone(), headers: options.headers.clone() };
        let shared = Shared {
            heard: AtomicBool::new(false),
            contact: Mutex::new(Instant::now()),
            credentials: Mutex::new(credentials),
            server_version: Mutex::default(),
        };
        Self::sharing(options, watch, console, Arc::new(shared))
    }

    fn sharing(options: Options, watch: Watch, console: Console, shared: Arc<Shared>) -> Self {
        let agent = connection::agent(&options.server, !options.retry_timeout.is_zero(), connection::TICK, &watch);
        Self { options, agent, watch, console, shared }
    }

    /// Another client of the same server, for the last calls: their retries end with `watch` and not with the retry
    /// timeout. It knows what this one has learnt.
    pub fn with_watch(&self, watch: Watch) -> Self {
        let options = Options { retry_timeout: Duration::MAX, ..self.options.clone() };
        Self::sharing(options, watch, self.console.clone(), Arc::clone(&self.shared))
    }

    /// Another client of the same server, for looks at many streams: a read that finds nothing returns at once.
    pub fn for_glances(&self) -> Self {
        let (options, watch) = (self.options.clone(), self.watch.clone());
        let agent = connection::agent(&options.server, false, connection::GLANCE_TICK, &watch);
        Self { options, agent, watch, console: self.console.clone(), shared: Arc::clone(&self.shared) }
    }

    /// The server's URL.
    pub fn url(&self) -> &str {
        self.options.server.url()
    }

    /// The server's version, where it was asked for its health.
    pub fn server_version(&self) -> Option<String> {
        lock(&self.shared.server_version).clone()
    }

    fn set_server_version(&self, version: Option<String>) {
        *lock(&self.shared.server_version) = version;
    }

    /// What ends the client's waiting.
    pub const fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The longest time without contact.
    pub const fn retry_timeout(&self) -> Duration {
        self.options.retry_timeout
    }

    /// Whether the token came from a file, so that it may change.
    pub fn has_token_file(&self) -> bool {
        self.credentials().token.is_some_and(|token| token.has_file())
    }

    /// Whether the server itself has answered a call of this command.
    pub fn has_heard(&self) -> bool {
        self.shared.heard.load(Ordering::Relaxed)
    }

    /// When the server itself last answered a call of this command; at first, when the command began.
    fn contact(&self) -> Instant {
        *lock(&self.shared.contact)
    }

    /// The server itself has answered.
    fn hear(&self) {
        self.shared.heard.store(true, Ordering::Relaxed);
        *lock(&self.shared.contact) = Instant::now();
    }

    fn credentials(&self) -> Credentials {
        lock(&self.shared.credentials).clone()
    }

    /// Reads the token again after the server's own 401, and the headers after a 401, 403 or 3xx of something in front.
    /// Returns whether there is another one to try than the one that was `used`.
    fn renew(&self, used: &Credentials, word: &Word, status: u16) -> bool {
        let mut present = lock(&self.shared.credentials);
        let what = match word {
            Word::Server(Refusal::Unauthorized) => {
                let token = present.token.as_ref().and_then(Token::read_again);
                present.token = token.or_else(|| present.token.take());
                "token file"
            }
            Word::Between(_) if matches!(status, 401 | 403 | 300..=399) => {
                present.headers = present.headers.read_again().unwrap_or_else(|| present.headers.clone());
                "header file"
            }
            _ => return false,
        };
        let is_new = *present != *used;
        drop(present);
        if is_new {
            self.console
                .progress(&format!("the {what} has changed, and is tried instead of the one that was refused"));
        }
        is_new
    }

    /// The error for a cause to end, if there is one.
    fn stopped(&self) -> Option<CallError> {
        self.watch.cause().map(CallError::stopped)
    }

    /// Sleeps, unless there is a cause to end.
    fn nap(&self, time: Duration) -> Result<(), CallError> {
        let slept = self.watch.sleep(time);
        match self.stopped() {
            Some(stopped) if slept.is_err() => Err(stopped),
            _ => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
