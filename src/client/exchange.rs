//! One request and its answer. [`super::word`] tells whether the answer is the server's own.

use super::Client;
use super::connection::{ANSWER, Body, Chunk, TICK};
use super::credentials::{Credentials, secret_value};
use super::fault::{self, NoAnswer};
use super::quote::{few_words, quote};
use super::word::{CallError, Word};
use crate::agent::json;
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant};
use ureq::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use ureq::http::{Request, Response, request};

/// The largest answer to a call, in bytes.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// The most of an error's body that is read or quoted, in bytes.
pub(super) const MAX_ERROR: usize = 64 * 1024;
/// How often one attempt reads its token or headers again.
const MAX_RENEWALS: u32 = 2;

/// The head of an answer, and its body if that is not read yet.
pub(super) type Answer = Response<ureq::Body>;

pub(super) struct Call<'a> {
    /// What the call does, as a verb for an error: "cannot send the prompt".
    pub doing: &'a str,
    pub path: String,
    /// The body of a POST. A GET has none.
    pub body: Option<Vec<u8>>,
    /// The idempotency key of a POST. Retries keep it.
    pub key: Option<&'a str>,
    /// The Last-Event-ID of an event stream.
    pub after: Option<u64>,
}

impl<'a> Call<'a> {
    pub const fn get(doing: &'a str, path: String) -> Self {
        Self { doing, path, body: None, key: None, after: None }
    }

    const fn method(&self) -> &'static str {
        if self.is_post() { "POST" } else { "GET" }
    }

    pub const fn is_post(&self) -> bool {
        self.body.is_some()
    }
}

/// An attempt without a usable answer.
pub(super) struct FailedAttempt {
    pub error: CallError,
    /// If a retry may succeed, the wait that the server asks for, which may be zero.
    pub retry: Option<Duration>,
    /// The server had closed a kept connection.
    pub stale: bool,
    /// The request was sent, and no head of an answer came in time.
    pub late: bool,
}

/// An error that no retry can change.
impl From<CallError> for FailedAttempt {
    fn from(error: CallError) -> Self {
        Self { error, retry: None, stale: false, late: false }
    }
}

impl Client {
    /// Makes one attempt at a call that is answered with JSON of the shape `T`.
    pub(super) fn json<T: DeserializeOwned>(
        &self,
        call: &Call<'_>,
        patience: Duration,
    ) -> Result<T, FailedAttempt> {
        let mut answer = self.exchange(call, patience)?;
        self.check_encoding(call, &answer)?;
        let (body, is_whole) = self.read(call, &mut answer, MAX_ANSWER, ANSWER)?;
        if !is_whole {
            let why = format!("the answer is larger than {MAX_ANSWER} bytes");
            if is_page(&answer) {
                return Err(self.other_shape(call, &answer, &why));
            }
            self.note_contact();
            return Err(self.failed(call, Word::OverBound, None, &why));
        }
        match json::object(&body) {
            Ok(parsed) => {
                self.note_contact();
                Ok(parsed)
            }
            // If the body ends with the connection, a broken connection looks like the end of the body.
            Err(error) if error.is_eof() && is_close_delimited(&answer) => {
                Err(self.lost(call, "the connection was closed before the answer was complete"))
            }
            Err(error) => {
                let status = answer.status().as_u16();
                let media_type = media_type(&answer);
                let kind =
                    if media_type.is_empty() { media_type } else { format!(" {}", self.quoted(&media_type)) };
                let error = self.quoted(&error.to_string());
                let got = String::from_utf8_lossy(&body[..body.len().min(MAX_ERROR)]);
                let got = few_words(&self.credentials().redact(&got));
                let got = if got.is_empty() { "an empty body" } else { &got };
                let what = format!("{status}{kind}: expected the server's JSON ({error}), got {got}");
                Err(self.other_shape(call, &answer, &what))
            }
        }
    }

    /// Makes one attempt to open an event stream.
    pub(super) fn stream(&self, call: &Call<'_>, patience: Duration) -> Result<Body, FailedAttempt> {
        let answer = self.exchange(call, patience)?;
        let media_type = media_type(&answer);
        if !media_type.eq_ignore_ascii_case("text/event-stream") {
            let got = if media_type.is_empty() {
                "an answer without a Content-Type".into()
            } else {
                self.quoted(&media_type)
            };
            return Err(self.other_shape(call, &answer, &format!("expected an event stream, got {got}")));
        }
        self.check_encoding(call, &answer)?;
        self.note_contact();
        Ok(Body::new(answer.into_body()))
    }

    /// Sends the request and waits for the head of a 2xx answer. If the server had closed a kept connection, sends the
    /// request again. If the token or the gateway's headers are refused, reads their files again and retries.
    fn exchange(&self, call: &Call<'_>, mut patience: Duration) -> Result<Answer, FailedAttempt> {
        let began = Instant::now();
        let (mut renewals, mut was_stale) = (0, false);
        loop {
            let credentials = self.credentials();
            let mut failed = match self.attempt(call, &credentials, patience) {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(mut answer) => self.refusal(call, &credentials, &mut answer, patience),
                Err(failed) => failed,
            };
            // The first request may have arrived.
            failed.error.may_have_arrived |= was_stale;
            if failed.stale && !was_stale && self.check().is_ok() {
                log::info!("{}", failed.error);
                was_stale = true;
                patience = patience.saturating_sub(began.elapsed()).max(TICK);
            } else if renewals < MAX_RENEWALS && self.renew(&credentials, &failed.error.word) {
                renewals += 1;
            } else {
                return Err(failed);
            }
        }
    }

    /// Sends the request once and waits for the head of the answer.
    fn attempt(
        &self,
        call: &Call<'_>,
        credentials: &Credentials,
        patience: Duration,
    ) -> Result<Answer, FailedAttempt> {
        let request = self.request(call, credentials).body(());
        let request = request.map_err(|error| self.error(call, Word::Internal, &error.to_string()))?;
        let request = self
            .agent
            .configure_request(request)
            // The limit for the connect includes the look-up and the TLS handshake.
            .timeout_connect(Some(self.options.connect_timeout.min(patience)))
            .timeout_per_write(Some(patience))
            // The reads of the body return after a tick instead.
            .timeout_recv_response(Some(patience))
            .build();
        let began = Instant::now();
        let answer = match &call.body {
            Some(body) => self.agent.run(request.map(|()| body.as_slice())),
            None => self.agent.run(request),
        };
        let took = began.elapsed().as_millis();
        let (method, path) = (call.method(), &call.path);
        match answer {
            Ok(answer) => {
                log::debug!("{method} {path} {} in {took} ms", answer.status().as_u16());
                Ok(answer)
            }
            Err(error) => {
                let failed = self.unanswered(call, &error);
                log::debug!("{method} {path} no answer after {took} ms: {}", failed.error);
                Err(failed)
            }
        }
    }

    /// Makes the error for a request without an answer.
    fn unanswered(&self, call: &Call<'_>, error: &ureq::Error) -> FailedAttempt {
        let NoAnswer { why, passes, may_have_arrived } = fault::explain(error);
        let word = if passes { Word::Nothing } else { Word::Permanent };
        // After contact with the server, every fault may pass, such as a proxy or certificate that is replaced.
        let retry = (passes || self.contact().is_some()).then_some(Duration::ZERO);
        let stale = fault::is_stale(error);
        let late = matches!(error, ureq::Error::Timeout(ureq::Timeout::RecvResponse));
        FailedAttempt { error: self.error(call, word, &why).arrived(may_have_arrived), retry, stale, late }
    }

    /// Builds the request, without its body.
    pub(super) fn request(&self, call: &Call<'_>, credentials: &Credentials) -> request::Builder {
        let server = &self.options.server;
        let mut request = Request::builder()
            .method(call.method())
            .uri(server.request_url(&call.path))
            // A compressed stream may be buffered.
            .header("Accept-Encoding", "identity");
        for (name, value) in server.proxy_headers() {
            request = request.header(name, value);
        }
        if call.body.is_some() {
            request = request.header("Content-Type", "application/json");
        }
        if let Some(key) = call.key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(after) = call.after {
            request = request.header("Accept", "text/event-stream").header("Last-Event-ID", after);
        }
        for (name, value) in credentials.headers.iter() {
            request = request.header(name, value);
        }
        if let Some(token) = &credentials.token
            && let Some(bearer) = secret_value(format!("Bearer {}", token.reveal()))
        {
            request = request.header("Authorization", bearer);
        }
        request
    }

    /// Makes the error for an answer that broke off.
    fn lost(&self, call: &Call<'_>, why: &str) -> FailedAttempt {
        self.failed(call, Word::Nothing, Some(Duration::ZERO), why)
    }

    /// Makes the error for an unusable answer. The request has arrived.
    pub(super) fn failed(&self, call: &Call<'_>, word: Word, retry: Option<Duration>, why: &str) -> FailedAttempt {
        FailedAttempt { retry, ..self.error(call, word, why).arrived(true).into() }
    }

    pub(super) fn error(&self, call: &Call<'_>, word: Word, why: &str) -> CallError {
        CallError::new(word, format!("{}: {why}", self.doing(call)))
    }

    /// Fails if the body has a Content-Encoding, which we did not ask for.
    fn check_encoding(&self, call: &Call<'_>, answer: &Answer) -> Result<(), FailedAttempt> {
        match header(answer, "content-encoding") {
            Some(encoding) if !encoding.eq_ignore_ascii_case("identity") => {
                let encoding = self.quoted(&encoding);
                let why = format!("the answer has the Content-Encoding {encoding}, which was not requested");
                if is_page(answer) {
                    return Err(self.other_shape(call, answer, &why));
                }
                Err(self.failed(call, Word::Broken, None, &why))
            }
            _ => Ok(()),
        }
    }

    /// Reads the body for at most `patience` and up to `limit` bytes, and returns whether it was complete.
    pub(super) fn read(
        &self,
        call: &Call<'_>,
        answer: &mut Answer,
        limit: usize,
        patience: Duration,
    ) -> Result<(Vec<u8>, bool), FailedAttempt> {
        let began = Instant::now();
        let mut body = Body::new(std::mem::replace(answer.body_mut(), ureq::Body::builder().data("")));
        let mut buffer = [0; 16 * 1024];
        let mut all = Vec::new();
        loop {
            self.check().map_err(|stopped| stopped.arrived(true))?;
            if began.elapsed() > patience {
                return Err(self.lost(call, "the answer was not complete in time"));
            }
            match body.read(&mut buffer) {
                Ok(Chunk::End) => return Ok((all, true)),
                Ok(Chunk::Bytes(length)) if all.len() + length > limit => return Ok((all, false)),
                Ok(Chunk::Bytes(length)) => all.extend_from_slice(&buffer[..length]),
                Ok(Chunk::Tick) => {}
                Err(why) => return Err(self.lost(call, &why)),
            }
        }
    }

    /// Returns the start of an error: "cannot send the prompt at http://…".
    pub(super) fn doing(&self, call: &Call<'_>) -> String {
        format!("cannot {} at {}{}", call.doing, self.url(), self.options.server.through())
    }

    /// Quotes text of the server, without our secrets.
    pub(super) fn quoted(&self, text: &str) -> String {
        quote(&self.credentials().redact(text))
    }
}

/// Returns whether the body ends with the connection, so that a broken connection looks like a complete body.
fn is_close_delimited(answer: &Answer) -> bool {
    let headers = answer.headers();
    !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING)
}

/// Returns whether the answer says that it is neither JSON nor an event stream: a page of something in front of the
/// server.
fn is_page(answer: &Answer) -> bool {
    let media_type = media_type(answer);
    !["", "application/json", "text/event-stream"].iter().any(|own| media_type.eq_ignore_ascii_case(own))
}

pub(super) fn media_type(answer: &Answer) -> String {
    let content_type = header(answer, "content-type").unwrap_or_default();
    content_type.split(';').next().unwrap_or_default().trim().to_owned()
}

pub(super) fn header(answer: &Answer, name: &str) -> Option<String> {
    answer.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}
