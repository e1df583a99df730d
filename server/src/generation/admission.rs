//! Admission: the engine is given what can run now; the rest waits here, first come, first served, within a bound.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use crate::wire::error::WireError;

pub struct Admission {
    slots: usize,
    queue: usize,
    state: Mutex<State>,
    /// Changes whenever the queue does.
    changed: watch::Sender<()>,
}

struct State {
    running: usize,
    waiting: VecDeque<(String, oneshot::Sender<Permit>)>,
    /// Moving average of how long a permit is held.
    mean_run: Duration,
}

/// A slot of the engine. Lives exactly as long as the work in it.
pub struct Permit {
    /// `None` once the slot has been passed on.
    admission: Option<Arc<Admission>>,
    since: Instant,
}

/// A place in the queue or, when there was a slot, the permit already. Dropping it leaves the queue.
pub struct Ticket {
    admission: Arc<Admission>,
    id: String,
    permit: oneshot::Receiver<Permit>,
    pub waits: bool,
}

/// Where a waiting request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// 1 is next.
    pub position: usize,
    pub estimated_wait: Duration,
}

impl Admission {
    pub fn new(slots: usize, queue: usize) -> Arc<Self> {
        let state = State { running: 0, waiting: VecDeque::new(), mean_run: Duration::from_secs(5) };
        Arc::new(Self { slots, queue, state: Mutex::new(state), changed: watch::Sender::new(()) })
    }

    /// Takes a slot or a place in the queue for the response `id`.
    pub fn enter(self: &Arc<Self>, id: &str) -> Result<Ticket, WireError> {
        let (sender, permit) = oneshot::channel();
        let mut state = self.state();
        let waits = state.running >= self.slots;
        if waits && state.waiting.len() >= self.queue {
            let retry_after_ms = self.wait_at(&state, 1).as_millis() as u64;
            return Err(WireError::ServerOverloaded { retry_after_ms: retry_after_ms.max(100) });
        }
        if waits {
            state.waiting.push_back((id.to_owned(), sender));
        } else {
            state.running += 1;
            // The receiver is in scope, so this cannot fail.
            let _ = sender.send(Permit { admission: Some(self.clone()), since: Instant::now() });
        }
        drop(state);
        Ok(Ticket { admission: self.clone(), id: id.to_owned(), permit, waits })
    }

    /// Takes a slot or the queue's first place, which there always is: what was taken over has waited elsewhere already.
    pub fn enter_first(self: &Arc<Self>, id: &str) -> Ticket {
        let (sender, permit) = oneshot::channel();
        let mut state = self.state();
        let waits = state.running >= self.slots;
        if waits {
            state.waiting.push_front((id.to_owned(), sender));
        } else {
            state.running += 1;
            // The receiver is in scope, so this cannot fail.
            let _ = sender.send(Permit { admission: Some(self.clone()), since: Instant::now() });
        }
        drop(state);
        Ticket { admission: self.clone(), id: id.to_owned(), permit, waits }
    }

    /// Where the response stands in the queue; `None` when it does not wait.
    pub fn position(&self, id: &str) -> Option<Position> {
        let state = self.state();
        let position = state.waiting.iter().position(|(waiting, _)| waiting == id)? + 1;
        Some(Position { position, estimated_wait: self.wait_at(&state, position) })
    }

    /// Wakes whenever positions may have changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// A slot comes free every `mean_run / slots` on average.
    fn wait_at(&self, state: &State, position: usize) -> Duration {
        state.mean_run.mul_f64(position as f64 / self.slots.max(1) as f64)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Waits for the slot.
    pub async fn admitted(&mut self) -> Option<Permit> {
        (&mut self.permit).await.ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.waits {
            self.admission.state().waiting.retain(|(waiting, _)| *waiting != self.id);
            self.admission.changed.send_replace(());
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(admission) = self.admission.take() else { return };
        let mut state = admission.state();
        state.mean_run = state.mean_run.mul_f64(0.8) + self.since.elapsed().mul_f64(0.2);
        // The slot goes to the next who still waits, or comes free.
        while let Some((_, waiting)) = state.waiting.pop_front() {
            let next = Permit { admission: Some(admission.clone()), since: Instant::now() };
            match waiting.send(next) {
                Ok(()) => {
                    drop(state);
                    admission.changed.send_replace(());
                    return;
                }
                Err(mut gone) => gone.admission = None,
            }
        }
        state.running -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slots_are_bounded_and_given_in_order() {
        let admission = Admission::new(1, 2);
        let mut first = admission.enter("a").unwrap();
        assert!(!first.waits);
        let permit = first.admitted().await.unwrap();
        let mut second = admission.enter("b").unwrap();
        let mut third = admission.enter("c").unwrap();
        assert!(matches!(admission.enter("d"), Err(WireError::ServerOverloaded { .. })));
        assert_eq!(admission.position("c").unwrap().position, 2);
        drop(permit);
        let permit = second.admitted().await.unwrap();
        assert_eq!(admission.position("c").unwrap().position, 1);
        drop(permit);
        drop(third.admitted().await.unwrap());
        assert!(!admission.enter("e").unwrap().waits);
    }

    #[tokio::test]
    async fn who_leaves_the_queue_is_passed_over_and_a_dropped_ticket_frees_its_slot() {
        let admission = Admission::new(1, 2);
        let held = admission.enter("a").unwrap();
        let gone = admission.enter("b").unwrap();
        let mut waiting = admission.enter("c").unwrap();
        drop(gone);
        assert_eq!(admission.position("c").unwrap().position, 1);
        drop(held);
        assert!(waiting.admitted().await.is_some());
    }
}
