//! Tests HTTP semantics by RFC 9110, and requests from other origins.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use caudal_tests::{
    App, Client, Received, Setup,
    http::{Answer, call, get, post},
    spawn_app,
    ws::{Connect, code},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const KEYS: &str = r#"auth.keys=[{key="alpha-key", tenant="alpha"}]"#;

/// Sends `request` on a new connection. Returns all data of the server until the end of the connection.
async fn raw(app: &App, request: &str) -> String {
    let mut stream = TcpStream::connect(app.address).await.expect("the server accepts");
    stream.write_all(request.as_bytes()).await.expect("the request can be sent");
    let mut answer = vec![];
    caudal_tests::within("the end of the connection", stream.read_to_end(&mut answer)).await.expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn head_is_answered_as_get_without_a_body() {
    let app = spawn_app(&[]);
    let id = Client::plain(&app).await.run(json!({})).await.id();
    for path in
        ["/healthz", "/readyz", "/v1/models", &format!("/v1/responses/{id}"), "/v1/nonsense", "/v1/conversations"]
    {
        let (got, head) = (get(app.address, path).await, call(app.address, "HEAD", path).send().await);
        assert_eq!((head.status, head.body.len()), (got.status, 0), "{path}");
        for name in ["content-type", "content-length", "cache-control"] {
            assert_eq!(head.header(name), got.header(name), "{path}: {name}");
        }
    }
    let stream = call(app.address, "HEAD", &format!("/v1/responses/{id}?stream=true")).send().await;
    assert_eq!((stream.status, stream.header("content-type")), (200, Some("text/event-stream")));
}

#[tokio::test]
async fn a_known_path_names_the_methods_that_it_takes() {
    let app = spawn_app(&["auth.admin_key=admin-key-1"]);
    for (method, path, allow) in [
        ("PUT", "/v1/responses", "GET, POST, HEAD, OPTIONS"),
        ("DELETE", "/v1/responses", "GET, POST, HEAD, OPTIONS"),
        ("POST", "/v1/responses/resp_a", "GET, DELETE, HEAD, OPTIONS"),
        ("GET", "/v1/chat/completions", "POST, OPTIONS"),
        ("GET", "/v1/responses/resp_a/cancel", "POST, OPTIONS"),
        ("PATCH", "/v1/conversations/conv_a", "GET, POST, DELETE, HEAD, OPTIONS"),
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("POST", "/healthz", "GET, HEAD, OPTIONS"),
        ("DELETE", "/readyz", "GET, HEAD, OPTIONS"),
        ("POST", "/admin/metrics", "GET, HEAD, OPTIONS"),
    ] {
        let answer = call(app.address, method, path).send().await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {path}");
        assert_eq!(answer.json()["error"]["code"], "method_not_allowed");
    }
    let options = call(app.address, "OPTIONS", "/v1/responses").send().await;
    assert_eq!((options.status, options.header("allow")), (204, Some("GET, POST, HEAD, OPTIONS")));
    assert_eq!(call(app.address, "PUT", "/v1/nonsense").send().await.status, 404);
}

#[tokio::test]
async fn a_missing_key_is_asked_for_and_schemes_have_no_case() {
    let app = spawn_app(&["auth.mode=keys", KEYS, "auth.admin_key=admin-key-1"]);
    for path in ["/v1/models", "/v1/responses/resp_a", "/admin/cache"] {
        let answer = get(app.address, path).await;
        assert_eq!(
            (answer.status, answer.header("www-authenticate")),
            (401, Some("Bearer realm=\"caudal\"")),
            "{path}"
        );
    }
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let models = call(app.address, "GET", "/v1/models").header("authorization", &format!("{scheme} alpha-key"));
        assert_eq!(models.send().await.status, 200, "{scheme}");
        let cache = call(app.address, "GET", "/admin/cache").header("authorization", &format!("{scheme} admin-key-1"));
        assert_eq!(cache.send().await.status, 200, "{scheme}");
        let socket = Connect::to(app.address).header("authorization", &format!("{scheme} alpha-key")).open().await;
        assert!(socket.is_ok(), "{scheme}");
    }
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_stays_out_of_caches() {
    let app = spawn_app(&[]);
    let mut ids = std::collections::HashSet::new();
    let stream = json!({"input": "x", "stream": true});
    for answer in [
        get(app.address, "/healthz").await,
        get(app.address, "/v1/models").await,
        get(app.address, "/v1/nonsense").await,
        post(app.address, "/v1/responses", &json!({"input": "x"})).await,
        post(app.address, "/v1/responses", &json!({"input": 1})).await,
        call(app.address, "POST", "/v1/responses").json(&stream).send().await,
        call(app.address, "OPTIONS", "/v1/responses").send().await,
    ] {
        let id = answer.header("x-request-id").expect("a request id");
        assert!(id.starts_with("req_") && ids.insert(id.to_owned()), "{id}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        if answer.header("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    encoder.write_all(body).expect("compressed");
    encoder.finish().expect("compressed")
}

fn zstd(body: &[u8]) -> Vec<u8> {
    zstd::encode_all(body, 3).expect("compressed")
}

async fn compressed(app: &App, encoding: &str, body: Vec<u8>) -> Answer {
    let request = call(app.address, "POST", "/v1/responses").header("content-type", "application/json; charset=utf-8");
    request.header("content-encoding", encoding).body(body).send().await
}

#[tokio::test]
async fn bodies_may_be_compressed_and_are_bounded_after_decoding() {
    let app = spawn_app(&["server.max_message_bytes=100000"]);
    let body = json!({"input": "hello"}).to_string();
    for (encoding, packed) in [
        ("gzip", gzip(body.as_bytes())),
        ("GZIP", gzip(body.as_bytes())),
        ("zstd", zstd(body.as_bytes())),
        ("identity", body.clone().into_bytes()),
    ] {
        let answer = compressed(&app, encoding, packed).await;
        assert_eq!(
            (answer.status, &answer.json()["status"]),
            (200, &json!("completed")),
            "{encoding}: {}",
            answer.text()
        );
    }
    let bomb = json!({"input": "x".repeat(50_000_000)}).to_string();
    for (encoding, packed) in [("gzip", gzip(bomb.as_bytes())), ("zstd", zstd(bomb.as_bytes()))] {
        assert!(packed.len() < 100_000);
        let answer = compressed(&app, encoding, packed).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (413, &json!("message_too_large")), "{encoding}");
    }
    assert!(app.resident_bytes() < 200 << 20, "a bomb is not unpacked: {}", app.resident_bytes());
    for encoding in ["gzip", "zstd"] {
        let answer = compressed(&app, encoding, b"neither".to_vec()).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!("invalid_request")), "{encoding}");
    }
    let answer = compressed(&app, "br", body.into_bytes()).await;
    assert_eq!((answer.status, answer.header("accept-encoding")), (415, Some("gzip, zstd")));
    let answer =
        call(app.address, "POST", "/v1/responses").header("content-type", "text/plain").body("{}").send().await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (415, &json!("unsupported_media_type")));
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks() {
    let app = spawn_app(&[]);
    let body = json!({"input": "x", "stream": true}).to_string();
    let head = format!(
        "POST /v1/responses HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = raw(&app, &format!("{head}{body}")).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
    assert!(body.starts_with("event: response.created\n"), "{body}");
    assert!(body.ends_with("data: [DONE]\n\n"), "{body}");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let app = spawn_app(&["server.body_timeout_ms=300"]);
    for path in ["/v1/responses", "/v1/chat/completions", "/v1/conversations", "/v1/prompts"] {
        let begun = Instant::now();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
        );
        let answer = raw(&app, &format!("{head}{{\"input\":")).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{path}: {answer}");
        assert!(answer.contains("request_timeout") && begun.elapsed() < Duration::from_secs(5), "{path}: {answer}");
    }
    let upgrade = "POST /v1/responses HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert!(raw(&app, upgrade).await.starts_with("HTTP/1.1 400 "));
    // The server ignores an upgrade offer such as that of Java's client.
    let body = json!({"input": "x"}).to_string();
    let offer = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: localhost\r\nconnection: close, upgrade, http2-settings\r\nupgrade: h2c\r\n\
         http2-settings: AAMAAABkAAQAAP__\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    assert!(raw(&app, &offer).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_stream_that_waits_has_comment_lines() {
    let app = spawn_app(&["server.sse_comment_ms=100", "engine.scripted.prefill_ms=1000", "engine.scripted.tokens=3"]);
    let chat = json!({"messages": [{"role": "user", "content": "x"}], "stream": true});
    for (path, body) in [("/v1/responses", json!({"input": "x", "stream": true})), ("/v1/chat/completions", chat)] {
        let answer = post(app.address, path, &body).await.text();
        let comments = answer.split("\n\n").filter(|block| block.starts_with(':')).count();
        assert!((3..=10).contains(&comments), "{path}: {answer}");
        assert!(answer.ends_with("data: [DONE]\n\n"), "{answer}");
    }
}

#[tokio::test]
async fn every_stream_ends_with_done() {
    let app = spawn_app(&["engine.scripted.fail_after=2"]);
    let chat = json!({"messages": [{"role": "user", "content": "x"}], "stream": true});
    for (path, body) in [("/v1/responses", json!({"input": "x", "stream": true})), ("/v1/chat/completions", chat)] {
        let answer = post(app.address, path, &body).await.text();
        assert!(answer.contains("engine_failed") && answer.ends_with("data: [DONE]\n\n"), "{path}: {answer}");
    }
    let app = spawn_app(&["engine.scripted.tokens=3000", "engine.scripted.tokens_per_second=100"]);
    let mut stream =
        call(app.address, "POST", "/v1/responses").json(&json!({"input": "x", "stream": true})).events().await;
    let created: Value = serde_json::from_str(&stream.next().await.expect("an event").data).expect("JSON");
    let path = format!("/v1/responses/{}", created["response"]["id"].as_str().expect("an id"));
    call(app.address, "DELETE", &path).send().await;
    let rest = stream.all().await;
    assert_eq!(rest.last().map(|event| event.data.as_str()), Some("[DONE]"), "also of a response that is deleted");
    assert_eq!(rest[rest.len() - 2].event.as_deref(), Some("error"));
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_send_and_read_what_sdks_do() {
    let app = spawn_app(&[r#"server.allowed_origins=["https://app.example"]"#, "limits.requests_per_minute=100"]);
    let preflight = call(app.address, "OPTIONS", "/v1/responses")
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "authorization,content-type,openai-beta,x-stainless-os,x-stainless-retry-count,x-new",
        )
        .send()
        .await;
    assert_eq!(preflight.status, 200, "{}", preflight.text());
    let allowed = preflight.header("access-control-allow-headers").unwrap_or_default().to_lowercase();
    for name in ["authorization", "x-stainless-os", "openai-beta", "x-new"] {
        assert!(allowed.contains(name), "{allowed}");
    }
    let answer = call(app.address, "POST", "/v1/responses")
        .json(&json!({"input": "x"}))
        .header("origin", "https://app.example")
        .send()
        .await;
    let exposed = answer.header("access-control-expose-headers").unwrap_or_default().to_lowercase();
    for name in ["retry-after", "x-request-id", "x-ratelimit-remaining-requests", "x-caudal-ignored"] {
        assert!(exposed.contains(name), "{exposed}");
    }
}

#[tokio::test]
async fn what_is_left_of_a_limit_is_told() {
    let app =
        spawn_app(&["limits.requests_per_minute=2", "limits.tokens_per_minute=100000", "engine.scripted.tokens=3"]);
    let first = post(app.address, "/v1/responses", &json!({"input": "x"})).await;
    let limits = |answer: &Answer| {
        ["limit-requests", "remaining-requests", "limit-tokens"]
            .map(|name| answer.header(&format!("x-ratelimit-{name}")).map(str::to_owned).unwrap_or_default())
    };
    assert_eq!(limits(&first), ["2", "1", "100000"]);
    assert!(first.header("x-ratelimit-reset-requests").is_some_and(|reset| reset.ends_with("ms")));
    let chat = json!({"messages": [{"role": "user", "content": "x"}]});
    assert_eq!(limits(&post(app.address, "/v1/chat/completions", &chat).await)[1], "0");
    let refused = post(app.address, "/v1/responses", &json!({"input": "x"})).await;
    assert_eq!((refused.status, limits(&refused)[1].as_str()), (429, "0"));
    assert!(refused.header("retry-after").is_some() && refused.header("retry-after-ms").is_some());
    let unlimited = post(spawn_app(&[]).address, "/v1/responses", &json!({"input": "x"})).await;
    assert!(unlimited.headers.keys().all(|name| !name.as_str().starts_with("x-ratelimit")));
}

#[tokio::test]
async fn one_of_the_offered_subprotocols_is_selected() {
    let app = spawn_app(&["auth.mode=keys", KEYS]);
    for (offered, selected) in [
        ("openai-insecure-api-key.alpha-key", "openai-insecure-api-key.alpha-key"),
        ("realtime, openai-insecure-api-key.alpha-key", "realtime"),
        ("openai-insecure-api-key.alpha-key, realtime", "realtime"),
        ("realtime, openai-insecure-api-key.alpha-key, caudal.responses.v1", "caudal.responses.v1"),
    ] {
        let mut client = Connect::to(app.address).protocols(offered).open().await.expect("the key is good");
        assert_eq!(client.protocol(), Some(selected));
        if selected != "caudal.responses.v1" {
            client.create(json!({})).await;
            assert_eq!(client.event().await["type"], "response.created", "no extension");
        }
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_has_one_code_on_both_transports() {
    let app = spawn_app(&["server.max_message_bytes=2000"]);
    let answer = post(app.address, "/v1/responses", &json!({"input": "x".repeat(3000)})).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (413, &json!("message_too_large")));
    let mut client = Client::plain(&app).await;
    client.create(json!({"input": "x".repeat(3000)})).await;
    let error = client.error().await;
    assert_eq!((code(&error), &error["status"]), ("message_too_large", &json!(413)));
    assert_eq!(client.receive().await, Received::Closed(Some(1009)));
}

#[tokio::test]
async fn by_default_a_context_of_128k_tokens_fits() {
    let app = spawn_app(&["engine.scripted.context_length=400000", "engine.scripted.tokens=3"]);
    let input = "word with \"quotes\" and 日本語\n".repeat(40_000);
    assert!(input.len() > 1_000_000);
    assert_eq!(post(app.address, "/v1/responses", &json!({"input": input})).await.status, 200);
    assert_eq!(Client::plain(&app).await.run(json!({"input": input})).await.status(), "completed");
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_told_in_words_that_clients_know() {
    let app = spawn_app(&["engine.scripted.context_length=64"]);
    let long = "word ".repeat(100);
    let responses = post(app.address, "/v1/responses", &json!({"input": long})).await;
    let chat = json!({"messages": [{"role": "user", "content": long}]});
    let chat = post(app.address, "/v1/chat/completions", &chat).await;
    for answer in [responses, chat] {
        let error = answer.json()["error"].clone();
        let message = error["message"].as_str().expect("a message");
        assert_eq!((answer.status, &error["code"]), (400, &json!("context_length_exceeded")));
        assert!(
            message.contains("maximum context length is 64 tokens") && message.contains("the prompt is too long"),
            "{message}"
        );
        assert!(!message.contains("truncation"), "the chat endpoint takes no such field: {message}");
    }
}

#[tokio::test]
async fn input_items_are_listed_in_pages() {
    let app = spawn_app(&[]);
    let input: Vec<Value> = (0..25).map(|n| json!({"role": "user", "content": n.to_string()})).collect();
    let id = post(app.address, "/v1/responses", &json!({"input": input})).await.json()["id"].clone();
    let path = format!("/v1/responses/{}/input_items", id.as_str().expect("an id"));
    let texts = |list: &Value| -> Vec<String> {
        let data = list["data"].as_array().expect("data").iter();
        data.map(|item| item["content"][0]["text"].as_str().expect("a text").to_owned()).collect()
    };
    let page = get(app.address, &path).await.json();
    assert_eq!((texts(&page).len(), texts(&page)[0].as_str(), &page["has_more"]), (20, "24", &json!(true)));
    let rest = get(app.address, &format!("{path}?after={}", page["last_id"].as_str().expect("an id"))).await.json();
    assert_eq!((texts(&rest), &rest["has_more"]), ((0..5).rev().map(|n| n.to_string()).collect(), &json!(false)));
    let one = get(
        app.address,
        &format!(
            "{path}?limit=1&order=asc&include[]=message.output_text.logprobs&include[]=reasoning.encrypted_content"
        ),
    )
    .await;
    assert_eq!((texts(&one.json()), &one.json()["has_more"]), (vec!["0".to_owned()], &json!(true)));
    let lost = get(app.address, &format!("{path}?after=msg_nothing")).await;
    assert_eq!((lost.status, &lost.json()["error"]["param"]), (400, &json!("after")));
    for query in ["include[]=a&include[]=b", "include=nonsense"] {
        assert_eq!(get(app.address, &format!("{path}?{query}")).await.json()["error"]["param"], "include");
    }
    for list in ["/v1/conversations", "/v1/prompts"] {
        let query = "include=web_search_call.results&include[0]=message.output_text.logprobs&include[1]=reasoning.encrypted_content";
        assert_eq!(get(app.address, &format!("{list}?{query}")).await.status, 200, "{list}");
    }
}

#[tokio::test]
async fn a_conversations_bodies_are_read_whole() {
    let app = spawn_app(&[]);
    let post_raw = |body: &str| {
        call(app.address, "POST", "/v1/conversations").header("content-type", "application/json").body(body).send()
    };
    for broken in ["{\"items\":[", "{", "nonsense"] {
        let answer = post_raw(broken).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!("invalid_json")), "{broken}");
    }
    let bare = call(app.address, "POST", "/v1/conversations").send().await;
    assert_eq!(bare.status, 200, "a body is not needed: {}", bare.text());
    let created = post(app.address, "/v1/conversations", &json!({"metadata": {"a": "b"}})).await.json();
    let path = format!("/v1/conversations/{}", created["id"].as_str().expect("an id"));
    for unchanged in [json!({}), json!({"metadata": null})] {
        assert_eq!(post(app.address, &path, &unchanged).await.json()["metadata"], json!({"a": "b"}));
    }
    assert_eq!(post(app.address, &path, &json!({"metadata": {}})).await.json()["metadata"], json!({}));
}

#[tokio::test]
async fn while_models_load_probes_have_the_same_manners() {
    let starting = Setup::scripted().set(&["engine.scripted.load_ms=3000"]).spawn_loading();
    let address = starting.address.expect("an address");
    let head = caudal_tests::until("the first answer", || async {
        caudal_tests::http::try_get(address, "/healthz").await.ok()
    })
    .await;
    assert!(head.header("x-request-id").is_some());
    let loading = call(address, "HEAD", "/readyz").send().await;
    assert_eq!((loading.status, loading.body.len()), (503, 0));
    drop(starting);
}
