//! Tests how models are found and served: from GGUF and other files, several at once, and with a reload.

use std::{fs, path::Path, time::Duration};

use candle_core::quantized::gguf_file::{self, Value};

use super::*;
use crate::{
    engine::mistral::{fixture, model::gguf::Gguf},
    wire::sampling::SamplingOptions,
};

const QUESTION: &str = "What is the capital of France? Answer in one short sentence.";

fn one(model: ModelSettings) -> MistralConfig {
    MistralConfig { models: vec![model], threads: 2, ..MistralConfig::default() }
}

fn named(model: &Path) -> ModelSettings {
    ModelSettings { id: "m".into(), model: model.to_string_lossy().into_owned(), ..ModelSettings::default() }
}

/// The model's description, and its greedy answer to the question.
fn says(model: ModelSettings) -> (Arc<ModelInfo>, Vec<u32>, String) {
    RUNTIME.block_on(async {
        let engine = load(one(model)).await.expect("the model loads");
        let reply = collect(engine.generate("m", request(QUESTION, 24)).unwrap()).await;
        (engine.models()[0].clone(), reply.tokens, reply.text)
    })
}

fn folder() -> std::path::PathBuf {
    fixture::folder(&the(&ENGINE).shared.tokens)
}

/// The answer of the default model's GGUF, from which the folder was made.
fn original() -> Vec<u32> {
    RUNTIME.block_on(async { collect(ENGINE.generate("m", request(QUESTION, 24)).unwrap()).await.tokens })
}

fn same_beginning(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[test]
fn a_folder_answers_as_the_gguf_it_was_made_of() {
    let (info, tokens, text) = says(named(&folder()));
    let whole = original();
    eprintln!("safetensors: {text:?}, {} of {} tokens as the GGUF", same_beginning(&tokens, &whole), whole.len());
    assert!(text.contains("Paris"), "{text}");
    assert!(same_beginning(&tokens, &whole) >= whole.len().min(6), "{tokens:?} {whole:?}");
    assert_eq!(info.quantisation.as_deref(), Some("F16"));
    assert_eq!(info.context_length, ENGINE.models()[0].context_length);
    assert_eq!(info.sampling, SamplingOptions { temperature: Some(0.6), ..SamplingOptions::default() });
}

#[test]
fn safetensors_are_quantised_while_they_are_loaded() {
    let (info, tokens, text) = says(ModelSettings { isq: "Q8_0".into(), ..named(&folder()) });
    let whole = original();
    eprintln!("isq: {text:?}, {} of {} tokens as the GGUF", same_beginning(&tokens, &whole), whole.len());
    assert!(text.contains("Paris"), "{text}");
    assert_eq!(info.quantisation.as_deref(), Some("Q8_0"));
    for isq in ["Q4_K", "q6k", "Q4_0"] {
        let (info, tokens, text) = says(ModelSettings { isq: isq.into(), ..named(&folder()) });
        eprintln!("{isq}: {text:?}");
        assert!(!tokens.is_empty() && info.quantisation.as_deref() == Some(&*isq.to_uppercase().replace("6K", "6_K")));
    }
}

#[test]
fn weights_that_were_quantised_before_are_loaded() {
    let (path, uqff) = fixture::uqff(&folder());
    let (info, _, text) = says(ModelSettings { uqff: uqff.clone(), ..named(&path) });
    eprintln!("{uqff}: {text:?}");
    assert!(text.contains("Paris"), "{text}");
    assert!(info.quantisation.as_ref().is_some_and(|name| name.starts_with("UQFF q8_0")), "{info:?}");
}

#[test]
fn adapters_are_merged_in() {
    let with = |strength| {
        let adapter = fixture::adapter(&folder(), strength).to_string_lossy().into_owned();
        let (info, tokens, _) = says(ModelSettings { lora: vec![adapter.clone()], ..named(&folder()) });
        assert_eq!(info.adapters, [adapter]);
        tokens
    };
    let plain = says(named(&folder())).1;
    assert_eq!(with(0.0), plain);
    assert_ne!(with(0.05), plain);
}

/// The metadata that a file of an architecture must have.
fn numbers(architecture: &str) -> Vec<(String, Value)> {
    let mut all: Vec<(String, Value)> = [
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("block_count", 1),
        ("embedding_length", 256),
        ("context_length", 2048),
    ]
    .map(|(key, value)| (format!("{architecture}.{key}"), Value::U32(value)))
    .into();
    all.push(("tokenizer.ggml.eos_token_id".into(), Value::U32(0)));
    all.push(("tokenizer.ggml.tokens".into(), Value::Array(vec![Value::String("a".into())])));
    all
}

fn write(path: &Path, metadata: &[(String, Value)], weights: &[(&str, &candle_core::quantized::QTensor)]) {
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    gguf_file::write(&mut fs::File::create(path).unwrap(), &metadata, weights).unwrap();
}

#[test]
fn a_file_that_the_engine_would_fail_at_is_refused() {
    let temp = std::env::temp_dir().join(format!("caudal-refused-{}", std::process::id()));
    fs::create_dir_all(&temp).unwrap();
    let path = temp.join("x.gguf");
    let opened = |changes: &[(&str, Option<Value>)]| {
        let mut metadata = vec![
            ("general.architecture".to_owned(), Value::String("llama".into())),
            ("tokenizer.chat_template".to_owned(), Value::String("{{ messages }}".into())),
        ];
        metadata.extend(numbers("llama"));
        for (key, value) in changes {
            metadata.retain(|(other, _)| other != key);
            metadata.extend(value.clone().map(|value| ((*key).to_owned(), value)));
        }
        write(&path, &metadata, &[]);
        Gguf::open(&path, &named(&path)).map(|gguf| gguf.facts.context_length)
    };
    assert_eq!(opened(&[]), Ok(2048));
    let (kind, original) = ("llama.rope.scaling.type", "llama.rope.scaling.original_context_length");
    let factor = ("llama.rope.scaling.factor", Some(Value::F32(4.0)));
    let text = |text: &str| Some(Value::String(text.into()));
    let yarn = [(kind, text("yarn")), (original, Some(Value::U32(512))), factor.clone()];
    assert_eq!(opened(&yarn), Ok(512), "the context from before it was stretched");
    for (changes, part) in [
        (vec![("llama.attention.head_count_kv", None)], "`llama.attention.head_count_kv`"),
        (vec![("llama.attention.head_count_kv", Some(Value::U32(0)))], "do not divide"),
        (vec![("llama.attention.head_count_kv", Some(Value::U32(3)))], "do not divide"),
        (vec![("llama.block_count", Some(Value::U32(0)))], "`block_count` is 0"),
        (vec![("llama.context_length", Some(Value::U32(0)))], "context has 0 tokens"),
        (vec![("llama.context_length", Some(Value::U32(1 << 30)))], "context has 1073741824 tokens"),
        (vec![("tokenizer.ggml.eos_token_id", None)], "`tokenizer.ggml.eos_token_id`"),
        (vec![("tokenizer.ggml.eos_token_id", Some(Value::U32(1)))], "the token 1"),
        (vec![(kind, text("linear")), factor], "`linear`"),
    ] {
        let error = opened(&changes).expect_err(part);
        assert!(error.contains(part) && error.contains("x.gguf"), "{part} is not in: {error}");
    }
    // A file with one weight of 256 values in IQ4_XS; then a file that is cut, and files with one wrong byte in the header.
    let mut unread = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0w\x01\0\0\0".to_vec();
    unread.extend(256u64.to_le_bytes().into_iter().chain(23u32.to_le_bytes()).chain(0u64.to_le_bytes()));
    fs::write(&path, &unread).unwrap();
    let refused = || Gguf::open(&path, &named(&path)).err().expect("an error");
    assert!(refused().contains("`w` in IQ4_XS"), "{}", refused());
    let whole = fs::read(caudal_tests::tiny::Family::Llama3.write(&temp).unwrap()).unwrap();
    fs::write(&path, &whole[..whole.len() * 9 / 10]).unwrap();
    assert!(refused().contains("fetch it again"), "{}", refused());
    for at in 0..1000 {
        let mut wrong = whole[..whole.len().min(40_000)].to_vec();
        wrong[at] ^= 0xff;
        fs::write(&path, &wrong).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(whole.len() as u64).unwrap();
        // It may be refused or not, but must not cause a panic or a huge allocation.
        let _ = Gguf::open(&path, &named(&path));
    }
    fs::remove_dir_all(&temp).unwrap();
}

/// Llama 3.1 and later divide the frequencies of the rotary positions by factors.
#[test]
fn factors_of_positions_are_read() {
    let temp = std::env::temp_dir().join(format!("caudal-factors-{}", std::process::id()));
    fs::create_dir_all(&temp).unwrap();
    let family = caudal_tests::tiny::Family::SmolLm2.write(&temp).unwrap();
    let mut file = fs::File::open(&family).unwrap();
    let content = gguf_file::Content::read(&mut file).unwrap();
    let device = candle_core::Device::Cpu;
    let with = |file: &mut fs::File, factor: Option<f32>| {
        let mut weights: Vec<(String, candle_core::quantized::QTensor)> = content
            .tensor_infos
            .keys()
            .map(|name| (name.clone(), content.tensor(file, name, &device).unwrap()))
            .collect();
        if let Some(factor) = factor {
            let factors = candle_core::Tensor::full(factor, 32, &device).unwrap();
            let dtype = candle_core::quantized::GgmlDType::F32;
            let factors = candle_core::quantized::QTensor::quantize(&factors, dtype).unwrap();
            weights.push(("rope_freqs.weight".into(), factors));
        }
        let path = temp.join("x.gguf");
        let metadata: Vec<_> = content.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let weights: Vec<_> = weights.iter().map(|(name, weight)| (name.as_str(), weight)).collect();
        write(&path, &metadata, &weights);
        // The prompt is single bytes. The bias keeps control tokens, which come after the bytes, from ending the output.
        let mut bytes = GenerateRequest { prompt: (0..200).collect(), ..request("", 24) };
        bytes.sampling.logit_bias = (256..300).map(|token| (token, -100.0)).collect();
        RUNTIME.block_on(async {
            let engine = load(one(named(&path))).await.expect("the model loads");
            collect(engine.generate("m", bytes).unwrap()).await.tokens
        })
    };
    let plain = with(&mut file, None);
    assert_eq!(plain.len(), 24);
    assert_eq!(with(&mut file, Some(1.0)), plain);
    assert_ne!(with(&mut file, Some(8.0)), plain);
    fs::remove_dir_all(&temp).unwrap();
}

#[test]
fn what_is_wrong_is_said_before_anything_is_loaded() {
    let temp = std::env::temp_dir().join(format!("caudal-wrong-{}", std::process::id()));
    fs::create_dir_all(&temp).unwrap();
    let gguf = temp.join("x.gguf");
    let header = |architecture: &str, template: bool| {
        let mut metadata = vec![("general.architecture".to_owned(), Value::String(architecture.into()))];
        metadata.extend(numbers(architecture));
        if template {
            metadata.push(("tokenizer.chat_template".into(), Value::String("{{ messages }}".into())));
        }
        write(&gguf, &metadata, &[]);
    };
    let says = |model: ModelSettings, expected: &[&str]| {
        let error = RUNTIME.block_on(load(one(model))).err().expect("an error").to_string();
        for part in expected.iter().chain(&["engine.models[0]"]) {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    };
    says(named(Path::new("/nowhere/model.gguf")), &["there is no file or folder /nowhere/model.gguf"]);
    says(named(&crate::model::default_dir().join("gone.gguf")), &["gone.gguf; `caudal model pull` fetches"]);
    fs::write(&gguf, "not a model").unwrap();
    says(named(&gguf), &["x.gguf", "not a GGUF file"]);
    header("bert", true);
    says(named(&gguf), &["architecture `bert`", "qwen3"]);
    header("llama", false);
    says(named(&gguf), &["no chat template"]);
    let phi = caudal_tests::tiny::Family::Phi3.write(&temp).unwrap();
    let mut content = gguf_file::Content::read(&mut fs::File::open(&phi).unwrap()).unwrap();
    let mut metadata: Vec<_> = content.metadata.drain().collect();
    metadata.retain(|(key, _)| key.starts_with("general.") || key == "tokenizer.chat_template");
    let dense = candle_core::Tensor::zeros((4, 4), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    let dense = candle_core::quantized::QTensor::quantize(&dense, candle_core::quantized::GgmlDType::F16).unwrap();
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    gguf_file::write(&mut fs::File::create(&gguf).unwrap(), &metadata, &[("blk.0.attn_qkv.weight", &dense)]).unwrap();
    says(named(&gguf), &["blk.0.attn_qkv.weight", "F16", "phi3", "llama-quantize"]);
    header("llama", true);
    says(ModelSettings { sha256: "00".into(), ..named(&gguf) }, &["x.gguf", "sha256", "00"]);
    says(ModelSettings { isq: "Q8_0".into(), ..named(&gguf) }, &["isq", "GGUF"]);
    says(ModelSettings { lora: vec!["a/b".into()], ..named(&gguf) }, &["lora", "GGUF"]);
    says(ModelSettings { file: "y.gguf".into(), ..named(&gguf) }, &["file", "Hugging Face"]);
    let hot = SamplingOptions { temperature: Some(9.0), ..SamplingOptions::default() };
    says(ModelSettings { sampling: hot, ..named(&gguf) }, &["sampling.temperature", "from 0 to 2"]);
    let parts = temp.join("y-00001-of-00002.gguf");
    fs::copy(&gguf, &parts).unwrap();
    says(named(&parts), &["y-00002-of-00002.gguf", "missing"]);

    let empty = temp.join("folder");
    fs::create_dir_all(&empty).unwrap();
    says(named(&empty), &["folder has no config.json"]);
    fs::write(empty.join("config.json"), r#"{"architectures": ["BertModel"]}"#).unwrap();
    says(named(&empty), &["architecture `BertModel`"]);
    let config = |architecture: &str| {
        let sizes = r#""hidden_size": 8, "vocab_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1"#;
        fs::write(empty.join("config.json"), format!(r#"{{"architectures": ["{architecture}"], {sizes}}}"#)).unwrap();
    };
    config("BertModel");
    says(named(&empty), &["architecture `BertModel`"]);
    config("LlamaForCausalLM");
    says(named(&empty), &["tokenizer.json"]);
    fs::write(empty.join("tokenizer.json"), "{}").unwrap();
    says(named(&empty), &["neither chat_template.jinja nor tokenizer_config.json"]);
    fs::write(empty.join("tokenizer_config.json"), "{}").unwrap();
    says(named(&empty), &["no chat template"]);
    fs::write(empty.join("chat_template.jinja"), "{{ messages }}").unwrap();
    says(named(&empty), &["model.safetensors"]);
    fs::write(empty.join("model.safetensors"), "").unwrap();
    says(ModelSettings { isq: "AFQ4".into(), ..named(&empty) }, &["isq", "AFQ4", "Q8_0"]);
    says(ModelSettings { uqff: "q4k.uqff".into(), ..named(&empty) }, &["uqff", "q4k.uqff"]);
    says(ModelSettings { lora: vec!["/nowhere".into()], ..named(&empty) }, &["lora", "/nowhere"]);
    let adapter = temp.join("adapter");
    fs::create_dir_all(&adapter).unwrap();
    fs::write(adapter.join("adapter_model.safetensors"), "").unwrap();
    fs::write(adapter.join("adapter_config.json"), r#"{"r": 1, "target_modules": ["q"], "use_rslora": true}"#).unwrap();
    says(ModelSettings { lora: vec![adapter.to_string_lossy().into()], ..named(&empty) }, &["lora", "use_rslora"]);
    fs::remove_dir_all(&temp).unwrap();
}

#[test]
fn names_are_unique() {
    let both = |second: ModelSettings| {
        let first = ModelSettings { id: "a".into(), aliases: vec!["b".into()], ..ModelSettings::default() };
        let config = MistralConfig { models: vec![first, second], ..MistralConfig::default() };
        RUNTIME.block_on(load(config)).err().expect("an error").to_string()
    };
    for name in ["a", "b"] {
        let error = both(ModelSettings { id: name.into(), ..ModelSettings::default() });
        assert!(
            error.contains(&format!("engine.models[1]: `{name}`")) && error.contains("engine.models[0]"),
            "{error}"
        );
    }
    let error = both(ModelSettings { id: "c".into(), aliases: vec!["c".into()], ..ModelSettings::default() });
    assert!(error.contains("`c`"), "{error}");
}

#[test]
fn several_models_are_served_by_name_and_alias() {
    RUNTIME.block_on(async {
        let models = vec![
            ModelSettings { id: "large".into(), aliases: vec!["gpt".into()], ..ModelSettings::default() },
            ModelSettings { id: "short".into(), context_length: Some(600), max_running: Some(2), ..named(&folder()) },
        ];
        let models = models.into_iter().enumerate().map(|(n, model)| {
            if n == 1 { ModelSettings { id: "short".into(), isq: "Q8_0".into(), ..model } } else { model }
        });
        let config = MistralConfig { models: models.collect(), threads: 2, ..MistralConfig::default() };
        let progress = LoadProgress::default();
        let mut watcher = progress.subscribe();
        let engine = MistralEngine::load(config, progress).await.unwrap();
        assert!(engine.status().iter().all(|status| status.loaded), "{:?}", engine.status());
        assert_eq!(*watcher.borrow_and_update(), engine.status());
        let infos = engine.models();
        assert_eq!(
            infos.iter().map(|info| (&*info.id, info.context_length)).collect::<Vec<_>>(),
            [("large", 8192), ("short", 600)]
        );
        let most = |model: &str| engine.capacity(model).sequences;
        assert_eq!((most("gpt"), most("short"), most("x")), (32, 2, 0));
        let replies = ["gpt", "short"].map(|name| engine.generate(name, request(QUESTION, 16)).unwrap());
        for reply in futures::future::join_all(replies.map(collect)).await {
            assert!(reply.text.contains("Paris"), "{reply:?}");
        }
        assert!(matches!(engine.generate("x", request("Hi", 1)), Err(EngineError::UnknownModel(_))));
        // The first model has the default model's temperature, the second the one that the folder's files recommend.
        assert_eq!(infos.iter().map(|info| info.sampling.temperature).collect::<Vec<_>>(), [Some(0.4), Some(0.6)]);
    });
}

#[test]
fn a_reload_loses_nothing_and_frees_the_old_one() {
    RUNTIME.block_on(async {
        let config = one(ModelSettings { id: "m".into(), ..ModelSettings::default() });
        let engine = Arc::new(load(config).await.unwrap());
        let long = "Tell me a long story about a river.";
        let whole = collect(engine.generate("m", request(long, 120)).unwrap()).await;
        let old = Arc::downgrade(&the(&engine).batch);
        let mut deltas = engine.generate("m", request(long, 120)).unwrap();
        let mut running = Reply::default();
        running.add(deltas.recv().await.expect("it has begun"));
        let running = tokio::spawn(async move {
            running.goes_on(deltas).await;
            running
        });
        let (first, second) = tokio::join!(engine.reload("m"), engine.reload("m"));
        let (done, refused) = if first.is_ok() { (first, second) } else { (second, first) };
        assert!(matches!(refused, Err(ReloadError::InProgress(_))), "one at a time: {refused:?}");
        let reloaded = done.expect("it is loaded again");
        assert_eq!((&reloaded.old, &reloaded.new), (&reloaded.new, &the(&engine).info));
        let fresh = collect(engine.generate("m", request(long, 120)).unwrap()).await;
        assert_eq!(fresh.text, whole.text);
        assert_eq!(running.await.unwrap(), whole);
        // The task of a generation ends just after its channel.
        let gone = async {
            while old.upgrade().is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the old batch is gone");
        assert!(matches!(engine.reload("x").await, Err(ReloadError::UnknownModel(_))));
    });
}
