//! Checks the key and the origin of a request. Refuses a request without a valid key, from a web page of another origin, or
//! without the scope that it needs.

use std::sync::Arc;

use actix_web::{
    HttpMessage, HttpRequest,
    http::{Method, header},
};

use super::{peer, refusal::refuse};
use crate::{
    access::{Access, Denied, Identity},
    settings::{Network, Scope, Settings},
    wire::{KEY_SUBPROTOCOL_PREFIX, error::WireError},
};

pub struct Authenticator {
    pub access: Arc<Access>,
    allowed_origins: Vec<String>,
    trusted: Vec<Network>,
}

impl Authenticator {
    pub fn new(settings: &Settings, access: Arc<Access>) -> Self {
        let server = &settings.server;
        Self { access, allowed_origins: server.allowed_origins.clone(), trusted: server.trusted_proxies.clone() }
    }

    /// Identifies the client and checks that its key has the scope for the request's method.
    fn identify(&self, request: &HttpRequest) -> Result<Identity, WireError> {
        self.check_origin(request)?;
        if !self.access.has_keys() {
            return Ok(self.access.anybody());
        }
        let secret = bearer(request).or_else(|| subprotocol_key(request));
        let identity = self.known(request, secret, WireError::InvalidApiKey)?;
        // The events that a socket sends are checked one by one, so either scope may open the socket.
        let is_socket = request.method() == Method::GET && request.match_pattern().as_deref() == Some("/v1/responses");
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let needed = if reads { Scope::Read } else { Scope::Create };
        let may = identity.scopes.contains(&needed) || is_socket && identity.scopes.contains(&Scope::Create);
        if may { Ok(identity) } else { Err(lacks(request, &identity, needed)) }
    }

    /// Identifies a request once and stores the result with the request for the next extractor. See [`Self::identify`].
    pub fn identify_once(&self, request: &HttpRequest) -> Result<Arc<Identity>, WireError> {
        if let Some(identity) = request.extensions().get::<Arc<Identity>>() {
            return Ok(identity.clone());
        }
        let identity = Arc::new(self.identify(request)?);
        request.extensions_mut().insert(identity.clone());
        Ok(identity)
    }

    /// Returns the owner of the secret, or `error` if the secret is not valid.
    fn known(&self, request: &HttpRequest, secret: Option<&str>, error: WireError) -> Result<Identity, WireError> {
        let identified = match secret {
            Some(secret) => self.access.identify(secret),
            None => Err((Denied::Unknown, None)),
        };
        identified.map_err(|(denied, tenant)| {
            let reason = if secret.is_none() { "no_key" } else { denied.reason() };
            refuse(request, reason, tenant, error)
        })
    }

    /// Checks that a request may use `/admin`.
    pub fn check_admin(&self, request: &HttpRequest) -> Result<(), WireError> {
        self.check_origin(request)?;
        if !self.access.has_admin() {
            let message = "The admin routes are closed. Set auth.admin_key to open them.";
            return Err(refuse(request, "admin", None, WireError::InsufficientPermissions(message.into())));
        }
        let secret = bearer(request);
        if secret.is_some_and(|secret| self.access.is_admin_key(secret)) {
            return Ok(());
        }
        let identity = self.known(request, secret, WireError::InvalidAdminKey)?;
        if self.access.has_keys() && identity.scopes.contains(&Scope::Admin) {
            return Ok(());
        }
        // A tenant's key without the scope `admin` gets the same error as an unknown key.
        Err(refuse(request, "admin", Some(identity.tenant), WireError::InvalidAdminKey))
    }

    /// Refuses a page of an origin that is neither the server's own nor allowed. Clients that are not browsers send no origin and
    /// pass this check.
    fn check_origin(&self, request: &HttpRequest) -> Result<(), WireError> {
        let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default();
        let own = origin.split_once("://").is_some_and(|(_, host)| {
            peer::hosts(request.head(), &self.trusted).is_some_and(|hosts| hosts.contains(&host))
        });
        if own || self.allows(origin) {
            return Ok(());
        }
        let message = "This origin may not connect. Add it to server.allowed_origins.";
        Err(refuse(request, "origin", None, WireError::InsufficientPermissions(message.into())))
    }

    /// Returns whether pages of `origin` may use the server.
    pub fn allows(&self, origin: &str) -> bool {
        self.allowed_origins.iter().any(|allowed| allowed == "*" || allowed == origin)
    }
}

fn lacks(request: &HttpRequest, identity: &Identity, scope: Scope) -> WireError {
    let message = format!("This key does not have the scope '{}'.", scope.name());
    refuse(request, "scope", Some(identity.tenant.clone()), WireError::InsufficientPermissions(message))
}

fn bearer(request: &HttpRequest) -> Option<&str> {
    let (scheme, key) = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

fn subprotocol_key(request: &HttpRequest) -> Option<&str> {
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).filter_map(|v| v.to_str().ok());
    offered.flat_map(|v| v.split(',')).find_map(|p| p.trim().strip_prefix(KEY_SUBPROTOCOL_PREFIX))
}
