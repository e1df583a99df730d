//! Rewrites the tensors of a GGUF file that this engine has no fast code for. On CPU, candle has SIMD code for Q4_0, Q8_0
//! and the K types; the products of Q4_1, Q5_0, Q5_1 and Q8_1 run in plain code. They become Q8_0.
//!
//! Why Q8_0, measured for SmolLM2-135M-Instruct, which is published as Q4_1, on 2 cores. Likelihoods against the published
//! file's over 1138 tokens of prose, by `examples/repack_agreement.rs`; tokens a second of the pool of slots, of one
//! stream after its first token and of 8 chats at once with their prefill:
//!
//! | type | mean KL | same likeliest token | one stream | 8 chats | file |
//! |---|---|---|---|---|---|
//! | Q4_1 | 0 | 100 % | 77 | 76 | 98 MB |
//! | Q8_0 | 0.006 | 95 % | 132 | 135 | 145 MB |
//! | Q4_0 | 0.29 | 71 % | 139 | 112 | about 92 MB |
//!
//! Speeds as they were when the product was half as fast. It now takes 6.4, 2.1 and 2.7 ns for 32 weights of these types
//! (`examples/bench --rows product`).
//!
//! Q8_0 holds 4-bit values with hardly a loss. Q4_0 rounds them a second time, to a grid without an offset: another model, for
//! no speed. K types need rows divisible by 256, which this model has not.

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, Seek, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use candle_core::{
    Device,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Content, Value},
    },
};

use super::{fetch::bar, no_space, sha256};

/// Writes `source` with every tensor in a type that is fast here to `target`, unless that was done before and `target` is
/// whole. Returns the file to serve, which is `source` itself where nothing is slow in it. Says on stderr what it does.
///
/// # Errors
/// Where a file cannot be read or written, or is not GGUF.
pub fn file(source: &Path, target: &Path, force: bool) -> anyhow::Result<PathBuf> {
    let sidecar = sidecar(target);
    if !force && whole(target, &sidecar)? {
        return Ok(target.to_owned());
    }
    let unreadable = || format!("{} is not a GGUF file this engine can read", source.display());
    let mut reader = BufReader::new(File::open(source).with_context(|| format!("cannot read {}", source.display()))?);
    let content = Content::read(&mut reader).with_context(unreadable)?;
    let slow = slow_types(&content);
    if slow.is_empty() {
        return Ok(source.to_owned());
    }
    eprintln!(
        "Repacking {} to Q8_0: the engine has no SIMD code for {} on CPU, and Q8_0 is three times as fast \
         and loses next to nothing.",
        source.file_name().unwrap_or_default().to_string_lossy(),
        slow.join(", ")
    );
    let part = target.with_extension("part");
    let written = convert(&content, &mut reader, GgmlDType::Q8_0, &part);
    if let Err(error) = written {
        drop(fs::remove_file(&part));
        return Err(error);
    }
    let sum = sha256(&part)?;
    // The sum first: a target without one is made again, one with a wrong one too.
    fs::write(&sidecar, &sum).map_err(|error| no_space(error, &sidecar, 64))?;
    fs::rename(&part, target).with_context(|| format!("cannot put {} in place", target.display()))?;
    Ok(target.to_owned())
}

/// Whether candle's product for this type is plain code on CPU.
pub fn is_slow(dtype: GgmlDType) -> bool {
    matches!(dtype, GgmlDType::Q4_1 | GgmlDType::Q5_0 | GgmlDType::Q5_1 | GgmlDType::Q8_1)
}

fn slow_types(content: &Content) -> Vec<String> {
    let mut names: Vec<String> = content
        .tensor_infos
        .values()
        .filter(|tensor| is_slow(tensor.ggml_dtype))
        .map(|tensor| format!("{:?}", tensor.ggml_dtype))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Writes `content` to `target` with its slow tensors as `to`. Deterministic: the same input gives the same bytes.
///
/// # Errors
/// Where reading, converting or writing fails.
pub fn convert<R: std::io::Read + Seek>(
    content: &Content,
    reader: &mut R,
    to: GgmlDType,
    target: &Path,
) -> anyhow::Result<()> {
    let mut infos: Vec<_> = content.tensor_infos.iter().collect();
    infos.sort_by_key(|(_, info)| info.offset);
    let total = infos.iter().map(|(_, info)| info.shape.elem_count() as u64).sum();
    let bar = bar(total, "repacking");
    let mut tensors: Vec<(&str, QTensor)> = Vec::with_capacity(infos.len());
    for (name, info) in infos {
        let tensor = content.tensor(reader, name, &Device::Cpu)?;
        let fits = info.shape.dims().last().is_some_and(|width| width.is_multiple_of(to.block_size()));
        let tensor = if is_slow(info.ggml_dtype) && fits {
            QTensor::quantize(&tensor.dequantize(&Device::Cpu)?, to)?
        } else {
            tensor
        };
        tensors.push((name, tensor));
        bar.inc(info.shape.elem_count() as u64);
    }
    bar.finish_and_clear();
    // The writer aligns by 32, which is what a file without this key says.
    let mut metadata: Vec<(&str, &Value)> = content
        .metadata
        .iter()
        .filter(|(key, _)| *key != "general.alignment")
        .map(|(key, value)| (key.as_str(), value))
        .collect();
    let file_type = Value::U32(if to == GgmlDType::Q8_0 { 7 } else { 2 });
    for (key, value) in &mut metadata {
        if *key == "general.file_type" {
            *value = &file_type;
        }
    }
    metadata.sort_by_key(|(key, _)| *key);
    let bytes = tensors.iter().map(|(_, tensor)| tensor.storage_size_in_bytes() as u64).sum();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut out = BufWriter::new(File::create(target).map_err(|error| no_space(error, target, bytes))?);
    gguf_file::write(&mut out, &metadata, &tensors).with_context(|| {
        format!(
            "cannot write {}: it takes {}; free some space or set CAUDAL_MODEL_DIR",
            target.display(),
            indicatif::HumanBytes(bytes)
        )
    })?;
    out.flush().map_err(|error| no_space(error, target, bytes))?;
    out.get_ref().sync_all().map_err(|error| no_space(error, target, bytes))
}

fn sidecar(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".sha256");
    target.with_file_name(name)
}

fn whole(target: &Path, sidecar: &Path) -> anyhow::Result<bool> {
    match fs::read_to_string(sidecar) {
        Ok(sum) if target.is_file() => Ok(sha256(target)? == sum.trim()),
        _ => Ok(false),
    }
}
