//! The threads of one slot. candle's matrix products run in the rayon pool of the thread that calls them, and pay a thread
//! hand-over per product when that thread has none. So every engine thread is made a member of its own pool.
//!
//! A pool's size is fixed when it is built, but the number of slots that run changes with every request: alone, a slot is
//! fastest with all cores; together, each is best off with one thread. So the helpers of every pool stand behind a gate
//! that takes those above the slot's share out of the pool, by parking them inside a job, and lets them in again.

use std::{
    cell::RefCell,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use rayon::{ThreadPool, ThreadPoolBuilder, Yield};

thread_local! {
    /// Keeps the pool of this engine thread alive as long as the thread, and says whose it is.
    static POOL: RefCell<Option<Arc<ThreadPool>>> = const { RefCell::new(None) };
}

/// The gate and the pool of one slot. Index 0 is the engine thread itself and is never held.
pub struct Helpers {
    size: usize,
    gate: Arc<Gate>,
    pool: Mutex<Option<Arc<ThreadPool>>>,
}

struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

struct GateState {
    /// Threads with an index below this may work.
    allowed: usize,
    /// Parking jobs queued and not yet begun, by thread. A parked thread with another job queued leaves the old one, so
    /// that jobs never pile up behind it.
    queued: Vec<usize>,
}

impl Helpers {
    /// For a pool of `size` threads, the engine thread included; at least 1.
    pub fn new(size: usize) -> Self {
        let size = size.max(1);
        let state = Mutex::new(GateState { allowed: size, queued: vec![0; size] });
        Self { size, gate: Arc::new(Gate { state, changed: Condvar::new() }), pool: Mutex::new(None) }
    }

    /// For an engine that computes in the pool of the process.
    pub fn none() -> Self {
        let mut helpers = Self::new(1);
        helpers.size = 0;
        helpers
    }

    /// Makes the calling thread a member of this slot's pool, once a thread. To be called on the engine's thread.
    pub fn enter(&self) {
        if self.size == 0 {
            return;
        }
        POOL.with_borrow_mut(|own| {
            if own.is_none() {
                let built = ThreadPoolBuilder::new()
                    .num_threads(self.size)
                    .use_current_thread()
                    .thread_name(|index| format!("slot-helper-{index}"))
                    .build();
                match built {
                    Ok(pool) => {
                        let pool = Arc::new(pool);
                        *lock(&self.pool) = Some(pool.clone());
                        *own = Some(pool);
                        self.park();
                    }
                    Err(error) => tracing::warn!(%error, "an engine thread runs without a pool of its own"),
                }
            }
            // The engine thread's own parking jobs end at once, but somebody has to take them.
            if let Some(pool) = own {
                while pool.yield_local() == Some(Yield::Executed) {}
            }
        });
    }

    /// Sets how many threads may work, the engine thread included. May be called from any thread, at any time.
    pub fn allow(&self, threads: usize) {
        let threads = threads.clamp(1, self.size.max(1));
        let fewer = {
            let mut state = lock(&self.gate.state);
            let fewer = threads < state.allowed;
            state.allowed = threads;
            fewer
        };
        if fewer {
            self.park();
        } else {
            self.gate.changed.notify_all();
        }
    }

    /// Queues a job on every thread of the pool that holds it while its index is not allowed.
    fn park(&self) {
        let Some(pool) = lock(&self.pool).clone() else { return };
        {
            let mut state = lock(&self.gate.state);
            if state.allowed >= self.size {
                return;
            }
            state.queued.iter_mut().for_each(|queued| *queued += 1);
        }
        let gate = self.gate.clone();
        pool.spawn_broadcast(move |context| gate.hold(context.index()));
        self.gate.changed.notify_all();
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        self.allow(self.size);
    }
}

impl Gate {
    fn hold(&self, index: usize) {
        let mut state = lock(&self.state);
        if let Some(queued) = state.queued.get_mut(index) {
            *queued = queued.saturating_sub(1);
        }
        while index >= state.allowed && state.queued.get(index) == Some(&0) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A poisoned lock here guards plain numbers and handles; they are as good as they were.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        thread::{self, ThreadId},
        time::{Duration, Instant},
    };

    use rayon::prelude::*;

    use super::*;

    /// Helpers park and wake when they get to it.
    #[track_caller]
    fn eventually(holds: impl Fn() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < Duration::from_secs(10), "the gate had no effect");
        }
    }

    fn workers() -> HashSet<ThreadId> {
        let seen = Mutex::new(HashSet::new());
        (0..64).into_par_iter().for_each(|_| {
            thread::sleep(Duration::from_micros(200));
            lock(&seen).insert(thread::current().id());
        });
        seen.into_inner().unwrap()
    }

    #[test]
    fn the_gate_takes_helpers_out_and_lets_them_in() {
        // A thread of its own: a thread can enter one pool in its life.
        thread::spawn(|| {
            let helpers = Helpers::new(3);
            helpers.enter();
            eventually(|| workers().len() == 3);
            for _ in 0..50 {
                helpers.allow(2);
                helpers.allow(1);
            }
            eventually(|| workers() == HashSet::from([thread::current().id()]));
            helpers.allow(2);
            eventually(|| workers().len() == 2);
            helpers.allow(3);
            eventually(|| workers().len() == 3);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_gate_closed_before_the_pool_exists_holds_in_it() {
        thread::spawn(|| {
            let helpers = Helpers::new(2);
            helpers.allow(1);
            helpers.enter();
            eventually(|| workers().len() == 1);
        })
        .join()
        .unwrap();
    }
}
