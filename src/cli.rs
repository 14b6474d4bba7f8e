//! The command line, nothing else. What the flags mean together is settled in settings.rs.

#![expect(clippy::doc_markdown, reason = "these doc comments are shown to people as they are")]

use crate::run::policy::OnApproval;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;
use std::time::Duration;

/// One agent run, one exit code
///
/// Gives a task to an agent on a running agent server, follows the run to its true end, and tells by the exit code how
/// it ended. "sortie COMMAND --help" tells each command's options.
#[derive(Debug, Parser)]
#[command(name = "sortie", bin_name = "sortie", version = env!("SORTIE_VERSION"), max_term_width = 100)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(infer_long_args = false, args_override_self = false)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
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
    /// A run that is not at its end when the time is over, or when sortie is interrupted, is cancelled on the server.
    /// The session's id is told on stderr and in the result record; resume, attach, pending and cancel take it.
    #[command(after_help = EXIT_RUN, after_long_help = EXIT_RUN)]
    Run(Box<Run>),
    /// Decide the tool calls that wait, then follow the run
    ///
    /// The choices speak of the calls that wait now; one that they do not name is rejected. What waits later falls
    /// under --on-approval and the policy flags given here: a yes to one call is never a yes to the next. Without a
    /// choice the policy decides.
    #[command(after_help = EXIT_RUN, after_long_help = EXIT_RUN)]
    Resume(Box<Resume>),
    /// Follow a run that is already going, or has just ended
    ///
    /// Like run, it cancels the run when the time is over or when it is interrupted, unless --no-cancel is given.
    #[command(after_help = EXIT_RUN, after_long_help = EXIT_RUN)]
    Attach(Box<Attach>),
    /// Stop a run, and wait until it has stopped
    ///
    /// A model's answer that is under way cannot be interrupted: the run stops when it is there.
    #[command(after_help = EXIT_CANCEL, after_long_help = EXIT_CANCEL)]
    Cancel(Cancel),
    /// Show the tool calls that wait for approval
    ///
    /// It decides nothing. The calls' ids are what resume --approve and --reject take.
    #[command(after_help = EXIT_PENDING, after_long_help = EXIT_PENDING)]
    Pending(Pending),
    /// Ask whether the server is there and accepts the token
    #[command(after_help = EXIT_PING, after_long_help = EXIT_PING)]
    Ping(Ping),
}

const EXIT_RUN: &str = "\
What tells no default is off until it is given.
Exit codes: 0 completed, 1 failed, 10 paused: tool calls wait for approval.";
const EXIT_CANCEL: &str = "\
What tells no default is off until it is given.
Exit codes: 0 nothing runs in the session any more, 1 that is not certain.";
const EXIT_PENDING: &str = "\
What tells no default is off until it is given.
Exit codes: 0 no tool call waits, 1 failed, 10 tool calls wait for approval.";
const EXIT_PING: &str = "\
What tells no default is off until it is given.
Exit codes: 0 the server is there and accepts the token, 1 it is not or does not.";

impl Command {
    /// The options that every command has.
    pub const fn common(&self) -> &Common {
        match self {
            Self::Run(run) => &run.common,
            Self::Resume(resume) => &resume.common,
            Self::Attach(attach) => &attach.common,
            Self::Cancel(cancel) => &cancel.common,
            Self::Pending(pending) => &pending.common,
            Self::Ping(ping) => &ping.common,
        }
    }

    /// The options of the commands that follow a run.
    pub const fn follow(&self) -> Option<&Follow> {
        match self {
            Self::Run(run) => Some(&run.follow),
            Self::Resume(resume) => Some(&resume.follow),
            Self::Attach(attach) => Some(&attach.follow),
            _ => None,
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub struct Common {
    /// The agent server's URL [default: http://127.0.0.1:4096]
    #[arg(long, value_name = "URL", env = "SORTIE_SERVER", hide_env_values = true, value_hint = ValueHint::Url)]
    pub server: Option<String>,

    /// A file that holds the token and nothing else [env: SORTIE_TOKEN holds it, SORTIE_TOKEN_FILE names the file]
    ///
    /// The flag goes first, then SORTIE_TOKEN, then SORTIE_TOKEN_FILE. The token itself is never taken from the command
    /// line, where every user of the machine could read it.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,

    /// Trust the certificates in this PEM file [default: the system's]
    #[arg(long, value_name = "PATH", env = "SORTIE_CACERT", hide_env_values = true, value_hint = ValueHint::FilePath)]
    pub cacert: Option<PathBuf>,

    /// Let the token go over plain http to another machine
    ///
    /// It can be read on the way, and so this is refused without the flag.
    #[arg(long, env = "SORTIE_ALLOW_HTTP", hide_env_values = true,
          value_parser = clap::builder::FalseyValueParser::new())]
    pub allow_http: bool,

    /// Longest time to look up the server's name, and to connect
    ///
    /// With its unit: 500ms, 10s.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub connect_timeout: Duration,

    /// Longest time without contact with the server before giving up
    ///
    /// With its unit: 30s, 5m. Until it is over, what failed for the network's sake is tried again.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub retry_timeout: Duration,

    /// Rehearse, at no cost: completed, failed, paused, stalled, lost, or a file that --record wrote
    ///
    /// A practice server inside this process plays a recorded run with that outcome; no agent server is asked, and no
    /// token is needed. With SORTIE_REHEARSE set, a script is rehearsed unchanged.
    #[arg(long, value_name = "OUTCOME", env = "SORTIE_REHEARSE", hide_env_values = true, value_hint = ValueHint::FilePath)]
    pub rehearse: Option<String>,

    /// Say nothing on stderr but errors, and that a run is paused
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Output")]
    pub quiet: bool,

    /// Log every call on stderr; -vv the HTTP library's view too [env: SORTIE_LOG]
    ///
    /// SORTIE_LOG sets the level for each part instead, as in sortie=debug,ureq=info. The token is in no log.
    #[arg(short, long, action = ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,
}

#[derive(Debug, Args)]
pub struct Follow {
    /// Longest time for the whole command; a run that is not done by then is cancelled
    ///
    /// With its unit: 90s, 10m, 1h 30m.
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = duration, help_heading = "Time")]
    pub timeout: Duration,

    /// Longest time without an event from the run, which is then cancelled [default: no limit]
    ///
    /// With its unit: 90s, 10m.
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Time")]
    pub idle_timeout: Option<Duration>,

    /// On a time-out or a signal, leave the run going on the server
    #[arg(long, help_heading = "Time")]
    pub no_cancel: bool,

    /// Say on stderr that the run is still going, each time that nothing was said for so long
    ///
    /// With its unit: 30s, 5m.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, help_heading = "Time")]
    pub heartbeat: Duration,

    /// What happens to a tool call that nothing else decides [default: accept for run, pause for resume and attach]
    #[arg(long, value_name = "WHAT", value_enum, hide_possible_values = false, help_heading = "Approval")]
    pub on_approval: Option<OnApproval>,

    /// Short for --on-approval pause
    #[arg(long, conflicts_with = "on_approval", help_heading = "Approval")]
    pub pause_on_approval: bool,

    /// Let this tool run, and reject all that are not allowed (repeatable); replaces the operator's policy
    ///
    /// With --on-approval pause, a tool that is not allowed pauses the run. With --approve-with, the program decides
    /// about those that are. The name may be given with or without the server's prefix (stakpak__view or view). Any of
    /// --allow-tool, --deny-tool and --approve-with takes the place of the operator's policy for this run, its denials
    /// included.
    #[arg(short = 't', long = "allow-tool", value_name = "NAME", help_heading = "Approval")]
    pub allow_tools: Vec<String>,

    /// Never let this tool run (repeatable); replaces the operator's policy
    #[arg(long = "deny-tool", value_name = "NAME", help_heading = "Approval")]
    pub deny_tools: Vec<String>,

    /// Let this program decide each call by its exit code: 0 accept, 1 reject, 10 pause; replaces the operator's policy
    ///
    /// It is run by sh -c, gets {session_id, run_id, tool_call} as JSON on stdin, and has 60 s. What it prints is the
    /// reason for a rejection. Any other exit code, a crash, a time-out or a missing program pauses the run.
    #[arg(long, value_name = "CMD", value_hint = ValueHint::CommandString, help_heading = "Approval")]
    pub approve_with: Option<String>,

    /// Do not reject Slack tools outright; the rest of the policy decides
    ///
    /// Those that the server approves by itself can only be stopped with a policy flag.
    #[arg(long, help_heading = "Approval")]
    pub enable_slack_tools: bool,

    /// Do not reject tools that start subagents outright; the rest of the policy decides
    ///
    /// Those that the server approves by itself can only be stopped with a policy flag.
    #[arg(long, help_heading = "Approval")]
    pub enable_subagents: bool,

    /// Exit 1 when a tool call failed, even if the run completed
    #[arg(long, help_heading = "Output")]
    pub fail_on_tool_error: bool,

    /// What goes to stdout
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "text", help_heading = "Output")]
    pub output: Format,

    /// Write the result record to this file too, at the end and all at once
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath, help_heading = "Output")]
    pub result_file: Option<PathBuf>,

    /// Record the run's events in this file, for --rehearse and for bug reports
    ///
    /// It holds what the agent said and did, and what its tools answered, but never the token.
    #[arg(long, value_name = "FILE.sse", value_hint = ValueHint::FilePath, help_heading = "Output")]
    pub record: Option<PathBuf>,
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

#[derive(Debug, Args)]
pub struct Run {
    /// The task, unless --prompt-file gives it; - reads it from stdin
    #[arg(value_name = "PROMPT")]
    pub prompt: Option<String>,

    /// Read the task from this file; - is stdin
    #[arg(long, value_name = "PATH", conflicts_with = "prompt", value_hint = ValueHint::FilePath, help_heading = "Task")]
    pub prompt_file: Option<PathBuf>,

    /// Send the task to this session, as its next message [default: a new session]
    #[arg(long, value_name = "ID", help_heading = "Task", conflicts_with_all = ["profile", "title", "workdir"])]
    pub session: Option<String>,

    /// The profile; the new session's title is "autopilot: NAME"
    #[arg(long, value_name = "NAME", default_value = "default", help_heading = "Task")]
    pub profile: String,

    /// The new session's title [default: autopilot: PROFILE]
    #[arg(long, value_name = "TITLE", help_heading = "Task", conflicts_with = "profile")]
    pub title: Option<String>,

    /// The directory, on the server, for the agent to work in [default: the server's]
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Task")]
    pub workdir: Option<String>,

    /// The model, by the name that the server has for it [default: the server's]
    #[arg(long, value_name = "MODEL", help_heading = "Task")]
    pub model: Option<String>,

    /// Read the system prompt from this file, at most 32768 characters; - is stdin [default: the server's]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath, help_heading = "Task")]
    pub system_prompt_file: Option<PathBuf>,

    /// How many turns the run may take at most, 1 to 256 [default: the server's]
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Task")]
    pub max_turns: Option<String>,

    /// Run the tools in the server's sandbox, if it has one
    #[arg(long, help_heading = "Task")]
    pub sandbox: bool,

    /// Give the agent a text beside the task (repeatable)
    ///
    /// NAME:high=TEXT or NAME:normal=TEXT sets its priority. With --context-file, at most 32 texts of 50000 characters
    /// each, and 500000 in all.
    #[arg(long, value_name = "NAME=TEXT", help_heading = "Task")]
    pub context: Vec<String>,

    /// Like --context, with the text from a file (repeatable); - is stdin
    #[arg(long, value_name = "NAME=PATH", help_heading = "Task")]
    pub context_file: Vec<String>,

    /// Start the run, print the session's id and exit 0, without following the run
    #[arg(long, help_heading = "Task")]
    pub detach: bool,

    #[command(flatten)]
    pub follow: Follow,

    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub struct Resume {
    /// The session's id, a UUID
    #[arg(value_name = "SESSION")]
    pub session: String,

    /// Let this call run, by its id as pending shows it (repeatable)
    #[arg(long, value_name = "ID", help_heading = "Choices")]
    pub approve: Vec<String>,

    /// Reject this call, by its id as pending shows it (repeatable)
    #[arg(long, value_name = "ID", help_heading = "Choices")]
    pub reject: Vec<String>,

    /// Let all calls run that wait now, except those given to --reject
    #[arg(long, conflicts_with = "reject_all", help_heading = "Choices")]
    pub approve_all: bool,

    /// Reject all calls that wait now, except those given to --approve
    #[arg(long, help_heading = "Choices")]
    pub reject_all: bool,

    #[command(flatten)]
    pub follow: Follow,

    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub struct Attach {
    /// The session's id, a UUID
    #[arg(value_name = "SESSION")]
    pub session: String,

    /// Follow this run, and no other [default: the session's last]
    #[arg(long, value_name = "ID", help_heading = "Task")]
    pub run: Option<String>,

    #[command(flatten)]
    pub follow: Follow,

    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub struct Cancel {
    /// The session's id, a UUID
    #[arg(value_name = "SESSION")]
    pub session: String,

    /// Longest time to wait until the run has stopped
    ///
    /// With its unit: 30s, 5m.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, help_heading = "Time")]
    pub timeout: Duration,

    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub struct Pending {
    /// The session's id, a UUID
    #[arg(value_name = "SESSION")]
    pub session: String,

    /// What goes to stdout
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "text", help_heading = "Output")]
    pub output: PendingFormat,

    #[command(flatten)]
    pub common: Common,
}

/// What `pending` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PendingFormat {
    /// A line for each call
    Text,
    /// One JSON object for all calls
    Json,
}

#[derive(Debug, Args)]
pub struct Ping {
    /// Try for so long until the server is there [default: try once]
    ///
    /// With its unit: 30s, 5m.
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Time")]
    pub wait: Option<Duration>,

    #[command(flatten)]
    pub common: Common,
}

/// A length of time with its unit: 90s, 10m, 1h 30m. None at all would mean "never" to some and "at once" to others.
fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be longer than nothing".into()),
        Ok(duration) => Ok(duration),
        Err(_) if text.parse::<u64>().is_ok() => Err(format!("it has no unit; did you mean {text}s, or {text}m?")),
        Err(_) => Err("it must be a number with its unit: 500ms, 90s, 10m, 1h 30m".into()),
    }
}

/// Why clap could not read a command line, in one line of ours: what is wrong, and the nearest right word or where to
/// look.
pub fn mistake(error: &clap::Error) -> String {
    let words = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => word.clone(),
        Some(ContextValue::Strings(words)) => words.join(", "),
        _ => String::new(),
    };
    // Without the name of the option's value.
    let option = |kind| words(kind).split(" <").next().unwrap_or_default().to_owned();
    let (argument, value) = (option(ContextKind::InvalidArg), words(ContextKind::InvalidValue));
    let what = match (error.kind(), option(ContextKind::PriorArg)) {
        (ErrorKind::InvalidSubcommand, _) => {
            format!("there is no command {}", words(ContextKind::InvalidSubcommand))
        }
        (ErrorKind::UnknownArgument, _) if argument.starts_with('-') => {
            format!("there is no option {argument} here")
        }
        (ErrorKind::UnknownArgument, _) => format!("{argument}: one argument too many"),
        (ErrorKind::InvalidValue, _) if value.is_empty() => format!("{argument} needs a value"),
        (ErrorKind::InvalidValue, _) => {
            format!("{argument} {value}: it must be one of {}", words(ContextKind::ValidValue))
        }
        (ErrorKind::ValueValidation, _) => {
            let source = std::error::Error::source(error).map(ToString::to_string);
            format!("{argument} {value}: {}", source.unwrap_or_default())
        }
        (ErrorKind::TooManyValues, _) => format!("{argument} takes no value"),
        (ErrorKind::MissingRequiredArgument, _) => format!("{argument} is missing"),
        (ErrorKind::ArgumentConflict, prior) if prior == argument => format!("{argument} is given twice"),
        (ErrorKind::ArgumentConflict, prior) => format!("{argument} does not go with {prior}"),
        (kind, _) => kind.to_string(),
    };
    let suggestions = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue];
    let usage = error.get(ContextKind::Usage).map(ToString::to_string).unwrap_or_default();
    match suggestions.map(words).concat() {
        nearest if !nearest.is_empty() => format!("{what}; did you mean {nearest}?"),
        _ if !usage.is_empty() => {
            let is_command = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase());
            let command: Vec<_> = usage.split_whitespace().skip(1).take_while(is_command).collect();
            format!("{what}; see {} --help", command.join(" "))
        }
        _ => what,
    }
}
