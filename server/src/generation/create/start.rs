//! Starts a response: creates its log and enters the queue. The generation then runs in a task of its own.

use std::sync::Arc;

use serde_json::Value;
use tracing::Instrument;

use crate::{
    generation::{
        Generations,
        budget::BudgetShare,
        refusal::{Named, store_error},
        run::{RunJob, log_writer::LogWriter, registry::FollowerGuard},
    },
    store::{Created, Header, Lease},
    wire::{error::WireError, format::Format, input::InputItem},
};

/// Bytes of a parsed JSON value besides its text.
const PARSED_VALUE_BYTES: usize = 32;

/// A created response. `follower` keeps it from being cancelled as an orphan before the client follows it.
pub struct CreatedResponse {
    pub id: String,
    pub follower: FollowerGuard,
}

impl Generations {
    /// Creates a response's log and begins its generation, or finds the response that the same `client_request_id` created before.
    pub(in crate::generation) async fn start(self: &Arc<Self>, header: Header) -> Result<CreatedResponse, WireError> {
        let (tenant, id) = (header.tenant.clone(), header.id.clone());
        let lease = match self.store.create(header.clone()).await.map_err(|e| store_error(e, Named::Response(&id)))? {
            Created::New(lease) => lease,
            Created::Existing(id) => {
                return Ok(CreatedResponse { follower: self.running.follower(&id, header.on_disconnect), id });
            }
        };
        let follower = self.running.follower(&id, header.on_disconnect);
        if let Err(overloaded) = self.begin(header, lease.clone()).await {
            self.abandon(&tenant, &lease).await;
            return Err(overloaded);
        }
        Ok(CreatedResponse { id, follower })
    }

    /// Deletes a response that was created and could not begin, and removes it from those that run here.
    pub(in crate::generation) async fn abandon(&self, tenant: &str, lease: &Lease) {
        let _ = self.store.delete(tenant, &lease.id).await;
        let _ = self.store.ended(lease).await;
    }

    /// Counts the bytes that a response holds while it waits and runs.
    ///
    /// # Errors
    /// As [`Self::hold`].
    pub(in crate::generation) fn hold_request(&self, header: &Header) -> Result<BudgetShare, WireError> {
        self.hold(&header.tenant, held_bytes(header))
    }

    /// Runs a response in a task of its own, at once or when it leaves the queue.
    ///
    /// # Errors
    /// The tenant's requests hold too many bytes, or the queue is full.
    pub(in crate::generation) fn run(self: &Arc<Self>, header: Header, lease: Lease) -> Result<(), WireError> {
        let held = self.hold_request(&header)?;
        let ticket = self.admission.enter(&header)?;
        let registration = self.running.register(&header.id, header.on_disconnect);
        let mut log = LogWriter::new(self.log_sink(), Arc::new(header), lease, vec![]);
        log.held = Some(held);
        log.stop = registration.stop.clone();
        let span = log.log_span();
        let job = RunJob { engine: self.engine.clone(), log, ticket, registration };
        self.tasks.spawn_on(job.run().instrument(span), &self.runtime);
        Ok(())
    }
}

/// Estimates the bytes that a response holds while it waits and runs. Parsed JSON takes many times the bytes of its text.
fn held_bytes(header: &Header) -> usize {
    let spec = &header.spec;
    let items: usize = spec.input.iter().map(InputItem::bytes).sum();
    let preamble: usize = spec.preamble.iter().map(|message| message.text.len()).sum();
    let format = match &spec.text.format {
        Format::JsonSchema(format) => Some(&format.schema),
        _ => None,
    };
    let schemas = spec.tools.iter().filter_map(|tool| tool.parameters.as_ref()).chain(format);
    let schemas: usize = schemas.map(value_bytes).sum();
    items + preamble + spec.instructions.as_ref().map_or(0, String::len) + 4 * header.prompt.len() + schemas
}

/// Estimates the bytes of a parsed JSON value. The recursion is as deep as the JSON, and the parser bounds the depth at 127.
fn value_bytes(value: &Value) -> usize {
    let inside = match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(value_bytes).sum(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| name.len() + PARSED_VALUE_BYTES + value_bytes(value)).sum()
        }
        _ => 0,
    };
    PARSED_VALUE_BYTES + inside
}
