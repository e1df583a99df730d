//! The store of a single process. Running logs are held as long as they run; finished ones for their retention, within their
//! tenant's quota and the bound of all.

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
