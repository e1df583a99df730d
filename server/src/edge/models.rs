//! `GET /v1/models`: what is served, and what it can do.

use actix_web::{HttpResponse, web};
use serde::Serialize;

use super::{Edge, api::Answer, auth::Tenant};
use crate::{
    engine::{ModelInfo, model::SamplingDefaults},
    wire::error::WireError,
};

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    aliases: &'a [String],
    context_length: u32,
    quantisation: Option<&'a str>,
    adapters: &'a [String],
    sampling: SamplingDefaults,
    capabilities: Capabilities,
}

#[derive(Serialize)]
struct Capabilities {
    structured_output: bool,
    logprobs: bool,
    /// Who tells the model of its tools: `template` or `prompt`.
    tools: &'static str,
    reasoning: bool,
}

pub async fn list(edge: web::Data<Edge>, _: Tenant) -> Answer {
    let models = edge.generations.engine().models();
    let data = models.iter().map(|model| Model::of(model)).collect();
    Ok(HttpResponse::Ok().json(List { object: "list", data }))
}

pub async fn one(edge: web::Data<Edge>, _: Tenant, name: web::Path<String>) -> Answer {
    let models = edge.generations.engine().models();
    let model = models.iter().find(|model| model.is_called(&name));
    let model = model.ok_or_else(|| WireError::ModelNotFound(name.into_inner()))?;
    Ok(HttpResponse::Ok().json(Model::of(model)))
}

impl<'a> Model<'a> {
    fn of(model: &'a ModelInfo) -> Self {
        Self {
            id: &model.id,
            object: "model",
            created: model.created,
            owned_by: "caudal",
            aliases: &model.aliases,
            context_length: model.context_length,
            quantisation: model.quantisation.as_deref(),
            adapters: &model.adapters,
            sampling: model.sampling,
            capabilities: Capabilities {
                structured_output: true,
                logprobs: true,
                tools: if model.dialect.template_has_tools { "template" } else { "prompt" },
                reasoning: model.dialect.reasoning.is_some(),
            },
        }
    }
}
