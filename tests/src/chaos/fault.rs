//! The faults that are injected into a stack.

use std::{fmt, time::Duration};

use rand::{Rng, rngs::StdRng};
use tokio::sync::watch;

use super::Drops;
use crate::stack::Stack;

/// After this time a killed replica is started again, and a stopped one continues.
const DOWN: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, and a new process after 3 s.
    Kill(usize),
    /// SIGSTOP, and SIGCONT after 3 s, when other replicas have taken over its streams.
    Freeze(usize),
    /// SIGTERM, and a new process after 3 s, as in a deploy.
    Replace(usize),
    /// Redis is killed and restarts from its file.
    RestartRedis,
    /// A third of the clients lose their connections.
    DropClients,
    ReloadNginx,
}

impl Fault {
    /// Chooses a random fault that leaves at least one replica running.
    pub fn choose(random: &mut StdRng, stack: &Stack) -> Self {
        let up: Vec<usize> = (0..3).filter(|n| stack.replica(*n).is_up()).collect();
        let choices = if up.len() > 1 { 6 } else { 3 };
        let replica = up.get(random.random_range(0..up.len().max(1))).copied().unwrap_or(0);
        match random.random_range(0..choices) {
            0 => Self::DropClients,
            1 => Self::ReloadNginx,
            2 => Self::RestartRedis,
            3 => Self::Kill(replica),
            4 => Self::Freeze(replica),
            _ => Self::Replace(replica),
        }
    }

    /// Chooses a fault of a replica: killed or replaced. If only one replica is up, its clients lose their connections instead.
    pub fn of_a_replica(random: &mut StdRng, stack: &Stack) -> Self {
        let up: Vec<usize> = (0..3).filter(|n| stack.replica(*n).is_up()).collect();
        match up.get(random.random_range(0..up.len().max(1))) {
            Some(replica) if up.len() > 1 && random.random() => Self::Kill(*replica),
            Some(replica) if up.len() > 1 => Self::Replace(*replica),
            _ => Self::DropClients,
        }
    }

    pub(super) fn strike(self, stack: &mut Stack, drops: &watch::Sender<Drops>) {
        match self {
            Self::Kill(n) => stack.replica_mut(n).kill_for(DOWN),
            Self::Freeze(n) => stack.replica_mut(n).freeze_for(DOWN),
            Self::Replace(n) => stack.replica_mut(n).replace_after(DOWN),
            Self::RestartRedis => {
                stack.redis_mut().kill();
                stack.redis_mut().start();
            }
            Self::DropClients => drops.send_modify(|drops| *drops = Drops { round: drops.round + 1, share: 3 }),
            Self::ReloadNginx => stack.reload_nginx(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(n) => write!(f, "replica {} killed", n + 1),
            Self::Freeze(n) => write!(f, "replica {} stopped and continued", n + 1),
            Self::Replace(n) => write!(f, "replica {} replaced", n + 1),
            Self::RestartRedis => f.write_str("redis killed and restarted"),
            Self::DropClients => f.write_str("a third of the clients cut"),
            Self::ReloadNginx => f.write_str("nginx reloaded"),
        }
    }
}
