//! What a served model is: how it is set up, what clients see of it, how far it is loaded.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{dialect::Dialect, wire::sampling::SamplingOptions};

/// One model as clients see it in `GET /v1/models`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// The name a request's `model` field selects.
    pub id: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// Tokens that prompt and output may take together.
    pub context_length: u32,
    /// When the model's file was made, Unix seconds.
    pub created: u64,
    /// Such as `Q8_0`; absent where it has no meaning.
    pub quantisation: Option<String>,
    /// The LoRA adapters in it.
    pub adapters: Vec<String>,
    /// What a request that says nothing is sampled with.
    pub sampling: SamplingOptions,
    /// How it writes what is not plain text.
    pub dialect: Dialect,
    /// The file with all of it, if clients may fetch that file.
    pub shared_file: Option<PathBuf>,
}

impl ModelInfo {
    /// Whether a request's `model` means this one.
    pub fn is_called(&self, name: &str) -> bool {
        self.id == name || self.aliases.iter().any(|alias| alias == name)
    }
}

/// One of `engine.models`: a table, or the string that would be its `model`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields)]
pub struct ModelSettings {
    /// Its name; empty: that of its file or folder.
    pub id: String,
    pub aliases: Vec<String>,
    /// A GGUF file, a folder with safetensors, or `owner/name` on Hugging Face; empty: the default model.
    pub model: String,
    /// Of a Hugging Face repository: the GGUF file to take.
    pub file: String,
    /// Of a Hugging Face repository: branch, tag or commit.
    pub revision: String,
    /// Of the one file with the weights, in hex.
    pub sha256: String,
    /// Safetensors are quantised to this type while they are loaded.
    pub isq: String,
    /// A file in the folder with weights quantised before.
    pub uqff: String,
    /// Adapters merged into safetensors: folders, or `owner/name` on Hugging Face.
    pub lora: Vec<String>,
    /// Lets clients fetch the model's file. Absent: true for the default model only.
    pub share: Option<bool>,
    /// Generations at once, in place of the engine's.
    pub max_running: Option<usize>,
    /// In place of the engine's.
    pub context_length: Option<u32>,
    /// In place of the engine's.
    pub kv_mb: Option<u64>,
    pub sampling: SamplingOptions,
}

impl Serialize for ModelSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for ModelSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntryVisitor;
        impl<'de> de::Visitor<'de> for EntryVisitor {
            type Value = ModelSettings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table such as { model = \"/path/to/model.gguf\" }, or that path alone")
            }

            fn visit_str<E: de::Error>(self, model: &str) -> Result<Self::Value, E> {
                Ok(ModelSettings { model: model.to_owned(), ..ModelSettings::default() })
            }

            fn visit_map<M: de::MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
                ModelSettings::deserialize(de::value::MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(EntryVisitor)
    }
}

/// Reads `engine.models`: a list, or its only member.
///
/// # Errors
/// Where it is neither.
pub fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ModelSettings>, D::Error> {
    struct Models;
    impl<'de> de::Visitor<'de> for Models {
        type Value = Vec<ModelSettings>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of models, each a table or a path, or the path of one")
        }

        fn visit_str<E: de::Error>(self, model: &str) -> Result<Self::Value, E> {
            let model = ModelSettings { model: model.to_owned(), ..ModelSettings::default() };
            Ok(if model.model.is_empty() { Vec::new() } else { vec![model] })
        }

        fn visit_seq<S: de::SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
            let mut models = Vec::new();
            while let Some(model) = seq.next_element()? {
                models.push(model);
            }
            Ok(models)
        }
    }
    deserializer.deserialize_any(Models)
}

/// The type of cached keys and values. `engine.kv_type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvType {
    #[default]
    F32,
    /// Half the memory; keys and values are rounded to 11 bits.
    F16,
}

/// How far a model is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelStatus {
    pub id: String,
    pub loaded: bool,
}

/// What a model's engine can run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub sequences: usize,
    /// Tokens of all sequences together; absent where they are not counted.
    pub tokens: Option<usize>,
}

/// Blocks for keys and values: 16 tokens each. The rest of them is empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KvBlocks {
    pub total: usize,
    /// Running sequences hold them.
    pub used: usize,
    /// They hold earlier prompts and can be evicted.
    pub cached: usize,
}

/// Tokens of prompts whose keys and values came from a store beyond the process, since the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchedTokens {
    /// `disk` or `fleet`.
    pub source: &'static str,
    pub tokens: u64,
}

/// A model that was loaded again.
#[derive(Debug, Clone)]
pub struct Reloaded {
    pub old: std::sync::Arc<ModelInfo>,
    pub new: std::sync::Arc<ModelInfo>,
    pub took: Duration,
}

/// Why a model was not loaded again; the one that serves goes on.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("There is no model '{0}'.")]
    UnknownModel(String),
    #[error("The model '{0}' is being loaded already.")]
    InProgress(String),
    #[error("The model cannot be loaded, and the old one goes on serving: {0}")]
    Failed(String),
}
