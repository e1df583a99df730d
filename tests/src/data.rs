//! A temporary folder for the server's data, deleted at the end.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::Setup;

static MADE: AtomicUsize = AtomicUsize::new(0);

pub struct DataDir(PathBuf);

impl DataDir {
    /// Returns the path of a folder that does not exist.
    pub fn unused() -> PathBuf {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        std::env::temp_dir().join(format!("caudal-data-{}-{number}", std::process::id()))
    }

    pub fn create() -> Self {
        let folder = Self::unused();
        std::fs::create_dir_all(&folder).expect("a folder for data");
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the database file of a server with this folder.
    pub fn file(&self) -> PathBuf {
        self.0.join("caudal.db")
    }

    /// Runs `caudal store` on the file. Returns whether it succeeded, and its output.
    pub fn store_command(&self, arguments: &[&str]) -> (bool, String) {
        let setup = Setup::default().set(&["store.kind=sqlite"]).env("CAUDAL_DATA_DIR", &self.0.to_string_lossy());
        let output = arguments.iter().fold(setup, |setup, argument| setup.argument(argument)).run("store");
        let told = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&told).into_owned())
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
