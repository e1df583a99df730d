use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::StreamExt;

use super::{SqliteConfig, SqliteStore};
use crate::store::{
    Entry, Retention, Store, conformance,
    fleet::{Fleet, Report},
    quota::StorageQuotas,
};

/// Makes stores with separate files, in a folder that is deleted with this.
struct SqliteMaker {
    folder: PathBuf,
    made: AtomicUsize,
}

impl SqliteMaker {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("caudal-sqlite-{name}-{}", std::process::id()));
        Self { folder, made: AtomicUsize::new(0) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn store(&self) -> SqliteStore {
        self.store_with(StorageQuotas::for_tests())
    }

    fn store_with(&self, quotas: StorageQuotas) -> SqliteStore {
        let name = format!("{}.db", self.made.fetch_add(1, Ordering::Relaxed));
        SqliteStore::open(SqliteConfig { quotas, ..config(self.path(&name)) }).unwrap()
    }
}

impl Drop for SqliteMaker {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn config(path: PathBuf) -> SqliteConfig {
    let process = crate::random::random_hex();
    let (retention, quotas) = (Retention::for_tests(), StorageQuotas::for_tests());
    SqliteConfig { path, max_bytes: 0, retention, quotas, process }
}

/// Opens a file as soon as a store that was dropped a moment ago has released it.
async fn reopened(config: SqliteConfig) -> SqliteStore {
    caudal_tests::until("the file to be free", || async { SqliteStore::open(config.clone()).ok() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let make = SqliteMaker::new("conforms");
    conformance::all(async || make.store()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_conforms() {
    let make = SqliteMaker::new("rest");
    conformance::conversations::all(async || {
        make.store().conversations(Retention::for_tests(), conformance::conversations::BOUNDS)
    })
    .await;
    conformance::prompts::all(async || make.store().prompts(conformance::prompts::BOUNDS)).await;
    let minute = Duration::from_secs(60);
    conformance::cache::all(async || make.store().cache(conformance::cache::MAX_BYTES, minute)).await;
    conformance::rates::all(async || make.store()).await;
    conformance::quota::all(async |quotas| make.store_with(quotas)).await;
}

#[tokio::test]
async fn what_did_not_end_is_claimed_by_the_next_process() {
    let make = SqliteMaker::new("claimed");
    let settings = config(make.path("a.db"));
    let store = SqliteStore::open(settings.clone()).unwrap();
    let lease = conformance::created(&store, conformance::header("resp_1", "t")).await;
    conformance::append(&store, &lease, 0, vec![Entry::Started, conformance::delta(1)]).await.unwrap();
    store.left(&["resp_1".into()], &[]).await.unwrap();
    store.cancel("t", "resp_1").await.unwrap();
    let ended = conformance::created(&store, conformance::header("resp_2", "t")).await;
    conformance::append(&store, &ended, 0, vec![conformance::finished()]).await.unwrap();
    assert!(store.beat(&Report::default()).await.unwrap().is_empty());
    drop(store);
    let next = reopened(config(settings.path.clone())).await;
    let members = next.beat(&Report::default()).await.unwrap();
    assert_eq!((members.len(), &members[0].replica), (1, &settings.process));
    assert_eq!(next.runs(&settings.process).await.unwrap(), ["resp_1"]);
    let mut followed = next.follow("t", "resp_1").await.unwrap();
    let claim = next.claim("resp_1", &settings.process).await.unwrap().expect("a claim");
    assert_eq!((claim.entries.len(), claim.cancelled, claim.lease.fence), (2, true, 2));
    assert!(claim.left.is_some_and(|left| left < Duration::from_secs(60)));
    conformance::append(&next, &claim.lease, 2, vec![conformance::finished()]).await.unwrap();
    assert_eq!(followed.rest.next().await.unwrap().unwrap().first, 2);
    assert!(next.beat(&Report::default()).await.unwrap().is_empty());
    let read = next.read("t", "resp_1").await.unwrap().1;
    assert_eq!(
        read.iter().map(|e| (**e).clone()).collect::<Vec<_>>(),
        [Entry::Started, conformance::delta(1), conformance::finished()]
    );
    assert_eq!(next.read("t", "resp_2").await.unwrap().1.len(), 1);
}
