//! Parses the arguments, runs the command and returns its exit code.

use sortie::cli::Cli;
use sortie::commands;
use sortie::console::Console;
use sortie::outcome::Exit;
use sortie::watchdog::Watch;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Handle signals first: an unhandled one would end the process with a code of its own.
    let watch = match Watch::new() {
        Ok(watch) => watch,
        Err(failure) => {
            Console::new(None).error(&format!("failed ({}): {failure}", failure.reason));
            return Exit::Failed.into();
        }
    };
    let console = Console::new(Some(watch.clone()));
    let speaker = console.clone();
    watch.speak_through(move |line| speaker.urgent(line));
    let exit = match Cli::parse_line(std::env::args_os()) {
        Ok(cli) => commands::execute(&cli, &watch, &console),
        Err(error) => commands::explain(&error, watch, &console),
    };
    exit.into()
}
