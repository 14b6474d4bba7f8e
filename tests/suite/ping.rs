//! `sortie ping`: is the server there, and does it take our token?

use crate::support::agent::{Agent, Options, Route};
use crate::support::process::Sortie;
use std::time::Duration;

#[test]
fn a_server_that_takes_our_token_is_0() {
    let agent = Agent::start();
    agent.sortie(["ping"]).run().code(0);
    let requests = agent.all_requests();
    assert!(requests.iter().all(|request| request.method == "GET"), "{requests:#?}");
}

#[test]
fn a_server_that_needs_no_token_is_0_without_one() {
    let agent = Agent::with(Options { token: None, ..Options::default() });
    agent.sortie(["ping"]).without_env("SORTIE_TOKEN").run().code(0);
}

#[test]
fn a_token_that_is_not_taken_is_1() {
    let agent = Agent::start();
    agent.sortie(["ping"]).env("SORTIE_TOKEN", "wrong").run().code(1).stderr_has("401").stderr_lacks("wrong");
    agent.sortie(["ping"]).without_env("SORTIE_TOKEN").run().code(1).stderr_has("401");
}

#[test]
fn a_token_that_is_not_taken_is_not_waited_for() {
    let agent = Agent::start();
    let output = agent.sortie(["ping", "--wait", "20s"]).env("SORTIE_TOKEN", "wrong").run();
    output.code(1).within(Duration::from_secs(10));
}

#[test]
fn a_server_that_is_not_there_is_1_at_once() {
    let output = Sortie::new(["ping", "--server", "http://127.0.0.1:1"]).run();
    output.code(1).stderr_has("127.0.0.1:1").within(Duration::from_secs(5));
}

#[test]
fn a_server_that_is_not_there_is_waited_for_as_long_as_was_asked() {
    let output = Sortie::new(["ping", "--server", "http://127.0.0.1:1", "--wait", "1s"]).run();
    assert!(output.elapsed >= Duration::from_secs(1), "{output:#?}");
    output.code(1).within(Duration::from_secs(10));
}

#[test]
fn a_server_that_comes_up_in_time_is_0() {
    let agent = Agent::start();
    agent.down();
    let running = agent.sortie(["ping", "--wait", "25s"]).spawn();
    agent.wait_for_refusals(2);
    agent.up();
    running.wait().code(0);
}

#[test]
fn a_server_that_is_not_ready_yet_is_waited_for() {
    let agent = Agent::start();
    agent.next(Route::Health).fail(503, "starting");
    agent.next(Route::Config).fail(503, "starting");
    agent.sortie(["ping", "--wait", "25s"]).run().code(0);
}

#[test]
fn something_else_on_the_port_is_1() {
    let agent = Agent::start();
    for route in [Route::Health, Route::Config] {
        agent.every(route).answer(200, &[("content-type", "text/html")], "<html>Welcome</html>");
    }
    agent.sortie(["ping"]).run().code(1);
}
