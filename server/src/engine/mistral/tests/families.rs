//! Tests tiny models of every family with random weights, in one engine: sequences that run together, cuts within a character,
//! and files of every quantised type.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    path::{Path, PathBuf},
};

use candle_core::{
    Device,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Content},
    },
};
use caudal_tests::tiny::Family;
use futures::future::join_all;

use super::*;
use crate::engine::{Grammar, Rules};

/// Types of a file's matrices: the type, the largest divergence from the original (mean Kullback-Leibler divergence of the next
/// token, in nats), and the smallest share of tokens at which the likeliest token is the same.
const TYPES: [(GgmlDType, f64, f64); 10] = [
    (GgmlDType::Q8_0, 0.01, 0.85),
    (GgmlDType::Q6K, 0.05, 0.7),
    (GgmlDType::Q5K, 0.2, 0.55),
    (GgmlDType::Q5_1, 0.2, 0.55),
    (GgmlDType::Q5_0, 0.2, 0.55),
    (GgmlDType::Q4K, 0.6, 0.35),
    (GgmlDType::Q4_1, 0.6, 0.35),
    (GgmlDType::Q4_0, 0.6, 0.35),
    (GgmlDType::Q3K, 1.5, 0.15),
    (GgmlDType::Q2K, 4.0, 0.05),
];

/// Tokens of an output whose log-probabilities are compared.
const TOKENS: u32 = 48;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("caudal-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn id(family: Family) -> String {
    format!("{family:?}").to_lowercase()
}

fn engine(files: Vec<(String, PathBuf)>) -> MistralEngine {
    let models = files.into_iter().map(|(id, file)| {
        let model = file.to_string_lossy().into_owned();
        ModelSettings { id, model, ..ModelSettings::default() }
    });
    let config = MistralConfig { models: models.collect(), threads: 2, kv_mb: 64, ..MistralConfig::default() };
    RUNTIME.block_on(load(config)).expect("the models load")
}

fn ask(engine: &MistralEngine, model: &str, text: &str, max_output_tokens: u32) -> GenerateRequest {
    let prompt = engine.tokenize(model, &Prompt::of(vec![Message::text(Role::User, text)])).expect("rendered");
    GenerateRequest {
        reuse: Default::default(),
        prompt,
        tenant: "t".into(),
        output: Vec::new(),
        sampling: Sampling { temperature: 1.0, seed: 7, ..Sampling::default() },
        stop: StopStrings::default(),
        grammar: None,
        logprobs: Some(20),
        max_output_tokens,
        cancel: CancellationToken::new(),
    }
}

fn say(engine: &MistralEngine, model: &str, request: GenerateRequest) -> Reply {
    RUNTIME.block_on(async { collect(engine.generate(model, request).expect("starts")).await })
}

#[test]
fn sixteen_sequences_of_every_family_are_each_as_alone() {
    let folder = Folder::new("together");
    let engine =
        engine(Family::ALL.map(|family| (id(family), family.write(&folder.0).expect("a model"))).into_iter().collect());
    let request = |family: usize, number: usize, tenant: &str| {
        let model = id(Family::ALL[family]);
        let text = "the rain ".repeat(1 + number * 17 % 90) + "日本語 🙂";
        let request = ask(&engine, &model, &text, 20 + number as u32);
        let sampling = Sampling { seed: number as u64, ..request.sampling };
        (model, GenerateRequest { tenant: format!("{tenant} {number}").into(), sampling, ..request })
    };
    let pairs: Vec<(usize, usize)> =
        (0..16).flat_map(|number| (0..Family::ALL.len()).map(move |f| (f, number))).collect();
    let together = RUNTIME.block_on(join_all(pairs.iter().map(|(family, number)| {
        let (model, request) = request(*family, *number, "together");
        collect(engine.generate(&model, request).expect("starts"))
    })));
    for ((family, number), together) in pairs.iter().zip(together) {
        let (model, request) = request(*family, *number, "alone");
        let alone = say(&engine, &model, request);
        assert_eq!(alone.tokens, together.tokens, "{model} {number}");
        assert!(alone.logprobs == together.logprobs, "{model} {number}: other likelihoods");
        assert_eq!(alone.logprobs.len(), alone.tokens.len(), "{model}");
    }
}

#[test]
fn a_cut_within_a_character_loses_no_byte_of_it() {
    let folder = Folder::new("characters");
    let engine =
        engine(Family::ALL.map(|family| (id(family), family.write(&folder.0).expect("a model"))).into_iter().collect());
    for family in Family::ALL {
        let model = id(family);
        let rules = Rules::Regex("(🙂|日|é|👩\u{200d}👧|\n){6}the".into());
        let grammar = Grammar { tenant: "t".into(), rules };
        let whole = GenerateRequest { grammar: Some(grammar), ..ask(&engine, &model, "emoji", 120) };
        // The text that is shown after each number of tokens at which a delta ends.
        let mut shown = HashMap::new();
        let said = RUNTIME.block_on(async {
            let mut deltas = engine.generate(&model, whole.clone()).expect("starts");
            let mut reply = Reply::default();
            while let Some(delta) = deltas.recv().await {
                reply.add(delta);
                shown.insert(reply.tokens.len(), reply.text.clone());
            }
            reply
        });
        assert!(said.text.ends_with("the") && !said.text.contains('\u{fffd}'), "{model}: {:?}", said.text);
        assert!(said.tokens.len() > said.text.chars().count(), "{model}: characters of several tokens");
        for cut in 1..said.tokens.len() {
            let rest = say(&engine, &model, GenerateRequest { output: said.tokens[..cut].to_vec(), ..whole.clone() });
            assert_eq!(rest.tokens, said.tokens[cut..], "{model} cut at {cut}");
            assert!(said.text.ends_with(&rest.text), "{model} cut at {cut}: {:?}", rest.text);
            if let Some(shown) = shown.get(&cut) {
                assert_eq!(shown.clone() + &rest.text, said.text, "{model} cut at {cut}");
            }
        }
    }
}

#[test]
fn quantised_files_of_every_family_answer_nearly_as_their_original() {
    let folder = Folder::new("quantised");
    let names: Vec<String> = TYPES.iter().map(|(dtype, ..)| format!("{dtype:?}")).collect();
    eprintln!("mean KL divergence of the next token from the original's, in nats; share of equal likeliest tokens");
    eprintln!("{:12}{}", "", names.iter().map(|name| format!("{name:>16}")).collect::<String>());
    for family in Family::ALL {
        let original = family.write(&folder.0).expect("a model");
        let mut files = vec![("original".to_owned(), original.clone())];
        for ((dtype, ..), name) in TYPES.iter().zip(&names) {
            files.push((name.clone(), quantised(&original, *dtype)));
        }
        let engine = engine(files);
        // The bias keeps control tokens from being sampled, so only its bound ends an output. Log-probabilities ignore the bias.
        let controls = &engine.model("original").expect("a model").shared.tokens;
        let logit_bias: BTreeMap<u32, f32> = controls.controls().map(|(id, _)| (id, -100.0)).collect();
        let request = |model: &str, output: &[u32]| {
            let request = ask(&engine, model, "the rain on the sea", TOKENS);
            let sampling = Sampling { logit_bias: logit_bias.clone(), ..request.sampling };
            GenerateRequest { sampling, output: output.to_vec(), ..request }
        };
        let whole = say(&engine, "original", request("original", &[]));
        let mut line = format!("{:12}", id(family));
        for ((_, most, least), name) in TYPES.iter().zip(&names) {
            let told: Vec<Logprobs> = (0..whole.tokens.len())
                .map(|at| {
                    let next =
                        GenerateRequest { max_output_tokens: at as u32 + 1, ..request(name, &whole.tokens[..at]) };
                    say(&engine, name, next).logprobs.remove(0)
                })
                .collect();
            for (at, (p, q)) in whole.logprobs.iter().zip(&told).enumerate() {
                assert!(
                    !p.top.is_empty() && !q.top.is_empty(),
                    "{family:?} in {name}: no likelihoods of token {at}: {p:?} {q:?}"
                );
            }
            let count = told.len() as f64;
            let divergence = whole.logprobs.iter().zip(&told).map(|(p, q)| divergence(p, q)).sum::<f64>() / count;
            let same = |(p, q): &(&Logprobs, &Logprobs)| p.top[0].bytes == q.top[0].bytes;
            let agreement = whole.logprobs.iter().zip(&told).filter(same).count() as f64 / count;
            line.push_str(&format!("{divergence:>10.4} {:>3.0} %", agreement * 100.0));
            assert!(divergence <= *most, "{family:?} in {name}: divergence {divergence}");
            assert!(agreement >= *least, "{family:?} in {name}: agreement {agreement}");
        }
        eprintln!("{line}");
    }
}

/// The Kullback-Leibler divergence of two distributions, over the tokens that both list. All other tokens count as one.
fn divergence(p: &Logprobs, q: &Logprobs) -> f64 {
    let likelihoods = |said: &Logprobs| -> HashMap<Vec<u8>, f64> {
        said.top.iter().map(|token| (token.bytes.clone(), f64::from(token.logprob).exp())).collect()
    };
    let (p, q) = (likelihoods(p), likelihoods(q));
    let (mut sum, mut p_rest, mut q_rest) = (0.0, 1.0, 1.0);
    for (token, p) in &p {
        if let Some(q) = q.get(token) {
            sum += p * (p / q).ln();
            p_rest -= p;
            q_rest -= q;
        }
    }
    let (p_rest, q_rest): (f64, f64) = (p_rest.max(1e-9), q_rest.max(1e-9));
    sum + p_rest * (p_rest / q_rest).ln()
}

/// Writes a copy of a model whose matrices have another type, the embeddings included.
fn quantised(original: &Path, dtype: GgmlDType) -> PathBuf {
    let mut reader = File::open(original).expect("a file");
    let content = Content::read(&mut reader).expect("a model");
    let tensors: Vec<(&String, QTensor)> = content
        .tensor_infos
        .keys()
        .map(|name| {
            let tensor = content.tensor(&mut reader, name, &Device::Cpu).expect("a tensor");
            let is_matrix = tensor.shape().dims().len() == 2;
            let dense = tensor.dequantize(&Device::Cpu).expect("values");
            let dtype = if is_matrix { dtype } else { GgmlDType::F32 };
            (name, QTensor::quantize(&dense, dtype).expect("quantised"))
        })
        .collect();
    let path = original.with_extension(format!("{dtype:?}.gguf"));
    let metadata: Vec<_> = content.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut File::create(&path).expect("a file"), &metadata, &tensors).expect("written");
    path
}
