//! A model of one block as a Hugging Face folder: Gemma, which mistral.rs reads from safetensors only.

use std::{fs, io, path::Path};

use serde_json::{Map, Value, json};

use super::{CONTEXT, FEED_FORWARD, HEADS, KV_HEADS, Random, WIDTH, scale};

const CONTROLS: [&str; 5] = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"];
const WORDS: [&str; 12] = ["▁", "t", "h", "e", "a", "n", "r", "i", "s", "he", "in", "▁t"];
const MERGES: [[&str; 2]; 3] = [["h", "e"], ["i", "n"], ["▁", "t"]];

/// Writes the folder's files: configuration, tokenizer with bytes as a fallback, chat template and weights in f32.
///
/// # Errors
/// The files cannot be written.
pub fn write_gemma(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let tokens: Vec<String> = CONTROLS
        .map(String::from)
        .into_iter()
        .chain(["<unk>".into()])
        .chain(bytes)
        .chain(WORDS.map(String::from))
        .collect();
    let file = |name: &str, value: &Value| fs::write(folder.join(name), value.to_string());
    file("config.json", &config(tokens.len()))?;
    file("tokenizer.json", &tokenizer(&tokens))?;
    let template = include_str!("../../templates/gemma.jinja");
    file(
        "tokenizer_config.json",
        &json!({"chat_template": template, "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>",
            "add_bos_token": true, "tokenizer_class": "GemmaTokenizer"}),
    )?;
    file("generation_config.json", &json!({"bos_token_id": 2, "eos_token_id": [1, 4], "pad_token_id": 0}))?;
    fs::write(folder.join("model.safetensors"), safetensors(tokens.len() as u64))
}

fn config(tokens: usize) -> Value {
    json!({"architectures": ["GemmaForCausalLM"], "model_type": "gemma", "hidden_size": WIDTH,
        "intermediate_size": FEED_FORWARD, "num_hidden_layers": 1, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": WIDTH / HEADS, "vocab_size": tokens,
        "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "attention_bias": false,
        "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true,
        "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "torch_dtype": "float32"})
}

fn tokenizer(tokens: &[String]) -> Value {
    let vocabulary: Map<String, Value> = tokens.iter().zip(0..).map(|(token, id)| (token.clone(), json!(id))).collect();
    let added = CONTROLS.iter().chain(["<unk>"].iter()).zip(0..).map(|(token, id)| {
        json!({"id": id, "content": token, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false})
    });
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary, "merges": MERGES}})
}

/// Returns a file in the safetensors format: the length of the header, the header, and the values.
fn safetensors(tokens: u64) -> Vec<u8> {
    let kv = WIDTH / HEADS * KV_HEADS;
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let tensors = [
        ("model.embed_tokens.weight".to_owned(), vec![tokens, WIDTH]),
        ("model.norm.weight".to_owned(), vec![WIDTH]),
        (layer("input_layernorm"), vec![WIDTH]),
        (layer("post_attention_layernorm"), vec![WIDTH]),
        (layer("self_attn.q_proj"), vec![WIDTH, WIDTH]),
        (layer("self_attn.k_proj"), vec![kv, WIDTH]),
        (layer("self_attn.v_proj"), vec![kv, WIDTH]),
        (layer("self_attn.o_proj"), vec![WIDTH, WIDTH]),
        (layer("mlp.gate_proj"), vec![FEED_FORWARD, WIDTH]),
        (layer("mlp.up_proj"), vec![FEED_FORWARD, WIDTH]),
        (layer("mlp.down_proj"), vec![WIDTH, FEED_FORWARD]),
    ];
    let (mut header, mut values) = (Map::new(), Vec::new());
    for (seed, (name, shape)) in (1..).zip(tensors) {
        let (mut random, begin) = (Random(seed), values.len());
        // A norm multiplies by its weight plus one.
        let factor = if name.ends_with("norm.weight") { 0.0 } else { scale(name.trim_start_matches("model.")) };
        for _ in 0..shape.iter().product::<u64>() {
            values.extend((random.next() * factor).to_le_bytes());
        }
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, values.len()]}));
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &values].concat()
}
