//! Queued requests of a connection. They stay unparsed text until their turn in the lane, and count for the budgets from their
//! arrival on.

use std::sync::Arc;

use opentelemetry::Context;

use crate::{
    edge::{body::beside, state::Edge, traced::Traced},
    generation::budget::{Budget, BudgetShare},
    limits::{HELD_BY_CONNECTION, VALUE_BYTES},
    wire::{
        client::{ClientEvent, parse_client_event},
        error::WireError,
        request::Create,
        values::count_values,
    },
};

/// A `response.create` that is queued or running.
#[derive(Debug)]
pub struct Arrival {
    text: Arc<str>,
    pub traced: Traced,
    held: HeldMessage,
}

/// The budget shares of a message: its bytes in the connection's budget, its bytes and values in the tenant's.
pub type HeldMessage = (BudgetShare, BudgetShare);

/// The budget of one connection's messages.
pub struct Arrivals {
    budget: Arc<Budget>,
    /// The trace context that the client sent with its handshake.
    handshake: Context,
}

impl Arrivals {
    pub fn new(max_message_bytes: usize, handshake: Context) -> Self {
        Self { budget: Budget::new(HELD_BY_CONNECTION.saturating_mul(max_message_bytes)), handshake }
    }

    /// Reserves the size of a message in both budgets.
    ///
    /// # Errors
    /// `websocket_stream_limit_reached` if the connection's budget is exhausted, `rate_limit_exceeded` if the tenant's is.
    pub fn hold(&self, edge: &Edge, tenant: &str, size: Size) -> Result<HeldMessage, WireError> {
        let own = self.budget.hold(size.bytes).ok_or_else(|| {
            let most = self.budget.most();
            let refused = WireError::StreamLimit(format!(
                "The requests that wait on this connection would have more than {most} bytes together. Wait until some are answered."
            ));
            edge.generations.metrics.refused(&refused);
            refused
        })?;
        Ok((own, edge.generations.hold(tenant, size.bytes + size.values * VALUE_BYTES)?))
    }

    /// Queues a request as text.
    ///
    /// # Errors
    /// Those of [`Self::hold`].
    pub fn keep(&self, edge: &Edge, tenant: &str, text: Arc<str>) -> Result<Arrival, WireError> {
        let traced = Traced::message("response.create", &self.handshake);
        let size = Size { bytes: text.len(), values: 0 };
        let held = self.hold(edge, tenant, size).inspect_err(|error| traced.span.fail(error.code().0))?;
        Ok(Arrival { held, traced, text })
    }
}

/// The size of a message: its bytes, and the number of its JSON values, or 0 if the message stays unparsed.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub bytes: usize,
    pub values: usize,
}

impl Arrival {
    /// Parses the request.
    ///
    /// # Errors
    /// Those of the request, and `rate_limit_exceeded` if the parsed values exceed the tenant's budget.
    pub async fn parse(&mut self, edge: &Edge) -> Result<Create, WireError> {
        let (text, counted) = (self.text.clone(), self.text.clone());
        let values = beside(text.len(), move || count_values(counted.as_bytes())).await?;
        edge.generations.hold_more(&mut self.held.1, values * VALUE_BYTES)?;
        beside(text.len(), move || match parse_client_event(&text) {
            Ok(ClientEvent::Create { create, .. }) => Ok(*create),
            Ok(_) => Err(WireError::invalid("type", "'type' must be \"response.create\".")),
            Err((error, _)) => Err(error),
        })
        .await
    }
}
