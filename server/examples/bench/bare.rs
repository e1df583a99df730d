//! mistral.rs by itself, as its README uses it: one engine, default threads, its own sampling and streaming.

use std::{num::NonZeroUsize, path::Path, sync::Arc, time::Instant};

use anyhow::{Context, anyhow};
use either::Either;
use indexmap::IndexMap;
use mistralrs_core::{
    Constraint, DefaultSchedulerMethod, DeviceMapSetting, GGUFLoaderBuilder, GGUFSpecificConfig, MistralRs,
    MistralRsBuilder, ModelDType, NormalRequest, Request, RequestMessage, Response, SamplingParams, SchedulerConfig,
    TokenSource,
};
use tokio::sync::mpsc;

use crate::Stream;

pub async fn load(path: &Path) -> anyhow::Result<Arc<MistralRs>> {
    let name = path.file_name().context("a file")?.to_string_lossy().into_owned();
    let folder = path.parent().context("a folder")?.to_string_lossy().into_owned();
    let loader =
        GGUFLoaderBuilder::new(None, None, folder, vec![name], GGUFSpecificConfig::default(), false, None).build();
    let pipeline = loader.load_model_from_hf(
        None,
        TokenSource::None,
        &ModelDType::Auto,
        &candle_core::Device::Cpu,
        true,
        DeviceMapSetting::dummy(),
        None,
        None,
    )?;
    let method = DefaultSchedulerMethod::Fixed(NonZeroUsize::new(16).context("not 0")?);
    Ok(MistralRsBuilder::new(pipeline, SchedulerConfig::DefaultScheduler { method }, false, None).build().await)
}

pub async fn chat(engine: &MistralRs, text: String, tokens: u32) -> anyhow::Result<Stream> {
    let (sender, mut answers) = mpsc::channel(256);
    let message = IndexMap::from([
        ("role".to_owned(), Either::Left("user".to_owned())),
        ("content".to_owned(), Either::Left(text)),
    ]);
    let request = Request::Normal(Box::new(NormalRequest {
        messages: RequestMessage::Chat { messages: vec![message], enable_thinking: None, reasoning_effort: None },
        sampling_params: SamplingParams { max_len: Some(tokens as usize), ..SamplingParams::deterministic() },
        response: sender,
        return_logprobs: false,
        is_streaming: true,
        id: engine.next_request_id(),
        constraint: Constraint::None,
        suffix: None,
        tools: None,
        tool_choice: None,
        logits_processors: None,
        return_raw_logits: false,
        web_search_options: None,
        model_id: None,
        truncate_sequence: false,
    }));
    let requests = engine.get_sender(None).map_err(|error| anyhow!("{error:?}"))?;
    requests.send(request).await.map_err(|_| anyhow!("the engine is gone"))?;
    let mut stream = Stream::default();
    while let Some(answer) = answers.recv().await {
        match answer {
            Response::Chunk(chunk) => {
                stream.times.push(Instant::now());
                if chunk.choices.iter().any(|choice| choice.finish_reason.is_some()) {
                    break;
                }
            }
            Response::Done(_) => break,
            other => return Err(anyhow!("unexpected answer: {:?}", other.as_result().err())),
        }
    }
    Ok(stream)
}
