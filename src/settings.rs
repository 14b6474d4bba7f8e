//! Flags + environment → validated settings. Every limit of the protocol is checked here, before the first request; each
//! error names the flag and the limit.

use crate::agent::calls::{ApproveOverride, Context as ContextEntry, NewMessage, Overrides, Priority, UserMessage};
use crate::agent::tools::bare_name;
use crate::cli::{self, Format, PendingFormat};
use crate::client::{self, Address, Headers, MAX_TOKEN, Token};
use crate::rehearsal::{self, Outcome, Rehearsal};
use crate::run::choices::Choices;
use crate::run::policy::{OnApproval, Policy};
use crate::watchdog::Watch;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

const DEFAULT_SERVER: &str = "http://127.0.0.1:4096";
const MAX_SYSTEM_PROMPT: usize = 32_768;
const MAX_TURNS: u32 = 256;
const MAX_CONTEXTS: usize = 32;
const MAX_CONTEXT_NAME: usize = 256;
const MAX_CONTEXT: usize = 50_000;
const MAX_CONTEXT_TOTAL: usize = 500_000;
/// The largest file of certificates, in bytes.
const MAX_PEM: u64 = 4 * 1024 * 1024;

/// What a command is to do, and with which server.
pub struct Settings {
    /// The server.
    pub client: client::Options,
    /// The practice server, kept for as long as the command lasts.
    pub rehearsal: Option<Rehearsal>,
    /// The command.
    pub command: Command,
}

/// The commands.
pub enum Command {
    Run(Box<Run>),
    Resume { session: Uuid, choices: Choices, follow: Follow },
    Attach { session: Uuid, run: Option<Uuid>, follow: Follow },
    Cancel { session: Uuid, timeout: Duration },
    Pending { session: Uuid, format: PendingFormat },
    Ping { wait: Option<Duration> },
}

impl Command {
    /// The session that it names.
    pub fn session(&self) -> Option<Uuid> {
        match self {
            Self::Run(run) => run.session,
            Self::Resume { session, .. }
            | Self::Attach { session, .. }
            | Self::Cancel { session, .. }
            | Self::Pending { session, .. } => Some(*session),
            Self::Ping { .. } => None,
        }
    }
}

/// A run to start.
#[derive(Debug)]
pub struct Run {
    pub session: Option<Uuid>,
    pub title: String,
    pub workdir: Option<String>,
    pub message: NewMessage,
    pub detach: bool,
    pub follow: Follow,
}

/// How a run is followed.
#[derive(Clone, Debug, Default)]
pub struct Follow {
    pub timeout: Duration,
    pub idle_timeout: Option<Duration>,
    pub cancel: bool,
    pub heartbeat: Duration,
    pub policy: Policy,
    pub program: Option<String>,
    pub fail_on_tool_error: bool,
    /// The flags that resume must be given to go on under the same policy.
    pub policy_flags: Vec<String>,
    /// Likewise for the server.
    pub server_flags: Vec<String>,
}

/// Validates the command line. Reads the files that it names, and stdin if it says so.
///
/// # Errors
/// What is wrong, with the flag's name.
pub fn resolve(cli: &cli::Cli, watch: &Watch) -> Result<Settings> {
    let common = cli.command.common();
    let (client, rehearsal, outcome) = server(common, watch)?;
    let server_flags = server_flags(common);
    // A rehearsed pause is to be seen: with the default policy of run the practice call would simply be accepted, and a
    // recorded one, which nobody can decide any more, would wait for ever.
    let may_pause = matches!(outcome, Some(Outcome::Paused | Outcome::Recorded(_)));
    let run_default = if may_pause { OnApproval::Pause } else { OnApproval::Accept };
    let follow = |cli: &cli::Follow, default| follow(cli, default, server_flags.clone());
    let command = match &cli.command {
        cli::Command::Run(run) => Command::Run(Box::new(Run {
            session: run.session.as_deref().map(|id| session(id).context("--session")).transpose()?,
            title: run.title.clone().unwrap_or_else(|| format!("autopilot: {}", run.profile)),
            workdir: run.workdir.clone(),
            message: message(run, watch)?,
            detach: detach(run)?,
            follow: {
                deny_alone(&run.follow)?;
                follow(&run.follow, run_default)?
            },
        })),
        cli::Command::Resume(resume) => Command::Resume {
            session: session(&resume.session)?,
            choices: choices(resume)?,
            follow: follow(&resume.follow, OnApproval::Pause)?,
        },
        cli::Command::Attach(attach) => Command::Attach {
            session: session(&attach.session)?,
            run: attach.run.as_deref().map(|id| Uuid::parse_str(id).context("--run")).transpose()?,
            follow: follow(&attach.follow, OnApproval::Pause)?,
        },
        cli::Command::Cancel(cancel) => {
            Command::Cancel { session: session(&cancel.session)?, timeout: cancel.timeout }
        }
        cli::Command::Pending(pending) => {
            Command::Pending { session: session(&pending.session)?, format: pending.output }
        }
        cli::Command::Ping(ping) => Command::Ping { wait: ping.wait },
    };
    Ok(Settings { client, rehearsal, command })
}

fn server(common: &cli::Common, watch: &Watch) -> Result<(client::Options, Option<Rehearsal>, Option<Outcome>)> {
    let options = |server, token| client::Options {
        server,
        token,
        headers: Headers::default(),
        connect_timeout: common.connect_timeout,
        retry_timeout: common.retry_timeout,
    };
    if let Some(outcome) = given(common.rehearse.as_deref()) {
        let outcome = rehearsed(outcome, watch)?;
        let rehearsal = Rehearsal::start(outcome.clone()).context("start the practice server")?;
        let server = Address::parse(rehearsal.url())?;
        return Ok((options(server, None), Some(rehearsal), Some(outcome)));
    }
    let server = Address::parse(given(common.server.as_deref()).unwrap_or(DEFAULT_SERVER));
    let mut server = server.context("--server or SORTIE_SERVER")?;
    if let Some(path) = common.cacert.as_deref().filter(|path| !path.as_os_str().is_empty()) {
        // It may be a FIFO that nobody writes to.
        let doing = || format!("cannot read the certificates in {} (--cacert)", path.display());
        let pem = pem(path, watch).with_context(doing)?;
        server.trust(&pem).with_context(doing)?;
    }
    server.use_proxy()?;
    let token = token(common.token_file.as_deref(), watch)?;
    ensure!(
        token.is_none() || common.allow_http || !server.is_exposed(),
        "the token would go over plain http to {}, where it can be read on the way; use https, or say --allow-http",
        server.url()
    );
    Ok((options(server, token), None, None))
}

fn pem(path: &Path, watch: &Watch) -> Result<Vec<u8>> {
    let path = path.to_owned();
    let pem = watch.run(move || {
        let mut pem = Vec::new();
        let file = std::fs::File::open(path)?;
        file.take(MAX_PEM + 1).read_to_end(&mut pem).map(|_| pem)
    })??;
    ensure!(pem.len() as u64 <= MAX_PEM, "it is larger than {MAX_PEM} bytes");
    Ok(pem)
}

/// What a later command must be given to reach the same server in the same way.
fn server_flags(common: &cli::Common) -> Vec<String> {
    let mut flags = Vec::new();
    let mut flag = |name: &str, value: &str| flags.extend([name.to_owned(), value.to_owned()]);
    if let Some(outcome) = given(common.rehearse.as_deref()) {
        flag("--rehearse", outcome);
        return flags;
    }
    let paths = [("--token-file", &common.token_file), ("--cacert", &common.cacert)];
    if let Some(url) = given(common.server.as_deref()).filter(|url| *url != DEFAULT_SERVER) {
        flag("--server", url);
    }
    for (name, path) in paths {
        path.iter()
            .filter(|path| !path.as_os_str().is_empty())
            .for_each(|path| flag(name, &path.to_string_lossy()));
    }
    flags.extend(common.allow_http.then(|| "--allow-http".into()));
    flags
}

/// One of the five outcomes, or a recording.
fn rehearsed(outcome: &str, watch: &Watch) -> Result<Outcome> {
    outcome.parse().or_else(|error: String| {
        let path = PathBuf::from(outcome);
        ensure!(path.exists(), "--rehearse {outcome}: it is {error}, and no file");
        // Likewise.
        let recording = watch.run(move || std::fs::read_to_string(path))?;
        let recording = recording.with_context(|| format!("--rehearse {outcome}"))?;
        ensure!(rehearsal::has_event(&recording), "--rehearse {outcome}: there is no event in it");
        Ok(Outcome::Recorded(recording))
    })
}

/// An empty value counts as none: a variable cannot always be unset.
fn given(value: Option<&str>) -> Option<&str> {
    value.filter(|value| !value.is_empty())
}

fn token(file: Option<&Path>, watch: &Watch) -> Result<Option<Token>> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = file {
        return token_file(path, "--token-file", watch).map(Some);
    }
    if let Some(token) = variable("SORTIE_TOKEN") {
        return Token::parse(token.as_encoded_bytes(), None).context("the token in SORTIE_TOKEN").map(Some);
    }
    if let Some(path) = variable("SORTIE_TOKEN_FILE") {
        return token_file(Path::new(&path), "SORTIE_TOKEN_FILE", watch).map(Some);
    }
    Ok(None)
}

fn token_file(path: &Path, source: &str, watch: &Watch) -> Result<Token> {
    let doing = || format!("read the token in {} ({source})", path.display());
    let opened = path.to_owned();
    // It may be a FIFO that nobody writes to.
    let read = watch.run(move || {
        let mut token = Vec::new();
        let file = std::fs::File::open(opened)?;
        file.take(MAX_TOKEN as u64 + 1).read_to_end(&mut token).map(|_| token)
    })?;
    let token = read.with_context(doing)?;
    Token::parse(&token, Some(path.to_owned())).with_context(doing)
}

fn session(id: &str) -> Result<Uuid> {
    Uuid::parse_str(id).map_err(|error| anyhow!("the session {id:?} is not a UUID: {error}"))
}

fn follow(cli: &cli::Follow, default: OnApproval, server_flags: Vec<String>) -> Result<Follow> {
    let on_approval = if cli.pause_on_approval { Some(OnApproval::Pause) } else { cli.on_approval };
    let program = cli.approve_with.clone();
    ensure!(program.as_deref().is_none_or(|program| !program.trim().is_empty()), "--approve-with names no program");
    let policy = Policy {
        on_approval: on_approval.unwrap_or(default),
        allow: tools(&cli.allow_tools, "--allow-tool")?,
        deny: tools(&cli.deny_tools, "--deny-tool")?,
        program: program.is_some(),
        subagents: cli.enable_subagents,
        slack: cli.enable_slack_tools,
    };
    let mut policy_flags = Vec::new();
    let mut flag = |name: &str, value: &str| policy_flags.extend([name.to_owned(), value.to_owned()]);
    policy.allow.iter().for_each(|tool| flag("--allow-tool", tool));
    policy.deny.iter().for_each(|tool| flag("--deny-tool", tool));
    program.iter().for_each(|program| flag("--approve-with", program));
    policy_flags.extend(policy.subagents.then(|| "--enable-subagents".into()));
    policy_flags.extend(policy.slack.then(|| "--enable-slack-tools".into()));
    Ok(Follow {
        timeout: cli.timeout,
        idle_timeout: cli.idle_timeout,
        cancel: !cli.no_cancel,
        heartbeat: cli.heartbeat,
        policy,
        program,
        fail_on_tool_error: cli.fail_on_tool_error,
        policy_flags,
        server_flags,
    })
}

fn tools(names: &[String], flag: &str) -> Result<BTreeSet<String>> {
    let names = names.iter().map(|name| match name.trim() {
        trimmed if bare_name(trimmed).is_empty() => bail!("{flag} {name:?} names no tool"),
        trimmed => Ok(trimmed.to_owned()),
    });
    names.collect()
}

fn choices(cli: &cli::Resume) -> Result<Choices> {
    let choices = Choices {
        approve: cli.approve.iter().cloned().collect(),
        reject: cli.reject.iter().cloned().collect(),
        approve_all: cli.approve_all,
        reject_all: cli.reject_all,
        batch: None,
    };
    if let Some(both) = choices.approve.intersection(&choices.reject).next() {
        bail!("the call {both:?} is given to both --approve and --reject");
    }
    Ok(choices)
}

/// `run --deny-tool` alone would let every other call run, also those that the server's own policy denies.
fn deny_alone(follow: &cli::Follow) -> Result<()> {
    let says_the_rest = !follow.allow_tools.is_empty()
        || follow.approve_with.is_some()
        || follow.pause_on_approval
        || follow.on_approval.is_some();
    ensure!(
        follow.deny_tools.is_empty() || says_the_rest,
        "--deny-tool alone: it takes the place of the server's policy: say what becomes of the other calls with \
         --on-approval accept, pause or reject, with --allow-tool or with --approve-with"
    );
    Ok(())
}

/// A detached run has nobody to decide its calls or to tell how it ended.
fn detach(cli: &cli::Run) -> Result<bool> {
    let follow = &cli.follow;
    let decides = !follow.allow_tools.is_empty()
        || !follow.deny_tools.is_empty()
        || follow.approve_with.is_some()
        || matches!(follow.on_approval, Some(OnApproval::Accept | OnApproval::Reject));
    ensure!(
        !cli.detach || !decides,
        "--detach leaves nobody to decide tool calls; leave out --on-approval, --allow-tool, --deny-tool and \
         --approve-with here, and give them to sortie attach"
    );
    ensure!(
        !cli.detach || (follow.output == Format::Text && follow.result_file.is_none()),
        "--detach prints the session's id and cannot tell how the run ends; give --output and --result-file to \
         sortie attach"
    );
    Ok(cli.detach)
}

fn message(cli: &cli::Run, watch: &Watch) -> Result<NewMessage> {
    let mut stdin = Stdin { taken_by: None, watch };
    let content = match (&cli.prompt, &cli.prompt_file) {
        (Some(prompt), None) if prompt == "-" => stdin.take("the prompt -")?,
        (Some(prompt), None) => prompt.clone(),
        (None, Some(path)) => stdin.file(path, "--prompt-file")?,
        _ => bail!("no prompt: give it as an argument, with --prompt-file, or - for stdin"),
    };
    ensure!(!content.trim().is_empty(), "the prompt is empty");
    let max_turns = cli.max_turns.as_deref().map(|turns| {
        let number = turns.parse().ok().filter(|number| (1..=MAX_TURNS).contains(number));
        number.ok_or_else(|| anyhow!("--max-turns {turns}: it must be a number from 1 to {MAX_TURNS}"))
    });
    let replaces = !cli.follow.allow_tools.is_empty()
        || !cli.follow.deny_tools.is_empty()
        || cli.follow.approve_with.is_some();
    Ok(NewMessage {
        message: UserMessage { role: "user", content: content.into() },
        r#type: "message",
        model: cli.model.clone(),
        sandbox: cli.sandbox,
        overrides: Overrides {
            auto_approve: replaces.then_some(ApproveOverride::None),
            system_prompt: system_prompt(cli, &mut stdin)?,
            max_turns: max_turns.transpose()?,
        },
        context: contexts(cli, &mut stdin)?,
    })
}

fn system_prompt(cli: &cli::Run, stdin: &mut Stdin<'_>) -> Result<Option<String>> {
    let Some(path) = &cli.system_prompt_file else { return Ok(None) };
    let text = stdin.file(path, "--system-prompt-file")?;
    let length = text.chars().count();
    ensure!(
        length <= MAX_SYSTEM_PROMPT,
        "--system-prompt-file {}: {length} characters, and {MAX_SYSTEM_PROMPT} are the most",
        path.display()
    );
    Ok(Some(text))
}

fn contexts(cli: &cli::Run, stdin: &mut Stdin<'_>) -> Result<Vec<ContextEntry>> {
    let mut entries = Vec::new();
    for argument in &cli.context {
        let (name, priority, text) = context_argument(argument, "--context", "TEXT")?;
        entries.push(("--context", ContextEntry { name, content: text.to_owned(), priority }));
    }
    for argument in &cli.context_file {
        let (name, priority, path) = context_argument(argument, "--context-file", "PATH")?;
        let content = stdin.file(Path::new(path), "--context-file")?;
        entries.push(("--context-file", ContextEntry { name, content, priority }));
    }
    let count = entries.len();
    ensure!(
        count <= MAX_CONTEXTS,
        "--context and --context-file: {count} entries, and {MAX_CONTEXTS} are the most"
    );
    let mut total = 0;
    for (flag, entry) in &entries {
        let (name, length) = (entry.name.chars().count(), entry.content.chars().count());
        total += length;
        ensure!(
            name <= MAX_CONTEXT_NAME,
            "{flag}: a name of {name} characters, and {MAX_CONTEXT_NAME} are the most"
        );
        ensure!(
            length <= MAX_CONTEXT,
            "{flag} {}: {length} characters, and {MAX_CONTEXT} are the most",
            entry.name
        );
    }
    ensure!(
        total <= MAX_CONTEXT_TOTAL,
        "--context and --context-file: {total} characters in all, and {MAX_CONTEXT_TOTAL} are the most"
    );
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

/// `NAME=VALUE`, `NAME:high=VALUE` or `NAME:normal=VALUE`.
fn context_argument<'a>(
    argument: &'a str,
    flag: &str,
    value_name: &str,
) -> Result<(String, Option<Priority>, &'a str)> {
    let (name, value) =
        argument.split_once('=').ok_or_else(|| anyhow!("{flag} {argument:?}: it must be NAME={value_name}"))?;
    let (name, priority) = if let Some(name) = name.strip_suffix(":high") {
        (name, Some(Priority::High))
    } else if let Some(name) = name.strip_suffix(":normal") {
        (name, Some(Priority::Normal))
    } else {
        (name, None)
    };
    ensure!(!name.trim().is_empty(), "{flag} {argument:?}: the name is empty");
    Ok((name.to_owned(), priority, value))
}

/// stdin is read only when asked, and can be read only once.
struct Stdin<'a> {
    taken_by: Option<String>,
    watch: &'a Watch,
}

impl Stdin<'_> {
    fn take(&mut self, user: &str) -> Result<String> {
        if let Some(first) = self.taken_by.replace(user.to_owned()) {
            bail!("{user} and {first} both take stdin, which can be read only once");
        }
        // On a thread of its own: whoever holds the other end may never close it.
        let read = self.watch.run(|| {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
        })?;
        let bytes = read.with_context(|| format!("read stdin for {user}"))?;
        String::from_utf8(bytes).map_err(|_| anyhow!("{user}: stdin is not UTF-8 text"))
    }

    fn file(&mut self, path: &Path, flag: &str) -> Result<String> {
        if path == Path::new("-") {
            return self.take(flag);
        }
        let path: PathBuf = path.into();
        let doing = format!("{flag} {}", path.display());
        // It may be a FIFO that nobody writes to.
        let bytes = self.watch.run(move || std::fs::read(path))?.with_context(|| doing.clone())?;
        String::from_utf8(bytes).map_err(|_| anyhow!("{doing}: it is not UTF-8 text"))
    }
}
