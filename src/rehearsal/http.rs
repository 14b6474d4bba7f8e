//! Reads HTTP/1.1 requests for the practice server. Its only client is this process, so the Content-Length is trusted.

use std::collections::HashMap;
use std::io::{self, BufRead, Read};

const HEAD_LIMIT: u64 = 64 * 1024;

pub struct Request {
    pub method: String,
    target: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn read(reader: &mut impl BufRead) -> io::Result<Self> {
        let mut head = reader.take(HEAD_LIMIT);
        let start = line(&mut head)?;
        let mut words = start.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = HashMap::new();
        while let Some((name, value)) = line(&mut head)?.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").map_or(Ok(0), |length| length.parse());
        let mut body = vec![0; length.map_err(io::Error::other)?];
        reader.read_exact(&mut body)?;
        Ok(Self { method, target, headers, body })
    }

    pub fn path(&self) -> Vec<&str> {
        self.target.split('?').next().unwrap_or_default().split('/').skip(1).collect()
    }

    /// Returns a number from the query.
    pub fn parameter(&self, name: &str) -> Option<usize> {
        let pairs = self.target.split(['?', '&']).filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok())
    }
}

/// Returns a line without the line end.
pub fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    let line = line.strip_suffix(b"\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(String::from_utf8_lossy(line).trim_end().to_owned())
}
