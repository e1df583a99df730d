//! The bodies of requests: read within a deadline, decompressed, counted, parsed off the connection's thread where they are large.

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

/// Parses a body. What was held of its tenant is held until the request is answered, and what its values take when they are parsed.
async fn parse(request: &HttpRequest, Body { bytes, mut held }: Body) -> Result<Value, WireError> {
    let (length, counted) = (bytes.len(), bytes.clone());
    let values = beside(length, move || count_values(&counted)).await?;
    held.grow(values * VALUE_BYTES)?;
    request.extensions_mut().insert(held);
    beside(length, move || serde_json::from_slice(&bytes).map_err(|error| WireError::InvalidJson(error.to_string())))
        .await
}

/// Reads a request out of a JSON body, off the connection's thread: it may take as long as the body is large.
pub async fn parsed<T: Send + 'static>(body: Value, from: fn(Value) -> Result<T, WireError>) -> Result<T, WireError> {
    beside(PARSED_BESIDE_BYTES, move || from(body)).await
}

/// Runs what takes as long as a client's `bytes` are many, off the connection's thread if they are many.
pub async fn beside<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, WireError> + Send + 'static,
) -> Result<T, WireError> {
    if bytes < PARSED_BESIDE_BYTES {
        return work();
    }
    web::block(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "reading a request panicked");
        Err(WireError::EngineFailed)
    })
}

/// How a body is compressed.
#[derive(Clone, Copy)]
enum Encoding {
    Gzip,
    Zstd,
}

/// Reads a body within its deadline, and decompresses it. Bounded before and after.
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
        // Off the connections' thread.
        let decoded = web::block(move || decode(encoding, body, limit)).await;
        decoded.unwrap_or_else(|_| Err(broken("the server is shutting down")))
    };
    let count = move |error: &WireError| {
        // What exceeds other limits has been counted by who counts it.
        if let (Some(edge), WireError::MessageTooLarge { .. } | WireError::BodyTimeout) = (&edge, error) {
            edge.generations.metrics.refused(error);
        }
    };
    body.map(|body: Result<_, WireError>| body.inspect_err(count)).boxed_local()
}

/// Reads a body piece by piece; each is counted when it arrives.
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
                WireError::InvalidRequest { param: None, message: "The body ended before it was whole.".into() }
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

/// A body that has arrived, and what is held for it.
struct Body {
    bytes: web::Bytes,
    held: HeldBody,
}

/// The share of its tenant's budget that a request's body holds. A request without a tenant holds none, and reaches no handler.
struct HeldBody(Option<(Arc<Generations>, BudgetShare)>);

impl HeldBody {
    fn new(request: &HttpRequest) -> Result<Self, WireError> {
        let Some(edge) = request.app_data::<web::Data<Edge>>() else { return Ok(Self(None)) };
        let Ok(Tenant(tenant)) = Tenant::of(request) else { return Ok(Self(None)) };
        let held = edge.generations.hold(&tenant, 0)?;
        Ok(Self(Some((edge.generations.clone(), held))))
    }

    /// # Errors
    /// `rate_limit_exceeded` when the tenant would hold too much; it is counted.
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

/// Decompresses a body. Each piece is counted before the next is made.
///
/// # Errors
/// `message_too_large` for more than `limit` bytes, and those of [`HeldBody::grow`].
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
