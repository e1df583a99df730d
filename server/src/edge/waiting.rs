//! The server that answers while models load: probes get the progress, a browser gets a page that reloads itself, and every other
//! request gets an error with `Retry-After`. It uses the listening socket before the main server does. Connections that arrive
//! between the two wait in the socket's queue.

use std::{net::TcpListener, time::Duration};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    dev::ServerHandle,
    http::{KeepAlive, Method, header},
    middleware::from_fn,
    web,
};
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    error::ApiError,
    handlers::probes,
    reply,
    resource::{get, resource},
};
use crate::{engine::ModelStatus, settings::Settings, wire::error::WireError};

/// Milliseconds after which a client may retry.
const RETRY_MS: u64 = 1000;
/// The time for the last answers after the end of loading.
const CLOSING: Duration = Duration::from_secs(2);

/// A running waiting server.
pub struct WaitingServer {
    handle: ServerHandle,
    server: JoinHandle<std::io::Result<()>>,
}

/// Starts the waiting server on a bound listener.
///
/// # Errors
/// The threads cannot be started.
pub fn serve(
    listener: TcpListener,
    settings: &Settings,
    progress: watch::Receiver<Vec<ModelStatus>>,
) -> std::io::Result<WaitingServer> {
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(progress.clone()))
            .wrap(from_fn(reply::finish))
            .service(resource("/healthz", [get(probes::healthy)]))
            .service(resource("/readyz", [get(ready)]))
            .default_service(web::to(later))
    })
    .workers(1)
    // A kept connection would end with this server.
    .keep_alive(KeepAlive::Disabled)
    .client_request_timeout(Duration::from_millis(settings.server.handshake_timeout_ms))
    .shutdown_timeout(CLOSING.as_secs())
    .disable_signals()
    .listen(listener)?
    .run();
    Ok(WaitingServer { handle: server.handle(), server: tokio::spawn(server) })
}

impl WaitingServer {
    /// Ends the server after the answers in progress.
    pub async fn end(self) {
        self.handle.stop(true).await;
        let _ = self.server.await;
    }
}

async fn ready(progress: web::Data<watch::Receiver<Vec<ModelStatus>>>) -> HttpResponse {
    let models = progress.borrow().clone();
    HttpResponse::ServiceUnavailable().json(json!({"status": "loading", "models": models}))
}

async fn later(request: HttpRequest, progress: web::Data<watch::Receiver<Vec<ModelStatus>>>) -> HttpResponse {
    let (loaded, all) = {
        let models = progress.borrow();
        (models.iter().filter(|model| model.loaded).count(), models.len())
    };
    let error = WireError::Loading { loaded, all, retry_after_ms: RETRY_MS };
    if !is_page(&request) {
        return HttpResponse::from_error(ApiError(error));
    }
    HttpResponse::ServiceUnavailable()
        .content_type("text/html; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::CONTENT_SECURITY_POLICY, PAGE_POLICY))
        .insert_header((header::RETRY_AFTER, RETRY_MS.div_ceil(1000).to_string()))
        .insert_header((header::REFRESH, RETRY_MS.div_ceil(1000).to_string()))
        .body(page(loaded, all))
}

/// Returns whether a browser requests a page.
fn is_page(request: &HttpRequest) -> bool {
    let accepted = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    request.method() == Method::GET && accepted.contains("text/html")
}

/// The content security policy of the page.
const PAGE_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Renders the page. It has no script; the header `Refresh` reloads it.
fn page(loaded: usize, all: usize) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Loading · Caudal</title>\
         <style>:root{{color-scheme:light dark}}body{{font:1rem/1.5 system-ui,sans-serif;margin:20vh auto;max-width:30rem;\
         padding:0 1rem}}</style><h1>The models are loading</h1>\
         <p role=\"status\">{loaded} of {all} are there. This page opens by itself.</p></html>\n"
    )
}
