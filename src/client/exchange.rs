//! One request and its answer. [`super::word`] tells whether the answer is the server's own.

use super::connection::{self, Body, Bounds, Chunk};
use super::fault;
use super::quote::{few_words, quote};
use super::word::{CallError, Gateway, Refusal, Word};
use super::{Client, Credentials};
use crate::agent::calls as api;
use crate::agent::json;
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant, SystemTime};
use ureq::http::{HeaderValue, Request, Response, request};

/// The largest answer to a call, in bytes.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// The most of an error's body that is read, in bytes.
const MAX_ERROR: usize = 64 * 1024;
/// How often one attempt reads its token or headers again.
const MAX_RENEWALS: u32 = 2;

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

impl Call<'_> {
    const fn method(&self) -> &'static str {
        if self.body.is_some() { "POST" } else { "GET" }
    }
}

/// An attempt without a usable answer.
pub(super) struct FailedAttempt {
    pub error: CallError,
    /// A retry may succeed.
    pub again: bool,
    /// How long the server asks us to wait before a retry.
    pub wait: Option<Duration>,
    /// The request was sent, and no head of an answer came in time.
    pub late: bool,
    /// The server had closed a kept connection: a retry needs no wait.
    pub stale: bool,
}

impl FailedAttempt {
    /// An error without a retry.
    fn for_good(error: CallError) -> Self {
        Self { error, again: false, wait: None, late: false, stale: false }
    }

    /// A lost answer: the request may have arrived.
    fn lost(message: String) -> Self {
        let error = CallError::new(Word::Nothing, message).arrived(true);
        Self { error, again: true, wait: None, late: false, stale: false }
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
        self.undecoded(call, &answer)?;
        let (status, media_type) = (answer.status().as_u16(), media_type(&answer));
        let may_be_cut = connection::is_close_delimited(&answer);
        let (body, whole) = self.read(call, &mut answer, MAX_ANSWER)?;
        if !whole {
            self.hear();
            let message = format!("{}: the answer is larger than {MAX_ANSWER} bytes", self.doing(call));
            return Err(FailedAttempt::for_good(CallError::new(Word::OverBound, message).arrived(true)));
        }
        match json::object(&body) {
            Ok(parsed) => {
                self.hear();
                Ok(parsed)
            }
            // If the body ends with the connection, a broken connection looks like the end of the body.
            Err(error) if error.is_eof() && may_be_cut => Err(FailedAttempt::lost(format!(
                "{}: the connection was closed before the answer was complete",
                self.doing(call)
            ))),
            Err(error) => {
                let got = String::from_utf8_lossy(&body[..body.len().min(MAX_ERROR)]);
                let got = few_words(&self.redact(&got));
                let got = if got.is_empty() { "an empty body".into() } else { got };
                let error = quote(&self.redact(&error.to_string()));
                let kind =
                    if media_type.is_empty() { "" } else { &*format!(" {}", quote(&self.redact(&media_type))) };
                let what = format!("{status}{kind}: expected the server's JSON ({error}), got {got}");
                Err(self.other_shape(call, &what))
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
                quote(&self.redact(&media_type))
            };
            return Err(self.other_shape(call, &format!("expected an event stream, got {got}")));
        }
        self.undecoded(call, &answer)?;
        self.hear();
        Ok(Body::new(answer.into_body()))
    }

    /// Sends the request and waits for the head of a 2xx answer. If the token or the gateway's headers are refused,
    /// reads their files again and retries.
    fn exchange(&self, call: &Call<'_>, patience: Duration) -> Result<Response<ureq::Body>, FailedAttempt> {
        let mut renewals = 0;
        loop {
            let credentials = self.credentials();
            let mut answer = self.attempt(call, &credentials, patience)?;
            if answer.status().is_success() {
                return Ok(answer);
            }
            let missed = self.refusal(call, &credentials, &mut answer);
            if renewals == MAX_RENEWALS || !self.renew(&credentials, &missed.error.word, answer.status().as_u16()) {
                return Err(missed);
            }
            renewals += 1;
        }
    }

    /// Sends the request once and waits for the head of the answer.
    fn attempt(
        &self,
        call: &Call<'_>,
        credentials: &Credentials,
        patience: Duration,
    ) -> Result<Response<ureq::Body>, FailedAttempt> {
        let internal = |error: ureq::http::Error| {
            let message = format!("{}: {error}", self.doing(call));
            FailedAttempt::for_good(CallError::new(Word::Internal, message))
        };
        let body = call.after.is_none().then_some(connection::ANSWER);
        let bounds = Bounds { connect: self.options.connect_timeout, patience, body };
        let request = self.request(call, credentials);
        let (agent, began) = (&self.agent, Instant::now());
        let answer = match &call.body {
            Some(body) => {
                let request = request.body(body.as_slice()).map_err(internal)?;
                agent.run(connection::bounded(agent, request, bounds))
            }
            None => {
                let request = request.body(()).map_err(internal)?;
                agent.run(connection::bounded(agent, request, bounds))
            }
        };
        let took = began.elapsed().as_millis();
        let (method, path) = (call.method(), &call.path);
        answer.inspect(|answer| log::debug!("{method} {path} {} in {took} ms", answer.status().as_u16())).map_err(
            |error| {
                let missed = unanswered(&self.doing(call), &error);
                log::debug!("{method} {path} no answer after {took} ms: {}", missed.error);
                // After contact with the server, every fault may pass, such as a proxy or certificate that is replaced.
                FailedAttempt { again: missed.again || self.has_heard(), ..missed }
            },
        )
    }

    fn request(&self, call: &Call<'_>, credentials: &Credentials) -> request::Builder {
        let server = &self.options.server;
        let mut request = Request::builder()
            .method(call.method())
            .uri(server.uri(&call.path))
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
        let bearer =
            credentials.token.as_ref().map(|token| HeaderValue::try_from(format!("Bearer {}", token.reveal())));
        if let Some(Ok(mut bearer)) = bearer {
            // A sensitive value is hidden in Debug.
            bearer.set_sensitive(true);
            request = request.header("Authorization", bearer);
        }
        request
    }

    /// Finds out whether an answer other than 2xx is the server's own.
    fn refusal(
        &self,
        call: &Call<'_>,
        credentials: &Credentials,
        answer: &mut Response<ureq::Body>,
    ) -> FailedAttempt {
        let status = answer.status().as_u16();
        let wait = retry_after(answer, SystemTime::now());
        let media_type = media_type(answer);
        let location = header(answer, "location").filter(|_| answer.status().is_redirection());
        let body = self.read(call, answer, MAX_ERROR).map(|(body, _)| body).unwrap_or_default();
        let said: api::Error = serde_json::from_slice(&body).unwrap_or_default();
        let is_plain = matches!(status, 400 | 422) && media_type.eq_ignore_ascii_case("text/plain");
        let own = Refusal::of(status, &said.code).or(is_plain.then_some(Refusal::Invalid));
        let text = if said.error.is_empty() { String::from_utf8_lossy(&body) } else { said.error.into() };
        let text = self.redact(&text);
        let head = format!("{}: {}", self.doing(call), named(status));
        match own {
            Some(refusal) => {
                let text = if said.code.is_empty() { few_words(&text) } else { quote(&text) };
                self.own_refusal(call, credentials, refusal, &head, &text, wait)
            }
            None => self.foreign(status, location.as_deref(), &few_words(&text), call, wait),
        }
    }

    fn own_refusal(
        &self,
        call: &Call<'_>,
        credentials: &Credentials,
        refusal: Refusal,
        head: &str,
        text: &str,
        wait: Option<Duration>,
    ) -> FailedAttempt {
        let advice = match &refusal {
            Refusal::Unauthorized | Refusal::Forbidden if credentials.token.is_none() => {
                "; give a token: --token-file, SORTIE_TOKEN".to_owned()
            }
            Refusal::Unauthorized | Refusal::Forbidden => {
                "; is the token (--token-file, SORTIE_TOKEN) the server's current one?".to_owned()
            }
            Refusal::TooLarge => {
                let request = self.request(call, credentials);
                let body = call.body.as_ref().map_or(0, Vec::len);
                format!(
                    "; the request has {body} bytes, and {} bytes of head before them",
                    head_size(&request, call)
                )
            }
            _ => String::new(),
        };
        // A proxy may also refuse a request for its size.
        if refusal != Refusal::TooLarge {
            self.hear();
        }
        let text = if text.is_empty() { String::new() } else { format!(": {text}") };
        let again = refusal.passes();
        let error = CallError::new(Word::Server(refusal), format!("{head}{text}{advice}"));
        FailedAttempt { error, again, wait, late: false, stale: false }
    }

    /// Makes the error for an answer that is not the server's own.
    fn foreign(
        &self,
        status: u16,
        location: Option<&str>,
        words: &str,
        call: &Call<'_>,
        wait: Option<Duration>,
    ) -> FailedAttempt {
        let heard = self.has_heard();
        let passes = Gateway::passes(status);
        let is_proxys =
            self.options.server.asked_proxy().is_some() && matches!(status, 403 | 407 | 502 | 503 | 504);
        let between = match status {
            401 => Gateway::Auth,
            _ if is_proxys => Gateway::Proxy(status),
            _ if !heard && !passes => Gateway::NoAgentServer,
            _ => Gateway::Page(status),
        };
        let message = self.foreign_message(call, between, status, location, words);
        let again = heard || passes;
        FailedAttempt {
            error: CallError::new(Word::Gateway(between), message).arrived(again),
            again,
            wait,
            late: false,
            stale: false,
        }
    }

    fn foreign_message(
        &self,
        call: &Call<'_>,
        between: Gateway,
        status: u16,
        location: Option<&str>,
        words: &str,
    ) -> String {
        let words = if words.is_empty() { String::new() } else { format!(": {words}") };
        let passes = self.has_heard() || Gateway::passes(status);
        let claim = if passes { "" } else { "this is no agent server: " };
        let head = format!("{}: {claim}{}{words}", self.doing(call), named(status));
        let front = "something in front of the agent server answered";
        match (between, status) {
            (Gateway::Proxy(407), _) => {
                format!("{head}; give the proxy's user and password: http://USER:PASSWORD@HOST:PORT")
            }
            (Gateway::Proxy(_), _) => format!("{head}; the proxy answered, not the agent server"),
            (_, 400 | 403 | 495 | 496) if self.options.server.tls().lacks_identity() => {
                format!("{head}; {front}; it asked for a client certificate (--cert, --key)")
            }
            (_, 401) => format!("{head}; {front} and wants credentials of its own (--header-file)"),
            (_, 403) => format!("{head}; {front} (--header-file sends headers for a gateway)"),
            (_, 300..=399) => {
                let place = location.map(|place| format!(" and redirects to {}", quote(&self.redact(place))));
                let place = place.unwrap_or_default();
                format!(
                    "{head}; {front}{place}; redirects are not followed; check --server, or send a gateway's headers \
                     (--header-file)"
                )
            }
            _ if passes => format!("{head}; {front}"),
            _ => head,
        }
    }

    /// Makes the error for a 2xx without the call's shape.
    fn other_shape(&self, call: &Call<'_>, what: &str) -> FailedAttempt {
        let heard = self.has_heard();
        let (between, claim) = if heard {
            (Gateway::OtherShape, "the answer is not the agent server's")
        } else {
            (Gateway::NoAgentServer, "this is no agent server")
        };
        let error = CallError::new(Word::Gateway(between), format!("{}: {claim}: {what}", self.doing(call)));
        FailedAttempt { error: error.arrived(true), again: heard, wait: None, late: false, stale: false }
    }

    /// Fails if the body has a Content-Encoding, which we did not ask for.
    fn undecoded(&self, call: &Call<'_>, answer: &Response<ureq::Body>) -> Result<(), FailedAttempt> {
        match header(answer, "content-encoding") {
            Some(encoding) if !encoding.eq_ignore_ascii_case("identity") => {
                let encoding = quote(&self.redact(&encoding));
                let message = format!(
                    "{}: the answer has the Content-Encoding {encoding}, which was not requested",
                    self.doing(call)
                );
                Err(FailedAttempt::for_good(CallError::new(Word::Broken, message).arrived(true)))
            }
            _ => Ok(()),
        }
    }

    /// Reads the body up to a limit, and returns whether it was complete.
    fn read(
        &self,
        call: &Call<'_>,
        answer: &mut Response<ureq::Body>,
        limit: usize,
    ) -> Result<(Vec<u8>, bool), FailedAttempt> {
        let mut body = Body::new(std::mem::replace(answer.body_mut(), ureq::Body::builder().data("")));
        let mut buffer = [0; 16 * 1024];
        let mut all = Vec::new();
        loop {
            if let Some(stopped) = self.stopped() {
                return Err(FailedAttempt::for_good(stopped.arrived(true)));
            }
            match body.read(&mut buffer) {
                Ok(Chunk::End) => return Ok((all, true)),
                Ok(Chunk::Bytes(length)) if all.len() + length > limit => return Ok((all, false)),
                Ok(Chunk::Bytes(length)) => all.extend_from_slice(&buffer[..length]),
                Ok(Chunk::Tick) => {}
                Err(why) => return Err(FailedAttempt::lost(format!("{}: {why}", self.doing(call)))),
            }
        }
    }

    /// Returns the start of an error: "cannot send the prompt at http://…".
    pub(super) fn doing(&self, call: &Call<'_>) -> String {
        format!("cannot {} at {}{}", call.doing, self.url(), self.options.server.through())
    }

    /// Removes our secrets from text of the server, which may repeat them.
    fn redact(&self, text: &str) -> String {
        let credentials = self.credentials();
        let token = credentials.token.as_ref().map(|token| (token.reveal(), "(the token)"));
        let values = credentials.headers.iter().filter_map(|(_, value)| Some((value.to_str().ok()?, "(a header)")));
        token.into_iter().chain(values).fold(text.to_owned(), |text, (secret, name)| text.replace(secret, name))
    }
}

/// Makes the error for a request without an answer.
fn unanswered(doing: &str, error: &ureq::Error) -> FailedAttempt {
    let unanswered = fault::explain(error);
    let word = if unanswered.passes { Word::Nothing } else { Word::Permanent };
    let call_error =
        CallError::new(word, format!("{doing}: {}", unanswered.why)).arrived(unanswered.may_have_arrived);
    let late = matches!(error, ureq::Error::Timeout(ureq::Timeout::RecvResponse));
    FailedAttempt { error: call_error, again: unanswered.passes, wait: None, late, stale: fault::is_stale(error) }
}

/// Returns the approximate size of the request's head, in bytes.
fn head_size(request: &request::Builder, call: &Call<'_>) -> usize {
    let headers = request.headers_ref().into_iter().flatten();
    let head = headers.map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum::<usize>();
    head + call.path.len()
}

/// Returns the status with its name: `404 Not Found`.
fn named(status: u16) -> String {
    let reason = ureq::http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    reason.map_or_else(|| status.to_string(), |reason| format!("{status} {reason}"))
}

fn media_type(answer: &Response<ureq::Body>) -> String {
    let content_type = header(answer, "content-type").unwrap_or_default();
    content_type.split(';').next().unwrap_or_default().trim().to_owned()
}

fn header(answer: &Response<ureq::Body>, name: &str) -> Option<String> {
    answer.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Returns the wait of a Retry-After header (RFC 9110, 10.2.3). A date is compared with the answer's own Date, if
/// there is one.
fn retry_after(answer: &Response<ureq::Body>, now: SystemTime) -> Option<Duration> {
    let date = |name| httpdate::parse_http_date(header(answer, name)?.trim()).ok();
    let value = header(answer, "retry-after")?;
    match value.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(date("retry-after")?.duration_since(date("date").unwrap_or(now)).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_compared_with_the_answers_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let wait = |value: &str, date: Option<&str>| {
            let mut answer = Response::builder().header("retry-after", value);
            if let Some(date) = date {
                answer = answer.header("date", date);
            }
            retry_after(&answer.body(ureq::Body::builder().data("")).unwrap(), now)
        };
        assert_eq!(wait(" 3 ", None), Some(Duration::from_secs(3)));
        assert_eq!(wait("0", None), Some(Duration::ZERO));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:47 GMT", None), Some(Duration::from_secs(10)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:27 GMT", None), Some(Duration::ZERO));
        let date = "Sun, 06 Nov 1994 07:00:00 GMT";
        assert_eq!(
            wait("Sun, 06 Nov 1994 07:00:05 GMT", Some(date)),
            Some(Duration::from_secs(5)),
            "our clock is late"
        );
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:47 GMT", Some("nonsense")), Some(Duration::from_secs(10)));
        assert_eq!(wait("soon", None), None);
        assert_eq!(wait("-1", None), None);
    }
}
