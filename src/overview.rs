//! The commands that change nothing: `list`, `pending` and `ping`.

use crate::agent::calls::{AutoApprove, ListedSession, SessionState};
use crate::agent::events::ToolCall;
use crate::cli::{ListState, PlainFormat};
use crate::client::{Client, EventStream, Options, Refusal, StreamItem};
use crate::console::visible;
use crate::ending::resume_command;
use crate::follow::{Context, Follower};
use crate::outcome::{End, Failure, Report, Waiting};
use crate::progress::{describe, seconds};
use crate::run::batch::{AskedCalls, PAUSED};
use crate::run::{Effect, Input, Machine, Silence, Start};
use serde::Serialize;
use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime};
use uuid::Uuid;

/// The sessions on a page of the list.
const PAGE: usize = 100;
/// The sessions whose event streams are open at the same time.
const SIDE_BY_SIDE: usize = 200;
/// A session without 2 s of quiet after this many looks does not wait.
const LOOKS: u32 = 3;
/// How often the token file is read while the server refuses the token.
const TOKEN_AGAIN: Duration = Duration::from_millis(250);

/// A session of `list -o json`.
#[derive(Serialize)]
struct Listed<'a> {
    id: Uuid,
    state: &'static str,
    title: &'a str,
    cwd: Option<&'a str>,
    created_at: Option<&'a str>,
    updated_at: Option<&'a str>,
    run_id: Option<Uuid>,
}

/// The pending calls of a session, for `pending -o json`.
#[derive(Serialize)]
struct Pending<'a> {
    session_id: Uuid,
    run_id: Option<Uuid>,
    batch: Option<&'a str>,
    tool_calls: &'a [ToolCall],
}

/// What `ping -o json` prints.
#[derive(Serialize)]
struct Ping<'a> {
    server: &'a str,
    version: Option<&'a str>,
    uptime_seconds: Option<u64>,
    sandbox: bool,
    auto_approve_mode: &'static str,
    /// `null` if no token was given.
    token_accepted: Option<bool>,
}

/// A session that waits for approval.
struct WaitingSession {
    session: ListedSession,
    run: Uuid,
    waiting: Waiting,
}

impl Context<'_> {
    /// `sortie list`.
    pub fn list(mut self, state: Option<ListState>, format: PlainFormat) -> Result<Report, Failure> {
        let mut sessions = self.all_sessions()?;
        let mut waiting = HashSet::new();
        if state == Some(ListState::Waiting) {
            let waits = self.what_waits(sessions.clone())?;
            waiting.extend(waits.into_iter().map(|waits| waits.session.id));
        }
        sessions.retain(|session| match state {
            None => true,
            Some(ListState::Running) => matches!(session.state, SessionState::Active(_)),
            Some(ListState::Idle) => session.state == SessionState::Idle,
            Some(ListState::Failed) => session.state == SessionState::Failed,
            Some(ListState::Waiting) => waiting.contains(&session.id),
        });
        let listed: Vec<_> = sessions.iter().map(|session| Listed::new(session, &waiting)).collect();
        self.output.answer(format, &listed, listed.iter().map(Listed::line))?;
        Ok(Report::new(End::Completed))
    }

    /// `sortie pending` without a session.
    pub fn pending_anywhere(mut self, format: PlainFormat) -> Result<Report, Failure> {
        let sessions = self.all_sessions()?;
        let waits = self.what_waits(sessions)?;
        let json: Vec<_> =
            waits.iter().map(|waits| Pending::new(waits.session.id, Some(waits.run), &waits.waiting)).collect();
        self.output.answer(format, &json, waits.iter().flat_map(WaitingSession::lines))?;
        for WaitingSession { session, waiting, .. } in &waits {
            let command = resume_command(session.id, self.follow, waiting);
            self.console.progress(&format!("to approve: {command}"));
        }
        let calls: Vec<_> = waits.into_iter().flat_map(|waits| waits.waiting.calls).collect();
        let end = if calls.is_empty() { End::Completed } else { End::Paused(Waiting { batch: None, calls }) };
        Ok(Report::new(end))
    }

    /// `sortie pending SESSION`.
    pub fn pending(mut self, session: Uuid, format: PlainFormat) -> Result<Report, Failure> {
        self.watch.arm(self.client.retry_timeout(), "--retry-timeout");
        let active = self.client.session(session)?.active_run();
        let mut waiting = Waiting::default();
        if let Some(run) = active {
            if !self.client.pending(session)?.tool_calls.is_empty() {
                waiting = self.peek(session, run)?;
            }
        } else if let Some(failure) = self.swallowed_pause(session) {
            return Err(failure);
        }
        let run_id = active.filter(|_| !waiting.calls.is_empty());
        let json = Pending::new(session, run_id, &waiting);
        self.output.answer(format, &json, waiting.calls.iter().map(describe))?;
        if waiting.calls.is_empty() {
            return Ok(Report::new(End::Completed));
        }
        let resume_hint = Some(resume_command(session, self.follow, &waiting));
        Ok(Report { resume_hint, session_id: Some(session), ..Report::new(End::Paused(waiting)) })
    }

    /// Follows a run until it is clear what waits for approval.
    fn peek(&mut self, session: Uuid, run: Uuid) -> Result<Waiting, Failure> {
        let options = self.options(run.to_string(), AskedCalls::SomeCalls, Start::Peek);
        let mut follower = Follower::new(self, session, options, Some(Instant::now()));
        match follower.follow(None)? {
            End::Paused(waiting) => Ok(waiting),
            End::Failed(failure) if follower.machine.known_end().is_open() => Err(failure),
            End::Completed | End::Failed(_) => Ok(Waiting::default()),
        }
    }

    /// `sortie ping`.
    pub fn ping(self, options: Options, wait: Option<Duration>, format: PlainFormat) -> Result<Report, Failure> {
        let wait = wait.unwrap_or_default();
        self.watch.arm(wait.saturating_add(options.connect_timeout), "--wait and --connect-timeout");
        let has_token = options.token.is_some();
        let options = Options { retry_timeout: wait, ..options };
        let client = Client::new(options, self.watch.clone(), self.console.clone());
        let health = client.health()?;
        let policy = policy(self.token_accepted(&client, wait)?);
        let version = health.version.as_deref();
        let sandbox = health.sandbox.is_some();
        let json = Ping {
            server: client.url(),
            version,
            uptime_seconds: health.uptime_seconds,
            sandbox,
            auto_approve_mode: policy,
            token_accepted: has_token.then_some(true),
        };
        self.output.answer(format, &json, [])?;
        let up = health.uptime_seconds.map(|up| format!(", up for {}", seconds(Duration::from_secs(up))));
        let token = if has_token { ", and takes the token" } else { "" };
        self.console.progress(&format!(
            "{} is there (version {}{}; sandbox: {}; policy: {policy}){token}",
            client.url(),
            version.unwrap_or("unknown"),
            up.unwrap_or_default(),
            if sandbox { "yes" } else { "none reported" },
        ));
        Ok(Report { server_version: health.version, ..Report::new(End::Completed) })
    }

    /// Makes a call that needs the token. A server that has just started has a new token, which may not be in the token
    /// file yet (protocol trap 18): until `wait` is over, a refused token from a file is tried again.
    fn token_accepted(&self, client: &Client, wait: Duration) -> Result<AutoApprove, Failure> {
        let began = Instant::now();
        loop {
            match client.config() {
                Ok(config) => return Ok(config.auto_approve_mode),
                Err(error)
                    if error.is(&Refusal::Unauthorized) && client.has_token_file() && began.elapsed() < wait => {}
                Err(error) => return Err(error.into()),
            }
            self.watch.sleep(TOKEN_AGAIN)?;
        }
    }

    /// Returns all sessions, the one that changed last first. A session that changes between two pages may come twice.
    fn all_sessions(&self) -> Result<Vec<ListedSession>, Failure> {
        let (mut all, mut seen) = (Vec::new(), HashSet::new());
        for offset in (0..).step_by(PAGE) {
            let page = self.client.sessions(offset, PAGE)?;
            let is_last = page.len() < PAGE;
            all.extend(page.into_iter().filter(|session| seen.insert(session.id)));
            if is_last {
                break;
            }
        }
        Ok(all)
    }

    /// Returns the sessions that wait for approval. All event streams are read, and read again 2 s later. A session
    /// waits if it had no event meanwhile and a call is undecided (protocol traps 3 and 4).
    fn what_waits(&mut self, sessions: Vec<ListedSession>) -> Result<Vec<WaitingSession>, Failure> {
        let client = self.client.for_glances();
        let mut waits = Vec::new();
        let active: Vec<_> = sessions
            .into_iter()
            .filter_map(|session| match session.state {
                SessionState::Active(run) => Some((session, run)),
                SessionState::Idle | SessionState::Failed | SessionState::Unknown => None,
            })
            .collect();
        for some in active.chunks(SIDE_BY_SIDE) {
            let mut looks = Vec::new();
            for (session, run) in some {
                let pending = self.client.pending(session.id)?;
                if pending.run_id == Some(*run) && !pending.tool_calls.is_empty() {
                    let options = self.options(run.to_string(), AskedCalls::SomeCalls, Start::Peek);
                    looks.push(Look::new(&client, session, *run, Machine::new(options))?);
                }
            }
            for look in &mut looks {
                look.hear()?;
            }
            for _ in 0..LOOKS {
                if looks.iter().all(|look| look.settled) {
                    break;
                }
                self.watch.sleep(PAUSED)?;
                for look in looks.iter_mut().filter(|look| !look.settled) {
                    look.settled = !look.hear()? && look.heard;
                }
            }
            waits.extend(looks.into_iter().filter_map(Look::waits));
        }
        Ok(waits)
    }
}

/// A session whose run has pending calls, and its event stream.
struct Look<'c> {
    session: ListedSession,
    run: Uuid,
    machine: Machine,
    stream: EventStream<'c>,
    heard: bool,
    settled: bool,
}

impl<'c> Look<'c> {
    fn new(client: &'c Client, session: &ListedSession, run: Uuid, machine: Machine) -> Result<Self, Failure> {
        let mut stream = EventStream::new(client, session.id, 0);
        // The first call only opens the stream.
        stream.next(None)?;
        Ok(Self { session: session.clone(), run, machine, stream, heard: false, settled: false })
    }

    /// Reads the events that have arrived, and returns whether there were any.
    fn hear(&mut self) -> Result<bool, Failure> {
        let mut any = false;
        loop {
            match self.stream.next(None)? {
                StreamItem::Event { id, envelope, .. } => {
                    any = true;
                    if let Ok(envelope) = envelope {
                        self.machine.step(Input::Event(id, &envelope));
                    }
                }
                StreamItem::Lost { newest } => {
                    self.machine.step(Input::Lost { newest });
                }
                StreamItem::Reconnected | StreamItem::Read(_) => {}
                StreamItem::Quiet(silence) => {
                    self.heard |= silence.heard;
                    return Ok(any);
                }
            }
        }
    }

    fn waits(mut self) -> Option<WaitingSession> {
        let silence = Silence { quiet: PAUSED, idle: PAUSED, heard: true, held_back: false };
        match self.machine.step(Input::Quiet { silence, now: PAUSED }).effect {
            Effect::End(End::Paused(waiting)) if self.settled => {
                Some(WaitingSession { session: self.session, run: self.run, waiting })
            }
            _ => None,
        }
    }
}

impl<'a> Pending<'a> {
    fn new(session_id: Uuid, run_id: Option<Uuid>, waiting: &'a Waiting) -> Self {
        Self { session_id, run_id, batch: waiting.batch.as_deref(), tool_calls: &waiting.calls }
    }
}

impl WaitingSession {
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.heading()];
        lines.extend(self.waiting.calls.iter().map(|call| format!("  {}", describe(call))));
        lines
    }

    fn heading(&self) -> String {
        let batch = self.waiting.batch.as_deref().unwrap_or("-");
        let changed = self.session.updated_at.as_deref().and_then(|at| humantime::parse_rfc3339(at).ok());
        let age = changed.and_then(|changed| SystemTime::now().duration_since(changed).ok());
        let age = age.map_or_else(|| "-".into(), |age| seconds(age).replace(' ', ""));
        let title = visible(self.session.title.as_deref().unwrap_or_default());
        format!("{} {batch} {age} {title}", self.session.id).trim_end().to_owned()
    }
}

impl<'a> Listed<'a> {
    fn new(session: &'a ListedSession, waiting: &HashSet<Uuid>) -> Self {
        let (state, run_id) = match session.state {
            SessionState::Active(run) if waiting.contains(&session.id) => ("waiting", Some(run)),
            SessionState::Active(run) => ("running", Some(run)),
            SessionState::Idle => ("idle", None),
            SessionState::Failed => ("failed", None),
            SessionState::Unknown => ("unknown", None),
        };
        Self {
            id: session.id,
            state,
            title: session.title.as_deref().unwrap_or_default(),
            cwd: session.cwd.as_deref(),
            created_at: session.created_at.as_deref(),
            updated_at: session.updated_at.as_deref(),
            run_id,
        }
    }

    fn line(&self) -> String {
        let changed = self.updated_at.unwrap_or("-");
        visible(&format!("{} {} {changed} {}", self.id, self.state, self.title)).trim_end().to_owned()
    }
}

const fn policy(mode: AutoApprove) -> &'static str {
    match mode {
        AutoApprove::None => "none",
        AutoApprove::All => "all",
        AutoApprove::Custom => "custom",
    }
}
