//! The files that we write: proven writable before anything is sent, all or nothing, private, and no surprises.

use crate::support::agent::{Agent, Route, RunHandle, call};
use crate::support::process::{Running, Sortie, result_file};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A run with a result file, refused before anything is sent; the record on stdout says why.
#[track_caller]
fn is_refused(agent: &Agent, path: &str, prepare: impl FnOnce(&Sortie)) {
    let command = agent.sortie(["run", "-o", "json", "--result-file", path, "go"]);
    prepare(&command);
    let before = listing(&command.path(""));
    let output = command.run().code(1);
    assert!(output.stderr.contains("--result-file"), "{path}: {}", output.stderr);
    assert_eq!(listing(output.home()), before, "nothing is left behind and nothing is gone");
    if !path.is_empty() {
        let record = output.record();
        assert_eq!(record["reason"], "usage", "{path}: {record:#}");
    }
}

fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "pid")
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_directory_a_fifo_a_device_a_socket_and_a_place_that_is_not_there_are_refused() {
    let agent = Agent::out_of_bounds();
    agent.script(|run| run.complete());
    is_refused(&agent, "sub", |command| fs::create_dir(command.path("sub")).unwrap());
    is_refused(&agent, "sub/", |command| fs::create_dir(command.path("sub")).unwrap());
    is_refused(&agent, ".", |_| {});
    is_refused(&agent, "..", |_| {});
    is_refused(&agent, "/", |_| {});
    is_refused(&agent, "", |_| {});
    is_refused(&agent, "new/", |_| {});
    is_refused(&agent, "no/such/folder/result.json", |_| {});
    is_refused(&agent, "file/result.json", |command| drop(command.file("file", "")));
    is_refused(&agent, "fifo", |command| {
        mknodat(CWD, command.path("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    });
    is_refused(&agent, "socket", |command| {
        std::os::unix::net::UnixListener::bind(command.path("socket")).unwrap();
    });
    for device in ["/dev/null", "/dev/full", "/dev/zero", "/dev/stdout", "/proc/self/fd/1"] {
        is_refused(&agent, device, |_| {});
    }
}

#[test]
fn a_place_that_cannot_be_written_is_refused() {
    let agent = Agent::out_of_bounds();
    agent.script(|run| run.complete());
    // Not even root makes files there.
    is_refused(&agent, "/proc/result.json", |_| {});
    is_refused(&agent, "/sys/result.json", |_| {});
    let name = "n".repeat(300);
    is_refused(&agent, &name, |_| {});
    // Root may write where the mode says no.
    let command = agent.sortie(["run", "-o", "json", "--result-file", "sub/result.json", "go"]);
    let folder = command.path("sub");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o500)).unwrap();
    if fs::write(folder.join("probe"), "").is_err() {
        command.run().stderr_has("--result-file").fails("usage");
    }
}

/// Plays a run to its end and reads the record where the path leads.
#[track_caller]
fn writes(prepare: impl FnOnce(&Sortie), check: impl FnOnce(&Path)) {
    let agent = Agent::answering("Done.");
    let command = agent.sortie(["run", "--result-file", "result.json", "go"]);
    prepare(&command);
    let output = command.run().code(0);
    assert_eq!(result_file(&output.home().join("result.json"), 0)["text"], "Done.");
    check(output.home());
}

#[test]
fn the_record_is_private_whatever_the_umask_and_whatever_was_there() {
    for umask in ["000", "022", "077"] {
        let agent = Agent::answering("Done.");
        let command = agent.sortie(["run", "--result-file", "result.json", "--record", "events.sse", "go"]);
        let output = command.in_shell(&format!(r#"umask {umask}; exec "$@""#)).run().code(0);
        for name in ["result.json", "events.sse"] {
            assert_eq!(mode(&output.home().join(name)), 0o600, "{name} with umask {umask}");
        }
    }
    writes(
        |command| {
            let file = command.file("result.json", "of yesterday");
            fs::set_permissions(file, fs::Permissions::from_mode(0o666)).unwrap();
        },
        |home| assert_eq!(mode(&home.join("result.json")), 0o600),
    );
}

#[test]
fn the_recording_is_private_even_where_an_older_one_was_not() {
    let agent = Agent::answering("Done.");
    let command = agent.sortie(["run", "--record", "events.sse", "go"]);
    let file = command.file("events.sse", "of yesterday");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let output = command.run().code(0);
    assert_eq!(mode(&output.home().join("events.sse")), 0o600);
}

#[test]
fn a_symbolic_link_stays_and_the_file_that_it_leads_to_is_written() {
    writes(
        |command| {
            fs::create_dir(command.path("sub")).unwrap();
            fs::write(command.path("sub/real.json"), "of yesterday").unwrap();
            symlink("sub/real.json", command.path("middle")).unwrap();
            symlink("middle", command.path("result.json")).unwrap();
        },
        |home| {
            assert!(fs::symlink_metadata(home.join("result.json")).unwrap().is_symlink());
            assert!(fs::symlink_metadata(home.join("middle")).unwrap().is_symlink());
            assert!(fs::symlink_metadata(home.join("sub/real.json")).unwrap().is_file());
            assert_eq!(listing(&home.join("sub")), ["real.json"]);
            assert_eq!(listing(home), ["middle", "result.json", "sub"]);
        },
    );
}

#[test]
fn a_symbolic_link_that_leads_nowhere_or_in_a_circle_or_to_a_fifo_is_refused() {
    let agent = Agent::out_of_bounds();
    agent.script(|run| run.complete());
    is_refused(&agent, "link", |command| symlink("nowhere", command.path("link")).unwrap());
    is_refused(&agent, "link", |command| symlink("link", command.path("link")).unwrap());
    is_refused(&agent, "link", |command| symlink(".", command.path("link")).unwrap());
    is_refused(&agent, "link", |command| symlink("/dev/null", command.path("link")).unwrap());
    is_refused(&agent, "link", |command| {
        mknodat(CWD, command.path("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        symlink("fifo", command.path("link")).unwrap();
    });
}

#[test]
fn another_name_of_the_old_file_keeps_the_old_content() {
    writes(
        |command| {
            let old = command.file("result.json", "of yesterday");
            fs::hard_link(old, command.path("other")).unwrap();
        },
        |home| {
            assert_eq!(fs::read_to_string(home.join("other")).unwrap(), "of yesterday");
            assert_ne!(
                fs::metadata(home.join("other")).unwrap().ino(),
                fs::metadata(home.join("result.json")).unwrap().ino()
            );
        },
    );
}

#[test]
fn a_file_beside_it_is_never_taken_for_the_temporary_one() {
    // Whoever may write in the folder could put links there: the temporary file is always a new one.
    writes(
        |command| {
            for name in ["result.json.tmp", ".result.json", ".sortie-", ".sortie-tmp"] {
                symlink("victim", command.path(name)).unwrap();
            }
            command.file("victim", "untouched");
        },
        |home| assert_eq!(fs::read_to_string(home.join("victim")).unwrap(), "untouched"),
    );
}

/// A run whose result file was there before, and whose folder spoils it at the end.
fn spoilt(agent: &Agent, script: &str) -> (Running, RunHandle, PathBuf) {
    let command = agent.sortie(["run", "-o", "json", "--result-file", "result.json", "go"]);
    command.file("result.json", "of yesterday");
    let folder = command.path("");
    let running = command.in_shell(script).spawn();
    (running, agent.next_run(), folder)
}

#[test]
fn a_file_system_that_is_full_leaves_the_old_record_and_nothing_else() {
    // A limit on the size of files is met as a full disk is: in the middle of writing.
    let agent = Agent::start();
    let (running, run, folder) = spoilt(&agent, r#"trap '' XFSZ; ulimit -f 4; exec "$@""#);
    run.text(&"All work and no play. ".repeat(10_000));
    run.complete();
    let output = running.wait().stderr_has("result.json").code(1);
    let record = output.record();
    assert_eq!(record["reason"], "output");
    assert_eq!(record["stop_reason"], "completed", "what is known is on stdout all the same");
    assert_eq!(fs::read_to_string(folder.join("result.json")).unwrap(), "of yesterday");
    assert_eq!(listing(&folder), ["result.json"]);
}

#[test]
fn a_disk_that_is_full_leaves_the_old_record_and_nothing_else() {
    // A file system of 64 kB, which not everybody may mount: without user namespaces there is nothing to be tried.
    let mount = "mkdir -p disk && mount -t tmpfs -o size=64k sortie-test disk";
    let probe = tempfile::tempdir().unwrap();
    let namespaces = ["--user", "--map-root-user", "--mount"];
    let unshare = Command::new("unshare").args(namespaces).args(["sh", "-c", mount]).current_dir(&probe).output();
    if !unshare.is_ok_and(|output| output.status.success()) {
        println!("nothing can be mounted here");
        return;
    }
    let agent = Agent::start();
    let command = agent.sortie(["run", "-o", "json", "--result-file", "disk/result.json", "go"]);
    let script = format!(
        r#"exec unshare --user --map-root-user --mount sh -c '
            {mount} && echo "of yesterday" >disk/result.json || exit 99
            "$@"
            code=$?
            cat disk/result.json >after
            ls -A disk >left
            exit $code' sh "$@""#
    );
    let running = command.in_shell(&script).spawn();
    let run = agent.next_run();
    run.text(&"All work and no play. ".repeat(10_000));
    run.complete();
    let output = running.wait().stderr_has("result.json").stderr_has("space").code(1);
    assert_eq!(output.record()["reason"], "output");
    assert_eq!(fs::read_to_string(output.home().join("after")).unwrap(), "of yesterday\n");
    assert_eq!(fs::read_to_string(output.home().join("left")).unwrap(), "result.json\n");
}

#[test]
fn a_place_that_goes_away_or_changes_on_the_way_does_no_harm() {
    // A directory has come in its place.
    let agent = Agent::start();
    let (running, run, folder) = spoilt(&agent, r#"exec "$@""#);
    fs::remove_file(folder.join("result.json")).unwrap();
    fs::create_dir(folder.join("result.json")).unwrap();
    run.complete();
    let output = running.wait().stderr_has("result.json").code(1);
    assert_eq!(output.record()["reason"], "output");
    assert_eq!(listing(&folder), ["result.json"]);
    // A link has come in its place: what it leads to is not ours.
    let agent = Agent::start();
    let (running, run, folder) = spoilt(&agent, r#"exec "$@""#);
    fs::write(folder.join("victim"), "untouched").unwrap();
    fs::remove_file(folder.join("result.json")).unwrap();
    symlink("victim", folder.join("result.json")).unwrap();
    run.complete();
    let _output = running.wait().code(0);
    assert_eq!(fs::read_to_string(folder.join("victim")).unwrap(), "untouched");
    result_file(&folder.join("result.json"), 0);
}

#[test]
fn a_run_that_fails_or_is_interrupted_leaves_its_record_and_no_other_file() {
    let agent = Agent::start();
    let (running, run, folder) = spoilt(&agent, r#"exec "$@""#);
    run.propose([call("a", "view").held()]);
    running.signal(Signal::TERM);
    let output = running.wait().code(1);
    assert_eq!(output.record()["reason"], "interrupted");
    assert_eq!(result_file(&folder.join("result.json"), 1)["reason"], "interrupted");
    assert_eq!(listing(&folder), ["result.json"]);
    // Refused after the temporary file was made.
    let agent = Agent::out_of_bounds();
    let command = agent.sortie(["run", "-o", "json", "--result-file", "result.json", "--server", "nonsense", "go"]);
    let output = command.run();
    assert_eq!(listing(output.home()), ["result.json"]);
    result_file(&output.home().join("result.json"), 1);
    // A command line that cannot be read leaves nothing at all.
    let output = agent.sortie(["run", "--result-file", "result.json", "--bogus", "go"]).run().code(1);
    assert!(listing(output.home()).is_empty());
}

#[test]
fn a_later_signal_still_writes_the_record_and_leaves_no_temporary_file() {
    let agent = Agent::start();
    let (running, run, folder) = spoilt(&agent, r#"exec "$@""#);
    run.text("So far");
    let gate = agent.next(Route::Cancel).hold();
    running.signal(Signal::INT);
    gate.wait_until_reached();
    // Sooner it would be part of the first.
    running.signal_after(std::time::Duration::from_millis(2_100), Signal::INT);
    let _output = running.wait().code(1);
    gate.open();
    assert_eq!(result_file(&folder.join("result.json"), 1)["reason"], "interrupted");
    assert_eq!(listing(&folder), ["result.json"]);
}

#[test]
fn a_recording_goes_only_where_a_file_can_be() {
    let agent = Agent::out_of_bounds();
    for path in [".", "/", "no/such/folder/x.sse", "/proc/x.sse"] {
        let command = agent.sortie(["run", "-o", "json", "--record", path, "go"]);
        command.run().stderr_has("--record").fails("usage");
    }
}

#[test]
fn a_recording_into_a_pipe_that_nobody_reads_does_not_hold_us_for_ever() {
    let agent = Agent::out_of_bounds();
    let command = agent.sortie(["run", "-o", "json", "--timeout", "1s", "--record", "fifo", "go"]);
    mknodat(CWD, command.path("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let output = command.run().within(std::time::Duration::from_secs(8));
    let reason = output.code(1).record()["reason"].clone();
    assert!(["usage", "timeout"].contains(&reason.as_str().unwrap()), "{reason}");
}

#[test]
fn a_file_that_nobody_writes_to_does_not_hold_us_for_ever_whatever_it_is_for() {
    let agent = Agent::out_of_bounds();
    for flag in
        ["--cacert", "--rehearse", "--token-file", "--prompt-file", "--system-prompt-file", "--context-file=x"]
    {
        let given = format!("{flag}=fifo");
        let mut command = agent.sortie(["run", "-o", "json", "--timeout", "1s", &given]);
        if flag != "--prompt-file" {
            command = command.arg("go");
        }
        mknodat(CWD, command.path("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        command.run().within(std::time::Duration::from_secs(8)).fails("timeout");
    }
}

#[test]
fn a_recording_that_can_no_longer_be_written_is_an_output_failure() {
    let agent = Agent::start();
    let command = agent.sortie(["run", "-o", "json", "--record", "events.sse", "go"]);
    let running = command.in_shell(r#"trap '' XFSZ; ulimit -f 4; exec "$@""#).spawn();
    let run = agent.next_run();
    run.text(&"All work and no play. ".repeat(10_000));
    run.wait_until_cancelled();
    run.propose([call("a", "view")]);
    running.wait().stderr_has("events.sse").fails("output");
}
