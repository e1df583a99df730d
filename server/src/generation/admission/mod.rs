//! Admission: the engine is given what can run now; the rest waits here within a bound. A model has a capacity of its own and a
//! queue for it. Who is next says `queue`; what work costs, `estimate` and `lengths`; who starts when, `forecast`.

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
    /// `models`: each model's id and what of it runs at once. To be called on the runtime that keeps the places up to date.
    pub fn new(models: impl IntoIterator<Item = (String, Capacity)>, settings: &settings::AdmissionSettings) -> Self {
        let gates = models.into_iter().map(|(model, capacity)| (model, Gate::new(capacity, settings.clone())));
        Self { gates: gates.collect() }
    }

    /// Takes a permit or a place in the queue.
    pub fn enter(&self, header: &Header) -> Result<Ticket, WireError> {
        self.gate(header)?.enter(&header.id, &header.tenant, header.spec.service_tier, work(header))
    }

    /// Takes a permit or a place among the first, which there always is: what was taken over has waited elsewhere already.
    pub fn enter_first(&self, header: &Header) -> Result<Ticket, WireError> {
        Ok(self.gate(header)?.enter_first(&header.id, &header.tenant, work(header)))
    }

    /// How many more of a model could run; 0 while somebody waits.
    pub fn idle(&self, model: &str) -> usize {
        self.gates.get(model).map_or(0, |gate| gate.idle())
    }

    /// Of a model, how many run and how many wait.
    pub fn load(&self, model: &str) -> (usize, usize) {
        self.gates.get(model).map_or((0, 0), |gate| gate.load())
    }

    fn gate(&self, header: &Header) -> Result<&Arc<Gate>, WireError> {
        self.gates.get(&header.model).ok_or_else(|| WireError::ModelNotFound(header.model.clone()))
    }

    /// Where a response stands, `None` until that is known, and every change of it; ends when it waits no longer. `None`
    /// when it does not wait.
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
