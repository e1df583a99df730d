//! A model, from a setting to weights in memory.
//!
//! | file | owns |
//! |---|---|
//! | `origin` | what a model is opened from |
//! | `source` | the files that a setting names, found, checked and loaded |
//! | `gguf`, `safetensors` | what those files must have, and mistral.rs's loader for them |
//! | `facts` | what the files say about the model |
//! | `device`, `capacity` | which device computes; how many sequences and how much memory |
//! | `loader` | weights to a pipeline, on a thread of its own |
//! | `shared` | what all sequences of a model share: tokenizer, grammars |

pub mod capacity;
pub mod device;
mod facts;
pub mod gguf;
pub mod loader;
pub mod origin;
mod safetensors;
pub mod shared;
pub mod source;
