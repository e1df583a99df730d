//! Routing of a path. A known path answers other methods with 405 and `Allow`, and HEAD like GET. The answer to an unknown path
//! names the likely mistake.

use actix_web::{
    HttpRequest, HttpResponse, Resource, Route,
    http::{Method, header},
    web,
};
use serde_json::json;

/// A method and its handler.
pub type Handled = (Method, Route);

pub fn get<F, Args>(handler: F) -> Handled
where
    F: actix_web::Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: actix_web::Responder + 'static,
{
    (Method::GET, web::get().to(handler))
}

pub fn post<F, Args>(handler: F) -> Handled
where
    F: actix_web::Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: actix_web::Responder + 'static,
{
    (Method::POST, web::post().to(handler))
}

pub fn delete<F, Args>(handler: F) -> Handled
where
    F: actix_web::Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: actix_web::Responder + 'static,
{
    (Method::DELETE, web::delete().to(handler))
}

/// Builds the resource of a path with its methods.
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

/// Returns the answer for a method that the path does not accept.
pub fn not_allowed(request: &HttpRequest, allow: &str) -> HttpResponse {
    let method = request.method();
    if method == Method::OPTIONS {
        return HttpResponse::NoContent().insert_header((header::ALLOW, allow)).finish();
    }
    let message = format!("{} accepts {allow}, not {method}.", request.path());
    HttpResponse::MethodNotAllowed().insert_header((header::ALLOW, allow)).json(error("method_not_allowed", &message))
}

/// Returns the answer for an unknown path.
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

/// Returns the likely mistake in the base URL of a client that requests this path.
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
