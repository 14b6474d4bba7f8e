//! What each command does.

use crate::agent::calls::{ApproveOverride, NewMessage, NewSession, SessionState};
use crate::cli::{self, Cli, Format, PlainFormat, mistake};
use crate::client::{Client, new_key};
use crate::console::{Console, Level};
use crate::ending::{self, Cancel, announce, command, guard, on_signal, silence_panics};
use crate::follow::{Context, Follower, asked_calls, session_state};
use crate::history::{self, LastRun};
use crate::input;
use crate::outcome::{Class, End, Exit, Failure, KnownEnd, Reason, Report};
use crate::output::Output;
use crate::run::batch::AskedCalls;
use crate::run::choices::Choices;
use crate::run::transcript::Transcript;
use crate::run::{self, Start};
use crate::same_file;
use crate::send::{Prompt, Unsent};
use crate::settings::{self, Command, Server};
use crate::watchdog::{OnSignal, Watch};
use clap::error::ErrorKind;
use std::io::Write;
use std::time::{Duration, Instant, SystemTime};
use uuid::Uuid;

/// Executes a valid command line. From here on, every end writes the result record.
pub fn execute(cli: &Cli, watch: &Watch, console: &Console) -> Exit {
    let (began, started_at) = (Instant::now(), SystemTime::now());
    if let cli::Command::Help(help) = &cli.command {
        return show(&cli::help(help.command.as_deref()), watch.clone(), console);
    }
    let common = &cli.common;
    if common.quiet {
        console.set_level(Level::Quiet);
    }
    start_log(common.verbose, console);
    silence_panics();
    let format = cli.command.follow().map_or(Format::Text, |follow| follow.output);
    let mut output = Output::new(format, watch.clone(), console.clone());
    let mut report =
        guard(|| prepare(cli, watch, console, &mut output)).unwrap_or_else(|failure| Report::new(failure.into()));
    (report.duration, report.started_at) = (began.elapsed(), started_at);
    output.finish(report)
}

/// Prints help, the version, or what is wrong with the command line.
pub fn explain(error: &clap::Error, watch: Watch, console: &Console) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return show(&error.render().to_string(), watch, console);
        }
        // Without a command, the help goes to stderr.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            console.raw(&cli::help(None));
        }
        _ => console.error(&format!("failed (usage): {}", mistake(error))),
    }
    Exit::Failed
}

fn show(text: &str, watch: Watch, console: &Console) -> Exit {
    let started = watch.start(None);
    let mut output = Output::new(Format::Text, watch, console.clone());
    match started.and_then(|()| output.line(text.trim_end())) {
        Ok(()) => Exit::Completed,
        Err(_) => Exit::Failed,
    }
}

/// `-v` shows the log of this crate, `-vv` also that of the HTTP crate. `SORTIE_LOG` overrides both with an
/// `env_logger` filter. No log line contains the token.
fn start_log(verbose: u8, console: &Console) {
    let default = match verbose {
        0 => "off",
        1 => "sortie=debug",
        _ => "debug",
    };
    let filter = std::env::var("SORTIE_LOG").ok().filter(|filter| !filter.is_empty());
    // Only a second logger in one process fails; then the first one is used.
    let _ = env_logger::Builder::new()
        .parse_filters(filter.as_deref().unwrap_or(default))
        .format(|line, record| {
            let now = humantime::format_rfc3339_millis(SystemTime::now());
            writeln!(line, "{now} {:<5} {}", record.level(), record.args())
        })
        .target(env_logger::Target::Pipe(Box::new(console.clone())))
        .try_init();
}

fn prepare(cli: &Cli, watch: &Watch, console: &Console, output: &mut Output) -> Result<Report, Failure> {
    let usage = |error: anyhow::Error| Failure::usage(&error);
    watch.start(cli.command.follow().map(|follow| (follow.timeout, "--timeout")))?;
    if let Some(follow) = cli.command.follow() {
        same_file::check(cli).map_err(usage)?;
        if let Some(path) = &follow.result_file {
            output.set_result_file(path).map_err(usage)?;
        }
        if let Some(path) = &follow.record {
            output.set_recording(path).map_err(usage)?;
        }
    }
    let settings = settings::resolve(cli).map_err(usage)?;
    let options = input::client_options(&cli.common, &settings.server, watch);
    let inputs = options.and_then(|options| Ok((options, input::message(&settings.command, watch, console)?)));
    // A signal that interrupted the reading is not a usage error.
    watch.check()?;
    let (options, message) = inputs.map_err(usage)?;
    let is_rehearsal = if let Server::Practice(source) = &settings.server {
        let outcome = source.path.display();
        console.error(&format!("REHEARSAL ({outcome}): a practice server plays a recorded run; nothing is real"));
        true
    } else {
        false
    };
    let client = &Client::new(options.clone(), watch.clone(), console.clone());
    let context = Context { client, watch, console, output, follow: &settings.follow };
    let session_id = settings.command.session();
    let done = match (settings.command, message) {
        (Command::Run(run), Some((message, warnings))) => context.run(&run, &message, &warnings),
        (Command::Run(_), None) => Err(Failure::new(Reason::Internal, "the prompt was not read")),
        (Command::Resume { session, choices }, _) => context.resume(session, choices),
        (Command::Attach { session, run }, _) => context.attach(session, run),
        (Command::Cancel { session, timeout }, _) => context.cancel(session, timeout),
        (Command::Pending { session: Some(session), format }, _) => context.pending(session, format),
        (Command::Pending { session: None, format }, _) => context.pending_anywhere(format),
        (Command::List { state, format }, _) => context.list(state, format),
        (Command::Ping { wait, format }, _) => context.ping(options, wait, format),
    };
    let report = done.unwrap_or_else(|failure| Report { session_id, ..Report::new(failure.into()) });
    let (server, server_version) = (Some(client.url().to_owned()), client.server_version());
    Ok(Report { server, server_version, rehearsal: is_rehearsal, ..report })
}

/// What `run --detach -o json` prints.
#[derive(serde::Serialize)]
struct Detached<'a> {
    r#type: &'static str,
    session_id: Uuid,
    run_id: &'a str,
}

impl Context<'_> {
    fn run(
        mut self,
        settings: &settings::Run<'_>,
        message: &NewMessage,
        warnings: &[String],
    ) -> Result<Report, Failure> {
        warnings.iter().for_each(|warning| self.console.error(warning));
        self.announce_policy();
        let flags = settings.flags;
        let (session, is_new_session) = match settings.session {
            Some(session) => (session, false),
            None => {
                self.console.progress(&format!("creating a session at {}", self.client.url()));
                let title = flags.title.clone().unwrap_or_else(|| format!("autopilot: {}", flags.profile));
                let new = NewSession { title: &title, cwd: flags.workdir.as_deref() };
                (self.client.create_session(&new)?, true)
            }
        };
        self.console.progress(&format!("session {session}"));
        let asked = self.asked_calls(settings)?;
        let prompt = Prompt { session, is_new_session, message, key: new_key() };
        self.watch.on_signal_say(on_signal(self.follow));
        let sent_at = Instant::now();
        let run_id = match prompt.send(self.client) {
            Ok(run_id) => run_id.to_string(),
            Err(unsent) => return Ok(self.unsent(&prompt, unsent)),
        };
        self.console.progress(&format!("run {run_id}"));
        if let Some(format) = settings.detach {
            return Ok(self.detach(session, run_id, format));
        }
        let options = run::Options {
            is_first: is_new_session,
            sandbox: flags.sandbox,
            max_tokens: settings.max_tokens,
            max_tool_calls: settings.max_tool_calls,
            ..self.options(run_id, asked, Start::Fresh)
        };
        Ok(Follower::new(&mut self, session, options, Some(sent_at)).run(None))
    }

    fn announce_policy(&self) {
        let policy = &self.follow.policy;
        if policy.replaces_servers() {
            self.console.progress(if policy.list_is_sent {
                "the list of allowed tools goes to the server, in place of the server's own policy"
            } else {
                "the policy flags replace the server's policy for this run, its denials included"
            });
        }
    }

    /// Returns the calls that the server asks about, as far as this is known before the run.
    fn asked_calls(&self, settings: &settings::Run<'_>) -> Result<AskedCalls, Failure> {
        Ok(match settings.auto_approve {
            Some(ApproveOverride::None) => AskedCalls::EveryCall,
            Some(ApproveOverride::All) => AskedCalls::NoCall,
            Some(ApproveOverride::Tools(_)) => AskedCalls::SomeCalls,
            None if settings.only_pauses => {
                let asked = asked_calls(self.client.config()?.auto_approve_mode);
                if asked == AskedCalls::NoCall {
                    self.console.error("nothing will pause: the server approves every tool call by itself");
                }
                asked
            }
            None => AskedCalls::Unknown,
        })
    }

    pub fn options(&self, run_id: String, asked: AskedCalls, start: Start) -> run::Options {
        run::Options {
            run_id,
            asked,
            keep: self.output.keep(),
            start,
            is_first: false,
            policy: self.follow.policy.clone(),
            choices: None,
            fail_on_tool_error: self.follow.fail_on_tool_error,
            sandbox: false,
            max_tokens: None,
            max_tool_calls: None,
        }
    }

    /// Prints the session's ID. If that fails, nobody could find the run, so the run is cancelled. The same happens
    /// after a signal that came too late to stop the prompt.
    fn detach(&mut self, session: Uuid, run_id: String, format: PlainFormat) -> Report {
        let detached = Detached { r#type: "detached", session_id: session, run_id: &run_id };
        let told = self
            .watch
            .check()
            .and_then(|()| self.output.answer(format, &detached, [session.to_string()]))
            .and_then(|()| self.output.end_with_answer());
        let mut report = Report::new(told.map_or_else(End::Failed, |()| End::Completed));
        report.session_id = Some(session);
        if matches!(report.end, End::Failed(_)) {
            report.known_end = KnownEnd::Open;
            let client = self.client.for_last_calls(self.watch.last_calls(ending::LAST_CALLS));
            self.stop_run(session, run_id, &client, &mut report);
        }
        report
    }

    /// Cancels a run that was not followed.
    fn stop_run(&mut self, session: Uuid, run: String, client: &Client, report: &mut Report) {
        report.run.run_id = Some(run.clone());
        report.cancel_tried = true;
        let options = self.options(run, AskedCalls::Unknown, Start::Peek);
        let mut follower = Follower::new(self, session, options, None);
        follower.cancel(client);
        report.known_end = follower.machine.known_end().clone();
    }

    /// Makes the report for a prompt without a run ID. If the prompt is in doubt, looks for its run and cancels it.
    fn unsent(&mut self, prompt: &Prompt<'_>, unsent: Unsent) -> Report {
        let session = prompt.session;
        let class = unsent.failure.reason.class();
        let Unsent { failure, in_doubt, is_answered } = unsent;
        let mut report = Report::new(failure.into());
        report.session_id = Some(session);
        if !in_doubt {
            return report;
        }
        report.known_end = KnownEnd::Open;
        if self.follow.cancel || class != Class::Cause {
            let client = self.client.for_last_calls(self.watch.last_calls(ending::LAST_CALLS));
            if let Some(run) = prompt.find_run(&client) {
                self.stop_run(session, run.to_string(), &client, &mut report);
                return report;
            }
            if is_answered && history::has_prompt(&client, session).is_ok_and(|has| !has) {
                report.known_end = KnownEnd::NeverRan;
                return report;
            }
        }
        let command = command("attach", session, self.follow, &[]);
        self.console.error(&format!("the prompt may have reached the server; to look: {command}"));
        report.resume_hint = Some(command);
        report
    }

    fn resume(mut self, session: Uuid, choices: Choices) -> Result<Report, Failure> {
        let Some(run_id) = self.client.session(session)?.active_run() else {
            let message =
                format!("cannot resume session {session}: it has no active run; sortie attach shows the last one");
            return Err(self.swallowed_pause(session).unwrap_or_else(|| Failure::new(Reason::Conflict, message)));
        };
        let active_since = Instant::now();
        self.console.progress(&format!("resuming run {run_id} of session {session}"));
        let options = self.options(run_id.to_string(), AskedCalls::SomeCalls, Start::FromNow);
        let options = run::Options { choices: Some(choices), ..options };
        Ok(Follower::new(&mut self, session, options, Some(active_since)).run(None))
    }

    /// Returns a failure if the server was restarted while calls were pending: no run is active, the events are gone,
    /// and the messages end with a tool call without a result (protocol trap 23).
    pub fn swallowed_pause(&self, session: Uuid) -> Option<Failure> {
        let history = history::read(self.client, session).ok()?;
        let no_events = || history::find_run(self.client, session, None).is_ok_and(|last| last.is_none());
        (history.ends_with_open_call && no_events()).then(|| {
            let message = format!(
                "the server was restarted while tool calls of session {session} were pending: the run is gone; on the \
                 server's own machine, stakpak -a -s {session} --approve-all can finish it"
            );
            Failure::new(Reason::Lost, message).passing(false)
        })
    }

    fn attach(mut self, session: Uuid, run: Option<Uuid>) -> Result<Report, Failure> {
        let found = self.client.session(session)?;
        let active = found.active_run().filter(|active| run.is_none_or(|run| run == *active));
        let (run_id, known, active_since) = match active {
            Some(run_id) => (run_id, None, Some(Instant::now())),
            None => {
                let Some(LastRun { id, ended }) = history::find_run(self.client, session, run)? else {
                    return self.attach_to_messages(session, run, &found);
                };
                // The failed run died before its first event; these events belong to an older run (protocol trap 21).
                if run.is_none() && found == SessionState::Failed && ended == Some(true) {
                    return Ok(self.died_unheard(session));
                }
                (id, Some(session_state(found)), None)
            }
        };
        self.console.progress(&format!("attached to run {run_id}"));
        let options = self.options(run_id.to_string(), AskedCalls::SomeCalls, Start::Fresh);
        Ok(Follower::new(&mut self, session, options, active_since).run(known))
    }

    /// Makes the report for a run that failed before its first event: only the session's state shows it.
    fn died_unheard(&self, session: Uuid) -> Report {
        // The messages add little, and the server may be unable to read them, so the retries have a short limit.
        let client = self.client.for_last_calls(self.watch.last_calls(ending::LAST_LOOK));
        let history = history::read(&client, session).unwrap_or_default();
        let failure = Failure::new(Reason::RunError, run::STATE_FAILED).passing(true);
        Report {
            known_end: KnownEnd::StateFailed { tools: !history.known || history.called_tools },
            session_id: Some(session),
            ..Report::new(failure.into())
        }
    }

    /// Prints the text of the session's last run when the server has no events of the run any more.
    fn attach_to_messages(self, session: Uuid, run: Option<Uuid>, state: &SessionState) -> Result<Report, Failure> {
        if *state == SessionState::Failed && run.is_none() {
            return Ok(self.died_unheard(session));
        }
        if !history::has_prompt(self.client, session)? {
            let message = format!("cannot attach to session {session}: it never had a prompt");
            return Err(Failure::new(Reason::NotFound, message));
        }
        if let Some(failure) = self.swallowed_pause(session) {
            return Err(failure);
        }
        let lost = "the server has no events of the run any more: nobody can say how it ended";
        let mut report = Report::new(Failure::new(Reason::Lost, lost).into());
        report.known_end = KnownEnd::Stopped;
        report.session_id = Some(session);
        if run.is_none() {
            let mut transcript = Transcript::new(self.output.keep());
            self.output.fill_in(transcript.fill_in(history::read(self.client, session)?.texts))?;
            report.run.agent_message = transcript.last_turn().map(str::to_owned);
            report.run.text = transcript.into_all();
        }
        Ok(report)
    }

    fn cancel(mut self, session: Uuid, timeout: Duration) -> Result<Report, Failure> {
        self.watch.arm(timeout, "--timeout");
        self.watch.on_signal_say(OnSignal::StopWaiting);
        let run_id = match self.client.session(session)? {
            SessionState::Active(run_id) => run_id,
            SessionState::Idle | SessionState::Failed => {
                self.console.progress("the session has no active run");
                return Ok(Report::new(End::Completed));
            }
            SessionState::Unknown => {
                return Err(Failure::new(Reason::Protocol, "the server does not say whether a run is active"));
            }
        };
        let options = self.options(run_id.to_string(), AskedCalls::SomeCalls, Start::Peek);
        let mut follower = Follower::new(&mut self, session, options, None);
        match follower.stop(follower.client) {
            Cancel::Ended => {
                self.console.progress(&format!("run {run_id} has stopped"));
                Ok(Report::new(End::Completed))
            }
            Cancel::Accepted => {
                announce(self.console, &Cancel::Accepted);
                self.watch.check()?;
                Err(Failure::new(Reason::Timeout, "the run is still going on"))
            }
            Cancel::NotTaken(why) => {
                self.watch.check().map_err(|cause| Failure::new(cause.reason, format!("{cause}: {why}")))?;
                Err(Failure::new(Reason::Server, why))
            }
        }
    }
}
