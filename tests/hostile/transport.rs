//! How the server is reached: TLS with certificates made here, proxies that alone know where a host is, and a token that
//! goes nowhere in clear by accident.

use crate::pki::{Authority, Validity, self_signed, self_signed_server};
use crate::relay::{Proxy, Relay};
use crate::support::agent::{Agent, Route, TOKEN, call};
use crate::support::process::Sortie;
use crate::terminals::assert_harmless;
use rcgen::{BasicConstraints, IsCa};
use rustls::ServerConfig;
use sortie::client::{Address, CallError, Client, Headers, Options, Word};
use sortie::console::{Console, Level};
use sortie::watchdog::Watch;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

fn address(agent: &Agent) -> SocketAddr {
    agent.url().strip_prefix("http://").unwrap().parse().unwrap()
}

/// A command line for a server by its URL.
fn at(agent: &Agent, url: &str, arguments: &[&str]) -> Sortie {
    agent.sortie(arguments.iter().copied()).args(["--server", url])
}

/// A run over https with a certificate, which must fail at once and say why, without a word to the server.
#[track_caller]
fn is_distrusted(authority: &Authority, config: Arc<ServerConfig>, why: &str) {
    let agent = Agent::out_of_bounds();
    let relay = Relay::tls(config, address(&agent));
    let url = format!("https://127.0.0.1:{}", relay.address.port());
    let command = at(&agent, &url, &["run", "-o", "json", "go"]);
    let pem = command.file("ca.pem", authority.pem());
    let output = command.args(["--cacert", &pem]).run().within(Duration::from_secs(10));
    assert_harmless(&output.stderr);
    let record = output.stderr_has(why).stderr_lacks("trying again").fails("connection");
    assert_eq!(record["retryable"], false, "the same certificate will be no better");
    assert_eq!(relay.taken(), 1, "it is tried once");
}

#[test]
fn a_run_goes_over_https_when_its_authority_is_given() {
    for name in ["127.0.0.1", "localhost"] {
        let authority = Authority::new();
        let agent = Agent::start();
        let relay = Relay::tls(authority.server(&[name], Validity::Now), address(&agent));
        let url = format!("https://{name}:{}", relay.address.port());
        let command = at(&agent, &url, &["run", "go"]);
        let pem = command.file("ca.pem", authority.pem());
        let running = command.args(["--cacert", &pem]).spawn();
        let run = agent.next_run();
        run.text(&"A long text. ".repeat(20_000));
        run.propose([call("a", "create")]);
        run.text("Done.");
        run.complete();
        let output = running.wait().code(0);
        assert!(output.stdout.ends_with("A long text. \nDone.\n"), "{}", output.stdout.len());
        let command = at(&agent, &url, &["ping"]);
        let pem = command.file("ca.pem", authority.pem());
        command.env("SORTIE_CACERT", pem).run().code(0);
        assert!(agent.requests(Route::Send).iter().all(|sent| sent.header("authorization").is_some()));
    }
}

#[test]
fn the_systems_roots_are_those_that_ssl_cert_file_names() {
    let authority = Authority::new();
    let agent = Agent::answering("Done.");
    let relay = Relay::tls(authority.server(&["127.0.0.1"], Validity::Now), address(&agent));
    let url = format!("https://{}", relay.address);
    let command = at(&agent, &url, &["run", "go"]);
    let pem = command.file("ca.pem", authority.pem());
    command.env("SSL_CERT_FILE", pem).run().code(0).stdout("Done.\n");
    // --cacert takes the place of the system's roots.
    let agent = Agent::out_of_bounds();
    let relay = Relay::tls(authority.server(&["127.0.0.1"], Validity::Now), address(&agent));
    let command = at(&agent, &format!("https://{}", relay.address), &["run", "-o", "json", "go"]);
    let (pem, other) = (command.file("ca.pem", authority.pem()), command.file("other.pem", Authority::new().pem()));
    command.env("SSL_CERT_FILE", pem).args(["--cacert", &other]).run().fails("connection");
}

#[test]
fn a_certificate_of_an_authority_that_nobody_knows_is_refused() {
    is_distrusted(
        &Authority::new(),
        Authority::new().server(&["127.0.0.1"], Validity::Now),
        "not signed by a trusted authority",
    );
    // Neither does it count that it vouches for itself, nor with the system's own roots.
    is_distrusted(&Authority::new(), self_signed_server("127.0.0.1"), "its certificate");
    let agent = Agent::out_of_bounds();
    let relay = Relay::tls(Authority::new().server(&["127.0.0.1"], Validity::Now), address(&agent));
    let command = at(&agent, &format!("https://{}", relay.address), &["run", "-o", "json", "go"]);
    let output = command.run().within(Duration::from_secs(10));
    output.stderr_has("--cacert").stderr_lacks("trying again").fails("connection");
}

#[test]
fn a_certificate_that_is_not_valid_now_is_refused() {
    let authority = Authority::new();
    is_distrusted(&authority, authority.server(&["127.0.0.1"], Validity::Past), "expired");
    is_distrusted(&authority, authority.server(&["127.0.0.1"], Validity::Future), "not valid yet");
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let authority = Authority::new();
    for names in [&["agent.example"][..], &["127.0.0.2"], &["localhost"], &["*.127.0.0.1.example"], &[]] {
        is_distrusted(&authority, authority.server(names, Validity::Now), "for another name");
    }
}

#[test]
fn a_certificate_is_refused_the_same_way_by_the_systems_verifier() {
    let authority = Authority::new();
    for (config, why) in [
        (authority.server(&["127.0.0.1"], Validity::Past), "expired"),
        (authority.server(&["127.0.0.1"], Validity::Future), "not valid yet"),
        (authority.server(&["agent.example"], Validity::Now), "for another name"),
        (Authority::new().server(&["127.0.0.1"], Validity::Now), "not signed by a trusted authority"),
    ] {
        let agent = Agent::out_of_bounds();
        let relay = Relay::tls(config, address(&agent));
        let command = at(&agent, &format!("https://{}", relay.address), &["run", "-o", "json", "go"]);
        let pem = command.file("ca.pem", authority.pem());
        let output = command.env("SSL_CERT_FILE", pem).run().within(Duration::from_secs(10));
        output.stderr_has(why).stderr_lacks("trying again").fails("connection");
    }
}

#[test]
fn a_run_over_https_takes_one_handshake() {
    let authority = Authority::new();
    let agent = Agent::answering("Done.");
    let relay = Relay::tls(authority.server(&["127.0.0.1"], Validity::Now), address(&agent));
    let command = at(&agent, &format!("https://{}", relay.address), &["run", "go"]);
    let pem = command.file("ca.pem", authority.pem());
    command.args(["--cacert", &pem]).run().code(0).stdout("Done.\n");
    assert_eq!(relay.taken(), 1);
}

/// A ping of a server, which must fail at once and say why.
#[track_caller]
fn is_hopeless(url: &str, cacert: Option<&str>, says: &[&str]) {
    let command = Sortie::new(["ping", "--wait", "20s", "--server", url]);
    let cacert = cacert.map(|pem| command.file("ca.pem", pem));
    let output = command.args(cacert.iter().flat_map(|path| ["--cacert", path])).run();
    assert_harmless(&output.stderr);
    let lines = output.stderr.lines().count();
    let output = output.code(1).within(Duration::from_secs(5));
    let output = says.iter().fold(output, |output, says| output.stderr_has(says));
    assert_eq!(lines, 1, "{}", output.stderr);
}

#[test]
fn an_authoritys_certificate_is_no_servers_and_a_command_that_makes_one_is_given() {
    let agent = Agent::out_of_bounds();
    let (config, pem) = self_signed("127.0.0.1", IsCa::Ca(BasicConstraints::Unconstrained));
    let relay = Relay::tls(config, address(&agent));
    let says = ["of an authority", "openssl req -x509", "basicConstraints=critical,CA:FALSE"];
    is_hopeless(&format!("https://{}", relay.address), Some(&pem), &says);
    // What that command makes does for both.
    let agent = Agent::answering("Done.");
    let (config, pem) = self_signed("127.0.0.1", IsCa::ExplicitNoCa);
    let relay = Relay::tls(config, address(&agent));
    let command = at(&agent, &format!("https://{}", relay.address), &["run", "go"]);
    let pem = command.file("ca.pem", pem);
    command.args(["--cacert", &pem]).run().code(0);
}

#[test]
fn a_certificate_for_another_name_is_told_with_its_names() {
    let authority = Authority::new();
    let agent = Agent::out_of_bounds();
    let relay = Relay::tls(authority.server(&["a.example", "b.example"], Validity::Now), address(&agent));
    let says = ["for another name", "a.example", "b.example"];
    is_hopeless(&format!("https://{}", relay.address), Some(&authority.pem()), &says);
}

#[test]
fn a_machine_without_certificates_is_told_what_to_install() {
    let agent = Agent::out_of_bounds();
    let relay = Relay::tls(Authority::new().server(&["127.0.0.1"], Validity::Now), address(&agent));
    let command = at(&agent, &format!("https://{}", relay.address), &["run", "-o", "json", "go"]);
    let none = command.file("none.pem", "");
    let output = command.env("SSL_CERT_FILE", none).run().within(Duration::from_secs(5));
    let output = output.stderr_has("install ca-certificates").stderr_has("--cacert").stderr_lacks("trying again");
    assert_eq!(output.fails("connection")["retryable"], false);
}

#[test]
fn a_server_that_wants_a_client_certificate_names_the_flags() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let authority = Authority::new();
        let agent = Agent::out_of_bounds();
        let relay = Relay::tls(authority.strict_server(&[version]), address(&agent));
        let says = ["wants a client certificate", "--cert", "--key"];
        is_hopeless(&format!("https://{}", relay.address), Some(&authority.pem()), &says);
    }
}

#[test]
fn a_page_of_a_front_end_that_had_asked_for_a_client_certificate_names_the_flags() {
    let authority = Authority::new();
    let agent = Agent::start();
    // What nginx says under `ssl_verify_client on`.
    agent.every(Route::Health).answer(400, &[("content-type", "text/html")], "<html>400 Bad Request</html>");
    let relay = Relay::tls(authority.lenient_server(), address(&agent));
    let says = ["400", "asked for a client certificate", "--cert", "--key"];
    is_hopeless(&format!("https://{}", relay.address), Some(&authority.pem()), &says);
    // The server's own word is no page.
    agent.behave();
    agent.every(Route::Health).fail(404, "not_found");
    let relay = Relay::tls(authority.lenient_server(), address(&agent));
    let command = at(&agent, &format!("https://{}", relay.address), &["ping"]);
    let pem = command.file("ca.pem", authority.pem());
    command.args(["--cacert", &pem]).run().code(1).stderr_lacks("client certificate");
}

/// Asks for a server's health with a client certificate.
fn health(relay: &Relay, authority: &Authority, (cert, key): &(String, String)) -> Result<(), CallError> {
    let mut server = Address::parse(&format!("https://{}", relay.address)).unwrap();
    server.trust(authority.pem().as_bytes()).unwrap();
    server.present(cert.as_bytes(), key.as_bytes()).unwrap();
    let watch = Watch::without_signals().unwrap();
    let console = Console::new(Some(watch.clone()));
    console.set_level(Level::Quiet);
    let patience = Duration::from_secs(10);
    let headers = Headers::default();
    let options = Options { server, token: None, headers, connect_timeout: patience, retry_timeout: patience };
    Client::new(options, watch, console).health().map(|_| ())
}

#[test]
fn a_client_certificate_is_shown_to_a_server_that_wants_one() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let authority = Authority::new();
        let agent = Agent::start();
        let relay = Relay::tls(authority.strict_server(&[version]), address(&agent));
        health(&relay, &authority, &authority.client(Validity::Now)).unwrap();
        // One of another authority is refused, at once.
        let error = health(&relay, &authority, &Authority::new().client(Validity::Now)).unwrap_err();
        assert_eq!(error.word, Word::Permanent, "{error}");
        assert!(error.message.contains("another client certificate"), "{error}");
    }
}

#[test]
fn a_client_certificate_that_cannot_be_used_is_refused_at_once() {
    let authority = Authority::new();
    let ((cert, key), (other, other_key)) = (authority.client(Validity::Now), authority.client(Validity::Now));
    let (old, old_key) = authority.client(Validity::Past);
    let (early, early_key) = authority.client(Validity::Future);
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let rows: [(&str, &str, &str); 11] = [
        (&cert, &other_key, "is not that of"),
        (&other, &key, "is not that of"),
        (&old, &old_key, "expired on 2002-01-01T00:00:00Z"),
        (&early, &early_key, "not valid before 2098-01-01T00:00:00Z"),
        ("", &key, "no client certificate in PEM form (--cert)"),
        (&key, &key, "no client certificate in PEM form (--cert)"),
        (&cert, "", "no private key in PEM form"),
        (&cert, &cert, "no private key in PEM form"),
        (&cert, &encrypted, "encrypted"),
        (&cert[..cert.len() / 2], &key, "--cert"),
        (&cert, &key[..key.len() / 2], "--key"),
    ];
    for (cert, key, says) in rows {
        let mut server = Address::parse("https://a.example").unwrap();
        let error = server.present(cert.as_bytes(), key.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{error}");
    }
    let both = [cert.as_bytes(), &authority.pem().into_bytes()].concat();
    Address::parse("https://a.example").unwrap().present(&both, key.as_bytes()).unwrap();
    Address::parse("https://a.example").unwrap().present(&both, &[key.as_bytes(), &both].concat()).unwrap();
    let error = Address::parse("http://a.example").unwrap().present(cert.as_bytes(), key.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("needs an https:// URL"), "{error}");
}

#[test]
fn https_asked_of_a_server_that_speaks_http_ends_at_once() {
    let relay = Relay::saying(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    is_hopeless(&format!("https://{}", relay.address), None, &["does not speak https", "http://"]);
}

#[test]
fn http_asked_of_a_server_that_speaks_https_ends_at_once() {
    let agent = Agent::out_of_bounds();
    let relay = Relay::tls(Authority::new().server(&["127.0.0.1"], Validity::Now), address(&agent));
    is_hopeless(&format!("http://{}", relay.address), None, &["speaks https", "use https://"]);
}

#[test]
fn a_server_of_http_2_alone_ends_at_once() {
    let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";
    let relay = Relay::saying(settings);
    is_hopeless(&format!("http://{}", relay.address), None, &["HTTP/2", "HTTP/1.1"]);
    let authority = Authority::new();
    let behind = Relay::tls(authority.server(&["127.0.0.1"], Validity::Now), relay.address);
    is_hopeless(&format!("https://{}", behind.address), Some(&authority.pem()), &["HTTP/2", "HTTP/1.1"]);
}

#[test]
fn an_answer_with_too_many_headers_ends_at_once() {
    let agent = Agent::start();
    let headers: Vec<_> = (0..200).map(|number| (format!("x-{number}"), String::from("x"))).collect();
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    agent.every(Route::Health).answer(200, &headers, "{}");
    is_hopeless(&agent.url(), None, &["more than", "headers"]);
}

#[test]
fn a_signal_ends_the_wait_for_a_tls_handshake_at_once() {
    let relay = Relay::saying(b"");
    let url = format!("https://{}", relay.address);
    let running = Sortie::new(["run", "-o", "json", "--server", &url, "go"]).spawn();
    relay.wait_until_taken(1);
    running.signal(rustix::process::Signal::INT);
    running.wait().within(Duration::from_secs(2)).fails("interrupted");
}

#[test]
fn https_to_a_server_that_speaks_something_else_has_an_end() {
    for speech in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"SSH-2.0-x\r\n", b"\x16\x03\x03\xff\xff", b""] {
        let relay = Relay::saying(speech);
        let url = format!("https://{}", relay.address);
        let arguments = ["run", "-o", "json", "--connect-timeout", "500ms", "--retry-timeout", "300ms", "go"];
        let output = Sortie::new(arguments).args(["--server", &url]).run();
        assert_harmless(&output.stderr);
        output.within(Duration::from_secs(10)).fails("connection");
    }
}

#[test]
fn http_to_a_server_that_speaks_https_has_an_end() {
    let agent = Agent::out_of_bounds();
    let relay = Relay::tls(Authority::new().server(&["127.0.0.1"], Validity::Now), address(&agent));
    let url = format!("http://{}", relay.address);
    let output = at(&agent, &url, &["run", "-o", "json", "--retry-timeout", "300ms", "go"]).run();
    assert_harmless(&output.stderr);
    output.within(Duration::from_secs(10)).fails("connection");
}

#[test]
fn an_authority_that_is_none_is_refused_before_anything_is_sent() {
    let agent = Agent::out_of_bounds();
    agent.script(|run| run.complete());
    let plain = || agent.sortie(["run", "-o", "json", "go"]);
    let pem = Authority::new().pem();
    let cut: String = pem.lines().take(3).collect::<Vec<_>>().join("\n");
    let no_base64 = pem.replacen('\n', "\n!!!!", 2);
    let garbage = "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n";
    let key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n";
    let rows: [(&str, &[u8]); 7] = [
        ("empty", b""),
        ("text", b"These are my certificates.\n"),
        ("bytes", b"\x30\x82\x01\x0a\xff\xfe\0\0"),
        ("cut", cut.as_bytes()),
        ("no base64", no_base64.as_bytes()),
        ("no certificate", garbage.as_bytes()),
        ("a key", key.as_bytes()),
    ];
    for (what, content) in rows {
        let command = plain();
        let file = command.file("ca.pem", content);
        let output = command.args(["--cacert", &file]).run();
        let named = output.stderr.contains("ca.pem") && output.stderr.contains("--cacert");
        assert!(named, "{what}: {}", output.stderr);
        output.fails("usage");
    }
    for path in [".", "no/such/file", "/proc/self/mem"] {
        plain().args(["--cacert", path]).run().stderr_has("--cacert").fails("usage");
    }
    let command = plain();
    let file = command.file("ca.pem", "");
    command.env("SORTIE_CACERT", file).run().fails("usage");
}

#[test]
fn an_authority_without_end_is_not_read_into_memory() {
    let agent = Agent::out_of_bounds();
    let command = agent.sortie(["run", "-o", "json", "--cacert", "/dev/zero", "go"]);
    let output = command.in_shell(r#"ulimit -d 49152 && exec "$@""#).run();
    output.stderr_has("--cacert").stderr_lacks("memory").fails("usage");
}

#[test]
fn a_token_goes_in_clear_to_another_host_only_when_that_is_allowed() {
    // The proxy shows that nothing goes out.
    let agent = Agent::out_of_bounds();
    let proxy = Proxy::to(address(&agent));
    for host in [
        "agent.example",
        "127.0.0.1.example",
        "localhost.example",
        "192.0.2.1",
        "[2001:db8::1]",
        "127.1",
        "0.0.0.0",
        "[::ffff:192.0.2.1]",
        "[::]",
    ] {
        let url = format!("http://{host}:4096");
        let command = at(&agent, &url, &["run", "-o", "json", "--retry-timeout", "300ms", "go"]);
        let output = command.env("http_proxy", proxy.url()).run();
        let output = output.stderr_has("--allow-http").stderr_lacks(TOKEN);
        output.fails("usage");
    }
    assert!(proxy.heads().is_empty(), "{:?}", proxy.heads());
    let agent = Agent::answering("Done.");
    let proxy = Proxy::to(address(&agent));
    let allowed = at(&agent, "http://agent.example:4096", &["run", "--allow-http", "go"]);
    allowed.env("http_proxy", proxy.url()).run().code(0);
    let allowed = at(&agent, "http://agent.example:4096", &["run", "go"]).env("SORTIE_ALLOW_HTTP", "1");
    allowed.env("http_proxy", proxy.url()).run().code(0);
    for no in ["0", "false", "no", "off", ""] {
        let command = at(&agent, "http://agent.example:4096", &["run", "-o", "json", "go"]);
        command.env("SORTIE_ALLOW_HTTP", no).env("http_proxy", proxy.url()).run().fails("usage");
    }
    // Nothing that is secret: nothing to refuse.
    let command = at(&agent, "http://agent.example:4096", &["run", "-o", "json", "go"]).without_env("SORTIE_TOKEN");
    command.env("http_proxy", proxy.url()).run().fails("auth");
    // All of 127.0.0.0/8 is this machine.
    let url = agent.url().replace("127.0.0.1", "127.0.0.2");
    let output = at(&agent, &url, &["run", "-o", "json", "--retry-timeout", "300ms", "go"]).run();
    output.stderr_lacks("--allow-http").fails("connection");
}

#[test]
fn https_goes_through_the_proxy_to_a_host_that_only_the_proxy_knows() {
    for variable in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        let authority = Authority::new();
        let agent = Agent::answering("Done.");
        let relay = Relay::tls(authority.server(&["agent.example"], Validity::Now), address(&agent));
        let proxy = Proxy::to(relay.address);
        let command = at(&agent, "https://agent.example:8443", &["run", "-vv", "go"]);
        let pem = command.file("ca.pem", authority.pem());
        let command = command.args(["--cacert", &pem]).env(variable, proxy.url_with("user", "hunter2"));
        command.run().code(0).stdout("Done.\n").stderr_lacks("hunter2").stderr_lacks("dXNlcjpodW50ZXIy");
        let heads = proxy.heads();
        assert!(!heads.is_empty());
        for head in heads {
            assert!(head.starts_with("CONNECT agent.example:8443 HTTP/1.1\r\n"), "{head}");
            assert!(head.contains("\r\nHost: agent.example:8443\r\n"), "{head}");
            assert!(head.contains("\r\nProxy-Authorization: Basic dXNlcjpodW50ZXIy\r\n"), "{head}");
            assert!(!head.contains(TOKEN) && !head.contains("\r\nAuthorization"), "{head}");
        }
    }
}

#[test]
fn a_proxy_does_not_stand_in_for_the_server() {
    // Whoever answers the CONNECT must still have the host's certificate.
    let authority = Authority::new();
    let agent = Agent::out_of_bounds();
    let relay = Relay::tls(authority.server(&["proxy.example"], Validity::Now), address(&agent));
    let proxy = Proxy::to(relay.address);
    let command = at(&agent, "https://agent.example", &["run", "-o", "json", "go"]);
    let pem = command.file("ca.pem", authority.pem());
    let command = command.args(["--cacert", &pem]).env("https_proxy", proxy.url());
    command.run().stderr_has("for another name").fails("connection");
}

#[test]
fn http_goes_through_the_proxy_as_curl_does_it() {
    let agent = Agent::answering("Done.");
    let proxy = Proxy::to(address(&agent));
    let command = at(&agent, "http://agent.example:8080", &["run", "--allow-http", "go"]);
    command.env("http_proxy", proxy.url()).run().code(0).stdout("Done.\n");
    let heads = proxy.heads();
    assert_eq!(
        heads.len(),
        3,
        "each request has a connection of its own, since a proxy must be told the whole URL"
    );
    for head in &heads {
        // Not CONNECT, which a proxy rarely allows to any port but that of https.
        let first = head.lines().next().unwrap();
        let (_, target) = first.split_once(' ').unwrap();
        assert!(target.starts_with("http://agent.example:8080/v1/"), "{first}");
        assert!(head.contains("\r\nhost: agent.example:8080\r\n"), "{head}");
        assert!(!head.to_lowercase().contains("proxy-authorization"), "{head}");
    }
}

#[test]
fn http_through_a_proxy_with_a_password_an_address_and_a_path() {
    for (url, origin) in [
        ("http://agent.example/", "http://agent.example/v1/"),
        ("http://agent.example:8080/below/it/", "http://agent.example:8080/below/it/v1/"),
        ("http://[2001:db8::1]:9", "http://[2001:db8::1]:9/v1/"),
    ] {
        let agent = Agent::out_of_bounds();
        let proxy = Proxy::answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let command = at(&agent, url, &["run", "-vv", "-o", "json", "--allow-http", "go"]);
        let command = command.env("http_proxy", proxy.url_with("us%20er", "hunter2"));
        let output = command.run().stderr_lacks("hunter2").stderr_lacks("dXMgZXI6aHVudGVyMg==");
        assert_harmless(
            &output
                .stderr
                .lines()
                .filter(|line| line.starts_with("sortie"))
                .fold(String::new(), |all, line| all + line + "\n"),
        );
        output.fails("protocol");
        let [head] = &proxy.heads()[..] else { panic!("{:?}", proxy.heads()) };
        assert!(head.starts_with(&format!("POST {origin}sessions HTTP/1.1\r\n")), "{head}");
        assert!(head.contains("\r\nproxy-authorization: Basic dXMgZXI6aHVudGVyMg==\r\n"), "{head}");
        assert!(head.contains(&format!("\r\nauthorization: Bearer {TOKEN}\r\n")), "{head}");
    }
}

#[test]
fn a_token_as_long_as_may_be_goes_through_a_proxy_too() {
    let agent = Agent::out_of_bounds();
    let proxy = Proxy::answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let token = "t".repeat(16 * 1024);
    let command = at(&agent, "http://agent.example", &["run", "-o", "json", "--allow-http", "go"]);
    command.env("SORTIE_TOKEN", &token).env("http_proxy", proxy.url()).run().fails("protocol");
    assert!(proxy.heads()[0].contains(&token));
}

#[test]
fn what_the_server_says_through_a_proxy_is_not_taken_for_the_proxys() {
    let said = "HTTP/1.1 403 Forbidden\r\ncontent-length: 38\r\nconnection: close\r\n\r\n\
                {\"error\":\"no\",\"code\":\"unauthorized\"}  ";
    for (answer, reason) in [
        (said, "auth"),
        ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "auth"),
        ("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", "server"),
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "connection"),
        ("HTTP/1.1 407 Who\r\ncontent-length: 0\r\n\r\n", "connection"),
    ] {
        let agent = Agent::out_of_bounds();
        let proxy = Proxy::answering(answer);
        let arguments = ["run", "-o", "json", "--allow-http", "--retry-timeout", "300ms", "go"];
        let command = at(&agent, "http://agent.example", &arguments).env("http_proxy", proxy.url());
        let record = command.run().stderr_has("through the proxy").fails(reason);
        assert_eq!(record["retryable"], reason == "server", "{answer}");
    }
}

#[test]
fn http_through_a_proxy_reaches_the_server_one_way_or_another() {
    let agent = Agent::answering("Done.");
    let proxy = Proxy::to(address(&agent));
    let run = |variable: &str| {
        let command =
            at(&agent, "http://agent.example:8080", &["run", "--allow-http", "--retry-timeout", "300ms", "go"]);
        command.env(variable, proxy.url()).run()
    };
    run("http_proxy").code(0);
    run("all_proxy").code(0);
    run("ALL_PROXY").code(0);
    let before = proxy.heads().len();
    // A CGI program's callers set that one; and this one is for https.
    for variable in ["HTTP_PROXY", "https_proxy", "HTTPS_PROXY"] {
        run(variable).code(1).stderr_has("agent.example");
    }
    assert_eq!(proxy.heads().len(), before);
}

#[test]
fn loopback_is_never_proxied_and_no_proxy_is_honoured() {
    let agent = Agent::answering("Done.");
    let proxy = Proxy::answering("HTTP/1.1 500 Never\r\nconnection: close\r\n\r\n");
    let by_name = agent.url().replace("127.0.0.1", "localhost");
    for url in [agent.url(), by_name.clone(), by_name.replace("localhost", "LOCALHOST")] {
        let command = at(&agent, &url, &["run", "go"]);
        let command = command.env("http_proxy", proxy.url()).env("https_proxy", proxy.url());
        command.env("all_proxy", proxy.url()).env("ALL_PROXY", proxy.url()).run().code(0).stdout("Done.\n");
    }
    let excepted = [
        "agent.invalid",
        ".invalid",
        "*",
        " other.example , agent.invalid ",
        "other.example agent.invalid",
        "agent.invalid:4096",
        "AGENT.invalid",
        "invalid",
    ];
    for list in excepted {
        for variable in ["no_proxy", "NO_PROXY"] {
            let arguments = ["run", "-o", "json", "--allow-http", "--retry-timeout", "100ms", "go"];
            let command = at(&agent, "http://agent.invalid:4096", &arguments);
            let command = command.env("http_proxy", proxy.url()).env(variable, list);
            // Straight there, where nobody is.
            command.run().stderr_has("agent.invalid").fails("connection");
        }
    }
    assert!(proxy.heads().is_empty(), "{:?}", proxy.heads());
    for list in ["agent.invalid:80", "gent.invalid", "other.invalid", "127.0.0.1", ""] {
        let arguments = ["run", "-o", "json", "--allow-http", "--retry-timeout", "100ms", "go"];
        let command = at(&agent, "http://agent.invalid:4096", &arguments);
        command.env("http_proxy", proxy.url()).env("no_proxy", list).run().code(1);
    }
    assert!(proxy.heads().len() >= 5, "{:?}", proxy.heads());
}

#[test]
fn a_proxy_that_refuses_is_named_with_its_answer() {
    let answers = [
        ("407", "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"),
        ("403", "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"),
        ("502", "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"),
    ];
    for (status, answer) in answers {
        for url in ["https://agent.example", "http://agent.example"] {
            let agent = Agent::out_of_bounds();
            let proxy = Proxy::answering(answer);
            let arguments = ["run", "-v", "-o", "json", "--allow-http", "--retry-timeout", "300ms", "go"];
            let command = at(&agent, url, &arguments);
            let proxy_url = proxy.url_with("user", "hunter2");
            let output = command.env("https_proxy", &proxy_url).env("http_proxy", &proxy_url).run();
            let output = output.stderr_has(status).stderr_has("roxy").stderr_lacks("hunter2").stderr_lacks(TOKEN);
            let record = output.within(Duration::from_secs(10)).code(1).record();
            assert_eq!(record["reason"], "connection", "{record:#}");
            assert!(record["error"].as_str().unwrap().contains("roxy"), "{record:#}");
        }
    }
}

#[test]
fn a_proxy_that_is_hostile_has_an_end_too() {
    for answer in ["SSH-2.0-x\r\n", "", "HTTP/1.1 200 OK\r\n", "\u{1b}[2J\u{1b}[2J\r\n\r\n"] {
        let agent = Agent::out_of_bounds();
        let proxy = Proxy::answering(answer);
        let arguments = ["run", "-o", "json", "--retry-timeout", "300ms", "go"];
        let output = at(&agent, "https://agent.example", &arguments).env("https_proxy", proxy.url()).run();
        assert_harmless(&output.stderr);
        output.within(Duration::from_secs(10)).fails("connection");
    }
}

#[test]
fn a_proxy_that_cannot_be_used_is_refused_without_its_password() {
    let agent = Agent::out_of_bounds();
    let bad = [
        "socks5://user:hunter2@127.0.0.1:1",
        "http://user:hunter2@",
        "ftp://user:hunter2@h",
        "http://u:hunter2@h:port",
        "http://u:hunter2@h:99999",
    ];
    for proxy in bad {
        let arguments = ["run", "-vv", "-o", "json", "--retry-timeout", "300ms", "go"];
        let command = at(&agent, "https://agent.example", &arguments);
        let output = command.env("https_proxy", proxy).run().stderr_has("https_proxy").stderr_lacks("hunter2");
        output.fails("usage");
    }
}

#[test]
fn a_proxy_that_is_no_text_is_refused_too() {
    use std::os::unix::ffi::OsStrExt;
    let agent = Agent::out_of_bounds();
    let command = at(&agent, "https://agent.example", &["run", "-o", "json", "--retry-timeout", "300ms", "go"]);
    let command = command.env("https_proxy", std::ffi::OsStr::from_bytes(b"http://hunter2\xff:1"));
    command.run().stderr_has("https_proxy").stderr_lacks("hunter2").fails("usage");
}

#[test]
fn a_proxy_that_is_not_there_is_told_from_a_server_that_is_not() {
    let agent = Agent::out_of_bounds();
    for proxy in ["http://user:hunter2@127.0.0.1:1", "http://user:hunter2@proxy.invalid:1"] {
        let arguments = ["run", "-vv", "-o", "json", "--retry-timeout", "300ms", "go"];
        let command = at(&agent, "https://agent.example", &arguments);
        let output = command.env("https_proxy", proxy).run();
        let output = output.stderr_lacks("hunter2").stderr_lacks("dXNlcjpodW50ZXIy");
        let record = output.fails("connection");
        assert!(record["error"].as_str().unwrap().contains("proxy"), "{}", record["error"]);
    }
}
