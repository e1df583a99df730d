// The same in Rust, as a handler of axum: reqwest = { version = "0.12", features = ["json"] }, serde_json = "1", axum = "0.8".
use axum::{Json, http::StatusCode};
use serde_json::{Value, json};

/// `POST /caudal-token`. Ask who it is before this runs, and pin what they get to what is theirs.
async fn caudal_token() -> Result<Json<Value>, StatusCode> {
    let key = std::env::var("CAUDAL_KEY").map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let made = reqwest::Client::new()
        .post("http://127.0.0.1:8080/v1/client_secrets")
        .bearer_auth(key)
        .json(&json!({"expires_after": {"seconds": 600}, "session": {"max_output_tokens": 1000}}))
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(|_| StatusCode::BAD_GATEWAY)?;
    let secret: Value = made.json().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    Ok(Json(json!({"value": secret["value"]})))
}
