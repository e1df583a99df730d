//! CORS: answers preflight requests, so that pages of allowed origins may send requests.

use actix_cors::Cors;
use actix_web::web;

use super::state::Edge;

/// Headers that pages of other origins may read.
pub const EXPOSED: [&str; 12] = [
    "etag",
    "content-range",
    "x-request-id",
    "retry-after",
    "retry-after-ms",
    "x-caudal-ignored",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
];

/// Returns the middleware that answers preflight requests of allowed origins.
pub fn cors(edge: web::Data<Edge>) -> Cors {
    Cors::default()
        .allowed_origin_fn(move |origin, _| origin.to_str().is_ok_and(|origin| edge.auth.allows(origin)))
        .allowed_methods(["GET", "HEAD", "POST", "DELETE"])
        // SDKs send their own headers, and every version adds some.
        .allow_any_header()
        .expose_headers(EXPOSED)
        .max_age(3600)
}
