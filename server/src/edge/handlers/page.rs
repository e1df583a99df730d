//! The chat page: the files of one folder, at `/`. A path without a file gets the answer of an unknown path.

use std::path::{Path, PathBuf};

use actix_files::Files;
use actix_web::{
    Error, HttpResponse,
    body::{BoxBody, MessageBody},
    dev::{HttpServiceFactory, ServiceRequest, ServiceResponse},
    http::{StatusCode, header},
    middleware::{DefaultHeaders, Next, from_fn},
    web,
};

use crate::{
    edge::resource::{not_allowed, unknown},
    settings::ServerSettings,
};

/// The content security policy of the page: it loads from this server only and connects to this server only. `'self'` includes
/// WebSockets. The engine in the browser is WebAssembly and starts its workers from `blob:` URLs.
const POLICY: &str = "default-src 'self'; connect-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Headers that isolate the page from other origins. WebAssembly has threads only on an isolated page.
const ISOLATION: [(&str, &str); 2] =
    [("cross-origin-opener-policy", "same-origin"), ("cross-origin-embedder-policy", "require-corp")];

/// Returns the folder of the built page, if there is one. Warns if the configured folder has no page.
pub fn folder(settings: &ServerSettings) -> Option<PathBuf> {
    let set = &settings.chat_dir;
    let is_set = !set.as_os_str().is_empty();
    let dir = if is_set { set.clone() } else { std::env::current_exe().ok()?.parent()?.join("chat") };
    if dir.join("index.html").is_file() {
        return Some(dir);
    }
    if is_set {
        tracing::warn!("server.chat_dir: {} has no index.html, so the server has no chat page", set.display());
    }
    None
}

/// Builds the scope of `/` with the page's files.
pub fn scope(dir: &Path) -> impl HttpServiceFactory + use<> {
    let headers = DefaultHeaders::new().add((header::CONTENT_SECURITY_POLICY, POLICY));
    web::scope("")
        .wrap(ISOLATION.into_iter().fold(headers, DefaultHeaders::add))
        .wrap(from_fn(file_or_unknown))
        .service(Files::new("/", dir).index_file("index.html"))
}

/// Answers `/` if there is no page.
pub async fn missing() -> HttpResponse {
    HttpResponse::NotFound()
        .body("The chat page is not built. Build it with `make chat`, or set server.chat_dir to its folder.\n")
}

/// Replaces the errors of actix-files: it refuses every method except GET on any path, and answers a missing file without a body.
async fn file_or_unknown(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let (request, response) = next.call(request).await?.map_into_boxed_body().into_parts();
    let response = match response.status() {
        StatusCode::METHOD_NOT_ALLOWED if request.path() == "/" => not_allowed(&request, "GET, HEAD, OPTIONS"),
        status if status.is_client_error() => unknown(request.clone()).await,
        _ => response,
    };
    Ok(ServiceResponse::new(request, response))
}
