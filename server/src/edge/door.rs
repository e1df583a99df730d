//! What every request passes before its handler, and every answer after it: the name by which the server is called is checked,
//! refusals are logged, counted and slowed, and calls of `/admin` are logged. Decides nothing about keys.

use std::{net::IpAddr, time::Duration};

use actix_web::{
    Error, HttpMessage, HttpResponse,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{Version, header},
    middleware::Next,
    web,
};
use moka::sync::Cache;

use super::{Edge, api::ApiError, peer, reply::closing};
use crate::{
    settings::{AuthMode, Settings},
    wire::error::WireError,
};

/// How long the refusals of an address are counted together.
const MINUTE: Duration = Duration::from_secs(60);
/// Addresses that are counted; the least recently refused is forgotten.
const ADDRESSES: u64 = 10_000;
/// Refusals of an address in a minute that are answered at once, and logged one by one.
const FREE: u32 = 20;
/// What each later refusal waits longer, and at most.
const SLOWER: Duration = Duration::from_millis(50);
const SLOWEST: Duration = Duration::from_secs(2);

/// Why a request was refused; its extractor leaves this with the request.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub reason: &'static str,
    pub tenant: Option<String>,
}

/// Which names the server has.
enum Names {
    Any,
    /// Loopback names, these, and addresses where other machines are served.
    Known {
        hosts: Vec<String>,
        addresses: bool,
    },
}

pub struct Door {
    names: Names,
    /// Refusals of an address in this minute.
    refused: Cache<IpAddr, u32>,
}

impl Door {
    pub fn new(settings: &Settings) -> Self {
        let hosts = &settings.server.hosts;
        // With keys, a page that rebinds a name has none.
        let names = match settings.auth.mode {
            AuthMode::Keys => Names::Any,
            _ if hosts.iter().any(|host| host == "*") => Names::Any,
            mode => Names::Known { hosts: hosts.clone(), addresses: mode == AuthMode::Open },
        };
        Self { names, refused: Cache::builder().max_capacity(ADDRESSES).time_to_live(MINUTE).build() }
    }

    fn serves(&self, host: &str) -> bool {
        let Names::Known { hosts, addresses } = &self.names else { return true };
        let name = peer::without_port(host);
        let known = hosts.iter().any(|known| known.eq_ignore_ascii_case(name) || known.eq_ignore_ascii_case(host));
        known || peer::is_loopback(name) || *addresses && peer::literal(name).is_some()
    }

    /// How often an address was refused in this minute, this time included.
    fn count(&self, address: Option<IpAddr>) -> u32 {
        let Some(address) = address else { return 1 };
        let entry = self
            .refused
            .entry(address)
            .and_upsert_with(|entry| entry.map_or(1, |entry| entry.into_value().saturating_add(1)));
        entry.into_value()
    }
}

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
    // A path may be written in other ways than its route.
    let called = answer.request().match_pattern().is_some_and(|route| route.starts_with("/admin/"));
    if is_admin || called {
        tracing::info!(address = %shown(address), method, path = shorten(path), status, "an admin call");
    }
    let refusal = answer.request().extensions().get::<Refusal>().cloned();
    if let Some(Refusal { reason, tenant }) = refusal {
        edge.generations.metrics.denied(reason);
        let count = edge.door.count(address);
        if count <= FREE || count.is_multiple_of(100) {
            let tenant = tenant.as_deref().unwrap_or("-");
            tracing::warn!(address = %shown(address), tenant, reason, method, path = shorten(path), status, count, "refused");
        }
        tokio::time::sleep((SLOWER * count.saturating_sub(FREE)).min(SLOWEST)).await;
    }
    Ok(answer)
}

/// Why the request's name for this server will not do. The routes of `/admin` are opened by a key alone.
fn misnamed(request: &ServiceRequest, edge: &Edge, is_admin: bool) -> Option<WireError> {
    let head = request.head();
    let given = head.headers.get_all(header::HOST).count();
    let named = given == 1 || given == 0 && (head.version != Version::HTTP_11 || head.uri.authority().is_some());
    if !named {
        return Some(WireError::invalid("host", "A request has one Host header."));
    }
    let misdirected = || Some(WireError::Misdirected);
    let Some(hosts) = peer::hosts(head, &edge.settings.server.trusted_proxies) else { return misdirected() };
    if is_admin || hosts.iter().all(|host| edge.door.serves(host)) { None } else { misdirected() }
}

fn shown(address: Option<IpAddr>) -> String {
    address.map_or_else(|| "-".to_owned(), |address| address.to_string())
}

/// A path is the client's: no more of it is logged than this.
fn shorten(path: &str) -> &str {
    path.get(..path.len().min(100)).unwrap_or("")
}
