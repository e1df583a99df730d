//! How long what has ended is kept, by tenant.

use std::{collections::HashMap, sync::Arc, time::Duration};

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Where a tenant has none of its own.
    pub default: Duration,
    pub tenants: Arc<HashMap<String, Duration>>,
    /// Of responses with `store: false`, after they have ended.
    pub resume_window: Duration,
}

impl Retention {
    /// Of what is stored.
    pub fn stored(&self, tenant: &str) -> Duration {
        self.tenants.get(tenant).copied().unwrap_or(self.default)
    }

    /// Of a response.
    pub fn response(&self, tenant: &str, store: bool) -> Duration {
        if store { self.stored(tenant) } else { self.resume_window }
    }

    /// That of the tenant whose things are kept longest.
    pub fn longest(&self) -> Duration {
        self.tenants.values().copied().fold(self.default, Duration::max)
    }

    #[cfg(test)]
    pub fn for_tests() -> Self {
        let minute = Duration::from_secs(60);
        Self { default: minute, tenants: Arc::default(), resume_window: minute }
    }
}
