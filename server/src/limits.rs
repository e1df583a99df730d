//! Bounds on messages, connections, tenants and responses that are not settings. Constants only; any module may read them. The bounds
//! of one feature stand where they are checked. `docs/operations.md` has a table with the error and `retry_after_ms` of each bound.

/// Bytes of a stored prompt with the values of its variables filled in.
pub const EXPANDED_PROMPT_BYTES: usize = 4 << 20;

/// A client's message with more bytes is parsed on another thread than the connection's.
pub const PARSED_BESIDE_BYTES: usize = 16 << 10;

/// Bytes of requests that wait or run on one connection, in units of `server.max_message_bytes`. More are refused with
/// `websocket_stream_limit_reached`.
pub const HELD_BY_CONNECTION: usize = 2;

/// Bytes of one tenant's requests that are being read, wait or run, in units of `server.max_message_bytes`. One message with
/// `VALUES_OF_MESSAGE` values always fits. More are refused with `rate_limit_exceeded`.
pub const HELD_BY_TENANT: usize = 32;

/// Fragments of one WebSocket message.
pub const FRAGMENTS_OF_MESSAGE: usize = 4096;

/// Bytes that a fragment counts besides its content, until its message is complete.
pub const FRAGMENT_BYTES: usize = 64;

/// `retry_after_ms` for a tenant that holds too much.
pub const HELD_RETRY_MS: u64 = 1000;

/// `retry_after_ms` for a client of a full store.
pub const STORE_FULL_RETRY_MS: u64 = 5000;

/// With keys, the default quota of a tenant is the store's bound divided by this. Without keys there is only one tenant.
pub const TENANTS_OF_STORE: u64 = 4;

/// Streams that one tenant follows at once on a replica. More are refused with `rate_limit_exceeded`.
pub const FOLLOWS_OF_TENANT: usize = 4096;

/// A log with more entries is rendered on another thread than the connection's, if it is rendered as a whole.
pub const RENDERED_BESIDE_ENTRIES: usize = 512;

/// Take-overs of a response in a row without a new entry in its log. The last of them does not run the response and fails it with
/// `engine_failed`.
pub const MAX_TRIES: u32 = 3;

/// Leases after which a dead replica's response fails if no living replica serves its model.
pub const LEASES_WITHOUT_MODEL: u32 = 3;

/// The deepest nesting of a message's values; serde_json parses no deeper.
pub const DEPTH_OF_MESSAGE: usize = 127;

/// JSON values in a message.
pub const VALUES_OF_MESSAGE: usize = 100_000;

/// Bytes that each JSON value of a message counts besides its text, until the request is answered: 72 for the parsed value, and the
/// rest for copies of it.
pub const VALUE_BYTES: usize = 256;

/// A body is decompressed in pieces of this many bytes. Each piece is counted before the next is decompressed.
pub const DECOMPRESSED_PIECE_BYTES: usize = 64 << 10;

/// Bytes of the header that names ignored parts of a request. Proxies accept headers of 4 KiB in all.
pub const IGNORED_NAMES_BYTES: usize = 1024;
