//! The places where sortie may be started: containers, chroots, full or read-only file systems, and processes that lack
//! descriptors, threads or /proc.

use crate::support::agent::{Agent, RunHandle, call};
use crate::support::process::{Output, Running, Sortie, result_file};
use crate::{closing_line, descendants, ended_well, is_root};
use rustix::process::{Signal, kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// A run in mid-tool, started by a script that has sortie's command line in `"$@"`.
fn start(agent: &Agent, arguments: &[&str], script: &str) -> (Running, RunHandle) {
    let command =
        agent.sortie(["run", "-o", "json", "--result-file", "result.json"]).args(arguments.iter().copied());
    let running = command.arg("go").in_shell(script).spawn();
    let run = agent.next_run();
    run.propose([call("a", "view").held()]);
    agent.wait_for_streams(1);
    (running, run)
}

/// Whether this place can be made here: without root it needs user namespaces, which not everybody may have.
fn can_unshare(flags: &str) -> bool {
    let works = Command::new("sh").args(["-c", &format!("unshare {flags} true")]).output();
    let works = works.is_ok_and(|output| output.status.success());
    if !works {
        println!("no namespaces here: {flags}");
    }
    works
}

const MOUNTS: &str = "--user --map-root-user --mount";

#[test]
fn as_the_first_process_of_a_container() {
    // The kernel drops signals to it that have no handler.
    let flags = "--user --map-root-user --pid --fork";
    if !can_unshare(flags) {
        return;
    }
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::USR1] {
        let agent = Agent::start();
        let (running, run) = start(&agent, &[], &format!(r#"exec unshare {flags} "$@""#));
        let inner = descendants(running.pid());
        assert_eq!(inner.len(), 1, "unshare and sortie");
        kill_process(inner[0], signal).unwrap();
        assert_eq!(ended_well(&running.wait(), 1)["cancel_confirmed"], true);
        assert!(run.is_over());
    }
}

#[test]
fn with_every_descriptor_closed() {
    let agent = Agent::answering("Done.");
    let command = agent.sortie(["run", "--result-file", "result.json", "go"]);
    let output = command.in_shell(r#"exec "$@" <&- >&- 2>&-"#).run().code(0);
    assert_eq!(result_file(&output.home().join("result.json"), 0)["text"], "Done.");
    let agent = Agent::start();
    let (running, run) = start(&agent, &[], r#"exec "$@" <&- >&- 2>&-"#);
    let home = running.home().to_owned();
    running.signal(Signal::TERM);
    let _output = running.wait().code(1);
    assert_eq!(result_file(&home.join("result.json"), 1)["cancel_confirmed"], true);
    assert!(run.is_over());
}

#[test]
fn a_recording_on_a_full_file_system() {
    if !can_unshare(MOUNTS) {
        return;
    }
    let agent = Agent::start();
    let script = format!(
        r#"exec unshare {MOUNTS} sh -c '
            mkdir disk && mount -t tmpfs -o size=64k full disk && exec "$@"' sh "$@""#
    );
    let command =
        agent.sortie(["run", "-o", "json", "--result-file", "result.json", "--record", "disk/e.sse", "go"]);
    let running = command.in_shell(&script).spawn();
    let run = agent.next_run();
    run.text(&"All work and no play. ".repeat(10_000));
    run.propose([call("a", "view").held()]);
    let output = running.wait();
    let record = ended_well(&output, 1);
    assert_eq!((&record["reason"], &record["cancel_confirmed"]), (&"output".into(), &true.into()));
    assert!(output.stderr.contains("disk/e.sse"), "{}", output.stderr);
    assert!(run.is_over());
}

#[test]
fn a_full_temporary_folder_is_not_needed() {
    if !can_unshare(MOUNTS) {
        return;
    }
    let agent = Agent::start();
    let script = format!(
        r#"exec unshare {MOUNTS} sh -c '
            mkdir tmp && mount -t tmpfs -o size=4k,nr_inodes=1 full tmp && exec "$@"' sh "$@""#
    );
    let command =
        agent.sortie(["run", "-o", "json", "--result-file", "result.json", "--approve-with", "exit 0", "go"]);
    let running = command.env("TMPDIR", "tmp").in_shell(&script).spawn();
    let run = agent.next_run();
    run.propose([call("a", "create")]);
    run.complete();
    ended_well(&running.wait(), 0);
}

#[test]
fn in_a_chroot_with_nothing_but_its_libraries() {
    if !is_root() {
        println!("chroot needs root");
        return;
    }
    // The working directory becomes the root: no /proc, no /dev, no /etc, no /tmp.
    let script = r#"
        for file in $(ldd "$1" | grep -o '/[^ ]*'); do
            mkdir -p ".$(dirname "$file")" && cp "$file" ".$file"
        done
        cp "$1" sortie && shift && exec chroot . /sortie "$@""#;
    let agent = Agent::answering("Done.");
    let command = agent.sortie(["run", "-o", "json", "--result-file", "result.json", "go"]);
    ended_well(&command.in_shell(script).run(), 0);
    let agent = Agent::start();
    let (running, run) = start(&agent, &[], script);
    running.signal(Signal::TERM);
    assert_eq!(ended_well(&running.wait(), 1)["cancel_confirmed"], true);
    assert!(run.is_over());
}

#[test]
fn on_a_read_only_root() {
    if !can_unshare(MOUNTS) {
        return;
    }
    let script = |prepare: &str| {
        format!(
            r#"exec unshare {MOUNTS} sh -c '
                {prepare}
                mount --rbind . . && cd . && cd "$PWD" && mount -o remount,bind,ro . && exec "$@"' sh "$@""#
        )
    };
    let agent = Agent::answering("Done.");
    agent.sortie(["run", "go"]).in_shell(&script("")).run().code(0).stdout("Done.\n");
    let refused = Agent::out_of_bounds();
    for flag in ["--result-file", "--record"] {
        let command = refused.sortie(["run", flag, "new.file", "go"]).in_shell(&script(""));
        command.run().code(1).stderr_has("(usage)").stderr_has("new.file").stderr_has("Read-only");
    }
}

/// Runs to the end in a place that this prepares; the result file is there before.
#[track_caller]
fn written_in_place(prepare: &str) -> Output {
    let agent = Agent::answering("Done.");
    let command = agent.sortie(["run", "-o", "json", "--result-file", "out/result.json", "go"]);
    let script = format!(
        r#"exec unshare {MOUNTS} sh -c '{prepare}; "$@"; code=$?; cat out/result.json >after; ls -A out >left; exit $code' sh "$@""#
    );
    fs::create_dir(command.path("out")).unwrap();
    fs::write(command.path("out/result.json"), "of yesterday, and longer than the record ".repeat(100)).unwrap();
    fs::write(command.path("host.json"), "of yesterday, and longer than the record ".repeat(100)).unwrap();
    let output = command.in_shell(&script).run().code(0);
    assert_eq!(result_file(&output.home().join("after"), 0), output.record());
    assert_eq!(fs::read_to_string(output.home().join("left")).unwrap(), "result.json\n");
    output
}

#[test]
fn a_result_file_that_is_a_bind_mount_is_written_in_place() {
    if !can_unshare(MOUNTS) {
        return;
    }
    // The rename is refused (EBUSY).
    let output = written_in_place("mount --bind host.json out/result.json");
    assert_eq!(result_file(&output.home().join("host.json"), 0)["text"], "Done.");
    // No temporary file can be made beside it (EROFS).
    let output = written_in_place(
        "mount --bind out out && mount --bind host.json out/result.json && mount -o remount,bind,ro out",
    );
    assert_eq!(result_file(&output.home().join("host.json"), 0)["text"], "Done.");
}

/// Has the command run as a user who is nobody else's. The folder of the build may be closed to others.
fn as_somebody(user: u32, command: Sortie) -> Sortie {
    fs::set_permissions(command.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    command.in_shell(&format!(
        r#"cp "$1" sortie && shift && exec setpriv --reuid {user} --regid {user} --clear-groups $LIMIT ./sortie "$@""#
    ))
}

#[test]
fn a_folder_that_others_own() {
    if !is_root() {
        println!("the user is changed by root");
        return;
    }
    let run = |agent: &Agent, folder: u32, file: Option<u32>| {
        let command = agent.sortie(["run", "--result-file", "out/result.json", "-o", "json", "go"]);
        let mode = |path: &str, mode| {
            fs::set_permissions(command.path(path), fs::Permissions::from_mode(mode)).unwrap();
        };
        fs::create_dir(command.path("out")).unwrap();
        if let Some(bits) = file {
            fs::write(command.path("out/result.json"), "of yesterday").unwrap();
            mode("out/result.json", bits);
        }
        mode("out", folder);
        as_somebody(54_320, command).run()
    };
    for (folder, file) in [
        // Sticky, and the file belongs to another: no rename, but it can be written.
        (0o1777, Some(0o666)),
        // No temporary file, but the file can be written.
        (0o755, Some(0o666)),
        // The file must not be written, but it can be replaced.
        (0o777, Some(0o444)),
        (0o777, None),
    ] {
        let output = run(&Agent::answering("Done."), folder, file).code(0);
        assert_eq!(result_file(&output.home().join("out/result.json"), 0), output.record());
    }
    for (folder, file) in [(0o1777, Some(0o444)), (0o755, Some(0o444)), (0o755, None)] {
        let output = run(&Agent::out_of_bounds(), folder, file).code(1).stderr_has("(usage)");
        closing_line(&output.stderr_has("--result-file").stderr);
    }
}

/// Puts sortie under the limit that one process of its user reaches.
fn limit_processes(running: &Running, user: u32) {
    let (pid, user) = (running.pid().as_raw_nonzero().to_string(), user.to_string());
    let ids = ["--reuid", &user, "--regid", &user, "--clear-groups"];
    // Root may lack the right to set the limits of others.
    let set = Command::new("setpriv").args(ids).args(["prlimit", "--pid", &pid, "--nproc=1:1"]).status();
    assert!(set.unwrap().success());
}

#[test]
fn a_process_limit_that_is_reached_in_mid_run() {
    if !is_root() {
        println!("the user is changed by root");
        return;
    }
    let start = |user: u32| {
        let agent = Agent::start();
        let command = agent.sortie(["run", "-o", "json", "--approve-with", "exit 0", "go"]);
        let running = as_somebody(user, command).spawn();
        let run = agent.next_run();
        agent.wait_for_streams(1);
        limit_processes(&running, user);
        (agent, running, run)
    };
    // The approving program cannot be started: that is a pause.
    let (_agent, running, run) = start(54_321);
    run.propose([call("a", "create")]);
    running.wait().code(10).stderr_has("cannot be started").record();
    run.cancel();
    // The cancel needs no process and no thread.
    let (agent, running, run) = start(54_322);
    running.signal(Signal::TERM);
    run.wait_until_cancelled();
    run.complete();
    let record = running.wait().fails("interrupted");
    assert_eq!(record["cancel_confirmed"], true);
    drop(agent);
}

#[test]
fn what_is_missing_at_the_start_is_said_in_a_line() {
    let agent = Agent::out_of_bounds();
    for limit in ["-n 4", "-n 6", "-n 8"] {
        let began = Instant::now();
        let command = agent.sortie(["run", "--retry-timeout", "1s", "go"]);
        let output = command.in_shell(&format!(r#"ulimit {limit}; exec "$@""#)).run().code(1);
        assert!(output.stderr.contains("open files"), "{limit}: {}", output.stderr);
        closing_line(&output.stderr);
        assert!(began.elapsed() < Duration::from_secs(20), "{limit}");
    }
    if is_root() {
        let command = Sortie::new(["run", "--rehearse", "completed", "go"]).env("LIMIT", "prlimit --nproc=1:1");
        let output = as_somebody(54_323, command).run().code(1).stderr_has("ulimit -u");
        closing_line(&output.stderr);
    }
}
