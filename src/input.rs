//! Reads the files and the stdin that the settings name: prompt, context, images, token, headers, certificates, a
//! recording. Each is read to its end, or until the deadline or a signal, and checked against the server's limits.

use crate::agent::calls::{Context, NewMessage, Overrides, UserContent, UserMessage, UserPart};
use crate::cli::Common;
use crate::client::{self, Address, Headers, MAX_HEADERS, MAX_TOKEN, Token};
use crate::console::Console;
use crate::descriptor;
use crate::rehearsal::{self, Outcome};
use crate::settings::{Command, ContextText, RealServer, Server, Source, Text, TokenSource};
use crate::watchdog::Watch;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

const MAX_SYSTEM_PROMPT: usize = 32_768;
const MAX_CONTEXTS: usize = 32;
const MAX_CONTEXT_NAME: usize = 256;
const MAX_CONTEXT: usize = 50_000;
const MAX_CONTEXT_TOTAL: usize = 500_000;
/// The most bytes of a prompt or another text, so that an endless file is an error. The server takes much less, and says
/// so itself.
const MAX_TEXT: usize = 64 * 1024 * 1024;
/// The server takes a request of up to this many bytes.
const MAX_REQUEST: usize = 2 * 1024 * 1024;
/// The largest file of certificates, in bytes.
const MAX_PEM: usize = 4 * 1024 * 1024;

/// What the server keeps of what it takes, in characters; it does not report what it cuts off (protocol trap 19).
const KEPT_CONTEXT: usize = 20_000;
const KEPT_CONTEXT_TOTAL: usize = 100_000;
const KEPT_SYSTEM_PROMPT: usize = 32_000;
/// About as much of [`KEPT_SYSTEM_PROMPT`] is the server's own list of tools.
const TOOL_LIST: usize = 12_000;

/// Reads the credentials for a server, or starts a practice server.
///
/// # Errors
/// Something that cannot be read or used, with the name of the flag or the variable.
pub fn client_options(common: &Common, server: &Server, watch: &Watch) -> Result<client::Options> {
    let (server, token, headers) = match server {
        Server::Practice(source) => {
            let url = rehearsal::start(practice_outcome(source, watch)?);
            let url = url.map_err(|error| anyhow!("cannot start the practice server: {error}"))?;
            (Address::parse(&url)?, None, Headers::default())
        }
        Server::Real(server) => (address(server, watch)?, token(server, watch)?, headers(server, watch)?),
    };
    let (connect_timeout, retry_timeout) = (common.connect_timeout, common.retry_timeout);
    Ok(client::Options { server, token, headers, connect_timeout, retry_timeout })
}

/// Returns what a practice server is to play: one of the five outcomes, or a recording.
///
/// # Errors
/// The source is none of these, or has no event in it.
fn practice_outcome(source: &Source, watch: &Watch) -> Result<Outcome> {
    source.path.to_string_lossy().parse().or_else(|error: String| {
        ensure!(source.path.exists(), "{source}: it is {error}, and no such file exists");
        let recording = Reader::new(watch).text(source)?;
        ensure!(rehearsal::has_event(&recording), "{source}: there is no event in it");
        Ok(Outcome::Recorded(recording))
    })
}

fn address(server: &RealServer, watch: &Watch) -> Result<Address> {
    let mut address = server.address.clone();
    if let Some(source) = &server.cacert {
        let trusted = read_bounded(source, MAX_PEM, watch).and_then(|pem| address.trust(&pem));
        trusted.with_context(|| cannot_read("certificates", source))?;
    }
    if let Some((cert, key)) = &server.identity {
        let read = |source| read_bounded(source, MAX_PEM, watch).with_context(|| format!("cannot read {source}"));
        let cert_pem = read(cert)?;
        // A FIFO can be read only once.
        let key_pem = if key.path == cert.path { cert_pem.clone() } else { read(key)? };
        address.present(&cert_pem, &key_pem)?;
    }
    Ok(address)
}

fn token(server: &RealServer, watch: &Watch) -> Result<Option<Token>> {
    let source = match &server.token {
        Some(TokenSource::Variable(token)) => return Ok(Some(token.clone())),
        Some(TokenSource::File(source)) => source,
        None => return Ok(None),
    };
    let bytes = read_bounded(source, MAX_TOKEN, watch);
    let token = bytes.and_then(|bytes| Token::parse(&bytes, Some(source.path.clone())));
    token.map(Some).with_context(|| cannot_read("token", source))
}

fn headers(server: &RealServer, watch: &Watch) -> Result<Headers> {
    let Some(source) = &server.headers else { return Ok(Headers::default()) };
    let bytes = read_bounded(source, MAX_HEADERS, watch);
    let headers = bytes.and_then(|bytes| Headers::parse(&bytes, Some(source.path.clone())));
    headers.with_context(|| cannot_read("headers", source))
}

fn cannot_read(what: &str, source: &Source) -> String {
    format!("cannot read the {what} in {} ({})", source.path.display(), source.name)
}

/// Reads a file that is never stdin, and refuses one that is larger than `limit`.
fn read_bounded(source: &Source, limit: usize, watch: &Watch) -> Result<Vec<u8>> {
    let bytes = descriptor::read_file(&source.path, limit + 1, watch)?;
    ensure!(bytes.len() <= limit, "it is larger than {limit} bytes");
    Ok(bytes)
}

/// A message, and warnings about the parts that the server will cut.
pub type Warned = (NewMessage, Vec<String>);

/// Reads the message that starts a run. Other commands have none.
///
/// # Errors
/// Something that cannot be read, or is over a limit of the server.
pub fn message(command: &Command<'_>, watch: &Watch, console: &Console) -> Result<Option<Warned>> {
    let Command::Run(run) = command else { return Ok(None) };
    let mut reader = Reader { console: Some(console), ..Reader::new(watch) };
    let text = reader.given(&run.prompt)?;
    ensure!(!text.trim().is_empty(), "the prompt is empty");
    let images = &run.flags.images;
    let system_prompt = run.flags.system_prompt_file.as_ref();
    let new = NewMessage {
        message: UserMessage { role: "user", content: reader.content(text, images)? },
        r#type: "message",
        model: run.flags.model.clone(),
        sandbox: run.flags.sandbox,
        overrides: Overrides {
            auto_approve: run.auto_approve.clone(),
            system_prompt: system_prompt.map(|path| reader.system_prompt(path)).transpose()?,
            max_turns: run.max_turns,
        },
        context: reader.contexts(&run.contexts)?,
    };
    if !images.is_empty() {
        let size = serde_json::to_vec(&new)?.len();
        ensure!(
            size <= MAX_REQUEST,
            "--image: the request would have {size} bytes with the images, and the server takes {MAX_REQUEST}"
        );
    }
    Ok(Some((new, reader.warnings)))
}

/// Reads what a message is made of. stdin is read only when asked, and can be read only once.
struct Reader<'a> {
    watch: &'a Watch,
    /// For what a person at a terminal must know.
    console: Option<&'a Console>,
    stdin_taken_by: Option<String>,
    /// What the server will cut.
    warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    const fn new(watch: &'a Watch) -> Self {
        Self { watch, console: None, stdin_taken_by: None, warnings: Vec::new() }
    }

    fn given(&mut self, text: &Text) -> Result<String> {
        match text {
            Text::Given(text) => Ok(text.clone()),
            Text::In(source) => self.text(source),
        }
    }

    fn text(&mut self, source: &Source) -> Result<String> {
        let bytes = self.bytes(source, MAX_TEXT + 1)?;
        ensure!(bytes.len() <= MAX_TEXT, "{source}: it is larger than {MAX_TEXT} bytes");
        String::from_utf8(bytes).map_err(|_| anyhow!("{source}: it is not UTF-8 text"))
    }

    /// Reads no more than `limit` bytes.
    fn bytes(&mut self, source: &Source, limit: usize) -> Result<Vec<u8>> {
        if !source.is_stdin() {
            let bytes = descriptor::read_file(&source.path, limit, self.watch);
            return bytes.with_context(|| format!("cannot read {source}"));
        }
        if let Some(first) = self.stdin_taken_by.replace(source.to_string()) {
            bail!("{source} and {first} both take stdin, which can be read only once");
        }
        if let Some(console) = self.console.filter(|_| io::stdin().is_terminal()) {
            console.progress(&format!(
                "reading {} from the terminal; Ctrl-D on a line of its own ends it",
                source.name
            ));
        }
        descriptor::read(io::stdin(), limit, self.watch).with_context(|| format!("cannot read stdin for {source}"))
    }

    /// Returns the prompt with its images.
    fn content(&mut self, text: String, images: &[PathBuf]) -> Result<UserContent> {
        if images.is_empty() {
            return Ok(UserContent::Text(text));
        }
        let mut parts = vec![UserPart::Text { text }];
        for source in images.iter().map(|path| Source::new("--image", path)) {
            // One byte more than could be sent tells that it is too large.
            let bytes = self.bytes(&source, MAX_REQUEST + 1)?;
            ensure!(
                bytes.len() <= MAX_REQUEST,
                "{source}: it is larger than the {MAX_REQUEST} bytes that the server takes"
            );
            let kind =
                image_type(&bytes).ok_or_else(|| anyhow!("{source}: it is no png, jpeg, gif or webp image"))?;
            parts.push(UserPart::Image { url: format!("data:{kind};base64,{}", BASE64_STANDARD.encode(bytes)) });
        }
        Ok(UserContent::Parts(parts))
    }

    fn system_prompt(&mut self, path: &Path) -> Result<String> {
        let source = Source::new("--system-prompt-file", path);
        let text = self.text(&source)?;
        let length = text.chars().count();
        ensure!(length <= MAX_SYSTEM_PROMPT, "{source}: {length} characters; the limit is {MAX_SYSTEM_PROMPT}");
        if length > KEPT_SYSTEM_PROMPT - TOOL_LIST {
            self.warnings.push(format!(
                "{source}: it has {length} characters; the server keeps {KEPT_SYSTEM_PROMPT} of the system prompt and its \
                 list of tools together, and the list has about {TOOL_LIST}"
            ));
        }
        Ok(text)
    }

    fn contexts(&mut self, contexts: &[ContextText]) -> Result<Vec<Context>> {
        let count = contexts.len();
        ensure!(
            count <= MAX_CONTEXTS,
            "--context and --context-file: {count} entries{}; the limit is {MAX_CONTEXTS}",
            if contexts.iter().any(|context| context.flag == "--workdir") { " with that of --workdir" } else { "" }
        );
        let (mut entries, mut total) = (Vec::new(), 0);
        for ContextText { flag, name, priority, text } in contexts {
            let content = self.given(text)?;
            let (name_length, length) = (name.chars().count(), content.chars().count());
            total += length;
            ensure!(
                name_length <= MAX_CONTEXT_NAME,
                "{flag}: a name of {name_length} characters; the limit is {MAX_CONTEXT_NAME}"
            );
            ensure!(length <= MAX_CONTEXT, "{flag} {name}: {length} characters; the limit is {MAX_CONTEXT}");
            if length > KEPT_CONTEXT {
                self.warnings.push(format!(
                    "{flag} {name}: it has {length} characters; the server keeps {KEPT_CONTEXT} of a text and cuts out \
                     its middle"
                ));
            }
            if content.trim().is_empty() {
                self.warnings.push(format!("{flag} {name}: it is empty, and the server drops it"));
            }
            entries.push(Context { name: name.clone(), content, priority: *priority });
        }
        ensure!(
            total <= MAX_CONTEXT_TOTAL,
            "--context and --context-file: {total} characters in all; the limit is {MAX_CONTEXT_TOTAL}"
        );
        if total > KEPT_CONTEXT_TOTAL {
            self.warnings.push(format!(
                "--context and --context-file: {total} characters in all; the server keeps {KEPT_CONTEXT_TOTAL} of all \
                 texts and drops the rest"
            ));
        }
        Ok(entries)
    }
}

/// Returns the media type of an image, by its first bytes.
fn image_type(bytes: &[u8]) -> Option<&'static str> {
    let is_webp = bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        _ if is_webp => Some("image/webp"),
        _ => None,
    }
}
