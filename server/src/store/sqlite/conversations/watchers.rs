//! The watchers of conversations in this process.

use std::collections::HashMap;

use futures::{StreamExt, stream, stream::BoxStream};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::broadcast;

use crate::store::conversations::Notice;

/// The number of notices that a watcher may lag behind before it misses some.
const NOTICES: usize = 64;

/// Conversation id → its watchers. `None` is sent when the conversation is deleted.
#[derive(Default)]
pub struct Watchers(Mutex<HashMap<String, broadcast::Sender<Option<Notice>>>>);

impl Watchers {
    fn all(&self) -> MutexGuard<'_, HashMap<String, broadcast::Sender<Option<Notice>>>> {
        self.0.lock()
    }

    /// Streams the later notices of a conversation.
    pub fn watch(&self, id: &str) -> BoxStream<'static, Notice> {
        let mut all = self.all();
        // Drops the channels whose watchers are all gone.
        all.retain(|_, sender| sender.receiver_count() > 0);
        let notices = all.entry(id.to_owned()).or_insert_with(|| broadcast::Sender::new(NOTICES)).subscribe();
        drop(all);
        let notices = stream::unfold(notices, |mut notices| async move {
            loop {
                match notices.recv().await {
                    Ok(notice) => return notice.map(|notice| (notice, notices)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        notices.boxed()
    }

    pub fn notify(&self, id: &str, notice: &Notice) {
        if let Some(sender) = self.all().get(id) {
            let _ = sender.send(Some(notice.clone()));
        }
    }

    /// Ends the watchers of a deleted conversation.
    pub fn end(&self, id: &str) {
        if let Some(sender) = self.all().remove(id) {
            let _ = sender.send(None);
        }
    }
}
