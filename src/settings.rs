//! Validates the flags and adds the environment. Only the environment is read here, and nothing is started: input.rs
//! reads the files that the settings name. Each error names the flag or the variable that is at fault.

use crate::agent::calls::{ApproveOverride, Priority};
use crate::agent::tools::{bare_name, is_slack_tool, is_subagent_tool};
use crate::cli::{self, Format, ListState, PlainFormat};
use crate::client::{Address, Token};
use crate::rehearsal::Outcome;
use crate::run::choices::Choices;
use crate::run::policy::{OnApproval, Policy, SCOPE, names};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use uuid::Uuid;

const DEFAULT_SERVER: &str = "http://127.0.0.1:4096";
const MAX_TURNS: u32 = 256;

/// What a command is to do, and with which server.
#[derive(Debug)]
pub struct Settings<'a> {
    pub server: Server,
    pub follow: Follow,
    pub command: Command<'a>,
}

/// The server to ask.
#[derive(Debug)]
pub enum Server {
    /// A practice server. The path is an outcome's name, or a recording.
    Practice(Source),
    /// An agent server.
    Real(Box<RealServer>),
}

/// An agent server and its credentials.
#[derive(Debug)]
pub struct RealServer {
    pub address: Address,
    pub token: Option<TokenSource>,
    pub headers: Option<Source>,
    /// The certificates to trust.
    pub cacert: Option<Source>,
    /// A client certificate, and its private key.
    pub identity: Option<(Source, Source)>,
}

/// Where the token is.
#[derive(Debug)]
pub enum TokenSource {
    Variable(Token),
    File(Source),
}

/// A file to be read, and the flag or the variable that names it. The path `-` is stdin, where that is allowed.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: &'static str,
    pub path: PathBuf,
}

impl Source {
    pub fn new(name: &'static str, path: impl Into<PathBuf>) -> Self {
        Self { name, path: path.into() }
    }

    /// Returns whether stdin is meant.
    pub fn is_stdin(&self) -> bool {
        self.path == Path::new("-")
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.path.display())
    }
}

/// A text, or where it is.
#[derive(Clone, Debug)]
pub enum Text {
    Given(String),
    In(Source),
}

/// The commands.
#[derive(Debug)]
pub enum Command<'a> {
    Run(Box<Run<'a>>),
    Resume { session: Uuid, choices: Choices },
    Attach { session: Uuid, run: Option<Uuid> },
    Cancel { session: Uuid, timeout: Duration },
    Pending { session: Option<Uuid>, format: PlainFormat },
    List { state: Option<ListState>, format: PlainFormat },
    Ping { wait: Option<Duration>, format: PlainFormat },
}

impl Command<'_> {
    /// Returns the session that the command names.
    pub fn session(&self) -> Option<Uuid> {
        match self {
            Self::Run(run) => run.session,
            Self::Resume { session, .. } | Self::Attach { session, .. } | Self::Cancel { session, .. } => {
                Some(*session)
            }
            Self::Pending { session, .. } => *session,
            Self::List { .. } | Self::Ping { .. } => None,
        }
    }
}

/// A run to start.
#[derive(Debug)]
pub struct Run<'a> {
    /// The flags that need no validation.
    pub flags: &'a cli::Run,
    pub session: Option<Uuid>,
    pub prompt: Text,
    pub contexts: Vec<ContextText>,
    /// The calls that the server approves; `None` leaves the server's own policy.
    pub auto_approve: Option<ApproveOverride>,
    /// Do not follow the run; with `-o json`, say so in JSON.
    pub detach: Option<PlainFormat>,
    pub max_turns: Option<u32>,
    pub max_tokens: Option<u64>,
    pub max_tool_calls: Option<u64>,
    /// `--pause-on-approval` alone: where the server approves every call, nothing will pause.
    pub only_pauses: bool,
}

/// A text beside the prompt.
#[derive(Debug)]
pub struct ContextText {
    /// The flag that it came from.
    pub flag: &'static str,
    pub name: String,
    pub priority: Option<Priority>,
    pub text: Text,
}

/// How a run is followed. The default is for commands that follow a run only to see its state.
#[derive(Clone, Debug, Default)]
pub struct Follow {
    pub idle_timeout: Option<Duration>,
    pub cancel: bool,
    /// Zero prints no heartbeat.
    pub heartbeat: Duration,
    pub policy: Policy,
    pub program: Option<String>,
    pub fail_on_tool_error: bool,
    /// The flags that a later command must be given to reach the same server in the same way.
    pub server_flags: Vec<String>,
}

/// Validates the command line; `help` has no settings.
///
/// # Errors
/// What is wrong, with the name of the flag or the variable.
pub fn resolve(cli: &cli::Cli) -> Result<Settings<'_>> {
    let common = &cli.common;
    ensure!(!common.quiet || common.verbose == 0, "--quiet cannot be used with --verbose");
    let mut follow = Follow::default();
    let command = match &cli.command {
        cli::Command::Run(run) => {
            let (run, followed) = resolve_run(run, common)?;
            follow = followed;
            Command::Run(Box::new(run))
        }
        cli::Command::Resume(resume) => {
            let (session, choices) = (session(&resume.session)?, choices(resume)?);
            follow = later_follow(&resume.follow)?;
            Command::Resume { session, choices }
        }
        cli::Command::Attach(attach) => {
            let session = session(&attach.session)?;
            let run = attach.run.as_deref().map(|id| uuid("--run", id)).transpose()?;
            follow = later_follow(&attach.follow)?;
            Command::Attach { session, run }
        }
        cli::Command::Cancel(cancel) => {
            Command::Cancel { session: session(&cancel.session)?, timeout: cancel.timeout }
        }
        cli::Command::Pending(pending) => Command::Pending {
            session: pending.session.as_deref().map(session).transpose()?,
            format: pending.output,
        },
        cli::Command::List(list) => Command::List { state: list.state, format: list.output },
        cli::Command::Ping(ping) => Command::Ping { wait: ping.wait, format: ping.output },
        cli::Command::Help(_) => bail!("help asks no server"),
    };
    Ok(Settings {
        server: server(common)?,
        follow: Follow { server_flags: server_flags(common), ..follow },
        command,
    })
}

fn server(common: &cli::Common) -> Result<Server> {
    if let Some(outcome) = given(common.rehearse.as_deref()) {
        let name = origin("--rehearse", "SORTIE_REHEARSE", Some(outcome));
        return Ok(Server::Practice(Source::new(name, outcome)));
    }
    let url = common.server.as_deref().map(|url| url.trim_end_matches(['\r', '\n']));
    let url = given(url).unwrap_or(DEFAULT_SERVER);
    let mut address =
        Address::parse(url).with_context(|| origin("--server", "SORTIE_SERVER", common.server.as_deref()))?;
    address.use_proxy()?;
    let token = token(common.token_file.as_deref())?;
    let headers = source("--header-file", "SORTIE_HEADER_FILE", common.header_file.as_deref());
    let secret = token.as_ref().map(|_| "token").or(headers.as_ref().map(|_| "header file"));
    if let Some(secret) = secret.filter(|_| !common.allow_http && address.is_exposed()) {
        bail!(
            "the {secret} would go over plain http to {}, where it can be read on the way; https avoids that, and \
             --allow-http allows it",
            address.url()
        );
    }
    let cacert = source("--cacert", "SORTIE_CACERT", common.cacert.as_deref());
    let (cert, key) = (file("--cert", common.cert.as_deref()), file("--key", common.key.as_deref()));
    ensure!(cert.is_some() || key.is_none(), "--key is the key of a client certificate: --cert is missing");
    let identity = cert.map(|cert| {
        let key = key.unwrap_or_else(|| cert.clone());
        (cert, key)
    });
    Ok(Server::Real(Box::new(RealServer { address, token, headers, cacert, identity })))
}

/// An empty value counts as none: a variable cannot always be unset.
fn given(value: Option<&str>) -> Option<&str> {
    value.filter(|value| !value.is_empty())
}

fn file(name: &'static str, path: Option<&Path>) -> Option<Source> {
    path.filter(|path| !path.as_os_str().is_empty()).map(|path| Source::new(name, path))
}

fn source(flag: &'static str, variable: &'static str, path: Option<&Path>) -> Option<Source> {
    file(origin(flag, variable, path), path)
}

/// Returns which of the two a value came from. clap fills in a variable's value where the flag is not given.
fn origin(flag: &'static str, variable: &'static str, value: Option<impl AsRef<std::ffi::OsStr>>) -> &'static str {
    let in_environment = std::env::var_os(variable);
    let is_variable = value.is_some_and(|value| in_environment.as_deref() == Some(value.as_ref()));
    if is_variable { variable } else { flag }
}

fn token(flag: Option<&Path>) -> Result<Option<TokenSource>> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = flag {
        return Ok(Some(TokenSource::File(Source::new("--token-file", path))));
    }
    if let Some(token) = variable("SORTIE_TOKEN") {
        let token = Token::parse(token.as_encoded_bytes(), None).context("the token in SORTIE_TOKEN")?;
        return Ok(Some(TokenSource::Variable(token)));
    }
    let path = variable("SORTIE_TOKEN_FILE").map(|path| Source::new("SORTIE_TOKEN_FILE", PathBuf::from(path)));
    Ok(path.map(TokenSource::File))
}

/// Returns the flags that a later command must be given to reach the same server in the same way.
fn server_flags(common: &cli::Common) -> Vec<String> {
    let mut flags = Vec::new();
    let mut flag = |name: &str, value: &str| flags.extend([name.to_owned(), value.to_owned()]);
    if let Some(outcome) = given(common.rehearse.as_deref()) {
        flag("--rehearse", outcome);
        return flags;
    }
    if let Some(url) = given(common.server.as_deref().map(str::trim_end)).filter(|url| *url != DEFAULT_SERVER) {
        flag("--server", url);
    }
    for (name, path) in common.files() {
        if !path.as_os_str().is_empty() {
            flag(name, &path.to_string_lossy());
        }
    }
    flags.extend(common.allow_http.then(|| "--allow-http".into()));
    flags
}

fn session(id: &str) -> Result<Uuid> {
    uuid("the session", id)
}

fn uuid(what: &str, id: &str) -> Result<Uuid> {
    Uuid::parse_str(id).map_err(|error| anyhow!("{what} {id:?} is not a UUID: {error}"))
}

fn resolve_run<'a>(run: &'a cli::Run, common: &cli::Common) -> Result<(Run<'a>, Follow)> {
    let session = run.session.as_deref().map(|id| uuid("--session", id)).transpose()?;
    ensure!(
        session.is_none() || run.system_prompt_file.is_none(),
        "--system-prompt-file cannot be used with --session: a session keeps the system prompt of its first run"
    );
    if let Some(workdir) = &run.workdir {
        ensure!(
            workdir.starts_with('/') && !workdir.contains(['\n', '\r', '\0']),
            "--workdir {workdir}: it must be an absolute path on the server"
        );
    }
    let detach = detach(run)?;
    deny_alone(&run.follow)?;
    // A rehearsed pause must be visible: with the default policy of run the practice call would simply be accepted, and a
    // recorded one, which nobody can decide any more, would wait for ever.
    let rehearsed = given(common.rehearse.as_deref());
    let may_pause = rehearsed.is_some_and(|outcome| matches!(outcome.parse(), Ok(Outcome::Paused) | Err(_)));
    let default = if may_pause { OnApproval::Pause } else { OnApproval::Accept };
    let follow = follow(&run.follow, default, detach.is_some())?;
    let auto_approve = auto_approve(&follow.policy);
    let run = Run {
        flags: run,
        session,
        prompt: prompt(run)?,
        contexts: contexts(run)?,
        max_turns: number("--max-turns", &run.max_turns, 1..=MAX_TURNS, &format!("from 1 to {MAX_TURNS}"))?,
        only_pauses: rehearsed.is_none()
            && follow.policy.on_approval == OnApproval::Pause
            && auto_approve.is_none()
            && detach.is_none(),
        auto_approve,
        detach,
        max_tokens: number("--max-tokens", &run.max_tokens, 1..=u64::MAX, "greater than zero")?,
        max_tool_calls: number("--max-tool-calls", &run.max_tool_calls, 1..=u64::MAX, "greater than zero")?,
    };
    Ok((run, follow))
}

/// Parses a flag's number. `bounds` names the range for an error.
fn number<T: FromStr + PartialOrd>(
    flag: &str,
    text: &Option<String>,
    range: RangeInclusive<T>,
    bounds: &str,
) -> Result<Option<T>> {
    let Some(text) = text else { return Ok(None) };
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.map(Some).ok_or_else(|| anyhow!("{flag} {text}: it must be a number {bounds}"))
}

fn prompt(run: &cli::Run) -> Result<Text> {
    match (&run.prompt, &run.prompt_file) {
        (Some(prompt), None) if prompt == "-" => Ok(Text::In(Source::new("the prompt", "-"))),
        (Some(prompt), None) => Ok(Text::Given(prompt.clone())),
        (None, Some(path)) => Ok(Text::In(Source::new("--prompt-file", path))),
        _ => bail!(
            "no prompt: give it as an argument, with --prompt-file PATH, or on stdin with -; a prompt that begins with - \
             must follow --"
        ),
    }
}

/// The entry for the working directory goes first: the server keeps the entries of high priority in their order.
fn contexts(run: &cli::Run) -> Result<Vec<ContextText>> {
    let mut contexts = Vec::new();
    contexts.extend(run.workdir.as_deref().map(working_directory));
    for argument in &run.context {
        contexts.push(context("--context", argument, "TEXT", |text| Text::Given(text.to_owned()))?);
    }
    for argument in &run.context_file {
        let flag = "--context-file";
        contexts.push(context(flag, argument, "PATH", |path| Text::In(Source::new(flag, path)))?);
    }
    Ok(contexts)
}

/// The server gives the working directory to the model and to nothing else (protocol trap 16).
fn working_directory(workdir: &str) -> ContextText {
    let text = format!(
        "Work in the directory {workdir}. Your tools may start in another directory: use absolute paths, and begin \
         shell commands with cd {workdir}."
    );
    ContextText {
        flag: "--workdir",
        name: "working directory".into(),
        priority: Some(Priority::High),
        text: Text::Given(text),
    }
}

/// Parses `NAME=VALUE`, `NAME:high=VALUE` or `NAME:normal=VALUE`.
fn context(
    flag: &'static str,
    argument: &str,
    value_name: &str,
    text: impl FnOnce(&str) -> Text,
) -> Result<ContextText> {
    let (name, value) =
        argument.split_once('=').ok_or_else(|| anyhow!("{flag} {argument:?}: it must be NAME={value_name}"))?;
    let (name, priority) = match name.rsplit_once(':') {
        Some((name, "high")) => (name, Some(Priority::High)),
        Some((name, "normal")) => (name, Some(Priority::Normal)),
        Some((_, word)) if word.chars().all(|c| c.is_ascii_alphabetic()) => {
            bail!("{flag} {name}: the priority after the colon must be high or normal")
        }
        _ => (name, None),
    };
    ensure!(!name.trim().is_empty(), "{flag} {argument:?}: the name is empty");
    Ok(ContextText { flag, name: name.to_owned(), priority, text: text(value) })
}

/// Returns how `resume` and `attach` follow. They cannot set the run's overrides.
fn later_follow(cli: &cli::Follow) -> Result<Follow> {
    if let Some(scope) = cli.allow_tools.iter().find(|tool| tool.contains(SCOPE)) {
        bail!("--allow-tool {scope}: only run can send a list with command scopes to the server");
    }
    follow(cli, OnApproval::Pause, false)
}

fn follow(cli: &cli::Follow, default: OnApproval, detached: bool) -> Result<Follow> {
    let on_approval = if cli.pause_on_approval { Some(OnApproval::Pause) } else { cli.on_approval };
    let program = cli.approve_with.clone();
    ensure!(program.as_deref().is_none_or(|program| !program.trim().is_empty()), "--approve-with names no program");
    let allow = tools(&cli.allow_tools, "--allow-tool")?;
    let scope = allow.iter().find(|tool| tool.contains(SCOPE));
    let policy = Policy {
        on_approval: on_approval.unwrap_or(default),
        list_is_sent: scope.is_some() || detached && !allow.is_empty(),
        deny: tools(&cli.deny_tools, "--deny-tool")?,
        program: program.is_some(),
        subagents: cli.enable_subagents,
        slack: cli.enable_slack_tools,
        allow: allow.clone(),
    };
    if let Some(scope) = scope {
        ensure!(
            policy.deny.is_empty() && !policy.program,
            "--allow-tool {scope}: a list with command scopes goes to the server, and cannot be used with --deny-tool or \
             --approve-with"
        );
    }
    if policy.list_is_sent {
        policy.allow.iter().try_for_each(|entry| sendable(entry))?;
    }
    if let Some(both) =
        policy.deny.iter().find(|deny| policy.allow.iter().any(|allow| names(allow, deny) || names(deny, allow)))
    {
        bail!("the tool {both} is given to both --allow-tool and --deny-tool");
    }
    Ok(Follow {
        idle_timeout: cli.idle_timeout,
        cancel: !cli.no_cancel,
        heartbeat: cli.heartbeat,
        policy,
        program,
        fail_on_tool_error: cli.fail_on_tool_error,
        server_flags: Vec::new(),
    })
}

impl Follow {
    /// Returns the flags that resume must be given to go on under the same policy. A list that went to the server stays
    /// with the run.
    pub fn policy_flags(&self) -> Vec<String> {
        let policy = &self.policy;
        let mut flags = Vec::new();
        let mut flag = |name: &str, value: &str| flags.extend([name.to_owned(), value.to_owned()]);
        let allow = policy.allow.iter().filter(|_| !policy.list_is_sent);
        allow.for_each(|tool| flag("--allow-tool", tool));
        policy.deny.iter().for_each(|tool| flag("--deny-tool", tool));
        self.program.iter().for_each(|program| flag("--approve-with", program));
        flags.extend(policy.subagents.then(|| "--enable-subagents".into()));
        flags.extend(policy.slack.then(|| "--enable-slack-tools".into()));
        flags
    }
}

fn tools(names: &[String], flag: &str) -> Result<BTreeSet<String>> {
    let names = names.iter().map(|name| match name.trim() {
        trimmed if bare_name(trimmed).is_empty() => bail!("{flag} {name:?} names no tool"),
        trimmed if flag != "--allow-tool" && trimmed.contains(SCOPE) => {
            bail!("{flag} {name}: a command scope can only be allowed (--allow-tool)")
        }
        trimmed => Ok(trimmed.to_owned()),
    });
    names.collect()
}

/// Checks an entry of a list that goes to the server. The server cuts each entry behind its first `__`, matches the
/// command of a scope literally, and trims nothing inside.
fn sendable(entry: &str) -> Result<()> {
    let (tool, scope) = entry.split_once(SCOPE).unwrap_or((entry, ""));
    ensure!(
        !bare_name(tool).contains("__") && !scope.contains("__"),
        "--allow-tool {entry}: the server would cut this entry at the two underscores"
    );
    if !entry.contains(SCOPE) {
        return Ok(());
    }
    let parts = || scope.split(SCOPE);
    ensure!(
        !bare_name(tool).is_empty() && parts().all(|part| !part.is_empty() && part.trim() == part),
        "--allow-tool {entry}: a command scope is TOOL::COMMAND or TOOL::COMMAND::ARGUMENT, without blanks around ::"
    );
    ensure!(
        !parts().next().is_some_and(|command| command.contains(['*', '?'])),
        "--allow-tool {entry}: the command of a scope is no pattern, and would match nothing"
    );
    Ok(())
}

/// Returns what the server approves in place of its own policy. Subagent and Slack tools go into a list only with their
/// flags: the server would approve them by itself.
fn auto_approve(policy: &Policy) -> Option<ApproveOverride> {
    if policy.list_is_sent {
        let enabled = |tool: &&String| {
            (policy.subagents || !is_subagent_tool(tool)) && (policy.slack || !is_slack_tool(tool))
        };
        Some(ApproveOverride::Tools(policy.allow.iter().filter(enabled).cloned().collect()))
    } else {
        policy.replaces_servers().then_some(ApproveOverride::None)
    }
}

fn choices(cli: &cli::Resume) -> Result<Choices> {
    let choices = Choices {
        approve: cli.approve.iter().cloned().collect(),
        reject: cli.reject.iter().cloned().collect(),
        approve_all: cli.approve_all,
        reject_all: cli.reject_all,
        batch: cli.batch.clone(),
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

/// A detached run has nobody to decide its calls or to tell how it ended, but the server can approve by a list.
fn detach(cli: &cli::Run) -> Result<Option<PlainFormat>> {
    if !cli.detach {
        return Ok(None);
    }
    let follow = &cli.follow;
    let decides = !follow.deny_tools.is_empty()
        || follow.approve_with.is_some()
        || matches!(follow.on_approval, Some(OnApproval::Accept | OnApproval::Reject));
    ensure!(
        !decides,
        "--detach leaves nobody to decide tool calls: it cannot be used with --deny-tool, --approve-with and \
         --on-approval accept or reject, which sortie attach takes; --allow-tool goes to the server"
    );
    let format = match follow.output {
        Format::Text => Some(PlainFormat::Text),
        Format::Json => Some(PlainFormat::Json),
        Format::Final | Format::StreamJson => None,
    };
    ensure!(
        format.is_some() && follow.result_file.is_none(),
        "--detach prints the session's ID and cannot tell how the run ends: it needs --output text or json, and cannot \
         be used with --result-file, which sortie attach takes"
    );
    Ok(format)
}
