//! GGUF files: checks and facts from their header, and mistral.rs's loader for them.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use candle_core::quantized::{
    GgmlDType,
    gguf_file::{Content, Value},
};
use mistralrs_core::{AdapterPaths, GGUFLoaderBuilder, GGUFSpecificConfig, Loader, LocalModelPaths, ModelPaths};

use super::facts::Facts;
use crate::{
    engine::{model::ModelSettings, text::model::gguf},
    wire::sampling::SamplingOptions,
};

/// The architectures that the engine can load from GGUF.
const ARCHITECTURES: [&str; 8] = ["llama", "mistral3", "phi2", "phi3", "starcoder2", "qwen2", "qwen3", "qwen3moe"];

/// A GGUF model: its file, or its parts in order.
pub struct Gguf {
    pub parts: Vec<PathBuf>,
    pub facts: Facts,
}

impl Gguf {
    /// Reads the header of the first part.
    ///
    /// # Errors
    /// A message about the first fault: the file or a part is missing, is not GGUF, has an unsupported architecture or no chat
    /// template, or `settings` asks for something that needs safetensors.
    pub fn open(path: &Path, settings: &ModelSettings) -> Result<Self, String> {
        let shown = path.display();
        for (key, is_set) in [
            ("isq", !settings.isq.is_empty()),
            ("uqff", !settings.uqff.is_empty()),
            ("lora", !settings.lora.is_empty()),
        ] {
            if is_set {
                return Err(format!(
                    "{key} needs safetensors, but {shown} is a GGUF file; set model to the folder of the model's safetensors"
                ));
            }
        }
        let parts = parts(path)?;
        parts.iter().try_for_each(|part| check_weights(part))?;
        let first = parts.first().map_or(path, PathBuf::as_path);
        let file = File::open(first).map_err(|error| format!("cannot open the model file {shown}: {error}"))?;
        let content = Content::read(&mut BufReader::new(file))
            .map_err(|error| format!("{shown} is not a GGUF file that this engine can read: {error}"))?;
        let text = |key: &str| content.metadata.get(key).and_then(|value| value.to_string().ok()).cloned();
        let architecture = text("general.architecture")
            .ok_or_else(|| format!("{shown} does not name its architecture (`general.architecture`)"))?;
        if !ARCHITECTURES.contains(&architecture.to_ascii_lowercase().as_str()) {
            return Err(format!(
                "{shown} is a model of the architecture `{architecture}`, which the engine cannot load from GGUF; it can load {}",
                ARCHITECTURES.join(", ")
            ));
        }
        if let Some((weight, dtype)) = dense_weight(&content, &architecture) {
            return Err(format!(
                "{shown} has the weight `{weight}` in {dtype}, but for the architecture `{architecture}` the engine loads quantised \
                weights only: quantise the file, for example to Q8_0 with `llama-quantize`"
            ));
        }
        let template = text("tokenizer.chat_template").ok_or_else(|| {
            format!(
                "{shown} has no chat template (`tokenizer.chat_template`), so messages cannot be rendered for it: use an \
                 instruction-tuned model"
            )
        })?;
        let number = |key: &str| content.metadata.get(&format!("{architecture}.{key}")).and_then(integer);
        check_numbers(&content, &architecture).map_err(|reason| format!("{shown} {reason}"))?;
        let layers = number("block_count").unwrap_or(1);
        let heads = number("attention.head_count").unwrap_or(1).max(1);
        let kv_heads = number("attention.head_count_kv").unwrap_or(heads);
        let width = number("embedding_length").unwrap_or(0) / heads;
        let key = number("attention.key_length").unwrap_or(width);
        let value = number("attention.value_length").unwrap_or(width);
        let context = number("context_length").and_then(|n| u32::try_from(n).ok()).unwrap_or(4096);
        let facts = Facts {
            context_length: context_length(&content, &architecture, context)
                .map_err(|reason| format!("{shown} {reason}"))?,
            head_size: usize::try_from(key).unwrap_or(0),
            kv_elements_per_token: layers * kv_heads * (key + value),
            quantisation: quantisation(&content),
            template,
            sampling: sampling(&content),
            adapters: Vec::new(),
        };
        Ok(Self { parts, facts })
    }

    /// Returns mistral.rs's loader, and the files for it to load.
    pub fn loader(&self) -> (Box<dyn Loader>, Box<dyn ModelPaths>) {
        let first = self.parts.first().cloned().unwrap_or_default();
        let folder = first.parent().unwrap_or(Path::new("")).to_string_lossy().into_owned();
        let names = self.parts.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let loader =
            GGUFLoaderBuilder::new(None, None, folder, names, GGUFSpecificConfig::default(), false, None).build();
        let paths = LocalModelPaths::<PathBuf> {
            tokenizer_filename: PathBuf::new(),
            config_filename: PathBuf::new(),
            template_filename: None,
            filenames: self.parts.clone(),
            adapter_paths: AdapterPaths::None,
            gen_conf: None,
            preprocessor_config: None,
            processor_config: None,
            chat_template_json_filename: None,
        };
        (loader, Box::new(paths))
    }
}

/// Returns all parts if the file is the first of several, as `name-00001-of-00003.gguf`, else the file alone.
fn parts(path: &Path) -> Result<Vec<PathBuf>, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let split = name.strip_suffix(".gguf").and_then(|stem| stem.rsplit_once("-of-")).and_then(|(head, total)| {
        let head = head.strip_suffix("-00001")?;
        Some((head.to_owned(), total.parse::<u32>().ok()?))
    });
    let Some((head, total)) = split else { return Ok(vec![path.to_owned()]) };
    let all: Vec<PathBuf> =
        (1..=total).map(|part| path.with_file_name(format!("{head}-{part:05}-of-{total:05}.gguf"))).collect();
    match all.iter().find(|part| !part.is_file()) {
        Some(missing) => Err(format!("{} is missing; the model has {total} parts", missing.display())),
        None => Ok(all),
    }
}

/// The types of weights that the engine can load: the number in GGUF, and the elements and the bytes of a block.
const READ: [(u32, u64, u64); 15] = [
    (0, 1, 4),
    (1, 1, 2),
    (2, 32, 18),
    (3, 32, 20),
    (6, 32, 22),
    (7, 32, 24),
    (8, 32, 34),
    (9, 32, 36),
    (10, 256, 84),
    (11, 256, 110),
    (12, 256, 144),
    (13, 256, 176),
    (14, 256, 210),
    (15, 256, 292),
    (30, 1, 2),
];

/// Types that the engine cannot load, with their names for the error message.
const UNREAD: [(u32, &str); 16] = [
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

/// Refuses a file with a weight of an unsupported type, and a file that ends before its last weight.
fn check_weights(part: &Path) -> Result<(), String> {
    let shown = part.display();
    let (weights, bytes) = gguf::weights(part)?;
    for weight in &weights {
        let (name, kind) = (&weight.name, weight.kind);
        let Some((_, elements, block)) = READ.iter().find(|(number, ..)| *number == kind) else {
            let known = UNREAD.iter().find(|(number, _)| *number == kind);
            let named = known.map_or_else(|| format!("the type {kind}"), |(_, name)| (*name).to_owned());
            return Err(format!(
                "{shown} has the weight `{name}` in {named}, which the engine cannot load: use a file in Q8_0, Q6_K, Q5_K, \
                 Q4_K, Q3_K, Q2_K, Q5_1, Q5_0, Q4_1, Q4_0, F16, BF16 or F32"
            ));
        };
        let end = weight.elements.div_ceil(*elements).saturating_mul(*block).saturating_add(weight.begin);
        if end > bytes {
            return Err(format!(
                "{shown} has {bytes} bytes and ends before the end of the weight `{name}`: fetch it again"
            ));
        }
    }
    Ok(())
}

/// Refuses numbers with which mistral.rs 0.8.1 panics, or fails at every token.
fn check_numbers(content: &Content, architecture: &str) -> Result<(), String> {
    let number = |key: &str| {
        let key = format!("{architecture}.{key}");
        let value = content.metadata.get(&key).and_then(integer);
        value.ok_or_else(|| format!("has no number `{key}`"))
    };
    let heads = number("attention.head_count")?;
    let kv_heads = number("attention.head_count_kv")?;
    for (what, value) in [("block_count", number("block_count")?), ("embedding_length", number("embedding_length")?)] {
        if value == 0 {
            return Err(format!("cannot be used: its `{what}` is 0"));
        }
    }
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(format!(
            "has {heads} heads, and {kv_heads} heads of keys and values (`{architecture}.attention.head_count_kv`) do not divide them"
        ));
    }
    let context = number("context_length").unwrap_or(1);
    if !(1..=LONGEST_CONTEXT).contains(&context) {
        return Err(format!("cannot be used: its context has {context} tokens; 1 to {LONGEST_CONTEXT} are possible"));
    }
    let tokens = match content.metadata.get("tokenizer.ggml.tokens") {
        Some(Value::Array(tokens)) => tokens.len() as u64,
        _ => 0,
    };
    let end = content.metadata.get("tokenizer.ggml.eos_token_id").and_then(integer);
    match end {
        Some(end) if end < tokens => Ok(()),
        Some(end) => Err(format!(
            "cannot be used: the token {end} ends an output (`tokenizer.ggml.eos_token_id`), but the file has {tokens} tokens"
        )),
        None => Err("does not name the token that ends an output (`tokenizer.ggml.eos_token_id`)".into()),
    }
}

/// The longest context that is accepted, in tokens. mistral.rs makes tables of positions for the whole context.
const LONGEST_CONTEXT: u64 = 1 << 22;

/// The context length at which the model works correctly. mistral.rs 0.8.1 ignores `rope.scaling`, so for a model whose context
/// was extended by it, this is the original length.
fn context_length(content: &Content, architecture: &str, whole: u32) -> Result<u32, String> {
    let value = |key: &str| content.metadata.get(&format!("{architecture}.rope.scaling.{key}"));
    let kind = value("type").and_then(|kind| kind.to_string().ok()).map_or("none", String::as_str);
    let is_long = content.tensor_infos.contains_key("rope_factors_long.weight");
    let factor = value("factor").and_then(|factor| factor.to_f32().ok()).unwrap_or(1.0);
    if !is_long && (kind == "none" || factor == 1.0) {
        return Ok(whole);
    }
    match value("original_context_length").and_then(integer).and_then(|n| u32::try_from(n).ok()) {
        Some(original) if kind != "linear" && original > 0 => {
            tracing::warn!(
                context = original,
                whole,
                "the engine does not support this model's rope scaling, so its context is shorter"
            );
            Ok(original.min(whole))
        }
        _ => Err(format!(
            "scales its positions (`{architecture}.rope.scaling.type` is `{kind}`), which the engine does not support"
        )),
    }
}

/// The options that the model's authors recommend, as far as the file gives them.
fn sampling(content: &Content) -> SamplingOptions {
    let number = |key: &str| {
        let value = content.metadata.get(&format!("general.sampling.{key}"))?;
        value.to_f32().ok().or_else(|| integer(value).map(|n| n as f32))
    };
    SamplingOptions {
        temperature: number("temp"),
        top_p: number("top_p"),
        top_k: number("top_k").map(|k| k as u32).filter(|k| *k > 0),
        min_p: number("min_p"),
        repetition_penalty: number("penalty_repeat"),
        ..SamplingOptions::default()
    }
}

fn integer(value: &Value) -> Option<u64> {
    match value {
        Value::I32(n) => u64::try_from(*n).ok(),
        Value::I64(n) => u64::try_from(*n).ok(),
        // Some models have a number for each layer. The first is good enough for an estimate.
        Value::Array(all) => all.first().and_then(integer),
        other => other.to_u64().ok(),
    }
}

/// Finds a weight with which mistral.rs 0.8.1 panics: `quantized_{phi2,phi3,starcoder2}.rs` multiply by quantised weights only.
fn dense_weight<'a>(content: &'a Content, architecture: &str) -> Option<(&'a String, &'static str)> {
    if !["phi2", "phi3", "starcoder2"].contains(&architecture.to_ascii_lowercase().as_str()) {
        return None;
    }
    let is_dense = |dtype| matches!(dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
    let layers = content.tensor_infos.iter().filter(|(at, _)| at.starts_with("blk.") && at.ends_with(".weight"));
    let mut dense = layers.filter(|(_, info)| info.shape.dims().len() == 2 && is_dense(info.ggml_dtype));
    dense.next().map(|(weight, info)| (weight, name(info.ggml_dtype)))
}

/// The type of most of the weights, by elements.
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
fn name(dtype: GgmlDType) -> &'static str {
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
