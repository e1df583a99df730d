//! `caudal store`: backs up, checks and copies stores.

use std::{
    fs::OpenOptions,
    io::{BufReader, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use caudal_server::{
    app,
    settings::{Settings, StoreKind},
    store::{
        sqlite,
        transfer::{self, CopyReport},
    },
};
use clap::Subcommand;

use super::Layers;

#[derive(Subcommand)]
pub enum StoreCommand {
    /// Copy the file of the embedded store to a new file, also while a server uses it
    Backup {
        /// The new file
        file: PathBuf,
        #[command(flatten)]
        layers: Layers,
    },
    /// Read the whole file of the embedded store and list its damage
    Check {
        #[command(flatten)]
        layers: Layers,
    },
    /// Write all records as lines of JSON, for any kind of store. The server of an embedded store must not run
    Export {
        /// A new file; absent: standard output
        file: Option<PathBuf>,
        #[command(flatten)]
        layers: Layers,
    },
    /// Read the output of `export` into the store; records that exist are not changed
    Import {
        /// The file; absent: standard input
        file: Option<PathBuf>,
        #[command(flatten)]
        layers: Layers,
    },
}

pub fn run(command: StoreCommand) -> anyhow::Result<()> {
    match command {
        StoreCommand::Backup { file, layers } => {
            let path = embedded(&layers.load()?)?;
            sqlite::back_up(&path, &file).with_context(|| format!("the store {}", path.display()))?;
            eprintln!("{} is a copy of {}", file.display(), path.display());
            Ok(())
        }
        StoreCommand::Check { layers } => check(&embedded(&layers.load()?)?),
        StoreCommand::Export { file, layers } => export(&layers.load()?, file.as_deref()),
        StoreCommand::Import { file, layers } => import(&layers.load()?, file.as_deref()),
    }
}

fn embedded(settings: &Settings) -> anyhow::Result<PathBuf> {
    if settings.store.kind != StoreKind::Sqlite {
        bail!("store.kind is not \"sqlite\": there is no file; `caudal store export` copies other stores");
    }
    Ok(settings.store.sqlite.file())
}

fn check(path: &Path) -> anyhow::Result<()> {
    let problems = sqlite::check(path).with_context(|| format!("the store {}", path.display()))?;
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!("the store {} is damaged; restore a backup, or export what can be read", path.display());
    }
    println!("{} has no damage", path.display());
    Ok(())
}

fn export(settings: &Settings, file: Option<&Path>) -> anyhow::Result<()> {
    let mut out: Box<dyn Write + Send> = match file {
        Some(path) => {
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            Box::new(BufWriter::new(made.with_context(|| format!("the file {}", path.display()))?))
        }
        None => Box::new(BufWriter::new(std::io::stdout())),
    };
    let copied = on_runtime(async { transfer::export(&app::stores(settings)?, &mut out).await })?;
    report("exported", &copied);
    Ok(())
}

fn import(settings: &Settings, file: Option<&Path>) -> anyhow::Result<()> {
    let lines: Box<dyn Read> = match file {
        Some(path) => Box::new(std::fs::File::open(path).with_context(|| format!("the file {}", path.display()))?),
        None => Box::new(std::io::stdin()),
    };
    let copied = on_runtime(async { transfer::import(&app::stores(settings)?, BufReader::new(lines)).await })?;
    report("imported", &copied);
    Ok(())
}

fn on_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

fn report(what: &str, copied: &CopyReport) {
    let CopyReport { prompts, conversations, responses, passed_over } = copied;
    eprintln!(
        "{what}: {responses} responses, {conversations} conversations, {prompts} versions of prompts; {passed_over} passed over"
    );
}
