//! A model: from an entry of `engine.models` to weights in memory.
//!
//! | file | owns |
//! |---|---|
//! | `origin` | the settings that a model is opened with |
//! | `source` | the files of a model: found, checked and loaded |
//! | `gguf`, `safetensors` | checks of the files of each format, and mistral.rs's loader for them |
//! | `facts` | properties of the model from its files |
//! | `device`, `capacity` | which device computes; how many sequences and how much memory |
//! | `loader` | a thread that loads weights |
//! | `shared` | tokenizer and grammars, shared by all sequences of a model |

pub mod capacity;
pub mod device;
mod facts;
pub mod gguf;
pub mod loader;
pub mod origin;
mod safetensors;
pub mod shared;
pub mod source;
