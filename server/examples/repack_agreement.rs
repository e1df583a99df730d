//! How far a repacked model is from the published one: repacks it to each type in question and compares the likelihoods of
//! every next token of a text (a file's path, or else PROTOCOL.md), the published file's as the truth. Gives the numbers in
//! `model::repack`.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, anyhow};
use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, gguf_file::Content},
};
use caudal_server::model::{default_dir, repack};
use mistralrs_core::{
    Constraint, DefaultSchedulerMethod, DeviceMapSetting, GGUFLoaderBuilder, GGUFSpecificConfig, MistralRs,
    MistralRsBuilder, ModelDType, NormalRequest, Request, RequestMessage, Response, SamplingParams, SchedulerConfig,
    TokenSource,
};
use tokio::sync::mpsc;

/// Characters of a passage; each is scored on its own.
const PASSAGE: usize = 1200;
const PASSAGES: usize = 3;

async fn load(path: &Path) -> anyhow::Result<std::sync::Arc<MistralRs>> {
    let name = path.file_name().context("a file")?.to_string_lossy().into_owned();
    let folder = path.parent().context("a folder")?.to_string_lossy().into_owned();
    let loader =
        GGUFLoaderBuilder::new(None, None, folder, vec![name], GGUFSpecificConfig::default(), false, None).build();
    let map = DeviceMapSetting::dummy();
    let pipeline =
        loader.load_model_from_hf(None, TokenSource::None, &ModelDType::F32, &Device::Cpu, true, map, None, None)?;
    let method = DefaultSchedulerMethod::Fixed(std::num::NonZeroUsize::MIN);
    let method = SchedulerConfig::DefaultScheduler { method };
    Ok(MistralRsBuilder::new(pipeline, method, false, None).with_no_prefix_cache(true).build().await)
}

/// Log-likelihoods, of shape (tokens, vocabulary), and the seconds they took.
async fn score(engine: &MistralRs, text: &str) -> anyhow::Result<(Vec<Vec<f32>>, f64)> {
    let (sender, mut answers) = mpsc::channel(4);
    let request = Request::Normal(Box::new(NormalRequest {
        messages: RequestMessage::Completion { text: text.into(), echo_prompt: false, best_of: None },
        sampling_params: SamplingParams { max_len: Some(1), ..SamplingParams::deterministic() },
        response: sender,
        return_logprobs: false,
        is_streaming: false,
        id: engine.next_request_id(),
        constraint: Constraint::None,
        suffix: None,
        tools: None,
        tool_choice: None,
        logits_processors: None,
        return_raw_logits: true,
        web_search_options: None,
        model_id: None,
        truncate_sequence: false,
    }));
    let begun = Instant::now();
    engine.get_sender(None).map_err(|error| anyhow!("{error:?}"))?.send(request).await.map_err(|_| anyhow!("gone"))?;
    match answers.recv().await.context("no answer")? {
        Response::Raw { logits_chunks, .. } => {
            let chunks = logits_chunks.iter().map(|chunk| chunk.squeeze(0)).collect::<Result<Vec<_>, _>>()?;
            let logits = Tensor::cat(&chunks, 0)?;
            let took = begun.elapsed().as_secs_f64();
            let sums = logits.log_sum_exp(1)?;
            Ok((logits.broadcast_sub(&sums.unsqueeze(1)?)?.to_vec2()?, took))
        }
        other => Err(anyhow!("unexpected answer: {:?}", other.as_result().err())),
    }
}

fn argmax(row: &[f32]) -> Option<usize> {
    row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(at, _)| at)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let published = default_dir().join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let mut files: Vec<(String, PathBuf)> = vec![("Q4_1".into(), published.clone())];
    for dtype in [GgmlDType::Q8_0, GgmlDType::Q4_0] {
        let path = std::env::temp_dir().join(format!("agreement-{dtype:?}.gguf"));
        let mut reader = BufReader::new(File::open(&published)?);
        let content = Content::read(&mut reader)?;
        repack::convert(&content, &mut reader, dtype, &path)?;
        files.push((format!("{dtype:?}"), path));
    }
    let file = std::env::args().nth(1).unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/PROTOCOL.md").into());
    let text: Vec<char> = std::fs::read_to_string(&file).with_context(|| file.clone())?.chars().collect();
    let passages: Vec<String> = text.chunks(PASSAGE).take(PASSAGES).map(|chars| chars.iter().collect()).collect();
    let mut truth: Vec<Vec<Vec<f32>>> = Vec::new();
    println!(
        "{:<6} {:>8} {:>12} {:>12} {:>14} {:>10}",
        "type", "tokens", "mean KL", "same top 1", "cross-perpl.", "tok/s"
    );
    for (name, path) in &files {
        let engine = load(path).await?;
        let (mut kl, mut same, mut count, mut seconds, mut entropy) = (0f64, 0usize, 0usize, 0f64, 0f64);
        for (n, passage) in passages.iter().enumerate() {
            let (rows, took) = score(&engine, passage).await?;
            seconds += took;
            if truth.len() == n {
                truth.push(rows.clone());
            }
            for (p, q) in truth[n].iter().zip(&rows) {
                kl += p.iter().zip(q).map(|(p, q)| f64::from(p.exp()) * f64::from(p - q)).sum::<f64>();
                entropy += -p.iter().zip(q).map(|(p, q)| f64::from(p.exp()) * f64::from(*q)).sum::<f64>();
                same += usize::from(argmax(p) == argmax(q));
                count += 1;
            }
        }
        let mean = |sum: f64| sum / count.max(1) as f64;
        println!(
            "{name:<6} {count:>8} {:>12.5} {:>11.1}% {:>14.2} {:>10.1}",
            mean(kl),
            100.0 * mean(same as f64),
            mean(entropy).exp(),
            count as f64 / seconds
        );
    }
    Ok(())
}
