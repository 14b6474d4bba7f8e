//! The agent server's calls, with their retries. This folder is the only place that knows the HTTP crate.

mod address;
mod connection;
mod proxy;
mod race;
mod secret;
mod tls;

pub use address::Address;
pub use connection::{Body, Chunk, TICK};
pub use secret::Secret;

use crate::api;
use crate::approval::Verdict;
use crate::console::{Console, visible_start};
use crate::event::{ToolCall, place_texts};
use crate::outcome::{Failure, Reason};
use crate::watchdog::Watch;
use connection::{ANSWER, Bounds};
use serde::Serialize;
use serde::de::{DeserializeOwned, Error};
use std::time::{Duration, Instant, SystemTime};
use ureq::http::HeaderValue;
use uuid::Uuid;

/// The time for the last try, when the retry time-out is over.
const LAST_TRY: Duration = Duration::from_secs(1);
/// The largest answer to a call, in bytes.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// As much of an error's body as is looked at, in bytes.
const MAX_ERROR: usize = 64 * 1024;
/// As much of what a server said as is quoted, in characters.
const MAX_QUOTE: usize = 300;

/// What a client is made from.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the server is.
    pub server: Address,
    /// Sent with every call, if there is one.
    pub token: Option<Secret>,
    /// Bound on a connect as a whole: the look-up of the name, all addresses, a proxy, TLS.
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
}

/// One call: what it is for, in the words of an error, and what is sent.
struct Call<'a> {
    doing: &'a str,
    path: String,
    /// The answer is an event stream.
    endless: bool,
    /// A GET without, a POST with.
    body: Option<Vec<u8>>,
    /// One for each POST that is a step of its own; its retries keep it.
    key: Option<&'a str>,
}

impl Client {
    /// A client whose waiting ends with `watch`, and which tells of its retries on `console`.
    pub fn new(options: Options, watch: Watch, console: Console) -> Self {
        let agent = connection::agent(&options.server, !options.retry_timeout.is_zero(), &watch);
        Self { options, agent, watch, console }
    }

    /// Another client of the same server, under another watch: the first one's calls end at once when its watch has a
    /// cause. It goes to the address that answered last.
    pub fn again(&self, watch: Watch) -> Self {
        Self::new(self.options.clone(), watch, self.console.clone())
    }

    /// The server's URL.
    pub fn url(&self) -> &str {
        self.options.server.url()
    }

    /// The longest time without contact.
    pub const fn retry_timeout(&self) -> Duration {
        self.options.retry_timeout
    }

    /// `GET /v1/health`.
    ///
    /// # Errors
    /// As every call: see the table of reasons in the README.
    pub fn health(&self) -> Result<(), Failure> {
        self.get("ask for the server's health", "/v1/health".into()).map(|_: api::Health| ())
    }

    /// `GET /v1/config`.
    ///
    /// # Errors
    /// As every call.
    pub fn config(&self) -> Result<api::Config, Failure> {
        self.get("ask for the server's configuration", "/v1/config".into())
    }

    /// `POST /v1/sessions`.
    ///
    /// # Errors
    /// As every call.
    pub fn create_session(&self, session: &api::NewSession<'_>) -> Result<Uuid, Failure> {
        let key = new_key();
        self.post("create a session", "/v1/sessions".into(), session, &key).map(|created: api::Created| created.id)
    }

    /// `GET /v1/sessions/{id}`: the one call that tells whether a session exists (protocol trap 10).
    ///
    /// # Errors
    /// As every call.
    pub fn session(&self, session: Uuid) -> Result<api::Session, Failure> {
        let path = format!("/v1/sessions/{session}");
        self.get("ask for the session's state", path).map(|detail: api::SessionDetail| detail.session)
    }

    /// `POST /v1/sessions/{id}/messages`.
    ///
    /// # Errors
    /// As every call; `Conflict` with the code `session_already_running` where a run goes on.
    pub fn send(&self, session: Uuid, message: &api::NewMessage, key: &str) -> Result<Uuid, Failure> {
        let path = format!("/v1/sessions/{session}/messages");
        self.post("send the prompt", path, message, key).map(|sent: api::Sent| sent.run_id)
    }

    /// `GET /v1/sessions/{id}/messages`, one page.
    ///
    /// # Errors
    /// As every call.
    pub fn messages(&self, session: Uuid, offset: usize, limit: usize) -> Result<api::Messages, Failure> {
        let path = format!("/v1/sessions/{session}/messages?limit={limit}&offset={offset}");
        self.get("read the session's messages", path)
    }

    /// `GET /v1/sessions/{id}/tools/pending`.
    ///
    /// # Errors
    /// As every call.
    pub fn pending(&self, session: Uuid) -> Result<api::Pending, Failure> {
        self.get("ask for the tool calls that wait", format!("/v1/sessions/{session}/tools/pending"))
    }

    /// `POST /v1/sessions/{id}/tools/decisions`. Each call has a key of its own: under the key of an earlier one the
    /// server would only repeat its answer.
    ///
    /// # Errors
    /// As every call; `Conflict` where the run is over.
    pub fn decide(&self, session: Uuid, run: &str, decisions: &[(ToolCall, Verdict)]) -> Result<(), Failure> {
        let decisions = decisions
            .iter()
            .filter_map(|(call, verdict)| Some((call.id.as_str(), api::Decision::of(verdict)?)))
            .collect();
        let path = format!("/v1/sessions/{session}/tools/decisions");
        let body = api::Decisions { run_id: run, decisions };
        self.post("decide the tool calls", path, &body, &new_key()).map(|_: api::Taken| ())
    }

    /// `POST /v1/sessions/{id}/cancel`: a request, not a fact (protocol traps 5 and 6).
    ///
    /// # Errors
    /// As every call; `Conflict` where the run is over.
    pub fn cancel(&self, session: Uuid, run: &str) -> Result<(), Failure> {
        let path = format!("/v1/sessions/{session}/cancel");
        self.post("cancel the run", path, &api::Cancel { run_id: run }, &new_key()).map(|_: api::Taken| ())
    }

    /// `GET /v1/sessions/{id}/events`, from the event after `cursor`; 0 is the start (protocol trap 1). The last contact
    /// was at `contact`; `backoff` is the caller's, who knows whether there was progress since.
    ///
    /// # Errors
    /// As every call; `Protocol` for something that is not an event stream.
    pub fn events(
        &self,
        session: Uuid,
        cursor: u64,
        contact: Instant,
        backoff: &mut Backoff,
    ) -> Result<Body, Failure> {
        let path = format!("/v1/sessions/{session}/events");
        let call = Call { doing: "follow the run", path, endless: true, body: None, key: None };
        self.retry(contact, backoff, |patience| {
            let request = self.request(&call.path).header("Accept", "text/event-stream");
            let answer = self.exchange(&call, request.header("Last-Event-ID", cursor), patience)?;
            Ok(self.stream(&call, answer)?)
        })
    }

    fn stream(&self, call: &Call<'_>, answer: ureq::http::Response<ureq::Body>) -> Result<Body, Failure> {
        let doing = call.doing;
        let content_type = header(&answer, "content-type").unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("text/event-stream") {
            let got = if media_type.is_empty() { "nothing it names".into() } else { self.quote(media_type) };
            let message = format!("{doing}: expected an event stream from {}, got {got}", self.url());
            return Err(Failure::new(Reason::Protocol, message));
        }
        self.undecoded(doing, &answer)?;
        Ok(Body::new(answer.into_body()))
    }

    fn get<T: DeserializeOwned>(&self, doing: &str, path: String) -> Result<T, Failure> {
        self.call(&Call { doing, path, endless: false, body: None, key: None })
    }

    fn post<T: DeserializeOwned>(
        &self,
        doing: &str,
        path: String,
        body: &impl Serialize,
        key: &str,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Failure::new(Reason::Internal, format!("{doing}: {error}")))?;
        self.call(&Call { doing, path, endless: false, body: Some(body), key: Some(key) })
    }

    fn call<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, Failure> {
        self.retry(Instant::now(), &mut Backoff::default(), |patience| {
            let mut request = self.request(&call.path);
            if call.body.is_some() {
                request = request.method("POST").header("Content-Type", "application/json");
            }
            if let Some(key) = call.key {
                request = request.header("Idempotency-Key", key);
            }
            let answer = self.exchange(call, request, patience)?;
            // What cannot be read may have been a yes.
            let may_be_cut = connection::is_close_delimited(&answer);
            let read = self.body(call, answer).and_then(|body| self.parse(call, &body, may_be_cut));
            Ok(read.map_err(|failure| failure.in_doubt(true))?)
        })
    }

    /// Tries until there is an answer that is worth something, as long as the retry time-out since the last `contact`
    /// lets it. Each try is told for how long it may wait.
    fn retry<T>(
        &self,
        contact: Instant,
        backoff: &mut Backoff,
        attempt: impl Fn(Duration) -> Result<T, Missed>,
    ) -> Result<T, Failure> {
        let mut in_doubt = false;
        let mut least = self.options.connect_timeout;
        loop {
            self.watch.check().map_err(|cause| cause.in_doubt(in_doubt))?;
            let left = self.left(contact);
            let patience = if left.is_zero() { least } else { left.max(LAST_TRY) };
            let missed = match attempt(patience.min(ANSWER)) {
                Ok(done) => return Ok(done),
                Err(missed) => missed,
            };
            in_doubt |= missed.failure.in_doubt;
            // A cause kills the connection: it is the cause that counts.
            self.watch.check().map_err(|cause| cause.in_doubt(in_doubt))?;
            let left = self.left(contact);
            if !missed.again || left.is_zero() {
                return Err(missed.failure.in_doubt(in_doubt));
            }
            if missed.at_once {
                continue;
            }
            // A server that says to come again at once is not hammered.
            let wait = backoff.wait().max(missed.wait.unwrap_or_default()).min(left);
            self.announce_retry(&missed.failure, wait);
            self.watch.sleep(wait).map_err(|cause| cause.in_doubt(in_doubt))?;
            least = LAST_TRY;
        }
    }

    fn left(&self, contact: Instant) -> Duration {
        self.options.retry_timeout.saturating_sub(contact.elapsed())
    }

    fn announce_retry(&self, failure: &Failure, wait: Duration) {
        let limit = humantime::format_duration(self.options.retry_timeout);
        let wait = wait.as_secs_f64();
        self.console.progress(&format!("{failure}; trying again in {wait:.1} s, for {limit} at the most"));
    }

    fn request(&self, path: &str) -> ureq::http::request::Builder {
        let server = &self.options.server;
        let mut request = ureq::http::Request::builder()
            .uri(server.uri(path))
            // What is not asked for must not come: a compressed stream would be held back.
            .header("Accept-Encoding", "identity");
        for (name, value) in server.proxy_headers() {
            request = request.header(name, value);
        }
        let token = self.options.token.as_ref();
        match token.and_then(|token| HeaderValue::try_from(format!("Bearer {}", token.reveal())).ok()) {
            Some(mut value) => {
                // Its Debug shows nothing then.
                value.set_sensitive(true);
                request.header("Authorization", value)
            }
            None => request,
        }
    }

    /// One request and the head of a good answer.
    fn exchange(
        &self,
        call: &Call<'_>,
        request: ureq::http::request::Builder,
        patience: Duration,
    ) -> Result<ureq::http::Response<ureq::Body>, Missed> {
        let body = (!call.endless).then_some(ANSWER);
        let bounds = Bounds { connect: self.options.connect_timeout, patience, body };
        let doing = format!("{} at {}{}", call.doing, self.url(), self.options.server.through());
        let internal = |error: ureq::http::Error| Failure::new(Reason::Internal, format!("{doing}: {error}"));
        let agent = &self.agent;
        let answer = if let Some(body) = &call.body {
            let request = request.body(body.as_slice()).map_err(internal)?;
            agent.run(connection::bounded(agent, request, bounds))
        } else {
            let request = request.body(()).map_err(internal)?;
            agent.run(connection::bounded(agent, request, bounds))
        };
        let mut answer = answer.map_err(|error| {
            let at_once = connection::is_stale(&error);
            Missed { at_once, ..connection::failure(&doing, &error).into() }
        })?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status().as_u16();
        let again = RETRIED.contains(&status);
        let wait = header(&answer, "retry-after").and_then(|value| retry_after(&value, SystemTime::now()));
        let failure = self.refusal(call, &mut answer);
        // Without a word of the server itself, it is a gateway's: what lies behind that may have taken it.
        let in_doubt = again && failure.code.is_empty();
        Err(Missed { failure: failure.in_doubt(in_doubt), again, wait, at_once: false })
    }

    /// The body of a good answer.
    fn body(&self, call: &Call<'_>, mut answer: ureq::http::Response<ureq::Body>) -> Result<Vec<u8>, Failure> {
        self.undecoded(call.doing, &answer)?;
        let (body, whole) = self.read(&mut answer, MAX_ANSWER)?;
        if !whole {
            let message = format!("{}: the answer is larger than {MAX_ANSWER} bytes", call.doing);
            return Err(Failure::new(Reason::Protocol, message));
        }
        Ok(body)
    }

    /// The body up to a limit, and whether that was all.
    fn read(
        &self,
        answer: &mut ureq::http::Response<ureq::Body>,
        limit: usize,
    ) -> Result<(Vec<u8>, bool), Failure> {
        let mut body = Body::new(std::mem::replace(answer.body_mut(), ureq::Body::builder().data("")));
        let mut buffer = [0; 16 * 1024];
        let mut all = Vec::new();
        loop {
            match body.read(&mut buffer)? {
                Chunk::End => return Ok((all, true)),
                Chunk::Bytes(length) if all.len() + length > limit => return Ok((all, false)),
                Chunk::Bytes(length) => all.extend_from_slice(&buffer[..length]),
                Chunk::Tick => {}
            }
        }
    }

    fn parse<T: DeserializeOwned>(&self, call: &Call<'_>, body: &[u8], may_be_cut: bool) -> Result<T, Failure> {
        // Serde takes a list for an object, by the order of the fields.
        let is_object = body.trim_ascii_start().starts_with(b"{");
        let placed = if is_object { place_texts(body) } else { Err(Error::custom("it is no object")) };
        placed.and_then(|()| serde_json::from_slice(body)).map_err(|error| {
            if may_be_cut && (error.is_eof() || body.trim_ascii().is_empty()) {
                let message = format!("{}: the connection was closed before the answer was complete", call.doing);
                return Failure::new(Reason::Connection, message);
            }
            let got = &body[..body.len().min(MAX_ERROR)];
            let (error, got) = (self.quote(&error.to_string()), self.quote(&String::from_utf8_lossy(got)));
            let message = format!("{}: the answer is not what the protocol says ({error}): {got}", call.doing);
            Failure::new(Reason::Protocol, message)
        })
    }

    /// An encoding that we did not ask for would be taken for text.
    fn undecoded(&self, doing: &str, answer: &ureq::http::Response<ureq::Body>) -> Result<(), Failure> {
        match header(answer, "content-encoding") {
            Some(encoding) if !encoding.eq_ignore_ascii_case("identity") => {
                let encoding = self.quote(&encoding);
                let message = format!("{doing}: the answer is encoded ({encoding}), which was not asked for");
                Err(Failure::new(Reason::Protocol, message))
            }
            _ => Ok(()),
        }
    }

    /// A little of what came; a server may say our token back.
    fn quote(&self, text: &str) -> String {
        match &self.options.token {
            Some(token) if text.contains(token.reveal()) => quote(&text.replace(token.reveal(), "(the token)")),
            _ => quote(text),
        }
    }

    /// An answer that is not a 2xx, as a failure.
    fn refusal(&self, call: &Call<'_>, answer: &mut ureq::http::Response<ureq::Body>) -> Failure {
        let status = answer.status();
        let location = header(answer, "location");
        let body = self.read(answer, MAX_ERROR).map(|(body, _)| body).unwrap_or_default();
        let error: api::Error = serde_json::from_slice(&body).unwrap_or_default();
        let is_foreign = error.error.is_empty() && error.code.is_empty();
        let said =
            self.quote(&if error.error.is_empty() { String::from_utf8_lossy(&body) } else { error.error.into() });
        let is_proxys = self.options.server.asked_proxy().is_some()
            && (status.as_u16() == 407 || PROXYS.contains(&status.as_u16()) && is_foreign);
        let advice = match status.as_u16() {
            407 if is_proxys => "; give the proxy's user and password: http://USER:PASSWORD@HOST:PORT",
            _ if is_proxys => "",
            401 | 403 if self.options.token.is_none() => "; give a token: --token-file, SORTIE_TOKEN",
            401 | 403 => "; is the token (--token-file, SORTIE_TOKEN) the server's present one?",
            _ => "",
        };
        let pointed = location.filter(|_| status.is_redirection()).map_or_else(String::new, |location| {
            format!(
                "; it points to {}, and no redirect is followed: give the right --server",
                self.quote(&location)
            )
        });
        let said = if said.is_empty() { said } else { format!(": {said}") };
        let (url, through) = (self.url(), self.options.server.through());
        let message = format!("{} at {url}{through}: {status}{said}{pointed}{advice}", call.doing);
        let reason = match status.as_u16() {
            _ if is_proxys => Reason::Connection,
            401 | 403 => Reason::Auth,
            404 => Reason::NotFound,
            409 => Reason::Conflict,
            _ => Reason::Server,
        };
        let retryable = status.is_server_error() || RETRIED.contains(&status.as_u16());
        Failure::new(reason, message).retryable(retryable).with_code(error.code)
    }
}

/// A try that came to nothing.
struct Missed {
    failure: Failure,
    /// The same call may yet succeed.
    again: bool,
    /// The server says when.
    wait: Option<Duration>,
    /// Only the connection was too old: a new one needs no wait.
    at_once: bool,
}

impl From<Failure> for Missed {
    /// What is no refusal: only a lost connection may be better the next time.
    fn from(failure: Failure) -> Self {
        let again = failure.reason == Reason::Connection && failure.retryable;
        Self { failure, again, wait: None, at_once: false }
    }
}

/// The statuses after which the same call may succeed.
const RETRIED: [u16; 7] = [408, 425, 429, 500, 502, 503, 504];

/// What a proxy that is asked answers by itself, where it is not in the server's own words.
const PROXYS: [u16; 4] = [403, 502, 503, 504];

/// A little of what came, made harmless, on one line.
fn quote(text: &str) -> String {
    visible_start(text.trim(), MAX_QUOTE)
}

fn header(answer: &ureq::http::Response<ureq::Body>, name: &str) -> Option<String> {
    answer.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// RFC 9110, 10.2.3: seconds or a date.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok().map(|at| at.duration_since(now).unwrap_or_default()),
    }
}

/// A key for one POST and its retries.
pub fn new_key() -> String {
    Uuid::new_v4().to_string()
}

/// Growing waits: from 100 ms to 5 s, doubled each time, and each cut by up to a half, so that many clients that lost
/// the same server do not come back together.
#[derive(Debug, Default)]
pub struct Backoff(u32);

impl Backoff {
    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        let full = 100_u64.saturating_mul(1 << self.0.min(6)).min(5000);
        self.0 += 1;
        let chance = Uuid::new_v4().as_u64_pair().1 % (full / 2 + 1);
        Duration::from_millis(full - chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_a_tenth_of_a_second_to_five_and_are_jittered() {
        let mut backoff = Backoff::default();
        for full in [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000] {
            let wait = u64::try_from(backoff.wait().as_millis()).unwrap();
            assert!((full / 2..=full).contains(&wait), "{wait} of {full}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after(" 3 ", now), Some(Duration::from_secs(3)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:47 GMT", now), Some(Duration::from_secs(10)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:27 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }
}
