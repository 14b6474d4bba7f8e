//! What is generated from the command line and checked in, man/ and completions/; and whether the help is well formed.
//!
//! `BLESS=1 cargo test --test generated` writes the files anew, and removes what else is there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod completions;
mod man;
mod text;

use clap::{Arg, Command, CommandFactory, Parser};
use serde_json::Value;
use sortie::cli::Cli;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{env, fs};

const RENEW: &str = "BLESS=1 cargo test --test generated";

#[test]
fn the_checked_in_files_say_what_the_command_line_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bless = env::var_os("BLESS").is_some_and(|bless| bless == "1");
    let generated: BTreeMap<String, String> = man::pages().into_iter().chain(completions::scripts()).collect();
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
    let environment = man::written("environment").unwrap();
    let told = text::terms(&environment, "ENVIRONMENT");
    // The first help names the helps of the commands in place of the options that they all have.
    for command in commands().into_iter().skip(1) {
        // A width of 0 is none at all, so that each option has one line.
        let shown = command.clone().mut_args(|argument| argument.hide_short_help(false));
        let help = shown.term_width(0).render_help().to_string();
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
                assert!(told.contains(&&*variable.to_string_lossy()), "{}: not in ENVIRONMENT", variable.display());
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
    let mut texts = vec![(String::from("--help"), after_help(&root()))];
    for name in man::written_names() {
        let text = man::written(&name).unwrap();
        texts.push((name, text::examples(&text).join("\n")));
    }
    for (name, text) in texts {
        let mut seen = 0;
        for line in text.lines().filter(|line| name != "--help" || line.starts_with("  sortie ")) {
            for words in simple_commands(line).iter().filter(|words| words[0] == "sortie") {
                seen += 1;
                Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{name}: {line}\n{error}"));
            }
        }
        assert!(seen >= 1, "{name} has no example");
    }
}

#[test]
fn every_text_belongs_to_a_command() {
    let commands: BTreeSet<_> = commands().iter().map(|command| full_name(command).to_owned()).collect();
    assert_eq!(man::written_names().into_iter().collect::<BTreeSet<_>>(), commands);
}

#[test]
fn the_record_page_says_what_the_schemas_say() {
    let page = man::written("sortie-record.5").unwrap();
    let record = schema("record.json");
    assert_eq!(set(&text::terms(&page, "KEYS")), keys(&record), "the keys of the record");
    let mut inner = BTreeSet::new();
    inner_keys(&record, &mut inner);
    for key in inner {
        assert!(page.contains(&format!("`{key}`")), "{key} is not on the page");
    }
    let event = &schema("stream.json")["oneOf"][0];
    assert_eq!(set(&text::terms(&page, "STREAM-JSON")), keys(event), "the keys of an event");
}

#[test]
fn the_pages_explain_every_reason() {
    let reasons = schema("record.json")["properties"]["reason"]["enum"].clone();
    let reasons: BTreeSet<_> =
        reasons.as_array().unwrap().iter().filter_map(Value::as_str).map(String::from).collect();
    let page = man::written("sortie-record.5").unwrap();
    assert_eq!(set(&text::terms(&page, "REASONS")), reasons, "sortie-record(5)");
    let page = man::written("sortie").unwrap();
    // The other entries there are lines on stderr: their terms have blanks.
    let terms = text::terms(&page, "DIAGNOSTICS");
    let terms: Vec<_> = terms.into_iter().filter(|term| !term.contains(' ')).collect();
    assert_eq!(set(&terms), reasons, "sortie(1)");
}

fn schema(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn set(terms: &[&str]) -> BTreeSet<String> {
    terms.iter().copied().map(String::from).collect()
}

fn keys(schema: &Value) -> BTreeSet<String> {
    schema["properties"].as_object().unwrap().keys().cloned().collect()
}

/// Adds the keys of the objects inside a schema's properties.
fn inner_keys(schema: &Value, found: &mut BTreeSet<String>) {
    for property in schema["properties"].as_object().unwrap().values() {
        let alternatives = property["oneOf"].as_array().cloned().unwrap_or_default();
        for inner in alternatives.iter().chain([property]) {
            for object in [inner, &inner["items"]] {
                if object["properties"].is_object() {
                    found.extend(keys(object));
                    inner_keys(object, found);
                }
            }
        }
    }
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

/// Returns the commands of a line of shell as words: enough of the shell for the examples. In a help text, what stands
/// apart by two blanks or more is an explanation.
fn simple_commands(line: &str) -> Vec<Vec<String>> {
    let line = line.trim().split("  ").next().unwrap_or_default();
    let mut commands = vec![vec![]];
    let mut word = String::new();
    let mut quote = None;
    for character in line.chars().chain([' ']) {
        match (quote, character) {
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            (None, '|' | '&' | ';' | '(' | ')' | '{' | '}' | '>') => {
                commands.last_mut().unwrap().push(std::mem::take(&mut word));
                commands.push(vec![]);
            }
            (None, ' ') => commands.last_mut().unwrap().push(std::mem::take(&mut word)),
            _ => word.push(character),
        }
    }
    let words = |command: Vec<String>| command.into_iter().filter(|word| !word.is_empty()).collect();
    commands.into_iter().map(words).filter(|words: &Vec<String>| !words.is_empty()).collect()
}
