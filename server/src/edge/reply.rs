//! The parts that every answer has: a request id, the security headers, and the framing for the request's HTTP version and
//! method.

use actix_web::{
    Error, HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, StatusCode, Version,
        header::{self, HeaderName, HeaderValue},
    },
    middleware::Next,
};
use tracing::Instrument;

use super::error::{ApiError, closing};
use crate::{random::random_hex, wire::error::WireError};

/// The id of a request. Clients show it in their errors.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers that forbid frames, guesses about the content type, and use by pages of other sites.
const SECURITY: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];
/// The policy of an answer that is not a page. A browser that shows it as a page loads and runs nothing.
const NO_PAGE: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Wraps every route.
pub async fn finish(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let head = request.method() == Method::HEAD;
    if head {
        request.head_mut().method = Method::GET;
    }
    let (version, id) = (request.version(), format!("req_{}", random_hex()));
    let answer = if takes_no_upgrade(&request) {
        let error = WireError::invalid("upgrade", "Only GET can be upgraded to a WebSocket.");
        let refused = HttpResponse::from_error(ApiError(error));
        request.into_response(closing(refused))
    } else {
        let span = tracing::error_span!("request", id);
        next.call(request).instrument(span).await?.map_into_boxed_body()
    };
    Ok(dressed(answer, head, (version, &id)))
}

/// Returns whether a request with another method than GET asks for a WebSocket. Its body would have no end.
fn takes_no_upgrade(request: &ServiceRequest) -> bool {
    let upgrade = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    request.method() != Method::GET && upgrade.to_ascii_lowercase().contains("websocket")
}

fn dressed(
    mut answer: ServiceResponse<BoxBody>,
    head: bool,
    (version, id): (Version, &str),
) -> ServiceResponse<BoxBody> {
    let response = answer.response_mut();
    if version < Version::HTTP_11 && response.body().size() == BodySize::Stream {
        // HTTP/1.0 has no chunks, so the end of the connection ends the body.
        response.head_mut().no_chunking(true);
        response.head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
    }
    let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    // An upgrade has no content that a browser could show, so it needs no security headers.
    if !is_upgrade {
        for (name, value) in SECURITY {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if !headers.contains_key(header::CONTENT_SECURITY_POLICY) {
            headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(NO_PAGE));
        }
    }
    let content_type = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_json = content_type.is_some_and(|kind| kind.starts_with("application/json"));
    if is_json && !answer.headers().contains_key(header::CACHE_CONTROL) {
        answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    // HEAD does not start a stream. Other bodies keep the length that GET has.
    if head && answer.response().body().size() == BodySize::Stream {
        return answer.map_body(|_, _| BoxBody::new(()));
    }
    answer
}
