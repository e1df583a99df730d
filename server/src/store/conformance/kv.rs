//! The conformance suite of the stores of KV blocks.

use crate::engine::kv::{BLOCK, BlockName, KvStore};

const BLOCK_BYTES: usize = 1000;

/// `make(bytes)` makes an empty store with this bound on the bytes of one tenant.
pub async fn all<S: KvStore>(make: impl AsyncFn(u64) -> S) {
    a_chain_is_found_as_far_as_it_is_stored(make(1 << 20).await).await;
    tenants_never_meet(make(1 << 20).await).await;
    what_is_stored_again_counts_once(make(5500).await).await;
    the_least_recently_used_are_evicted(make(5500).await).await;
    a_tenant_evicts_only_its_own(make(5500).await).await;
    many_large_blocks_come_back(make(64 << 20).await).await;
}

fn chain(seed: u32, blocks: usize) -> Vec<BlockName> {
    let tokens: Vec<u32> = (0..blocks * BLOCK).map(|at| seed + at as u32).collect();
    BlockName::root("model", "any").chain(&tokens)
}

fn block(name: &BlockName) -> Vec<u8> {
    name.bytes().iter().copied().cycle().take(BLOCK_BYTES).collect()
}

async fn put(store: &impl KvStore, tenant: &str, names: &[BlockName]) {
    let blocks: Vec<_> = names.iter().map(|name| (*name, block(name))).collect();
    store.put(tenant, &blocks).await.unwrap();
}

async fn a_chain_is_found_as_far_as_it_is_stored<S: KvStore>(store: S) {
    let names = chain(0, 6);
    assert_eq!(store.count("t", &names).await.unwrap(), 0);
    assert!(store.fetch("t", &names).await.unwrap().is_empty());
    assert_eq!(store.count("t", &[]).await.unwrap(), 0);
    assert!(store.fetch("t", &[]).await.unwrap().is_empty());
    put(&store, "t", &names[..3]).await;
    put(&store, "t", &names[4..]).await;
    assert_eq!(store.count("t", &names).await.unwrap(), 3, "the fourth is missing");
    assert_eq!(store.fetch("t", &names).await.unwrap(), names[..3].iter().map(block).collect::<Vec<_>>());
    assert_eq!(store.fetch("t", &names[4..]).await.unwrap().len(), 2);
}

async fn tenants_never_meet<S: KvStore>(store: S) {
    let names = chain(0, 2);
    put(&store, "a", &names).await;
    assert_eq!(store.count("b", &names).await.unwrap(), 0);
    assert!(store.fetch("b", &names).await.unwrap().is_empty());
}

async fn what_is_stored_again_counts_once<S: KvStore>(store: S) {
    let names = chain(0, 5);
    for _ in 0..4 {
        put(&store, "t", &names).await;
        assert_eq!(store.count("t", &names).await.unwrap(), 5, "nothing was evicted");
    }
}

async fn the_least_recently_used_are_evicted<S: KvStore>(store: S) {
    let (old, new) = (chain(0, 3), chain(7000, 2));
    put(&store, "t", &old).await;
    put(&store, "t", &new).await;
    assert_eq!(store.fetch("t", &old[..1]).await.unwrap().len(), 1, "used again");
    put(&store, "t", &chain(9000, 1)).await;
    assert_eq!(store.count("t", &old).await.unwrap(), 2, "the chain lost its end");
    assert_eq!(store.count("t", &new).await.unwrap(), 2);
    put(&store, "t", &chain(11_000, 5)).await;
    assert_eq!(store.count("t", &chain(11_000, 5)).await.unwrap(), 5);
    assert_eq!(store.count("t", &new).await.unwrap(), 0);
}

async fn a_tenant_evicts_only_its_own<S: KvStore>(store: S) {
    let (small, large) = (chain(0, 4), chain(7000, 9));
    put(&store, "small", &small).await;
    put(&store, "large", &large).await;
    assert_eq!(store.count("large", &large).await.unwrap(), 5, "its part, from the beginning of the chain");
    assert_eq!(store.count("small", &small).await.unwrap(), 4, "the other tenant's older blocks stay");
    put(&store, "small", &chain(9000, 2)).await;
    assert_eq!(store.count("small", &small).await.unwrap(), 3, "it loses its own");
    assert_eq!(store.count("large", &large).await.unwrap(), 5);
}

async fn many_large_blocks_come_back<S: KvStore>(store: S) {
    let names = chain(0, 40);
    let blocks: Vec<_> = names.iter().map(|name| (*name, block(name).repeat(700))).collect();
    store.put("t", &blocks).await.unwrap();
    let fetched = store.fetch("t", &names).await.unwrap();
    assert!(fetched.iter().eq(blocks.iter().map(|(_, block)| block)));
}
