//! Tests blocks that go through a store: one engine computes a prompt, another fetches it, as after a restart or on another
//! replica.

use std::path::Path;

use super::*;
use crate::{
    engine::kv::{KvEncoding, Reuse},
    random::random_hex,
    store::kv_folder::KvFolder,
};

/// An engine whose blocks are stored in a folder, as in one process after another.
async fn engine(folder: &Path, encoding: KvEncoding) -> MistralEngine {
    let store = Arc::new(KvFolder::new(folder.to_owned(), 1 << 30));
    let engine = load(MistralConfig { sharing: Some(KvSharing { store, encoding }), ..config() }).await.expect("loads");
    exchange(&engine).is_ready().await;
    engine
}

fn exchange(engine: &MistralEngine) -> Arc<super::super::kv_exchange::KvExchange> {
    the(engine).batch.exchange.clone().expect("an exchange")
}

async fn ask(engine: &MistralEngine, tenant: &str, reuse: Reuse, prompt: &[u32]) -> Reply {
    let request =
        GenerateRequest { tenant: tenant.into(), prompt: prompt.to_vec(), reuse, logprobs: Some(5), ..request("", 12) };
    let reply = collect(engine.generate("m", request).expect("starts")).await;
    engine.flush_blocks().await;
    reply
}

fn long_prompt() -> Vec<u32> {
    prompt(&"A river flows past a mill, a bridge and two villages. ".repeat(12))
}

fn new_folder() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("caudal-kv-{}", random_hex()))
}

#[test]
fn what_one_engine_computed_another_need_not_compute() {
    RUNTIME.block_on(async {
        let (folder, prompt) = (new_folder(), long_prompt());
        let first = engine(&folder, KvEncoding::Exact).await;
        let fresh = ask(&first, "t", Reuse::Expected, &prompt).await;
        assert_eq!(fresh.cached_tokens, Some(0));
        drop(first);
        let second = engine(&folder, KvEncoding::Exact).await;
        let warm = ask(&second, "t", Reuse::Unknown, &prompt).await;
        let full = (prompt.len() - 1) / 16 * 16;
        assert_eq!(warm.cached_tokens, Some(full as u32), "all full blocks of {} tokens", prompt.len());
        assert_eq!(exchange(&second).fetched_tokens().tokens, full as u64);
        assert_eq!((&warm, &warm.logprobs), (&fresh, &fresh.logprobs), "not a bit differs");
        let other = ask(&second, "another tenant", Reuse::Unknown, &prompt).await;
        assert_eq!((other.cached_tokens, &other.logprobs), (Some(0), &fresh.logprobs));
        let again = ask(&second, "t", Reuse::Unknown, &prompt).await;
        assert_eq!(again.cached_tokens, Some(prompt.len() as u32 - 1));
        assert_eq!(exchange(&second).fetched_tokens().tokens, full as u64, "the engine's own cache has it now");
        std::fs::remove_dir_all(folder).unwrap();
    });
}

#[test]
fn an_output_is_there_for_the_next_turn() {
    RUNTIME.block_on(async {
        let (folder, prompt) = (new_folder(), long_prompt());
        let first = engine(&folder, KvEncoding::Exact).await;
        let said = ask(&first, "t", Reuse::Expected, &prompt).await;
        let turn = [prompt.as_slice(), &said.tokens, &prompt[..20]].concat();
        let second = engine(&folder, KvEncoding::Exact).await;
        let warm = ask(&second, "t", Reuse::Expected, &turn).await;
        let common = prompt.len() + said.tokens.len() - 1;
        assert_eq!(warm.cached_tokens, Some((common / 16 * 16) as u32), "{common} tokens were computed");
        std::fs::remove_dir_all(folder).unwrap();
    });
}

#[test]
fn a_prompt_is_stored_on_second_sight() {
    RUNTIME.block_on(async {
        let (folder, prompt) = (new_folder(), long_prompt());
        let first = engine(&folder, KvEncoding::Exact).await;
        let second = engine(&folder, KvEncoding::Exact).await;
        ask(&first, "t", Reuse::Unknown, &prompt).await;
        assert_eq!(ask(&second, "t", Reuse::Unknown, &prompt).await.cached_tokens, Some(0));
        ask(&first, "t", Reuse::Unknown, &prompt).await;
        // The store lists its folder at the first use, so the second engine would not see the new files.
        let third = engine(&folder, KvEncoding::Exact).await;
        assert!(ask(&third, "t", Reuse::Unknown, &prompt).await.cached_tokens > Some(100));
        std::fs::remove_dir_all(folder).unwrap();
    });
}

#[test]
fn a_damaged_block_is_computed_and_stored_again() {
    RUNTIME.block_on(async {
        let (folder, prompt) = (new_folder(), long_prompt());
        let first = engine(&folder, KvEncoding::Exact).await;
        let fresh = ask(&first, "t", Reuse::Expected, &prompt).await;
        let mut damaged = 0;
        for file in files(&folder) {
            let mut bytes = std::fs::read(&file).unwrap();
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            std::fs::write(file, bytes).unwrap();
            damaged += 1;
        }
        assert!(damaged > 5);
        let second = engine(&folder, KvEncoding::Exact).await;
        let whole = ask(&second, "t", Reuse::Expected, &prompt).await;
        assert_eq!((whole.cached_tokens, &whole.logprobs), (Some(0), &fresh.logprobs));
        let third = engine(&folder, KvEncoding::Exact).await;
        assert!(ask(&third, "t", Reuse::Unknown, &prompt).await.cached_tokens > Some(100));
        std::fs::remove_dir_all(folder).unwrap();
    });
}

#[test]
fn eight_bits_take_less_room_and_say_nearly_the_same() {
    RUNTIME.block_on(async {
        let (exact, small, prompt) = (new_folder(), new_folder(), long_prompt());
        let fresh = ask(&engine(&exact, KvEncoding::Exact).await, "t", Reuse::Expected, &prompt).await;
        ask(&engine(&small, KvEncoding::Int8).await, "t", Reuse::Expected, &prompt).await;
        let bytes = |folder: &Path| files(folder).iter().map(|file| file.metadata().unwrap().len()).sum::<u64>();
        assert!(bytes(&small) * 3 < bytes(&exact), "{} of {} bytes", bytes(&small), bytes(&exact));
        let warm = ask(&engine(&small, KvEncoding::Int8).await, "t", Reuse::Unknown, &prompt).await;
        assert!(warm.cached_tokens > Some(100));
        let (a, b) = (&fresh.logprobs[0].token, &warm.logprobs[0].token);
        assert!(a.token == b.token && (a.logprob - b.logprob).abs() < 0.1, "{a:?} {b:?}");
        let mixed = ask(&engine(&small, KvEncoding::Exact).await, "t", Reuse::Unknown, &prompt).await;
        assert_eq!(mixed.cached_tokens, Some(0), "the encoding is part of a block's name");
        for folder in [exact, small] {
            std::fs::remove_dir_all(folder).unwrap();
        }
    });
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
