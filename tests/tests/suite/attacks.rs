//! Tests a table of attacks, each with its expected answer, against one server with a healthy stream.

use caudal_tests::{App, Client, http::call, raw::exchange, spawn_app, until};
use serde_json::{Value, json};

const KEYS: &str = r#"auth.keys=[{key="alpha-key-1", tenant="alpha"}, {key="beta-key-11", tenant="beta"}, {key="reader-key-1", tenant="alpha", scopes=["read"]}]"#;

/// An attack and its expected answer.
#[derive(Debug, Clone)]
struct Attempt {
    /// The text of a request, in which `HOST` stands for the server's address. The connection ends after the answer.
    request: String,
    status: u16,
    /// Text that the answer must not contain.
    without: &'static str,
}

fn get(path: &str, lines: &str, status: u16) -> Attempt {
    request("GET", path, lines, "", status)
}

fn request(method: &str, path: &str, lines: &str, body: &str, status: u16) -> Attempt {
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len())
    };
    let host = if lines.starts_with("host:") { "" } else { "host: HOST\r\n" };
    let request = format!("{method} {path} HTTP/1.1\r\n{host}{lines}{length}connection: close\r\n\r\n{body}");
    Attempt { request, status, without: "root:" }
}

const ALPHA: &str = "authorization: Bearer alpha-key-1\r\n";
const BETA: &str = "authorization: Bearer beta-key-11\r\n";
const READER: &str = "authorization: Bearer reader-key-1\r\n";
const UPGRADE: &str =
    "upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn with(lines: &[&str]) -> String {
    lines.concat()
}

fn attempts() -> Vec<Attempt> {
    [attempts_on_routes(), attempts_on_http()].concat()
}

/// Requests without the required right, and requests for data of another tenant.
fn attempts_on_routes() -> Vec<Attempt> {
    vec![
        // Without a key, and with invalid keys.
        get("/v1/models", "", 401),
        get("/v1/models", "authorization: Bearer\r\n", 401),
        get("/v1/models", "authorization: Bearer null\r\n", 401),
        get("/v1/models", "authorization: Basic YWxwaGE6YWxwaGEta2V5LTE=\r\n", 401),
        get("/v1/models", "x-api-key: alpha-key-1\r\n", 401),
        get("/v1/models", "cookie: key=alpha-key-1\r\n", 401),
        get("/v1/models?api_key=alpha-key-1&token=alpha-key-1&key=alpha-key-1", "", 401),
        get("/v1/models", "authorization: Bearer ALPHA-KEY-1\r\n", 401),
        get("/v1/models", "authorization: Bearer alpha-key-1,beta-key-11\r\n", 401),
        get("/v1/models", "authorization: Bearer ek_e30.e30.AAAA\r\n", 401),
        get("/v1/models", "authorization: Bearer ck_00_00\r\n", 401),
        get("/v1/models", "authorization: Bearer config-00\r\n", 401),
        get("/v1/responses", &with(&[UPGRADE, "sec-websocket-protocol: openai-insecure-api-key.wrong\r\n"]), 401),
        // Other spellings of routes that require a key.
        get("/V1/models", "", 404),
        get("//v1/models", "", 404),
        get("/v1//models", "", 404),
        get("/%76%31/models", "", 401),
        get("/v1/../v1/models", "", 404),
        get("/admin/../v1/models", ALPHA, 404),
        request("TRACE", "/v1/models", ALPHA, "", 405),
        get("/v1/models", &with(&["x-http-method-override: DELETE\r\n", ALPHA]), 200),
        // Admin.
        get("/admin/metrics", "", 401),
        get("/admin/metrics", ALPHA, 401),
        get("/admin/cache", "authorization: Bearer admin-key-\r\n", 401),
        request("POST", "/admin/models/x/reload", ALPHA, "", 401),
        get("/admin/nonsense", ALPHA, 404),
        // Requests beyond the scopes of a key.
        request("POST", "/v1/responses", READER, r#"{"input":"x"}"#, 403),
        request("POST", "/v1/chat/completions", READER, r#"{"messages":[{"role":"user","content":"x"}]}"#, 403),
        request("POST", "/v1/client_secrets", READER, "{}", 403),
        request("DELETE", "/v1/responses/resp_x", READER, "", 403),
        request("POST", "/v1/client_secrets", ALPHA, r#"{"session":{"tenant":"beta"}}"#, 400),
        request("POST", "/v1/client_secrets", ALPHA, r#"{"expires_after":{"seconds":31536000}}"#, 400),
        // Another tenant's data by id, and keys of the store instead of an id.
        get("/v1/responses/RESPONSE", BETA, 404),
        get("/v1/responses/RESPONSE/input_items", BETA, 404),
        request("POST", "/v1/responses/RESPONSE/cancel", BETA, "", 404),
        request("DELETE", "/v1/responses/RESPONSE", BETA, "", 404),
        request("POST", "/v1/responses", BETA, r#"{"input":"x","previous_response_id":"RESPONSE"}"#, 400),
        get("/v1/responses/%7B%7D%0D%0AFLUSHALL", ALPHA, 404),
        get("/v1/responses/..%2f..%2fetc%2fpasswd", ALPHA, 404),
        get("/v1/conversations/*", ALPHA, 404),
    ]
}

/// Requests of foreign pages and proxies, and malformed requests.
fn attempts_on_http() -> Vec<Attempt> {
    let evil = "origin: https://evil.example\r\n";
    vec![
        // Pages of other sites.
        get("/v1/models", &with(&[evil, ALPHA]), 403),
        get("/v1/models", &with(&["origin: null\r\n", ALPHA]), 403),
        get("/v1/models", &with(&["origin: https://evil.example\r\nx-forwarded-host: evil.example\r\n", ALPHA]), 403),
        get("/v1/responses", &with(&[UPGRADE, evil, ALPHA]), 403),
        get("/admin/metrics", &with(&[evil, "authorization: Bearer admin-key-1\r\n"]), 403),
        Attempt {
            request: format!(
                "POST /v1/responses HTTP/1.1\r\nhost: HOST\r\n{ALPHA}content-type: text/plain\r\ncontent-length: 13\r\nconnection: close\r\n\r\n{{\"input\":\"x\"}}"
            ),
            status: 415,
            without: "resp_",
        },
        // Forwarded names and addresses, which only a trusted proxy may set.
        get("/v1/models", &with(&["forwarded: for=127.0.0.1;host=localhost\r\n", BETA]), 200),
        get("/v1/models", &with(&["origin: http://localhost\r\nforwarded: host=localhost\r\n", ALPHA]), 403),
        get("/v1/models", &with(&["origin: http://HOST.evil.example\r\n", ALPHA]), 403),
        get("/v1/models", &with(&["origin: http://user@HOST\r\n", ALPHA]), 403),
        get("/admin/metrics", "x-forwarded-for: 127.0.0.1\r\n", 401),
        get("/admin/metrics", "x-original-url: /healthz\r\nx-rewrite-url: /healthz\r\n", 401),
        get("/healthz", "x-original-url: /admin/metrics\r\n", 200),
        // Another tenant's data by a header or a field.
        get("/v1/responses/RESPONSE", &with(&["openai-organization: alpha\r\nx-tenant: alpha\r\n", BETA]), 404),
        get("/v1/responses/RESPONSE", &with(&["authorization: Bearer beta-key-11\r\n", ALPHA]), 404),
        request("POST", "/v1/responses", BETA, r#"{"input":"x","tenant":"alpha"}"#, 400),
        request("POST", "/v1/conversations/RESPONSE/fork", BETA, "{}", 404),
        request("POST", "/v1/responses/RESPONSE/fork", BETA, "{}", 404),
        // Lists.
        get("/v1/conversations?limit=1000000", ALPHA, 400),
        get("/v1/conversations?limit=-1", ALPHA, 400),
        get("/v1/conversations?after=RESPONSE", BETA, 400),
        // Files.
        get("/../../../../etc/passwd", "", 404),
        get("/..%2f..%2f..%2fetc/passwd", "", 404),
        get("/%2e%2e/%2e%2e/etc/passwd", "", 404),
        get("/.env", "", 404),
        // Request smuggling and header injection.
        Attempt {
            request: format!(
                "POST /v1/responses HTTP/1.1\r\nhost: HOST\r\n{ALPHA}content-length: 4\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\nGET /admin/metrics HTTP/1.1\r\n\r\n"
            ),
            status: 400,
            without: "caudal_",
        },
        get("/v1/models", &with(&["host: HOST\r\nhost: evil.example\r\n", ALPHA]), 400),
        Attempt {
            request: format!("GET /v1/models HTTP/1.1\r\n{ALPHA}connection: close\r\n\r\n"),
            status: 400,
            without: "object",
        },
        // Upgrades of routes that cannot be upgraded.
        request("POST", "/v1/responses", &with(&[UPGRADE, ALPHA]), "", 400),
        request("DELETE", "/v1/responses/x", &with(&[UPGRADE, ALPHA]), "", 400),
        get("/v1/responses", &with(&["upgrade: websocket\r\n", ALPHA]), 426),
    ]
}

#[tokio::test]
async fn every_attempt_gets_its_answer() {
    let app = spawn_app(&[
        "auth.mode=keys",
        KEYS,
        "auth.admin_key=admin-key-1",
        "engine.scripted.tokens_per_second=100",
        "engine.scripted.tokens=400",
    ]);
    let mut healthy = caudal_tests::ws::Connect::to(app.address)
        .header("authorization", "Bearer alpha-key-1")
        .open()
        .await
        .expect("a good key");
    healthy.create(json!({})).await;
    let response = finished(&app).await;
    let mut wrong = vec![];
    for Attempt { request, status, without } in attempts() {
        let request = request.replace("HOST", &app.address.to_string()).replace("RESPONSE", &response);
        let length = request.find("{\"input\":\"x\",\"previous").map(|at| request.len() - at);
        // The id is longer than its placeholder, so the length must be corrected.
        let request = match length {
            Some(length) => replace_length(&request, length),
            None => request,
        };
        let answer = exchange(app.address, &request).await;
        let got = answer.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
        // A server with a chat page answers 400 to some invalid paths.
        let is_file = request.starts_with("GET /.") || request.starts_with("GET /%2e");
        let is_refused = got == Some(status) || is_file && got == Some(400);
        if !is_refused || answer.contains(without) || answer.contains("a secret of alpha") {
            wrong.push(format!("{request:?}\n  wanted {status}, got {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let log = healthy.response().await;
    log.assert_gap_free();
    assert_eq!(log.status(), "completed");
    for secret in ["alpha-key-1", "beta-key-11", "admin-key-1"] {
        assert!(!app.stderr().contains(secret), "{}", app.stderr());
    }
}

fn replace_length(request: &str, length: usize) -> String {
    let (before, rest) = request.split_once("content-length: ").expect("a length");
    let (_, after) = rest.split_once("\r\n").expect("a line");
    format!("{before}content-length: {length}\r\n{after}")
}

/// Creates a finished response of tenant alpha. Returns its id.
async fn finished(app: &App) -> String {
    let body = json!({"input": "a secret of alpha", "max_output_tokens": 1});
    let created = call(app.address, "POST", "/v1/responses").header("authorization", "Bearer alpha-key-1");
    created.json(&body).send().await.json()["id"].as_str().expect("an id").to_owned()
}

/// The server closes connections that send half of a body, half of a head, or nothing.
#[tokio::test]
async fn what_does_not_come_is_not_waited_for() {
    let app = spawn_app(&["server.body_timeout_ms=300", "server.handshake_timeout_ms=2000"]);
    let mut healthy = Client::plain(&app).await;
    for (method, path) in [
        ("POST", "/v1/responses"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/responses/compact"),
        ("POST", "/v1/responses/input_tokens"),
        ("POST", "/v1/responses/resp_x/cancel"),
        ("DELETE", "/v1/responses/resp_x"),
        ("POST", "/v1/conversations"),
        ("POST", "/v1/conversations/conv_x"),
        ("POST", "/v1/conversations/conv_x/items"),
        ("POST", "/v1/prompts"),
        ("POST", "/v1/client_secrets"),
        ("POST", "/v1/nonsense"),
        ("POST", "/admin/models/x/reload"),
        ("PUT", "/v1/responses"),
        ("GET", "/v1/models"),
        ("GET", "/healthz"),
    ] {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
        );
        let begun = std::time::Instant::now();
        exchange(app.address, &format!("{head}{{\"input\":")).await;
        assert!(begun.elapsed().as_secs() < 10, "{method} {path} was open for {:?}", begun.elapsed());
    }
    for head in ["", "GET /v1/models HT", "GET /v1/models HTTP/1.1\r\nhost: localhost\r\n"] {
        exchange(app.address, head).await;
    }
    assert_eq!(healthy.run(json!({})).await.status(), "completed");
}

/// A page that reaches the server by DNS rebinding is refused.
#[tokio::test]
async fn a_rebound_page_learns_nothing() {
    let app = spawn_app(&[]);
    let port = app.address.port();
    let lines = format!("host: rebound.example:{port}\r\norigin: http://rebound.example:{port}\r\n");
    for path in ["/", "/v1/models", "/v1/conversations", "/v1/responses/resp_x", "/readyz"] {
        let answer = exchange(app.address, &format!("GET {path} HTTP/1.1\r\n{lines}connection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{path}: {answer}");
    }
    let body = json!({"input": "x"}).to_string();
    let create = format!(
        "POST /v1/responses HTTP/1.1\r\n{lines}content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    assert!(exchange(app.address, &create).await.starts_with("HTTP/1.1 421 "));
    until("nothing to have been created", || async {
        let listed: Value = caudal_tests::http::get(app.address, "/v1/conversations").await.json();
        listed["data"].as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
}
