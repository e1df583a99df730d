//! A server under measurement: its address, its model and its process.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes};
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;

use super::{Options, client};
use crate::load::resolve;

#[derive(Debug, Clone, Serialize)]
pub struct Server {
    pub name: String,
    pub url: String,
    pub model: String,
    #[serde(skip)]
    pub address: SocketAddr,
    #[serde(skip)]
    pub pid: Option<u32>,
}

impl Server {
    /// Connects to the server of `url`, which may be `NAME=URL`, and finds the name of its model.
    pub async fn connect(name: &str, url: &str, pid: Option<u32>, options: &Options) -> Result<Self, String> {
        let (name, url) = match url.split_once('=') {
            Some((name, url)) if !name.contains('/') => (name, url),
            _ => (name, url),
        };
        let address = resolve(url).await.map_err(|e| format!("{name}: {e}"))?;
        let mut server = Self { name: name.into(), url: url.into(), model: String::new(), address, pid };
        let listed = server.first_model(options).await.map_err(|e| format!("{name} ({url}): {e}"))?;
        server.model = options.model.clone().or(listed).unwrap_or_else(|| "default".into());
        Ok(server)
    }

    /// Returns the first model that `GET /v1/models` lists; `None` if the server does not list models.
    async fn first_model(&self, options: &Options) -> Result<Option<String>, String> {
        let mut sender = client::open(self, options).await?;
        let request = Request::get("/v1/models").header("host", self.address.to_string()).body(Full::new(Bytes::new()));
        let answer = async {
            let response = sender.send_request(request.map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())?;
            response.into_body().collect().await.map_err(|e| e.to_string())
        };
        let body = timeout(client::patience(options), answer).await.map_err(|_| "no answer in time")??.to_bytes();
        let models: Value = serde_json::from_slice(&body).unwrap_or_default();
        Ok(models["data"][0]["id"].as_str().map(str::to_owned))
    }
}
