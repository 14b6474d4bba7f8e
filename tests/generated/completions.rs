//! The completions: `clap_complete`'s, and what it cannot know: the outcomes of `--rehearse` beside files, and the IDs of
//! the server's sessions, where it answers within 300 ms.

use crate::is_switch;
use clap::{Arg, CommandFactory, ValueHint};
use clap_complete::{Generator, Shell, generate};
use sortie::cli::Cli;

/// The commands that take a session.
const WITH_SESSION: [&str; 4] = ["resume", "attach", "cancel", "pending"];

const OUTCOMES: &str = "completed failed paused stalled lost";

/// Prints a line for each session, from the environment's server: its ID, a separator, its state.
fn sessions(separator: &str) -> String {
    format!(
        "timeout -s KILL 0.3 sortie --quiet list 2>/dev/null | \
         sed -n 's/^\\([0-9a-f-]\\{{36\\}}\\) \\([a-z]*\\) .*/\\1{separator}/p'"
    )
}

/// Returns the scripts, by their paths.
pub fn scripts() -> Vec<(String, String)> {
    let scripts = [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell, Shell::Elvish].map(|shell| {
        let script = match shell {
            Shell::Bash => bash(&generated(shell)),
            Shell::Zsh => zsh(&generated(shell)),
            Shell::Fish => fish(&generated(shell)),
            _ => generated(shell),
        };
        (format!("completions/{}", shell.file_name("sortie")), script)
    });
    scripts.into()
}

fn generated(shell: Shell) -> String {
    // An option without a hint takes no file: without this its value would be completed as one.
    let hint = |argument: Arg| match argument.get_value_hint() {
        ValueHint::Unknown if !is_switch(&argument) => argument.value_hint(ValueHint::Other),
        _ => argument,
    };
    let mut script = Vec::new();
    let mut command = Cli::command().mut_args(hint).mut_subcommands(|subcommand| subcommand.mut_args(hint));
    generate(shell, &mut command, "sortie", &mut script);
    String::from_utf8(script).unwrap()
}

fn bash(script: &str) -> String {
    let function = format!("_sortie_sessions() {{\n    {}\n}}\n\n", sessions(""));
    // Each command's part begins with its name; the last statement of a part offers its options.
    let mut parts = script.split("\n        sortie__subcmd__");
    let mut bash = function + parts.next().unwrap();
    for part in parts {
        bash += "\n        sortie__subcmd__";
        let (name, _) = part.split_once(')').unwrap_or((part, ""));
        if WITH_SESSION.contains(&name) {
            let part = replaced(part, " || ${COMP_CWORD} -eq 2 ]]", " ]]");
            let offer = "            COMPREPLY=( $(compgen -W \"${opts}\" -- \"${cur}\") )\n";
            let (before, after) = part.rsplit_once(offer).expect("the offer of all options");
            let with_sessions = offer.replace("${opts}", "${opts} $(_sortie_sessions)");
            bash += &[before, &with_sessions, after].concat();
        } else {
            bash += part;
        }
    }
    let session = "                --session)\n                    COMPREPLY=(\"${cur}\")\n";
    let with_sessions = session.replace("\"${cur}\"", "$(compgen -W \"$(_sortie_sessions)\" -- \"${cur}\")");
    let bash = replaced(&bash, session, &with_sessions);
    let files = "COMPREPLY=($(compgen -f \"${cur}\"))\n";
    let mut pieces = bash.split("                --rehearse)\n");
    let mut bash = pieces.next().unwrap().to_owned();
    for piece in pieces {
        let outcomes = format!(
            "{files}                    COMPREPLY+=($(IFS=' '; compgen -W \"{OUTCOMES}\" -- \"${{cur}}\"))\n"
        );
        bash += "                --rehearse)\n";
        bash += &piece.replacen(files, &outcomes, 1);
    }
    bash
}

fn zsh(script: &str) -> String {
    let outcomes = format!("_alternative 'outcomes:outcome:({OUTCOMES})' 'recordings:recording:_files'");
    let functions = format!(
        "_sortie_outcomes() {{\n    {outcomes}\n}}\n\n_sortie_sessions() {{\n    local -a sessions\n    \
         sessions=(${{(f)\"$({})\"}})\n    _describe -t sessions session sessions\n}}\n\nif [ \"$funcstack[1]\"",
        sessions(":\\2")
    );
    let zsh = replaced(script, ":OUTCOME:_files", ":OUTCOME:_sortie_outcomes");
    let zsh = replaced(&zsh, "new one\\]]:ID:", "new one\\]]:ID:_sortie_sessions");
    let zsh = replaced(&zsh, "'\\''s ID, a UUID:'", "'\\''s ID, a UUID:_sortie_sessions'");
    let zsh = replaced(&zsh, "all sessions\\]:'", "all sessions\\]:_sortie_sessions'");
    replaced(&zsh, "if [ \"$funcstack[1]\"", &functions)
}

fn fish(script: &str) -> String {
    let mut fish = format!("function __fish_sortie_sessions\n    {}\nend\n\n", sessions("\\t\\2"));
    for line in script.lines() {
        fish += line;
        if line.contains(" -l rehearse ") {
            fish += &format!(" -a \"{OUTCOMES}\"");
        }
        if line.contains(" -l session ") {
            fish += " -a \"(__fish_sortie_sessions)\"";
        }
        fish += "\n";
    }
    let commands = WITH_SESSION.join(" ");
    fish + &format!(
        "complete -c sortie -n \"__fish_sortie_using_subcommand {commands}\" -f -a \"(__fish_sortie_sessions)\"\n"
    )
}

/// Replaces a text that must be there.
fn replaced(script: &str, from: &str, to: &str) -> String {
    assert!(script.contains(from), "clap_complete no longer writes {from:?}");
    script.replace(from, to)
}
