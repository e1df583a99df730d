//! `GET /healthz` and `/readyz`.

use actix_web::{HttpResponse, web};

use crate::{
    edge::state::Edge,
    wire::object::{LoadedModel, Readiness},
};

/// 200 as long as the process lives.
pub async fn healthy() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("ok\n")
}

/// 200 once every model is loaded; those that still load are told.
pub async fn ready(edge: web::Data<Edge>) -> HttpResponse {
    let models = edge.generations.engine().status();
    let models = models.into_iter().map(|model| LoadedModel { id: model.id, loaded: model.loaded }).collect();
    match edge.generations.ready() {
        Ok(()) => HttpResponse::Ok().json(Readiness { status: "ready", models }),
        Err(status) => HttpResponse::ServiceUnavailable().json(Readiness { status, models }),
    }
}
