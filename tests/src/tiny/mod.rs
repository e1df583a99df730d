//! Models of one block with random weights, as GGUF files of a few megabytes and as a folder: enough to test tokens, templates
//! and calls. Their output makes no sense, and is the same on every machine.

mod folder;

pub use folder::write_gemma;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

const WIDTH: u64 = 256;
const HEADS: u64 = 4;
const KV_HEADS: u64 = 2;
const FEED_FORWARD: u64 = 512;
const CONTEXT: u32 = 2048;
/// Types of tensors.
const F32: u32 = 0;
const Q8_0: u32 = 8;
/// The number of values of a block of Q8_0.
const QUANTISED: usize = 32;
/// Tensors begin at multiples of this many bytes.
const ALIGNMENT: usize = 32;

/// A family of models: the content of its files, and the rules of its template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Llama2,
    Llama3,
    Mistral,
    Qwen2,
    Qwen3,
    Phi3,
    SmolLm2,
    DeepSeekR1,
}

impl Family {
    pub const ALL: [Self; 8] = [
        Self::Llama2,
        Self::Llama3,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Phi3,
        Self::SmolLm2,
        Self::DeepSeekR1,
    ];

    pub fn template(self) -> &'static str {
        match self {
            Self::Llama2 => include_str!("../../templates/llama-2.jinja"),
            Self::Llama3 => include_str!("../../templates/llama-3.jinja"),
            Self::Mistral => include_str!("../../templates/mistral.jinja"),
            Self::Qwen2 | Self::Qwen3 => include_str!("../../templates/qwen.jinja"),
            Self::Phi3 => include_str!("../../templates/phi-3.jinja"),
            Self::SmolLm2 => include_str!("../../templates/smollm-2.jinja"),
            Self::DeepSeekR1 => include_str!("../../templates/deepseek-r1.jinja"),
        }
    }

    fn architecture(self) -> &'static str {
        match self {
            Self::Llama2 | Self::Llama3 | Self::Mistral | Self::SmolLm2 => "llama",
            Self::Qwen2 | Self::DeepSeekR1 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Phi3 => "phi3",
        }
    }

    /// Returns the pre-tokenizer of a byte-pair vocabulary. `None`: the vocabulary has pieces with scores, and bytes as a
    /// fallback.
    fn pre_tokenizer(self) -> Option<&'static str> {
        match self {
            Self::Llama2 | Self::Mistral | Self::Phi3 => None,
            Self::Llama3 => Some("llama-bpe"),
            Self::Qwen2 | Self::Qwen3 => Some("qwen2"),
            Self::SmolLm2 => Some("smollm"),
            Self::DeepSeekR1 => Some("deepseek-r1-qwen"),
        }
    }

    /// Returns the control tokens: begin, end, and those of the template.
    fn controls(self) -> &'static [&'static str] {
        match self {
            Self::Llama2 => &["<s>", "</s>"],
            Self::Llama3 => &["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
            Self::Mistral => &[
                "<s>",
                "</s>",
                "[INST]",
                "[/INST]",
                "[AVAILABLE_TOOLS]",
                "[TOOL_CALLS]",
                "[TOOL_RESULTS]",
                "[/TOOL_RESULTS]",
            ],
            Self::Qwen2 | Self::Qwen3 | Self::SmolLm2 => &["<|endoftext|>", "<|im_end|>", "<|im_start|>"],
            Self::Phi3 => &["<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"],
            Self::DeepSeekR1 => &["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"],
        }
    }

    /// Returns the tokens that the vocabulary has besides its words.
    fn tags(self) -> &'static [&'static str] {
        match self {
            Self::Qwen2 | Self::Qwen3 => &["<tool_call>", "</tool_call>", "<think>", "</think>"],
            Self::DeepSeekR1 => &["<think>", "</think>"],
            _ => &[],
        }
    }

    /// Writes the model to `folder` and returns its file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(self, folder: &Path) -> io::Result<PathBuf> {
        self.write_with(folder, self.template())
    }

    /// As [`Self::write`], with another template.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_with(self, folder: &Path, template: &str) -> io::Result<PathBuf> {
        let path = folder.join(format!("tiny-{}.gguf", format!("{self:?}").to_lowercase()));
        let tokens = self.tokens();
        let tensors = self.tensors(tokens.len() as u64);
        let entries = self.entries(&tokens, template);
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((tensors.len() as u64).to_le_bytes());
        out.extend((entries.len() as u64).to_le_bytes());
        for (key, value) in &entries {
            text(&mut out, key);
            out.extend(value.kind().to_le_bytes());
            value.write(&mut out);
        }
        let mut offset = 0;
        for (name, shape) in &tensors {
            text(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            shape.iter().for_each(|length| out.extend(length.to_le_bytes()));
            let (kind, bytes) = self.kind(shape);
            out.extend(kind.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += bytes.next_multiple_of(ALIGNMENT);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        let begin = out.len();
        for (seed, (name, shape)) in (1..).zip(&tensors) {
            let mut random = Random(seed);
            let mut next = || if name.ends_with("norm.weight") { 1.0 } else { random.next() * scale(name) };
            let values: Vec<f32> = (0..shape.iter().product::<u64>()).map(|_| next()).collect();
            match self.kind(shape).0 {
                Q8_0 => values.chunks(QUANTISED).for_each(|block| quantise(&mut out, block)),
                _ => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
            }
            let end = begin + (out.len() - begin).next_multiple_of(ALIGNMENT);
            out.resize(end, 0);
        }
        fs::File::create(&path)?.write_all(&out)?;
        Ok(path)
    }

    /// Returns the type and the size in bytes of a tensor. The matrices of Phi-3 are quantised, because mistral.rs 0.8.1 reads
    /// no others.
    fn kind(self, shape: &[u64]) -> (u32, usize) {
        let values = shape.iter().product::<u64>() as usize;
        if self == Self::Phi3 && shape.len() == 2 {
            (Q8_0, values / QUANTISED * (2 + QUANTISED))
        } else {
            (F32, values * 4)
        }
    }

    /// Returns the texts of the tokens and their types.
    fn tokens(self) -> Vec<(String, i32)> {
        let mut tokens: Vec<(String, i32)> = Vec::new();
        let words = ["t", "h", "e", "a", "o", "n", "r", "i", "s", "he", "in", "er", "an"];
        if self.pre_tokenizer().is_some() {
            // Maps each byte to a printable character.
            let prints = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
            let hidden = (0u32..256).filter(|byte| !prints(byte)).count() as u32;
            let characters = (0u32..256).filter(prints).chain(0x100..0x100 + hidden).filter_map(char::from_u32);
            tokens.extend(characters.map(|c| (c.to_string(), 1)));
            tokens.extend(words.iter().filter(|word| word.len() > 1).map(|word| ((*word).to_owned(), 1)));
            tokens.extend(["Ġt", "Ġthe"].map(|word| (word.to_owned(), 1)));
        } else {
            tokens.push(("<unk>".into(), 2));
            tokens.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 6)));
            tokens.extend(["▁", "▁t", "▁the"].into_iter().chain(words).map(|word| (word.to_owned(), 1)));
        }
        tokens.extend(self.controls().iter().map(|token| ((*token).to_owned(), 3)));
        tokens.extend(self.tags().iter().map(|token| ((*token).to_owned(), 4)));
        tokens
    }

    fn entries(self, tokens: &[(String, i32)], template: &str) -> Vec<(String, Value)> {
        let architecture = self.architecture();
        let of = |key: &str| format!("{architecture}.{key}");
        let id = |token: &str| Value::U32(tokens.iter().position(|(other, _)| other == token).unwrap_or(0) as u32);
        let mut entries = vec![
            ("general.architecture".into(), Value::Text(architecture.into())),
            ("general.name".into(), Value::Text(format!("tiny {self:?}"))),
            (of("context_length"), Value::U32(CONTEXT)),
            (of("embedding_length"), Value::U32(WIDTH as u32)),
            (of("block_count"), Value::U32(1)),
            (of("feed_forward_length"), Value::U32(FEED_FORWARD as u32)),
            (of("attention.head_count"), Value::U32(HEADS as u32)),
            (of("attention.head_count_kv"), Value::U32(KV_HEADS as u32)),
            (of("attention.key_length"), Value::U32((WIDTH / HEADS) as u32)),
            (of("attention.value_length"), Value::U32((WIDTH / HEADS) as u32)),
            (of("attention.layer_norm_rms_epsilon"), Value::F32(1e-5)),
            (of("rope.dimension_count"), Value::U32((WIDTH / HEADS) as u32)),
            (of("rope.freq_base"), Value::F32(10_000.0)),
            (of("vocab_size"), Value::U32(tokens.len() as u32)),
            ("tokenizer.chat_template".into(), Value::Text(template.into())),
            ("tokenizer.ggml.tokens".into(), Value::Texts(tokens.iter().map(|(token, _)| token.clone()).collect())),
            ("tokenizer.ggml.token_type".into(), Value::I32s(tokens.iter().map(|(_, kind)| *kind).collect())),
            ("tokenizer.ggml.bos_token_id".into(), id(self.controls()[0])),
            ("tokenizer.ggml.eos_token_id".into(), id(self.controls()[1])),
        ];
        match self.pre_tokenizer() {
            Some(pre) => {
                let merges = ["h e", "i n", "e r", "a n", "Ġ t", "Ġt he"].map(str::to_owned).to_vec();
                entries.push(("tokenizer.ggml.model".into(), Value::Text("gpt2".into())));
                entries.push(("tokenizer.ggml.pre".into(), Value::Text(pre.into())));
                entries.push(("tokenizer.ggml.merges".into(), Value::Texts(merges)));
            }
            None => {
                let scores = (0..tokens.len()).map(|at| -(at as f32)).collect();
                entries.push(("tokenizer.ggml.model".into(), Value::Text("llama".into())));
                entries.push(("tokenizer.ggml.scores".into(), Value::F32s(scores)));
                entries.push(("tokenizer.ggml.unknown_token_id".into(), Value::U32(0)));
            }
        }
        entries
    }

    /// Returns the names and shapes of the tensors, the length of a row first.
    fn tensors(self, vocabulary: u64) -> Vec<(String, Vec<u64>)> {
        let kv = WIDTH / HEADS * KV_HEADS;
        let mut tensors = vec![
            ("token_embd.weight", vec![WIDTH, vocabulary]),
            ("output_norm.weight", vec![WIDTH]),
            ("output.weight", vec![WIDTH, vocabulary]),
            ("blk.0.attn_norm.weight", vec![WIDTH]),
            ("blk.0.ffn_norm.weight", vec![WIDTH]),
            ("blk.0.attn_output.weight", vec![WIDTH, WIDTH]),
            ("blk.0.ffn_down.weight", vec![FEED_FORWARD, WIDTH]),
        ];
        if self.architecture() == "phi3" {
            tensors.push(("blk.0.attn_qkv.weight", vec![WIDTH, WIDTH + 2 * kv]));
            tensors.push(("blk.0.ffn_up.weight", vec![WIDTH, 2 * FEED_FORWARD]));
        } else {
            tensors.push(("blk.0.attn_q.weight", vec![WIDTH, WIDTH]));
            tensors.push(("blk.0.attn_k.weight", vec![WIDTH, kv]));
            tensors.push(("blk.0.attn_v.weight", vec![WIDTH, kv]));
            tensors.push(("blk.0.ffn_gate.weight", vec![WIDTH, FEED_FORWARD]));
            tensors.push(("blk.0.ffn_up.weight", vec![WIDTH, FEED_FORWARD]));
        }
        match self.architecture() {
            "qwen2" => {
                tensors.push(("blk.0.attn_q.bias", vec![WIDTH]));
                tensors.push(("blk.0.attn_k.bias", vec![kv]));
                tensors.push(("blk.0.attn_v.bias", vec![kv]));
            }
            "qwen3" => {
                tensors.push(("blk.0.attn_q_norm.weight", vec![WIDTH / HEADS]));
                tensors.push(("blk.0.attn_k_norm.weight", vec![WIDTH / HEADS]));
            }
            _ => {}
        }
        tensors.into_iter().map(|(name, shape)| (name.to_owned(), shape)).collect()
    }
}

/// Writes a block of Q8_0: its step, 2^-7 in half precision, and the values in steps.
fn quantise(out: &mut Vec<u8>, block: &[f32]) {
    let step_exponent = 7u16;
    out.extend(((15 - step_exponent) << 10).to_le_bytes());
    out.extend(block.iter().map(|value| (value * 128.0).round() as i8 as u8));
}

/// Returns the scale of a tensor's values, which spreads the logits so that the most likely token is unambiguous.
fn scale(tensor: &str) -> f32 {
    if tensor.starts_with("token_embd") || tensor.starts_with("output") { 0.5 } else { 0.1 }
}

/// A generator of numbers from -1 to 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

enum Value {
    U32(u32),
    F32(f32),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

impl Value {
    fn kind(&self) -> u32 {
        match self {
            Self::U32(_) => 4,
            Self::F32(_) => 6,
            Self::Text(_) => 8,
            Self::Texts(_) | Self::I32s(_) | Self::F32s(_) => 9,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let array = |out: &mut Vec<u8>, kind: u32, count: usize| {
            out.extend(kind.to_le_bytes());
            out.extend((count as u64).to_le_bytes());
        };
        match self {
            Self::U32(value) => out.extend(value.to_le_bytes()),
            Self::F32(value) => out.extend(value.to_le_bytes()),
            Self::Text(value) => text(out, value),
            Self::Texts(values) => {
                array(out, 8, values.len());
                values.iter().for_each(|value| text(out, value));
            }
            Self::I32s(values) => {
                array(out, 5, values.len());
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
            Self::F32s(values) => {
                array(out, 6, values.len());
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
        }
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
