//! `GET /healthz` and `/readyz`.

use actix_web::{HttpResponse, web};

use crate::{
    edge::state::Edge,
    wire::object::{LoadedModel, Readiness},
};

/// Returns 200 while the process runs.
pub async fn healthy() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("ok\n")
}

/// Returns 200 if the server accepts requests, otherwise 503. The body lists the models with their states.
pub async fn ready(edge: web::Data<Edge>) -> HttpResponse {
    let models = edge.generations.engine().status();
    let models = models.into_iter().map(|model| LoadedModel { id: model.id, loaded: model.loaded }).collect();
    match edge.generations.ready() {
        Ok(()) => HttpResponse::Ok().json(Readiness { status: "ready", models }),
        Err(status) => HttpResponse::ServiceUnavailable().json(Readiness { status, models }),
    }
}
