//! The commands that change nothing: `list`, `pending` and `ping`.

use crate::agent::calls::{AutoApprove, ListedSession, SessionState};
use crate::agent::events::{Event, ToolCall};
use crate::cli::{ListState, PlainFormat};
use crate::client::{Client, EventStream, Options, Refusal, StreamItem};
use crate::console::visible;
use crate::ending::resume_command;
use crate::follow::{Context, Follower};
use crate::outcome::{End, Failure, Reason, Report, Waiting};
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
/// A session that had events in each of so many spans of 2 s does not wait.
const LOOKS: u32 = 3;
/// The most memory for the list of sessions, and again for their pending calls, in bytes.
const MAX_MEMORY: usize = 8 * 1024 * 1024;
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
        let (mut waiting, mut unclear) = (HashSet::new(), None);
        if state == Some(ListState::Waiting) {
            let waits;
            (waits, unclear) = self.what_waits(sessions.clone())?;
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
        unclear.map_or_else(|| Ok(Report::new(End::Completed)), Err)
    }

    /// `sortie pending` without a session.
    pub fn pending_anywhere(mut self, format: PlainFormat) -> Result<Report, Failure> {
        let sessions = self.all_sessions()?;
        let (waits, unclear) = self.what_waits(sessions)?;
        let json: Vec<_> =
            waits.iter().map(|waits| Pending::new(waits.session.id, Some(waits.run), &waits.waiting)).collect();
        self.output.answer(format, &json, waits.iter().flat_map(WaitingSession::lines))?;
        for WaitingSession { session, waiting, .. } in &waits {
            let command = resume_command(session.id, self.follow, waiting);
            self.console.progress(&format!("to approve: {command}"));
        }
        let calls: Vec<_> = waits.into_iter().flat_map(|waits| waits.waiting.calls).collect();
        match unclear {
            Some(failure) if calls.is_empty() => Err(failure),
            _ if calls.is_empty() => Ok(Report::new(End::Completed)),
            _ => Ok(Report::new(End::Paused(Waiting { batch: None, calls }))),
        }
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
        let (mut all, mut seen, mut size) = (Vec::new(), HashSet::new(), 0);
        for offset in (0..).step_by(PAGE) {
            let page = self.client.sessions(offset, PAGE)?;
            let (is_last, before) = (page.len() < PAGE, all.len());
            all.extend(page.into_iter().filter(|session| seen.insert(session.id)));
            size += all[before..].iter().map(ListedSession::size).sum::<usize>();
            within_memory(size, "the list of sessions")?;
            // A server that ignores the offset sends the same page again and again.
            if is_last || all.len() == before {
                break;
            }
        }
        Ok(all)
    }

    /// Returns the sessions that wait for approval, and a failure if that is not clear for each session.
    ///
    /// All event streams are read, and read again 2 s later. A session waits if it had no event meanwhile and a call is
    /// undecided (protocol traps 3 and 4). Where that does not tell, because the stream is held back or has lost events,
    /// the run is followed alone, as for `sortie pending SESSION`.
    fn what_waits(
        &mut self,
        sessions: Vec<ListedSession>,
    ) -> Result<(Vec<WaitingSession>, Option<Failure>), Failure> {
        let client = self.client.for_glances();
        let (mut waits, mut unclear, mut size) = (Vec::new(), Vec::new(), 0);
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
            hear_all(&mut looks, size)?;
            for _ in 0..LOOKS {
                if looks.iter().all(|look| !look.is_busy && look.heard) {
                    break;
                }
                self.watch.sleep(PAUSED)?;
                hear_all(&mut looks, size)?;
            }
            size += looks.iter().map(|look| look.proposal).sum::<usize>();
            for look in looks {
                match look.waits() {
                    Seen::Waits(waiting) => waits.push(waiting),
                    Seen::DoesNotWait => {}
                    Seen::Unclear(session) => unclear.push(session),
                }
            }
        }
        let failure = self.peek_at_each(unclear, &mut waits);
        Ok((waits, failure))
    }

    /// Adds those of these sessions that wait. Returns the first failure to find out.
    fn peek_at_each(&mut self, sessions: Vec<ListedSession>, waits: &mut Vec<WaitingSession>) -> Option<Failure> {
        if !sessions.is_empty() {
            self.watch.arm(self.client.retry_timeout(), "--retry-timeout");
        }
        let mut first = None;
        for session in sessions {
            let Some(run) = session.state.active_run() else { continue };
            match self.peek(session.id, run) {
                Ok(waiting) if waiting.calls.is_empty() => {}
                Ok(waiting) => waits.push(WaitingSession { session, run, waiting }),
                Err(failure) => {
                    let message = format!("cannot tell whether session {} waits: {failure}", session.id);
                    self.console.error(&message);
                    first.get_or_insert(Failure { message, ..failure });
                }
            }
        }
        first
    }
}

/// Reads the events that have arrived. `size`: the bytes that earlier sessions take.
fn hear_all(looks: &mut [Look<'_>], mut size: usize) -> Result<(), Failure> {
    for look in looks {
        look.hear()?;
        size += look.proposal;
        within_memory(size, "the pending calls")?;
    }
    Ok(())
}

/// # Errors
/// What the server sends takes too much memory.
fn within_memory(size: usize, what: &str) -> Result<(), Failure> {
    if size <= MAX_MEMORY {
        return Ok(());
    }
    Err(Failure::new(Reason::Protocol, format!("{what} of all sessions would take more than {MAX_MEMORY} bytes")))
}

/// A session whose run has pending calls, and its event stream.
struct Look<'c> {
    session: ListedSession,
    run: Uuid,
    machine: Machine,
    stream: EventStream<'c>,
    /// A byte of the stream has come.
    heard: bool,
    /// Events have come with the last look.
    is_busy: bool,
    /// The size of the largest proposal, in bytes.
    proposal: usize,
}

/// What the events tell of a session.
enum Seen {
    Waits(WaitingSession),
    DoesNotWait,
    /// They do not tell.
    Unclear(ListedSession),
}

impl<'c> Look<'c> {
    fn new(client: &'c Client, session: &ListedSession, run: Uuid, machine: Machine) -> Result<Self, Failure> {
        let mut stream = EventStream::new(client, session.id, 0);
        // The first call only opens the stream.
        stream.next(None)?;
        Ok(Self { session: session.clone(), run, machine, stream, heard: false, is_busy: true, proposal: 0 })
    }

    /// Reads the events that have arrived.
    fn hear(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        self.is_busy = false;
        loop {
            match self.stream.next(None)? {
                StreamItem::Event { id, frame, envelope } => {
                    self.is_busy = true;
                    if let Ok(envelope) = envelope {
                        if matches!(envelope.event, Event::ToolCallsProposed(_)) {
                            self.proposal = self.proposal.max(frame.data.len());
                        }
                        self.machine.step(Input::Event(id, &envelope));
                    }
                }
                StreamItem::Lost { newest } => {
                    self.machine.step(Input::Lost { newest });
                }
                // A flood of comments never leaves a read empty.
                StreamItem::Read(_) if began.elapsed() >= PAUSED => return Ok(()),
                StreamItem::Reconnected | StreamItem::Read(_) => {}
                StreamItem::Quiet(silence) => {
                    self.heard |= silence.heard;
                    return Ok(());
                }
            }
        }
    }

    fn waits(mut self) -> Seen {
        if self.is_busy {
            return Seen::DoesNotWait;
        }
        let silence = Silence { quiet: PAUSED, idle: PAUSED, heard: self.heard, held_back: false };
        match self.machine.step(Input::Quiet { silence, now: PAUSED }).effect {
            Effect::End(End::Paused(waiting)) if self.heard => {
                Seen::Waits(WaitingSession { session: self.session, run: self.run, waiting })
            }
            Effect::End(_) if self.heard => Seen::DoesNotWait,
            _ => Seen::Unclear(self.session),
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
