//! The command line as clap parses it, and the message about one that clap cannot parse. settings.rs says what the flags
//! mean together.

#![expect(clippy::doc_markdown, reason = "these doc comments are shown to people as they are")]

use crate::run::policy::OnApproval;
use clap::builder::PossibleValue;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// One agent run, one exit code
///
/// Gives a task to an agent on a running agent server, follows the run to its end, and says by the exit code how it
/// ended. "sortie COMMAND --help" shows each command's options.
#[derive(Debug, Parser)]
#[command(name = "sortie", bin_name = "sortie", version = env!("SORTIE_VERSION"), max_term_width = 100)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP, help_template = FIRST_HELP)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(disable_help_subcommand = true, disable_help_flag = true)]
#[command(infer_long_args = false, args_override_self = true)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The command line of `run`, without the other commands.
#[derive(Debug, Parser)]
#[command(name = "run", disable_help_flag = true, infer_long_args = false, args_override_self = true)]
struct RunAlone {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    run: Run,
}

impl Cli {
    /// Parses a command line that begins with the program's name.
    ///
    /// clap takes longer to set up the options of all commands than a short run takes for anything else. So a command
    /// line of `run` is first parsed by the options of `run` alone. If that fails, the full parser explains why.
    ///
    /// # Errors
    /// Those of clap, a call for help among them.
    pub fn parse_line(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let line: Vec<_> = line.into_iter().collect();
        if line.get(1).is_some_and(|command| command == "run")
            && let Ok(RunAlone { common, run }) = RunAlone::try_parse_from(&line[1..])
        {
            return Ok(Self { common, command: Command::Run(Box::new(run)) });
        }
        Self::try_parse_from(line)
    }
}

/// The options are in the help of each command.
const FIRST_HELP: &str = "\
{about-with-newline}
{usage-heading} {usage}

Commands:
{subcommands}{after-help}";

const AFTER_HELP: &str = "\
Options may come before or after the command's name. \"sortie COMMAND -h\" shows
the most used ones, \"sortie COMMAND --help\" explains all of them.
\"sortie --version\" prints the version.

Examples:
  sortie run --rehearse completed \"Check the disks\"    try it: it costs nothing
  sortie run --timeout 10m --pause-on-approval -w /srv \"Tidy the logs\"
  sortie run --pause-on-approval -o json --prompt-file task.md > result.json

Exit codes:
  0   completed: the server said so
  1   failed: the line on stderr and the record's \"reason\" say why
  10  paused: tool calls wait for approval; sortie resume decides them";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a run and follow it to its end
    ///
    /// The session's ID is on stderr and in the result record; resume, attach, pending and cancel take it. A run that
    /// has not ended at the deadline is cancelled on the server.
    #[command(after_help = SHORT_RUN, after_long_help = LONG_RUN)]
    Run(Box<Run>),
    /// Decide the pending tool calls, then follow the run
    ///
    /// --approve and --reject apply to the calls that are pending now. A pending call that you do not name is rejected.
    /// Calls that come later fall under --on-approval and the policy flags given here: approving one call never
    /// approves the next. Without a choice the policy decides the pending calls too.
    #[command(after_help = SHORT_RUN, after_long_help = LONG_RUN)]
    Resume(Box<Resume>),
    /// Follow an active run, or show the session's last run
    ///
    /// Like run, it cancels the run at the deadline and at a signal, unless --no-cancel is given.
    #[command(after_help = SHORT_RUN, after_long_help = LONG_RUN)]
    Attach(Box<Attach>),
    /// Stop a run, and wait until it has stopped
    ///
    /// The server cannot interrupt the model. A cancelled run stops when the current answer arrives.
    #[command(after_help = EXIT_CANCEL, after_long_help = EXIT_CANCEL)]
    Cancel(Cancel),
    /// Show the tool calls that wait for approval, in one session or in all
    ///
    /// It decides nothing. resume takes the batch and the IDs that it shows.
    #[command(after_help = EXIT_PENDING, after_long_help = EXIT_PENDING)]
    Pending(Pending),
    /// Show the server's sessions: ID, state, last change, title
    ///
    /// The sessions that changed last come first.
    #[command(after_help = EXIT_LIST, after_long_help = EXIT_LIST)]
    List(List),
    /// Check that the server answers and accepts the token
    #[command(after_help = EXIT_PING, after_long_help = EXIT_PING)]
    Ping(Ping),
    /// Show the help of sortie, or of one command
    #[command(after_help = EXIT_HELP, after_long_help = EXIT_HELP)]
    Help(Help),
}

const SHORT_RUN: &str = "Exit codes: 0 completed, 1 failed, 10 paused: tool calls wait for approval.";
const LONG_RUN: &str = "\
Options without a default are off.

Signals: SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGALRM, SIGVTALRM, SIGXCPU, SIGUSR1 and SIGUSR2 cancel the run and exit 1.
A second one, 2 s or more after the first, makes sortie exit before the run has stopped.

Exit codes: 0 completed, 1 failed, 10 paused: tool calls wait for approval.";
const EXIT_CANCEL: &str = "\
Options without a default are off.
Exit codes: 0 nothing runs in the session any more, 1 that is not certain.";
const EXIT_PENDING: &str = "\
Options without a default are off.
Exit codes: 0 no tool call waits, 1 failed, 10 tool calls wait for approval.";
const EXIT_LIST: &str = "\
Options without a default are off.
Exit codes: 0 the sessions were listed, 1 failed.";
const EXIT_PING: &str = "\
Options without a default are off.
Exit codes: 0 the server answers and accepts the token, 1 it does not.";
const EXIT_HELP: &str = "Exit codes: 0 the help was shown, 1 there is no such command.";

impl Command {
    /// Returns the options that only the commands that follow a run have.
    pub const fn follow(&self) -> Option<&Follow> {
        match self {
            Self::Run(run) => Some(&run.follow),
            Self::Resume(resume) => Some(&resume.follow),
            Self::Attach(attach) => Some(&attach.follow),
            Self::Cancel(_) | Self::Pending(_) | Self::List(_) | Self::Ping(_) | Self::Help(_) => None,
        }
    }
}

/// The options that every command has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub struct Common {
    /// Server's URL [default: http://127.0.0.1:4096]
    #[arg(long, value_name = "URL", env = "SORTIE_SERVER", hide_env_values = true, global = true,
          value_hint = ValueHint::Url)]
    pub server: Option<String>,

    /// File with the token [env: SORTIE_TOKEN_FILE; SORTIE_TOKEN is the token]
    ///
    /// The file holds the token and nothing else. It is read again when the server refuses the token. The flag overrides
    /// SORTIE_TOKEN, which overrides SORTIE_TOKEN_FILE. The token is never taken from the command line, where every user
    /// of the machine could read it.
    #[arg(long, value_name = "PATH", global = true, value_hint = ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,

    /// File with headers for a gateway in front of the server
    ///
    /// Its lines are "Name: value"; empty lines and lines that begin with # are skipped. The headers go with every HTTP
    /// call, over plain http only where the token may go, and are never shown.
    #[arg(long, value_name = "PATH", env = "SORTIE_HEADER_FILE", hide_env_values = true, global = true,
          hide_short_help = true, value_hint = ValueHint::FilePath)]
    pub header_file: Option<PathBuf>,

    /// Trust the certificates in this PEM file [default: the system's]
    #[arg(long, value_name = "PATH", env = "SORTIE_CACERT", hide_env_values = true, global = true,
          hide_short_help = true, value_hint = ValueHint::FilePath)]
    pub cacert: Option<PathBuf>,

    /// Client certificate in a PEM file, for a server that asks for one
    #[arg(long, value_name = "PATH", global = true, hide_short_help = true, value_hint = ValueHint::FilePath)]
    pub cert: Option<PathBuf>,

    /// Private key of the client certificate, in a PEM file [default: the file of --cert]
    #[arg(long, value_name = "PATH", global = true, hide_short_help = true, value_hint = ValueHint::FilePath)]
    pub key: Option<PathBuf>,

    /// Send the token over plain http to another machine, although the network can read it
    #[arg(long, env = "SORTIE_ALLOW_HTTP", hide_env_values = true, global = true, hide_short_help = true,
          value_parser = clap::builder::FalseyValueParser::new())]
    pub allow_http: bool,

    /// Longest time to look up the server's name, and to connect
    ///
    /// With its unit: 500ms, 10s.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, global = true,
          hide_short_help = true)]
    pub connect_timeout: Duration,

    /// Give up after this long without contact with the server; 0s tries once
    ///
    /// With its unit: 30s, 5m. Network failures are retried until then.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration_or_zero, global = true,
          hide_short_help = true)]
    pub retry_timeout: Duration,

    /// Play a recorded run instead, at no cost
    ///
    /// A practice server inside this process plays a recorded run. The outcome is completed, failed, paused, stalled or
    /// lost, or a file that --record wrote. No agent server is asked, and no token is needed. With SORTIE_REHEARSE set, a
    /// script is rehearsed unchanged.
    #[arg(long, value_name = "OUTCOME", env = "SORTIE_REHEARSE", hide_env_values = true, global = true,
          value_hint = ValueHint::FilePath)]
    pub rehearse: Option<String>,

    /// Say nothing on stderr but errors, and that a run is paused
    #[arg(short, long, conflicts_with = "verbose", global = true, help_heading = "Output", display_order = 90)]
    pub quiet: bool,

    /// Log each HTTP call on stderr; -vv the HTTP library too [env: SORTIE_LOG]
    ///
    /// SORTIE_LOG sets the level for each part instead, as in sortie=debug,ureq=info. The token is in no log.
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = "Output", display_order = 91)]
    pub verbose: u8,

    /// Print help; --help shows all options, and explains them
    #[arg(short, long, action = ArgAction::Help, global = true, help_heading = "Output", display_order = 92)]
    pub help: Option<bool>,
}

impl Common {
    /// The files that the options name, apart from a recording.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let files = [
            ("--token-file", &self.token_file),
            ("--header-file", &self.header_file),
            ("--cacert", &self.cacert),
            ("--cert", &self.cert),
            ("--key", &self.key),
        ];
        files.into_iter().filter_map(|(flag, path)| path.as_ref().map(|path| (flag, path)))
    }
}

#[derive(Debug, Args)]
pub struct Follow {
    /// Pause the run, and exit 10, when a tool call needs an approval
    ///
    /// It is short for --on-approval pause. Calls that the server approves by itself do not pause the run.
    #[arg(long, conflicts_with = "on_approval", help_heading = "Approval")]
    pub pause_on_approval: bool,

    /// Decide the calls that nothing else decides [default: accept for run, else pause]
    #[arg(long, value_name = "WHAT", value_enum, help_heading = "Approval")]
    pub on_approval: Option<OnApproval>,

    /// Replace the server's policy, its denials included: allow only this tool
    ///
    /// Repeat it for each tool that may run. A tool that is not on the list is rejected; with --pause-on-approval it
    /// pauses the run. The name may have the server's prefix (stakpak__view) or not (view). With --approve-with, the
    /// program decides the calls that are on the list.
    ///
    /// run_command::git::status allows one command instead of a tool. It prevents mistakes, but does not stop an attacker: see
    /// the manual page. A list that has such an entry goes to the server, which decides by it; run_command in it allows
    /// run_command_task and the remote commands too.
    #[arg(short = 't', long = "allow-tool", value_name = "NAME", help_heading = "Approval")]
    pub allow_tools: Vec<String>,

    /// Replace the server's policy, its denials included: reject this tool
    ///
    /// Repeat it for each tool. run needs --on-approval, --allow-tool or --approve-with too, because something must
    /// decide the other tools.
    #[arg(long = "deny-tool", value_name = "NAME", help_heading = "Approval")]
    pub deny_tools: Vec<String>,

    /// Replace the server's policy, its denials included: ask this program
    ///
    /// It is asked about each call that no other flag decides. Its exit code decides: 0 accepts the call, 1 rejects it,
    /// 10 pauses the run. The program is run by sh -c, gets {session_id, run_id, tool_call} as JSON on stdin, and has
    /// 60 s. What it prints is the reason for a rejection. Any other exit code, a crash, a timeout or a missing program
    /// pauses the run.
    #[arg(long, value_name = "CMD", value_hint = ValueHint::CommandString, help_heading = "Approval")]
    pub approve_with: Option<String>,

    /// Allow the policy to accept Slack tools (rejected by default)
    ///
    /// If the server approves them by itself, only --allow-tool, --deny-tool or --approve-with rejects them.
    #[arg(long, hide_short_help = true, help_heading = "Approval")]
    pub enable_slack_tools: bool,

    /// Allow the policy to accept tools that start subagents (rejected by default)
    ///
    /// If the server approves them by itself, only --allow-tool, --deny-tool or --approve-with rejects them.
    #[arg(long, hide_short_help = true, help_heading = "Approval")]
    pub enable_subagents: bool,

    /// Cancel the run if it has not ended after this time
    ///
    /// With its unit: 90s, 10m, 1h 30m. It bounds the whole command, but for the cancel, which may take 5 s more.
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = duration, help_heading = "Ends")]
    pub timeout: Duration,

    /// Cancel the run after this long without an event [default: no limit]
    ///
    /// With its unit: 90s, 10m.
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Ends")]
    pub idle_timeout: Option<Duration>,

    /// Leave the run going on the server at a timeout or a signal
    #[arg(long, help_heading = "Ends")]
    pub no_cancel: bool,

    /// Exit 1 when a tool call failed, even if the run completed
    #[arg(long, hide_short_help = true, help_heading = "Ends")]
    pub fail_on_tool_error: bool,

    /// What goes to stdout
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "text", help_heading = "Output")]
    pub output: Format,

    /// Write the result record to this file too, at the end
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath, help_heading = "Output")]
    pub result_file: Option<PathBuf>,

    /// Record the run's events in this file, for --rehearse and for bug reports
    ///
    /// The file holds what the agent said and did, and what its tools answered, but never the token.
    #[arg(long, value_name = "FILE.sse", value_hint = ValueHint::FilePath, hide_short_help = true,
          help_heading = "Output")]
    pub record: Option<PathBuf>,

    /// Print a line on stderr after this much silence, so that CI does not kill a quiet job; 0s prints none
    ///
    /// With its unit: 30s, 5m.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration_or_zero,
          hide_short_help = true, help_heading = "Output")]
    pub heartbeat: Duration,
}

/// What goes to stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The text of all turns, as it comes
    Text,
    /// The text of the last turn, at the end
    Final,
    /// The result record, at the end
    Json,
    /// A line of JSON for each event, then the result record
    StreamJson,
}

/// What goes to stdout where no run is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlainFormat {
    /// Lines for people
    Text,
    /// JSON for programs
    Json,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Prompt")]
pub struct Run {
    /// The prompt, unless --prompt-file gives it; - reads it from stdin
    ///
    /// A prompt that begins with - must follow --, as in: sortie run -- "- tidy up".
    #[arg(value_name = "PROMPT", display_order = 0)]
    pub prompt: Option<String>,

    /// Read the prompt from this file; - is stdin
    #[arg(long, value_name = "PATH", conflicts_with = "prompt", value_hint = ValueHint::FilePath,
          display_order = 1)]
    pub prompt_file: Option<PathBuf>,

    /// Send this png, jpeg, gif or webp image with the prompt
    ///
    /// Repeat it for each image. The server takes 2 MB for the prompt and everything with it, and an image takes a third
    /// more there than on the disk.
    #[arg(long = "image", value_name = "PATH", value_hint = ValueHint::FilePath, hide_short_help = true,
          display_order = 2)]
    pub images: Vec<PathBuf>,

    /// Send the prompt to this session [default: a new one]
    #[arg(long, value_name = "ID", conflicts_with_all = ["profile", "title", "workdir"])]
    pub session: Option<String>,

    /// Set the new session's title to "autopilot: NAME"
    #[arg(long, value_name = "NAME", default_value = "default", hide_short_help = true)]
    pub profile: String,

    /// The new session's title [default: autopilot: PROFILE]
    #[arg(long, value_name = "TITLE", conflicts_with = "profile", hide_short_help = true)]
    pub title: Option<String>,

    /// Tell the agent to work in this directory of the server
    ///
    /// An absolute path. The server only passes it on to the model, and its tools may start elsewhere: the agent is told
    /// that too. Nothing keeps the agent inside the directory.
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workdir: Option<String>,

    /// The model, by the server's name for it [default: the server's]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,

    /// Read the system prompt from this file; - is stdin [default: the server's]
    ///
    /// At most 32768 characters. A session keeps the system prompt of its first run.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath, hide_short_help = true)]
    pub system_prompt_file: Option<PathBuf>,

    /// Give the agent a text beside the prompt
    ///
    /// Repeat it for each text. NAME:high=TEXT or NAME:normal=TEXT sets its priority. With --context-file, at most 32
    /// texts of 50000 characters each, and 500000 in all. The server keeps less: sortie warns.
    #[arg(long, value_name = "NAME=TEXT", hide_short_help = true)]
    pub context: Vec<String>,

    /// Like --context, with the text from a file; - is stdin
    #[arg(long, value_name = "NAME=PATH", hide_short_help = true)]
    pub context_file: Vec<String>,

    /// Run the tools in the server's sandbox, if it has one
    #[arg(long, hide_short_help = true)]
    pub sandbox: bool,

    #[command(flatten)]
    pub follow: Follow,

    /// Cancel the run past N tokens; the current turn may still use tokens
    ///
    /// The server reports the tokens after each turn, so that a run may use more before it is cancelled.
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Ends")]
    pub max_tokens: Option<String>,

    /// Cancel the run past N tool calls; the current turn may still use tokens
    ///
    /// sortie approves no call after the Nth.
    #[arg(long, value_name = "N", allow_hyphen_values = true, hide_short_help = true, help_heading = "Ends")]
    pub max_tool_calls: Option<String>,

    /// Let the run take at most N turns, 1 to 256 [default: the server's]
    #[arg(long, value_name = "N", allow_hyphen_values = true, hide_short_help = true, help_heading = "Ends")]
    pub max_turns: Option<String>,

    /// Print the session's ID and exit 0, without following the run
    ///
    /// With --output json, the line is an object with type ("detached"), session_id and run_id. With --allow-tool, the
    /// list goes to the server, and other calls wait for sortie resume.
    #[arg(long, help_heading = "Ends")]
    pub detach: bool,
}

#[derive(Debug, Args)]
pub struct Resume {
    /// The session's ID, a UUID
    #[arg(value_name = "SESSION")]
    pub session: String,

    /// Decide this batch and no other, as pending shows it
    ///
    /// If another batch waits by then, nothing is sent, and the reason is "conflict".
    #[arg(long, value_name = "BATCH", help_heading = "Choices")]
    pub batch: Option<String>,

    /// Let this call run, by its ID as pending shows it
    ///
    /// Repeat it for each call.
    #[arg(long, value_name = "ID", help_heading = "Choices")]
    pub approve: Vec<String>,

    /// Reject this call, by its ID as pending shows it
    ///
    /// Repeat it for each call.
    #[arg(long, value_name = "ID", help_heading = "Choices")]
    pub reject: Vec<String>,

    /// Let all calls run that wait now, seen or not, except those given to --reject
    #[arg(long, conflicts_with = "reject_all", help_heading = "Choices")]
    pub approve_all: bool,

    /// Reject all calls that wait now, except those given to --approve
    #[arg(long, help_heading = "Choices")]
    pub reject_all: bool,

    #[command(flatten)]
    pub follow: Follow,
}

#[derive(Debug, Args)]
pub struct Attach {
    /// The session's ID, a UUID
    #[arg(value_name = "SESSION")]
    pub session: String,

    /// Follow this run of the session and no other [default: the last one]
    #[arg(long, value_name = "ID", help_heading = "Choices")]
    pub run: Option<String>,

    #[command(flatten)]
    pub follow: Follow,
}

#[derive(Debug, Args)]
pub struct Cancel {
    /// The session's ID, a UUID
    #[arg(value_name = "SESSION")]
    pub session: String,

    /// Longest time to wait until the run has stopped
    ///
    /// With its unit: 30s, 5m.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, help_heading = "Ends")]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct Pending {
    /// The session's ID, a UUID [default: all sessions]
    #[arg(value_name = "SESSION")]
    pub session: Option<String>,

    /// What goes to stdout
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "text", help_heading = "Output")]
    pub output: PlainFormat,
}

#[derive(Debug, Args)]
pub struct List {
    /// Show only the sessions in this state
    #[arg(long, value_name = "STATE", value_enum, help_heading = "Output")]
    pub state: Option<ListState>,

    /// What goes to stdout
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "text", help_heading = "Output")]
    pub output: PlainFormat,
}

/// Which sessions `list` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListState {
    /// A run is going on
    Running,
    /// No run is going on
    Idle,
    /// The last run failed
    Failed,
    /// A run waits for an approval; this check takes 2 s
    Waiting,
}

#[derive(Debug, Args)]
pub struct Ping {
    /// Retry for this long until the server answers [default: try once]
    ///
    /// With its unit: 30s, 5m.
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Ends")]
    pub wait: Option<Duration>,

    /// What goes to stdout; text prints nothing
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "text", help_heading = "Output")]
    pub output: PlainFormat,
}

#[derive(Debug, Args)]
pub struct Help {
    /// The command [default: sortie itself]
    #[arg(value_name = "COMMAND", value_parser = TOPICS.map(|(name, help)| PossibleValue::new(name).help(help)))]
    pub command: Option<String>,
}

/// The commands that `help` explains.
const TOPICS: [(&str, &str); 8] = [
    ("run", "Start a run"),
    ("resume", "Decide tool calls"),
    ("attach", "Follow a run"),
    ("cancel", "Stop a run"),
    ("pending", "Show the calls that wait"),
    ("list", "Show the sessions"),
    ("ping", "Check the server"),
    ("help", "Show help"),
];

/// Returns the help of a command in full, or of sortie itself.
pub fn help(command: Option<&str>) -> String {
    let mut root = Cli::command();
    root.build();
    let command = command.and_then(|name| root.find_subcommand_mut(name).cloned());
    command.unwrap_or(root).render_long_help().to_string()
}

/// Parses a length of time with its unit: 90s, 10m, 1h 30m. Zero would mean "never" to some people and "at once" to
/// others.
fn duration(text: &str) -> Result<Duration, String> {
    match duration_or_zero(text) {
        Ok(Duration::ZERO) => Err("it must be greater than zero".into()),
        parsed => parsed,
    }
}

/// Like [`duration`], but zero is allowed: the help says what it means.
fn duration_or_zero(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) => Ok(duration),
        Err(_) if text.parse::<u64>().is_ok() => Err(format!("it has no unit; did you mean {text}s, or {text}m?")),
        Err(_) => Err("it must be a number with its unit: 500ms, 90s, 10m, 1h 30m".into()),
    }
}

/// Returns in one line why clap could not parse the command line, with the nearest right word or where to look.
pub fn mistake(error: &clap::Error) -> String {
    let words = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => word.clone(),
        Some(ContextValue::Strings(words)) => words.join(", "),
        _ => String::new(),
    };
    // Without the name of the option's value, and without the dots of one that can be repeated.
    let option =
        |kind| words(kind).split(" <").next().unwrap_or_default().trim_end_matches("...").trim_end().to_owned();
    let (argument, value) = (option(ContextKind::InvalidArg), words(ContextKind::InvalidValue));
    let usage = error.get(ContextKind::Usage).map(ToString::to_string).unwrap_or_default();
    let is_command = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase());
    let command: Vec<_> = usage.split_whitespace().skip(1).take_while(is_command).collect();
    let what = match error.kind() {
        ErrorKind::InvalidSubcommand => format!("there is no command {}", words(ContextKind::InvalidSubcommand)),
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            format!("there is no option {argument} here{}", dashes(&argument, &command))
        }
        ErrorKind::UnknownArgument => format!("{argument}: one argument too many"),
        ErrorKind::InvalidValue if value.is_empty() => format!("{argument} needs a value"),
        ErrorKind::InvalidValue => {
            format!("{argument} {value}: it must be one of {}", words(ContextKind::ValidValue))
        }
        ErrorKind::ValueValidation => {
            let source = std::error::Error::source(error).map(ToString::to_string);
            format!("{argument} {value}: {}", source.unwrap_or_default())
        }
        ErrorKind::TooManyValues => format!("{argument} takes no value"),
        ErrorKind::MissingRequiredArgument => format!("{argument} is missing"),
        ErrorKind::ArgumentConflict => format!("{argument} cannot be used with {}", option(ContextKind::PriorArg)),
        ErrorKind::InvalidUtf8 => {
            let is_at_fault = |name: &&&str| std::env::var_os(name).is_some_and(|value| value.to_str().is_none());
            let name = ["SORTIE_SERVER", "SORTIE_REHEARSE"].iter().find(is_at_fault);
            format!("{} is not UTF-8 text", name.unwrap_or(&"an argument"))
        }
        kind => kind.to_string(),
    };
    let suggestions = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue];
    match suggestions.map(words).concat() {
        nearest if !nearest.is_empty() => format!("{what}; did you mean {nearest}?"),
        _ if command.is_empty() => what,
        _ => format!("{what}; see {} --help", command.join(" ")),
    }
}

/// A prompt that begins with a dash is taken for an option.
fn dashes(argument: &str, command: &[&str]) -> &'static str {
    let is_word = argument.starts_with("--") && !argument.contains(char::is_whitespace);
    if command == ["sortie", "run"] && !is_word { " (a prompt that begins with - must follow --)" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_alone_reads_a_command_line_as_the_full_parser_does() {
        for line in [
            "sortie run x",
            "sortie run -q --server http://h:1 -w /srv --timeout 5m -t view -t a,b -- -x",
            "sortie run --timeout 5m --timeout 6m -o text -o json --prompt-file p --rehearse paused -vv",
            "sortie run --pause-on-approval --on-approval accept x",
            "sortie run -q -v x",
            "sortie run --tim 5m x",
            "sortie run --timeout 5 x",
            "sortie run --nope x",
            "sortie run -h",
            "sortie run --help",
            "sortie run --version",
            "sortie run x resume",
            "sortie run",
            "sortie -q run x",
            "sortie resume 1",
            "sortie",
            "",
        ] {
            let words = || line.split_whitespace().map(OsString::from);
            let show = |parsed: Result<Cli, clap::Error>| match parsed {
                Ok(cli) => format!("{cli:?}"),
                Err(error) => error.render().to_string(),
            };
            assert_eq!(show(Cli::parse_line(words())), show(Cli::try_parse_from(words())), "{line}");
        }
    }
}
