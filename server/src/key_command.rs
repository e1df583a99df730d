//! `caudal key`: makes, lists and revokes the keys of `auth.keys_file`. A running server reads the file again when it changes.

use std::{num::NonZeroU32, path::PathBuf};

use anyhow::Context;
use caudal_server::{
    access::keys_file::{KeysFile, NewKey},
    clock::unix_seconds,
    settings::{KeyLimits, Scope},
};
use chrono::{DateTime, NaiveDate, Utc};
use clap::{Args, Subcommand};

use super::Layers;

#[derive(Subcommand)]
pub enum KeyCommand {
    /// Make a key and print it; the key is printed only once and stored nowhere
    Create {
        /// The tenant whose data and quota the key uses
        #[arg(long)]
        tenant: String,
        /// What the key may do
        #[arg(long, value_delimiter = ',', default_value = "create,read")]
        scopes: Vec<Scope>,
        /// The models that the key may use, separated by commas; absent: all
        #[arg(long, value_delimiter = ',')]
        models: Vec<String>,
        /// When the key expires: a time from now, such as 90d, 12h or 30m, or a day, such as 2027-01-31
        #[arg(long)]
        expires: Option<String>,
        #[command(flatten)]
        limits: KeyLimitArgs,
        #[command(flatten)]
        file: KeysFileArg,
    },
    /// List the keys, without their text
    List {
        #[command(flatten)]
        file: KeysFileArg,
    },
    /// Remove a key; sockets that it opened close within seconds
    Revoke {
        /// The id, as `list` prints it
        id: String,
        #[command(flatten)]
        file: KeysFileArg,
    },
}

/// Limits of the key, besides those of its tenant
#[derive(Args)]
pub struct KeyLimitArgs {
    /// Responses that the key may create in a minute
    #[arg(long, value_name = "COUNT")]
    requests_per_minute: Option<NonZeroU32>,
    /// Tokens of prompts and outputs that the key may use in a minute
    #[arg(long, value_name = "COUNT")]
    tokens_per_minute: Option<NonZeroU32>,
    /// Megabytes of responses that the key may store
    #[arg(long, value_name = "MB")]
    storage_mb: Option<NonZeroU32>,
    /// Lets the key use service_tier "priority"
    #[arg(long)]
    priority: bool,
}

impl From<KeyLimitArgs> for KeyLimits {
    fn from(limits: KeyLimitArgs) -> Self {
        let KeyLimitArgs { requests_per_minute, tokens_per_minute, storage_mb, priority } = limits;
        Self { requests_per_minute, tokens_per_minute, storage_mb, priority }
    }
}

#[derive(Args)]
pub struct KeysFileArg {
    /// The keys file; absent: auth.keys_file of the settings
    #[arg(long, value_name = "FILE")]
    keys_file: Option<PathBuf>,
    #[command(flatten)]
    layers: Layers,
}

impl KeysFileArg {
    fn path(self) -> anyhow::Result<PathBuf> {
        let path = match self.keys_file {
            Some(path) => path,
            None => self.layers.load()?.auth.keys_file,
        };
        anyhow::ensure!(!path.as_os_str().is_empty(), "auth.keys_file is not set; name a file with --keys-file FILE");
        Ok(path)
    }
}

pub fn run(command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create { tenant, scopes, models, expires, limits, file } => {
            anyhow::ensure!(!tenant.trim().is_empty(), "--tenant must not be empty");
            let expires = expires.as_deref().map(moment).transpose()?;
            anyhow::ensure!(expires.is_none_or(|at| at > unix_seconds()), "--expires is in the past");
            let path = file.path()?;
            let mut keys = KeysFile::read_or_new(&path)?;
            let limits = KeyLimits::from(limits);
            limits.check().map_err(|what| anyhow::anyhow!("--{}", what.replacen('_', "-", 2)))?;
            let scopes = scopes.into_iter().collect();
            let key = keys.create(NewKey { tenant, scopes, models, expires, limits })?;
            keys.write(&path)?;
            println!("{key}");
            if let Some(made) = keys.keys.last() {
                eprintln!(
                    "key {} of tenant {} is in {}; the key itself is shown only this time",
                    made.id,
                    made.tenant,
                    path.display()
                );
            }
        }
        KeyCommand::List { file } => {
            for key in KeysFile::read(&file.path()?)?.keys {
                let scopes: Vec<_> = key.scopes.iter().map(|scope| scope.name()).collect();
                let models = if key.models.is_empty() { "all models".into() } else { key.models.join(",") };
                let expires = key.expires.map_or_else(|| "never".to_owned(), day);
                println!(
                    "{}\t{}\t{}\t{models}\tcreated {}\texpires {expires}{}",
                    key.id,
                    key.tenant,
                    scopes.join(","),
                    day(key.created),
                    shown(&key.limits)
                );
            }
        }
        KeyCommand::Revoke { id, file } => {
            let path = file.path()?;
            let mut keys = KeysFile::read(&path)?;
            anyhow::ensure!(keys.revoke(&id), "{} has no key '{id}'; `caudal key list` prints the ids", path.display());
            keys.write(&path)?;
            eprintln!("key {id} is revoked");
        }
    }
    Ok(())
}

/// Parses a time from now (`90d`, `12h`, `30m`) or a day as Unix seconds. A day begins at midnight UTC.
fn moment(text: &str) -> anyhow::Result<u64> {
    let wrong =
        || format!("--expires {text}: expected a time from now, such as 90d, 12h or 30m, or a day, such as 2027-01-31");
    let unit = match text.chars().last() {
        Some('d') => 86_400,
        Some('h') => 3_600,
        Some('m') => 60,
        _ => {
            let day = text.parse::<NaiveDate>().ok().and_then(|day| day.and_hms_opt(0, 0, 0)).with_context(wrong)?;
            return u64::try_from(day.and_utc().timestamp()).with_context(wrong);
        }
    };
    let count: u64 = text.get(..text.len() - 1).and_then(|count| count.parse().ok()).with_context(wrong)?;
    count.checked_mul(unit).and_then(|seconds| unix_seconds().checked_add(seconds)).with_context(wrong)
}

/// Formats the limits of a key, each after a tab.
fn shown(limits: &KeyLimits) -> String {
    let counts = [
        ("requests a minute", limits.requests_per_minute),
        ("tokens a minute", limits.tokens_per_minute),
        ("MB of storage", limits.storage_mb),
    ];
    let counts = counts.into_iter().filter_map(|(what, count)| count.map(|count| format!("\t{count} {what}")));
    counts.chain(limits.priority.then(|| "\tpriority".to_owned())).collect()
}

fn day(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|seconds| DateTime::<Utc>::from_timestamp(seconds, 0));
    at.map_or_else(|| seconds.to_string(), |at| at.format("%Y-%m-%d %H:%M").to_string())
}
