//! The outer middleware of every route: checks the host name of the request; logs, counts and delays refusals; logs calls of
//! `/admin`. Does not check keys.

use std::net::IpAddr;

use actix_web::{
    Error, HttpMessage, HttpResponse,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{Version, header},
    middleware::Next,
    web,
};

use super::{
    error::{ApiError, closing},
    peer,
    refusal::{self, Refusal},
    state::Edge,
};
use crate::wire::error::WireError;

/// Wraps every route.
pub async fn pass(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let Some(edge) = request.app_data::<web::Data<Edge>>().cloned() else {
        return next.call(request).await.map(ServiceResponse::map_into_boxed_body);
    };
    let address = peer::address(request.head(), &edge.settings.server.trusted_proxies);
    let is_admin = request.path().starts_with("/admin/");
    let answer = match misnamed(&request, &edge, is_admin) {
        Some(error) => {
            if matches!(error, WireError::Misdirected) {
                request.extensions_mut().insert(Refusal { reason: "host", tenant: None });
            }
            request.into_response(closing(HttpResponse::from_error(ApiError(error))))
        }
        None => next.call(request).await?.map_into_boxed_body(),
    };
    let status = answer.status().as_u16();
    let head = answer.request().head();
    let (method, path) = (head.method.as_str(), head.uri.path());
    // An encoded path may match a route of `/admin` without the literal prefix.
    let called = answer.request().match_pattern().is_some_and(|route| route.starts_with("/admin/"));
    if is_admin || called {
        tracing::info!(address = %shown(address), method, path = shorten(path), status, "an admin call");
    }
    let refusal = answer.request().extensions().get::<Refusal>().cloned();
    if let Some(Refusal { reason, tenant }) = refusal {
        edge.generations.metrics.denied(reason);
        let count = edge.refusals.count(address);
        if refusal::is_logged(count) {
            let tenant = tenant.as_deref().unwrap_or("-");
            tracing::warn!(address = %shown(address), tenant, reason, method, path = shorten(path), status, count, "refused");
        }
        tokio::time::sleep(refusal::delay(count)).await;
    }
    Ok(answer)
}

/// Returns the error for a request whose host name is missing, ambiguous or not served. Routes of `/admin` accept any host name,
/// because they always need a key.
fn misnamed(request: &ServiceRequest, edge: &Edge, is_admin: bool) -> Option<WireError> {
    let head = request.head();
    let given = head.headers.get_all(header::HOST).count();
    let named = given == 1 || given == 0 && (head.version != Version::HTTP_11 || head.uri.authority().is_some());
    if !named {
        return Some(WireError::invalid("host", "A request must have exactly one Host header."));
    }
    let misdirected = || Some(WireError::Misdirected);
    let Some(hosts) = peer::hosts(head, &edge.settings.server.trusted_proxies) else { return misdirected() };
    if is_admin || hosts.iter().all(|host| edge.hosts.serves(host)) { None } else { misdirected() }
}

fn shown(address: Option<IpAddr>) -> String {
    address.map_or_else(|| "-".to_owned(), |address| address.to_string())
}

/// Cuts a path for the log, because clients choose its length.
fn shorten(path: &str) -> &str {
    path.get(..path.len().min(100)).unwrap_or("")
}
