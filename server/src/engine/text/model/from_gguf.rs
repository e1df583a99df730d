//! Makes a tokenizer and a vocabulary from the metadata of a GGUF file.

use std::{collections::HashMap, path::Path};

use serde_json::{Map, Value as Json, json};

use super::{
    byte_level,
    chat_template::TemplateSource,
    gguf::{Metadata, Value},
    pre_tokenizer::{self, PreTokenizer},
    tokens::{Parts, TextModel},
    vocabulary::{Token, Vocabulary},
};
use crate::dialect;

/// Control tokens that end an output in any vocabulary that has them.
const ENDS: [&str; 9] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
];
/// SentencePiece writes this character for a space.
const SPACE: char = '▁';

/// `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The tokens of a file with their types.
struct GgufTokens<'m> {
    metadata: &'m Metadata,
    tokens: Vec<&'m str>,
    types: Vec<Type>,
}

impl TextModel {
    /// Reads the tokenizer and the chat template of a GGUF file.
    ///
    /// # Errors
    /// The file is not a GGUF file, has no tokens or no chat template, or names an unknown tokenizer or pre-tokenizer.
    pub fn of_gguf(path: &Path) -> Result<Self, String> {
        let metadata = Metadata::read(path)?;
        let wrong = |error: String| format!("{}: {error}", path.display());
        let file = GgufTokens::new(&metadata).map_err(wrong)?;
        let template = metadata.text("tokenizer.chat_template").ok_or("it has no chat template".to_owned());
        let template = template.map_err(wrong)?.to_owned();
        let parts = match metadata.text("tokenizer.ggml.model") {
            Some("gpt2") => file.byte_pairs(),
            Some("llama") => file.sentence_pieces(),
            other => Err(format!("the tokenizer `{}` (`tokenizer.ggml.model`) is not known", other.unwrap_or("?"))),
        };
        let (tokenizer, vocabulary, adds_bos) = parts.map_err(wrong)?;
        let named = |key: &str| file.token(key).map(|(_, text)| text.to_owned());
        let source = TemplateSource { template, bos: named("bos"), eos: named("eos"), unk: named("unknown") };
        let prefix = file.token("bos").filter(|_| metadata.bool("tokenizer.ggml.add_bos_token").unwrap_or(adds_bos));
        let prefix = prefix.map(|(id, _)| id).into_iter().collect();
        let eos = file.ends();
        Self::new(Parts { tokenizer, vocabulary, source, prefix: Some(prefix), eos })
            .map_err(|error| wrong(error.to_string()))
    }
}

impl<'m> GgufTokens<'m> {
    fn new(metadata: &'m Metadata) -> Result<Self, String> {
        let all = metadata.array("tokenizer.ggml.tokens").ok_or("it has no tokens (`tokenizer.ggml.tokens`)")?;
        let tokens: Vec<&str> = all.iter().map(|token| token.as_text().unwrap_or_default()).collect();
        let given = metadata.array("tokenizer.ggml.token_type").unwrap_or_default();
        let kind = |at: usize| match given.get(at).and_then(Value::as_number) {
            Some(2) => Type::Unknown,
            Some(3) => Type::Control,
            Some(4) => Type::UserDefined,
            Some(5) => Type::Unused,
            Some(6) => Type::Byte,
            _ => Type::Normal,
        };
        // A token that ends an output is a control token, whatever its type in the file: older converters wrote `<|im_end|>` as a word.
        let named =
            ["bos", "eos", "eot", "eom"].map(|used| metadata.number(&format!("tokenizer.ggml.{used}_token_id")));
        let is_control = |at: usize, text: &str| named.contains(&Some(at as u64)) || ENDS.contains(&text);
        // The tags of the model's dialect are text, even if the file calls them control tokens.
        let tags = metadata.text("tokenizer.chat_template").map(|template| dialect::detect(template).tags());
        let is_tag = |text: &str| tags.iter().flatten().any(|tag| tag == text);
        let types = tokens.iter().enumerate().map(|(at, text)| match kind(at) {
            Type::Control if is_tag(text) => Type::UserDefined,
            Type::Normal | Type::UserDefined if is_control(at, text) => Type::Control,
            other => other,
        });
        let types = types.collect();
        Ok(Self { metadata, tokens, types })
    }

    fn each(&self) -> impl Iterator<Item = (u32, &'m str, Type)> {
        (0..).zip(&self.tokens).zip(&self.types).map(|((id, text), kind)| (id, *text, *kind))
    }

    /// The token that `tokenizer.ggml.{used}_token_id` names.
    fn token(&self, used: &str) -> Option<(u32, &'m str)> {
        let id = u32::try_from(self.metadata.number(&format!("tokenizer.ggml.{used}_token_id"))?).ok()?;
        Some((id, self.tokens.get(id as usize)?))
    }

    /// The tokens that end an output, those that the file names first.
    fn ends(&self) -> Vec<u32> {
        let named = ["eos", "eot", "eom"].into_iter().filter_map(|used| Some(self.token(used)?.0));
        let known =
            self.each().filter(|(_, text, kind)| *kind == Type::Control && ENDS.contains(text)).map(|(id, ..)| id);
        let mut ends = Vec::new();
        named.chain(known).for_each(|id| {
            if !ends.contains(&id) {
                ends.push(id);
            }
        });
        ends
    }

    /// Makes a tokenizer that merges byte pairs, as GPT-2's does. Returns it with the vocabulary and whether BOS is added by default.
    fn byte_pairs(&self) -> Result<(Json, Vocabulary, bool), String> {
        let PreTokenizer { patterns, ignores_merges, adds_bos } =
            pre_tokenizer::named(self.metadata.text("tokenizer.ggml.pre"))?;
        let tokens = self.each().map(|(_, text, kind)| match kind {
            Type::Normal => Token::Text(byte_level::bytes(text).into()),
            Type::Byte => Token::Text(byte_of(text).map_or_else(|| byte_level::bytes(text), |byte| vec![byte]).into()),
            Type::UserDefined => Token::Text(text.as_bytes().into()),
            Type::Control | Type::Unknown | Type::Unused => Token::Control(text.into()),
        });
        let vocabulary = Vocabulary::new(tokens.collect(), false);
        let known = self.ids();
        let merges =
            self.metadata.array("tokenizer.ggml.merges").ok_or("it has no merges (`tokenizer.ggml.merges`)")?;
        let merges = merges.iter().filter_map(|merge| {
            let text = merge.as_text()?;
            // A token may begin with a space.
            let at = text.char_indices().skip(1).find(|(_, c)| *c == ' ')?.0;
            Some((&text[..at], &text[at + 1..]))
        });
        let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let mut splits: Vec<Json> = patterns.iter().map(split).collect();
        splits.push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}));
        let model =
            model(&known, merges, json!({"ignore_merges": ignores_merges, "byte_fallback": false, "fuse_unk": false}));
        let pre_tokenizer = json!({"type": "Sequence", "pretokenizers": splits});
        Ok((self.tokenizer(Json::Null, pre_tokenizer, model), vocabulary, adds_bos))
    }

    /// Makes a tokenizer of pieces with scores, as SentencePiece's is: the two neighbours whose merged piece has the highest score are
    /// merged first. Returns it with the vocabulary and whether BOS is added by default.
    fn sentence_pieces(&self) -> Result<(Json, Vocabulary, bool), String> {
        let pads = self.metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
        let tokens = self.each().map(|(_, text, kind)| match kind {
            Type::Byte => byte_of(text).map_or_else(|| Token::Control(text.into()), |byte| Token::Text([byte].into())),
            Type::Normal | Type::UserDefined => Token::Text(text.replace(SPACE, " ").into_bytes().into()),
            Type::Control | Type::Unknown | Type::Unused => Token::Control(text.into()),
        });
        let vocabulary = Vocabulary::new(tokens.collect(), pads);
        let scores =
            self.metadata.array("tokenizer.ggml.scores").ok_or("it has no scores (`tokenizer.ggml.scores`)")?;
        let known = self.ids();
        let mut merges: Vec<(f64, u32, &str, &str)> = Vec::new();
        for (id, text, _) in self.each().filter(|(_, _, kind)| *kind == Type::Normal) {
            let score = scores.get(id as usize).and_then(Value::as_float).unwrap_or(0.0);
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if known.contains_key(left) && known.contains_key(right) {
                    merges.push((score, id, left, right));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut normalizers =
            vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE.to_string()})];
        if pads {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE.to_string()}));
        }
        let unknown = self.token("unknown").map(|(_, text)| text);
        let options = json!({"unk_token": unknown, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false});
        let model = model(&known, merges.into_iter().map(|(.., left, right)| (left, right)), options);
        let normalizer = json!({"type": "Sequence", "normalizers": normalizers});
        Ok((self.tokenizer(normalizer, Json::Null, model), vocabulary, true))
    }

    /// Text → the first id with this text.
    fn ids(&self) -> HashMap<&'m str, u32> {
        let mut ids = HashMap::new();
        for (id, text, _) in self.each() {
            ids.entry(text).or_insert(id);
        }
        ids
    }

    fn tokenizer(&self, normalizer: Json, pre_tokenizer: Json, model: Json) -> Json {
        // Phi-3 was trained without the line break after its tags.
        let strips = self.metadata.text("general.architecture") == Some("phi3")
            && self.metadata.text("tokenizer.ggml.model") == Some("llama");
        let added = self.each().filter(|(_, text, kind)| {
            let is_space = text.chars().all(|c| c == SPACE);
            *kind == Type::Control || (*kind == Type::UserDefined && !is_space)
        });
        let added = added.map(|(id, text, kind)| {
            let rstrip = strips && !["<unk>", "<s>", "<|endoftext|>"].contains(&text);
            json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": rstrip,
                   "normalized": false, "special": kind == Type::Control})
        });
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<Json>>(),
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null,
            "model": model,
        })
    }
}

fn model<'t>(known: &HashMap<&str, u32>, merges: impl Iterator<Item = (&'t str, &'t str)>, options: Json) -> Json {
    let is_known = |(left, right): &(&str, &str)| {
        known.contains_key(left) && known.contains_key(right) && known.contains_key(format!("{left}{right}").as_str())
    };
    let merges: Vec<Json> = merges.filter(is_known).map(|(left, right)| json!([left, right])).collect();
    let vocabulary: Map<String, Json> = known.iter().map(|(text, id)| ((*text).to_owned(), json!(id))).collect();
    let mut model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "vocab": vocabulary, "merges": merges,
    });
    if let (Some(model), Json::Object(options)) = (model.as_object_mut(), options) {
        model.extend(options);
    }
    model
}

/// The byte that a text such as `<0x0A>` stands for.
pub fn byte_of(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok())?
}
