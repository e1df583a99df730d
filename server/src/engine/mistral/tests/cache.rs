//! Which KV is reused, and what is told of it.

use mistralrs_core::{Constraint, NormalRequest, Request, RequestMessage, Response, SamplingParams};

use super::*;

/// How many tokens the engine of `slot` would compute for `tokens`: it gives the logits of each.
async fn computed(slot: &Slot, tokens: Vec<u32>) -> usize {
    let (sender, mut answer) = mpsc::channel(4);
    let request = Request::Normal(Box::new(NormalRequest {
        messages: RequestMessage::CompletionTokens(tokens),
        sampling_params: SamplingParams::neutral(),
        response: sender,
        return_logprobs: false,
        is_streaming: false,
        id: 0,
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
    slot.engine().get_sender(None).expect("runs").send(request).await.expect("runs");
    match answer.recv().await {
        Some(Response::Raw { logits_chunks, .. }) => {
            logits_chunks.iter().map(|chunk| chunk.elem_count() / chunk.dims().last().copied().unwrap_or(1)).sum()
        }
        other => panic!("{:?}", other.map(|answer| answer.as_result().err())),
    }
}

async fn say(engine: &MistralEngine, text: &str, length: u32) -> Reply {
    collect(engine.generate("m", request(text, length)).expect("starts")).await
}

fn messages(turns: &[(&str, &str)], last: &str) -> Prompt {
    let said = |(user, assistant): &(&str, &str)| {
        [Message::text(Role::User, *user), Message::text(Role::Assistant, *assistant)]
    };
    Prompt::of(turns.iter().flat_map(said).chain([Message::text(Role::User, last)]).collect())
}

/// What `cached_tokens` says is what the engine would do, asked directly right before; also where a slot is another tenant's too.
#[test]
fn cached_tokens_are_those_the_engine_does_not_compute() {
    RUNTIME.block_on(async {
        let engine = load(config(1, 512)).await.expect("the model loads");
        for scope in ["t", "u"] {
            cached_in(&engine, scope).await;
        }
    });
}

async fn cached_in(engine: &MistralEngine, scope: &str) {
    let of_scope = |prompt: &[u32], max: u32| {
        let request = GenerateRequest { scope: scope.into(), ..request("", max) };
        GenerateRequest { prompt: prompt.to_vec(), ..request }
    };
    let ask = async |prompt: &[u32], max: u32| {
        let wanted = pool::Wanted { tokens: prompt, scope: &scope.into(), left: 2 };
        let mut lease = lease::Lease::acquire(&the(engine).pool, wanted).await.unwrap();
        let mut given = prompt.to_vec();
        let put = lease.ready(&the(engine).shared, &mut given).await.unwrap();
        let computed = computed(&lease.slot, given).await;
        if let Some(home) = put {
            home.clear().unwrap();
        }
        drop(lease);
        let reply = collect(engine.generate("m", of_scope(prompt, max)).expect("starts")).await;
        let cached = reply.cached_tokens.expect("told") as usize;
        // The first token alone is anybody's.
        let found = Some(prompt.len() - computed).filter(|found| *found > 1).unwrap_or(0);
        assert_eq!(cached, found, "of {}", prompt.len());
        (cached, reply)
    };
    let tokens = |prompt: Prompt| engine.tokenize("m", &prompt).expect("rendered");

    let first = tokens(messages(&[], "Tell me about the Nile in two sentences."));
    let (cached, said) = ask(&first, 30).await;
    assert_eq!(cached, 0);
    // The next turn has all of the first one, but for how its text may be cut into tokens anew.
    let turns = [("Tell me about the Nile in two sentences.", said.text.as_str())];
    let second = tokens(messages(&turns, "And how long is it?"));
    let (cached, _) = ask(&second, 5).await;
    assert!(cached >= first.len() + 20, "{cached} of {}", second.len());
    // Another chat shares what every prompt begins with.
    let (cached, _) = ask(&tokens(messages(&[], "Hi!")), 3).await;
    assert!((1..first.len()).contains(&cached), "{cached}");
    // The beginning of a prompt that is there.
    assert_eq!(ask(&first[..first.len() - 4], 3).await.0, 0);
    // A cancelled prompt is cached as far as it came.
    let cancelled = of_scope(&tokens(messages(&[], "Tell me a story.")), 500);
    let (prompt, cancel) = (cancelled.prompt.clone(), cancelled.cancel.clone());
    let mut deltas = engine.generate("m", cancelled).expect("starts");
    deltas.recv().await.expect("a delta");
    cancel.cancel();
    while deltas.recv().await.is_some() {}
    ask(&[prompt.as_slice(), &second[..3]].concat(), 3).await;
}

#[test]
fn a_prompt_that_is_asked_again_is_not_computed_again() {
    RUNTIME.block_on(async {
        let engine = load(config(1, 512)).await.expect("the model loads");
        let ask = async |scope: &str, seed: u64| {
            let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
            let request = request("Invent a name for a river, and say where it flows.", 32);
            let request = GenerateRequest { scope: scope.into(), sampling, logprobs: Some(2), ..request };
            collect(engine.generate("m", request).unwrap()).await
        };
        let all = Some(prompt("Invent a name for a river, and say where it flows.").len() as u32);
        let mut again = Vec::new();
        let first = ask("t", 0).await;
        assert_eq!(first.cached_tokens, Some(0));
        assert_eq!(ask("t", 0).await, first, "whose prompt is there twice from now on");
        for seed in 1..6 {
            again.push(ask("t", seed).await);
        }
        assert!(again.iter().any(|reply| reply.tokens != first.tokens), "every seed gave {first:?}");
        let fresh = ask("other", 0).await;
        assert_eq!((fresh.cached_tokens, &fresh), (Some(0), &first), "another tenant's is computed");
        for (seed, again) in (1..).zip(&again) {
            // Whether the prompt was reused or not, the reply is what it would have been.
            assert_eq!(again.cached_tokens, all, "seed {seed}");
            let fresh = ask(&format!("other {seed}"), seed).await;
            assert_eq!(fresh.cached_tokens, Some(0));
            assert_eq!((&fresh, &fresh.logprobs), (again, &again.logprobs), "seed {seed}");
            // Once more, where this reply and others to the same prompt are there.
            let once_more = ask("t", seed).await;
            assert_eq!((&once_more, &once_more.logprobs), (again, &again.logprobs), "seed {seed}");
        }
    });
}

#[test]
fn a_reply_that_is_the_same_again_needs_the_engine_for_its_end_only() {
    RUNTIME.block_on(async {
        let engine = load(config(1, 512)).await.expect("the model loads");
        let ask = async |length| say(&engine, "Name five rivers.", length).await;
        let all = Some(prompt("Name five rivers.").len() as u32);
        let first = ask(24).await;
        assert_eq!((first.cached_tokens, first.tokens.len()), (Some(0), 24));
        let begun = ask(8).await;
        assert_eq!((begun.cached_tokens, &begun.tokens[..]), (all, &first.tokens[..8]));
        assert_eq!(begun.finish, Some(Finish::Length));
        // It goes the old reply's way past what is kept of it, and the engine has to read the prompt again.
        let again = ask(24).await;
        assert_eq!((again.cached_tokens, &again), (Some(0), &first));
    });
}

#[test]
fn a_prompt_that_was_warmed_is_answered_at_once() {
    RUNTIME.block_on(async {
        let engine = load(config(1, 512)).await.expect("the model loads");
        assert_eq!(say(&engine, "Who are you?", 0).await.cached_tokens, Some(0));
        let reply = say(&engine, "Who are you?", 6).await;
        assert_eq!(reply.cached_tokens, Some(prompt("Who are you?").len() as u32));
        assert_eq!(reply, say(&ENGINE, "Who are you?", 6).await);
    });
}

#[test]
fn a_prompt_can_be_computed_without_an_answer() {
    RUNTIME.block_on(async {
        let engine = load(config(1, 256)).await.expect("the model loads");
        let warm = |text: &str| GenerateRequest { scope: "w".into(), ..request(text, 0) };
        let nothing = Reply { finish: Some(Finish::Length), ..Reply::default() };
        let first = collect(engine.generate("m", warm("You are a river. Who are you?")).unwrap()).await;
        assert_eq!((first.cached_tokens, &first), (Some(0), &nothing));
        assert_eq!(the(&engine).pool.kept_scopes(), ["w"]);
        // There already.
        let again = collect(engine.generate("m", warm("You are a river. Who are you?")).unwrap()).await;
        let all = prompt("You are a river. Who are you?").len();
        assert_eq!((again.cached_tokens, &again), (Some(all as u32), &nothing));
        // A longer prompt finds it. (It does not go on with the token that came before the end.)
        let longer = [prompt("You are a river. Who are you?"), prompt("And now?")[2..].to_vec()].concat();
        let longer = GenerateRequest { prompt: longer, scope: "w".into(), ..request("", 3) };
        let reply = collect(engine.generate("m", longer).unwrap()).await;
        assert_eq!((reply.cached_tokens, reply.tokens.len()), (Some(all as u32), 3));
    });
}
