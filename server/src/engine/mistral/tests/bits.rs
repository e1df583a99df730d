//! Tests that the bits of a position's logits depend on the tokens up to that position alone.

use super::*;

const ASKED: [&str; 8] = [
    "Tell me about the river {}.",
    "What is {} plus seven? Explain.",
    "Write a poem about the number {}.",
    "Why do people like the year {}?",
    "Invent a machine with {} wheels and describe it.",
    "Translate 'chapter {}' into five languages.",
    "Plan a walk of {} kilometres.",
    "Tell a story in which {} birds meet.",
];

/// A request of a tenant of its own, so that nothing of it is cached at first.
fn asked(number: usize, tenant: &str) -> GenerateRequest {
    let mut text = ASKED[number % ASKED.len()].replace("{}", &(number * 37 % 1000).to_string());
    text.push_str(&" Be thorough.".repeat(number % 40));
    let sampling = Sampling { temperature: 1.0, seed: number as u64, ..Sampling::default() };
    let tenant = format!("{tenant} {number}").into();
    GenerateRequest { sampling, tenant, logprobs: Some(20), ..request(&text, 24) }
}

fn same(a: &Reply, b: &Reply, what: &str) {
    assert_eq!(a.tokens, b.tokens, "{what}");
    assert_eq!(a.logprobs, b.logprobs, "{what}");
}

#[test]
fn a_reply_is_the_same_alone_in_a_crowd_after_a_cached_prefix_and_after_a_cut() {
    RUNTIME.block_on(async {
        let numbers: Vec<usize> = (0..32).collect();
        let start = |request| ENGINE.generate("m", request).expect("starts");
        let crowd = numbers.iter().map(|number| collect(start(asked(*number, "crowd"))));
        let crowd = futures::future::join_all(crowd).await;
        for number in numbers.iter().step_by(3) {
            let alone = collect(start(asked(*number, "alone"))).await;
            same(&crowd[*number], &alone, &format!("{number} alone"));
            // Caches a beginning of the prompt.
            let mut begin = asked(*number, "cached");
            begin.prompt.truncate(begin.prompt.len() * 2 / 3);
            collect(start(begin)).await;
            let cached = collect(start(asked(*number, "cached"))).await;
            assert!(cached.cached_tokens > Some(0));
            same(&cached, &alone, &format!("{number} after a cached prefix"));
            let at = 1 + number * 7 % alone.tokens.len().max(2).saturating_sub(1);
            let mut rest = asked(*number, "cut");
            rest.output = alone.tokens[..at].to_vec();
            let rest = collect(start(rest)).await;
            assert_eq!(rest.tokens, alone.tokens[at..], "{number} cut at {at}");
            assert_eq!(rest.logprobs, alone.logprobs[at..], "{number} cut at {at}");
        }
    });
}

#[test]
fn a_long_prompt_is_the_same_in_pieces_beside_others() {
    RUNTIME.block_on(async {
        let long: String = (0..300).map(|n| format!("{n} rivers, ")).collect();
        let ask = |tenant: &str| GenerateRequest { tenant: tenant.into(), logprobs: Some(20), ..request(&long, 4) };
        let alone = collect(ENGINE.generate("m", ask("alone")).unwrap()).await;
        let beside: Vec<_> = (0..6).map(|n| ENGINE.generate("m", asked(100 + n, "beside")).unwrap()).collect();
        let others = tokio::spawn(futures::future::join_all(beside.into_iter().map(collect)));
        same(&collect(ENGINE.generate("m", ask("pieces")).unwrap()).await, &alone, "in pieces");
        others.await.unwrap();
    });
}
