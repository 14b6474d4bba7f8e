//! `reference URL PROMPT`: a session, a prompt, and the text of the run on stdout until its end.

use stakpak_gateway::client::{ClientError, SendMessageOptions, StakpakClient};
use std::io::{self, Write};
use std::process::ExitCode;

// One thread: several only make it slower here.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, prompt] = &arguments[..] else {
        eprintln!("usage: reference URL PROMPT");
        return ExitCode::from(2);
    };
    match run(url, prompt).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("reference: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the run completed.
async fn run(url: &str, prompt: &str) -> Result<bool, ClientError> {
    let client = StakpakClient::new(url.into(), String::new());
    let session = client.create_session("bench").await?.id.to_string();
    let message = stakai::Message::new(stakai::Role::User, prompt);
    client.send_messages(&session, vec![message], SendMessageOptions::default()).await?;
    let mut events = client.subscribe_events(&session, Some(0)).await?;
    let mut stdout = io::stdout().lock();
    while let Some(event) = events.next_event().await? {
        if let Some(text) = event.as_text_delta() {
            let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
            written.map_err(|error| ClientError::Connection(error.to_string()))?;
        }
        if event.is_run_terminal() {
            return Ok(event.as_run_completed().is_some());
        }
    }
    Ok(false)
}
