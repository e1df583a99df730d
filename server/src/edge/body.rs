//! The bodies of requests: reads them within a deadline, decompresses them, counts them for the tenant's budget, and parses large
//! ones off the connection's thread.

use std::{fmt::Display, io::Read, sync::Arc, time::Duration};

use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload, error::PayloadError, http::header, web};
use futures::{FutureExt, StreamExt, future::LocalBoxFuture};
use serde_json::Value;
use tokio::time::timeout;

use super::{error::ApiError, extract::Tenant, state::Edge};
use crate::{
    generation::{Generations, budget::BudgetShare},
    limits::{DECOMPRESSED_PIECE_BYTES, PARSED_BESIDE_BYTES, VALUE_BYTES},
    wire::{error::WireError, values::count_values},
};

/// The base-2 logarithm of the largest zstd window of a body, in bytes: 8 MiB, as zstd recommends.
const WINDOW_LOG: u32 = 23;

/// A JSON body with the content type `application/json`. A browser sends this type to another origin only after a preflight
/// request.
pub struct JsonBody(pub Value);

/// An optional JSON body.
pub struct OptionalJson(pub Option<Value>);

impl FromRequest for JsonBody {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (is_json, request) = (is_json(request), request.clone());
        let body = read(&request, payload);
        async move {
            if !is_json {
                return Err(WireError::UnsupportedMediaType.into());
            }
            Ok(Self(parse(&request, body.await?).await?))
        }
        .boxed_local()
    }
}

impl FromRequest for OptionalJson {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (is_json, request) = (is_json(request), request.clone());
        let body = read(&request, payload);
        async move {
            let body = body.await?;
            match (body.bytes.is_empty(), is_json) {
                (true, _) => Ok(Self(None)),
                (_, false) => Err(WireError::UnsupportedMediaType.into()),
                _ => Ok(Self(Some(parse(&request, body).await?))),
            }
        }
        .boxed_local()
    }
}

fn is_json(request: &HttpRequest) -> bool {
    request.content_type().eq_ignore_ascii_case("application/json")
}

/// Parses a body. Its share of the tenant's budget grows by the size of the parsed values, and is held until the request is
/// answered.
async fn parse(request: &HttpRequest, Body { bytes, mut held }: Body) -> Result<Value, WireError> {
    let (length, counted) = (bytes.len(), bytes.clone());
    let values = beside(length, move || count_values(&counted)).await?;
    held.grow(values * VALUE_BYTES)?;
    request.extensions_mut().insert(held);
    beside(length, move || serde_json::from_slice(&bytes).map_err(|error| WireError::InvalidJson(error.to_string())))
        .await
}

/// Validates a JSON body off the connection's thread, because the time grows with the size of the body.
pub async fn parsed<T: Send + 'static>(body: Value, from: fn(Value) -> Result<T, WireError>) -> Result<T, WireError> {
    beside(PARSED_BESIDE_BYTES, move || from(body)).await
}

/// Runs work whose time grows with the number of `bytes`. Work on many bytes runs off the connection's thread.
pub async fn beside<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, WireError> + Send + 'static,
) -> Result<T, WireError> {
    if bytes < PARSED_BESIDE_BYTES {
        return work();
    }
    web::block(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "the parser of a request panicked");
        Err(WireError::EngineFailed)
    })
}

/// The compression of a body.
#[derive(Clone, Copy)]
enum Encoding {
    Gzip,
    Zstd,
}

/// Reads a body within its deadline and decompresses it. The size limit holds before and after.
fn read(request: &HttpRequest, payload: &mut Payload) -> LocalBoxFuture<'static, Result<Body, WireError>> {
    let settings = request.app_data::<web::Data<Edge>>().map(|edge| &edge.settings.server);
    let (limit, deadline) = settings.map_or((0, 0), |server| (server.max_message_bytes, server.body_timeout_ms));
    let encoding = encoding(request);
    let collected = collect(request.clone(), payload.take(), limit);
    let edge = request.app_data::<web::Data<Edge>>().cloned();
    let body = async move {
        let encoding = encoding?;
        let collected = timeout(Duration::from_millis(deadline), collected).await;
        let body = collected.map_err(|_| WireError::BodyTimeout)??;
        let Some(encoding) = encoding else { return Ok(body) };
        // Decompression runs off the connection's thread.
        let decoded = web::block(move || decode(encoding, body, limit)).await;
        decoded.unwrap_or_else(|_| Err(broken("the server is shutting down")))
    };
    let count = move |error: &WireError| {
        // Refusals by other limits are counted where they occur.
        if let (Some(edge), WireError::MessageTooLarge { .. } | WireError::BodyTimeout) = (&edge, error) {
            edge.generations.metrics.refused(error);
        }
    };
    body.map(|body: Result<_, WireError>| body.inspect_err(count)).boxed_local()
}

/// Reads a body piece by piece. Counts each piece when it arrives.
async fn collect(request: HttpRequest, mut payload: Payload, limit: usize) -> Result<Body, WireError> {
    let too_large = || WireError::MessageTooLarge { limit };
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > limit) {
        return Err(too_large());
    }
    let (mut body, mut held) = (web::BytesMut::new(), HeldBody::new(&request)?);
    while let Some(piece) = payload.next().await {
        let piece = piece.map_err(|error| match error {
            PayloadError::Overflow => too_large(),
            PayloadError::Incomplete(_) => {
                WireError::InvalidRequest { param: None, message: "The body ended before it was complete.".into() }
            }
            _ => WireError::InvalidRequest { param: None, message: format!("The body cannot be read: {error}.") },
        })?;
        if body.len() + piece.len() > limit {
            return Err(too_large());
        }
        held.grow(piece.len())?;
        body.extend_from_slice(&piece);
    }
    Ok(Body { bytes: body.freeze(), held })
}

/// A complete body and its share of the tenant's budget.
struct Body {
    bytes: web::Bytes,
    held: HeldBody,
}

/// The share of the tenant's budget that a request's body holds; `None` for a request without a tenant, which no handler receives.
struct HeldBody(Option<(Arc<Generations>, BudgetShare)>);

impl HeldBody {
    fn new(request: &HttpRequest) -> Result<Self, WireError> {
        let Some(edge) = request.app_data::<web::Data<Edge>>() else { return Ok(Self(None)) };
        let Ok(Tenant(tenant)) = Tenant::of(request) else { return Ok(Self(None)) };
        let held = edge.generations.hold(&tenant, 0)?;
        Ok(Self(Some((edge.generations.clone(), held))))
    }

    /// # Errors
    /// `rate_limit_exceeded` if the tenant's budget is exhausted. The refusal is counted in the metrics.
    fn grow(&mut self, bytes: usize) -> Result<(), WireError> {
        match &mut self.0 {
            Some((generations, held)) => generations.hold_more(held, bytes),
            None => Ok(()),
        }
    }
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

/// Decompresses a body. Counts each piece before it makes the next.
///
/// # Errors
/// `message_too_large` for more than `limit` bytes, and the errors of [`HeldBody::grow`].
fn decode(encoding: Encoding, Body { bytes, mut held }: Body, limit: usize) -> Result<Body, WireError> {
    let mut decoder: Box<dyn Read> = match encoding {
        Encoding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(&*bytes)),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&*bytes).map_err(broken)?;
            decoder.window_log_max(WINDOW_LOG).map_err(broken)?;
            Box::new(decoder)
        }
    };
    let mut decoded = Vec::new();
    loop {
        let mut piece = decoder.by_ref().take(DECOMPRESSED_PIECE_BYTES as u64);
        match piece.read_to_end(&mut decoded).map_err(broken)? {
            0 => return Ok(Body { bytes: decoded.into(), held }),
            _ if decoded.len() > limit => return Err(WireError::MessageTooLarge { limit }),
            more => held.grow(more)?,
        }
    }
}

fn broken(error: impl Display) -> WireError {
    WireError::InvalidRequest { param: None, message: format!("The body cannot be decompressed: {error}.") }
}
