//! The chat page: the files of one folder, at `/`. What is no file there is answered as every unknown path is.

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

/// The page's policy: it loads from this server and connects to it, and to no other. `'self'` holds for its WebSockets as well. The engine in
/// the browser is WebAssembly, and begins its workers from text that it brings (`blob:`).
const POLICY: &str = "default-src 'self'; connect-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Headers that isolate the page from other origins. Only an isolated page has threads in WebAssembly.
const ISOLATION: [(&str, &str); 2] =
    [("cross-origin-opener-policy", "same-origin"), ("cross-origin-embedder-policy", "require-corp")];

/// The folder of the built page, if there is one. Warns of a folder that was set and has no page.
pub fn folder(settings: &ServerSettings) -> Option<PathBuf> {
    let set = &settings.chat_dir;
    let is_set = !set.as_os_str().is_empty();
    let dir = if is_set { set.clone() } else { std::env::current_exe().ok()?.parent()?.join("chat") };
    if dir.join("index.html").is_file() {
        return Some(dir);
    }
    if is_set {
        tracing::warn!("server.chat_dir: {} has no index.html, so there is no chat page", set.display());
    }
    None
}

/// `/` and the page's files.
pub fn scope(dir: &Path) -> impl HttpServiceFactory + use<> {
    let headers = DefaultHeaders::new().add((header::CONTENT_SECURITY_POLICY, POLICY));
    web::scope("")
        .wrap(ISOLATION.into_iter().fold(headers, DefaultHeaders::add))
        .wrap(from_fn(file_or_unknown))
        .service(Files::new("/", dir).index_file("index.html"))
}

/// `/` where there is no page.
pub async fn missing() -> HttpResponse {
    HttpResponse::NotFound()
        .body("The chat page is not built. Build it with `make chat`, or set server.chat_dir to its folder.\n")
}

/// actix-files refuses every method but GET, whatever the path, and answers what it does not have without a body.
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
