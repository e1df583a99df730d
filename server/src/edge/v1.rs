//! Every route, in one table. A path that is known answers other methods with 405 and `Allow`; HEAD is answered as GET.

use actix_web::{
    HttpRequest, HttpResponse, Resource, Route,
    http::{Method, header},
    web,
};
use serde_json::json;

use super::{
    admin, auth, chat, client_secrets, compact, conversations, http, input_tokens, model_file, models, prompts, ws,
};
use crate::edge::Edge;

/// The routes under `/v1`.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .default_service(web::to(unknown))
        .service(resource("/models", [get(models::list)]))
        // This route comes before that of the ids, which may have slashes.
        .service(resource("/models/{id:.+}/file", [get(model_file::get)]))
        .service(resource("/models/{id:.+}", [get(models::one)]))
        .service(resource("/responses", [get(ws::upgrade), post(http::create)]))
        // Before the ids.
        .service(resource("/responses/compact", [post(compact::create)]))
        .service(resource("/responses/input_tokens", [post(input_tokens::count)]))
        .service(resource("/responses/{id}", [get(http::retrieve), delete(http::delete)]))
        .service(resource("/responses/{id}/cancel", [post(http::cancel)]))
        .service(resource("/responses/{id}/input_items", [get(http::input_items)]))
        .service(resource("/client_secrets", [post(client_secrets::create)]))
        .service(resource("/chat/completions", [post(chat::create)]))
        .service(resource("/conversations", [get(conversations::list_all), post(conversations::create)]))
        .service(resource(
            "/conversations/{id}",
            [get(conversations::retrieve), post(conversations::update), delete(conversations::delete)],
        ))
        .service(resource("/conversations/{id}/fork", [post(conversations::fork)]))
        .service(resource("/conversations/{id}/items", [get(conversations::items), post(conversations::append)]))
        .service(resource(
            "/conversations/{id}/items/{item}",
            [get(conversations::item), delete(conversations::remove_item)],
        ))
        .service(resource("/prompts", [get(prompts::list_all), post(prompts::put)]))
        .service(resource("/prompts/{id}", [get(prompts::retrieve), delete(prompts::delete)]));
}

/// The routes under `/admin`.
pub fn admin_routes(config: &mut web::ServiceConfig) {
    config
        .default_service(web::to(unknown))
        .service(resource("/models/{id:.+}/reload", [post(admin::reload)]))
        .service(resource("/cache", [get(admin::cache)]))
        .service(resource("/metrics", [get(admin::metrics)]));
}

/// `/admin` where it is served on an address of its own.
pub fn no_routes(config: &mut web::ServiceConfig) {
    config.default_service(web::to(unknown));
}

/// The scope of `/v1`, open to browsers of allowed origins.
pub fn scope(edge: web::Data<Edge>) -> impl actix_web::dev::HttpServiceFactory {
    web::scope("/v1").wrap(auth::cors(edge)).configure(routes)
}

/// A method and who answers it.
pub type Handled = (Method, Route);

pub fn get<F, Args>(handler: F) -> Handled
where
    F: actix_web::Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: actix_web::Responder + 'static,
{
    (Method::GET, web::get().to(handler))
}

fn post<F, Args>(handler: F) -> Handled
where
    F: actix_web::Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: actix_web::Responder + 'static,
{
    (Method::POST, web::post().to(handler))
}

fn delete<F, Args>(handler: F) -> Handled
where
    F: actix_web::Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: actix_web::Responder + 'static,
{
    (Method::DELETE, web::delete().to(handler))
}

/// A path with its methods.
pub fn resource<const N: usize>(path: &str, handled: [Handled; N]) -> Resource {
    let mut allowed: Vec<&str> = handled.iter().map(|(method, _)| method.as_str()).collect();
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    allowed.push("OPTIONS");
    let allow = allowed.join(", ");
    let resource = handled.into_iter().fold(web::resource(path), |resource, (_, route)| resource.route(route));
    resource.default_service(web::to(move |request: HttpRequest| {
        let allow = allow.clone();
        async move { not_allowed(&request, &allow) }
    }))
}

/// The answer for a method that a path does not take.
pub fn not_allowed(request: &HttpRequest, allow: &str) -> HttpResponse {
    let method = request.method();
    if method == Method::OPTIONS {
        return HttpResponse::NoContent().insert_header((header::ALLOW, allow)).finish();
    }
    let message = format!("{} takes {allow}, not {method}.", request.path());
    HttpResponse::MethodNotAllowed().insert_header((header::ALLOW, allow)).json(error("method_not_allowed", &message))
}

/// The answer for a path that nobody knows.
pub async fn unknown(request: HttpRequest) -> HttpResponse {
    let (method, path) = (request.method(), request.path());
    let mut message = format!("There is no {method} {path} here");
    if let Some(wrong) = wrong_base(path) {
        let at = request.connection_info();
        message.push_str(&format!("; {wrong}: set the base URL to {}://{}/v1", at.scheme(), at.host()));
    }
    message.push('.');
    HttpResponse::NotFound().json(error("not_found", &message))
}

/// What is wrong with the base URL of a client that asks for this path, if anything is.
fn wrong_base(path: &str) -> Option<&'static str> {
    const UNDER_V1: [&str; 6] = ["responses", "chat", "models", "conversations", "prompts", "client_secrets"];
    let mut names = path.trim_start_matches('/').split('/');
    match (names.next()?, names.next()) {
        ("v1", Some("v1")) => Some("the path has /v1 twice"),
        (first, _) if UNDER_V1.contains(&first) => Some("the API is under /v1"),
        _ => None,
    }
}

fn error(code: &str, message: &str) -> serde_json::Value {
    json!({"error": {"type": "invalid_request_error", "code": code, "message": message, "param": null}})
}
