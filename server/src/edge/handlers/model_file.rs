//! `GET /v1/models/{id}/file`: the file of a model, for an engine in the browser. Refuses a model that is not shared.

use std::{io::SeekFrom, path::Path};

use actix_web::{
    HttpRequest, HttpResponse,
    body::SizedStream,
    http::{
        StatusCode,
        header::{self, ContentRange, ContentRangeSpec, ETag, EntityTag, Header, IfNoneMatch, IfRange, Range},
    },
    web,
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
};
use tokio_util::io::ReaderStream;

use crate::{
    edge::{error::Answer, extract::Identified, grants, query::Query, state::Edge},
    engine::ModelInfo,
    wire::error::WireError,
};

/// Bytes of one read.
const PIECE: usize = 256 << 10;
/// `Cache-Control` of a URL with the file's sum, whose content never changes. The cache is private because keys differ in the
/// models that they may use.
const FOR_EVER: &str = "private, max-age=31536000, immutable";

/// Returns the file, or the requested range. With `?sha256=` the file must have this sum.
pub async fn get(
    edge: web::Data<Edge>,
    Identified(identity): Identified,
    mut query: Query,
    request: HttpRequest,
) -> Answer {
    let wanted_sum = query.text("sha256")?;
    query.end()?;
    let name = request.match_info().query("id");
    let models = edge.generations.engine().models();
    let model = models.iter().find(|model| model.is_called(name));
    let model = model.ok_or_else(|| WireError::ModelNotFound(name.to_owned()))?;
    grants::check_model(&edge, &identity, model)?;
    let path = model.shared_file.as_deref().ok_or_else(|| not_shared(model))?;
    let unreadable = |error| unreadable(path, &error);
    let mut file = File::open(path).await.map_err(|error| unreadable(error.into()))?;
    let meta = file.metadata().await.map_err(|error| unreadable(error.into()))?;
    let (bytes, modified) = (meta.len(), meta.modified().ok());
    let sum = edge.sums.of(path, (bytes, modified)).await.map_err(unreadable)?;
    if wanted_sum.as_ref().is_some_and(|wanted| *wanted != sum) {
        return Err(WireError::FileReplaced(model.id.clone()).into());
    }
    let etag = EntityTag::new_strong(format!("sha256-{sum}"));
    let caching = if wanted_sum.is_some() { FOR_EVER } else { "private, no-cache" };
    let mut answer = HttpResponse::Ok();
    answer
        .insert_header(ETag(etag.clone()))
        .insert_header((header::CACHE_CONTROL, caching))
        .insert_header((header::ACCEPT_RANGES, "bytes"));
    if request.headers().contains_key(header::IF_NONE_MATCH) && !is_news(&request, &etag) {
        return Ok(answer.status(StatusCode::NOT_MODIFIED).finish());
    }
    let (from, to) = match wanted_range(&request, &etag, bytes) {
        Wanted::Whole => (0, bytes),
        Wanted::Part(first, last) => {
            let range = ContentRangeSpec::Bytes { range: Some((first, last)), instance_length: Some(bytes) };
            answer.status(StatusCode::PARTIAL_CONTENT).insert_header(ContentRange(range));
            (first, last + 1)
        }
        Wanted::Nothing => {
            let range = ContentRangeSpec::Bytes { range: None, instance_length: Some(bytes) };
            let mut refused = HttpResponse::RangeNotSatisfiable();
            return Ok(refused.insert_header(ETag(etag)).insert_header(ContentRange(range)).finish());
        }
    };
    file.seek(SeekFrom::Start(from)).await.map_err(|error| unreadable(error.into()))?;
    let pieces = ReaderStream::with_capacity(file.take(to - from), PIECE);
    Ok(answer.content_type("application/octet-stream").body(SizedStream::new(to - from, pieces)))
}

enum Wanted {
    Whole,
    /// First and last byte.
    Part(u64, u64),
    /// The range is outside the file.
    Nothing,
}

/// Parses `Range` and `If-Range`. Several ranges, or a range of another version of the file, return the whole file.
fn wanted_range(request: &HttpRequest, etag: &EntityTag, bytes: u64) -> Wanted {
    let Ok(Range::Bytes(ranges)) = Range::parse(request) else { return Wanted::Whole };
    if request.headers().contains_key(header::IF_RANGE) {
        match IfRange::parse(request) {
            Ok(IfRange::EntityTag(known)) if known.strong_eq(etag) => {}
            _ => return Wanted::Whole,
        }
    }
    match ranges.as_slice() {
        [range] => range.to_satisfiable_range(bytes).map_or(Wanted::Nothing, |(first, last)| Wanted::Part(first, last)),
        _ => Wanted::Whole,
    }
}

/// Returns whether `If-None-Match` does not name this version of the file.
fn is_news(request: &HttpRequest, etag: &EntityTag) -> bool {
    match IfNoneMatch::parse(request) {
        Ok(IfNoneMatch::Items(known)) => !known.iter().any(|tag| tag.weak_eq(etag)),
        Ok(IfNoneMatch::Any) => false,
        Err(_) => true,
    }
}

fn not_shared(model: &ModelInfo) -> WireError {
    let message = format!("The file of the model '{}' is not shared (engine.models[].share).", model.id);
    WireError::InsufficientPermissions(message)
}

/// Logs the reason for the operator. Returns an error without the reason for the client.
fn unreadable(path: &Path, error: &anyhow::Error) -> WireError {
    tracing::error!(path = %path.display(), error = format!("{error:#}"), "the file of a model cannot be read");
    WireError::EngineFailed
}
