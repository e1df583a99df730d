//! The parts of a model's files about text.
//!
//! | file | owns |
//! |---|---|
//! | `gguf` | the header of a GGUF file |
//! | `vocabulary` | each token: a text with its bytes, or a control token |
//! | `byte_level` | bytes as printable characters, as byte-pair vocabularies write them |
//! | `pre_tokenizer` | how text is split before byte pairs are merged, by the name in a GGUF file |
//! | `from_gguf`, `from_folder` | makes a tokenizer and a vocabulary from a GGUF file or from a Hugging Face folder |
//! | `contents` | marks in clients' text, so that no part of it becomes a control token |
//! | `messages` | rewrites messages for templates with strict rules |
//! | `arguments` | the arguments of earlier calls, as templates read them |
//! | `jinja` | Jinja templates, rendered as Transformers renders them |
//! | `chat_template` | messages to text |
//! | `tokens` | messages to tokens, tokens to bytes |

mod arguments;
mod byte_level;
mod chat_template;
mod contents;
#[cfg(test)]
mod families;
mod from_folder;
mod from_gguf;
pub mod gguf;
mod jinja;
mod messages;
mod pre_tokenizer;
mod tokens;
mod vocabulary;

pub use arguments::arguments;
pub use chat_template::TemplateSource;
pub use tokens::{Detokenizer, TextModel, Tokens};
pub use vocabulary::Vocabulary;
