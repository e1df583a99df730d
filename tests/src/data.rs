//! A folder of one's own for the server's data, deleted in the end.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::Setup;

static MADE: AtomicUsize = AtomicUsize::new(0);

pub struct DataDir(PathBuf);

impl DataDir {
    /// A folder that does not exist.
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

    /// The file that a server with this folder stores in.
    pub fn file(&self) -> PathBuf {
        self.0.join("caudal.db")
    }

    /// `caudal store` on the file: what it says, and whether it succeeded.
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
