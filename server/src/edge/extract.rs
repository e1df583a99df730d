//! Extractors for the client of a request. A request that its key does not allow reaches no handler.

use std::{
    future::{Ready, ready},
    sync::Arc,
};

use actix_web::{FromRequest, HttpRequest, dev::Payload, web};
use futures::{FutureExt, future::LocalBoxFuture};

use super::{error::ApiError, grants, state::Edge};
use crate::{access::Identity, wire::error::WireError};

/// The tenant of an authenticated and permitted request.
#[derive(Debug, Clone)]
pub struct Tenant(pub String);

/// The identity of an authenticated and permitted request, for handlers that apply the limits of its key.
pub struct Identified(pub Arc<Identity>);

/// A request that may use `/admin`.
pub struct Admin;

impl FromRequest for Identified {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        async move {
            let edge = request.app_data::<web::Data<Edge>>().ok_or(WireError::InvalidApiKey)?;
            let identity = edge.auth.identify_once(&request)?;
            grants::check_route(edge, &identity, &request).await?;
            Ok(Self(identity))
        }
        .boxed_local()
    }
}

impl Tenant {
    /// Returns the tenant of a request without a check of its route.
    pub fn of(request: &HttpRequest) -> Result<Self, WireError> {
        let edge = request.app_data::<web::Data<Edge>>().ok_or(WireError::InvalidApiKey)?;
        edge.auth.identify_once(request).map(|identity| Self(identity.tenant.clone()))
    }
}

impl FromRequest for Tenant {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let identified = Identified::from_request(request, payload);
        async move { Ok(Self(identified.await?.0.tenant.clone())) }.boxed_local()
    }
}

impl FromRequest for Admin {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(match request.app_data::<web::Data<Edge>>() {
            Some(edge) => edge.auth.check_admin(request).map(|()| Self).map_err(ApiError),
            None => Err(ApiError(WireError::InvalidApiKey)),
        })
    }
}
