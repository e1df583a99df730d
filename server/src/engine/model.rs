//! Types that describe a served model: its settings, the description that clients see, its capacity and its state of loading.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{dialect::Dialect, wire::sampling::SamplingOptions};

/// One model as clients see it in `GET /v1/models`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// The model's name in the `model` field of requests.
    pub id: String,
    /// Other names of the model.
    pub aliases: Vec<String>,
    /// Tokens that prompt and output may take together.
    pub context_length: u32,
    /// When the model's file was made, Unix seconds.
    pub created: u64,
    /// Such as `Q8_0`; absent if the model is not quantised.
    pub quantisation: Option<String>,
    /// The LoRA adapters that are merged into the model.
    pub adapters: Vec<String>,
    /// The sampling of requests without sampling fields.
    pub sampling: SamplingOptions,
    /// The way in which the model writes thoughts and calls.
    pub dialect: Dialect,
    /// The file with the whole model, if clients may fetch it.
    pub shared_file: Option<PathBuf>,
}

impl ModelInfo {
    /// Whether `name`, a request's `model`, is a name of this model.
    pub fn is_called(&self, name: &str) -> bool {
        self.id == name || self.aliases.iter().any(|alias| alias == name)
    }
}

/// One entry of `engine.models`: a table, or a string that stands for a table with that `model`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields)]
pub struct ModelSettings {
    /// The model's id; empty: the name of its file or folder.
    pub id: String,
    pub aliases: Vec<String>,
    /// A GGUF file, a folder with safetensors, or `owner/name` on Hugging Face; empty: the default model.
    pub model: String,
    /// The GGUF file of a Hugging Face repository.
    pub file: String,
    /// Branch, tag or commit of a Hugging Face repository.
    pub revision: String,
    /// Checksum of the file with the weights, in hex.
    pub sha256: String,
    /// The type to which safetensors are quantised while they are loaded.
    pub isq: String,
    /// A UQFF file in the folder, with quantised weights.
    pub uqff: String,
    /// Adapters merged into safetensors: folders, or `owner/name` on Hugging Face.
    pub lora: Vec<String>,
    /// Lets clients fetch the model's file. Absent: true for the default model only.
    pub share: Option<bool>,
    /// Replaces `engine.max_running`.
    pub max_running: Option<usize>,
    /// Replaces `engine.context_length`.
    pub context_length: Option<u32>,
    /// Replaces `engine.kv_mb`.
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

/// Reads `engine.models`: a list, or the path of its only model.
///
/// # Errors
/// The value is neither.
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

/// Whether a model is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelStatus {
    pub id: String,
    pub loaded: bool,
}

/// The bounds on what a model runs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub sequences: usize,
    /// Tokens of all sequences together; absent: unbounded.
    pub tokens: Option<usize>,
}

/// Blocks for keys and values of 16 tokens each. Blocks that are neither used nor cached are empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KvBlocks {
    pub total: usize,
    /// Blocks that running sequences hold.
    pub used: usize,
    /// Blocks of earlier prompts, which can be evicted.
    pub cached: usize,
}

/// Prompt tokens whose keys and values came from a store beyond the process, since the process began.
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

/// The reason why a model was not loaded again. The old model stays in service.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("There is no model '{0}'.")]
    UnknownModel(String),
    #[error("The model '{0}' is already being loaded.")]
    InProgress(String),
    #[error("The model cannot be loaded, so the old one stays in service: {0}")]
    Failed(String),
}
