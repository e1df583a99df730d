//! The key layout. Every key begins with `<store.redis.prefix>:1:`, where 1 is the layout's version. Then follows its hash tag, so
//! that all keys of one script are in one slot of a cluster.
//!
//! | key | type | holds | lives |
//! |---|---|---|---|
//! | `{<response>}:meta` | hash | `header` (JSON), `tenant`, `request`, `store`, `owner`, `fence`, `len`, `end`, `cancel`, `left`, `keep` and `known` (ms after its end), `bytes` counted, bytes `charged` | as the log |
//! | `{<response>}:log` | stream | item `(n+1)-0`, field `b`: the entries from n on that one append wrote (MessagePack) | an hour, renewed while it runs; then its retention or, with `store: false`, its resume window |
//! | `{<response>}:gone` | string | the tenant of a response with `store: false` | its retention |
//! | `{<response>}:live` | shard channel | the appended batches, as in the log; empty message: deleted | |
//! | `{<conversation>}:about` | hash | `tenant`, `created_at`, `metadata` (JSON), `next` number, `bytes`, `latest` response | its tenant's retention after the last change; so for all keys of a conversation |
//! | `{<conversation>}:items` | hash | item → JSON | |
//! | `{<conversation>}:order` | sorted set | item → number | |
//! | `{<conversation>}:line` | list | the responses in line | |
//! | `{<conversation>}:turns` | hash | response in line → `0`, or `1` after it has begun, then the time in ms when it entered | |
//! | `{<conversation>}:turns` | shard channel | `b<response>`: it began; `m`: the line moved; empty: deleted | |
//! | `{<conversation>}:responses` | sorted set | ended response → number, the latest 10,000 | |
//! | `{tenant:<hash>}:conversations` | sorted set | conversation → when it was created, in µs | twice the retention after the last turn |
//! | `{tenant:<hash>}:prompts` | sorted set | prompt → when it was created, in µs | until it is deleted; so for all keys of prompts |
//! | `{tenant:<hash>}:prompt:<id>` | hash | version → JSON, `latest`, the `call` that made the latest | |
//! | `{tenant:<hash>}:prompts:bytes` | string | bytes of all versions | |
//! | `{prompts}:hot` | sorted set | tenant, prompt and model (JSON) → weight of its uses, the hottest 1,000 | for ever |
//! | `{tenant:<hash>}:cache` | hash | cache key → `log complete bytes until ttl` | the retention after the last use |
//! | `{tenant:<hash>}:cache:used` | sorted set | cache key → when it was used last, in µs | the same |
//! | `{tenant:<hash>}:cache:size` | hash | `bytes` of completed logs, `evicted` | the same |
//! | `{tenant:<hash>}:sharing:<log>` | set | the responses that share a log | the same |
//! | `{tenant:<hash>}:kv:<name>` | string | a block of keys and values (`engine/mistral/kv_exchange/codec.rs`) | the tenant's retention |
//! | `{tenant:<hash>}:kv_used` | sorted set | name of a block → when it was used last, in µs | the retention after the last write |
//! | `{tenant:<hash>}:kv_sizes` | hash | name of a block → its bytes; `` → those of all | the same |
//! | `{tenant:<hash>}:stored` | hash | response or conversation → `bytes responses key`; `#bytes`, `#responses`, `#key:<key>`: their sums | as the last of them |
//! | `{tenant:<hash>}:stored:ends` | sorted set | response or conversation → when it expires, in ms by Redis' clock | the same |
//! | `{tenant:<hash>}:requests`, `:tokens` | string | when the bucket will be full, in µs by Redis' clock | until then |
//! | `{request:<hash>}` | string | the response of a tenant's `client_request_id` | its retention |
//! | `{fleet}:replicas` | sorted set | replica → time of its last heartbeat, in ms by Redis' clock | for ever; the dead are removed |
//! | `{fleet}:reports` | hash | replica → its report (JSON) | an hour after the last heartbeat of any |
//! | `{fleet}:control` | shard channel | messages between replicas (JSON) | |
//! | `{replica:<name>}:runs` | set | the responses that the replica runs | an hour, renewed while it lives |
//! | `{replica:<name>}:follows` | set | the responses that are followed there | the same |
//!
//! `docs/operations.md` lists the rights that the store needs.

use sha2::{Digest, Sha256};

/// The maximum length of an id. Longer ids do not exist.
pub const MAX_ID: usize = 128;
/// An id that no response and no conversation has.
const NOBODY: &str = "!";

#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
}

/// Returns whether a response or a conversation may have this id.
pub fn is_id(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

impl Keys {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: format!("{prefix}:1:") }
    }

    /// Returns a key of a response or a conversation. Clients can send any id, and braces in an id would put its keys into
    /// different slots. An invalid id gets the keys of [`NOBODY`], which do not exist.
    fn of(&self, id: &str, part: &str) -> String {
        let id = if is_id(id) { id } else { NOBODY };
        format!("{}{{{id}}}:{part}", self.prefix)
    }

    /// Returns the text before and after the id in the keys of a part.
    pub fn around(&self, part: &str) -> (String, String) {
        (format!("{}{{", self.prefix), format!("}}:{part}"))
    }

    pub fn meta(&self, response: &str) -> String {
        self.of(response, "meta")
    }

    pub fn log(&self, response: &str) -> String {
        self.of(response, "log")
    }

    pub fn gone(&self, response: &str) -> String {
        self.of(response, "gone")
    }

    pub fn live(&self, response: &str) -> String {
        self.of(response, "live")
    }

    /// The request id is hashed, because clients choose its length and characters.
    pub fn request(&self, tenant: &str, request: &str) -> String {
        let mut hash = Sha256::new();
        hash.update((tenant.len() as u64).to_be_bytes());
        hash.update(tenant);
        hash.update(request);
        format!("{}{{request:{}}}", self.prefix, hex::encode(hash.finalize()))
    }

    pub fn conversation(&self, id: &str, part: &str) -> String {
        self.of(id, part)
    }

    pub fn conversations(&self, tenant: &str) -> String {
        self.tenant(tenant, "conversations")
    }

    /// The tenant is hashed, because its name may have any characters.
    pub fn tenant(&self, tenant: &str, part: &str) -> String {
        format!("{}{{tenant:{}}}:{part}", self.prefix, hex::encode(Sha256::digest(tenant)))
    }

    pub fn hot_prompts(&self) -> String {
        format!("{}{{prompts}}:hot", self.prefix)
    }

    pub fn replicas(&self) -> String {
        format!("{}{{fleet}}:replicas", self.prefix)
    }

    pub fn reports(&self) -> String {
        format!("{}{{fleet}}:reports", self.prefix)
    }

    pub fn control(&self) -> String {
        format!("{}{{fleet}}:control", self.prefix)
    }

    pub fn runs(&self, replica: &str) -> String {
        format!("{}{{replica:{replica}}}:runs", self.prefix)
    }

    pub fn follows(&self, replica: &str) -> String {
        format!("{}{{replica:{replica}}}:follows", self.prefix)
    }
}
