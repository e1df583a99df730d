//! A model file to engines: checks the file first, so that what is wrong with it is said in our words, then loads it.

use std::{
    fs::File,
    io::BufReader,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{
    Device,
    quantized::{
        GgmlDType,
        gguf_file::{Content, Value},
    },
};
use mistralrs_core::{
    DefaultSchedulerMethod, DeviceMapSetting, GGUFLoaderBuilder, GGUFSpecificConfig, MistralRs, MistralRsBuilder,
    ModelDType, Pipeline, SchedulerConfig, TokenSource,
};
use tokenizers::Tokenizer;

use super::tokens::{Tokens, source};
use crate::engine::EngineError;

/// Architectures the engine runs from GGUF.
const ARCHITECTURES: [&str; 8] = ["llama", "mistral3", "phi2", "phi3", "starcoder2", "qwen2", "qwen3", "qwen3moe"];

/// The engine grows a sequence's KV cache by this many tokens, and fails where the next step would pass the model's end.
pub const KV_BLOCK: usize = 512;

/// What the file says about the model, read from its header alone.
#[derive(Debug, Clone)]
pub struct ModelFile {
    pub path: PathBuf,
    /// Tokens that prompt and output may take together, a multiple of [`KV_BLOCK`] where it is larger than that.
    pub context_length: u32,
    /// Bytes of keys and values a token takes.
    pub kv_bytes_per_token: u64,
    /// The type most of the weights have, such as `Q8_0`.
    pub quantisation: String,
}

/// What is the same for all slots of a model.
pub struct Shared {
    pub tokens: Tokens,
    pub eos: Arc<[u32]>,
    /// The token that ends a sequence in the engine. See [`unused_special_tokens`].
    pub end: u32,
}

impl ModelFile {
    /// # Errors
    /// `Load`, saying which file and what to do: it is missing, no GGUF, of an architecture the engine has not, or without
    /// a chat template.
    pub fn open(path: &Path, context_length: Option<u32>) -> Result<Self, EngineError> {
        let shown = path.display();
        let file = File::open(path).map_err(|error| {
            EngineError::Load(format!(
                "cannot open the model file {shown}: {error}. `caudal model pull` fetches the default model"
            ))
        })?;
        let content = Content::read(&mut BufReader::new(file))
            .map_err(|error| EngineError::Load(format!("{shown} is not a GGUF file this engine can read: {error}")))?;
        let text = |key: &str| content.metadata.get(key).and_then(|value| value.to_string().ok()).cloned();
        let architecture = text("general.architecture")
            .ok_or_else(|| EngineError::Load(format!("{shown} does not say its architecture")))?;
        if !ARCHITECTURES.contains(&architecture.to_ascii_lowercase().as_str()) {
            return Err(EngineError::Load(format!(
                "{shown} is a model of the architecture `{architecture}`; the engine has {}",
                ARCHITECTURES.join(", ")
            )));
        }
        if text("tokenizer.chat_template").is_none() {
            return Err(EngineError::Load(format!(
                "{shown} has no chat template (`tokenizer.chat_template`), so messages cannot be rendered for it: use an \
                 instruction-tuned model"
            )));
        }
        let number = |key: &str| content.metadata.get(&format!("{architecture}.{key}")).and_then(integer);
        let context = number("context_length").unwrap_or(4096).min(context_length.map_or(u64::MAX, u64::from));
        let context = if context as usize > KV_BLOCK { context - context % KV_BLOCK as u64 } else { context };
        let layers = number("block_count").unwrap_or(1);
        let heads = number("attention.head_count").unwrap_or(1).max(1);
        let kv_heads = number("attention.head_count_kv").unwrap_or(heads);
        let width = number("embedding_length").unwrap_or(0) / heads;
        let key = number("attention.key_length").unwrap_or(width);
        let value = number("attention.value_length").unwrap_or(width);
        Ok(Self {
            path: path.to_owned(),
            context_length: u32::try_from(context).unwrap_or(u32::MAX),
            // The engine computes in f32 on CPU.
            kv_bytes_per_token: layers * kv_heads * (key + value) * 4,
            quantisation: quantisation(&content),
        })
    }

    /// Loads the weights and starts an engine thread. Takes about a second for the default model; blocks the caller.
    ///
    /// # Errors
    /// `Load` with the engine's reason.
    pub fn load(&self) -> Result<Loaded, EngineError> {
        let failed = |reason: &dyn std::fmt::Display| {
            EngineError::Load(format!("cannot load {}: {reason}", self.path.display()))
        };
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = self.path.file_name().unwrap_or_default();
        let loader = GGUFLoaderBuilder::new(
            None,
            None,
            folder.to_string_lossy().into_owned(),
            vec![name.to_string_lossy().into_owned()],
            GGUFSpecificConfig::default(),
            false,
            None,
        )
        .build();
        let pipeline = loader
            .load_model_from_hf(
                None,
                TokenSource::None,
                &ModelDType::F32,
                &Device::Cpu,
                true,
                DeviceMapSetting::dummy(),
                None,
                None,
            )
            .map_err(|error| failed(&error))?;
        // On a thread outside the runtime: inside one the builder runs a request of its own, whose KV would stay.
        let engine = start(pipeline.clone());
        Ok(Loaded { engine, pipeline })
    }
}

/// One engine with its own copy of the model.
pub struct Loaded {
    pub engine: Arc<MistralRs>,
    pipeline: Arc<tokio::sync::Mutex<dyn Pipeline + Send + Sync>>,
}

impl Loaded {
    /// What all slots share, and the tokens that may serve as [`Shared::end`], the best first.
    ///
    /// # Errors
    /// `Load` where tokenizer, chat template or an end-of-sequence token is missing.
    pub fn shared(&self) -> Result<(Shared, Vec<u32>), EngineError> {
        let pipeline = self.pipeline.blocking_lock();
        let missing = |what: &str| EngineError::Load(format!("the model has no {what}"));
        let tokenizer = pipeline.tokenizer().ok_or_else(|| missing("tokenizer"))?;
        let chat = pipeline.get_chat_template().ok_or_else(|| missing("chat template"))?;
        let eos = pipeline.get_metadata().eos_tok.clone();
        let last = *eos.first().ok_or_else(|| missing("end-of-sequence token"))?;
        let template = source(&chat).unwrap_or_default();
        let mut ends = unused_special_tokens(&tokenizer, &eos, &template);
        ends.push(last);
        let tokens = Tokens::new(tokenizer, &chat)?;
        Ok((Shared { tokens, eos: eos.into(), end: ends[0] }, ends))
    }
}

/// Special tokens that a rendered prompt does not contain.
///
/// The engine keys the KV of a finished sequence by all its tokens, the last included, but has no KV for the last: nothing
/// came after it. Ended with the model's own end token, the next turn of the conversation, which has that token there, would
/// attend to a key that was never computed. Ended with a token that no prompt has at that place, it matches up to the token
/// before.
fn unused_special_tokens(tokenizer: &Tokenizer, eos: &[u32], template: &str) -> Vec<u32> {
    let mut ids: Vec<u32> = tokenizer
        .get_added_tokens_decoder()
        .into_iter()
        .filter(|(id, token)| token.special && !eos.contains(id) && !template.contains(&token.content))
        .map(|(id, _)| id)
        .collect();
    ids.sort_unstable();
    ids
}

fn start(pipeline: Arc<tokio::sync::Mutex<dyn Pipeline + Send + Sync>>) -> Arc<MistralRs> {
    let one = DefaultSchedulerMethod::Fixed(NonZeroUsize::MIN);
    let builder = MistralRsBuilder::new(pipeline, SchedulerConfig::DefaultScheduler { method: one }, false, None);
    futures::executor::block_on(builder.build())
}

fn integer(value: &Value) -> Option<u64> {
    match value {
        Value::I32(n) => u64::try_from(*n).ok(),
        Value::I64(n) => u64::try_from(*n).ok(),
        // Some models have a number a layer; the first is as good as any for an estimate.
        Value::Array(all) => all.first().and_then(integer),
        other => other.to_u64().ok(),
    }
}

/// The type that most of the weights have.
fn quantisation(content: &Content) -> String {
    let mut elements: Vec<(GgmlDType, usize)> = Vec::new();
    for tensor in content.tensor_infos.values() {
        let count = tensor.shape.elem_count();
        match elements.iter_mut().find(|(dtype, _)| *dtype == tensor.ggml_dtype) {
            Some((_, sum)) => *sum += count,
            None => elements.push((tensor.ggml_dtype, count)),
        }
    }
    elements.into_iter().max_by_key(|(_, count)| *count).map_or_else(String::new, |(dtype, _)| name(dtype).into())
}

/// The usual name of a weight type, as in file names.
pub fn name(dtype: GgmlDType) -> &'static str {
    match dtype {
        GgmlDType::F32 => "F32",
        GgmlDType::F16 => "F16",
        GgmlDType::BF16 => "BF16",
        GgmlDType::Q4_0 => "Q4_0",
        GgmlDType::Q4_1 => "Q4_1",
        GgmlDType::Q5_0 => "Q5_0",
        GgmlDType::Q5_1 => "Q5_1",
        GgmlDType::Q8_0 => "Q8_0",
        GgmlDType::Q8_1 => "Q8_1",
        GgmlDType::Q2K => "Q2_K",
        GgmlDType::Q3K => "Q3_K",
        GgmlDType::Q4K => "Q4_K",
        GgmlDType::Q5K => "Q5_K",
        GgmlDType::Q6K => "Q6_K",
        GgmlDType::Q8K => "Q8_K",
    }
}
