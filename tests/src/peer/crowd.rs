//! Concurrent chats.

use std::time::{Duration, Instant};

use futures::future::try_join_all;

use super::{
    Options,
    client::{self, Chat, Reply},
    server::Server,
};

/// The replies to chats that were sent at the same moment.
pub struct Crowd {
    begun: Instant,
    pub replies: Vec<Reply>,
}

impl Crowd {
    /// Sends all chats and reads all replies.
    pub async fn run(server: &Server, options: &Options, chats: &[Chat]) -> Result<Self, String> {
        let begun = Instant::now();
        let replies = try_join_all(chats.iter().map(|chat| client::chat(server, options, chat))).await?;
        Ok(Self { begun, replies })
    }

    /// Returns the tokens a second of all replies, from the requests to the last text.
    pub fn output_rate(&self) -> f64 {
        let tokens: u64 = self.replies.iter().map(|reply| reply.tokens).sum();
        let end = self.replies.iter().map(Reply::last).max().unwrap_or(self.begun);
        tokens as f64 / (end - self.begun).as_secs_f64()
    }

    /// Returns the median time to the first text.
    pub fn median_first_token(&self) -> Duration {
        let mut firsts: Vec<Duration> = self.replies.iter().map(Reply::first_token).collect();
        firsts.sort();
        firsts.get(firsts.len() / 2).copied().unwrap_or_default()
    }
}
