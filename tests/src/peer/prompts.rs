//! Prompts of a given length that no server has seen before.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::client::Chat;

/// Words that common tokenizers encode as one token each.
const WORDS: [&str; 96] = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
    "month",
    "lot",
    "right",
    "study",
    "book",
    "eye",
    "job",
    "word",
    "business",
    "issue",
    "side",
    "kind",
    "head",
    "house",
    "service",
    "friend",
    "father",
    "power",
    "hour",
    "game",
    "line",
    "end",
    "member",
    "law",
    "car",
    "city",
    "community",
    "name",
    "president",
    "team",
    "minute",
    "idea",
    "kid",
    "body",
    "information",
    "back",
    "parent",
    "face",
    "others",
    "level",
    "office",
    "door",
    "health",
    "person",
    "art",
    "war",
    "history",
    "party",
    "result",
    "change",
    "morning",
    "reason",
    "research",
    "girl",
    "guy",
    "moment",
];

/// How many random words at the beginning of the first message make a prompt unique.
const FRESH: usize = 6;

/// Approximate number of tokens of a prompt besides its words: the chat template and the two sentences.
const FRAME: usize = 30;

/// A source of new prompts.
pub struct Prompts {
    random: StdRng,
}

impl Prompts {
    /// Makes a source that differs from run to run.
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        Self { random: StdRng::seed_from_u64(now ^ (u64::from(std::process::id()) << 32)) }
    }

    /// Returns a chat of two messages with about `tokens` tokens and a reply of at most `reply` tokens.
    pub fn chat(&mut self, tokens: usize, reply: u32) -> Chat {
        let beginning = self.words(FRESH);
        let words = self.words(tokens.saturating_sub(FRAME + FRESH));
        let messages = vec![
            message("system", format!("{beginning}: you write very long stories.")),
            message("user", format!("{words}. Write a long story with these words.")),
        ];
        Chat { messages, tokens: reply, seed: self.random.random() }
    }

    /// Returns a later message of the user with about `tokens` tokens.
    pub fn next_message(&mut self, tokens: usize) -> Value {
        message("user", format!("{}. Go on with these words.", self.words(tokens.saturating_sub(12))))
    }

    /// Returns chats with prompts of evenly spread lengths from 30 to 400 tokens, in an order that mixes long and short ones.
    pub fn mixed_chats(&mut self, count: usize, reply: u32) -> Vec<Chat> {
        let step = (5..).find(|step| !count.is_multiple_of(*step)).unwrap_or(1);
        let lengths = (0..count).map(|at| 30 + 370 * (at * step % count) / count.saturating_sub(1).max(1));
        lengths.map(|tokens| self.chat(tokens, reply)).collect()
    }

    fn words(&mut self, count: usize) -> String {
        let words =
            (0..count).map(|_| WORDS.get(self.random.random_range(0..WORDS.len())).copied().unwrap_or_default());
        words.collect::<Vec<_>>().join(" ")
    }
}

/// Returns a message for `/v1/chat/completions`.
pub fn message(role: &str, content: impl Into<String>) -> Value {
    json!({"role": role, "content": content.into()})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(chat: &Chat) -> usize {
        chat.messages.iter().filter_map(|m| m["content"].as_str()).map(|text| text.split(' ').count()).sum()
    }

    #[test]
    fn prompts_differ_from_their_first_words_on() {
        let mut prompts = Prompts::new();
        let beginnings: std::collections::HashSet<_> =
            (0..50).map(|_| prompts.chat(40, 1).messages[0].to_string()).collect();
        assert_eq!(beginnings.len(), 50);
    }

    #[test]
    fn a_longer_prompt_has_as_many_more_words() {
        let mut prompts = Prompts::new();
        assert_eq!(length(&prompts.chat(440, 1)) - length(&prompts.chat(140, 1)), 300);
    }

    #[test]
    fn mixed_chats_reach_from_the_shortest_to_the_longest() {
        for count in [8, 32] {
            let lengths: Vec<usize> = Prompts::new().mixed_chats(count, 96).iter().map(length).collect();
            assert_eq!(lengths.len(), count);
            let (least, most) = (lengths.iter().min().copied(), lengths.iter().max().copied());
            assert!(least.is_some_and(|least| least < 30), "{lengths:?}");
            assert!(most.is_some_and(|most| most > 370), "{lengths:?}");
            assert!(!lengths.is_sorted());
        }
    }
}
