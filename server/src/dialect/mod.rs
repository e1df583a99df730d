//! Dialects: how a model writes what is not plain text, that is thoughts and calls of functions.
//!
//! | file | owns |
//! |---|---|
//! | `detect` | a dialect, told by a model's chat template |
//! | `parse` | an output's text → thoughts, text and calls, as it comes |
//! | `call` | the JSON of one call, as it comes |
//! | `schema` | JSON schemas in the form to which an output can be held |
//! | `regex` | regular expressions as clients mean them |
//! | `lark` | a grammar of the outputs that are allowed |
//! | `teach` | calls as text, for models whose template has no tools |

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

/// One model's way of writing. Part of a response's header, since the text is read by it for ever.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dialect {
    /// Where the model thinks aloud.
    pub reasoning: Option<Tags>,
    pub calls: Calls,
    /// Whether the chat template describes tools to the model; otherwise a message of ours does.
    pub template_has_tools: bool,
}

/// What encloses a thought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    pub open: String,
    pub close: String,
    /// The prompt ends with the opening tag, so that the output begins inside the thought.
    #[serde(default)]
    pub opened: bool,
    /// The template leaves the thought out where it is told to, by `enable_thinking`.
    #[serde(default)]
    pub optional: bool,
}

/// How calls are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Calls {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, one a call; what models without a way of their own are taught.
    #[default]
    Hermes,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`.
    Mistral,
    /// `{"name": …, "parameters": {…}}`, alone.
    Llama,
}

impl Dialect {
    /// What encloses thoughts and calls. A token that is one of these has a text, whatever the vocabulary says.
    pub fn tags(&self) -> Vec<String> {
        let calls = match self.calls {
            Calls::Hermes => &["<tool_call>", "</tool_call>"][..],
            Calls::Mistral => &["[TOOL_CALLS]"],
            Calls::Llama => &[],
        };
        let thoughts = self.reasoning.iter().flat_map(|tags| [tags.open.clone(), tags.close.clone()]);
        thoughts.chain(calls.iter().map(|tag| (*tag).to_owned())).collect()
    }

    /// The dialect of an output before which the model was told not to think.
    pub fn without_thought(mut self) -> Self {
        if let Some(tags) = &mut self.reasoning {
            tags.opened &= !tags.optional;
        }
        self
    }
}

impl Calls {
    /// What begins a block of calls; nothing where a call stands alone.
    fn open(self) -> &'static str {
        match self {
            Self::Hermes => "<tool_call>",
            Self::Mistral => "[TOOL_CALLS]",
            Self::Llama => "",
        }
    }
}
