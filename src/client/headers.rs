//! The headers of `--header-file`, for a gateway in front of the server.

use super::token::read_regular;
use anyhow::{Result, bail, ensure};
use std::path::PathBuf;
use ureq::http::{HeaderName, HeaderValue};

/// The largest header file, in bytes. The head of a request has room for it and for the longest token.
pub const MAX_HEADERS: usize = 8 * 1024;

/// Headers that sortie or HTTP itself sets. So are all that begin with `content-` or `proxy-`.
const RESERVED: [&str; 16] = [
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "expect",
    "host",
    "http2-settings",
    "idempotency-key",
    "keep-alive",
    "last-event-id",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Headers that are sent with every call. Their values are secret, and hidden in Debug.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    list: Vec<(HeaderName, HeaderValue)>,
    /// The file that they were read from.
    file: Option<PathBuf>,
}

impl Headers {
    /// Reads `Name: value` lines. Blank lines and lines that begin with `#` are skipped. An error has the number of the
    /// line, and repeats no value.
    pub fn parse(bytes: &[u8], file: Option<PathBuf>) -> Result<Self> {
        ensure!(bytes.len() <= MAX_HEADERS, "it is larger than {MAX_HEADERS} bytes");
        let mut list = Vec::new();
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let number = number + 1;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.trim_ascii().is_empty() || line.starts_with(b"#") {
                continue;
            }
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                bail!("line {number} is not of the form Name: value");
            };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            let Ok(name) = HeaderName::from_bytes(name) else { bail!("line {number} has no valid header name") };
            let is_ours = RESERVED.contains(&name.as_str())
                || name.as_str().starts_with("content-")
                || name.as_str().starts_with("proxy-");
            ensure!(!is_ours, "line {number}: the header {name} is set by sortie or by HTTP itself");
            ensure!(!value.is_empty(), "line {number}: the header {name} has no value");
            let visible = value.iter().all(|byte| *byte == b' ' || byte.is_ascii_graphic());
            let value = HeaderValue::from_bytes(value).ok().filter(|_| visible);
            let Some(mut value) = value else {
                bail!(
                    "line {number}: the value of {name} contains a control character or another invalid character"
                );
            };
            value.set_sensitive(true);
            list.push((name, value));
        }
        ensure!(!list.is_empty(), "it contains no header");
        Ok(Self { list, file })
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Reads the file again. Returns `None` if there is no file, or if it is not valid.
    pub(super) fn read_again(&self) -> Option<Self> {
        let path = self.file.as_deref()?;
        Self::parse(&read_regular(path, MAX_HEADERS)?, self.file.clone()).ok()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.list.iter().map(|(name, value)| (name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<(String, String)>, String> {
        let headers = Headers::parse(text.as_bytes(), None).map_err(|error| error.to_string())?;
        let pair =
            |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), value.to_str().unwrap().to_owned());
        Ok(headers.iter().map(pair).collect())
    }

    #[test]
    fn lines_become_headers() {
        let text =
            "# for the gateway\r\n\r\nCF-Access-Client-Id: abc.access \r\n  \nCookie: a=1; b=2\nX-Empty-Not:x:y\n";
        let expected = [("cf-access-client-id", "abc.access"), ("cookie", "a=1; b=2"), ("x-empty-not", "x:y")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(parsed(text).unwrap(), expected);
    }

    #[test]
    fn an_invalid_line_is_refused_without_repeating_its_value() {
        for name in [
            "Authorization",
            "HOST",
            "content-length",
            "Content-Type",
            "Transfer-Encoding",
            "Connection",
            "Last-Event-ID",
            "idempotency-key",
            "Proxy-Authorization",
            "TE",
            "Expect",
            "Accept-Encoding",
        ] {
            let error = parsed(&format!("X-Fine: 1\n{name}: hunter2\n")).unwrap_err();
            assert!(error.starts_with("line 2: the header"), "{name}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        for odd in [
            "hunter2",
            ": hunter2",
            "X y: hunter2",
            "X:",
            "X: hunter2\u{7}",
            "X: hunter2\tb",
            "X: hünter2",
            "X : hunter2",
            " X: hunter2",
        ] {
            let error = parsed(odd).unwrap_err();
            assert!(error.starts_with("line 1") && !error.contains("hunter2"), "{odd:?}: {error}");
        }
        assert!(parsed("# nothing\n").is_err());
        assert!(parsed(&"X: y\n".repeat(MAX_HEADERS)).is_err());
        let shown = format!("{:?}", Headers::parse(b"X: hunter2", None).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
