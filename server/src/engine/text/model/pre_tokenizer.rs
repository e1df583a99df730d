//! How text is split before byte pairs are merged. A GGUF file names its pre-tokenizer in `tokenizer.ggml.pre`.

/// Words with the space before them, numbers, runs of other characters.
const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
/// Like GPT-4: up to three digits together.
const LLAMA_3: &str = concat!(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// Like Llama 3, but each digit alone.
const QWEN_2: &str = concat!(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// A word ends between a small letter and a capital.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const GPT_4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const DEEPSEEK_3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN_3_5: &str = concat!(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// Like Qwen 2, but `'s` is not split from its word.
const UFAKZEKA: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = concat!(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const BAILING: &str = concat!(
    r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
);
const MINICPM_5: &str = concat!(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// Words with the space before them, and the text between words.
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
/// Letters of scripts that have two cases.
const CASED: &str = r"\s?[\p{Lu}\p{Ll}\p{Lt}]+";
const IDEOGRAPHS: &str = r"[\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+";

/// The way in which a family of models splits text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreTokenizer {
    /// Applied one after the other. Each match becomes a piece, and so does the text between matches.
    pub patterns: &'static [&'static str],
    /// A piece that is a token as a whole becomes that token, without merges.
    pub ignores_merges: bool,
    /// A prompt begins with BOS unless the file says otherwise.
    pub adds_bos: bool,
}

const fn plain(patterns: &'static [&'static str]) -> PreTokenizer {
    PreTokenizer { patterns, ignores_merges: false, adds_bos: false }
}

/// Finds a pre-tokenizer by its name in a GGUF file.
///
/// # Errors
/// The name is unknown. The message has the name.
pub fn named(name: Option<&str>) -> Result<PreTokenizer, String> {
    Ok(match name {
        // Older files do not have the key.
        None | Some("default") => plain(&[r"[\p{P}\$\+<=>\^~\|]+", GPT_2, r"\p{N}+", r"[0-9][0-9][0-9]"]),
        Some(
            "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling" | "roberta-bpe" | "gigachat"
            | "a.x-4.0" | "exaone4" | "mellum" | "modern-bert",
        ) => plain(&[GPT_2]),
        Some("smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" | "mellum2") => {
            plain(&[r"\p{N}", GPT_2])
        }
        Some("llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2") => {
            PreTokenizer { patterns: &[LLAMA_3], ignores_merges: true, adds_bos: true }
        }
        Some("glm4" | "glm5") => PreTokenizer { patterns: &[LLAMA_3], ignores_merges: true, adds_bos: false },
        Some("dbrx" | "smaug-bpe" | "chatglm-bpe") => plain(&[LLAMA_3]),
        Some(
            "qwen2" | "stablelm2" | "deepseek-r1-qwen" | "megrez" | "hunyuan" | "kormo" | "f2llmv2" | "solar-open"
            | "grok-2",
        ) => plain(&[QWEN_2]),
        Some("qwen35") => plain(&[QWEN_3_5]),
        Some("ufakzeka") => plain(&[UFAKZEKA]),
        Some("laguna") => plain(&[r"[^\n]+|[\n]+", QWEN_2]),
        Some("seed-coder") => plain(&[SEED_CODER]),
        Some("bailingmoe" | "bailingmoe2" | "llada-moe") => plain(&[BAILING]),
        Some("minicpm5") => {
            PreTokenizer { patterns: &[r"\p{N}{1,3}", MINICPM_5], ignores_merges: true, adds_bos: false }
        }
        Some("bloom" | "poro-chat" | "gpt3-finnish") => plain(&[BLOOM]),
        Some("viking") => plain(&[BLOOM, r"\p{N}"]),
        Some("tekken") => PreTokenizer { patterns: &[TEKKEN], ignores_merges: true, adds_bos: true },
        Some("gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2") => plain(&[GPT_4O]),
        Some("falcon") => plain(&[r"[\p{P}\$\+<=>\^~\|`]+", GPT_2, r"[0-9][0-9][0-9]"]),
        Some("deepseek-llm") => {
            plain(&[r"[\r\n]", CASED, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", IDEOGRAPHS, r"\p{N}+"])
        }
        Some("deepseek-coder") => plain(&[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", IDEOGRAPHS, r"\p{N}"]),
        Some("deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4") => {
            plain(&[r"\p{N}{1,3}", r"[\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+", DEEPSEEK_3])
        }
        Some(other) => {
            return Err(format!("the pre-tokenizer `{other}` (`tokenizer.ggml.pre`) is not known to this server"));
        }
    })
}
