//! What is answered while models load: probes learn how far it has come, everything else is asked to try again. A server of
//! its own on the same socket, so that the real one never exists half; those who connect in between wait in the socket's
//! queue.

use std::{net::TcpListener, time::Duration};

use actix_web::{App, HttpResponse, HttpServer, dev::ServerHandle, http::KeepAlive, middleware::from_fn, web};
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle};

use super::{api::ApiError, healthy, reply, v1};
use crate::{engine::ModelStatus, settings::Settings, wire::error::WireError};

/// When to ask again.
const RETRY_MS: u64 = 1000;
/// How long the last answers may take.
const CLOSING: Duration = Duration::from_secs(2);

/// The waiting server, until it ends.
pub struct Waiting {
    handle: ServerHandle,
    server: JoinHandle<std::io::Result<()>>,
}

/// Starts it on a bound listener.
///
/// # Errors
/// Where the threads cannot be started.
pub fn serve(
    listener: TcpListener,
    settings: &Settings,
    progress: watch::Receiver<Vec<ModelStatus>>,
) -> std::io::Result<Waiting> {
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(progress.clone()))
            .wrap(from_fn(reply::finish))
            .service(v1::resource("/healthz", [v1::get(healthy)]))
            .service(v1::resource("/readyz", [v1::get(ready)]))
            .default_service(web::to(later))
    })
    .workers(1)
    // Nobody keeps a connection that is about to end.
    .keep_alive(KeepAlive::Disabled)
    .client_request_timeout(Duration::from_millis(settings.server.handshake_timeout_ms))
    .shutdown_timeout(CLOSING.as_secs())
    .disable_signals()
    .listen(listener)?
    .run();
    Ok(Waiting { handle: server.handle(), server: tokio::spawn(server) })
}

impl Waiting {
    /// Ends it after the answers it has begun.
    pub async fn end(self) {
        self.handle.stop(true).await;
        let _ = self.server.await;
    }
}

async fn ready(progress: web::Data<watch::Receiver<Vec<ModelStatus>>>) -> HttpResponse {
    let models = progress.borrow().clone();
    HttpResponse::ServiceUnavailable().json(json!({"status": "loading", "models": models}))
}

async fn later() -> Result<HttpResponse, ApiError> {
    Err(WireError::ServerOverloaded { retry_after_ms: RETRY_MS }.into())
}
