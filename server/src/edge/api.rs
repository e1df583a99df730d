//! What HTTP handlers share: how errors are answered and how bodies are read.

use std::{io::Read, time::Duration};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse, ResponseError,
    dev::Payload,
    error::PayloadError,
    http::{StatusCode, header},
    web,
};
use futures::{FutureExt, future::LocalBoxFuture};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Edge, reply::closing};
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
            response.insert_header((header::RETRY_AFTER, ms.div_ceil(1000).to_string()));
            response.insert_header(("retry-after-ms", ms.to_string()));
        }
        match self.0 {
            WireError::InvalidApiKey => {
                response.insert_header((header::WWW_AUTHENTICATE, "Bearer realm=\"caudal\""));
            }
            WireError::UnsupportedEncoding => {
                response.insert_header((header::ACCEPT_ENCODING, ENCODINGS));
            }
            _ => {}
        }
        let response = response.json(json!({"error": self.0.body()}));
        // The rest of the body is not read.
        let unread = matches!(self.0, WireError::BodyTimeout | WireError::MessageTooLarge { .. });
        if unread { closing(response) } else { response }
    }
}

pub type Answer = Result<HttpResponse, ApiError>;

/// How bodies may be compressed.
const ENCODINGS: &str = "gzip, zstd";
/// The log of the largest window that a compressed body may need, in bytes: 8 MiB, zstd's own recommendation.
const WINDOW_LOG: u32 = 23;

/// A JSON body, from a sender that says it is JSON: a web page cannot do so to another origin without asking first.
pub struct JsonBody(pub Value);

/// A JSON body, or none.
pub struct OptionalJson(pub Option<Value>);

impl FromRequest for JsonBody {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let is_json = is_json(request);
        let body = read(request, payload);
        async move {
            if !is_json {
                return Err(WireError::UnsupportedMediaType.into());
            }
            Ok(Self(parse(&body.await?)?))
        }
        .boxed_local()
    }
}

impl FromRequest for OptionalJson {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let is_json = is_json(request);
        let body = read(request, payload);
        async move {
            let body = body.await?;
            match (body.is_empty(), is_json) {
                (true, _) => Ok(Self(None)),
                (_, false) => Err(WireError::UnsupportedMediaType.into()),
                _ => Ok(Self(Some(parse(&body)?))),
            }
        }
        .boxed_local()
    }
}

fn is_json(request: &HttpRequest) -> bool {
    request.content_type().eq_ignore_ascii_case("application/json")
}

fn parse(body: &[u8]) -> Result<Value, WireError> {
    serde_json::from_slice(body).map_err(|error| WireError::InvalidJson(error.to_string()))
}

/// How a body is compressed.
#[derive(Clone, Copy)]
enum Encoding {
    Gzip,
    Zstd,
}

/// Reads a body within its deadline, and decompresses it. Bounded before and after.
fn read(request: &HttpRequest, payload: &mut Payload) -> LocalBoxFuture<'static, Result<web::Bytes, WireError>> {
    let settings = request.app_data::<web::Data<Edge>>().map(|edge| &edge.settings.server);
    let (limit, deadline) = settings.map_or((0, 0), |server| (server.max_message_bytes, server.body_timeout_ms));
    let encoding = encoding(request);
    let body = web::Bytes::from_request(request, payload);
    async move {
        let encoding = encoding?;
        let too_large = || WireError::MessageTooLarge { limit };
        let body = timeout(Duration::from_millis(deadline), body).await.map_err(|_| WireError::BodyTimeout)?;
        let body = body.map_err(|error| match error.as_error() {
            Some(PayloadError::Overflow) => too_large(),
            _ => WireError::InvalidRequest { param: None, message: format!("The body cannot be read: {error}.") },
        })?;
        let Some(encoding) = encoding else { return Ok(body) };
        // Off the connections' thread.
        let decoded = web::block(move || decode(encoding, &body, limit)).await;
        let decoded = decoded.unwrap_or_else(|_| Err(std::io::Error::other("the server is shutting down")));
        let decoded = decoded.map_err(|error| WireError::InvalidRequest {
            param: None,
            message: format!("The body cannot be decompressed: {error}."),
        })?;
        if decoded.len() > limit { Err(too_large()) } else { Ok(decoded.into()) }
    }
    .boxed_local()
}

fn encoding(request: &HttpRequest) -> Result<Option<Encoding>, WireError> {
    let Some(encoding) = request.headers().get(header::CONTENT_ENCODING) else { return Ok(None) };
    match encoding.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(None),
        "gzip" | "x-gzip" => Ok(Some(Encoding::Gzip)),
        "zstd" => Ok(Some(Encoding::Zstd)),
        _ => Err(WireError::UnsupportedEncoding),
    }
}

/// At most `limit` bytes and one more of what the body says.
fn decode(encoding: Encoding, body: &[u8], limit: usize) -> std::io::Result<Vec<u8>> {
    let mut decoded = Vec::new();
    let most = limit as u64 + 1;
    match encoding {
        Encoding::Gzip => flate2::read::MultiGzDecoder::new(body).take(most).read_to_end(&mut decoded)?,
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(body)?;
            decoder.window_log_max(WINDOW_LOG)?;
            decoder.take(most).read_to_end(&mut decoded)?
        }
    };
    Ok(decoded)
}
