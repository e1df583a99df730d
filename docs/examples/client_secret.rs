// The same in Rust, edition 2024: CAUDAL_KEY=… cargo run, with
//   axum = "0.8"
//   reqwest = { version = "0.12", default-features = false, features = ["json", "rustls-tls"] }
//   serde_json = "1"
//   tokio = { version = "1", features = ["macros", "net", "rt-multi-thread"] }
use std::env;

use axum::{Json, Router, http::StatusCode, routing::post};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app = Router::new().route("/caudal-token", post(caudal_token));
    axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await
}

/// `POST /caudal-token`. Ask who it is before this runs, and pin what they get to what is theirs.
async fn caudal_token() -> Result<Json<Value>, StatusCode> {
    client_secret().await.map(|value| Json(json!({ "value": value }))).map_err(|error| {
        eprintln!("no client secret: {error}");
        StatusCode::BAD_GATEWAY
    })
}

/// Fails when Caudal cannot be reached, refuses, or answers something else than JSON.
async fn client_secret() -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
    let url = env::var("CAUDAL_URL").unwrap_or_else(|_| "http://127.0.0.1:8080".into());
    let made = reqwest::Client::new()
        .post(format!("{url}/v1/client_secrets"))
        .bearer_auth(env::var("CAUDAL_KEY")?)
        .json(&json!({"expires_after": {"seconds": 600}, "session": {"max_output_tokens": 1000}}))
        .send()
        .await?
        .error_for_status()?;
    Ok(made.json::<Value>().await?["value"].take())
}
