//! The threads of one slot. candle's matrix products run in the rayon pool of the thread that calls them, and pay a thread
//! hand-over per product when that thread has none. So every engine thread is made a member of its own pool.
//!
//! A pool's size is fixed when it is built, but the number of slots that run changes with every request: alone, a slot is
//! fastest with all cores; together, each is best off with one thread. So the helpers of every pool stand behind a gate that
//! takes those above the slot's share out of the pool, by parking them inside a job. A helper that parked with half of a
//! matrix product on its stack would stop the engine for good; so they park only between two steps, when the engine's thread
//! asks them to and waits until they have, and every slot rests with all of them parked. They may leave at any time.

use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
};

use rayon::{ThreadPool, ThreadPoolBuilder};

thread_local! {
    /// Keeps the pool of this engine thread alive as long as the thread, and says whose it is.
    static POOL: RefCell<Option<ThreadPool>> = const { RefCell::new(None) };
}

/// The gate before the helpers of one engine thread, and what is known of that thread.
pub struct Helpers {
    gate: Arc<Gate>,
    threads: OnceLock<EngineThreads>,
}

struct Gate {
    /// Threads of the pool, the engine's included.
    size: usize,
    state: Mutex<GateState>,
    changed: Condvar,
}

struct GateState {
    /// Threads that may work, the engine's included.
    allowed: usize,
    parked: usize,
}

impl Helpers {
    /// For a pool of `size` threads, the engine thread included; at least 1.
    pub fn new(size: usize) -> Self {
        let size = size.max(1);
        let state = Mutex::new(GateState { allowed: size, parked: 0 });
        Self { gate: Arc::new(Gate { size, state, changed: Condvar::new() }), threads: OnceLock::new() }
    }

    /// For an engine that computes in the pool of the process.
    pub fn none() -> Self {
        let state = Mutex::new(GateState { allowed: 0, parked: 0 });
        Self { gate: Arc::new(Gate { size: 0, state, changed: Condvar::new() }), threads: OnceLock::new() }
    }

    /// Makes the calling thread the engine's thread of this slot, once, and lets as many helpers work as are allowed. To be
    /// called on the engine's thread, between two steps.
    pub fn enter(&self) {
        if self.gate.size == 0 {
            return;
        }
        POOL.with_borrow_mut(|member| {
            if member.is_none() {
                let own = Arc::new(Mutex::new(vec![Thread::current()]));
                let helpers = own.clone();
                let built = ThreadPoolBuilder::new()
                    .num_threads(self.gate.size)
                    .use_current_thread()
                    .start_handler(move |_| lock(&helpers).push(Thread::current()))
                    .thread_name(|index| format!("slot-helper-{index}"))
                    .build();
                match built {
                    Ok(pool) => *member = Some(pool),
                    Err(error) => tracing::warn!(%error, "an engine thread runs without a pool of its own"),
                }
                self.threads.get_or_init(|| EngineThreads { own, shared: SHARED.get_or_init(Thread::others_here) });
            }
            if let Some(pool) = member {
                self.gate.settle(pool);
            }
        });
    }

    /// Parks all helpers: the sequence ends with this step. To be called where [`Self::enter`] is.
    pub fn rest(&self) {
        self.allow(1);
        self.enter();
    }

    /// Sets how many threads may work, the engine thread included. May be called from any thread, at any time: more work at
    /// once, fewer from the next step on.
    pub fn allow(&self, threads: usize) {
        lock(&self.gate.state).allowed = threads.max(1).min(self.gate.size);
        self.gate.changed.notify_all();
    }

    #[cfg(test)]
    pub fn allowed(&self) -> usize {
        lock(&self.gate.state).allowed
    }

    /// The threads that compute for this slot, once its engine has entered.
    pub fn threads(&self) -> Option<&EngineThreads> {
        self.threads.get()
    }
}

impl Default for Helpers {
    fn default() -> Self {
        Self::none()
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        self.allow(self.gate.size);
    }
}

impl Gate {
    /// Parks the helpers above what is allowed. None of them is in the middle of anything, since no step is.
    fn settle(self: &Arc<Self>, pool: &ThreadPool) {
        let mut state = lock(&self.state);
        for _ in state.parked..self.size - state.allowed {
            let gate = self.clone();
            pool.spawn(move || gate.hold());
        }
        // Waited for, so that the engine's thread, which is of the pool too, never takes such a job itself.
        while state.parked < self.size - state.allowed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn hold(&self) {
        let mut state = lock(&self.state);
        state.parked += 1;
        self.changed.notify_all();
        while state.parked <= self.size - state.allowed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.parked -= 1;
    }
}

/// The threads on which all engines compute attention: the engine has one pool for that, in which the engine's threads are
/// not. It is there when the first engine has made its first step; its threads are known by the name that they inherit from
/// that engine's, so no engine of somebody else may come before it in a process.
static SHARED: OnceLock<Vec<Thread>> = OnceLock::new();

/// The threads that compute for one slot, as the system sees them.
pub struct EngineThreads {
    /// The engine's own and its helpers.
    own: Arc<Mutex<Vec<Thread>>>,
    shared: &'static [Thread],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A thread of its own runs, or waits for a processor or a disk.
    Awake,
    /// Its own threads sleep; the shared ones compute, for this slot or another. Or nothing is known here.
    Unclear,
    /// All sleep; its own have used so much processor time, in the system's ticks.
    Asleep(u64),
}

impl EngineThreads {
    pub fn see(&self) -> Seen {
        let mut used = 0;
        for thread in &*lock(&self.own) {
            match thread.asleep() {
                Some(Ok(ticks)) => used += ticks,
                Some(Err(())) => return Seen::Awake,
                None => return Seen::Unclear,
            }
        }
        let computing = |thread: &Thread| thread.asleep().is_some_and(|asleep| asleep.is_err());
        if self.shared.iter().any(computing) { Seen::Unclear } else { Seen::Asleep(used) }
    }
}

/// Its folder in `/proc`; nothing where there is none.
struct Thread(Option<PathBuf>);

impl Thread {
    fn current() -> Self {
        Self(fs::read_link("/proc/thread-self").ok().map(|thread| Path::new("/proc").join(thread)))
    }

    /// Those with the name of the current one: a thread without a name of its own has that of the thread that began it.
    fn others_here() -> Vec<Self> {
        let Some(here) = Self::current().0 else { return Vec::new() };
        let name = |folder: &Path| fs::read(folder.join("comm")).ok();
        let Some(Ok(all)) = here.parent().map(fs::read_dir) else { return Vec::new() };
        let folders = all.flatten().map(|thread| thread.path());
        folders
            .filter(|folder| *folder != here && name(folder) == name(&here))
            .map(|folder| Self(Some(folder)))
            .collect()
    }

    /// The processor time it has used, in the system's ticks, or that it is awake. None where that is not known.
    fn asleep(&self) -> Option<Result<u64, ()>> {
        let stat = fs::read_to_string(self.0.as_ref()?.join("stat")).ok()?;
        // The name before it is in parentheses and may hold anything.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        if fields.next()? != "S" {
            return Some(Err(()));
        }
        let mut times = fields.skip(10);
        Some(Ok(times.next()?.parse::<u64>().ok()? + times.next()?.parse::<u64>().ok()?))
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

    /// Helpers wake when they get to it.
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

    /// Runs on a thread of its own: a thread can enter one pool in its life.
    fn on_a_thread(test: impl FnOnce() + Send + 'static) {
        thread::spawn(test).join().unwrap();
    }

    #[test]
    fn the_gate_takes_helpers_out_at_a_step_and_lets_them_in_at_once() {
        on_a_thread(|| {
            let helpers = Helpers::new(3);
            helpers.enter();
            eventually(|| workers().len() == 3);
            for _ in 0..50 {
                helpers.allow(2);
                helpers.enter();
                helpers.rest();
                assert_eq!(workers(), HashSet::from([thread::current().id()]));
            }
            helpers.allow(2);
            eventually(|| workers().len() == 2);
            helpers.allow(3);
            eventually(|| workers().len() == 3);
            helpers.allow(1);
            assert_eq!(lock(&helpers.gate.state).parked, 0, "nobody parks in the middle of a step");
        });
    }

    #[test]
    fn a_gate_closed_before_the_pool_exists_holds_in_it() {
        on_a_thread(|| {
            let helpers = Helpers::new(2);
            helpers.allow(1);
            helpers.enter();
            assert_eq!(workers().len(), 1);
        });
    }

    /// Products in products, while the share changes all the time: a helper that parks inside one never comes back to it.
    #[test]
    fn no_share_stops_a_step() {
        on_a_thread(|| {
            let helpers = Arc::new(Helpers::new(3));
            let steps = 2000;
            let shares = helpers.clone();
            let done = Arc::new(OnceLock::new());
            let until = done.clone();
            let changing = thread::spawn(move || {
                for share in (1..=3).cycle() {
                    shares.allow(share);
                    if until.get().is_some() {
                        break;
                    }
                }
            });
            for _ in 0..steps {
                helpers.enter();
                let sum: u64 =
                    (0..32u64).into_par_iter().map(|n| (0..32u64).into_par_iter().map(|m| n * m).sum::<u64>()).sum();
                assert_eq!(sum, 496 * 496);
            }
            done.set(()).unwrap();
            changing.join().unwrap();
        });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn threads_are_seen_to_sleep() {
        let (sender, threads) = std::sync::mpsc::channel();
        let sleeper = thread::spawn(move || {
            let own = Arc::new(Mutex::new(vec![Thread::current()]));
            sender.send(own).unwrap();
            thread::park();
        });
        let own = threads.recv().unwrap();
        let threads = EngineThreads { own: own.clone(), shared: &[] };
        eventually(|| matches!(threads.see(), Seen::Asleep(_)));
        let shared = Box::leak(Box::new([Thread::current()]));
        assert_eq!(EngineThreads { own: own.clone(), shared }.see(), Seen::Unclear, "this one runs");
        lock(&own).push(Thread::current());
        assert_eq!(threads.see(), Seen::Awake);
        sleeper.thread().unpark();
        sleeper.join().unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn threads_without_a_name_are_found_by_the_name_they_inherit() {
        let begin = |name: &str| thread::Builder::new().name(name.into());
        let found = begin("inherited-name").spawn(move || {
            let nameless = thread::spawn(thread::park);
            let named = begin("another-name").spawn(thread::park).unwrap();
            eventually(|| Thread::others_here().len() == 1);
            for thread in [nameless, named] {
                thread.thread().unpark();
                thread.join().unwrap();
            }
        });
        found.unwrap().join().unwrap();
    }
}
