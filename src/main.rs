//! Arguments in, exit code out.

use clap::Parser;
use sortie::cli::Cli;
use sortie::commands;
use sortie::console::Console;
use sortie::outcome::Exit;
use sortie::watchdog::Watch;
use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all, so that no signal ends us with a code of its own.
    let watch = match Watch::start() {
        Ok(watch) => watch,
        Err(error) => {
            Console::new(Watch::quiet()).error(&format!("take the signals: {error}"));
            return Exit::Failed.into();
        }
    };
    let console = Console::new(watch.clone());
    let exit = match Cli::try_parse() {
        Ok(cli) => commands::execute(&cli, &watch, &console),
        Err(error) => commands::explain(&error, watch, &console),
    };
    exit.into()
}
