//! What is generated from the command line and checked in, man/ and completions/; and whether the help is well formed.
//!
//! `BLESS=1 cargo test --test generated` writes the files anew, and removes what else is there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use clap::{Arg, Command, CommandFactory, Parser, ValueHint};
use clap_complete::{Generator, Shell};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};
use sortie::cli::Cli;
use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs, io};

const RENEW: &str = "BLESS=1 cargo test --test generated";

/// For sortie(1), beside what the command line itself says. Between backquotes is what is typed.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("SORTIE_SERVER", "The agent server's URL, where `--server` does not give it."),
    ("SORTIE_TOKEN", "The token, where `--token-file` names no file."),
    ("SORTIE_TOKEN_FILE", "A file that holds the token and nothing else, where `SORTIE_TOKEN` is not set either."),
    ("SORTIE_CACERT", "A PEM file with the certificates to trust in place of the system's, like `--cacert`."),
    (
        "SORTIE_ALLOW_HTTP",
        "Any value but 0, n, no, f, false and off lets the token go over plain http to another machine, like \
         `--allow-http`.",
    ),
    (
        "SORTIE_REHEARSE",
        "An outcome or a recording to rehearse, like `--rehearse`; for a script that stays as it is.",
    ),
    (
        "SORTIE_LOG",
        "The level of the log on stderr, for each part: `sortie=debug,ureq=info`. It goes before `-v`. The token is in no \
         log.",
    ),
    (
        "http_proxy, https_proxy, all_proxy",
        "The http or https proxy to go through, chosen as curl does it: `http_proxy` in lower case only, the others in \
         upper case too. This machine is never reached through a proxy.",
    ),
    (
        "no_proxy",
        "The servers that no proxy is for, apart by commas or blanks: addresses, and names with all below them, each with \
         `:PORT` or without; * is for all. `NO_PROXY` where that is unset.",
    ),
    (
        "SSL_CERT_FILE, SSL_CERT_DIR",
        "A PEM file and a directory with the certificates to trust in place of the system's, where `--cacert` gives \
         none.",
    ),
    ("TERM", "Where it is unset or dumb, no status line comes and goes at a terminal."),
    ("NO_COLOR", "Makes no difference: nothing is ever coloured."),
];

const FILES: &[(&str, &str)] = &[
    (
        "The token file",
        "Named by `--token-file` or `SORTIE_TOKEN_FILE`: the token, at most 16 KiB, with or without a newline at its \
         end.",
    ),
    (
        "The result file",
        "Named by `--result-file`: the result record, one line of JSON, readable by its owner alone. It is written \
         beside its place and then renamed, so that nobody ever reads half of it.",
    ),
    (
        "The recording",
        "Named by `--record`: the run's events as they came, made readable by its owner alone; `--rehearse` plays it.",
    ),
];

const EXAMPLES: &[(&str, &str)] = &[
    ("Try it, without a server, a key or any cost:", r#"sortie run --rehearse completed "Check the disks""#),
    (
        "A task for cron, with a bound on its time, that pauses where the server asks for approval:",
        r#"sortie run --timeout 10m --pause-on-approval --workdir /srv "Tidy the logs""#,
    ),
    (
        "A task for a script that tells the three ends apart:",
        r#"sortie run --pause-on-approval --prompt-file task.md > answer.txt
case $? in
  0)  echo done ;;
  10) echo "somebody must approve" ;;
  *)  echo failed ;;
esac"#,
    ),
    (
        "See what waits for approval, then let all of it run but one call:",
        r#"sortie pending "$SESSION"
sortie resume "$SESSION" --approve-all --reject "$ID""#,
    ),
    (
        "Wait for a server that is just starting, then keep the record of a run:",
        r#"sortie ping --wait 30s && sortie run --output json "Check the disks" > result.json"#,
    ),
];

#[test]
fn the_checked_in_files_say_what_the_command_line_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bless = env::var_os("BLESS").is_some_and(|bless| bless == "1");
    let generated: BTreeMap<String, String> = man_pages().into_iter().chain(completions()).collect();
    let mut stale = Vec::new();
    for (name, text) in &generated {
        let path = root.join(name);
        if fs::read_to_string(&path).is_ok_and(|there| there == *text) {
            continue;
        }
        stale.push(name.clone());
        if bless {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }
    for folder in ["man", "completions"] {
        for file in fs::read_dir(root.join(folder)).into_iter().flatten() {
            let name = format!("{folder}/{}", file.unwrap().file_name().display());
            if generated.contains_key(&name) {
                continue;
            }
            if bless {
                fs::remove_file(root.join(&name)).unwrap();
            }
            stale.push(name);
        }
    }
    let stale = stale.join(", ");
    assert!(bless || stale.is_empty(), "not what src/cli.rs says now: {stale}; renew them with\n    {RENEW}");
}

#[test]
fn every_help_is_a_phrase_with_a_capital_and_no_period() {
    let check = |what: String, help: Option<String>| {
        let help = help.unwrap_or_else(|| panic!("{what} has no help"));
        assert!(help.starts_with(char::is_uppercase), "{what}: no capital at the start: {help}");
        assert!(!help.ends_with('.') && !help.contains('\n'), "{what}: more than a phrase: {help}");
    };
    for command in commands() {
        let name = full_name(&command).to_owned();
        check(name.clone(), command.get_about().map(ToString::to_string));
        for argument in command.get_arguments() {
            let argument_name = format!("{name} {}", argument.get_id());
            for value in argument.get_possible_values().iter().filter(|_| !is_switch(argument)) {
                let value_name = format!("{argument_name} {}", value.get_name());
                check(value_name, value.get_help().map(ToString::to_string));
            }
            check(argument_name, argument.get_help().map(ToString::to_string));
        }
    }
}

#[test]
fn every_help_tells_the_default_and_the_variable() {
    for command in commands() {
        // A width of 0 is none at all, so that each option has one line.
        let help = command.clone().term_width(0).render_help().to_string();
        for argument in command.get_arguments() {
            let Some(flag) = argument.get_long().map(|long| format!("--{long}")) else { continue };
            let has_flag = |line: &&str| {
                let flags = line.trim().split("  ").next().unwrap_or_default();
                flags.split([' ', ',', '.']).any(|word| word == flag)
            };
            let line = help.lines().find(has_flag).unwrap_or_else(|| panic!("no {flag} in\n{help}"));
            for default in argument.get_default_values().iter().filter(|_| !is_switch(argument)) {
                assert!(line.contains(&format!("[default: {}]", default.display())), "no default: {line}");
            }
            if let Some(variable) = argument.get_env() {
                assert!(
                    line.contains(&format!("[env: {}]", variable.display())),
                    "no variable, or its value: {line}"
                );
                let told = ENVIRONMENT.iter().any(|(name, _)| variable == *name);
                assert!(told, "{}: not in ENVIRONMENT", variable.display());
            }
        }
    }
}

#[test]
fn every_length_of_time_tells_its_unit() {
    let mut seen = 0;
    for command in commands() {
        let is_time = |argument: &&Arg| argument.get_value_names().is_some_and(|names| names == ["DURATION"]);
        for argument in command.get_arguments().filter(is_time) {
            seen += 1;
            let help = argument.get_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("With its unit: "), "{} {}: {help}", full_name(&command), argument.get_id());
        }
    }
    assert!(seen >= 20, "only {seen} were found");
}

#[test]
fn every_help_renders_in_80_columns() {
    for command in commands() {
        let mut command = command.term_width(80);
        for help in [command.render_help(), command.render_long_help()] {
            let help = help.to_string();
            assert!(help.contains("Usage: sortie"), "{help}");
            let wide = help.lines().find(|line| line.chars().count() > 80);
            assert_eq!(wide, None, "too wide for 80 columns");
        }
    }
}

#[test]
fn the_first_help_fits_a_screen() {
    let mut command = root().term_width(80);
    let examples = after_help(&command);
    for help in [command.render_help(), command.render_long_help()] {
        let help = help.to_string();
        let lines = help.lines().count();
        assert!(lines <= 40, "{lines} lines:\n{help}");
        assert!(help.trim_end().ends_with(&examples), "an example or an exit code is broken:\n{help}");
    }
}

#[test]
fn every_example_is_a_command_line_of_ours() {
    let help = after_help(&root());
    let in_help = help.lines().filter(|line| line.starts_with("  sortie "));
    let in_man = EXAMPLES.iter().flat_map(|(_, script)| script.lines());
    let mut seen = 0;
    for line in in_help.chain(in_man) {
        for words in simple_commands(line).iter().filter(|words| words[0] == "sortie") {
            seen += 1;
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}\n{error}"));
        }
    }
    assert!(seen >= 8, "only {seen} examples were found");
}

fn root() -> Command {
    let mut root = Cli::command();
    root.build();
    root
}

/// `sortie` itself, and its subcommands.
fn commands() -> Vec<Command> {
    let root = root();
    let subcommands: Vec<_> = root.get_subcommands().cloned().collect();
    assert!(subcommands.len() >= 6);
    std::iter::once(root).chain(subcommands).collect()
}

/// `sortie` or `sortie-run`.
fn full_name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn is_switch(argument: &Arg) -> bool {
    !argument.get_action().takes_values()
}

fn after_help(command: &Command) -> String {
    command.get_after_long_help().expect("every command tells its exit codes").to_string()
}

/// The commands of a line of shell, as words: enough of it for the examples. What stands apart by two blanks or more is
/// an explanation.
fn simple_commands(line: &str) -> Vec<Vec<String>> {
    let line = line.trim().split("  ").next().unwrap_or_default();
    let words = |part: &str| -> Vec<String> {
        let part = part.split(" > ").next().unwrap_or_default();
        // Outside of quotes at even places, inside at odd ones.
        let pieces = part.split('"').enumerate();
        pieces
            .flat_map(|(place, piece)| match place % 2 {
                0 => piece.split_whitespace().map(String::from).collect(),
                _ => vec![piece.to_owned()],
            })
            .collect()
    };
    line.split(" && ").map(words).collect()
}

fn completions() -> BTreeMap<String, String> {
    // An option without a hint takes no file: without this its value would be completed as one.
    let hint = |argument: Arg| match argument.get_value_hint() {
        ValueHint::Unknown if !is_switch(&argument) => argument.value_hint(ValueHint::Other),
        _ => argument,
    };
    let generate = |shell: Shell| {
        let mut script = Vec::new();
        let mut command = Cli::command().mut_subcommands(|subcommand| subcommand.mut_args(hint));
        clap_complete::generate(shell, &mut command, "sortie", &mut script);
        (format!("completions/{}", shell.file_name("sortie")), String::from_utf8(script).unwrap())
    };
    [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell, Shell::Elvish].map(generate).into()
}

fn man_pages() -> BTreeMap<String, String> {
    let names: Vec<_> = commands().iter().map(|command| full_name(command).to_owned()).collect();
    let page = |command: Command| {
        let name = full_name(&command).to_owned();
        (format!("man/{name}.1"), man_page(command, &names))
    };
    commands().into_iter().map(page).collect()
}

/// A page that groff and mandoc have nothing to say about.
fn man_page(command: Command, names: &[String]) -> String {
    let is_root = command.has_subcommands();
    let name = full_name(&command).to_owned();
    let about = command.get_about().unwrap().to_string();
    let synopsis = synopsis(&command);
    let rest = rest(&command, names);
    // Of an argument's sections, ARGUMENTS shall stand alone and the others under OPTIONS, with --help last.
    let heading = |argument: Arg| match (argument.is_positional(), argument.get_help_heading()) {
        (true, _) => argument.help_heading("Arguments"),
        (false, None) if !is_root => argument.help_heading("Help"),
        _ => argument,
    };
    let man = Man::new(command.mut_args(heading).subcommand_help_heading("COMMANDS"))
        .title(name.to_uppercase())
        .date(date())
        .source(concat!("sortie ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    let mut page = String::from(PREAMBLE);
    page += &section(|w| man.render_title(w));
    // No hyphens but our own, and no stretched lines: the text is full of names.
    page += ".nh\n.ad l\n";
    page += &section(|w| man.render_name_section(w));
    page += &section(|w| synopsis.to_writer(w));
    // Its first line is the phrase of the short help.
    page += &section(|w| man.render_description_section(w)).replacen(&about, &format!("{about}."), 1);
    page += &options(&section(|w| man.render_options_section(w)));
    if is_root {
        page += &section(|w| man.render_subcommands_section(w));
    }
    page += &section(|w| rest.to_writer(w));
    narrow(&page)
}

/// The day of this version's release, as the changelog has it; before that, the day on which the pages were begun.
fn date() -> &'static str {
    let log = include_str!("../CHANGELOG.md");
    let release = concat!("## [", env!("CARGO_PKG_VERSION"), "] - ");
    log.lines().find_map(|line| line.strip_prefix(release)).unwrap_or("2026-11-26")
}

/// Text in lines of at most 80 characters, as roff is written; what is not filled stays as it is.
fn narrow(page: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut filled = true;
    for line in page.lines() {
        filled = match line {
            ".nf" => false,
            ".fi" => true,
            _ => filled,
        };
        if !filled || line.starts_with('.') {
            lines.push(line.to_owned());
            continue;
        }
        let mut narrow = String::new();
        for word in line.split(' ') {
            assert!(!word.starts_with(['.', '\'']), "a request, if it begins a line: {line}");
            if !narrow.is_empty() && narrow.len() + 1 + word.len() > 80 {
                lines.push(std::mem::take(&mut narrow));
            }
            let blank = if narrow.is_empty() { "" } else { " " };
            narrow = narrow + blank + word;
        }
        lines.push(narrow);
    }
    lines.join("\n") + "\n"
}

/// roff's, once at the start of a page; each section that is rendered alone has it again.
const PREAMBLE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

fn section(render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> String {
    let mut text = Vec::new();
    render(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    text.strip_prefix(PREAMBLE).expect("roff's preamble has changed").to_owned()
}

/// The usage as the help has it; `clap_mangen` would list all options there, without their values.
fn synopsis(command: &Command) -> Roff {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap();
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let mut line = vec![bold(name)];
    for word in usage.strip_prefix(name).unwrap().split_whitespace() {
        let placeholder = word.trim_matches(['[', ']', '<', '>']);
        let (open, close) = if word.starts_with('[') { (" [", "]") } else { (" ", "") };
        line.extend([roman(open), italic(placeholder), roman(close)]);
    }
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]).text(line);
    roff
}

/// `clap_mangen`'s sections of options, as subsections of OPTIONS.
fn options(sections: &str) -> String {
    let mut lines = Vec::new();
    let mut in_options = false;
    for line in sections.lines() {
        match line.strip_prefix(".SH ") {
            Some("ARGUMENTS" | "OPTIONS") | None => lines.push(line.trim_end().to_owned()),
            Some(heading) => {
                if !std::mem::replace(&mut in_options, true) {
                    lines.push(".SH OPTIONS".into());
                }
                let (first, others) = heading.split_at(1);
                lines.push(format!(".SS {first}{}", others.to_lowercase()));
            }
        }
    }
    let text = lines.join("\n") + "\n";
    // A paragraph of an option's text is a new paragraph of the page, not a blank line; so is the list of values, which
    // stands no deeper than the text. Italics show what is to be replaced, without angle brackets.
    [
        (".br\n\n.br\n", ".IP\n"),
        ("\n\n", "\n.IP\n"),
        (".RS 14\n", ".RS 7\n"),
        ("\\fI<", "\\fI"),
        (">\\fR", "\\fR"),
        ("<\\fI", "\\fI"),
        ("\\fR>", "\\fR"),
        ("May also be specified with the ", "Also by the environment variable "),
        (" environment variable.", "."),
    ]
    .iter()
    .fold(text, |text, (from, to)| text.replace(from, to))
}

/// What stands after `clap_mangen`'s sections.
fn rest(command: &Command, names: &[String]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    let help = after_help(command);
    for (code, meaning) in exit_codes(&help) {
        roff.control("TP", []).text([bold(code)]).text([roman(meaning)]);
    }
    roff.control("PP", []).text([roman("There is no other, not even for a mistake on the command line.")]);
    if command.has_subcommands() {
        let first = "A flag goes before its variable; an empty variable counts as unset.";
        entries(&mut roff, "ENVIRONMENT", first, ENVIRONMENT);
        let first = "There is no configuration file, and nothing is kept from one command to the next.";
        entries(&mut roff, "FILES", first, FILES);
        examples(&mut roff);
    }
    roff.control("SH", ["SEE ALSO"]);
    let own = full_name(command);
    let others: Vec<_> = names.iter().filter(|name| *name != own).collect();
    for (place, name) in others.iter().enumerate() {
        let end = if place + 1 == others.len() { "(1)" } else { "(1)," };
        roff.text([bold(*name), roman(end)]);
    }
    roff
}

/// The codes of a command's help: "Exit codes:" with a line for each, or with all of them in one line and a period.
fn exit_codes(help: &str) -> Vec<(&str, &str)> {
    let (_, codes) = help.split_once("Exit codes:").expect("every command tells its exit codes");
    let codes = codes.trim();
    let codes: Vec<_> = match codes.strip_suffix('.') {
        Some(line) => line.split(", ").collect(),
        None => codes.lines().collect(),
    };
    let codes = codes.into_iter().map(|code| match code.trim().split_once(' ') {
        Some((code @ ("0" | "1" | "10"), meaning)) => (code, meaning.trim()),
        _ => panic!("{code:?} is none of our exit codes with its meaning, in\n{help}"),
    });
    codes.collect()
}

fn entries(roff: &mut Roff, heading: &str, first: &str, entries: &[(&str, &str)]) {
    roff.control("SH", [heading]).text(prose(first));
    for (name, text) in entries {
        roff.control("TP", []).text([bold(*name)]).text(prose(text));
    }
}

fn examples(roff: &mut Roff) {
    roff.control("SH", ["EXAMPLES"]);
    for (place, (what, script)) in EXAMPLES.iter().enumerate() {
        // A heading begins a paragraph by itself.
        if place > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(*what)]).control("PP", []).control("RS", ["4"]).control("nf", []);
        for line in script.lines() {
            roff.text([roman(line)]);
        }
        roff.control("fi", []).control("RE", []);
    }
}

/// Bold between backquotes.
fn prose(text: &str) -> Vec<Inline> {
    let pieces = text.split('`').enumerate();
    pieces.map(|(place, piece)| if place % 2 == 0 { roman(piece) } else { bold(piece) }).collect()
}
