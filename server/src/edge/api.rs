//! What HTTP handlers share: how errors are answered and how bodies are read.

use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse, ResponseError, dev::Payload, error::PayloadError,
    http::StatusCode, web,
};
use futures::{FutureExt, future::LocalBoxFuture};
use serde_json::{Value, json};

use crate::wire::error::WireError;

/// An error as an HTTP answer: its status, `{error: {…}}`, `Retry-After` where a retry makes sense.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ApiError(#[from] pub WireError);

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.code().1).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let Some(ms) = self.0.retry_after_ms() {
            response.insert_header(("Retry-After", ms.div_ceil(1000).to_string()));
        }
        response.json(json!({"error": self.0.body()}))
    }
}

pub type Answer = Result<HttpResponse, ApiError>;

/// A JSON body, from a sender that says it is JSON: a web page cannot do so to another origin without asking first.
pub struct JsonBody(pub Value);

impl FromRequest for JsonBody {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let is_json = request.content_type().eq_ignore_ascii_case("application/json");
        let body = web::Bytes::from_request(request, payload);
        async move {
            if !is_json {
                return Err(WireError::invalid("content-type", "The content type must be application/json.").into());
            }
            let body = body.await.map_err(|error| match error.as_error() {
                Some(PayloadError::Overflow) => WireError::BodyTooLarge,
                _ => WireError::InvalidRequest { param: None, message: error.to_string() },
            })?;
            Ok(Self(serde_json::from_slice(&body).map_err(|e| WireError::InvalidJson(e.to_string()))?))
        }
        .boxed_local()
    }
}
