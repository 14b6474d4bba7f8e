//! The client of the agent server: its calls, their retries and its event streams. Only this folder uses the HTTP
//! crate.

mod address;
mod calls;
mod connection;
mod cursor;
mod exchange;
mod fault;
mod headers;
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
pub use stream::{EventStream, Silence, StreamItem};
pub use token::{MAX_TOKEN, Token};
pub use word::{CallError, Gateway, Refusal, Word};

use crate::console::Console;
use crate::watchdog::Watch;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub struct Options {
    pub server: Address,
    pub token: Option<Token>,
    /// Headers of every call, for a gateway in front of the server.
    pub headers: Headers,
    /// The limit for the name look-up and the connect together.
    pub connect_timeout: Duration,
    /// The longest time without contact with the server.
    pub retry_timeout: Duration,
}

pub struct Client {
    options: Options,
    agent: ureq::Agent,
    watch: Watch,
    console: Console,
    shared: Arc<Shared>,
}

/// The state that all clients of one command share.
struct Shared {
    /// The server itself has answered a call.
    heard: AtomicBool,
    /// When the server itself last answered.
    contact: Mutex<Instant>,
    credentials: Mutex<Credentials>,
    server_version: Mutex<Option<String>>,
}

#[derive(Clone, PartialEq, Eq)]
struct Credentials {
    token: Option<Token>,
    headers: Headers,
}

impl Client {
    /// Every wait of the client ends with `watch`. Retries are reported on `console`.
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

    /// Returns a client of the same server for the last calls: their retries end with `watch`, not with the retry
    /// timeout.
    pub fn with_watch(&self, watch: Watch) -> Self {
        let options = Options { retry_timeout: Duration::MAX, ..self.options.clone() };
        Self::sharing(options, watch, self.console.clone(), Arc::clone(&self.shared))
    }

    /// Returns a client of the same server for looks at many streams: a read that finds nothing returns at once.
    pub fn for_glances(&self) -> Self {
        let (options, watch) = (self.options.clone(), self.watch.clone());
        let agent = connection::agent(&options.server, false, connection::GLANCE_TICK, &watch);
        Self { options, agent, watch, console: self.console.clone(), shared: Arc::clone(&self.shared) }
    }

    pub fn url(&self) -> &str {
        self.options.server.url()
    }

    /// Returns the server's version, once [`Client::health`] has asked for it.
    pub fn server_version(&self) -> Option<String> {
        lock(&self.shared.server_version).clone()
    }

    fn set_server_version(&self, version: Option<String>) {
        *lock(&self.shared.server_version) = version;
    }

    pub const fn watch(&self) -> &Watch {
        &self.watch
    }

    pub const fn retry_timeout(&self) -> Duration {
        self.options.retry_timeout
    }

    /// Returns whether the token came from a file, so that it may change.
    pub fn has_token_file(&self) -> bool {
        self.credentials().token.is_some_and(|token| token.has_file())
    }

    /// Returns whether the server itself has answered a call of this command.
    pub fn has_heard(&self) -> bool {
        self.shared.heard.load(Ordering::Relaxed)
    }

    /// Returns when the server itself last answered a call, or else when the command began.
    fn contact(&self) -> Instant {
        *lock(&self.shared.contact)
    }

    /// Notes that the server itself has answered.
    fn hear(&self) {
        self.shared.heard.store(true, Ordering::Relaxed);
        *lock(&self.shared.contact) = Instant::now();
    }

    fn credentials(&self) -> Credentials {
        lock(&self.shared.credentials).clone()
    }

    /// Reads the token file again after the server's own 401, and the header file after a 401, 403 or 3xx of a gateway.
    /// Returns whether the credentials are now other ones than those that were `used`.
    fn renew(&self, used: &Credentials, word: &Word, status: u16) -> bool {
        let mut present = lock(&self.shared.credentials);
        let what = match word {
            Word::Server(Refusal::Unauthorized) => {
                let token = present.token.as_ref().and_then(Token::read_again);
                present.token = token.or_else(|| present.token.take());
                "token file"
            }
            Word::Gateway(_) if matches!(status, 401 | 403 | 300..=399) => {
                present.headers = present.headers.read_again().unwrap_or_else(|| present.headers.clone());
                "header file"
            }
            _ => return false,
        };
        let is_new = *present != *used;
        drop(present);
        if is_new {
            self.console.progress(&format!("the {what} has changed: trying again with its new content"));
        }
        is_new
    }

    /// Returns an error after the deadline or a signal.
    fn stopped(&self) -> Option<CallError> {
        self.watch.cause().map(CallError::stopped)
    }

    /// Sleeps. Fails at once after the deadline or a signal.
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
