//! The errors for answers that are refusals, or that do not have the call's shape: who has answered, and what to do.

use super::Client;
use super::credentials::Credentials;
use super::exchange::{Answer, Call, FailedAttempt, MAX_ERROR, header, media_type};
use super::quote::{few_words, quote};
use super::word::{CallError, Refusal, Word, passes};
use crate::agent::calls as api;
use crate::outcome::Reason;
use std::time::{Duration, SystemTime};
use ureq::http::{StatusCode, request};

impl Client {
    /// Makes the error for an answer other than 2xx. Its body is read for at most `patience`.
    pub(super) fn refusal(
        &self,
        call: &Call<'_>,
        credentials: &Credentials,
        answer: &mut Answer,
        patience: Duration,
    ) -> FailedAttempt {
        let status = answer.status().as_u16();
        let wait = retry_after(answer, SystemTime::now()).unwrap_or_default();
        let body = self.read(call, answer, MAX_ERROR, patience).map(|(body, _)| body).unwrap_or_default();
        let said: api::Error = serde_json::from_slice(&body).unwrap_or_default();
        let is_plain = matches!(status, 400 | 422) && media_type(answer).eq_ignore_ascii_case("text/plain");
        let own = Refusal::of(status, &said.code).or(is_plain.then_some(Refusal::Invalid));
        let text = if said.error.is_empty() { String::from_utf8_lossy(&body) } else { said.error.into() };
        let text = self.credentials().redact(&text);
        let has_code = own.is_some() && !said.code.is_empty();
        let text = if has_code { quote(&text) } else { few_words(&text) };
        let said = named(answer.status()) + if text.is_empty() { "" } else { ": " } + &text;
        let passes = match &own {
            Some(refusal) => refusal.passes(),
            None => self.contact().is_some() || passes(status),
        };
        let error = match own {
            Some(refusal) => self.own_refusal(call, credentials, refusal, &said),
            None => self.gateway_refusal(call, answer, &said, passes),
        };
        FailedAttempt { retry: passes.then_some(wait), ..error.into() }
    }

    /// Makes the error for the server's own refusal.
    fn own_refusal(&self, call: &Call<'_>, credentials: &Credentials, refusal: Refusal, said: &str) -> CallError {
        let advice = match &refusal {
            Refusal::Unauthorized | Refusal::Forbidden if credentials.token.is_none() => {
                "; give a token: --token-file, SORTIE_TOKEN"
            }
            Refusal::Unauthorized | Refusal::Forbidden => {
                "; is the token (--token-file, SORTIE_TOKEN) the server's current one?"
            }
            Refusal::TooLarge => {
                let head = head_size(&self.request(call, credentials), call);
                let body = call.body.as_ref().map_or(0, Vec::len);
                &format!("; the request has {body} bytes, and {head} bytes of head before them")
            }
            _ => "",
        };
        // A proxy may also refuse a request for its size.
        if refusal != Refusal::TooLarge {
            self.note_contact();
        }
        self.error(call, Word::Server(refusal), &format!("{said}{advice}"))
    }

    /// Makes the error for a refusal of something in front of the server.
    fn gateway_refusal(&self, call: &Call<'_>, answer: &Answer, said: &str, passes: bool) -> CallError {
        let status = answer.status().as_u16();
        let has_proxy = self.options.server.forward_proxy().is_some();
        let reason = match status {
            401 => Reason::Auth,
            403 | 407 | 502 | 503 | 504 if has_proxy => Reason::Connection,
            _ if passes => Reason::Server,
            _ => Reason::Protocol,
        };
        let claim = if passes { "" } else { "this is no agent server: " };
        let advice = self.gateway_advice(reason, answer, passes);
        self.error(call, Word::Gateway { status, reason }, &format!("{claim}{said}{advice}")).arrived(passes)
    }

    fn gateway_advice(&self, reason: Reason, answer: &Answer, passes: bool) -> String {
        let front = "; something in front of the agent server answered";
        match (reason, answer.status().as_u16()) {
            (Reason::Connection, 407) => {
                "; give the proxy's user and password: http://USER:PASSWORD@HOST:PORT".into()
            }
            (Reason::Connection, _) => "; the proxy answered, not the agent server".into(),
            (_, 400 | 403 | 495 | 496) if self.options.server.tls.lacks_identity() => {
                format!("{front}; it asked for a client certificate (--cert, --key)")
            }
            (_, 401) => format!("{front} and wants credentials of its own (--header-file)"),
            (_, 403) => format!("{front} (--header-file sends headers for a gateway)"),
            (_, 300..=399) => {
                let place = header(answer, "location");
                let place = place.map(|place| format!(" and redirects to {}", self.quoted(&place)));
                format!(
                    "{front}{}; redirects are not followed; check --server, or send a gateway's headers \
                     (--header-file)",
                    place.unwrap_or_default()
                )
            }
            _ if passes => front.into(),
            _ => String::new(),
        }
    }

    /// Makes the error for a 2xx without the call's shape.
    pub(super) fn other_shape(&self, call: &Call<'_>, answer: &Answer, what: &str) -> FailedAttempt {
        let had_contact = self.contact().is_some();
        let claim = if had_contact { "the answer is not the agent server's" } else { "this is no agent server" };
        let word = Word::Gateway { status: answer.status().as_u16(), reason: Reason::Protocol };
        let retry = had_contact.then_some(Duration::ZERO);
        self.failed(call, word, retry, &format!("{claim}: {what}"))
    }
}

/// Returns the approximate size of the request's head, in bytes.
fn head_size(request: &request::Builder, call: &Call<'_>) -> usize {
    let headers = request.headers_ref().into_iter().flatten();
    let head = headers.map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum::<usize>();
    head + call.path.len()
}

/// Returns the status with its name: `404 Not Found`.
fn named(status: StatusCode) -> String {
    let reason = status.canonical_reason().map(|reason| format!(" {reason}"));
    status.as_str().to_owned() + &reason.unwrap_or_default()
}

/// Returns the wait of a Retry-After header (RFC 9110, 10.2.3). A date is compared with the answer's own Date, if
/// there is one.
fn retry_after(answer: &Answer, now: SystemTime) -> Option<Duration> {
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
    use ureq::http::Response;

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
