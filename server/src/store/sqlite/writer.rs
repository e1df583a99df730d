//! The writing thread. It puts all waiting jobs into one transaction and answers them after the commit. If a transaction fails, its
//! jobs are repeated one by one, so that no job fails because of another.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use super::{file::Lock, open_error::lacks_room, room::Room};
use crate::store::StoreError;

/// The maximum of jobs that wait for the thread. Further callers wait until there is room.
const WAITING: usize = 1024;
/// The maximum of jobs in one transaction, so that the first job does not wait long for the last.
const GROUP: usize = 256;

/// What the thread must know about a job.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The log whose state in memory the job reads, and changes after the commit. A transaction has at most one job of each log.
    pub log: Option<String>,
    /// The job makes room or ends something, so it may use the reserve.
    pub makes_room: bool,
}

impl About {
    pub fn log(id: &str) -> Self {
        Self { log: Some(id.to_owned()), makes_room: false }
    }

    pub fn making_room(self) -> Self {
        Self { makes_room: true, ..self }
    }
}

trait WriteJob: Send {
    fn about(&self) -> &About;
    /// Does the work in a transaction. Called again if the transaction was rolled back.
    fn work(&mut self, db: &Connection) -> rusqlite::Result<()>;
    /// Answers the caller. Called once, after the commit or the last failure.
    fn done(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct WriteWork<T, W, A> {
    about: About,
    work: W,
    after: A,
    found: Option<T>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, W, A> WriteJob for WriteWork<T, W, A>
where
    T: Send,
    W: FnMut(&Connection) -> rusqlite::Result<T> + Send,
    A: FnOnce(&T) + Send,
{
    fn about(&self) -> &About {
        &self.about
    }

    fn work(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.found = Some((self.work)(db)?);
        Ok(())
    }

    fn done(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { after, found, answer, .. } = *self;
        let found = outcome.and_then(|()| found.ok_or_else(|| StoreError::Unavailable("nothing was done".into())));
        if let Ok(found) = &found {
            after(found);
        }
        // The caller may be gone.
        let _ = answer.send(found);
    }
}

/// The handle of the thread. The thread ends when the last handle is dropped.
#[derive(Clone)]
pub struct Writer {
    jobs: mpsc::Sender<Box<dyn WriteJob>>,
    healthy: Arc<AtomicBool>,
}

impl Writer {
    pub fn start(db: Connection, room: Room, lock: Lock) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::channel(WAITING);
        let healthy = Arc::new(AtomicBool::new(true));
        let thread = Thread { db, room, healthy: healthy.clone(), _lock: lock };
        thread::Builder::new().name("sqlite-writer".into()).spawn(move || thread.run(waiting))?;
        Ok(Self { jobs, healthy })
    }

    /// Runs `work` in a transaction, again if it is rolled back. After the commit and before this returns, runs `after` on the
    /// writing thread.
    pub async fn write<T: Send + 'static>(
        &self,
        about: About,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
        after: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(WriteWork { about, work, after, found: None, answer });
        let ended = |_| StoreError::Unavailable("the thread that writes has ended".into());
        self.jobs.send(job).await.map_err(|_| StoreError::Unavailable("the thread that writes has ended".into()))?;
        answered.await.map_err(ended)?
    }

    /// Runs work that ends something or makes room.
    pub async fn relieve<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.write(About::default().making_room(), work, |_| {}).await
    }

    /// Returns whether the last write succeeded. A write that failed for lack of room counts as success.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }
}

struct Thread {
    db: Connection,
    room: Room,
    healthy: Arc<AtomicBool>,
    /// Released after the connection is closed.
    _lock: Lock,
}

impl Thread {
    fn run(mut self, mut waiting: mpsc::Receiver<Box<dyn WriteJob>>) {
        let mut next = None;
        while let Some(first) = next.take().or_else(|| waiting.blocking_recv()) {
            let mut group = vec![first];
            let mut logs: HashSet<String> = group.iter().filter_map(|job| job.about().log.clone()).collect();
            while group.len() < GROUP
                && let Ok(job) = waiting.try_recv()
            {
                if let Some(log) = &job.about().log
                    && !logs.insert(log.clone())
                {
                    next = Some(job);
                    break;
                }
                group.push(job);
            }
            self.commit(group);
        }
    }

    fn commit(&mut self, mut group: Vec<Box<dyn WriteJob>>) {
        if self.room.is_lent() {
            let (allowed, others): (Vec<_>, Vec<_>) = group.into_iter().partition(|job| job.about().makes_room);
            others.into_iter().for_each(|job| job.done(Err(full())));
            group = allowed;
            if group.is_empty() {
                return;
            }
        }
        if self.transact(&mut group).is_ok() {
            self.healthy.store(true, Ordering::Relaxed);
            group.into_iter().for_each(|job| job.done(Ok(())));
            return;
        }
        for job in group {
            let mut alone = [job];
            let mut outcome = self.transact(&mut alone);
            let [job] = &alone;
            if is_full(&outcome) && job.about().makes_room && self.room.lend(&self.db) {
                outcome = self.transact(&mut alone);
            }
            self.healthy.store(outcome.is_ok() || is_full(&outcome), Ordering::Relaxed);
            let [job] = alone;
            job.done(outcome.map_err(|error| trouble(&error)));
        }
    }

    fn transact(&self, jobs: &mut [Box<dyn WriteJob>]) -> rusqlite::Result<()> {
        let mut transaction = || {
            self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            jobs.iter_mut().try_for_each(|job| job.work(&self.db))?;
            self.db.prepare_cached("COMMIT")?.execute([]).map(drop)
        };
        let outcome = transaction();
        if outcome.is_err() && !self.db.is_autocommit() {
            // SQLite has not rolled back the transaction by itself.
            let _ = self.db.execute_batch("ROLLBACK");
        }
        outcome
    }
}

fn is_full(outcome: &rusqlite::Result<()>) -> bool {
    outcome.as_ref().is_err_and(lacks_room)
}

fn full() -> StoreError {
    StoreError::StoreFull("the disk takes no more, or the file has reached store.sqlite.max_mb".into())
}

/// Maps an error of SQLite to one of the contract.
pub fn trouble(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        _ if lacks_room(error) => full(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Unavailable(format!(
            "the file of store.sqlite.path is damaged ({error}); `caudal store check` says where"
        )),
        _ => StoreError::Unavailable(error.to_string()),
    }
}
