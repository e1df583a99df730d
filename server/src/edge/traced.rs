//! The span of an HTTP request or of a message on a socket, a child of the `traceparent` that the client sent.

use std::future::{Ready, ready};

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header::HeaderMap};
use opentelemetry::{Context, KeyValue, propagation::Extractor};

use super::{error::ApiError, extract::Tenant};
use crate::{
    store::{Origin, Transport},
    telemetry::trace::{self, Span},
};

/// The span of a request in progress. The span ends when this is dropped.
#[derive(Debug)]
pub struct Traced {
    pub span: Span,
    transport: Transport,
}

impl Traced {
    /// Starts the span of a message on a socket. `handshake` is the context that the client sent with its handshake.
    pub fn message(name: &'static str, handshake: &Context) -> Self {
        let attributes = vec![KeyValue::new("network.protocol.name", "websocket")];
        Self { span: Span::request(name, handshake, attributes), transport: Transport::Websocket }
    }

    pub fn origin(&self) -> Origin {
        Origin { transport: self.transport, traceparent: self.span.traceparent() }
    }
}

impl FromRequest for Traced {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        // A refused request makes no span.
        if let Err(error) = Tenant::of(request) {
            return ready(Err(ApiError(error)));
        }
        let (method, route) = (request.method().to_string(), request.match_pattern().unwrap_or_default());
        let name = format!("{method} {route}");
        let attributes = vec![
            KeyValue::new("network.protocol.name", "http"),
            KeyValue::new("http.request.method", method),
            KeyValue::new("http.route", route),
        ];
        let span = Span::request(name, &sent(request), attributes);
        ready(Ok(Self { span, transport: Transport::Http }))
    }
}

/// Returns the context that a client sent with a request or a handshake.
pub fn sent(request: &HttpRequest) -> Context {
    trace::sent(&Headers(request.headers()))
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}
