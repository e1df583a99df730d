//! Tests which keys and values are reused, and the reported number of cached tokens.

use super::*;

async fn ask(engine: &MistralEngine, tenant: &str, prompt: &[u32], length: u32) -> Reply {
    let request = GenerateRequest { tenant: tenant.into(), logprobs: Some(3), ..request("", length) };
    collect(engine.generate("m", GenerateRequest { prompt: prompt.to_vec(), ..request }).expect("starts")).await
}

/// The reply after the whole prompt was computed.
async fn fresh(engine: &MistralEngine, prompt: &[u32], length: u32) -> Reply {
    static TENANTS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let tenant = format!("fresh {}", TENANTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let reply = ask(engine, &tenant, prompt, length).await;
    assert_eq!(reply.cached_tokens, Some(0));
    reply
}

fn messages(turns: &[(&str, &str)], last: &str) -> Vec<u32> {
    let said = |(user, assistant): &(&str, &str)| {
        [Message::text(Role::User, *user), Message::text(Role::Assistant, *assistant)]
    };
    let all = turns.iter().flat_map(said).chain([Message::text(Role::User, last)]).collect();
    ENGINE.tokenize("m", &Prompt::of(all)).expect("rendered")
}

#[test]
fn the_next_turn_computes_what_is_new() {
    RUNTIME.block_on(async {
        let question = "Tell me about the Nile in two sentences.";
        let first = messages(&[], question);
        let said = ask(&ENGINE, "turns", &first, 30).await;
        assert_eq!(said.cached_tokens, Some(0));
        let second = messages(&[(question, &said.text)], "And how long is it?");
        let common = [first.as_slice(), &said.tokens].concat().iter().zip(&second).take_while(|(a, b)| a == b).count();
        let turn = ask(&ENGINE, "turns", &second, 5).await;
        // The last token of a reply is not computed, because no token was picked after it.
        let cached = turn.cached_tokens.expect("reported") as usize;
        assert!(cached + 1 >= common && cached <= common, "{cached} of {common} common tokens");
        let whole = fresh(&ENGINE, &second, 5).await;
        assert_eq!((&turn, &turn.logprobs), (&whole, &whole.logprobs));
    });
}

#[test]
fn a_prompt_that_is_asked_again_computes_its_last_token() {
    RUNTIME.block_on(async {
        let prompt = prompt("Invent a name for a river, and say where it flows.");
        let first = ask(&ENGINE, "again", &prompt, 32).await;
        assert_eq!(first.cached_tokens, Some(0));
        for _ in 0..3 {
            let again = ask(&ENGINE, "again", &prompt, 32).await;
            assert_eq!(again.cached_tokens, Some(prompt.len() as u32 - 1));
            assert_eq!((&again, &again.logprobs), (&first, &first.logprobs));
        }
        let other = ask(&ENGINE, "another tenant", &prompt, 32).await;
        assert_eq!((other.cached_tokens, &other.logprobs), (Some(0), &first.logprobs));
    });
}

#[test]
fn any_beginning_is_reused_and_changes_no_bit() {
    RUNTIME.block_on(async {
        let long =
            messages(&[("Name ten rivers.", "Nile, Amazon, Yangtze, Danube, Rhine.")], "And five lakes, please.");
        ask(&ENGINE, "beginnings", &long, 4).await;
        for cut in (1..long.len()).step_by(7) {
            let prompt = [&long[..cut], &long[4..12]].concat();
            let reused = ask(&ENGINE, "beginnings", &prompt, 3).await;
            assert!(reused.cached_tokens.expect("reported") as usize >= cut.min(prompt.len() - 1), "cut at {cut}");
            let whole = fresh(&ENGINE, &prompt, 3).await;
            assert_eq!((&reused, &reused.logprobs), (&whole, &whole.logprobs), "cut at {cut}");
        }
    });
}

#[test]
fn a_cancelled_prompt_is_cached_as_far_as_it_came() {
    RUNTIME.block_on(async {
        let story = prompt("Tell me a story.");
        let mut cancelled = GenerateRequest { tenant: "cancelled".into(), ..request("", 500) };
        cancelled.prompt = story.clone();
        let cancel = cancelled.cancel.clone();
        let mut deltas = ENGINE.generate("m", cancelled).expect("starts");
        deltas.recv().await.expect("a delta");
        cancel.cancel();
        while deltas.recv().await.is_some() {}
        let again = ask(&ENGINE, "cancelled", &story, 2).await;
        assert_eq!(again.cached_tokens, Some(story.len() as u32 - 1));
    });
}

#[test]
fn what_is_cached_takes_no_time_to_read() {
    RUNTIME.block_on(async {
        let prompt = prompt("Count the rivers of Portugal, and say how long each of them is.");
        let whole_blocks = &prompt[..prompt.len() / engine::kv::BLOCK * engine::kv::BLOCK];
        let prompt_time = |tenant: &str| ENGINE.prompt_time("m", tenant, whole_blocks);
        assert!(prompt_time("reader") > Duration::ZERO);
        ask(&ENGINE, "reader", &prompt, 1).await;
        assert_eq!(prompt_time("reader"), Duration::ZERO);
        assert!(prompt_time("another reader") > Duration::ZERO);
        assert_eq!(ENGINE.prompt_time("unknown", "reader", whole_blocks), Duration::ZERO);
    });
}

#[test]
fn a_prompt_can_be_computed_without_an_answer() {
    RUNTIME.block_on(async {
        let warm = prompt("You are a river. Who are you?");
        let first = ask(&ENGINE, "warm", &warm, 0).await;
        assert_eq!(first, Reply { finish: Some(Finish::Length), ..Reply::default() });
        assert_eq!(first.cached_tokens, Some(0));
        let reply = ask(&ENGINE, "warm", &warm, 6).await;
        assert_eq!(reply.cached_tokens, Some(warm.len() as u32 - 1));
        assert_eq!(reply, fresh(&ENGINE, &warm, 6).await);
    });
}
