//! What each command does, from its settings to its record.

use crate::agent::calls::NewSession;
use crate::agent::events::ToolCall;
use crate::cli::{Cli, Format, PendingFormat, mistake};
use crate::client::{Client, Options, new_key};
use crate::console::{Console, Level};
use crate::ending::{Job, Way, guard, on_signal, silence_panics};
use crate::follow::{self as drive, Drive};
use crate::outcome::{End, Exit, Failure, Reason, Record};
use crate::output::{Output, describe};
use crate::run::batch::Asks;
use crate::run::policy::{Choices, OnApproval};
use crate::run::transcript::Transcript;
use crate::run::{self, Run, Start};
use crate::same_file;
use crate::settings::{self, Command, Follow, Settings};
use crate::stop::{Stopped, stop};
use crate::watchdog::{OnSignal, Watch};
use clap::error::ErrorKind;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// After a run has ended its session may refuse a new message for so long (protocol trap 8).
const SETTLING: Duration = Duration::from_secs(2);
/// A send whose answer was lost may still be at work for so long.
const LOST_ANSWER: Duration = Duration::from_secs(5);
/// Between two tries at a session that is busy.
const BUSY: Duration = Duration::from_millis(100);

/// Executes a command line that could be read: the record is written from here on, whatever happens.
pub fn execute(cli: &Cli, watch: &Watch, console: &Console) -> Exit {
    let began = Instant::now();
    let common = cli.command.common();
    if common.quiet {
        console.set_level(Level::Quiet);
    }
    start_log(common.verbose, console);
    silence_panics();
    let format = cli.command.follow().map_or(Format::Text, |follow| follow.output);
    let mut output = Output::new(format, watch.clone(), console.clone());
    let mut record =
        guard(|| prepare(cli, watch, console, &mut output)).unwrap_or_else(|failure| Record::new(failure.into()));
    record.duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    output.finish(record)
}

/// Explains a command line that could not be read; help and the version are no failure.
pub fn explain(error: &clap::Error, watch: Watch, console: &Console) -> Exit {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {}
        // No argument at all: the help, but on stderr.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            console.raw(&text);
            return Exit::Failed;
        }
        _ => {
            console.error(&format!("failed (usage): {}", mistake(error)));
            return Exit::Failed;
        }
    }
    match Output::new(Format::Text, watch, console.clone()).answer(text.trim_end()) {
        Ok(()) => Exit::Completed,
        Err(_) => Exit::Failed,
    }
}

/// `-v` shows our own log, `-vv` that of the HTTP crate too; `SORTIE_LOG` is for finer wishes. Neither holds the token.
fn start_log(verbose: u8, console: &Console) {
    let default = match verbose {
        0 => "off",
        1 => "sortie=debug",
        _ => "debug",
    };
    let filter = std::env::var("SORTIE_LOG").ok().filter(|filter| !filter.is_empty());
    // A second logger in one process is refused; the first serves.
    let _ = env_logger::Builder::new()
        .parse_filters(filter.as_deref().unwrap_or(default))
        .target(env_logger::Target::Pipe(Box::new(console.clone())))
        .try_init();
}

fn prepare(cli: &Cli, watch: &Watch, console: &Console, output: &mut Output) -> Result<Record, Failure> {
    if let Some(follow) = cli.command.follow() {
        watch.arm(follow.timeout, "--timeout");
        same_file::check(cli).map_err(|error| Failure::usage(&error))?;
        if let Some(path) = &follow.result_file {
            output.set_result_file(path).map_err(|error| Failure::usage(&error))?;
        }
        if let Some(path) = &follow.record {
            output.set_recording(path).map_err(|error| Failure::usage(&error))?;
        }
    }
    let settings = settings::resolve(cli, watch);
    // A signal while stdin was read is no mistake of the command line.
    watch.check()?;
    let Settings { client, rehearsal, command } = settings.map_err(|error| Failure::usage(&error))?;
    if rehearsal.is_some() {
        let outcome = cli.command.common().rehearse.as_deref().unwrap_or_default();
        console.error(&format!("REHEARSAL ({outcome}): a practice server plays a recorded run; nothing is real"));
    }
    let job = Job { client: Client::new(client.clone(), watch.clone(), console.clone()), watch, console, output };
    let session_id = command.session().map(|session| session.to_string());
    let done = match command {
        Command::Run(settings) => job.run(&settings),
        Command::Resume { session, choices, follow } => job.resume(session, choices, &follow),
        Command::Attach { session, follow } => job.attach(session, &follow),
        Command::Cancel { session, timeout } => job.cancel(session, timeout),
        Command::Pending { session, format } => job.pending(session, format),
        Command::Ping { wait } => job.ping(client, wait),
    };
    done.or_else(|failure| Ok(Record { session_id, ..Record::new(failure.into()) }))
}

/// What `pending -o json` prints.
#[derive(serde::Serialize)]
struct Waiting<'a> {
    session_id: Uuid,
    run_id: Option<String>,
    tool_calls: &'a [ToolCall],
}

impl Job<'_> {
    fn run(mut self, settings: &settings::Run) -> Result<Record, Failure> {
        self.announce_policy(&settings.follow);
        let session = match settings.session {
            Some(session) => session,
            None => {
                self.console.progress(&format!("creating a session at {}", self.client.url()));
                let new = NewSession { title: &settings.title, cwd: settings.workdir.as_deref() };
                self.client.create_session(&new)?
            }
        };
        self.console.progress(&format!("session {session}"));
        let key = new_key();
        self.watch.on_signal_say(on_signal(&settings.follow));
        let run_id = match self.send(session, settings, &key) {
            Ok(run_id) => run_id.to_string(),
            Err(failure) => return Ok(self.unsent(session, settings, &key, failure)),
        };
        self.console.progress(&format!("run {run_id}"));
        if settings.detach {
            self.output.answer(&session.to_string())?;
            return Ok(Record { session_id: Some(session.to_string()), ..Record::new(End::Completed) });
        }
        let asks = if settings.follow.policy.replaces_servers() { Asks::Every } else { Asks::Unknown };
        let way = Way { run_id, asks, start: Start::Fresh, choices: None };
        Ok(self.follow(session, way, &settings.follow))
    }

    fn announce_policy(&self, follow: &Follow) {
        if follow.policy.replaces_servers() {
            self.console.progress("every tool call comes to us: this policy takes the place of the server's own");
        }
    }

    /// Sends the prompt. A session that is busy is asked again for a while: its last run may just have ended (protocol
    /// trap 8), or our own first try, whose answer was lost, may still be at work.
    fn send(&self, session: Uuid, settings: &settings::Run, key: &str) -> Result<Uuid, Failure> {
        let (mut busy_since, mut in_doubt) = (None, false);
        loop {
            let failure = match self.client.send(session, &settings.message, key) {
                Ok(run_id) => return Ok(run_id),
                Err(failure) => failure,
            };
            let is_busy = failure.code == "session_already_running";
            // Whoever keeps a session of our own busy was sent by us.
            in_doubt |= failure.in_doubt || is_busy && settings.session.is_none();
            let since: &mut Instant = busy_since.get_or_insert_with(Instant::now);
            if !is_busy || since.elapsed() >= if in_doubt { LOST_ANSWER } else { SETTLING } {
                return Err(failure.in_doubt(in_doubt));
            }
            self.watch.sleep(BUSY).map_err(|cause| cause.in_doubt(in_doubt))?;
        }
    }

    fn resume(mut self, session: Uuid, choices: Choices, follow: &Follow) -> Result<Record, Failure> {
        let Some(run_id) = self.client.session(session)?.active_run() else {
            let message =
                format!("resume the session {session}: no run is going on in it; sortie attach shows the last");
            return Err(Failure::new(Reason::Conflict, message));
        };
        self.console.progress(&format!("resuming run {run_id}"));
        let way = Way { run_id, asks: Asks::Some, start: Start::Waiting, choices: Some(choices) };
        Ok(self.follow(session, way, follow))
    }

    fn attach(mut self, session: Uuid, follow: &Follow) -> Result<Record, Failure> {
        let state = self.client.session(session)?;
        let (run_id, start) = match state.active_run() {
            Some(run_id) => (Some(run_id), Start::Fresh),
            None => match drive::last_run(&self.client, self.watch, session)? {
                // The run that failed died before its first event: these are an older run's (protocol trap 21).
                Some((_, true)) if state.has_failed() => return Err(died_unheard()),
                last => (last.map(|(run_id, _)| run_id), Start::Over),
            },
        };
        let Some(run_id) = run_id else { return self.attach_to_messages(session) };
        self.console.progress(&format!("attached to run {run_id}"));
        let way = Way { run_id, asks: Asks::Some, start, choices: None };
        Ok(self.follow(session, way, follow))
    }

    /// The server has no events of this session any more: the text is all that is left.
    fn attach_to_messages(self, session: Uuid) -> Result<Record, Failure> {
        let turns = drive::run_texts(&self.client, session)?;
        if turns.is_empty() {
            let message = format!("attach to the session {session}: it has had no run that said anything");
            return Err(Failure::new(Reason::NotFound, message));
        }
        let mut transcript = Transcript::new(self.output.keep());
        drive::show(self.output, transcript.heal(turns))?;
        let message = "the server has no events of the run any more: nobody can say how it ended";
        let mut record = Record::new(Failure::new(Reason::Lost, message).into());
        record.session_id = Some(session.to_string());
        record.agent_message = transcript.last_turn().map(str::to_owned);
        record.text = transcript.into_all();
        Ok(record)
    }

    fn cancel(self, session: Uuid, timeout: Duration) -> Result<Record, Failure> {
        self.watch.arm(timeout, "--timeout");
        self.watch.on_signal_say(OnSignal::StopWaiting);
        let Some(run_id) = self.client.session(session)?.active_run() else {
            self.console.progress("no run is going on in the session");
            return Ok(Record::new(End::Completed));
        };
        match stop(&self.client, session, &run_id, self.watch) {
            Stopped::Confirmed => {
                self.console.progress(&format!("run {run_id} has stopped"));
                Ok(Record::new(End::Completed))
            }
            Stopped::Failed(failure) => Err(failure),
            Stopped::Accepted => {
                self.console.error("the cancel was accepted; the run stops when the model answers");
                self.watch.check()?;
                Err(Failure::new(Reason::Timeout, "the run still goes on"))
            }
        }
    }

    fn pending(self, session: Uuid, format: PendingFormat) -> Result<Record, Failure> {
        self.watch.arm(self.client.retry_timeout(), "--retry-timeout");
        let active = self.client.session(session)?.active_run();
        let batch = self.client.pending(session)?;
        let mut end = End::Completed;
        if let Some(run_id) = active.clone().filter(|_| !batch.tool_calls.is_empty()) {
            let run = Run::new(run::Options { start: Start::Peek, ..run::Options::of(run_id, Asks::Some) });
            let follow = Follow::pausing();
            let mut drive = Drive::new(&self.client, self.watch, self.console, self.output, &follow, session, run);
            end = drive.follow()?;
            if let End::Failed(failure) = &end
                && drive.run.may_be_running()
            {
                return Err(failure.clone());
            }
        }
        let waiting = match &end {
            End::Paused(calls) => calls.as_slice(),
            _ => &[],
        };
        match format {
            PendingFormat::Text => {
                for call in waiting {
                    self.output.answer(&describe(call))?;
                }
            }
            PendingFormat::Json => {
                let run_id = active.filter(|_| !waiting.is_empty());
                self.output.json(&Waiting { session_id: session, run_id, tool_calls: waiting })?;
            }
        }
        // A run that failed meanwhile waits for nothing either.
        Ok(Record::new(if waiting.is_empty() { End::Completed } else { end }))
    }

    fn ping(self, options: Options, wait: Option<Duration>) -> Result<Record, Failure> {
        let wait = wait.unwrap_or_default();
        self.watch.arm(wait.saturating_add(options.connect_timeout), "--wait and --connect-timeout");
        let options = Options { retry_timeout: wait, ..options };
        let client = Client::new(options, self.watch.clone(), self.console.clone());
        client.health()?;
        client.config()?;
        self.console.progress(&format!("{} is there, and takes the token", client.url()));
        Ok(Record::new(End::Completed))
    }
}

/// The session's state is the only sign of a run that failed before its first event.
fn died_unheard() -> Failure {
    let message = "the server says that the run failed, and not why; its log may tell";
    Failure::new(Reason::RunError, message)
}

impl Follow {
    /// Waits for whatever waits; for `pending`, which decides nothing.
    fn pausing() -> Self {
        let policy = crate::run::policy::Policy {
            on_approval: OnApproval::Pause,
            allow: std::collections::BTreeSet::new(),
            deny: std::collections::BTreeSet::new(),
            program: false,
            subagents: true,
            slack: true,
        };
        Self {
            timeout: Duration::MAX,
            idle_timeout: None,
            cancel: false,
            heartbeat: Duration::MAX,
            policy,
            program: None,
            fail_on_tool_error: false,
            policy_flags: Vec::new(),
            server_flags: Vec::new(),
        }
    }
}
