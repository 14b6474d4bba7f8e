//! The client of the agent server: its calls, their retries and its event streams. Only this folder uses the HTTP
//! crate.
//!
//! - One call: [`calls`] has a method for each. [`retry`] makes attempts until one succeeds. [`exchange`] is one
//!   attempt: a request and its answer. [`word`] tells whether the answer is the server's own. [`refusal`] makes the
//!   error for an answer that the call cannot use, and [`fault`] explains why there is no answer.
//! - One stream: [`stream`] opens the stream with an attempt of [`exchange`] and reads it. After a break it opens the
//!   stream again, after the last event of its [`cursor`].
//! - Below the HTTP crate: [`connection`] has the sockets, [`race`] connects them, [`wait`] polls them, and [`tls`]
//!   encrypts them.
//! - What a request needs: [`address`], [`proxy`] and [`credentials`].

mod address;
mod calls;
mod connection;
mod credentials;
mod cursor;
mod exchange;
mod fault;
mod proxy;
mod quote;
mod race;
mod refusal;
mod retry;
mod stream;
mod tls;
mod wait;
mod word;

pub use address::Address;
pub use calls::new_key;
pub use credentials::{Headers, MAX_HEADERS, MAX_TOKEN, Token};
pub use stream::{EventStream, StreamItem};
pub use word::{CallError, Refusal, Word};

use crate::console::Console;
use crate::watchdog::Watch;
use credentials::Credentials;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

#[derive(Clone)]
pub struct Client {
    options: Options,
    agent: ureq::Agent,
    watch: Watch,
    console: Console,
    shared: Arc<Mutex<Shared>>,
}

/// The state that all clients of one command share.
struct Shared {
    /// When the server itself last answered a call.
    contact: Option<Instant>,
    credentials: Credentials,
    server_version: Option<String>,
}

impl Client {
    /// Every wait of the client ends with `watch`. Retries are reported on `console`.
    pub fn new(options: Options, watch: Watch, console: Console) -> Self {
        let agent = connection::agent(&options.server, !options.retry_timeout.is_zero(), connection::TICK, &watch);
        let credentials = Credentials { token: options.token.clone(), headers: options.headers.clone() };
        let shared = Arc::new(Mutex::new(Shared { contact: None, credentials, server_version: None }));
        Self { options, agent, watch, console, shared }
    }

    /// Returns a client of the same server for the last calls: their retries end with `watch`, not with the retry
    /// timeout.
    pub fn for_last_calls(&self, watch: Watch) -> Self {
        let agent = connection::agent(&self.options.server, true, connection::TICK, &watch);
        let options = Options { retry_timeout: Duration::MAX, ..self.options.clone() };
        Self { options, agent, watch, ..self.clone() }
    }

    /// Returns a client of the same server for looks at many streams: a read that finds nothing returns at once.
    pub fn for_glances(&self) -> Self {
        let agent = connection::agent(&self.options.server, false, connection::GLANCE_TICK, &self.watch);
        Self { agent, ..self.clone() }
    }

    pub fn url(&self) -> &str {
        self.options.server.url()
    }

    /// Returns the server's version, once [`Client::health`] has asked for it.
    pub fn server_version(&self) -> Option<String> {
        self.shared().server_version.clone()
    }

    pub const fn retry_timeout(&self) -> Duration {
        self.options.retry_timeout
    }

    /// Returns whether the token came from a file, so that it may change.
    pub fn has_token_file(&self) -> bool {
        self.credentials().token.is_some_and(|token| token.has_file())
    }

    /// Returns when the server itself last answered a call of this command.
    fn contact(&self) -> Option<Instant> {
        self.shared().contact
    }

    /// Notes that the server itself has answered.
    fn note_contact(&self) {
        self.shared().contact = Some(Instant::now());
    }

    fn credentials(&self) -> Credentials {
        self.shared().credentials.clone()
    }

    /// Reads the refused credentials again. Returns whether they are now other ones than those that were `used`.
    fn renew(&self, used: &Credentials, word: &Word) -> bool {
        let mut shared = self.shared();
        let Some(file) = shared.credentials.read_again(word) else { return false };
        let is_new = shared.credentials != *used;
        drop(shared);
        if is_new {
            self.console.progress(&format!("the {file} has changed: trying again with its new content"));
        }
        is_new
    }

    pub const fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Fails after the deadline or a signal.
    pub fn check(&self) -> Result<(), CallError> {
        self.watch.cause().map_or(Ok(()), |cause| Err(CallError::stopped(cause)))
    }

    /// Sleeps. Fails at once after the deadline or a signal.
    fn nap(&self, time: Duration) -> Result<(), CallError> {
        self.watch.sleep(time).or_else(|_| self.check())
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
