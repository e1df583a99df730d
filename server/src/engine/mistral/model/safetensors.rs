//! Folders in Hugging Face's layout: safetensors, their configuration, tokenizer and chat template. The weights are loaded
//! unchanged, quantised during the load (`isq`), quantised before (`uqff`), or with adapters merged in (`lora`).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use mistralrs_core::{
    AdapterPaths, DeviceMapSetting, IsqType, Loader, LocalModelPaths, LoraAdapterPaths, ModelPaths,
    NormalLoaderBuilder, NormalLoaderType, NormalSpecificConfig, PagedAttentionConfig, Pipeline, TokenSource,
    parse_isq_value,
};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::{device::ComputeDevice, facts::Facts};
use crate::{engine::model::ModelSettings, model::hub, wire::sampling::SamplingOptions};

/// The types that the engine can quantise to on a CPU.
const CPU_TYPES: [&str; 10] = ["Q8_0", "Q6K", "Q5K", "Q5_1", "Q5_0", "Q4K", "Q4_1", "Q4_0", "Q3K", "Q2K"];

/// A checked folder.
pub struct WeightsFolder {
    pub path: PathBuf,
    /// The files of the model's weights, then the UQFF file or those of the adapters.
    pub weights: Vec<PathBuf>,
    /// The file with the chat template.
    template: PathBuf,
    isq: Option<IsqType>,
    uqff: Option<String>,
    lora: Vec<Adapter>,
    pub facts: Facts,
}

/// A LoRA adapter in PEFT's layout.
struct Adapter {
    /// `adapter_config.json`.
    config: String,
    weights: PathBuf,
}

/// The fields of `config.json` that are used here.
#[derive(Deserialize)]
struct ModelConfig {
    #[serde(default)]
    max_position_embeddings: Option<u32>,
    hidden_size: u64,
    num_hidden_layers: u64,
    num_attention_heads: u64,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    #[serde(alias = "dtype")]
    torch_dtype: Option<String>,
    quantization_config: Option<Value>,
}

impl WeightsFolder {
    /// Checks the folder.
    ///
    /// # Errors
    /// A message about the first fault: a file is missing, the architecture is not supported, there is no chat template, or the
    /// engine cannot do what `settings` asks for.
    pub fn open(path: &Path, settings: &ModelSettings, device: &ComputeDevice) -> Result<Self, String> {
        let file = path.join("config.json");
        if !file.is_file() {
            return Err(format!("{} has no config.json, so it is not the folder of a model", path.display()));
        }
        let whole: Value = read_json(&file)?;
        let named = whole.get("architectures").and_then(Value::as_array).map(Vec::as_slice);
        let Some([Value::String(architecture)]) = named else {
            return Err(format!("{} must name one architecture", file.display()));
        };
        NormalLoaderType::from_causal_lm_name(architecture).map_err(|_| {
            format!(
                "{} is a model of the architecture `{architecture}`, which the engine does not support",
                path.display()
            )
        })?;
        let config =
            ModelConfig::deserialize(&whole).map_err(|error| format!("{} cannot be used: {error}", file.display()))?;
        if !path.join("tokenizer.json").is_file() {
            return Err(format!("{} has no tokenizer.json", path.display()));
        }
        let (template, text) = template(path)?;
        let (isq, type_name) = isq(&settings.isq, device)?.unzip();
        let uqff = uqff(path, settings)?;
        let mut weights = weights(path, uqff.is_some())?;
        let lora: Vec<Adapter> =
            settings.lora.iter().map(|adapter| Adapter::open(adapter)).collect::<Result<_, _>>()?;
        weights.extend(uqff.iter().map(|file| path.join(file)));
        weights.extend(lora.iter().map(|adapter| adapter.weights.clone()));
        let facts = Facts {
            context_length: config.max_position_embeddings.unwrap_or(4096),
            head_size: usize::try_from(config.head_size()).unwrap_or(0),
            kv_elements_per_token: config.kv_elements_per_token(),
            quantisation: match (type_name, &uqff) {
                (Some(name), _) => name,
                (None, Some(file)) => format!("UQFF {}", file.trim_end_matches(".uqff")),
                (None, None) => config.stored_type(),
            },
            template: text,
            sampling: sampling(path),
            adapters: settings.lora.clone(),
        };
        Ok(Self { path: path.to_owned(), weights, template, isq, uqff, lora, facts })
    }

    /// The configurations of the adapters, as JSON.
    pub fn adapter_configs(&self) -> impl Iterator<Item = &str> {
        self.lora.iter().map(|adapter| adapter.config.as_str())
    }

    /// Loads and quantises the weights; blocks until that is done. Must be called on a thread of its own, because mistral.rs
    /// keeps adapters and the types to quantise to in variables of the thread.
    ///
    /// # Errors
    /// With mistral.rs's reason.
    pub fn load(
        &self,
        device: &ComputeDevice,
        map: DeviceMapSetting,
        paged: Option<PagedAttentionConfig>,
    ) -> anyhow::Result<Arc<Mutex<dyn Pipeline + Send + Sync>>> {
        let (dtype, device) = (device.dtype(), &device.0);
        let loader = self.loader()?;
        if self.uqff.is_some() {
            // Only this function finds the other parts of a UQFF file. Given a folder's path, it reads no other place.
            return loader.load_model_from_hf(None, TokenSource::None, &dtype, device, true, map, None, paged);
        }
        loader.load_model_from_path(&self.paths()?, &dtype, device, true, map, self.isq, paged)
    }

    fn loader(&self) -> anyhow::Result<Box<dyn Loader>> {
        let config = NormalSpecificConfig {
            from_uqff: self.uqff.as_ref().map(|file| vec![PathBuf::from(file)]),
            ..NormalSpecificConfig::default()
        };
        let folder = self.path.to_string_lossy().into_owned();
        let builder = NormalLoaderBuilder::new(config, None, None, Some(folder), false, None);
        let builder = match self.facts.adapters.as_slice() {
            [] => builder,
            adapters => builder.with_lora(adapters.to_vec()),
        };
        builder.build(None)
    }

    fn paths(&self) -> anyhow::Result<Box<dyn ModelPaths>> {
        let here = |name: &str| Some(self.path.join(name)).filter(|path| path.is_file());
        let mut adapters = Vec::new();
        for adapter in &self.lora {
            let lora_config = serde_json::from_str(&adapter.config)?;
            adapters.push(LoraAdapterPaths { lora_config, adapter_path: adapter.weights.clone() });
        }
        let base = self.weights.len() - self.lora.len();
        Ok(Box::new(LocalModelPaths::<PathBuf> {
            tokenizer_filename: self.path.join("tokenizer.json"),
            config_filename: self.path.join("config.json"),
            template_filename: Some(self.template.clone()),
            filenames: self.weights[..base].to_vec(),
            adapter_paths: if adapters.is_empty() { AdapterPaths::None } else { AdapterPaths::Lora(adapters) },
            gen_conf: here("generation_config.json"),
            preprocessor_config: None,
            processor_config: None,
            chat_template_json_filename: here("chat_template.json"),
        }))
    }
}

impl ModelConfig {
    fn head_size(&self) -> u64 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    fn kv_elements_per_token(&self) -> u64 {
        let heads = self.num_key_value_heads.unwrap_or(self.num_attention_heads.max(1));
        self.num_hidden_layers * heads * self.head_size() * 2
    }

    fn stored_type(&self) -> String {
        let method = self.quantization_config.as_ref().and_then(|config| config.get("quant_method")?.as_str());
        match (method, self.torch_dtype.as_deref()) {
            (Some(method), _) => method.to_uppercase(),
            (None, Some("bfloat16")) => "BF16".into(),
            (None, Some("float16")) => "F16".into(),
            (None, Some("float32") | None) => "F32".into(),
            (None, Some(other)) => other.to_uppercase(),
        }
    }
}

impl Adapter {
    fn open(named: &str) -> Result<Self, String> {
        let path = Path::new(named);
        let folder = if path.exists() {
            path.to_owned()
        } else if hub::is_repository(named) {
            hub::Repository::new(named, "").adapter().map_err(|error| error.to_string())?
        } else {
            return Err(format!("lora: there is no folder {named}"));
        };
        let (file, weights) = (folder.join("adapter_config.json"), folder.join("adapter_model.safetensors"));
        let config: Value = read_json(&file)?;
        if !weights.is_file() {
            return Err(format!("lora: {} has no adapter_model.safetensors", folder.display()));
        }
        // mistral.rs ignores these without an error and would compute something else.
        let refused = [
            ("use_dora", config.get("use_dora") == Some(&Value::Bool(true))),
            ("use_rslora", config.get("use_rslora") == Some(&Value::Bool(true))),
            ("modules_to_save", config.get("modules_to_save").is_some_and(|modules| !modules.is_null())),
            ("bias", config.get("bias").is_some_and(|bias| !bias.is_null() && bias != "none")),
            ("peft_type", config.get("peft_type").is_some_and(|kind| kind != "LORA")),
            ("target_modules", !config.get("target_modules").is_some_and(Value::is_array)),
        ];
        match refused.into_iter().find(|(_, is_refused)| *is_refused) {
            Some((key, _)) => Err(format!("lora: the engine cannot apply `{key}` of {}", file.display())),
            None => Ok(Self { config: config.to_string(), weights }),
        }
    }
}

/// Returns the file that mistral.rs reads the chat template from, and the template.
fn template(folder: &Path) -> Result<(PathBuf, String), String> {
    let jinja = folder.join("chat_template.jinja");
    if jinja.is_file() {
        let text = fs::read_to_string(&jinja).map_err(|error| format!("cannot read {}: {error}", jinja.display()))?;
        return Ok((jinja, text));
    }
    let file = folder.join("tokenizer_config.json");
    if !file.is_file() {
        return Err(format!(
            "{} has neither chat_template.jinja nor tokenizer_config.json, so messages cannot be rendered for it",
            folder.display()
        ));
    }
    let config: Value = read_json(&file)?;
    let named = |templates: &[Value]| {
        let default = templates.iter().find(|template| template.get("name").is_some_and(|name| name == "default"))?;
        default.get("template")?.as_str().map(str::to_owned)
    };
    let own = match config.get("chat_template") {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(templates)) => named(templates),
        _ => None,
    };
    let beside = || {
        let file: Value = read_json(&folder.join("chat_template.json")).ok()?;
        file.get("chat_template")?.as_str().map(str::to_owned)
    };
    match own.or_else(beside) {
        Some(text) => Ok((file, text)),
        None => Err(format!(
            "{} has no chat template (`chat_template` in tokenizer_config.json, or chat_template.jinja), so messages cannot be \
             rendered for it: use an instruction-tuned model",
            folder.display()
        )),
    }
}

/// The safetensors files of the weights; for a UQFF model those of the weights that are not quantised.
fn weights(folder: &Path, is_uqff: bool) -> Result<Vec<PathBuf>, String> {
    let index = folder.join("model.safetensors.index.json");
    if index.is_file() {
        let content: Value = read_json(&index)?;
        let mut names: Vec<&str> = content
            .get("weight_map")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(_, v)| v.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        let all: Vec<PathBuf> = names.into_iter().map(|name| folder.join(name)).collect();
        return match all.iter().find(|path| !path.is_file()) {
            Some(missing) => Err(format!("{} is missing; {} names it", missing.display(), index.display())),
            None if all.is_empty() => Err(format!("{} names no files", index.display())),
            None => Ok(all),
        };
    }
    let single = if is_uqff { vec!["model.safetensors", "residual.safetensors"] } else { vec!["model.safetensors"] };
    let found = single.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    found.map(|path| vec![path]).ok_or_else(|| format!("{} has no {}", folder.display(), single.join(" or ")))
}

/// The type to quantise to, and its usual name; `None` if `wanted` is empty.
fn isq(wanted: &str, device: &ComputeDevice) -> Result<Option<(IsqType, String)>, String> {
    if wanted.is_empty() {
        return Ok(None);
    }
    // Names of K types are common with and without an underscore.
    let name = wanted.to_uppercase().replace("_K", "K");
    if device.is_cpu() && !CPU_TYPES.contains(&name.as_str()) {
        return Err(format!("isq: on a CPU the engine quantises to {}, not to `{wanted}`", CPU_TYPES.join(", ")));
    }
    let ty = parse_isq_value(&name, Some(&device.0)).map_err(|reason| format!("isq: {reason}"))?;
    Ok(Some((ty, name.strip_suffix('K').map_or_else(|| name.clone(), |bits| format!("{bits}_K")))))
}

fn uqff(folder: &Path, settings: &ModelSettings) -> Result<Option<String>, String> {
    if settings.uqff.is_empty() {
        return Ok(None);
    }
    for (key, is_set) in [("isq", !settings.isq.is_empty()), ("lora", !settings.lora.is_empty())] {
        if is_set {
            return Err(format!(
                "uqff and {key} cannot be combined, because the weights of a UQFF file are quantised already: remove one of them"
            ));
        }
    }
    let file = folder.join(&settings.uqff);
    if !file.is_file() {
        return Err(format!("uqff: there is no file {}", file.display()));
    }
    Ok(Some(settings.uqff.clone()))
}

/// The options that the model's authors recommend, from `generation_config.json`.
fn sampling(folder: &Path) -> SamplingOptions {
    let Ok(config) = read_json::<Value>(&folder.join("generation_config.json")) else {
        return SamplingOptions::default();
    };
    let number = |key: &str| config.get(key).and_then(Value::as_f64).map(|value| value as f32);
    SamplingOptions {
        temperature: number("temperature"),
        top_p: number("top_p"),
        top_k: config.get("top_k").and_then(Value::as_u64).and_then(|k| u32::try_from(k).ok()).filter(|k| *k > 0),
        min_p: number("min_p"),
        repetition_penalty: number("repetition_penalty"),
        ..SamplingOptions::default()
    }
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{} cannot be used: {error}", path.display()))
}
