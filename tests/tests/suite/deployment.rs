//! Tests the deployment files against the promises of SECURITY.md and docs/operations.md.

use std::{fs, process::Command};

use caudal_tests::{
    http,
    stack::{Stack, config_dir},
};
use serde_json::json;

#[test]
fn the_compose_files_confine_what_they_start() {
    let checked =
        Command::new("python3").arg(config_dir().join("../tests/compose.py")).output().expect("python3 starts");
    let said = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
}

/// Checks properties that nginx's own syntax check does not cover; that check runs in every test that starts the stack.
#[test]
fn the_load_balancer_bounds_connections_and_keeps_replicas_alive() {
    let site = fs::read_to_string(config_dir().join("nginx/caudal.conf.template")).expect("the site");
    let lines: Vec<&str> = site.lines().map(str::trim).filter(|line| !line.starts_with('#')).collect();
    let has = |directive: &str| lines.iter().any(|line| line.starts_with(directive));
    assert!(has("limit_conn_zone $binary_remote_addr") && has("limit_conn caudal_addresses"), "connections by address");
    assert!(has("client_header_timeout") && has("client_body_timeout") && has("client_max_body_size"));
    let next = lines.iter().find(|line| line.starts_with("proxy_next_upstream ")).expect("what is passed over");
    assert!(!next.contains("http_503") && !next.contains("non_idempotent"), "a 503 marks no replica as dead: {next}");
    let servers: Vec<&&str> = lines.iter().filter(|line| line.starts_with("server ${REPLICA_")).collect();
    assert_eq!(servers.len(), 3);
    assert!(servers.iter().all(|server| server.contains("${RESOLVE}")), "names are resolved anew");
    assert!(has("${RESOLVER}") && has("proxy_set_header X-Forwarded-For $remote_addr"));
}

#[tokio::test]
async fn a_refusal_takes_no_replica_out_of_the_load_balancer() {
    let busy = ["engine.max_running=1", "admission.queue=0", "engine.scripted.tokens=4000"];
    let settings = ["engine.kind=scripted", "auth.admin_key=a-key-of-this-test-only"];
    let stack = Stack::spawn(&[&settings[..], &busy[..]].concat(), None).await;
    // The load balancer sends one key to the same replica each time.
    let create = |body| http::call(stack.address(), "POST", "/v1/responses?conversation=a").json(&body);
    let mut stream = create(json!({"input": "x", "stream": true, "max_output_tokens": 4000})).events().await;
    assert_eq!(stream.status, 200);
    assert!(stream.next().await.is_some());
    for _ in 0..6 {
        let answer = create(json!({"input": "y"})).send().await;
        assert_eq!(answer.status, 503, "no other replica is asked: {}", answer.text());
        assert_eq!(answer.json()["error"]["code"], "server_overloaded");
    }
    let mut refused = vec![];
    for n in 0..3 {
        let call = http::call(stack.replica(n).address, "GET", "/admin/metrics");
        let metrics = call.header("authorization", "Bearer a-key-of-this-test-only").send().await.text();
        let line = metrics.lines().find(|line| line.starts_with("caudal_refused_total{code=\"server_overloaded\"}"));
        refused.push(line.and_then(|line| line.rsplit(' ').next()).map_or(0, |count| count.parse().expect("a count")));
    }
    refused.sort_unstable();
    assert_eq!(refused, [0, 0, 6]);
    assert!(stream.next().await.is_some(), "the stream goes on");
}
