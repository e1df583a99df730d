//! The state that all handlers and connections share.

use std::sync::Arc;

use tokio::sync::watch;

use super::{auth::Authenticator, hosts::Hosts, refusal::Refusals, sums::Sums};
use crate::{
    access::Access,
    generation::{Generations, bounded, budget::Budgets},
    settings::Settings,
};

/// The phase of the process. Connections watch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum Phase {
    Serving,
    /// Running streams continue; new ones are refused.
    Draining,
    /// Sockets close when their streams have ended.
    Closing,
    /// Sockets close at once. Their streams continue on another replica.
    HandedOver,
}

/// The state that all handlers share.
pub struct Edge {
    pub generations: Arc<Generations>,
    pub settings: Settings,
    pub phase: watch::Receiver<Phase>,
    pub auth: Authenticator,
    pub hosts: Hosts,
    /// The number of refusals of each client address.
    pub refusals: Refusals,
    /// Open sockets of each client address.
    pub sockets: Budgets,
    /// SHA-256 of the models' files.
    pub sums: Sums,
}

impl Edge {
    pub fn new(
        generations: Arc<Generations>,
        settings: Settings,
        phase: watch::Receiver<Phase>,
        access: Arc<Access>,
    ) -> Self {
        let (auth, hosts) = (Authenticator::new(&settings, access), Hosts::new(&settings));
        let sockets = Budgets::new(bounded(settings.server.sockets_per_address));
        Self {
            generations,
            settings,
            phase,
            auth,
            hosts,
            refusals: Refusals::default(),
            sockets,
            sums: Sums::default(),
        }
    }
}
