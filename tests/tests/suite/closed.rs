//! Tests that nothing is open by accident: bind addresses, host names, logs, headers and secrets.

use std::process::Output;

use caudal_tests::{App, Setup, http, raw::exchange, spawn_app, until, ws::Connect};
use serde_json::json;

const KEYS: [&str; 2] = ["auth.mode=keys", r#"auth.keys=[{key="alpha-key-1", tenant="alpha"}]"#];
const ADMIN: &str = "auth.admin_key=admin-key-1";

fn all(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Sends a `GET` with these header lines. The connection ends after the answer.
async fn get_as(app: &App, path: &str, lines: &str) -> String {
    exchange(app.address, &format!("GET {path} HTTP/1.1\r\n{lines}connection: close\r\n\r\n")).await
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no answer: {answer}"))
}

#[test]
fn what_would_be_open_by_accident_does_not_start() {
    let key = r#"{key="alpha-key-1", tenant="alpha"}"#;
    let one = format!("auth.keys=[{key}]");
    let twice = format!(r#"auth.keys=[{key}, {{key="alpha-key-1", tenant="beta"}}]"#);
    for (settings, says) in [
        (vec!["server.bind=0.0.0.0:0"], vec!["server.bind", "auth.keys", "auth.mode = \"open\""]),
        (vec!["server.bind=[::]:0"], vec!["server.bind"]),
        (vec!["server.bind=10.1.2.3:0"], vec!["server.bind", "127.0.0.1"]),
        (vec![&one], vec!["auth.mode", "auth.keys", "\"none\""]),
        (vec![&one, "auth.mode=open"], vec!["auth.mode", "auth.keys", "\"open\""]),
        (vec!["auth.keys_file=/nowhere/keys.toml"], vec!["auth.mode", "auth.keys_file"]),
        (vec!["auth.mode=keys", "auth.keys_file=/nowhere/keys.toml"], vec!["/nowhere/keys.toml", "caudal key create"]),
        (vec!["auth.mode=keys", &twice], vec!["auth.keys", "'alpha'", "'beta'"]),
        (vec!["auth.mode=keys", &one, "auth.admin_key=alpha-key-1"], vec!["auth.admin_key", "'alpha'"]),
        (vec!["auth.admin_key=short"], vec!["auth.admin_key", "8 characters", "openssl"]),
        (vec!["auth.mode=keys", r#"auth.keys=[{key="short", tenant="a"}]"#], vec!["auth.keys", "8 characters"]),
        (
            vec!["auth.mode=keys", r#"auth.keys=[{key="alpha-key-1", tenant="a", scopes=[]}]"#],
            vec!["auth.keys", "scopes"],
        ),
        (vec!["auth.mode=keys", &one, r#"server.allowed_origins=["*"]"#], vec!["server.allowed_origins", "https://"]),
        (vec!["auth.token_secret=short"], vec!["auth.token_secret", "32"]),
        (vec![r#"server.trusted_proxies=["nginx"]"#], vec!["server.trusted_proxies", "10.0.0.0/8"]),
        (vec!["server.admin_bind=here"], vec!["server.admin_bind", "ADDRESS:PORT"]),
    ] {
        let output = Setup::scripted().set(&settings).run("serve");
        assert!(!output.status.success(), "{settings:?} is an error");
        let said = all(&output);
        assert!(says.iter().all(|part| said.contains(part)), "{settings:?}: {said}");
        assert!(!said.contains("alpha-key-1") && !said.contains("panicked"), "{settings:?}: {said}");
    }
}

#[test]
fn no_error_repeats_a_secret() {
    const SECRET: &str = "1234567890123";
    for setting in [
        format!("auth.admin_key={SECRET}"),
        format!("auth.admin_key=[{SECRET}]"),
        format!("auth.admin_key={{a={SECRET}}}"),
        format!("auth.admin_key={SECRET}.5"),
        format!("auth.token_secret={SECRET}"),
        format!("auth.keys={SECRET}"),
        format!("auth.keys=key-{SECRET}"),
        format!("auth.keys=[\"key-{SECRET}\"]"),
        format!("auth.keys=[{{key={SECRET}, tenant=\"a\"}}]"),
        format!("auth.keys=[{{kye=\"{SECRET}\", tenant=\"a\"}}]"),
        format!("auth.keys=[{{\"key-{SECRET}\"=\"a\"}}]"),
        format!("auth.keys={{key-{SECRET}=\"a\"}}"),
        format!("auth.mode=key-{SECRET}"),
        format!("auth.keys_file={SECRET}"),
        format!("auth=key-{SECRET}"),
        format!("store={SECRET}"),
        format!("store.redis=redis://:{SECRET}@host"),
        format!("store.redis.url={SECRET}"),
        format!("store.redis.sentinel_password={SECRET}"),
        format!("store.kind=redis://:{SECRET}@host"),
        format!("auth.admin_key \"{SECRET}\""),
        format!("auth.admin_key {SECRET}=x"),
    ] {
        let output = Setup::scripted().set(&[&setting]).run("config");
        assert!(!output.status.success(), "{setting}: {}", all(&output));
        assert!(!all(&output).contains(SECRET), "{setting}: {}", all(&output));
    }
    for url in [
        format!("redis://:{SECRET}@host:port"),
        format!("http://:{SECRET}@host"),
        format!("redis+sentinel://:{SECRET}@host"),
        format!("redis+cluster://:{SECRET}@"),
        format!(":{SECRET}@host"),
    ] {
        let output = Setup::scripted().set(&["store.kind=redis", &format!("store.redis.url={url}")]).run("serve");
        assert!(!output.status.success() && !all(&output).contains(SECRET), "{url}: {}", all(&output));
    }
    for (name, value) in [("CAUDAL__AUTH__ADMIN_KEY", SECRET), ("CAUDAL__STORE__REDIS__SENTINEL_PASSWORD", SECRET)] {
        let output = Setup::scripted().env(name, value).run("config");
        assert!(!output.status.success() && !all(&output).contains(SECRET), "{name}: {}", all(&output));
    }
    let file = std::env::temp_dir().join(format!("caudal-closed-{}.toml", std::process::id()));
    for text in [
        format!("[auth]\nadmin_key = \"{SECRET}\n"),
        format!("[auth]\nadmin_key = {SECRET}x\n"),
        format!("[auth]\nadmin_key = {SECRET}\n"),
        format!("[auth]\nkeys = [{{key = \"{SECRET}\", tenant = \"a\"}}, {{key = \"{SECRET}\", tenant = \"b\"}}]\n"),
    ] {
        std::fs::write(&file, &text).expect("a temporary file");
        let output = Setup::scripted().argument("--config").argument(&file.to_string_lossy()).run("config");
        assert!(!output.status.success() && !all(&output).contains(SECRET), "{text}: {}", all(&output));
    }
    let _ = std::fs::remove_file(&file);
}

#[tokio::test]
async fn without_keys_only_names_of_this_machine_are_served() {
    let app = spawn_app(&[r#"server.hosts=["caudal.example", "other.example:8443"]"#]);
    let port = app.address.port();
    for (host, expected) in [
        (format!("127.0.0.1:{port}"), 200),
        (format!("localhost:{port}"), 200),
        ("LocalHost".into(), 200),
        ("[::1]:8080".into(), 200),
        ("a.localhost:1".into(), 200),
        ("caudal.example".into(), 200),
        ("CAUDAL.example:99".into(), 200),
        ("other.example:8443".into(), 200),
        ("other.example".into(), 421),
        (format!("rebound.example:{port}"), 421),
        ("127.0.0.1.nip.io".into(), 421),
        ("localhost.evil.example".into(), 421),
        ("caudal.example.evil.example".into(), 421),
        ("192.168.1.7:8080".into(), 421),
        ("0.0.0.0:8080".into(), 421),
        (String::new(), 421),
    ] {
        for path in ["/v1/models", "/v1/conversations", "/healthz", "/v1/nonsense"] {
            let answer = get_as(&app, path, &format!("host: {host}\r\n")).await;
            let expected = if expected == 200 && path.ends_with("nonsense") { 404 } else { expected };
            assert_eq!(status(&answer), expected, "{host} {path}: {answer}");
            assert_eq!(answer.contains("misdirected_request"), expected == 421, "{answer}");
        }
        let upgrade = format!(
            "host: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        if expected == 421 {
            let request = format!("GET /v1/responses HTTP/1.1\r\n{upgrade}\r\n");
            assert_eq!(status(&exchange(app.address, &request).await), 421, "{host}");
        }
    }
    // A header that a page can set, and a name in the request line, have no effect.
    for lines in [
        "host: rebound.example\r\nx-forwarded-host: localhost\r\n",
        "host: rebound.example\r\nforwarded: host=localhost\r\n",
    ] {
        assert_eq!(status(&get_as(&app, "/v1/models", lines).await), 421, "{lines}");
    }
    let absolute = get_as(&app, "http://rebound.example/v1/models", "host: localhost\r\n").await;
    assert_eq!(status(&absolute), 421, "{absolute}");
    assert_eq!(status(&get_as(&app, "/v1/models", "").await), 400, "no Host");
    assert_eq!(status(&get_as(&app, "/v1/models", "host: localhost\r\nhost: rebound.example\r\n").await), 400);
}

#[tokio::test]
async fn an_open_server_is_called_by_address_too_and_one_with_keys_by_any_name() {
    let open = Setup::scripted().set(&["server.bind=0.0.0.0:0", "auth.mode=open"]).spawn();
    until("it to say so", || async { open.stderr().contains("auth.mode").then_some(()) }).await;
    for (host, expected) in
        [("192.168.1.7:8080", 200), ("[fe80::1]:80", 200), ("localhost", 200), ("rebound.example", 421)]
    {
        assert_eq!(status(&get_as(&open, "/v1/models", &format!("host: {host}\r\n")).await), expected, "{host}");
    }
    let keys = spawn_app(&KEYS);
    let lines = "host: caudal.example\r\nauthorization: Bearer alpha-key-1\r\n";
    assert_eq!(status(&get_as(&keys, "/v1/models", lines).await), 200);
}

#[tokio::test]
async fn forwarded_headers_count_from_a_trusted_proxy_alone() {
    let forged = "host: localhost\r\nx-forwarded-for: 203.0.113.9\r\nx-forwarded-host: rebound.example\r\n";
    let untrusting = spawn_app(&[ADMIN]);
    assert_eq!(status(&get_as(&untrusting, "/v1/models", forged).await), 200, "it is not looked at");
    let origin = format!("{forged}origin: http://rebound.example\r\n");
    assert_eq!(status(&get_as(&untrusting, "/v1/models", &origin).await), 403);
    assert_eq!(status(&get_as(&untrusting, "/admin/cache", forged).await), 401);
    until("the log to have the peer's address", || async {
        let log = untrusting.stderr();
        log.contains("address=127.0.0.1").then_some(()).filter(|()| !log.contains("203.0.113.9"))
    })
    .await;
    let trusting =
        spawn_app(&[ADMIN, r#"server.trusted_proxies=["127.0.0.0/8"]"#, r#"server.hosts=["caudal.example"]"#]);
    assert_eq!(status(&get_as(&trusting, "/v1/models", forged).await), 421);
    let honest = "host: localhost\r\nx-forwarded-host: caudal.example\r\norigin: https://caudal.example\r\n";
    assert_eq!(status(&get_as(&trusting, "/v1/models", honest).await), 200);
    let chain = "host: localhost\r\nx-forwarded-for: 198.51.100.1, 203.0.113.9, 127.0.0.3\r\n";
    assert_eq!(status(&get_as(&trusting, "/admin/cache", chain).await), 401);
    until("the log to have the client's address", || async {
        let log = trusting.stderr();
        log.contains("address=203.0.113.9").then_some(()).filter(|()| !log.contains("198.51.100.1"))
    })
    .await;
}

#[tokio::test]
async fn refusals_are_logged_counted_and_slowed_and_admin_calls_are_logged() {
    let keys = r#"auth.keys=[{key="alpha-key-1", tenant="alpha", scopes=["read"]}]"#;
    let app = spawn_app(&["auth.mode=keys", keys, ADMIN]);
    let ask = |path: &'static str, key: &'static str| {
        http::call(app.address, "GET", path).header("authorization", &format!("Bearer {key}")).send()
    };
    assert_eq!(ask("/v1/models", "wrong-key-of-mine").await.status, 401);
    assert_eq!(http::get(app.address, "/v1/models").await.status, 401);
    assert_eq!(Connect::to(app.address).open().await.err().map(|answer| answer.status().as_u16()), Some(401));
    let create = http::call(app.address, "POST", "/v1/responses").header("authorization", "Bearer alpha-key-1");
    assert_eq!(create.json(&json!({"input": "x"})).send().await.status, 403);
    assert_eq!(ask("/admin/cache", "alpha-key-1").await.status, 401);
    assert_eq!(ask("/admin/cache", "admin-key-1").await.status, 200);
    let metrics = ask("/admin/metrics", "admin-key-1").await.text();
    for (reason, count) in [("key", 1), ("no_key", 2), ("scope", 1), ("admin", 1)] {
        let sample = format!("caudal_auth_failures_total{{reason=\"{reason}\"}} {count}");
        assert!(metrics.contains(&sample), "{sample}: {metrics}");
    }
    until("the log", || async {
        let log = app.stderr();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("address=127.0.0.1")).collect();
        let has = |parts: &[&str]| lines.iter().any(|line| parts.iter().all(|part| line.contains(part)));
        let logged = has(&["refused", "reason=\"key\"", "status=401"])
            && has(&["refused", "reason=\"scope\"", "tenant=\"alpha\"", "status=403"])
            && has(&["an admin call", "/admin/cache", "status=200"])
            && has(&["an admin call", "/admin/cache", "status=401"]);
        logged.then_some(())
    })
    .await;
    assert!(!app.stderr().contains("wrong-key-of-mine") && !app.stderr().contains("alpha-key-1"), "{}", app.stderr());
    let begun = std::time::Instant::now();
    for _ in 0..24 {
        assert_eq!(ask("/v1/models", "wrong-key-of-mine").await.status, 401);
    }
    let slow = begun.elapsed();
    assert!(slow.as_millis() >= 1000, "refusals after the first are slowed: {slow:?}");
    let begun = std::time::Instant::now();
    assert_eq!(ask("/v1/models", "alpha-key-1").await.status, 200);
    assert!(begun.elapsed() < slow / 2, "a good key of the same address is not: {:?}", begun.elapsed());
}

#[tokio::test]
async fn every_answer_has_security_headers() {
    let app = spawn_app(&KEYS);
    for (method, path) in [
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/"),
        ("GET", "/v1/models"),
        ("GET", "/v1/nonsense"),
        ("PUT", "/v1/responses"),
        ("GET", "/admin/metrics"),
        ("GET", "/../../etc/passwd"),
    ] {
        let answer = http::call(app.address, method, path).send().await;
        let policy = answer.header("content-security-policy").unwrap_or_default();
        for part in ["base-uri 'none'", "form-action", "frame-ancestors 'none'", "default-src"] {
            assert!(policy.contains(part), "{method} {path}: {policy}");
        }
        assert!(!policy.contains("ws:") && !policy.contains("*"), "{policy}");
        for (name, value) in
            [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("referrer-policy", "no-referrer")]
        {
            assert_eq!(answer.header(name), Some(value), "{method} {path}");
        }
    }
    let folder = std::env::temp_dir().join(format!("caudal-page-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("index.html"), "<!doctype html>").expect("a page");
    let app = spawn_app(&[&format!("server.chat_dir={}", folder.display())]);
    let page = http::get(app.address, "/").await;
    let policy = page.header("content-security-policy").unwrap_or_default().to_owned();
    assert_eq!((page.status, policy.contains("connect-src 'self';")), (200, true), "{policy}");
    assert!(
        !policy.contains("ws:") && policy.contains("base-uri 'none'") && policy.contains("form-action"),
        "{policy}"
    );
    let _ = std::fs::remove_dir_all(&folder);
}

#[tokio::test]
async fn admin_may_have_an_address_of_its_own() {
    let app = spawn_app(&[ADMIN, "server.admin_bind=127.0.0.1:0"]);
    let asked = http::call(app.address, "GET", "/admin/cache").header("authorization", "Bearer admin-key-1");
    assert_eq!(asked.send().await.status, 404, "not beside everything else");
    let address = until("the summary to name the address", || async {
        let said = app.stderr();
        let rest = said.split("admin on http://").nth(1)?;
        rest.split_whitespace().next()?.parse::<std::net::SocketAddr>().ok()
    })
    .await;
    let ask = |path: &'static str, key: &'static str| {
        http::call(address, "GET", path).header("authorization", &format!("Bearer {key}")).send()
    };
    assert_eq!(ask("/admin/metrics", "admin-key-1").await.status, 200);
    let wrong = ask("/admin/metrics", "wrong-key-1").await;
    let message = wrong.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(wrong.status == 401 && message.contains("auth.admin_key") && message.contains("scope admin"), "{message}");
    assert_eq!(ask("/v1/models", "admin-key-1").await.status, 404);
    assert_eq!(ask("/healthz", "").await.status, 200);
}
