//! Who asks, and from where. Fails closed: a request without a valid key, or from a web page of another origin, reaches
//! no handler.

use std::{
    collections::{BTreeSet, HashMap},
    future::{Ready, ready},
};

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header, web};
use sha2::{Digest, Sha256};

use super::{Edge, api::ApiError, headers::EXPOSED};
use crate::{
    settings::{AuthMode, Settings},
    wire::{KEY_SUBPROTOCOL_PREFIX, error::WireError},
};

/// The tenant of everybody where `auth.mode` is `none`.
const ONLY_TENANT: &str = "default";

/// The authenticated tenant of a request.
#[derive(Debug, Clone)]
pub struct Tenant(pub String);

/// A request that knows `auth.admin_key`.
pub struct Admin;

pub struct Authenticator {
    /// By hash of the key: a look-up by hash takes no time that depends on how much of a guess is right.
    keys: Option<HashMap<[u8; 32], String>>,
    /// The hash of the admin key.
    admin: Option<[u8; 32]>,
    allowed_origins: Vec<String>,
}

impl Authenticator {
    pub fn new(settings: &Settings) -> Self {
        let keys = (settings.auth.mode == AuthMode::Keys).then(|| {
            settings.auth.keys.iter().map(|k| (Sha256::digest(k.key.expose()).into(), k.tenant.clone())).collect()
        });
        let admin = settings.auth.admin_key.expose();
        let admin = (!admin.is_empty()).then(|| Sha256::digest(admin).into());
        Self { keys, admin, allowed_origins: settings.server.allowed_origins.clone() }
    }

    fn tenant(&self, request: &HttpRequest) -> Result<Tenant, WireError> {
        self.check_origin(request)?;
        let Some(keys) = &self.keys else { return Ok(Tenant(ONLY_TENANT.into())) };
        let key = bearer(request).or_else(|| subprotocol_key(request)).ok_or(WireError::InvalidApiKey)?;
        let hash: [u8; 32] = Sha256::digest(key).into();
        keys.get(&hash).cloned().map(Tenant).ok_or(WireError::InvalidApiKey)
    }

    /// Everybody who may be let in.
    pub fn tenants(&self) -> BTreeSet<&str> {
        match &self.keys {
            Some(keys) => keys.values().map(String::as_str).collect(),
            None => [ONLY_TENANT].into(),
        }
    }

    /// The comparison is of hashes, as with [`Self::tenant`].
    fn admin(&self, request: &HttpRequest) -> Result<Admin, WireError> {
        self.check_origin(request)?;
        let Some(expected) = self.admin else {
            let message = "The admin routes are closed. Set auth.admin_key to open them.";
            return Err(WireError::InsufficientPermissions(message.into()));
        };
        let given: [u8; 32] = Sha256::digest(bearer(request).ok_or(WireError::InvalidApiKey)?).into();
        if given == expected { Ok(Admin) } else { Err(WireError::InvalidApiKey) }
    }

    /// Browsers send the page's origin; other clients send none and are let through to the key check.
    fn check_origin(&self, request: &HttpRequest) -> Result<(), WireError> {
        let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
        let refused = || {
            let message = "This origin may not connect. Add it to server.allowed_origins.";
            Err(WireError::InsufficientPermissions(message.into()))
        };
        let Ok(origin) = origin.to_str() else { return refused() };
        let own = origin.split_once("://").is_some_and(|(_, host)| host == request.connection_info().host());
        if own || self.allows(origin) { Ok(()) } else { refused() }
    }

    fn allows(&self, origin: &str) -> bool {
        self.allowed_origins.iter().any(|allowed| allowed == "*" || allowed == origin)
    }
}

/// Answers the browsers of allowed origins what they ask before a request across origins.
pub fn cors(edge: web::Data<Edge>) -> actix_cors::Cors {
    actix_cors::Cors::default()
        .allowed_origin_fn(move |origin, _| origin.to_str().is_ok_and(|origin| edge.auth.allows(origin)))
        .allowed_methods(["GET", "HEAD", "POST", "DELETE"])
        // SDKs send headers of their own, which grow with every version.
        .allow_any_header()
        .expose_headers(EXPOSED)
        .max_age(3600)
}

fn bearer(request: &HttpRequest) -> Option<&str> {
    let (scheme, key) = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

fn subprotocol_key(request: &HttpRequest) -> Option<&str> {
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).filter_map(|v| v.to_str().ok());
    offered.flat_map(|v| v.split(',')).find_map(|p| p.trim().strip_prefix(KEY_SUBPROTOCOL_PREFIX))
}

impl FromRequest for Tenant {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(request).map_err(ApiError))
    }
}

impl Tenant {
    pub fn of(request: &HttpRequest) -> Result<Self, WireError> {
        let edge = request.app_data::<web::Data<Edge>>().ok_or(WireError::InvalidApiKey)?;
        edge.auth.tenant(request)
    }
}

impl FromRequest for Admin {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(match request.app_data::<web::Data<Edge>>() {
            Some(edge) => edge.auth.admin(request).map_err(ApiError),
            None => Err(ApiError(WireError::InvalidApiKey)),
        })
    }
}
