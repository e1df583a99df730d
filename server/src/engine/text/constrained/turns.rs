//! The order in which grammars are compiled. Each tenant has a queue; the queues take turns, so a tenant that sends many expensive
//! grammars delays only itself.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::limits::{COMPILING, COMPILING_PER_TENANT, WAITING, WAITING_PER_TENANT};

/// The queues of all tenants.
#[derive(Default)]
pub struct CompileTurns {
    state: Mutex<TurnsState>,
    changed: Condvar,
}

#[derive(Default)]
struct TurnsState {
    /// Compilations that run, by tenant.
    running: HashMap<Arc<str>, usize>,
    /// Tenants that wait, in the order of their turns, each with its tickets in the order of arrival.
    queues: VecDeque<(Arc<str>, VecDeque<u64>)>,
    next_ticket: u64,
}

/// The right to compile, until it is dropped.
pub struct CompileTurn {
    turns: Arc<CompileTurns>,
    tenant: Arc<str>,
}

impl CompileTurns {
    /// Waits for a turn, at most `wait`. Blocks the caller's thread.
    ///
    /// # Errors
    /// No turn came in time, or too many requests wait already.
    pub fn take(self: &Arc<Self>, tenant: &Arc<str>, wait: Duration) -> Result<CompileTurn, Busy> {
        let until = Instant::now() + wait;
        let mut state = self.lock();
        let ticket = state.enter(tenant)?;
        loop {
            if state.starts(tenant, ticket) {
                drop(state);
                // The next one in line may start as well.
                self.changed.notify_all();
                return Ok(CompileTurn { turns: self.clone(), tenant: tenant.clone() });
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.leave(tenant, ticket);
                return Err(Busy);
            }
            self.changed.wait_for(&mut state, left);
        }
    }

    /// Counts the compilations that run, including those that no request waits for any more.
    pub fn running(&self) -> usize {
        self.lock().running.values().sum()
    }

    fn lock(&self) -> MutexGuard<'_, TurnsState> {
        self.state.lock()
    }
}

/// No turn came in time, or too many requests wait.
#[derive(Debug, PartialEq, Eq)]
pub struct Busy;

impl TurnsState {
    fn enter(&mut self, tenant: &Arc<str>) -> Result<u64, Busy> {
        let waiting: usize = self.queues.iter().map(|(_, tickets)| tickets.len()).sum();
        let at = self.queues.iter().position(|(other, _)| other == tenant);
        let own = at.and_then(|at| self.queues.get(at)).map_or(0, |(_, tickets)| tickets.len());
        if waiting >= WAITING || own >= WAITING_PER_TENANT {
            return Err(Busy);
        }
        self.next_ticket += 1;
        match at.and_then(|at| self.queues.get_mut(at)) {
            Some((_, tickets)) => tickets.push_back(self.next_ticket),
            None => self.queues.push_back((tenant.clone(), [self.next_ticket].into())),
        }
        Ok(self.next_ticket)
    }

    /// Starts a ticket's compilation if it is next and a place is free. Returns whether it started.
    fn starts(&mut self, tenant: &Arc<str>, ticket: u64) -> bool {
        if self.running.values().sum::<usize>() >= COMPILING {
            return false;
        }
        let may_run = |tenant: &Arc<str>| self.running.get(tenant).is_none_or(|count| *count < COMPILING_PER_TENANT);
        let Some(at) = self.queues.iter().position(|(other, _)| may_run(other)) else { return false };
        let is_next =
            self.queues.get(at).is_some_and(|(next, tickets)| next == tenant && tickets.front() == Some(&ticket));
        if !is_next {
            return false;
        }
        if let Some((tenant, mut tickets)) = self.queues.remove(at) {
            tickets.pop_front();
            if !tickets.is_empty() {
                self.queues.push_back((tenant, tickets));
            }
        }
        *self.running.entry(tenant.clone()).or_default() += 1;
        true
    }

    fn leave(&mut self, tenant: &Arc<str>, ticket: u64) {
        for (_, tickets) in self.queues.iter_mut().filter(|(other, _)| other == tenant) {
            tickets.retain(|other| *other != ticket);
        }
        self.queues.retain(|(_, tickets)| !tickets.is_empty());
    }
}

impl Drop for CompileTurn {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        if let Some(count) = state.running.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                state.running.remove(&self.tenant);
            }
        }
        drop(state);
        self.turns.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_tenant_runs_two_and_others_start_at_once() {
        let turns = Arc::new(CompileTurns::default());
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let first = turns.take(&a, LONG).ok();
        let second = turns.take(&a, LONG).ok();
        assert!(first.is_some() && second.is_some());
        assert_eq!(turns.take(&a, Duration::ZERO).err(), Some(Busy));
        let others = [turns.take(&b, Duration::ZERO), turns.take(&b, Duration::ZERO)];
        assert!(others.iter().all(Result::is_ok));
        assert_eq!((turns.running(), turns.take(&"c".into(), Duration::ZERO).err()), (4, Some(Busy)));
        drop(first);
        assert!(turns.take(&"c".into(), LONG).is_ok(), "a free place goes to a tenant below its bound");
    }

    #[test]
    fn tenants_take_turns_however_many_wait() {
        let turns = Arc::new(CompileTurns::default());
        let held: Vec<CompileTurn> =
            ["x", "x", "y", "y"].iter().filter_map(|t| turns.take(&(*t).into(), LONG).ok()).collect();
        let (sender, order) = mpsc::channel();
        let mut threads = Vec::new();
        for (at, tenant) in ["a", "a", "a", "b", "c"].into_iter().enumerate() {
            let (own, sender) = (turns.clone(), sender.clone());
            threads.push(std::thread::spawn(move || {
                if let Ok(turn) = own.take(&tenant.into(), LONG) {
                    // Held until the test has seen it, so that one runs at a time.
                    let (done, wait) = mpsc::channel::<()>();
                    sender.send((tenant, done)).expect("the test listens");
                    let _ = wait.recv();
                    drop(turn);
                }
            }));
            while turns.lock().queues.iter().map(|(_, tickets)| tickets.len()).sum::<usize>() <= at {
                std::thread::yield_now();
            }
        }
        let mut held = held.into_iter();
        drop(held.next());
        let mut seen = Vec::new();
        for _ in 0..5 {
            let (tenant, done) = order.recv_timeout(LONG).expect("somebody's turn");
            seen.push(tenant);
            drop(done);
        }
        assert_eq!(seen, ["a", "b", "c", "a", "a"]);
        drop(held);
        threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut state = TurnsState::default();
        let tenant: Arc<str> = "a".into();
        for _ in 0..WAITING_PER_TENANT {
            assert!(state.enter(&tenant).is_ok());
        }
        assert_eq!(state.enter(&tenant), Err(Busy));
        assert!(state.enter(&"b".into()).is_ok());
    }
}
