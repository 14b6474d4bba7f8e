//! The bearer token, and the headers of `--header-file` for a gateway in front of the server. Both are secret. Their
//! files are read again when the server or the gateway refuses them.

use super::word::{Refusal, Word};
use anyhow::{Result, bail, ensure};
use std::fmt;
use std::path::{Path, PathBuf};
use ureq::http::{HeaderName, HeaderValue};

/// The longest token, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;
/// The largest header file, in bytes. The head of a request has room for it and for the longest token.
pub const MAX_HEADERS: usize = 8 * 1024;

/// Headers that sortie or HTTP itself sets. So are all that begin with `content-` or `proxy-`.
const RESERVED: &str = "accept accept-encoding authorization connection expect host http2-settings idempotency-key \
                        keep-alive last-event-id range te trailer transfer-encoding upgrade via";

/// What a call sends to prove that it is allowed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub token: Option<Token>,
    pub headers: Headers,
}

impl Credentials {
    /// Reads the token file again after the server's own 401, and the header file after a 401, 403 or 3xx of a gateway.
    /// Returns which of them was refused. If its file cannot be read or is not valid, the old content stays.
    pub fn read_again(&mut self, word: &Word) -> Option<&'static str> {
        match word {
            Word::Server(Refusal::Unauthorized) => {
                self.token = self.token.as_ref().and_then(Token::read_again).or_else(|| self.token.take());
                Some("token file")
            }
            Word::Gateway { status: 401 | 403 | 300..=399, .. } => {
                self.headers = self.headers.read_again().unwrap_or_else(|| self.headers.clone());
                Some("header file")
            }
            _ => None,
        }
    }

    /// Removes the secrets from text of the server, which may repeat them.
    pub fn redact(&self, text: &str) -> String {
        let token = self.token.as_ref().map(|token| (token.reveal(), "(the token)"));
        let values = self.headers.iter().filter_map(|(_, value)| Some((value.to_str().ok()?, "(a header)")));
        token.into_iter().chain(values).fold(text.to_owned(), |text, (secret, name)| text.replace(secret, name))
    }
}

/// A bearer token, hidden in Debug.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    value: String,
    /// The file that the token was read from.
    file: Option<PathBuf>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Token {
    /// Checks a token: visible ASCII, with or without a newline at the end. An error does not repeat the token.
    pub fn parse(bytes: &[u8], file: Option<PathBuf>) -> Result<Self> {
        let token = bytes.strip_suffix(b"\n").map_or(bytes, |token| token.strip_suffix(b"\r").unwrap_or(token));
        ensure!(!token.is_empty(), "it is empty");
        ensure!(token.len() <= MAX_TOKEN, "it is longer than {MAX_TOKEN} bytes");
        ensure!(
            token.iter().all(u8::is_ascii_graphic),
            "it contains a space, a line break or another invalid character"
        );
        Ok(Self { value: String::from_utf8_lossy(token).into_owned(), file })
    }

    /// Returns the token, for the Authorization header only.
    pub fn reveal(&self) -> &str {
        &self.value
    }

    pub(super) const fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Reads the file again. Returns `None` if there is no file, or if its content is not valid.
    fn read_again(&self) -> Option<Self> {
        let path = self.file.as_deref()?;
        Self::parse(&read_regular(path, MAX_TOKEN)?, self.file.clone()).ok()
    }
}

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
        for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.trim_ascii().is_empty() || line.starts_with(b"#") {
                continue;
            }
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                bail!("line {number} is not of the form Name: value");
            };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            let Ok(name) = HeaderName::from_bytes(name) else { bail!("line {number} has no valid header name") };
            let is_ours = RESERVED.split(' ').any(|reserved| name == reserved)
                || name.as_str().starts_with("content-")
                || name.as_str().starts_with("proxy-");
            ensure!(!is_ours, "line {number}: the header {name} is set by sortie or by HTTP itself");
            ensure!(!value.is_empty(), "line {number}: the header {name} has no value");
            ensure!(
                value.iter().all(|byte| *byte == b' ' || byte.is_ascii_graphic()),
                "line {number}: the value of {name} contains a control character or another invalid character"
            );
            list.extend(secret_value(value.to_vec()).map(|value| (name, value)));
        }
        ensure!(!list.is_empty(), "it contains no header");
        Ok(Self { list, file })
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Reads the file again. Returns `None` if there is no file, or if it is not valid.
    fn read_again(&self) -> Option<Self> {
        let path = self.file.as_deref()?;
        Self::parse(&read_regular(path, MAX_HEADERS)?, self.file.clone()).ok()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.list.iter().map(|(name, value)| (name, value))
    }
}

/// Returns a header's value, hidden in Debug, or `None` if it contains an invalid character.
pub(super) fn secret_value(text: impl TryInto<HeaderValue>) -> Option<HeaderValue> {
    let mut value = text.try_into().ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Reads a regular file of at most `limit` bytes. Other files cannot be read again: a pipe is empty, and a FIFO would
/// block.
fn read_regular(path: &Path, limit: usize) -> Option<Vec<u8>> {
    let file = std::fs::metadata(path).ok()?;
    if file.is_file() && file.len() <= limit as u64 { std::fs::read(path).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_and_is_never_shown() {
        for (bytes, token) in [(&b"tok"[..], "tok"), (b"tok\n", "tok"), (b"tok\r\n", "tok")] {
            let parsed = Token::parse(bytes, None).unwrap();
            assert_eq!(parsed.reveal(), token);
            assert!(!format!("{parsed:?}").contains("tok,"), "{parsed:?}");
            assert!(!format!("{parsed:?}").contains("\"tok"), "{parsed:?}");
        }
        for odd in [&b""[..], b"\n", b"two words", b"two\nlines\n", "tök".as_bytes(), &[b'x'; MAX_TOKEN + 1]] {
            let error = Token::parse(odd, None).unwrap_err().to_string();
            assert!(!error.contains("two") && !error.contains("tök"), "{error}");
        }
    }

    #[test]
    fn only_a_regular_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "first\n").unwrap();
        let token = Token::parse(b"first", Some(path.clone())).unwrap();
        assert_eq!(token.read_again().unwrap().reveal(), "first");
        std::fs::write(&path, "second\n").unwrap();
        assert_eq!(token.read_again().unwrap().reveal(), "second");
        std::fs::write(&path, "").unwrap();
        assert_eq!(token.read_again(), None, "it is being written");
        assert_eq!(Token::parse(b"first", Some(folder.path().to_owned())).unwrap().read_again(), None);
        assert_eq!(Token::parse(b"first", Some("/dev/null".into())).unwrap().read_again(), None);
        assert_eq!(Token::parse(b"first", None).unwrap().read_again(), None);
    }

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
