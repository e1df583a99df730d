//! The conversations that a connection has to do with, so that a second tab learns of the next turn.

use std::{
    cell::RefCell,
    collections::{HashSet, VecDeque},
};

use futures::{StreamExt, stream::BoxStream, stream::SelectAll};
use tokio::sync::mpsc;

use crate::store::conversations::Notice;

/// Conversations that a connection watches; of more it is not told.
const MAX_WATCHED: usize = 32;
/// Responses that it remembers to have followed.
const MAX_FOLLOWED: usize = 64;

/// A turn that has begun: its conversation and its response.
type TurnNotice = (String, String);

/// What the connection's jobs say.
pub struct ConversationWatches {
    watched: RefCell<HashSet<String>>,
    followed: RefCell<VecDeque<String>>,
    sender: mpsc::Sender<BoxStream<'static, TurnNotice>>,
}

/// What the connection hears.
pub struct ConversationNotices {
    receiver: mpsc::Receiver<BoxStream<'static, TurnNotice>>,
    turns: SelectAll<BoxStream<'static, TurnNotice>>,
}

impl ConversationWatches {
    pub fn new() -> (Self, ConversationNotices) {
        // As many as may be watched.
        let (sender, receiver) = mpsc::channel(MAX_WATCHED);
        let turns = Self { watched: RefCell::default(), followed: RefCell::default(), sender };
        (turns, ConversationNotices { receiver, turns: SelectAll::new() })
    }

    /// Whether a conversation is not watched yet and can be.
    pub fn is_new(&self, conversation: &str) -> bool {
        let watched = self.watched.borrow();
        watched.len() < MAX_WATCHED && !watched.contains(conversation)
    }

    pub fn add(&self, conversation: &str, notices: BoxStream<'static, Notice>) {
        if !self.is_new(conversation) {
            return;
        }
        self.watched.borrow_mut().insert(conversation.to_owned());
        let conversation = conversation.to_owned();
        let turns = notices.filter_map(move |notice| {
            let turn = match notice {
                Notice::Began(response) => Some((conversation.clone(), response)),
                Notice::Moved => None,
            };
            std::future::ready(turn)
        });
        // There is room for all that are new.
        let _ = self.sender.try_send(turns.boxed());
    }

    pub fn follow(&self, response: &str) {
        let mut followed = self.followed.borrow_mut();
        if followed.len() >= MAX_FOLLOWED {
            followed.pop_front();
        }
        followed.push_back(response.to_owned());
    }

    pub fn is_followed(&self, response: &str) -> bool {
        self.followed.borrow().iter().any(|followed| followed == response)
    }
}

impl ConversationNotices {
    /// The next turn that begins; never ends.
    pub async fn next(&mut self) -> TurnNotice {
        loop {
            tokio::select! {
                Some(turns) = self.receiver.recv() => self.turns.push(turns),
                Some(turn) = self.turns.next(), if !self.turns.is_empty() => return turn,
                else => std::future::pending().await,
            }
        }
    }
}
