//! Blocks of keys and values in a folder, one file each. They survive a restart of the process.
//!
//! The path of a block is `<tenant>/<first two digits>/<name>`, with a hash of the tenant. A file is written under another name and
//! then renamed, so it is either whole or absent. The folder is listed once, at the first use. A tenant that has filled its part
//! loses its own least recently used blocks; other tenants lose none.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::{sync::OnceCell, task::spawn_blocking};

use crate::engine::kv::{BlockName, KvError, KvStore};

pub struct KvFolder {
    folder: Arc<BlockFolder>,
    /// Set after the folder was listed.
    listed: OnceCell<()>,
}

/// The number of tenants whose full parts fill the folder.
const FULL_PARTS: u64 = 4;

struct BlockFolder {
    path: PathBuf,
    /// The bound on the bytes of one tenant.
    max_bytes: u64,
    index: Mutex<FolderIndex>,
}

/// The files in the folder.
#[derive(Default)]
struct FolderIndex {
    files: HashMap<(TenantId, String), BlockFile>,
    /// Files of each tenant in the order of their last use.
    used: HashMap<TenantId, BTreeMap<u64, String>>,
    tenant_bytes: HashMap<TenantId, u64>,
    bytes: u64,
    clock: u64,
}

/// The name of a tenant's folder.
type TenantId = Arc<str>;

#[derive(Clone, Copy)]
struct BlockFile {
    bytes: u64,
    used: u64,
}

impl KvFolder {
    /// `max_bytes`: the bound on the bytes of one tenant. All tenants together may have `FULL_PARTS` times as many.
    pub fn new(path: PathBuf, max_bytes: u64) -> Self {
        let folder = BlockFolder { path, max_bytes, index: Mutex::default() };
        Self { folder: Arc::new(folder), listed: OnceCell::new() }
    }

    /// Runs file operations on a thread that may block, after the folder was listed.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&BlockFolder) -> io::Result<T> + Send + 'static,
    ) -> Result<T, KvError> {
        let failed = |error: io::Error| KvError(format!("{}: {error}", self.folder.path.display()));
        let folder = self.folder.clone();
        let list = || async {
            let folder = folder.clone();
            spawn_blocking(move || folder.list()).await.map_err(io::Error::other)?
        };
        self.listed.get_or_try_init(list).await.map_err(failed)?;
        spawn_blocking(move || work(&folder))
            .await
            .map_err(io::Error::other)
            .and_then(|outcome| outcome)
            .map_err(failed)
    }
}

#[async_trait]
impl KvStore for KvFolder {
    async fn count(&self, tenant: &str, chain: &[BlockName]) -> Result<usize, KvError> {
        let (tenant, chain) = (tenant_id(tenant), chain.to_vec());
        self.run(move |folder| {
            let index = folder.index();
            let is_there = |name: &&BlockName| index.files.contains_key(&(tenant.clone(), name.to_string()));
            Ok(chain.iter().take_while(is_there).count())
        })
        .await
    }

    async fn fetch(&self, tenant: &str, chain: &[BlockName]) -> Result<Vec<Vec<u8>>, KvError> {
        let (tenant, chain) = (tenant_id(tenant), chain.to_vec());
        self.run(move |folder| {
            let mut blocks = Vec::with_capacity(chain.len());
            for name in &chain {
                match fs::read(folder.place(&tenant, &name.to_string())) {
                    Ok(block) => blocks.push(block),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) => return Err(error),
                }
            }
            // In reverse, so that a chain is evicted from its end.
            for name in chain.iter().take(blocks.len()).rev() {
                folder.index().touch(&tenant, name.to_string());
            }
            Ok(blocks)
        })
        .await
    }

    async fn put(&self, tenant: &str, blocks: &[(BlockName, Vec<u8>)]) -> Result<(), KvError> {
        let (tenant, blocks) = (tenant_id(tenant), blocks.to_vec());
        self.run(move |folder| blocks.iter().rev().try_for_each(|(name, block)| folder.put(&tenant, name, block))).await
    }

    fn origin(&self) -> &'static str {
        "disk"
    }
}

impl BlockFolder {
    fn index(&self) -> parking_lot::MutexGuard<'_, FolderIndex> {
        self.index.lock()
    }

    fn place(&self, tenant: &TenantId, name: &str) -> PathBuf {
        self.path.join(&**tenant).join(name.get(..2).unwrap_or_default()).join(name)
    }

    /// Lists the files in the order of their last writes, and deletes unfinished ones.
    fn list(&self) -> io::Result<()> {
        private_folder(&self.path)?;
        let mut files = Vec::new();
        for tenant in folders(&self.path)? {
            let id: TenantId = tenant.file_name().unwrap_or_default().to_string_lossy().into();
            for part in folders(&tenant)? {
                for entry in fs::read_dir(part)? {
                    let entry = entry?;
                    let (name, about) = (entry.file_name().to_string_lossy().into_owned(), entry.metadata()?);
                    if name.ends_with(UNFINISHED) {
                        fs::remove_file(entry.path())?;
                    } else {
                        files.push((about.modified().unwrap_or(SystemTime::UNIX_EPOCH), id.clone(), name, about.len()));
                    }
                }
            }
        }
        files.sort();
        let mut index = self.index();
        for (_, tenant, name, bytes) in files {
            index.add(&tenant, name, bytes);
        }
        drop(index);
        self.evict()
    }

    fn put(&self, tenant: &TenantId, name: &BlockName, block: &[u8]) -> io::Result<()> {
        let name = name.to_string();
        let place = self.place(tenant, &name);
        if let Some(parent) = place.parent() {
            private_folder(parent)?;
        }
        let unfinished = place.with_file_name(format!("{name}{UNFINISHED}"));
        fs::write(&unfinished, block)?;
        fs::rename(&unfinished, &place)?;
        self.index().add(tenant, name, block.len() as u64);
        self.evict()
    }

    /// Deletes the least recently used files of the largest tenant until each tenant and all together are within their bounds.
    fn evict(&self) -> io::Result<()> {
        loop {
            let mut index = self.index();
            let Some((tenant, name)) = index.excess(self.max_bytes) else { return Ok(()) };
            index.remove(&tenant, &name);
            drop(index);
            match fs::remove_file(self.place(&tenant, &name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
}

/// The end of the name of a file that is being written.
const UNFINISHED: &str = ".part";

impl FolderIndex {
    fn add(&mut self, tenant: &TenantId, name: String, bytes: u64) {
        self.remove(tenant, &name);
        self.clock += 1;
        self.used.entry(tenant.clone()).or_default().insert(self.clock, name.clone());
        self.files.insert((tenant.clone(), name), BlockFile { bytes, used: self.clock });
        *self.tenant_bytes.entry(tenant.clone()).or_default() += bytes;
        self.bytes += bytes;
    }

    fn touch(&mut self, tenant: &TenantId, name: String) {
        if let Some(file) = self.files.get(&(tenant.clone(), name.clone())).copied() {
            self.add(tenant, name, file.bytes);
        }
    }

    fn remove(&mut self, tenant: &TenantId, name: &str) {
        let Some(file) = self.files.remove(&(tenant.clone(), name.to_owned())) else { return };
        if let Some(used) = self.used.get_mut(tenant) {
            used.remove(&file.used);
        }
        if let Some(bytes) = self.tenant_bytes.get_mut(tenant) {
            *bytes -= file.bytes;
        }
        self.bytes -= file.bytes;
    }

    /// Returns the next file to evict if a tenant has more than `max_bytes`, or all together too many.
    fn excess(&self, max_bytes: u64) -> Option<(TenantId, String)> {
        let (tenant, most) = self.tenant_bytes.iter().max_by_key(|(_, bytes)| **bytes)?;
        if *most <= max_bytes && self.bytes <= max_bytes.saturating_mul(FULL_PARTS) {
            return None;
        }
        let (_, name) = self.used.get(tenant)?.first_key_value()?;
        Some((tenant.clone(), name.clone()))
    }
}

fn tenant_id(tenant: &str) -> TenantId {
    hex::encode(&Sha256::digest(tenant)[..16]).into()
}

fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

/// Creates a folder that only its owner can read, because prompts can be inferred from keys and values.
fn private_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    fn folder() -> PathBuf {
        std::env::temp_dir().join(format!("caudal-kv-{}", crate::random::random_hex()))
    }

    #[tokio::test]
    async fn conforms() {
        let path = folder();
        conformance::kv::all(async |max_bytes| KvFolder::new(path.join(crate::random::random_hex()), max_bytes)).await;
        fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn a_folder_outlives_its_process() {
        let path = folder();
        let names = BlockName::root("m", "t").chain(&[7; 64]);
        let blocks: Vec<_> = names.iter().map(|name| (*name, name.bytes().to_vec())).collect();
        KvFolder::new(path.clone(), 1 << 20).put("t", &blocks).await.unwrap();
        let unfinished = path.join(&*tenant_id("t")).join("00");
        fs::create_dir_all(&unfinished).unwrap();
        fs::write(unfinished.join(format!("00{UNFINISHED}")), "cut").unwrap();
        let again = KvFolder::new(path.clone(), 1 << 20);
        assert_eq!(again.fetch("t", &names).await.unwrap().len(), 4);
        assert_eq!(fs::read_dir(&unfinished).unwrap().count(), 0, "what was not finished is gone");
        let smaller = KvFolder::new(path.clone(), 70);
        smaller.count("t", &names).await.unwrap();
        assert_eq!(smaller.folder.index().files.len(), 2, "the bound holds for what is there");
        fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn where_all_tenants_together_have_no_room_the_largest_loses() {
        let path = folder();
        let store = KvFolder::new(path.clone(), 70);
        let held = async |tenant: &str| {
            let names = BlockName::root("m", tenant).chain(&[7; 32]);
            store.count(tenant, &names).await.unwrap()
        };
        for (tenant, tokens) in [("small", 16), ("a", 32), ("b", 32), ("c", 32), ("d", 32)] {
            let names = BlockName::root("m", tenant).chain(&vec![7; tokens]);
            let blocks: Vec<_> = names.iter().map(|name| (*name, name.bytes().to_vec())).collect();
            store.put(tenant, &blocks).await.unwrap();
        }
        let large = held("a").await + held("b").await + held("c").await + held("d").await;
        assert_eq!((held("small").await, large), (1, 7), "288 bytes are 8 too many");
        let again = KvFolder::new(path.clone(), 70);
        again.count("small", &[]).await.unwrap();
        assert_eq!(again.folder.index().files.len(), 8, "its file is gone too");
        fs::remove_dir_all(path).unwrap();
    }
}
