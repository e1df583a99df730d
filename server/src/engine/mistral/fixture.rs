//! Converts the default model's GGUF to the other formats that the engine loads. Each is written once, to the cache folder.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use candle_core::{
    DType, Device, Tensor,
    quantized::gguf_file::{Content, Value},
    safetensors,
};
use mistralrs_core::{DeviceMapSetting, IsqType, ModelDType, NormalLoaderBuilder, NormalSpecificConfig, TokenSource};
use serde_json::json;

use crate::engine::text::model::Tokens;
use crate::model;

/// Width of the adapters' inner matrices.
const RANK: usize = 2;

/// Returns a folder with the model as safetensors in f16 and the tokenizer of `tokens`. Writes it if it is missing.
pub fn folder(tokens: &Tokens) -> PathBuf {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| model::default_dir().join(".tests").join("folder"));
    if !FOLDER.join("done").is_file() {
        fs::create_dir_all(&*FOLDER).unwrap();
        write_folder(&FOLDER, tokens);
        fs::write(FOLDER.join("done"), "").unwrap();
    }
    FOLDER.clone()
}

fn write_folder(folder: &Path, tokens: &Tokens) {
    let gguf = model::default_file(&model::default_dir()).expect("run `caudal model pull` first");
    let mut reader = BufReader::new(File::open(gguf).unwrap());
    let content = Content::read(&mut reader).unwrap();
    let get = |key: &str| &content.metadata[key];
    let number = |key: &str| get(&format!("llama.{key}")).to_u32().unwrap() as usize;
    let (heads, kv_heads) = (number("attention.head_count"), number("attention.head_count_kv"));
    let mut tensors = HashMap::new();
    for name in content.tensor_infos.keys() {
        let tensor = content.tensor(&mut reader, name, &Device::Cpu).unwrap().dequantize(&Device::Cpu).unwrap();
        let tensor = match name.rsplit('.').nth(1) {
            Some("attn_q") => halves(&tensor, heads),
            Some("attn_k") => halves(&tensor, kv_heads),
            _ => tensor,
        };
        tensors.insert(hugging_face_name(name), tensor.to_dtype(DType::F16).unwrap());
    }
    safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": number("embedding_length"),
        "intermediate_size": number("feed_forward_length"),
        "max_position_embeddings": number("context_length"),
        "num_attention_heads": heads,
        "num_hidden_layers": number("block_count"),
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": get("llama.attention.layer_norm_rms_epsilon").to_f32().unwrap(),
        "rope_theta": get("llama.rope.freq_base").to_f32().unwrap(),
        "tie_word_embeddings": !tensors.contains_key("lm_head.weight"),
        "torch_dtype": "float16",
        "vocab_size": tensors["model.embed_tokens.weight"].dim(0).unwrap(),
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    tokens.save(&folder.join("tokenizer.json"));
    let token = |key: &str| match get("tokenizer.ggml.tokens") {
        Value::Array(all) => all[get(key).to_u32().unwrap() as usize].to_string().unwrap().clone(),
        _ => unreachable!(),
    };
    let tokenizer = json!({
        "chat_template": get("tokenizer.chat_template").to_string().unwrap(),
        "bos_token": token("tokenizer.ggml.bos_token_id"),
        "eos_token": token("tokenizer.ggml.eos_token_id"),
    });
    fs::write(folder.join("tokenizer_config.json"), tokenizer.to_string()).unwrap();
    fs::write(folder.join("generation_config.json"), json!({"temperature": 0.6, "top_k": 0}).to_string()).unwrap();
}

/// Reorders the rows of queries or keys. GGUF stores the two rows of a rotated pair side by side; Hugging Face stores the first
/// rows of all pairs of a head, then the second rows.
fn halves(tensor: &Tensor, heads: usize) -> Tensor {
    let (rows, columns) = tensor.dims2().unwrap();
    let pairs = tensor.reshape((heads, rows / heads / 2, 2, columns)).unwrap();
    pairs.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, columns)).unwrap()
}

fn hugging_face_name(name: &str) -> String {
    let rest = match name {
        "token_embd.weight" => return "model.embed_tokens.weight".into(),
        "output_norm.weight" => return "model.norm.weight".into(),
        "output.weight" => return "lm_head.weight".into(),
        other => other.strip_prefix("blk.").expect("a layer's tensor"),
    };
    let (layer, rest) = rest.split_once('.').unwrap();
    let part = match rest.strip_suffix(".weight").unwrap() {
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        other => panic!("unknown tensor {other}"),
    };
    format!("model.layers.{layer}.{part}.weight")
}

/// Quantises the model of `folder` to Q8_0 with the engine. Returns the folder of the UQFF file, and its name.
pub fn uqff(folder: &Path) -> (PathBuf, String) {
    let target = folder.with_file_name("uqff");
    if !target.join("done").is_file() {
        let (from, to) = (folder.to_string_lossy().into_owned(), target.join("q8_0.uqff"));
        fs::create_dir_all(&target).unwrap();
        // mistral.rs keeps the types to quantise to in variables of the thread, so this needs its own thread.
        std::thread::spawn(move || {
            super::kernels::UNPACKED.store(true, std::sync::atomic::Ordering::SeqCst);
            let config = NormalSpecificConfig { write_uqff: Some(to), ..NormalSpecificConfig::default() };
            let loader = NormalLoaderBuilder::new(config, None, None, Some(from), false, None).build(None).unwrap();
            let map = DeviceMapSetting::dummy();
            let (dtype, isq) = (ModelDType::F32, Some(IsqType::Q8_0));
            loader
                .load_model_from_hf(None, TokenSource::None, &dtype, &Device::Cpu, true, map, isq, None)
                .map(drop)
                .expect("written");
            super::kernels::UNPACKED.store(false, std::sync::atomic::Ordering::SeqCst);
        })
        .join()
        .unwrap();
        fs::write(target.join("done"), "").unwrap();
    }
    let files = fs::read_dir(&target).unwrap().flatten().filter_map(|file| file.file_name().into_string().ok());
    let name = files.filter(|name| name.ends_with(".uqff")).min().expect("a UQFF file");
    (target, name)
}

/// Writes a LoRA adapter for the queries and values of every layer. With `strength` 0 the adapter changes nothing.
pub fn adapter(folder: &Path, strength: f32) -> PathBuf {
    let target = folder.with_file_name(format!("adapter-{strength}"));
    fs::create_dir_all(&target).unwrap();
    let base = safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
    let mut tensors = HashMap::new();
    for (name, weight) in base.iter().filter(|(name, _)| name.contains("q_proj") || name.contains("v_proj")) {
        let (rows, columns) = weight.dims2().unwrap();
        let name = format!("base_model.model.{}", name.strip_suffix(".weight").unwrap());
        let ones = |shape| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        tensors.insert(format!("{name}.lora_A.weight"), ones((RANK, columns)));
        tensors.insert(format!("{name}.lora_B.weight"), (ones((rows, RANK)) * f64::from(strength)).unwrap());
    }
    safetensors::save(&tensors, target.join("adapter_model.safetensors")).unwrap();
    let config = json!({"peft_type": "LORA", "r": RANK, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "bias": "none"});
    fs::write(target.join("adapter_config.json"), config.to_string()).unwrap();
    target
}
