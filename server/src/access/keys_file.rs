//! The file with the hashes of keys (`auth.keys_file`), which `caudal key` writes and servers read. The text of a key is not
//! stored; it is shown once, when the key is made.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    clock::unix_seconds,
    settings::{KeyLimits, Scope},
};

/// The prefix of every key.
const PREFIX: &str = "ck_";
const HEAD: &str =
    "# Written by `caudal key`; servers read it again when it changes. Salted SHA-256 of random keys of 256 bits.\n\n";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysFile {
    #[serde(default)]
    pub keys: Vec<StoredKey>,
}

/// A key in the file. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredKey {
    pub id: String,
    pub tenant: String,
    pub scopes: BTreeSet<Scope>,
    #[serde(default)]
    pub models: Vec<String>,
    pub created: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    #[serde(default, skip_serializing_if = "KeyLimits::is_none")]
    pub limits: KeyLimits,
    salt: String,
    pub hash: String,
}

/// The reason why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("auth.keys_file: {0}")]
pub struct FileError(String);

/// A new key: its tenant, permissions, limits and expiry.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub tenant: String,
    pub scopes: BTreeSet<Scope>,
    pub models: Vec<String>,
    pub expires: Option<u64>,
    pub limits: KeyLimits,
}

impl KeysFile {
    /// Reads a file.
    ///
    /// # Errors
    /// The file does not exist, users except its owner can read or write it, or its text is not valid. The message quotes no part
    /// of the text.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let shown = path.display();
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => FileError(format!(
                "{shown} does not exist; `caudal key create --tenant NAME --keys-file {shown}` creates it"
            )),
            _ => FileError(format!("{shown}: {error}")),
        };
        let mut file = fs::File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(FileError(format!(
                "other users can read or write {shown} (its mode is {:o}); run `chmod 600 {shown}`",
                mode & 0o777
            )));
        }
        let mut text = String::new();
        std::io::Read::read_to_string(&mut file, &mut text).map_err(failed)?;
        let read: Self =
            toml::from_str(&text).map_err(|_| FileError(format!("{shown} is not in the format of `caudal key`")))?;
        let ids: BTreeSet<&str> = read.keys.iter().map(|key| key.id.as_str()).collect();
        if ids.len() != read.keys.len() {
            return Err(FileError(format!("{shown} has an id twice")));
        }
        if let Some((id, what)) = read.keys.iter().find_map(|key| Some((&key.id, key.limits.check().err()?))) {
            return Err(FileError(format!("{shown}: the key {id}: limits.{what}")));
        }
        Ok(read)
    }

    /// Reads a file. A file that does not exist counts as empty.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_or_new(path: &Path) -> Result<Self, FileError> {
        if path.exists() { Self::read(path) } else { Ok(Self::default()) }
    }

    /// Replaces the file atomically: a server reads the old file or the new one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        let failed = |error: &dyn std::fmt::Display| FileError(format!("{}: {error}", path.display()));
        let text = toml::to_string(self).map_err(|error| failed(&error))?;
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let new = Path::new(&name);
        let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(new).and_then(|mut file| {
            file.write_all(HEAD.as_bytes())?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(new, path)
        });
        if written.is_err() {
            let _ = fs::remove_file(new);
        }
        written.map_err(|error| failed(&error))
    }

    /// Adds a key and returns its text, which is not stored.
    ///
    /// # Errors
    /// The operating system returns no random bytes.
    pub fn create(&mut self, new: NewKey) -> Result<String, FileError> {
        let mut random = [0; 56];
        getrandom::fill(&mut random).map_err(|error| FileError(format!("no random bytes: {error}")))?;
        let (id, rest) = random.split_at(8);
        let (salt, secret) = rest.split_at(16);
        let (id, salt) = (hex::encode(id), hex::encode(salt));
        let text = format!("{PREFIX}{id}_{}", hex::encode(secret));
        let hash = hashed(&salt, &text);
        let NewKey { tenant, scopes, models, expires, limits } = new;
        let created = unix_seconds();
        self.keys.push(StoredKey { id, tenant, scopes, models, created, expires, limits, salt, hash });
        Ok(text)
    }

    /// Removes a key. Returns whether a key with this id existed.
    pub fn revoke(&mut self, id: &str) -> bool {
        let before = self.keys.len();
        self.keys.retain(|key| key.id != id);
        self.keys.len() < before
    }

    pub fn by_id(&self, id: &str) -> Option<&StoredKey> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// Returns the key with this text.
    pub fn find(&self, text: &str) -> Option<&StoredKey> {
        let (id, _) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let key = self.by_id(id)?;
        bool::from(hashed(&key.salt, text).as_bytes().ct_eq(key.hash.as_bytes())).then_some(key)
    }
}

fn hashed(salt: &str, text: &str) -> String {
    hex::encode(Sha256::new().chain_update(salt).chain_update(text).finalize())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn new() -> NewKey {
        let limits = KeyLimits { requests_per_minute: NonZeroU32::new(5), priority: true, ..KeyLimits::default() };
        NewKey { tenant: "a".into(), scopes: Scope::of_a_tenant(), models: vec![], expires: None, limits }
    }

    #[test]
    fn a_key_is_found_by_its_text_and_is_not_in_the_file() {
        let mut file = KeysFile::default();
        let (one, two) = (file.create(new()).unwrap(), file.create(new()).unwrap());
        assert_ne!(one, two);
        assert_eq!(file.find(&one).map(|key| &key.id), Some(&file.keys[0].id));
        let secret = one.rsplit('_').next().unwrap();
        assert!(!toml::to_string(&file).unwrap().contains(secret));
        let wrong =
            [&one[..one.len() - 1], &format!("{one}0"), "ck_", "", &two.replace(&file.keys[1].id, &file.keys[0].id)];
        assert!(wrong.iter().all(|text| file.find(text).is_none()));
        let id = file.keys[0].id.clone();
        assert!(file.revoke(&id) && !file.revoke(&id));
        assert!(file.find(&one).is_none() && file.find(&two).is_some());
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let path = std::env::temp_dir().join(format!("caudal-keys-{}.toml", std::process::id()));
        let mut file = KeysFile::default();
        file.create(new()).unwrap();
        file.write(&path).unwrap();
        assert_eq!(KeysFile::read(&path).unwrap(), file);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(KeysFile::read(&path).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "keys = \"a secret\"").unwrap();
        assert!(!KeysFile::read(&path).unwrap_err().to_string().contains("a secret"));
        fs::remove_file(&path).unwrap();
        assert!(KeysFile::read(&path).unwrap_err().to_string().contains("caudal key create"));
    }
}
