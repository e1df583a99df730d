//! Tests the operators' dashboards and alerts against a real Prometheus that scrapes a real stack.

use std::{collections::BTreeSet, convert::Infallible, fs, process::Command};

use caudal_tests::{
    Client, http,
    stack::{Stack, config_dir},
    until,
};
use serde_json::{Value, json};

const KEY: &str = "a-key-of-this-test-only";

fn dashboard() -> Value {
    let file = config_dir().join("grafana/dashboards/caudal.json");
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    serde_json::from_str(&text).expect("the dashboard is JSON")
}

fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().expect("panels").iter().collect()
}

/// Returns the expressions of all panels, with their titles.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let all = panels(dashboard).into_iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        let title = panel["title"].as_str().expect("a title").to_owned();
        targets
            .into_iter()
            .map(move |target| (title.clone(), target["expr"].as_str().expect("an expression").to_owned()))
    });
    all.collect()
}

#[test]
fn the_dashboard_has_a_row_for_each_question() {
    let dashboard = dashboard();
    assert_eq!((&dashboard["uid"], dashboard["schemaVersion"].as_u64()), (&json!("caudal"), Some(39)));
    let panels = panels(&dashboard);
    let rows: Vec<&str> = panels.iter().filter(|p| p["type"] == "row").filter_map(|p| p["title"].as_str()).collect();
    assert_eq!(rows, ["Who waits", "Where the time goes", "What is refused", "What the store does"]);
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    let mut taken = BTreeSet::new();
    for panel in panels {
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap_or_else(|| panic!("gridPos.{name}: {panel}"));
        assert!(at("x") + at("w") <= 24, "{panel}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "panels do not overlap: {panel}");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["type"], "timeseries");
        assert_eq!(panel["datasource"], json!({"type": "prometheus", "uid": "prometheus"}), "{panel}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{panel}");
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            assert!(["refId", "expr", "legendFormat"].iter().all(|field| target[field].is_string()), "{target}");
        }
    }
}

#[test]
fn promtool_accepts_the_configuration_and_every_alert_fires() {
    let dir = config_dir().join("prometheus");
    let checks = [
        // The key's file exists in containers only, so only the syntax is checked.
        (&["check", "config", "--syntax-only"][..], dir.join("prometheus.yml")),
        (&["check", "rules", "--lint=all"], dir.join("alerts.yml")),
        (&["test", "rules"], dir.join("../../tests/alerts.yml")),
    ];
    for (arguments, file) in checks {
        let checked = Command::new("promtool").args(arguments).arg(file).output();
        let checked = checked.expect("promtool starts; on Debian: apt-get install prometheus");
        let said = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{said}");
    }
}

/// Repeats work of every kind that the dashboard shows.
async fn drive(stack: &Stack) -> Infallible {
    let large = json!({"input": "x".repeat(70_000)});
    loop {
        let mut client = Client::extended_at(stack.address()).await;
        for seed in [json!(1), Value::Null] {
            client.run(json!({"input": "x", "seed": seed})).await.assert_gap_free();
        }
        for n in 0..3 {
            let replica = stack.replica(n).address;
            assert_eq!(http::post(replica, "/v1/responses", &json!({"input": "x"})).await.status, 200);
            assert_eq!(http::post(replica, "/v1/responses", &large).await.status, 413);
            assert_eq!(http::get(replica, "/admin/metrics").await.status, 401);
        }
    }
}

#[tokio::test]
async fn every_expression_of_the_dashboard_has_data() {
    let settings = [
        "engine.kind=scripted",
        "engine.scripted.tokens_per_second=400",
        "server.max_message_bytes=65536",
        // A slow machine must not count as an outage.
        "store.redis.timeout_ms=10000",
        "cluster.lease_ms=10000",
        &format!("auth.admin_key={KEY}"),
    ];
    let mut stack = Stack::spawn(&settings, None).await;
    let prometheus = stack.watch(KEY, Some("1s"));
    until("all replicas to be scraped", || async {
        let up = prometheus.query("sum(up{job=\"caudal\"})").await;
        (up == Ok(vec![3.0])).then_some(())
    })
    .await;
    // An outage, for the errors of the store.
    stack.redis_mut().kill();
    for n in 0..3 {
        let answer = http::post(stack.replica(n).address, "/v1/responses", &json!({"input": "x"})).await;
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    stack.heal().await;
    for n in 0..3 {
        let replica = stack.replica(n).address;
        // A replica that is ready again may not have its connection for messages yet.
        until("a replica to answer again", || async {
            let answer = http::post(replica, "/v1/responses", &json!({"input": "x"})).await;
            (answer.status == 200).then_some(())
        })
        .await;
    }
    let mut expressions = expressions(&dashboard());
    assert!(expressions.len() > 20, "{expressions:?}");
    // The scripted engine has no KV blocks.
    expressions.retain(|(_, expression)| !expression.contains("caudal_kv_blocks"));
    // The work goes on during the queries, because a quantile without events in its window has no value.
    let all = async {
        for (title, expression) in expressions {
            let filled =
                expression.replace("$__rate_interval", "30s").replace("$instance", ".*").replace("$model", ".*");
            until(format!("data of {title}: {filled}"), || async {
                let samples = prometheus.query(&filled).await.unwrap_or_else(|error| panic!("{title}: {error}"));
                samples.iter().any(|value| value.is_finite()).then_some(())
            })
            .await;
        }
    };
    tokio::select! {
        () = all => {}
        never = drive(&stack) => match never {},
    }
}
