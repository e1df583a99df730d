//! Dialects: the notations in which models write thoughts and function calls.
//!
//! | file | owns |
//! |---|---|
//! | `detect` | the dialect of a model, from its chat template |
//! | `parse` | the text of an output → thoughts, text and calls, as a stream |
//! | `call` | the JSON of one call, as a stream |
//! | `schema` | JSON schemas in the form that the engine can enforce |
//! | `regex` | clients' regular expressions in the syntax of the engine |
//! | `lark` | the grammar of the allowed outputs |
//! | `teach` | calls as text, for models whose chat template has no tools |

mod call;
mod detect;
pub mod lark;
mod parse;
pub mod regex;
pub mod schema;
pub mod teach;

use serde::{Deserialize, Serialize};

pub use detect::detect;
pub(crate) use parse::overlap;
pub use parse::{Parser, Segment};

/// The dialect of a model. It is stored in the header of a response, because every later read of the log parses the text with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dialect {
    /// The tags around a thought. `None`: the model writes no thoughts.
    pub reasoning: Option<Tags>,
    pub calls: Calls,
    /// Whether the chat template describes tools to the model. Otherwise a message of the server does.
    pub template_has_tools: bool,
}

/// The tags around a thought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    pub open: String,
    pub close: String,
    /// Whether the prompt ends with the opening tag, so that the output begins inside the thought.
    #[serde(default)]
    pub opened: bool,
    /// Whether the template can leave the thought out, by `enable_thinking`.
    #[serde(default)]
    pub optional: bool,
}

/// The notation of calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Calls {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>` for each call. Models without a known notation are taught it.
    #[default]
    Hermes,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`.
    Mistral,
    /// `{"name": …, "parameters": {…}}`, without tags.
    Llama,
}

impl Dialect {
    /// Returns the tags of thoughts and calls. A token for a tag is decoded as text even if the vocabulary marks it as special.
    pub fn tags(&self) -> Vec<String> {
        let calls = match self.calls {
            Calls::Hermes => &["<tool_call>", "</tool_call>"][..],
            Calls::Mistral => &["[TOOL_CALLS]"],
            Calls::Llama => &[],
        };
        let thoughts = self.reasoning.iter().flat_map(|tags| [tags.open.clone(), tags.close.clone()]);
        thoughts.chain(calls.iter().map(|tag| (*tag).to_owned())).collect()
    }

    /// Returns the dialect of an output for which the template was told to leave the thought out.
    pub fn without_thought(mut self) -> Self {
        if let Some(tags) = &mut self.reasoning {
            tags.opened &= !tags.optional;
        }
        self
    }
}

impl Calls {
    /// Returns the opening tag of a block of calls; empty for a notation without tags.
    fn open(self) -> &'static str {
        match self {
            Self::Hermes => "<tool_call>",
            Self::Mistral => "[TOOL_CALLS]",
            Self::Llama => "",
        }
    }
}
