//! What a model's files say about text.
//!
//! | file | owns |
//! |---|---|
//! | `gguf` | the header of a GGUF file |
//! | `vocabulary` | what each token is: the bytes that it stands for, or a control token |
//! | `byte_level` | bytes written as printable characters, as byte-pair vocabularies write them |
//! | `pre_tokenizer` | how text is split before byte pairs are merged, by the name that a GGUF file gives |
//! | `from_gguf`, `from_folder` | a tokenizer and a vocabulary, of a GGUF file and of a Hugging Face folder |
//! | `contents` | what clients wrote in a prompt, kept apart from control tokens |
//! | `messages` | messages as a template takes them |
//! | `arguments` | the arguments of earlier calls, as templates read them |
//! | `jinja` | templates in Jinja, rendered as Transformers renders them |
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
