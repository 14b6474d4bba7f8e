//! Parses the arguments, runs the command and returns its exit code.

use sortie::cli::Cli;
use sortie::commands;
use sortie::console::Console;
use sortie::outcome::Exit;
use sortie::watchdog::Watch;
use std::process::ExitCode;

fn main() -> ExitCode {
    let console = Console::new(None);
    let speaker = console.clone();
    // Handle signals before all else: an unhandled one would end the process with a code of its own.
    let watch = match Watch::new(move |line| speaker.urgent(line)) {
        Ok(watch) => watch,
        Err(failure) => {
            console.error(&format!("failed ({}): {failure}", failure.reason));
            return Exit::Failed.into();
        }
    };
    console.set_watch(watch.clone());
    let exit = match Cli::parse_line(std::env::args_os()) {
        Ok(cli) => commands::execute(&cli, &watch, &console),
        Err(error) => commands::explain(&error, watch, &console),
    };
    exit.into()
}
