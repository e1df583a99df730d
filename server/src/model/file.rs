//! Files of models: their sums, and a disk that is full.

use std::{fs::File, io::Read, path::Path};

use anyhow::Context;
use sha2::{Digest, Sha256};

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
pub fn no_space(error: std::io::Error, dir: &Path, bytes: u64) -> anyhow::Error {
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
    fn hashes_as_sha256sum_does() {
        let path = std::env::temp_dir().join(format!("caudal-sha-{}", std::process::id()));
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(sha256(&path).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        std::fs::remove_file(&path).unwrap();
    }
}
