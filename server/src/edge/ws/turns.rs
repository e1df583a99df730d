//! The conversations that a connection watches, so that a second tab is notified of the next turn.

use std::{
    cell::RefCell,
    collections::{HashSet, VecDeque},
};

use futures::{StreamExt, stream::BoxStream, stream::SelectAll};
use tokio::sync::mpsc;

use crate::store::conversations::Notice;

/// Most conversations that a connection watches. Turns of further ones are not notified.
const MAX_WATCHED: usize = 32;
/// Most followed responses that a connection remembers.
const MAX_FOLLOWED: usize = 64;

/// A turn that has begun: the ids of its conversation and its response.
type TurnNotice = (String, String);

/// The side of the connection's jobs: adds watched conversations and followed responses.
pub struct ConversationWatches {
    watched: RefCell<HashSet<String>>,
    followed: RefCell<VecDeque<String>>,
    sender: mpsc::Sender<BoxStream<'static, TurnNotice>>,
}

/// The side of the connection's loop: receives the turns of the watched conversations.
pub struct ConversationNotices {
    receiver: mpsc::Receiver<BoxStream<'static, TurnNotice>>,
    turns: SelectAll<BoxStream<'static, TurnNotice>>,
}

impl ConversationWatches {
    pub fn new() -> (Self, ConversationNotices) {
        // Room for every conversation that may be watched.
        let (sender, receiver) = mpsc::channel(MAX_WATCHED);
        let turns = Self { watched: RefCell::default(), followed: RefCell::default(), sender };
        (turns, ConversationNotices { receiver, turns: SelectAll::new() })
    }

    /// Returns whether a conversation is not watched yet and the limit allows another one.
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
        // The channel has room for every new conversation.
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
    /// Waits for the next turn that begins. Never ends without one.
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
