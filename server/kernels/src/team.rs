//! The threads that compute: one team for the process, which shares the chunks of one piece of work at a time.
//!
//! A run is a fork and a join: the caller publishes the work, all threads claim chunks of it by one atomic counter, and the
//! caller returns when each claimed chunk has ended. The caller computes too. It waits only for chunks that a helper has
//! claimed, so a helper that the system has not scheduled delays nothing.
//!
//! A helper without work spins for [`SPIN`] and then sleeps. Waking a sleeping thread takes 20 to 45 µs, as long as a
//! product of a small model, so helpers spin through the gaps within a step and sleep in the gaps between steps.
//!
//! A second thread that calls [`run`] during a run computes its chunks alone, because waiting for the team would cost a wake-up
//! for each product. Callers with many runs in a row, such as the steps of several models, hold a [`Turn`] for a whole step
//! instead, so that they do not slow each other down.

use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// The time for which a helper looks for work before it sleeps.
pub const SPIN: Duration = Duration::from_micros(100);
/// The time for which a waiting caller spins before it sleeps. While it sleeps, its core is free for a helper whose
/// own core another process uses.
const WAIT: Duration = Duration::from_micros(50);
/// Pauses between two reads of the clock.
const PAUSES: u32 = 32;

static SIZE: OnceLock<usize> = OnceLock::new();
static TEAM: OnceLock<Team> = OnceLock::new();
/// The number of the turn that is held, and how many turns were taken.
static STEPS: Mutex<(Option<u64>, u64)> = Mutex::new((None, 0));
static STEP_ENDED: Condvar = Condvar::new();

thread_local! {
    /// Whether this thread is inside a chunk.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Returns the number of threads of the team, the caller included: the cores that this process may use. CPU affinity and the
/// quotas of cgroups are counted.
pub fn size() -> usize {
    *SIZE.get_or_init(machine)
}

/// Sets the number of threads before the first use; 0 leaves the choice to the machine. Later calls have no effect.
pub fn set_size(threads: usize) {
    let _ = SIZE.set(if threads == 0 { machine() } else { threads });
}

fn machine() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Calls `work` with each number below `chunks`, on the team's threads, and returns when all calls have returned.
///
/// Calls from within a chunk run on the calling thread.
///
/// # Panics
/// With the first panic of a chunk, after all chunks have ended. The team stays usable.
pub fn run(chunks: usize, work: &(dyn Fn(usize) + Sync)) {
    if chunks <= 1 || size() == 1 || INSIDE.get() {
        return alone(chunks, work);
    }
    TEAM.get_or_init(|| Team::new(size())).run(chunks, work);
}

/// The right to run a step without other steps beside it. See [`turn`].
pub struct Turn(u64);

/// Waits until no other thread holds a [`Turn`], and takes it. After `at_most`, takes it over from its holder, so that a
/// step that hangs delays another thread only once.
///
/// Engines that share a process hold a turn for each step. A turn is not needed for a correct result. A thread that holds a
/// turn must not take another.
pub fn turn(at_most: Duration) -> Turn {
    let mut steps = STEPS.lock();
    STEP_ENDED.wait_while_for(&mut steps, |(held, _)| held.is_some(), at_most);
    steps.1 += 1;
    steps.0 = Some(steps.1);
    Turn(steps.1)
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut steps = STEPS.lock();
        if steps.0 == Some(self.0) {
            steps.0 = None;
            STEP_ENDED.notify_one();
        }
    }
}

fn alone(chunks: usize, work: &(dyn Fn(usize) + Sync)) {
    (0..chunks).for_each(work);
}

/// Threads that share work.
pub(crate) struct Team {
    shared: Arc<Shared>,
    helpers: Vec<Thread>,
    /// Held by the caller whose work the team shares.
    lead: Mutex<()>,
}

/// A value alone in a pair of cache lines.
#[repr(align(128))]
struct Apart<T>(T);

struct Shared {
    current: Apart<Current>,
    /// The number of chunks of the current run that have ended.
    done: Apart<AtomicUsize>,
    /// For each helper: whether it sleeps, or is about to.
    asleep: Vec<AtomicBool>,
    /// The first panic of the current run.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Whether the caller sleeps until all chunks have ended, or is about to.
    waiting: AtomicBool,
    caller: Mutex<Option<Thread>>,
    closed: AtomicBool,
}

/// The current run. Helpers read it first, so it fits one cache line.
struct Current {
    /// The number of chunks (upper half), and the next chunk that no thread has claimed (lower half).
    claims: AtomicU64,
    /// Read by threads that have claimed a chunk that is not counted as ended; written while there is no such chunk.
    work: UnsafeCell<&'static (dyn Fn(usize) + Sync)>,
}

// SAFETY: `work` is written by the caller that holds the lead, before a run and after all its claimed chunks have ended. It is
// read after a claim only, which comes after the write that published the run.
unsafe impl Sync for Current {}

impl Team {
    /// Starts `threads - 1` helpers. A thread that the system refuses to start is left out.
    pub(crate) fn new(threads: usize) -> Self {
        let count = threads.saturating_sub(1);
        let shared = Arc::new(Shared {
            current: Apart(Current { claims: AtomicU64::new(0), work: UnsafeCell::new(&|_| {}) }),
            done: Apart(AtomicUsize::new(0)),
            asleep: (0..count).map(|_| AtomicBool::new(false)).collect(),
            panic: Mutex::new(None),
            waiting: AtomicBool::new(false),
            caller: Mutex::new(None),
            closed: AtomicBool::new(false),
        });
        let helpers = (0..count).filter_map(|me| {
            let shared = Arc::clone(&shared);
            let helper = thread::Builder::new().name(format!("team-{me}")).spawn(move || shared.help(me));
            helper.ok().map(|handle| handle.thread().clone())
        });
        let helpers = helpers.collect();
        Self { shared, helpers, lead: Mutex::new(()) }
    }

    /// See [`run`].
    pub(crate) fn run(&self, chunks: usize, work: &(dyn Fn(usize) + Sync)) {
        let Some(lead) = self.lead.try_lock() else { return alone(chunks, work) };
        let Ok(count) = u32::try_from(chunks).map(|count| count.min(u32::MAX / 2)) else { return alone(chunks, work) };
        if chunks <= 1 || INSIDE.get() || self.helpers.is_empty() || count as usize != chunks {
            return alone(chunks, work);
        }
        // SAFETY: only the lifetime is extended. The reference is used by threads that have claimed a chunk of this run
        // (`Shared::drain`), and this function returns only after all claimed chunks have ended: `done` reaches `chunks`.
        // No statement between the publication and that wait can panic, as `drain` catches the panics of chunks.
        let work: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(work) };
        let shared = &*self.shared;
        // SAFETY: this thread holds the lead, and all claimed chunks of earlier runs have ended, so no thread reads `work`.
        unsafe { *shared.current.0.work.get() = work };
        shared.done.0.store(0, Ordering::Relaxed);
        // The first chunk is the caller's.
        shared.current.0.claims.store(u64::from(count) << 32 | 1, Ordering::SeqCst);
        for (helper, asleep) in self.helpers.iter().zip(&shared.asleep) {
            if asleep.load(Ordering::SeqCst) && asleep.swap(false, Ordering::SeqCst) {
                helper.unpark();
            }
        }
        shared.drain(Some(0));
        shared.join(chunks);
        let panic = shared.panic.lock().take();
        drop(lead);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    /// Ends the helpers. They are not awaited: no run is under way, so none holds borrowed work.
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.helpers.iter().for_each(Thread::unpark);
    }
}

impl Shared {
    /// Whether the current run has a chunk that no thread has claimed.
    fn is_open(&self) -> bool {
        let claims = self.current.0.claims.load(Ordering::SeqCst);
        (claims & u64::from(u32::MAX)) < claims >> 32
    }

    /// Computes the chunk `first`, if it is claimed already, and then claims and computes chunks of the current run until none
    /// is left. All of them are counted as ended at once: each access to a shared counter costs a tenth of a microsecond.
    fn drain(&self, first: Option<u64>) {
        INSIDE.set(true);
        let (mut ended, mut claimed) = (0, first);
        // The counter cannot reach the upper half: a thread passes the end by one when it has seen an open run.
        while let Some(chunk) = claimed.take().or_else(|| self.claim()) {
            // SAFETY: this thread has claimed a chunk of the current run that is not counted as ended, so the caller of that
            // run is still inside `Team::run`, no thread writes `work`, and `work` was written before the claim could succeed
            // (release and acquire of `claims`).
            let work = unsafe { *self.current.0.work.get() };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(chunk as usize))) {
                self.panic.lock().get_or_insert(panic);
            }
            ended += 1;
        }
        self.done.0.fetch_add(ended, Ordering::SeqCst);
        INSIDE.set(false);
        if self.waiting.load(Ordering::SeqCst)
            && let Some(caller) = &*self.caller.lock()
        {
            caller.unpark();
        }
    }

    /// Claims the next chunk of the current run, if there is one.
    fn claim(&self) -> Option<u64> {
        let claims = self.current.0.claims.fetch_add(1, Ordering::AcqRel);
        let chunk = claims & u64::from(u32::MAX);
        (chunk < claims >> 32).then_some(chunk)
    }

    /// Waits until `chunks` chunks have ended.
    fn join(&self, chunks: usize) {
        let done = || self.done.0.load(Ordering::SeqCst) == chunks;
        if spin(WAIT, done) {
            return;
        }
        *self.caller.lock() = Some(thread::current());
        self.waiting.store(true, Ordering::SeqCst);
        while !done() {
            thread::park();
        }
        self.waiting.store(false, Ordering::SeqCst);
    }

    /// Computes chunks of runs until the team is dropped.
    fn help(&self, me: usize) {
        let Some(asleep) = self.asleep.get(me) else { return };
        loop {
            let woken = || self.is_open() || self.closed.load(Ordering::Relaxed);
            if !spin(SPIN, woken) {
                asleep.store(true, Ordering::SeqCst);
                if !woken() {
                    thread::park();
                }
                asleep.store(false, Ordering::SeqCst);
                // The run may have ended by now. Another one is likely, so this helper spins again.
                continue;
            }
            if self.closed.load(Ordering::Relaxed) {
                return;
            }
            self.drain(None);
        }
    }
}

/// Spins until `ready`, for at most `limit`. Returns whether it is ready.
fn spin(limit: Duration, ready: impl Fn() -> bool) -> bool {
    let mut begun = None;
    loop {
        for _ in 0..PAUSES {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        if begun.get_or_insert_with(Instant::now).elapsed() >= limit {
            return ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// Runs `chunks` chunks and asserts that each ran once.
    fn check(team: &Team, chunks: usize) {
        let counts: Vec<_> = (0..chunks).map(|_| AtomicU32::new(0)).collect();
        team.run(chunks, &|chunk| {
            counts[chunk].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn each_chunk_runs_once() {
        for threads in [1, 2, 3, 8] {
            let team = Team::new(threads);
            for chunks in [0, 1, 2, 3, 7, 64, 1000] {
                check(&team, chunks);
            }
        }
    }

    #[test]
    fn many_runs_in_a_row() {
        let team = Team::new(2);
        for chunks in 0..20_000 {
            check(&team, chunks % 5);
        }
    }

    #[test]
    fn work_reaches_a_sleeping_helper() {
        let team = Team::new(2);
        for _ in 0..20 {
            while !team.shared.asleep[0].load(Ordering::SeqCst) {
                thread::yield_now();
            }
            // Each chunk waits for the other, so both threads must take part.
            let both = std::sync::Barrier::new(2);
            team.run(2, &|_| {
                both.wait();
            });
        }
    }

    /// A helper that wakes up after the run has ended must notice the next run.
    #[test]
    fn work_reaches_a_helper_that_was_woken_too_late() {
        let team = Team::new(2);
        for round in 0..20 {
            while !team.shared.asleep[0].load(Ordering::SeqCst) {
                thread::yield_now();
            }
            // This run ends before the helper is awake.
            check(&team, 2 + round % 3);
        }
        while !team.shared.asleep[0].load(Ordering::SeqCst) {
            thread::yield_now();
        }
        let both = std::sync::Barrier::new(2);
        team.run(2, &|_| {
            both.wait();
        });
    }

    /// The caller sleeps during a helper's long chunk, and wakes up when it ends.
    #[test]
    fn a_caller_sleeps_until_a_long_chunk_has_ended() {
        let team = Team::new(2);
        for _ in 0..20 {
            let both = std::sync::Barrier::new(2);
            let caller = thread::current().id();
            team.run(2, &|_| {
                both.wait();
                while thread::current().id() != caller && !team.shared.waiting.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn a_panic_is_raised_on_the_caller_after_all_chunks() {
        let team = Team::new(2);
        for failing in 0..8 {
            let ended = AtomicU32::new(0);
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.run(8, &|chunk| {
                    if chunk == failing {
                        resume_unwind(Box::new(chunk));
                    }
                    ended.fetch_add(1, Ordering::Relaxed);
                });
            }));
            assert_eq!(caught.unwrap_err().downcast_ref::<usize>(), Some(&failing));
            assert_eq!(ended.load(Ordering::Relaxed), 7);
            check(&team, 100);
        }
    }

    #[test]
    fn a_run_within_a_chunk_is_computed_by_its_thread() {
        let team = Team::new(3);
        let ran = AtomicU32::new(0);
        team.run(16, &|_| {
            let outer = thread::current().id();
            team.run(16, &|_| {
                assert_eq!(thread::current().id(), outer);
                ran.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(ran.load(Ordering::Relaxed), 256);
    }

    #[test]
    fn several_callers_at_once() {
        let team = Team::new(2);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for chunks in 0..3000 {
                        check(&team, chunks % 9);
                    }
                });
            }
        });
    }

    #[test]
    fn a_second_caller_does_not_wait_for_the_first() {
        // One chunk of the first run blocks, on the caller or on the helper.
        let team = Team::new(2);
        let (entered, release) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            let caller = scope.spawn(|| {
                team.run(2, &|chunk| {
                    entered.store(true, Ordering::SeqCst);
                    while chunk == 0 && !release.load(Ordering::SeqCst) {
                        thread::yield_now();
                    }
                });
            });
            while !entered.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            // A second caller computes alone.
            check(&team, 50);
            release.store(true, Ordering::SeqCst);
            assert!(caller.join().is_ok());
        });
    }

    #[test]
    fn busy_neighbours_do_not_stop_the_team() {
        let team = Team::new(2);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            for _ in 0..500 {
                check(&team, 8);
            }
            over.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_turn_that_is_never_given_back_is_waited_for_once() {
        thread::spawn(|| std::mem::forget(turn(Duration::from_secs(60)))).join().unwrap();
        drop(turn(Duration::from_millis(1)));
        let begun = Instant::now();
        drop(turn(Duration::from_secs(60)));
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn the_process_has_one_team() {
        assert!(size() >= 1);
        set_size(size() + 7);
        let sum = AtomicUsize::new(0);
        let _turn = turn(Duration::from_secs(60));
        run(100, &|chunk| {
            sum.fetch_add(chunk, Ordering::Relaxed);
        });
        assert_eq!(sum.load(Ordering::Relaxed), 4950);
        assert!(size() < machine() + 7);
    }
}
