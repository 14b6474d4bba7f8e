//! The bearer token. A token file is read again when the server refuses the token.

use super::secret::Secret;
use anyhow::{Result, ensure};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The longest token, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    value: Secret,
    /// The file that the token was read from.
    file: Option<PathBuf>,
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
        Ok(Self { value: Secret::new(String::from_utf8_lossy(token).into_owned()), file })
    }

    /// Returns the token, for the Authorization header only.
    pub fn reveal(&self) -> &str {
        self.value.reveal()
    }

    pub const fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Reads the file again. Returns `None` if there is no file, or if its content is not valid.
    pub(super) fn read_again(&self) -> Option<Self> {
        let path = self.file.as_deref()?;
        Self::parse(&read_regular(path, MAX_TOKEN)?, self.file.clone()).ok()
    }
}

/// Reads a regular file of at most `limit` bytes. Other files cannot be read again: a pipe is empty, and a FIFO would
/// block.
pub(super) fn read_regular(path: &Path, limit: usize) -> Option<Vec<u8>> {
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(limit as u64 + 1).read_to_end(&mut bytes).ok()?;
    Some(bytes).filter(|bytes| bytes.len() <= limit)
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
}
