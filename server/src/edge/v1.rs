//! Every route, in one table.

use actix_web::{dev::HttpServiceFactory, web};

use super::{
    cors::cors,
    handlers::{
        admin, chat, client_secrets, compact, contract, conversations, input_tokens, model_file, models, probes,
        prompts, responses,
    },
    resource::{delete, get, post, resource, unknown},
    state::Edge,
    ws,
};

/// Builds the scope of `/v1`, with CORS for allowed origins.
pub fn v1(edge: web::Data<Edge>) -> impl HttpServiceFactory {
    web::scope("/v1").wrap(cors(edge)).configure(v1_routes)
}

/// Adds the routes under `/v1`.
fn v1_routes(config: &mut web::ServiceConfig) {
    config
        .default_service(web::to(unknown))
        .service(resource("/models", [get(models::list)]))
        // Before the route of a model, because an id may have slashes.
        .service(resource("/models/{id:.+}/file", [get(model_file::get)]))
        .service(resource("/models/{id:.+}", [get(models::one)]))
        .service(resource("/responses", [get(ws::upgrade), post(responses::create)]))
        // Before the routes of `{id}`.
        .service(resource("/responses/compact", [post(compact::create)]))
        .service(resource("/responses/input_tokens", [post(input_tokens::count)]))
        .service(resource("/responses/{id}", [get(responses::retrieve), delete(responses::delete)]))
        .service(resource("/responses/{id}/cancel", [post(responses::cancel)]))
        .service(resource("/responses/{id}/input_items", [get(responses::input_items)]))
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

/// Adds the routes under `/admin`.
pub fn admin_routes(config: &mut web::ServiceConfig) {
    config
        .default_service(web::to(unknown))
        .service(resource("/models/{id:.+}/reload", [post(admin::reload)]))
        .service(resource("/cache", [get(admin::cache)]))
        .service(resource("/metrics", [get(admin::metrics)]));
}

/// Adds no route: answers `/admin` like an unknown path if `/admin` has its own address.
pub fn no_routes(config: &mut web::ServiceConfig) {
    config.default_service(web::to(unknown));
}

/// Adds the probes for supervisors and load balancers.
pub fn probe_routes(config: &mut web::ServiceConfig) {
    config.service(resource("/healthz", [get(probes::healthy)])).service(resource("/readyz", [get(probes::ready)]));
}

/// Adds the documents that describe the protocol to other programs.
pub fn document_routes(config: &mut web::ServiceConfig) {
    config
        .service(resource("/openapi.json", [get(contract::openapi)]))
        .service(resource("/asyncapi.json", [get(contract::asyncapi)]));
}
