//! Decides which requests run in the engine now. The others wait in a bounded queue. Each model has its own capacity and queue.
//!
//! | file | owns |
//! |---|---|
//! | `gate` | the permits and the queue of one model |
//! | `queue` | the order of waiting requests |
//! | `queue_place` | the place in the queue as clients see it |
//! | `estimate`, `lengths` | the expected cost of a request, and the usual length of outputs |
//! | `forecast` | when waiting requests are expected to start |

mod estimate;
mod forecast;
mod gate;
mod lengths;
mod queue;
mod queue_place;

use std::{collections::HashMap, sync::Arc};

use tokio::sync::watch;

use crate::{engine::Capacity, settings, store::Header, wire::error::WireError};
use estimate::Work;
use gate::Gate;
pub use gate::{Permit, Ticket};
pub use queue_place::QueuePlace;

/// Every model's gate, by its id.
pub struct Admission {
    gates: HashMap<String, Arc<Gate>>,
}

impl Admission {
    /// `models`: the id and capacity of each model. To be called on a runtime, where tasks keep the places up to date.
    pub fn new(models: impl IntoIterator<Item = (String, Capacity)>, settings: &settings::AdmissionSettings) -> Self {
        let gates = models.into_iter().map(|(model, capacity)| (model, Gate::new(capacity, settings.clone())));
        Self { gates: gates.collect() }
    }

    /// Takes a permit or a place in the queue.
    ///
    /// # Errors
    /// `model_not_found`; `server_overloaded` if the queue is full; `rate_limit_exceeded` if too many requests of the tenant wait.
    pub fn enter(&self, header: &Header) -> Result<Ticket, WireError> {
        self.gate(header)?.enter(&header.id, &header.tenant, header.spec.service_tier, work(header))
    }

    /// Takes a permit or a place among the first, whatever the queue's bound: a response that was taken over has waited before.
    ///
    /// # Errors
    /// `model_not_found`.
    pub fn enter_first(&self, header: &Header) -> Result<Ticket, WireError> {
        Ok(self.gate(header)?.enter_first(&header.id, &header.tenant, work(header)))
    }

    /// Returns how many more requests of a model could run; 0 while requests wait.
    pub fn idle(&self, model: &str) -> usize {
        self.gates.get(model).map_or(0, |gate| gate.idle())
    }

    /// Returns how many requests of a model run, and how many wait.
    pub fn load(&self, model: &str) -> (usize, usize) {
        self.gates.get(model).map_or((0, 0), |gate| gate.load())
    }

    fn gate(&self, header: &Header) -> Result<&Arc<Gate>, WireError> {
        self.gates.get(&header.model).ok_or_else(|| WireError::ModelNotFound(header.model.clone()))
    }

    /// Watches the place of a response in the queue. The value is `None` until the place is known; the watch ends when the response
    /// waits no longer. Returns `None` if the response does not wait.
    pub fn place(&self, id: &str) -> Option<watch::Receiver<Option<QueuePlace>>> {
        self.gates.values().find_map(|gate| gate.place(id))
    }
}

fn work(header: &Header) -> Work {
    Work {
        prompt_tokens: u32::try_from(header.prompt.len()).unwrap_or(u32::MAX),
        max_output_tokens: header.max_output_tokens,
    }
}
