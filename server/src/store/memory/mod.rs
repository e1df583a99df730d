//! The store of a single process. Logs are stored while they run, and then for their retention, within the tenant's quota and the
//! bound on all tenants.

mod cache;
mod conversations;
mod limits;
mod log;
mod prompts;
mod rates;
mod responses;
mod running;
mod shelf;

pub use cache::MemoryCache;
pub use conversations::MemoryConversations;
pub use limits::MemoryLimits;
pub use prompts::MemoryPrompts;
pub use rates::MemoryRates;
pub use responses::MemoryStore;
