//! Every bound on what a client can make the server hold or compute, unless a setting owns the bound. Constants only; any module
//! may read them. `docs/operations.md` has the table with the error, the metric and `retry_after_ms` of each.

/// Bytes of a stored prompt once the values of its variables are filled in.
pub const EXPANDED_PROMPT_BYTES: usize = 4 << 20;

/// A message of a client that has more bytes is parsed on another thread than the connection's.
pub const PARSED_BESIDE_BYTES: usize = 16 << 10;

/// Bytes of requests that wait or run on one connection, in messages of the largest size. More is refused as
/// `websocket_stream_limit_reached`.
pub const HELD_BY_CONNECTION: usize = 2;

/// Bytes of requests of one tenant that are being read, wait or run, counted in messages of the largest size. One message with the
/// most values always fits. More is refused as `rate_limit_exceeded`.
pub const HELD_BY_TENANT: usize = 32;

/// Fragments of one WebSocket message.
pub const FRAGMENTS_OF_MESSAGE: usize = 4096;

/// What a fragment takes in memory beside its bytes, until its message is whole.
pub const FRAGMENT_BYTES: usize = 64;

/// After how long a tenant that holds too much is told to try again.
pub const HELD_RETRY_MS: u64 = 1000;

/// After how long a client of a full store is told to try again.
pub const STORE_FULL_RETRY_MS: u64 = 5000;

/// Parts of a store's bound, of which a tenant may fill one where there are keys. Without keys there is one tenant.
pub const TENANTS_OF_STORE: u64 = 4;

/// Streams that one tenant follows at once on a replica. More are refused as `rate_limit_exceeded`.
pub const FOLLOWS_OF_TENANT: usize = 4096;

/// A log of more entries is rendered as a whole on another thread than the connection's.
pub const RENDERED_BESIDE_ENTRIES: usize = 512;

/// Attempts to run a response that was taken over, without a new entry in its log. The last one fails it as `engine_failed`.
pub const MAX_TRIES: u32 = 3;

/// Leases after which a response of a dead replica fails when no living replica serves its model.
pub const LEASES_WITHOUT_MODEL: u32 = 3;

/// The deepest nesting of the values of a message: serde_json reads no deeper.
pub const DEPTH_OF_MESSAGE: usize = 127;

/// JSON values in a message.
pub const VALUES_OF_MESSAGE: usize = 100_000;

/// Bytes that a JSON value of a message counts beside its text until the request is answered: 72 for the parsed value, and the rest
/// for copies of it.
pub const VALUE_BYTES: usize = 256;

/// A body is decompressed in pieces of so many bytes, each of which is counted before the next.
pub const DECOMPRESSED_PIECE_BYTES: usize = 64 << 10;

/// Names of what was ignored of a request, which come back in a header: proxies take headers of 4 KiB in all.
pub const IGNORED_NAMES_BYTES: usize = 1024;
