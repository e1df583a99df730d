//! `GET /v1/models`: the models that the client may use, with their properties.

use actix_web::{HttpResponse, web};

use crate::{
    edge::{error::Answer, extract::Identified, grants, state::Edge},
    engine::ModelInfo,
    wire::{
        error::WireError,
        object::{Capabilities, ModelList, ModelObject},
    },
};

pub async fn list(edge: web::Data<Edge>, Identified(identity): Identified) -> Answer {
    let models = edge.generations.engine().models();
    let data = models.iter().filter(|model| grants::may_use(&identity, model)).map(|model| object(model)).collect();
    Ok(HttpResponse::Ok().json(ModelList { object: "list", data }))
}

pub async fn one(edge: web::Data<Edge>, Identified(identity): Identified, name: web::Path<String>) -> Answer {
    let models = edge.generations.engine().models();
    let model = models.iter().find(|model| model.is_called(&name));
    let model = model.ok_or_else(|| WireError::ModelNotFound(name.into_inner()))?;
    grants::check_model(&edge, &identity, model)?;
    Ok(HttpResponse::Ok().json(object(model)))
}

fn object(model: &ModelInfo) -> ModelObject<'_> {
    ModelObject {
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
