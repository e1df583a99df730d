//! Tests log-probabilities.

use super::*;
use crate::engine::{Grammar, Rules};

fn likelihoods(request: GenerateRequest, top: u8) -> Reply {
    run(GenerateRequest { logprobs: Some(top), ..request })
}

#[test]
fn the_token_picked_at_temperature_0_is_the_likeliest() {
    let question = "Name three rivers of Europe.";
    let reply = likelihoods(request(question, 24), 5);
    assert_eq!(reply, run(request(question, 24)), "they change nothing");
    assert_eq!(reply.logprobs.len(), reply.tokens.len());
    let bytes: Vec<u8> = reply.logprobs.iter().flat_map(|said| said.token.bytes.clone()).collect();
    assert_eq!(String::from_utf8(bytes).expect("whole characters"), reply.text);
    for said in &reply.logprobs {
        assert_eq!(said.top.len(), 5);
        assert_eq!(said.top[0], said.token);
        assert!(said.top.is_sorted_by(|a, b| a.logprob >= b.logprob));
        let sum: f64 = said.top.iter().map(|token| f64::from(token.logprob).exp()).sum();
        assert!(said.token.logprob <= 0.0 && sum <= 1.0 + 1e-4, "{said:?}");
    }
    assert!(run(request(question, 4)).logprobs.is_empty());
}

/// Sampling options do not change log-probabilities.
#[test]
fn they_are_the_models_own_distribution() {
    let plain = likelihoods(request("Invent a name for a river.", 1), 20);
    let mut sampled = request("Invent a name for a river.", 1);
    // None of these options changes the model's distribution.
    sampled.sampling = Sampling {
        temperature: 1.7,
        top_k: Some(9),
        frequency_penalty: 1.0,
        repetition_penalty: 1.3,
        logit_bias: [(30, 5.0)].into(),
        seed: 11,
        ..Sampling::default()
    };
    let sampled = likelihoods(sampled, 20);
    assert_eq!(sampled.logprobs[0].top, plain.logprobs[0].top);
    let vocabulary = &the(&ENGINE).shared.vocabulary;
    let picked = &sampled.logprobs[0].token;
    assert_eq!(picked.bytes, vocabulary.tok_trie().decode(&[sampled.tokens[0]]));
}

#[test]
fn a_grammar_does_not_change_what_the_model_finds_likely() {
    let free = likelihoods(request("Is the sky blue?", 1), 3);
    let mut held = request("Is the sky blue?", 30);
    held.grammar = Some(Grammar { tenant: "t".into(), rules: Rules::Regex("zebra|quartz".into()) });
    let held = likelihoods(held, 3);
    assert_eq!(held.logprobs[0].top[0].token, free.logprobs[0].top[0].token);
    assert!(held.logprobs[0].token.logprob < held.logprobs[0].top[0].logprob);
}

/// In this vocabulary, this emoji has several tokens.
#[test]
fn a_part_of_a_character_is_told_by_its_bytes() {
    let mut parts = request("Say it.", 1);
    let tokens = the(&ENGINE).shared.tokens.encode_plain("\u{1f9ff}");
    parts.sampling.logit_bias = [(tokens[0], 1000.0)].into();
    let said = likelihoods(parts, 0).logprobs.remove(0);
    assert!(tokens.len() > 1 && "\u{1f9ff}".as_bytes().starts_with(&said.token.bytes), "{said:?}");
    assert!(said.token.token.ends_with('\u{fffd}') && said.top.is_empty(), "{said:?}");
}
