//! Copies a store as lines of JSON, from any kind of store to any other. The copy uses the stores' contracts, and an
//! [`Inventory`](super::inventory::Inventory) for the lists of objects.
//!
//! A response that has not ended is copied with its current entries. The server of the target store continues it. A response that
//! shares a log gets a log of its own in the copy. Retention starts anew. The prompt cache's index and the rates are not copied.

use std::{
    io::{BufRead, Write},
    sync::Arc,
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::{
    conversations::{Conversation, Item},
    entry::Entry,
    error::StoreError,
    fleet::Report,
    header::{Header, LOG_VERSION},
    inventory::Name,
    page::Page,
    prompts::StoredPrompt,
    responses::{Created, Store},
    shared::SharedLogs,
    sharing::Sharing,
    stores::Stores,
};

/// A line of a copy.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Record {
    /// The first line. `version` is the newest version of the logs that follow.
    Caudal {
        version: u32,
    },
    /// One version of a prompt. The versions of a prompt follow in order.
    Prompt {
        prompt: StoredPrompt,
    },
    Conversation {
        conversation: Conversation,
        items: Vec<Item>,
    },
    Response {
        header: Box<Header>,
        entries: Vec<Arc<Entry>>,
    },
}

/// The numbers of copied objects.
#[derive(Debug, Default)]
pub struct CopyReport {
    pub prompts: u64,
    pub conversations: u64,
    pub responses: u64,
    /// Export: objects that expired meanwhile. Import: objects that the store had already.
    pub passed_over: u64,
}

/// Writes all objects of a store to `out`.
///
/// # Errors
/// The store cannot be listed or read, or `out` cannot be written.
pub async fn export(stores: &Stores, out: &mut (impl Write + Send)) -> anyhow::Result<CopyReport> {
    let Some(inventory) = &stores.inventory else {
        bail!("store.kind = \"memory\" has nothing that outlives its server")
    };
    let mut copied = CopyReport::default();
    let mut write = |record: &Record| -> anyhow::Result<()> {
        serde_json::to_writer(&mut *out, record)?;
        Ok(out.write_all(b"\n")?)
    };
    write(&Record::Caudal { version: LOG_VERSION })?;
    for Name { tenant, id } in inventory.prompts().await? {
        let Ok(latest) = stores.prompts.get(&tenant, &id, None).await else { continue };
        for version in 1..=latest.version {
            let prompt = stores.prompts.get(&tenant, &id, Some(version)).await?;
            write(&Record::Prompt { prompt })?;
            copied.prompts += 1;
        }
    }
    for Name { tenant, id } in inventory.conversations().await? {
        let found = stores.conversations.get(&tenant, &id).await;
        match (found, stores.conversations.items(&tenant, &id, &Page::all()).await) {
            (Ok(conversation), Ok(items)) => write(&Record::Conversation { conversation, items: items.data })?,
            (Err(StoreError::NotFound), _) | (_, Err(StoreError::NotFound)) => {
                copied.passed_over += 1;
                continue;
            }
            (found, items) => drop((found?, items?)),
        }
        copied.conversations += 1;
    }
    let logs = SharedLogs::new(stores.responses.clone());
    for Name { tenant, id } in inventory.responses().await? {
        let (header, entries) = match logs.read(&tenant, &id).await {
            Ok(found) => found,
            Err(StoreError::NotFound | StoreError::Expired) => {
                copied.passed_over += 1;
                continue;
            }
            Err(error) => return Err(error).with_context(|| format!("the response {id}")),
        };
        // Skips the run of a shared log: its members are copied with their entries.
        if matches!(header.sharing, Some(Sharing::Run { .. })) {
            continue;
        }
        let header = Box::new(Header { sharing: None, ..(*header).clone() });
        write(&Record::Response { header, entries })?;
        copied.responses += 1;
    }
    out.flush()?;
    Ok(copied)
}

/// Reads the lines that [`export`] wrote. Objects that the store has already do not change, so an interrupted import can be
/// repeated.
///
/// # Errors
/// This version cannot read a line, or the store refuses it. The error has the line's number.
pub async fn import(stores: &Stores, lines: impl BufRead) -> anyhow::Result<CopyReport> {
    if stores.inventory.is_none() {
        bail!("store.kind = \"memory\" would lose everything when this command ends");
    }
    if let Some(fleet) = &stores.fleet {
        fleet.beat(&Report::default()).await?;
    }
    let mut copied = CopyReport::default();
    for (at, line) in lines.lines().enumerate() {
        let line = line?;
        let taken = async {
            match serde_json::from_str(&line).context("it is no line of `caudal store export`")? {
                Record::Caudal { version } if version > LOG_VERSION => {
                    bail!("a newer caudal wrote it (version {version}, this one reads up to {LOG_VERSION})")
                }
                Record::Caudal { .. } => Ok(()),
                _ if at == 0 => bail!("the first line does not say that caudal wrote it"),
                Record::Prompt { prompt } => prompt_line(stores, prompt, &mut copied).await,
                Record::Conversation { conversation, items } => {
                    conversation_line(stores, conversation, items, &mut copied).await
                }
                Record::Response { header, entries } => response_line(stores, *header, entries, &mut copied).await,
            }
        };
        taken.await.with_context(|| format!("line {}", at + 1))?;
    }
    if let Some(fleet) = &stores.fleet {
        fleet.leave().await?;
    }
    Ok(copied)
}

async fn prompt_line(stores: &Stores, prompt: StoredPrompt, copied: &mut CopyReport) -> anyhow::Result<()> {
    match stores.prompts.get(&prompt.tenant, &prompt.id, Some(prompt.version)).await {
        Err(StoreError::NotFound) => {
            stores.prompts.put(prompt).await?;
            copied.prompts += 1;
        }
        found => {
            found?;
            copied.passed_over += 1;
        }
    }
    Ok(())
}

async fn conversation_line(
    stores: &Stores,
    conversation: Conversation,
    items: Vec<Item>,
    copied: &mut CopyReport,
) -> anyhow::Result<()> {
    match stores.conversations.get(&conversation.tenant, &conversation.id).await {
        Err(StoreError::NotFound) => {
            stores.conversations.create(conversation, items).await?;
            copied.conversations += 1;
        }
        found => {
            found?;
            copied.passed_over += 1;
        }
    }
    Ok(())
}

async fn response_line(
    stores: &Stores,
    header: Header,
    entries: Vec<Arc<Entry>>,
    copied: &mut CopyReport,
) -> anyhow::Result<()> {
    match stores.responses.read(&header.tenant, &header.id).await {
        Err(StoreError::NotFound) => {}
        found => {
            found?;
            copied.passed_over += 1;
            return Ok(());
        }
    }
    let Created::New(lease) = stores.responses.create(header.clone()).await? else {
        copied.passed_over += 1;
        return Ok(());
    };
    let has_ended = entries.last().is_some_and(|entry| entry.is_last());
    turn(stores, &header, &entries, has_ended).await?;
    if !entries.is_empty() {
        stores.responses.append(&lease, 0, &entries).await?;
    }
    if has_ended {
        stores.responses.ended(&lease).await?;
    } else {
        stores.responses.release(&lease).await?;
    }
    copied.responses += 1;
    Ok(())
}

/// Adds a response to its conversation's line, or to its ended turns. The conversation's items are copied before.
async fn turn(stores: &Stores, header: &Header, entries: &[Arc<Entry>], has_ended: bool) -> anyhow::Result<()> {
    let Some(conversation) = &header.spec.conversation else { return Ok(()) };
    let (turns, tenant) = (&stores.conversations, &header.tenant);
    match turns.enter(tenant, conversation, &header.id, usize::MAX).await {
        Err(StoreError::NotFound) => return Ok(()),
        entered => entered?,
    };
    if entries.iter().any(|entry| matches!(**entry, Entry::Started)) {
        match turns.begin(tenant, conversation, &header.id, vec![]).await {
            Err(StoreError::Busy) => {}
            begun => begun?,
        }
    }
    if has_ended {
        turns.end(tenant, conversation, &header.id, vec![]).await?;
    }
    Ok(())
}
